"""Held-out images: never trained on, used for evaluation and training warnings.

Chosen with a fixed seed, in proportion to the classes. Near duplicates stay together, so that no training image has a
near duplicate among the held-out images.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ganvas.data.inspection.near_duplicates import Likeness, families
from ganvas.data.inspection.thumbnails import thumbnails_of
from ganvas.data.packing.kept import Kept
from ganvas.errors import amount

_SHARE, _MOST, _LEAST_PICTURES = 0.1, 2000, 40  # default: a tenth, at most 2,000, none for fewer than 40 images
_FAMILY = 0.1  # larger groups of near duplicates, relative to the held-out images, stay in the training part
_LEAST_TRAINING, LEAST_FOR_COPIES = 20, 20  # minimum images for training, and held-out images for evaluation.copies
_STRETCH, _STRETCHES = 4, 20  # least frames of a stretch of a video, and number of stretches of a long one
_ROUNDS = 8  # maximum rounds of drawing


def number(num_images: int, share: float | None) -> int:
    """Number of held-out images of `num_images`; at least 2 remain for training."""
    if share is None:
        return min(int(_SHARE * num_images), _MOST) if num_images >= _LEAST_PICTURES else 0
    return max(0, min(int(share * num_images), num_images - 2))


def held_out(
    images: np.ndarray,
    labels: np.ndarray | None,
    share: float | None,
    seed: int = 0,
    scratch: Path | None = None,
) -> np.ndarray:
    """Sorted int64 indices of the held-out images of a pack (N, H, W, C).

    share: fraction of the images, 0 to 0.5; None: the default. Never more; fewer if near duplicates, which stay
    together, make that necessary. scratch: folder for temporary files, so that memory does not grow with the thumbnails
    of a large set.
    """
    wanted = number(len(images), share)
    if not wanted:
        return np.empty(0, np.int64)
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    lacking = quotas(np.bincount(labels), wanted)
    most = max(2, int(_FAMILY * wanted))
    likeness = Likeness(thumbnails_of(images, scratch))
    order = np.random.default_rng(seed).permutation(len(images))
    held = np.zeros(len(images), bool)
    passed = np.zeros(len(images), bool)  # members of groups that are too large or were drawn before
    for _ in range(_ROUNDS):
        free = order[~(held | passed)[order]]
        drawn = np.concatenate([free[labels[free] == label][:num] for label, num in enumerate(lacking)])
        if not len(drawn):
            break
        for family in families(likeness, drawn, most):
            members = np.bincount(labels[family], minlength=len(lacking))
            if len(family) <= most and (members <= lacking).all():
                held[family] = True
                lacking -= members
            else:
                passed[family] = True
    return np.flatnonzero(held)


def held_out_in_time(scenes: list[tuple[str, bool]], share: float | None) -> np.ndarray:
    """Sorted indices of the held-out images of a set with videos: whole stretches of time, so that most held-out frames
    have no neighbours in the training part.

    scenes: file of each image, in order, and whether it is a frame of a video. Other images are drawn singly.
    """
    wanted = number(len(scenes), share)
    counts = Counter(scenes)
    stretches: list[list[int]] = []
    before: tuple[str, bool] | None = None
    for i, scene in enumerate(scenes):
        length = max(_STRETCH, -(-counts[scene] // _STRETCHES)) if scene[1] else 1
        if scene != before or len(stretches[-1]) >= length:
            stretches.append([])
        stretches[-1].append(i)
        before = scene
    held: list[int] = []
    for place in np.random.default_rng(0).permutation(len(stretches)):
        if len(held) + len(stretches[place]) <= wanted:
            held += stretches[place]
    return np.array(sorted(held), np.int64)


def without_leaks(
    images: np.ndarray, scenes: list[tuple[str, bool]], held: np.ndarray, scratch: Path | None = None
) -> np.ndarray:
    """The choice of `held_out_in_time`, changed so that no near duplicate of an image beside the videos is on the other
    side. Frames have none, because they were dropped."""
    if not len(held) or all(is_frame for _, is_frame in scenes):
        return held
    inside = np.isin(np.arange(len(scenes)), held)
    for pair in Likeness(thumbnails_of(images, scratch)).pairs(held).tolist():
        singles = [i for i in pair if not scenes[i][1]]
        if inside[pair[0]] != inside[pair[1]] and singles:
            inside[singles] = len(singles) == 1 and not inside[singles[0]]
    return np.flatnonzero(inside)


def still_held_out(
    images: np.ndarray, names: list[str], kept: Kept, scratch: Path | None = None
) -> tuple[np.ndarray, list[str]]:
    """Sorted indices of the images of a pack that a run holds out and of their near duplicates, and a note.

    No other image is held out, because the run may have been trained on it.
    """
    known = np.flatnonzero(kept.among(images, names))
    held = np.union1d(known, Likeness(thumbnails_of(images, scratch)).pairs(known)) if len(known) else known
    held = held[: max(0, len(images) - 2)].astype(np.int64)
    note = f"The held-out images of the run stay held out ({len(known):,} of {len(kept.names):,} were found)"
    more = len(held) - len(known)
    return held, [f"{note}, and {more:,} near duplicate{'s' * (more > 1)} of them, too." if more > 0 else f"{note}."]


def few(num_images: int, num_held: int, share: float | None, in_time: bool = False) -> list[str]:
    """Warnings about too few images or too few held-out images. in_time: chosen by `held_out_in_time`."""
    notes = []
    if num_images < _LEAST_TRAINING:
        notes.append(
            f"{num_images} images are too few to learn from: the generator will repeat them. Add images, if possible "
            "some hundreds, or start from a run on many similar images (--from RUN)."
        )
    wanted = number(num_images, share)
    if num_held < wanted and not in_time:
        notes.append(
            f"{num_held:,} of {wanted:,} images were held out: the others have near duplicates in the training part, "
            "and near duplicates stay together."
        )
    if num_held < LEAST_FOR_COPIES and share != 0:
        held = amount(num_held, "held-out image") if num_held else "no held-out images"
        notes.append(
            f"With {held}, copies cannot be distinguished from similar images: "
            f"{LEAST_FOR_COPIES} are needed (more images, or a larger --holdout)."
        )
    return notes


def quotas(counts: np.ndarray, wanted: int) -> np.ndarray:
    """Number of held-out images per class, by largest remainder; at most half of a class."""
    exact = counts * wanted / counts.sum()
    taken = exact.astype(np.int64)
    rest = np.argsort(taken - exact, kind="stable")[: wanted - taken.sum()]
    taken[rest] += 1
    return np.minimum(taken, counts // 2)
