"""What packing may do to written images: drop those that are there already, fill in burned-in marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ganvas import files
from ganvas.data.marks import marks, without
from ganvas.data.near import Likeness, grouped, same, thumbnails

COPIED = 8 * 2**20  # bytes that are copied at a time


def without_duplicates(path: Path, notes: list[str]) -> np.ndarray:
    """Keep the first of each group of the same image in an images.npy; returns (N,) bool, who stayed, and says it."""
    images = files.load_array(path)
    pairs = Likeness(thumbnails(images)).pairs()
    group = grouped(len(images), pairs[same(images, pairs)])
    kept = np.zeros(len(images), bool)
    kept[np.unique(group, return_index=True)[1]] = True
    dropped = len(images) - int(kept.sum())
    notes.append(f"{dropped:,} images were dropped, which are others of the set but for compression or brightness.")
    if dropped:
        places, shorter = np.flatnonzero(kept), path.with_name("shorter.npy")
        copy = np.lib.format.open_memmap(shorter, "w+", images.dtype, (len(places), *images.shape[1:]), version=(1, 0))
        step = max(1, COPIED // images[0].nbytes)
        for start in range(0, len(places), step):
            copy[start : start + step] = images[places[start : start + step]]
        copy.flush()
        del copy, images  # Windows renames no file that is mapped
        shorter.replace(path)
    return kept


def mask_marks(path: Path, notes: list[str]) -> None:
    """Fill in the burned-in marks of the images in an images.npy, and say how many there were."""
    images = np.load(path, mmap_mode="r+")
    found = marks(images)
    counts = [0] * len(found)
    for number, picture in enumerate(images):
        for which, mark in enumerate(found):
            filled = without(mark, picture)
            if filled is not None:
                images[number] = picture = filled
                counts[which] += 1
    images.flush()
    each = ", ".join(f"one in {count:,} of {len(images):,} pictures" for count in counts)
    notes.append(f"Burned-in marks were filled in: {each}." if found else "No burned-in marks were found.")
