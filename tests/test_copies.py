"""judge/copies.py: altered training pictures are found, unseen ones are left alone."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ganvas.data.pack import Pack, open_pack
from ganvas.errors import DataError
from ganvas.judge.copies import CopyFinder, calibrate, dominance


@pytest.fixture(scope="module")
def digits() -> Pack:
    return open_pack("digits")


@pytest.fixture(scope="module")
def finder(digits: Pack) -> CopyFinder:
    return CopyFinder(digits)


def clipped(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def shifted(pictures: np.ndarray) -> np.ndarray:
    return np.pad(pictures, ((0, 0), (2, 0), (2, 0), (0, 0)), mode="edge")[:, :-2, :-2]


def resized(pictures: np.ndarray, side: int) -> np.ndarray:
    size = pictures.shape[1:3]
    images = [Image.fromarray(picture[..., 0]).resize((side, side), Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images])[..., None]


def cropped(pictures: np.ndarray) -> np.ndarray:
    images = [Image.fromarray(picture[..., 0]).crop((1, 2, 30, 31)).resize((32, 32)) for picture in pictures]
    return np.stack([np.asarray(image) for image in images])[..., None]


def compressed(pictures: np.ndarray) -> np.ndarray:
    found = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture[..., 0]).save(buffer, "JPEG", quality=40)
        found.append(np.asarray(Image.open(buffer)))
    return np.stack(found)[..., None]


ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda x: x,
    "mirror": lambda x: x[:, :, ::-1],
    "shift": shifted,
    "crop": cropped,
    "brightness": lambda x: clipped(x * 0.8 + 20.0),
    "contrast": lambda x: clipped((x - 128.0) * 0.7 + 128),
    "noise": lambda x: clipped(x + 15 * np.random.default_rng(0).standard_normal(x.shape)),
    "compression": compressed,
    "down-scaling": lambda x: resized(x, 16),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_training_pictures_are_found(name: str, finder: CopyFinder, digits: Pack) -> None:
    chosen = digits.training[::40]
    found = finder.find(ALTERATIONS[name](digits.images[chosen]))
    assert (found.score < finder.threshold).mean() >= 0.85
    assert (found.nearest == chosen).mean() >= 0.85
    if name == "mirror":
        assert sum("mirrored" in moved for moved in found.moved) > 0.8 * len(chosen)


def test_unseen_pictures_are_left_alone(finder: CopyFinder, digits: Pack) -> None:
    assert finder.is_copy(digits.images[digits.heldout]).mean() <= 0.03
    judged = finder.judge(digits.images[digits.heldout])
    assert judged.closer.value == pytest.approx(0.5)
    assert judged.authenticity.value > 0.3
    assert "no sign of copying" in judged.sentence


def test_a_set_of_copies_is_called_out(finder: CopyFinder, digits: Pack) -> None:
    half = np.concatenate([digits.images[digits.training[:30]], digits.images[digits.heldout[:30]]])
    judged = finder.judge(half)
    assert 0.4 < judged.rate.value < 0.65 and "are copies" in judged.sentence
    assert judged.authenticity.value < 0.75 and judged.closer.low > 0.5


def test_twins_among_the_training_pictures_hide_no_copy(digits: Pack) -> None:
    chosen = digits.training[:20]
    images = np.concatenate([digits.images, digits.images[chosen]])  # the twins are training pictures as well
    twins = dataclasses.replace(digits, images=images)
    assert CopyFinder(twins).is_copy(digits.images[chosen]).mean() >= 0.95


def test_held_out_pictures_that_leaked_are_left_out_of_the_threshold() -> None:
    scores = np.exp(np.random.default_rng(0).normal(-0.3, 0.15, 500))
    threshold, leaks = calibrate(scores)
    assert leaks == 0 and (scores < threshold).mean() == pytest.approx(0.005, abs=0.003)
    leaked, found = calibrate(np.append(scores, np.full(20, 0.01)))
    assert found == 20 and leaked == pytest.approx(threshold)
    few, _ = calibrate(scores[:40])
    assert 0.35 < few < 0.65


def test_dominance_by_hand() -> None:
    """Of the four pairs (1, 2), (1, 0), (3, 2), (3, 0) one sample is below; a tie counts half."""
    assert dominance(np.array([1.0, 3.0]), np.array([2.0, 0.0])).value == 0.25
    assert dominance(np.array([1.0, 1.0]), np.array([1.0, 1.0])).value == 0.5


def test_too_few_held_out_pictures_are_an_error(digits: Pack) -> None:
    with pytest.raises(DataError, match=r"3 held-out and .* training pictures cannot tell copies from likeness"):
        CopyFinder(dataclasses.replace(digits, heldout=digits.heldout[:3]))
