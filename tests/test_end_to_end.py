"""The whole way on real images: the embedded digits are trained for a few seconds and read by a classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.neighbors import KNeighborsClassifier

import ganvas
from ganvas.generator import to_pixels


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "run"
    ganvas.train("digits", out, images=16_000, seed=1, device="cpu", quiet=True)
    return out


def test_digits_are_read_as_the_asked_class(digits_run: Path) -> None:
    pack = ganvas.open_pack("digits")
    neighbours = KNeighborsClassifier(5).fit(pack.images.reshape(len(pack.images), -1), pack.labels)
    gan = ganvas.Generator.load(digits_run, device="cpu")
    seeds = range(300)
    pixels = to_pixels(gan.sample(len(seeds), seed=0))
    right = neighbours.predict(pixels.reshape(len(seeds), -1)) == [seed % 10 for seed in seeds]
    assert right.mean() > 0.7  # about 0.9 is usual; untrained networks reach 0.1
    assert len({image.tobytes() for image in pixels}) == len(seeds)
