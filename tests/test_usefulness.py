"""usefulness.py: chance where there is nothing to see, the place where there is, plain words on what helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ganvas.errors import DataError
from ganvas.evaluation import usefulness
from ganvas.evaluation.intervals import Interval
from ganvas.evaluation.usefulness import ARMS, RealOrFake, Usefulness, interval, real_or_fake


def textures(num: int, seed: int, side: int = 16) -> np.ndarray:
    """(N, side, side, 1) uint8 noise of one brightness."""
    return np.random.default_rng(seed).integers(60, 180, (num, side, side, 1), np.uint8)


def bars(num: int, seed: int, noise: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """(N, 12, 12, 1) uint8 with a bar that lies (0) or stands (1) in noise, and the labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, noise, (num, 12, 12, 1), np.uint8)
    labels = rng.permutation(np.arange(num) % 2)
    for image, label in zip(images, labels, strict=True):
        place = rng.integers(0, 12)
        image[(slice(None), place) if label else (place, slice(None))] += 100
    return images, labels


# ---- real or generated? ----


@pytest.fixture(scope="module")
def marked() -> RealOrFake:
    fake = textures(100, 1)
    fake[:, 2:5, 11:14] = 230
    return real_or_fake(textures(100, 0), fake, steps=40)


def test_two_real_draws_are_told_apart_by_chance_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pairs of draws; each 95% interval misses chance once in twenty."""
    monkeypatch.setattr(usefulness, "MAP_PICTURES", 4)  # no map is looked at
    found = [real_or_fake(textures(50, 2 * i, 8), textures(50, 2 * i + 1, 8), steps=4, seed=i) for i in range(10)]
    assert sum(one.accuracy.low <= 0.5 <= one.accuracy.high for one in found) >= 8
    assert abs(np.mean([one.accuracy.value for one in found]) - 0.5) < 0.05
    assert all("cannot distinguish" in one.sentence for one in found if one.accuracy.low <= 0.5)


def test_a_fault_is_found_and_its_place_shown(marked: RealOrFake) -> None:
    assert marked.num_tested == 200
    assert marked.accuracy.low > 0.9
    assert "easily distinguishes" in marked.sentence
    assert marked.map.shape == (16, 16)
    assert (marked.map.min(), marked.map.max()) == (0, 1)
    row, column = np.unravel_index(marked.map.argmax(), marked.map.shape)
    assert 1 <= row <= 4
    assert 11 <= column <= 14
    assert marked.map[8:].max() < 0.3


def test_the_same_seed_gives_the_same_answer() -> None:
    real, fake = textures(30, 0), textures(30, 1)
    fake[:, 2:5, 11:14] = 230
    tensor = torch.from_numpy(fake).permute(0, 3, 1, 2).float() / 127.5 - 1
    first, again = (real_or_fake(real, images, steps=8) for images in (fake, tensor))
    assert again.accuracy == first.accuracy and first.map.any()
    np.testing.assert_array_equal(again.map, first.map)


def test_which_way_pictures_face_does_not_count_where_mirrored_ones_were_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usefulness, "MAP_PICTURES", 4)
    real, fake = textures(80, 0, 10), textures(80, 1, 10)
    real[:, :, :3], fake[:, :, -3:] = 230, 230
    assert real_or_fake(real, fake, steps=40).accuracy.low > 0.9
    assert real_or_fake(real, fake, steps=40, mirror=True).accuracy.value < 0.75


def test_large_pictures_keep_their_size_in_the_map_and_unequal_numbers_are_evened() -> None:
    real, fake = textures(40, 0, 96)[:, :, :48], textures(25, 1, 96)[:, :, :48] // 2
    found = real_or_fake(real, fake, steps=2)
    assert found.map.shape == (96, 48)
    assert found.num_tested == 50


def test_too_few_pictures_or_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"19 generated images .* at least 20"):
        real_or_fake(textures(40, 0), textures(19, 1))
    with pytest.raises(DataError, match=r"16x16 pixels with 1 channels .* 8x8 pixels"):
        real_or_fake(textures(40, 0), textures(40, 1, 8))


# ---- of use for training? ----


def judged(synthetic: np.ndarray, labels: np.ndarray) -> Usefulness:
    (real, real_labels), (heldout, heldout_labels) = bars(40, 0), bars(300, 1)
    return usefulness.usefulness(
        real, real_labels, synthetic, labels, heldout, heldout_labels, 2, kind="digits", steps=40, seeds=3
    )


@pytest.mark.slow
def test_real_pictures_in_the_place_of_generated_ones_help() -> None:
    found = judged(*bars(400, 2))
    assert found.helps
    assert found.sentence.startswith("Generated images help")
    assert found.difference["real + synthetic"].value > 0.05
    assert set(found.accuracy) == set(ARMS)
    assert (found.num_real, found.num_synthetic, found.num_tested, found.seeds) == (40, 400, 300, 3)
    assert found.difference["synthetic"].value == pytest.approx(
        found.accuracy["synthetic"].value - found.accuracy["real"].value
    )


@pytest.mark.slow
def test_as_many_other_real_pictures_are_as_good_by_themselves() -> None:
    found = judged(*bars(40, 3))
    assert found.difference["synthetic"].low < 0 < found.difference["synthetic"].high
    assert "as good as real images" in found.sentence


@pytest.mark.slow
def test_noise_does_not_help_and_that_is_said() -> None:
    rng = np.random.default_rng(4)
    found = judged(rng.integers(0, 256, (200, 12, 12, 1), np.uint8), np.arange(200) % 2)
    assert not found.helps
    assert found.sentence.startswith(("Generated images do not help", "Generated images reduce accuracy"))
    assert "train a worse classifier" in found.sentence
    assert found.accuracy["synthetic"].low < 0.6


@pytest.mark.slow
def test_pictures_with_wrong_labels_do_harm() -> None:
    images, labels = bars(400, 5)
    found = judged(images, 1 - labels)
    assert found.sentence.startswith("Generated images reduce accuracy")
    assert found.difference["real + synthetic"].high < 0


def test_a_class_without_generated_pictures_is_refused() -> None:
    images, _ = bars(40, 2)
    with pytest.raises(DataError, match="class number 1 has no generated images"):
        judged(images, np.zeros(40, np.int64))


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
