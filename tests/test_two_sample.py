"""two_sample.py: chance for equal sets, high accuracy for a fault, and the place of the fault on the map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ganvas.data import open_pack
from ganvas.errors import DataError
from ganvas.evaluation import two_sample
from ganvas.evaluation.feature_cache import features_of
from ganvas.evaluation.features import Features
from ganvas.evaluation.two_sample import RealOrFake, real_or_fake


def textures(num: int, seed: int, side: int = 16) -> np.ndarray:
    """(N, side, side, 1) uint8 noise of one brightness."""
    return np.random.default_rng(seed).integers(60, 180, (num, side, side, 1), np.uint8)


@pytest.fixture(scope="module")
def networks() -> list[Features]:
    return [Features.load("random", "cpu")]


@pytest.fixture(scope="module")
def marked(networks: list[Features]) -> RealOrFake:
    fake = textures(100, 1)
    fake[:, 2:5, 11:14] = 230
    return real_or_fake(textures(100, 0), fake, networks)


def test_two_real_sets_are_separated_by_chance_only(monkeypatch: pytest.MonkeyPatch, networks: list[Features]) -> None:
    """Twenty pairs of sets; each 95% interval misses chance once in twenty."""
    monkeypatch.setattr(two_sample, "CELLS", 1)
    sets = np.stack([networks[0](textures(50, i)) for i in range(40)])
    images = textures(50, 0)
    found = [real_or_fake(images, images, networks, features=(sets[i], sets[i + 20]), seed=i) for i in range(20)]
    assert sum(one.accuracy.low <= 0.5 <= one.accuracy.high for one in found) >= 16
    assert abs(np.mean([one.accuracy.value for one in found]) - 0.5) < 0.05
    within = [one.accuracy.low <= 0.5 <= one.accuracy.high for one in found]
    assert [("cannot distinguish" in one.sentence) for one in found] == within


def test_the_units_of_features_do_not_matter(monkeypatch: pytest.MonkeyPatch, networks: list[Features]) -> None:
    monkeypatch.setattr(two_sample, "CELLS", 1)
    images = textures(50, 0)
    width, rng = networks[0](images[:1]).shape[1], np.random.default_rng(0)
    units = 10.0 ** rng.integers(-2, 3, width)
    sets = rng.normal(size=(2, 50, width)) + np.array([0, 0.2])[:, None, None]
    plain, other = (real_or_fake(images, images, networks, features=(a, b)) for a, b in (sets, sets * units))
    assert plain.accuracy == other.accuracy and plain.accuracy.low > 0.5


def test_copies_are_not_called_indistinguishable(monkeypatch: pytest.MonkeyPatch, networks: list[Features]) -> None:
    """A classifier that knows the original takes its copy for a real image: less than half are right."""
    monkeypatch.setattr(two_sample, "CELLS", 1)
    images = textures(80, 0)
    found = real_or_fake(images, images, networks)
    assert found.accuracy.high < 0.5 and "nearly identical to real images" in found.sentence
    assert "cannot distinguish" not in found.sentence


def test_a_fault_is_found_and_its_place_shown(marked: RealOrFake) -> None:
    assert marked.accuracy.low > 0.9
    assert "easily distinguishes" in marked.sentence
    assert marked.map.shape == (16, 16)
    assert (marked.map.min(), marked.map.max()) == (0, 1)
    row, column = np.unravel_index(marked.map.argmax(), marked.map.shape)
    assert 1 <= row <= 5 and 10 <= column <= 14
    assert marked.map[8:, :8].max() < 0.3


def test_the_same_seed_gives_the_same_answer(marked: RealOrFake, networks: list[Features]) -> None:
    fake = textures(100, 1)
    fake[:, 2:5, 11:14] = 230
    again = real_or_fake(textures(100, 0), fake, networks)
    assert again.accuracy == marked.accuracy
    np.testing.assert_array_equal(again.map, marked.map)


def test_large_images_keep_their_size_in_the_map_and_numbers_are_made_equal(
    monkeypatch: pytest.MonkeyPatch, networks: list[Features]
) -> None:
    monkeypatch.setattr(two_sample, "MAP_IMAGES", 4)
    real, fake = textures(40, 0, 96)[:, :, :48], textures(25, 1, 96)[:, :, :48] // 2
    found = real_or_fake(real, fake, networks)
    assert found.map.shape == (96, 48)


def test_features_of_mirrored_images_have_their_own_place_in_the_cache(
    tmp_path: Path, networks: list[Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))
    images = textures(30, 0)
    np.save(tmp_path / "images.npy", images)
    pack = open_pack(tmp_path / "images.npy")
    for _ in range(2):  # computed, and from the cache
        for mirrored, expected in ((False, images), (True, images[:, :, ::-1])):
            found, _ = features_of(networks[0], pack, np.arange(30), mirrored=mirrored)
            np.testing.assert_allclose(found, networks[0](expected), atol=1e-4)


def test_too_few_images_or_other_shapes_are_refused(networks: list[Features]) -> None:
    with pytest.raises(DataError, match=r"19 generated images .* at least 20"):
        real_or_fake(textures(40, 0), textures(19, 1), networks)
    with pytest.raises(DataError, match=r"images of 16x16x1 cannot be compared with images of 8x8x1"):
        real_or_fake(textures(40, 0), textures(40, 1, 8), networks)
