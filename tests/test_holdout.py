"""The held-out split: its size, its classes, no leaks, the same every time, and no image of it in a batch."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.data.batches import Batches
from ganvas.data.inspection import thumbnails as thumbs
from ganvas.data.inspection.near_duplicates import Likeness
from ganvas.data.inspection.thumbnails import thumbnails
from ganvas.data.packing.holdout import held_out, number, quotas
from ganvas.errors import ConfigError, DataError
from planted import brighter, landscapes


def packed(folder: Path, images: np.ndarray, labels: np.ndarray | None = None, **options: Any) -> Pack:
    folder.mkdir(exist_ok=True)
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez(folder / "set.npz", **arrays)  # ty: ignore[invalid-argument-type]
    return open_pack(folder / "set.npz", DataConfig(**options), folder=folder / "pack")


@pytest.mark.parametrize(
    ("num_images", "share", "expected"),
    [
        (39, None, 0),
        (40, None, 4),
        (5456, None, 545),
        (60_000, None, 2000),
        (100, 0.0, 0),
        (100, 0.5, 50),
        (60_000, 0.2, 12_000),
        (10, 0.25, 2),
        (3, 0.5, 1),
        (2, 0.5, 0),
    ],
)
def test_how_many(num_images, share, expected):
    assert number(num_images, share) == expected


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8).filter(lambda counts: sum(counts) >= 4), st.floats(0, 0.5))
@settings(max_examples=60, deadline=None)
def test_every_class_by_its_share(counts, share):
    counts = np.array(counts)
    wanted = int(share * counts.sum())
    taken = quotas(counts, wanted)
    assert taken.sum() <= wanted and (taken <= counts // 2).all() and (taken >= 0).all()
    assert (np.abs(taken - counts * wanted / counts.sum()) <= 1).all()


def test_all_of_it_is_there_and_drawn_by_the_seed():
    images, labels = landscapes(200, 16), np.repeat([0, 1, 2], [120, 60, 20])
    first = held_out(images, labels, None)
    assert np.bincount(labels[first]).tolist() == [12, 6, 2]
    assert (np.diff(first) > 0).all() and first.dtype == np.int64
    assert np.array_equal(held_out(images, labels, None), first)
    assert not np.array_equal(held_out(images, labels, None, seed=1), first)


def test_near_duplicates_stay_together():
    """Every image has an equal and a brighter twin, in another order: none of them may be parted."""
    pictures = landscapes(150, 32)
    order = np.random.default_rng(0).permutation(450)
    images = np.concatenate([pictures, pictures, np.stack([brighter(picture) for picture in pictures])])[order]
    original = order % 150
    held = held_out(images, None, 0.2)
    training = np.setdiff1d(np.arange(450), held)
    assert 80 <= len(held) <= 90
    assert not set(original[held]) & set(original[training])


def test_too_large_families_stay_in_the_training_part():
    pictures = landscapes(100, 32)
    images = np.concatenate([pictures, np.repeat(pictures[:1], 60, axis=0)])
    held = held_out(images, None, None)
    assert len(held) == 16 and not set(held.tolist()) & {0, *range(100, 160)}


def test_pairs_are_held_out_of_a_small_set() -> None:
    """A group of near duplicates may have two images, however few are held out."""
    held = held_out(landscapes(20, 32).repeat(2, axis=0), None, None)
    assert len(held) == 4 and (held[::2] % 2 == 0).all() and (held[1::2] == held[::2] + 1).all()


def test_all_black_pictures_can_be_packed(tmp_path):
    pack = packed(tmp_path, np.zeros((50, 16, 16), np.uint8))
    assert pack.num_training == 50 and len(pack.heldout) == 0  # one family, too large


def test_pack_holds_the_split(tmp_path):
    images = landscapes(60, 16, 1)[..., 0]
    pack = packed(tmp_path / "one", images, np.arange(60) % 2)
    assert (pack.num_images, pack.num_training, len(pack.heldout)) == (60, 54, 6)
    assert np.array_equal(np.sort(np.concatenate([pack.training, pack.heldout])), np.arange(60))
    assert np.array_equal(Pack.open(pack.folder).heldout, pack.heldout)
    other = packed(tmp_path / "two", images, np.arange(60) % 2, holdout=0.0)
    assert len(other.heldout) == 0 and other.hash != pack.hash  # the split belongs to what a run is trained on
    assert np.array_equal(other.images, pack.images)


def test_an_existing_pack_is_not_what_other_options_ask_for(tmp_path):
    pack = packed(tmp_path, landscapes(60, 16), holdout=0.3)
    assert open_pack(pack.folder, DataConfig(holdout=0.3)).hash == open_pack(pack.folder).hash == pack.hash
    with pytest.raises(DataError, match=r"its --holdout is 0\.3, not 0\.2"):
        open_pack(pack.folder, DataConfig(holdout=0.2))
    with pytest.raises(DataError, match=r"--drop-duplicates is False, not True, its --mask-marks is False, not True"):
        open_pack(pack.folder, DataConfig(drop_duplicates=True, mask_marks=True))


def test_a_pack_of_other_images_of_the_same_number_is_refused(tmp_path: Path) -> None:
    open_pack("digits", DataConfig(limit=60), folder=tmp_path / "pack")
    assert len(open_pack(tmp_path / "pack", DataConfig(limit=60))) == 60
    with pytest.raises(DataError, match="its --subset-seed is 0, not 5"):
        open_pack(tmp_path / "pack", DataConfig(limit=60, subset_seed=5))


def test_damaged_split_is_noticed(tmp_path):
    pack = packed(tmp_path, landscapes(60, 16))
    np.save(pack.folder / "heldout.npy", pack.heldout[:-1])
    with pytest.raises(DataError, match="damaged"):
        Pack.open(pack.folder)


@pytest.mark.parametrize("held_in_memory", [True, False])
def test_batches_never_show_it(tmp_path, monkeypatch, held_in_memory):
    if not held_in_memory:
        monkeypatch.setattr("ganvas.data.batches.HELD_IN_MEMORY", 0)
    images = landscapes(60, 16, 1)[..., 0]
    images[:, 0, 0] = np.arange(60)  # an image tells its number
    pack = packed(tmp_path, images, holdout=0.25)
    batches = Batches(pack, 9)
    seen = [round((float(value) + 1) * 127.5) for _ in range(30) for value in next(batches)[0][:, 0, 0, 0]]
    batches.close()
    assert len(pack.heldout) == 15
    for epoch in range(6):  # each a permutation of the training images
        assert sorted(seen[45 * epoch : 45 * (epoch + 1)]) == pack.training.tolist()


def test_holdout_out_of_range_is_refused():
    for share in (-0.1, 0.6, float("nan")):
        with pytest.raises(ConfigError, match=r"--holdout .* from 0 to 0\.5"):
            DataConfig(holdout=share)


@pytest.mark.slow
def test_real_scans_do_not_leak(shared_data):
    """MedNIST's exact duplicates and its neighbouring slices are on one side."""
    pack = open_pack("mednist", DataConfig(limit=1200), data=shared_data / "mednist" / "MedNIST_24000.tar.gz")
    assert 100 <= len(pack.heldout) <= 120
    assert pack.labels is not None and np.ptp(np.bincount(pack.labels[pack.heldout])) <= 30
    aside = np.zeros(pack.num_images, bool)
    aside[pack.heldout] = True
    pairs = Likeness(thumbnails(pack.images)).pairs()
    assert len(pairs) > 40
    assert np.mean(aside[pairs[:, 0]] != aside[pairs[:, 1]]) < 0.01


# Large sets: the same steps with thumbnails on disk, and searches of parts.


def test_large_sets_are_held_out_alike(monkeypatch, tmp_path):
    """With every limit lowered, thumbnails lie in files; no near duplicate is on the other side either way."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (150, 6, 6, 1)).repeat(4, 1).repeat(4, 2)
    twins = np.clip(coarse[:50] + rng.integers(-2, 3, coarse[:50].shape), 0, 255)
    images = np.concatenate([coarse, twins]).astype(np.uint8)
    usual = held_out(images, None, 0.2)
    monkeypatch.setattr(thumbs, "LARGE_SET", 100)
    large = held_out(images, None, 0.2, scratch=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.npy"}
    for held in (usual, large):
        assert len(held) == 40
        pairs = (np.isin(np.arange(50), held), np.isin(np.arange(150, 200), held))
        assert np.array_equal(*pairs) and pairs[0].any()


def test_memory_grows_with_neither_thumbnails_nor_descriptors_of_a_large_set(monkeypatch, tmp_path):
    """Twice the images need less than 400 bytes for each of them; a thumbnail has 1,216 and a descriptor 576."""
    monkeypatch.setattr(thumbs, "LARGE_SET", 100)
    peaks = []
    for num in (5000, 10_000):
        images = np.lib.format.open_memmap(tmp_path / f"{num}.npy", "w+", np.uint8, (num, 8, 8, 1))
        images[:] = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
        tracemalloc.start()  # counts arrays, except memory-mapped ones
        assert len(held_out(images, None, 40 / num, scratch=tmp_path)) == 40
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 5000 < 400


def test_a_pack_of_a_large_set_leaves_no_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(thumbs, "LARGE_SET", 100)
    np.savez(tmp_path / "set.npz", images=np.random.default_rng(0).integers(0, 256, (120, 12, 12), np.uint8))
    pack = open_pack(tmp_path / "set.npz", folder=tmp_path / "pack")
    assert len(pack.heldout) == 12
    names = {"images.npy", "heldout.npy", "names.txt", "pack.json", "checked.json"}
    assert {path.name for path in (tmp_path / "pack").iterdir()} == names
