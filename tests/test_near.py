"""Near duplicates: found when compressed, brightened or shifted, and not confused with what is merely alike."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.inspection import near_duplicates
from ganvas.data.inspection.near_duplicates import (
    Likeness,
    Parts,
    clusters,
    families,
    grouped,
    nearest_neighbours,
    pixel_differences,
    same,
)
from ganvas.data.inspection.thumbnails import averaging, descriptors, thumbnails
from planted import brighter, compressed, landscapes, shifted


def as_set(pairs: np.ndarray) -> set[tuple[int, int]]:
    return {(min(pair), max(pair)) for pair in pairs.tolist()}


# Search.


@pytest.mark.parametrize(("num", "k", "block"), [(50, 1, 7), (50, 6, 7), (200, 6, 2048), (33, 33, 10), (3001, 5, 1501)])
def test_nearest_is_the_search_over_all(num, k, block):
    rng = np.random.default_rng(0)
    queries, base = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(num, 5)).astype(np.float32)
    distances, found = nearest_neighbours(queries, base, k, block)
    every = ((queries[:, None] - base) ** 2).sum(2)
    assert np.array_equal(found, np.argsort(every, axis=1)[:, :k])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :k], rtol=1e-4, atol=1e-5)


def test_nearest_goes_on_after_a_block_without_a_nearer_row():
    base = np.concatenate([np.zeros((2000, 3)), np.full((2000, 3), 9)]).astype(np.float32)
    base[3999] = base[5] = 1
    distances, found = nearest_neighbours(base[5:6], base, 2, block=1000)
    assert set(found[0].tolist()) == {5, 3999} and not distances.any()


def test_the_search_in_parts_finds_what_is_very_near():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(900, 40)).astype(np.float32)
    rows[450:] = rows[:450] + 0.1 * rng.normal(size=(450, 40))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[7] = 0  # a blank image
    places = np.arange(0, 900, 3)
    distances, found = Parts(rows).nearest(places, 3)
    exact, wanted = nearest_neighbours(rows[places], rows, 3)
    same = found[:, :2] == wanted[:, :2]  # itself and its copy
    assert same[places != 7].mean() > 0.99
    np.testing.assert_allclose(distances[:, :2][same], exact[:, :2][same], atol=1e-4)


def test_the_quick_search_finds_the_same_pairs(monkeypatch):
    pictures = landscapes(120)
    everything = thumbnails(np.concatenate([pictures, np.stack([brighter(p) for p in pictures[:40]])]))
    slow = as_set(Likeness(everything).pairs())
    monkeypatch.setattr(near_duplicates, "QUICK_SET", 50)
    monkeypatch.setattr(near_duplicates, "QUICK_SAMPLE", 100)
    quick = Likeness(everything, quick=True)
    assert quick.quick and {(i, 120 + i) for i in range(40)} <= as_set(quick.pairs()) and len(slow) >= 40


def test_averaging_keeps_means_and_shares():
    assert np.allclose(averaging(6, 3), np.kron(np.eye(3), [0.5, 0.5]))
    for size, parts in ((28, 32), (800, 32), (5, 5), (7, 3)):
        weights = averaging(size, parts)
        assert weights.shape == (parts, size)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(weights.mean(0), 1 / size, rtol=1e-4)  # every pixel counts the same


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_thumbnails_forget_brightness_and_blanks_have_no_structure(dtype, channels):
    scale = 1 if dtype == np.uint8 else 257
    pictures = landscapes(3, channels=channels).astype(dtype) * scale
    small, faint = thumbnails(pictures), thumbnails((pictures // 2 + 60 * scale).astype(dtype))
    assert small.gray.shape == (3, 32, 32) and small.tones.shape == (3, 8, 8, 3)
    assert np.abs(small.gray.astype(int) - faint.gray).max() <= 4
    rows = descriptors(small.gray)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    blank = thumbnails(np.full((1, 48, 48, channels), 99 * scale, dtype))
    assert not descriptors(blank.gray).any() and pixel_differences(blank.gray, blank.gray) == 1


# Pairs.


@pytest.mark.parametrize("change", [compressed, brighter, shifted])
def test_changed_copies_are_found_and_nothing_else(change):
    pictures = landscapes(300)
    copies = np.stack([change(picture) for picture in pictures[:20]])
    found = as_set(Likeness(thumbnails(np.concatenate([pictures, copies]))).pairs())
    expected = {(i, 300 + i) for i in range(20)}
    assert len(found & expected) >= 19
    assert not found - expected


def test_other_colours_are_another_picture():
    pictures = np.random.default_rng(0).permuted(landscapes(200), axis=0)  # parts of different ones: colourful
    recoloured = pictures[:10, :, :, [1, 2, 0]]  # the same grays
    assert not len(Likeness(thumbnails(np.concatenate([pictures, recoloured]))).pairs())


def test_equal_pictures_are_one_group_however_many():
    pictures = landscapes(60)
    copies = np.repeat(pictures[7:8], 50, axis=0)
    pairs = Likeness(thumbnails(np.concatenate([pictures, copies]))).pairs()
    (cluster,) = clusters(pairs, 110)
    assert cluster.tolist() == [7, *range(60, 110)]


def test_pairs_of_some_are_those_of_all_that_have_them():
    pictures = landscapes(100)
    everything = Likeness(thumbnails(np.concatenate([pictures, np.stack([brighter(p) for p in pictures[:30]])])))
    some = {3, 5, 110}
    whole = as_set(everything.pairs())
    expected = {pair for pair in whole if some & set(pair)}
    assert expected == {(3, 103), (5, 105), (10, 110)}
    assert as_set(everything.pairs(np.array(list(some)))) == expected


def test_families_are_complete():
    """A moving camera: each frame is like its neighbours only, and all are one family."""
    pictures = landscapes(150)
    wide = landscapes(1, 96, seed=9)[0]
    frames = np.stack([wide[20 : 20 + 48, step : step + 48] for step in range(15)])
    likeness = Likeness(thumbnails(np.concatenate([pictures, frames])))
    family, single = families(likeness, np.array([155, 4]), most=50)
    assert family.tolist() == list(range(150, 165)) and single.tolist() == [4]
    assert (150, 164) not in as_set(likeness.pairs())
    assert 4 < len(families(likeness, np.array([155]), most=4)[0]) < 15  # seen to be too large, not grown to its end


def test_connected_groups():
    pairs = np.array([[0, 1], [1, 4], [2, 5]])
    assert [cluster.tolist() for cluster in clusters(pairs, 7)] == [[0, 1, 4], [2, 5]]
    assert len(set(grouped(7, pairs).tolist())) == 4
    assert clusters(np.empty((0, 2), np.int64), 7) == []


# The same image.


def test_the_same_picture_differs_nowhere():
    picture = landscapes(1)[0]
    mouth = picture.copy()
    mouth[30:36, 20:28] = 255 - mouth[30:36, 20:28]
    others = [compressed(picture, 90), brighter(picture), picture, mouth, 255 - picture, landscapes(1, seed=1)[0]]
    images = np.stack([picture, *others])
    pairs = np.stack([np.zeros(6, np.int64), np.arange(1, 7)], axis=1)
    assert same(images, pairs).tolist() == [True, True, True, False, False, False]


def test_black_and_white_are_not_the_same_but_black_and_black_are():
    images = np.stack([np.full((16, 16, 1), value, np.uint8) for value in (0, 255, 0)])
    assert same(images, np.array([[0, 1], [0, 2]])).tolist() == [False, True]


# Real images.


def test_digits_are_not_near_duplicates_of_each_other(shared_data):
    """Ones are all alike; copies of digits, compressed or brighter, are found among them all the same."""
    pack = open_pack("mnist", DataConfig(split="test", limit=4000), data=shared_data / "mnist")
    images = np.array(pack.images)
    copies = np.stack([change(images[i, ..., 0])[..., None] for i in range(100) for change in (compressed, brighter)])
    found = as_set(Likeness(thumbnails(np.concatenate([images, copies]))).pairs())
    planted = {(i, 4000 + 2 * i + j) for i in range(100) for j in (0, 1)}
    assert len(found & planted) >= 180
    assert sum(pair[1] < 4000 for pair in found) <= 20


def test_frames_of_a_film_are_near_duplicates(shared_data):
    """The pairs that are found follow each other in the film."""
    with zipfile.ZipFile(shared_data / "simpsons_faces" / "simpsons_faces_128.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:2000]
        pictures = np.stack(
            [np.asarray(Image.open(archive.open(name)).convert("RGB").resize((64, 64))) for name in names]
        )
    pairs = Likeness(thumbnails(pictures)).pairs()
    assert len(pairs) >= 20
    assert np.mean(np.diff(pairs, axis=1) <= 20) > 0.8  # by chance: 2%
