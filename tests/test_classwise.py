"""evaluation/classwise.py: by hand and by simulation."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from ganvas.errors import DataError
from ganvas.evaluation.classwise import class_table, mode_coverage
from ganvas.evaluation.distances import kid_interval

NAMES = ("cat", "dog", "owl")


def test_the_table_by_hand() -> None:
    real = np.array([0, 0, 1, 2])
    asked = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    found = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    table = class_table(NAMES, real, found, asked)
    cat, dog, owl = table.rows
    assert [row.name for row in table.rows] == list(NAMES)
    assert [row.generated_share for row in table.rows] == [3 / 8, 1 / 8, 0.5] and cat.real_share == 0.5
    assert [row.agreement for row in table.rows] == [0.75, 0, 1]
    assert (cat.confused_with, dog.confused_with, owl.confused_with) == ("dog", "owl", None)
    assert table.worst == "dog"
    assert table.agreement is not None and table.agreement.value == 5 / 8
    assert table.total_variation == pytest.approx((1 / 8 + 1 / 8 + 1 / 4) / 2)
    assert [row.num for row in table.rows] == [4, 2, 2]


def test_without_labels_asked_for_there_are_shares_alone() -> None:
    table = class_table(NAMES, np.array([0, 1, 1, 2]), np.array([1, 1, 0, 2]))
    assert table.total_variation == 0
    assert table.agreement is None and table.worst is None
    assert all(row.agreement is None and row.confused_with is None and row.kid is None for row in table.rows)


def test_the_distance_of_each_class_is_to_its_own_pictures() -> None:
    rng = np.random.default_rng(0)
    real, found = np.arange(90) % 3, np.arange(60) % 3
    real_features = rng.normal(size=(90, 4)) + real[:, None]
    fake_features = rng.normal(size=(60, 4)) + found[:, None] + 2 * (found == 1)[:, None]
    table = class_table(NAMES, real, found, None, real_features, fake_features)
    each = [kid_interval(real_features[real == i], fake_features[found == i]) for i in range(3)]
    assert [row.kid for row in table.rows] == [one.value for one in each]
    assert each[0].low < 0 < each[0].high and each[1].low > 0 and each[2].low < 0 < each[2].high
    # What was asked for counts where it is known; three images are too few.
    asked = np.where(found == 1, 0, found)
    asked[:3] = 1
    table = class_table(NAMES, real, found, asked, real_features, fake_features)
    assert table.rows[1].kid is None
    assert table.rows[0].kid == kid_interval(real_features[real == 0], fake_features[asked == 0]).value


def test_a_class_that_nobody_asked_for_is_not_the_worst() -> None:
    table = class_table(NAMES, np.array([0, 1, 2]), np.array([0, 2, 2]), np.array([0, 2, 2]))
    assert table.rows[1].agreement is None
    assert table.worst == "cat"  # both agree wholly; the first


def test_the_chance_of_the_total_variation_distance() -> None:
    """What `chance` says is what two draws of one distribution give."""
    rng = np.random.default_rng(0)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    names = "abcd"
    tables = [class_table(names, rng.choice(4, 300, p=shares), rng.choice(4, 200, p=shares)) for _ in range(300)]
    average = np.mean([table.total_variation for table in tables])
    assert average == pytest.approx(np.mean([table.chance for table in tables]), rel=0.06)


def test_the_interval_of_a_share_holds_it() -> None:
    rng = np.random.default_rng(1)
    real = np.arange(100) % 3
    for true in (0.5, 0.05):
        found = rng.choice(3, (400, 120), p=[true, 0.5 * (1 - true), 0.5 * (1 - true)])
        rows = [class_table(NAMES, real, row).rows[0] for row in found]
        shares = np.array([(row.generated_share, row.generated_low, row.generated_high) for row in rows], float)
        assert 0.90 <= ((shares[:, 1] <= true) & (true <= shares[:, 2])).mean() <= 0.98


def test_modes_by_hand() -> None:
    modes = mode_coverage(np.array([0, 0, 1, 3]), np.array([0.25, 0.25, 0.25, 0.25]))
    assert (modes.covered.value, modes.of) == (3, 4)
    assert modes.covered.low == pytest.approx(3 - 1.96, abs=1e-3)  # two modes with one image: variance 2 (1 - 2/4)
    assert modes.divergence.value == pytest.approx(0.5 * np.log(2))
    even = mode_coverage(np.arange(100).repeat(10), np.full(100, 7.0))  # counts do as shares
    assert astuple(even.covered) == (100, 100, 100)
    assert astuple(even.divergence) == pytest.approx((0, 0, 0), abs=1e-12)
    collapsed = mode_coverage(np.zeros(50, int), np.full(100, 0.01))
    assert collapsed.covered.value == 1
    assert collapsed.divergence.value == pytest.approx(np.log(100))


def test_intervals_of_the_modes_hold_the_average() -> None:
    rng = np.random.default_rng(0)
    shares, fakes = np.full(60, 1 / 60), rng.dirichlet(np.full(60, 0.7))
    modes = [mode_coverage(rng.choice(60, 200, p=fakes), shares) for _ in range(400)]
    for field, most in (("covered", 1.0), ("divergence", 0.98)):
        intervals = np.array([astuple(getattr(mode, field)) for mode in modes])
        average = intervals[:, 0].mean()
        assert 0.90 <= ((intervals[:, 1] <= average) & (average <= intervals[:, 2])).mean() <= most


def test_labels_that_cannot_be_are_refused() -> None:
    good = np.array([0, 1, 2])
    with pytest.raises(DataError, match="labels of generated images range from 0 to 3, but there are 3 classes"):
        class_table(NAMES, good, np.array([0, 3]))
    with pytest.raises(DataError, match="labels of real images range from -1 to 2"):
        class_table(NAMES, np.array([-1, 2]), good)
    with pytest.raises(DataError, match="no labels of asked images"):
        class_table(NAMES, good, good, np.array([], int))
    with pytest.raises(DataError, match="mode that the data lacks"):
        mode_coverage(np.array([0, 1]), np.array([1.0, 0.0]))
