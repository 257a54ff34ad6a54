"""Optional cleaning of packed images: remove duplicates, fill in burned-in marks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ganvas.data.inspection.marks import marks, without
from ganvas.data.inspection.near_duplicates import Likeness, grouped, same
from ganvas.data.inspection.thumbnails import LARGE_SET, thumbnails_of
from ganvas.errors import amount
from ganvas.system import files

_COPIED = 8 * 2**20  # bytes copied at a time


def without_similar_frames(path: Path, is_frame: np.ndarray, notes: list[str]) -> np.ndarray:
    """Drops frames of videos, of an images.npy, that are near duplicates of an earlier image; adds a note.

    is_frame: (N,) bool. Returns a mask (N,) bool of the images that remain.
    """
    images = files.load_array(path)
    with TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as scratch:
        pairs = Likeness(thumbnails_of(images, Path(scratch)), quick=True).pairs()
    kept = np.ones(len(images), bool)
    for first, second in pairs[np.argsort(pairs[:, 1], kind="stable")]:  # the first of a pair is the earlier one
        kept[second] &= not (kept[first] and is_frame[second])
    dropped = len(images) - int(kept.sum())
    if dropped:
        notes.append(f"{amount(dropped, 'frame was', 'frames were')} dropped as near duplicates of others.")
        _shorten(path, images, kept)
    return kept


def without_duplicates(path: Path, notes: list[str]) -> np.ndarray:
    """Keeps the first of each group of equal images in an images.npy and adds a note. Returns a mask (N,) bool."""
    images = files.load_array(path)
    with TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as scratch:
        pairs = Likeness(thumbnails_of(images, Path(scratch)), quick=len(images) > LARGE_SET).pairs()
    group = grouped(len(images), pairs[same(images, pairs)])
    kept = np.zeros(len(images), bool)
    kept[np.unique(group, return_index=True)[1]] = True
    dropped = len(images) - int(kept.sum())
    notes.append(
        f"{amount(dropped, 'image was', 'images were')} removed: equal to others except for compression or brightness."
    )
    if dropped:
        _shorten(path, images, kept)
    return kept


def _shorten(path: Path, images: np.ndarray, kept: np.ndarray) -> None:
    """Keeps the images of a mask (N,) bool in an images.npy."""
    places, shorter = np.flatnonzero(kept), path.with_name("shorter.npy")
    copy = np.lib.format.open_memmap(shorter, "w+", images.dtype, (len(places), *images.shape[1:]), version=(1, 0))
    step = max(1, _COPIED // images[0].nbytes)
    for start in range(0, len(places), step):
        copy[start : start + step] = images[places[start : start + step]]
    copy.flush()
    del copy, images  # Windows cannot rename a memory-mapped file
    shorter.replace(path)


def mask_marks(path: Path, notes: list[str]) -> None:
    """Fills in burned-in marks of the images in an images.npy and adds a note with their number."""
    images = np.load(path, mmap_mode="r+")
    burned_in = marks(images)
    counts = [0] * len(burned_in)
    for number, picture in enumerate(images):
        for which, mark in enumerate(burned_in):
            filled = without(mark, picture)
            if filled is not None:
                images[number] = picture = filled
                counts[which] += 1
    images.flush()
    each = ", ".join(f"one in {count:,} of {len(images):,} images" for count in counts)
    notes.append(f"Burned-in marks were filled in: {each}." if burned_in else "No burned-in marks were found.")
