"""evaluation/intervals.py: by hand, and against published values."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from ganvas.evaluation.intervals import normal, share


@pytest.mark.parametrize(
    ("hits", "num", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_an_interval_of_a_share_is_the_published_one(hits: int, num: int, low: float, high: float) -> None:
    """The four examples of Newcombe 1998, "Two-sided confidence intervals for the single proportion", method 3."""
    found = share(hits / num, num)
    assert found.value == hits / num
    assert found.low == pytest.approx(low, abs=6e-5) and found.high == pytest.approx(high, abs=6e-5)


def test_a_share_of_all_ends_at_one() -> None:
    found = share(1.0, 20)
    assert (found.value, found.high) == (1, 1) and found.low == pytest.approx(1 - 0.1611, abs=6e-5)


def test_a_normal_interval_stays_within_its_range() -> None:
    assert astuple(normal(2.0, 0.25)) == pytest.approx((2.0, 2 - 0.98, 2 + 0.98), abs=1e-3)
    assert astuple(normal(2.0, 0.25, 0.5)) == pytest.approx((2.0, 2 - 0.337, 2 + 0.337), abs=1e-3)
    assert astuple(normal(2.0, 0.25, within=(1.5, 2.5))) == (2.0, 1.5, 2.5)
    assert astuple(normal(2.0, -1e-9)) == (2.0, 2.0, 2.0)
