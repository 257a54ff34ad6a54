"""usefulness.py: whether generated images help to train a classifier, with an interval."""

from __future__ import annotations

import numpy as np
import pytest

from ganvas.errors import DataError
from ganvas.evaluation import usefulness
from ganvas.evaluation.usefulness import ARMS, interval
from ganvas.results import Interval, UsefulnessResults


def bars(num: int, seed: int, noise: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """(N, 12, 12, 1) uint8 with a bar that lies (0) or stands (1) in noise, and the labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, noise, (num, 12, 12, 1), np.uint8)
    labels = rng.permutation(np.arange(num) % 2)
    for image, label in zip(images, labels, strict=True):
        place = rng.integers(0, 12)
        image[(slice(None), place) if label else (place, slice(None))] += 100
    return images, labels


def judged(synthetic: np.ndarray, labels: np.ndarray) -> UsefulnessResults:
    (real, real_labels), (heldout, heldout_labels) = bars(40, 0), bars(300, 1)
    return usefulness.usefulness(
        real, real_labels, synthetic, labels, heldout, heldout_labels, 2, kind="digits", steps=40, seeds=3
    )


@pytest.mark.slow
def test_real_pictures_in_the_place_of_generated_ones_help() -> None:
    found = judged(*bars(400, 2))
    assert found.sentence.startswith("Generated images help")
    assert found.differences["real + synthetic"].value > 0.05
    accuracy = {row.name: row.accuracy.value for row in found.rows}
    assert set(accuracy) == set(ARMS) and found.seeds == 3
    assert found.differences["synthetic"].value == pytest.approx(accuracy["synthetic"] - accuracy["real"])


@pytest.mark.slow
def test_as_many_other_real_pictures_are_as_good_by_themselves() -> None:
    found = judged(*bars(40, 3))
    assert found.differences["synthetic"].low < 0 < found.differences["synthetic"].high
    assert "as good as real images" in found.sentence


@pytest.mark.slow
def test_noise_does_not_help_and_that_is_said() -> None:
    rng = np.random.default_rng(4)
    found = judged(rng.integers(0, 256, (200, 12, 12, 1), np.uint8), np.arange(200) % 2)
    assert found.differences["real + synthetic"].low <= 0
    assert found.sentence.startswith(("Generated images do not help", "Generated images reduce accuracy"))
    assert "train a worse classifier" in found.sentence
    assert next(row for row in found.rows if row.name == "synthetic").accuracy.low < 0.6


@pytest.mark.slow
def test_pictures_with_wrong_labels_do_harm() -> None:
    images, labels = bars(400, 5)
    found = judged(images, 1 - labels)
    assert found.sentence.startswith("Generated images reduce accuracy")
    assert found.differences["real + synthetic"].high < 0


def test_a_class_without_generated_pictures_is_refused() -> None:
    images, _ = bars(40, 2)
    with pytest.raises(DataError, match="class number 1 has no generated images"):
        judged(images, np.zeros(40, np.int64))


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_held_out_images_are_refused(num: int) -> None:
    images, labels = bars(40, 2)
    with pytest.raises(DataError, match="held out, 2 are needed"):
        usefulness.usefulness(images, labels, images, labels, images[:num], labels[:num], 2)


@pytest.mark.parametrize(
    ("mixed", "alone", "first", "second"),
    [
        ((0.04, 0.01, 0.07), (0.02, 0.01, 0.03), "Generated images help", "better classifier than real images."),
        ((-0.04, -0.07, -0.01), (-0.125, -0.2, -0.1), "Generated images reduce accuracy", "worse classifier (-12.5 po"),
        ((0.01, -0.02, 0.04), (0.0, -0.1, 0.1), "Generated images do not help beyond chance", "as good as real images"),
    ],
)
def test_the_verdict_says_what_the_intervals_allow(mixed: tuple, alone: tuple, first: str, second: str) -> None:
    difference = {"real + synthetic": mixed, "synthetic": alone, "real + augmentation": (0.015, 0.0, 0.03)}
    said = usefulness.verdict(
        {"real": Interval(0.9, 0.8, 1.0)}, {name: Interval(*values) for name, values in difference.items()}
    )
    assert said.startswith(f"{first}: in addition to real images") and second in said
    low, high = (f"{100 * value:+.1f}" for value in mixed[1:])
    assert f"the accuracy of 90.0% by {100 * mixed[0]:+.1f} points ({low} to {high})" in said
    assert said.endswith("Classical augmentation changes the accuracy by +1.5 points.")


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    """Seeds and images with an effect of their own, and both together; the truth is 0."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        of_seed, of_picture = rng.normal(0, 0.05, (5, 1)), rng.normal(0, 0.5, (1, 100))
        found = interval(of_seed + of_picture + rng.normal(0, 0.3, (5, 100)), -1.0, 1.0)
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


@pytest.mark.parametrize("of_images", [False, True])
def test_a_difference_between_seeds_or_images_alone_has_the_usual_interval(of_images: bool) -> None:
    """Of three values: Student's t with 2 degrees of freedom."""
    values = np.array([[0.0, 1.0, 2.0]] * 2)
    found = interval(values if of_images else values.T, -9.0, 9.0)
    half = 4.30265 / 3**0.5
    assert found == pytest.approx((1, 1 - half, 1 + half), abs=1e-4)


def test_no_difference_at_all_has_an_interval_of_no_width() -> None:
    assert interval(np.zeros((3, 10)), -1.0, 1.0) == (0, 0, 0)
