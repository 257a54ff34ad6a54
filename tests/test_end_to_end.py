"""The whole way: what was trained draws the class that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import ganvas
from ganvas.generator import to_pixels


def test_the_asked_class_is_learnt(tmp_path: Path) -> None:
    """Dark and bright images of 8x8 pixels, which half a second of training tells apart."""
    images, labels = np.random.default_rng(0).integers(0, 60, (64, 8, 8), np.uint8), np.arange(64) % 2
    images[labels == 1] += 180
    np.savez(tmp_path / "two.npz", images=images, labels=labels)
    options = {"base": 8, "z_dim": 8, "batch": 16, "previews": 2, "lr": 0.01, "seed": 1, "device": "cpu", "quiet": True}
    ganvas.train(tmp_path / "two.npz", tmp_path / "run", images=1600, **options)
    gan = ganvas.Generator.load(tmp_path / "run", device="cpu")
    dark, bright = to_pixels(gan.sample(40, seed=0)).reshape(20, 2, -1).mean(axis=2).T
    assert dark.max() < 100 < 140 < bright.min()


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "run"
    ganvas.train("digits", out, images=16_000, seed=1, device="cpu", quiet=True)
    return out


@pytest.mark.slow
def test_digits_are_read_as_the_asked_class(digits_run: Path) -> None:
    pack = ganvas.open_pack("digits")
    neighbours = KNeighborsClassifier(5).fit(pack.images.reshape(len(pack.images), -1), pack.labels)
    gan = ganvas.Generator.load(digits_run, device="cpu")
    seeds = range(300)
    pixels = to_pixels(gan.sample(len(seeds), seed=0))
    right = neighbours.predict(pixels.reshape(len(seeds), -1)) == [seed % 10 for seed in seeds]
    assert right.mean() > 0.7  # about 0.9 is usual; untrained networks reach 0.1
    assert len({image.tobytes() for image in pixels}) == len(seeds)
