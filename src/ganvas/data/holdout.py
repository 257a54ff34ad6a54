"""The images that are set aside: never trained on, for the judge and the watch over the training.

Drawn by a fixed seed, every class by its share, and whole families of near duplicates at a time, so that no image
that is trained on has its twin in the other part.
"""

from __future__ import annotations

import numpy as np

from ganvas.data.near import Likeness, families, thumbnails

SHARE, MOST, LEAST_PICTURES = 0.1, 2000, 40  # the default: a tenth, at most 2,000, none below 40 images
FAMILY = 0.1  # a family of near duplicates larger than this part of the held-out images stays in the training part
FEW, TO_TELL_COPIES = 20, 20  # images to learn from, and those set aside that judge.copies needs
ROUNDS = 8  # of draws; what then lacks has too large families everywhere


def number(num_images: int, share: float | None) -> int:
    """How many of `num_images` images are set aside; at least 2 stay to train on."""
    if share is None:
        return min(int(SHARE * num_images), MOST) if num_images >= LEAST_PICTURES else 0
    return max(0, min(int(share * num_images), num_images - 2))


def held_out(images: np.ndarray, labels: np.ndarray | None, share: float | None, seed: int = 0) -> np.ndarray:
    """Sorted int64 places of the images of a pack (N, H, W, C) that are set aside.

    share: part of the images, 0 to 0.5; None: the default. Never more than that, and fewer where near duplicates,
    which stay together, leave no other choice.
    """
    wanted = number(len(images), share)
    if not wanted:
        return np.empty(0, np.int64)
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    lacking = quotas(np.bincount(labels), wanted)
    most = max(2, int(FAMILY * wanted))
    likeness = Likeness(thumbnails(images))
    order = np.random.default_rng(seed).permutation(len(images))
    held = np.zeros(len(images), bool)
    passed = np.zeros(len(images), bool)  # members of families that are too large, or that were drawn already
    for _ in range(ROUNDS):
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


def few(num_images: int, num_held: int, share: float | None) -> list[str]:
    """What so few images, or so few set aside, mean for the training and the evaluation, in sentences."""
    notes = []
    if num_images < FEW:
        notes.append(
            f"{num_images} images are too few to learn from: the generator will repeat them. Add images, some "
            "hundreds if you can, or begin with a run on many similar ones (--from RUN)."
        )
    wanted = number(num_images, share)
    if num_held < wanted:
        notes.append(
            f"{num_held:,} of {wanted:,} images were set aside: the others are nearly the same as ones that are "
            "trained on, and near duplicates stay together."
        )
    if num_held < TO_TELL_COPIES and share != 0:
        notes.append(
            f"With {num_held or 'no'} images set aside, copies cannot be told from likeness: {TO_TELL_COPIES} are "
            "needed (more images, or a larger --holdout)."
        )
    return notes


def quotas(counts: np.ndarray, wanted: int) -> np.ndarray:
    """How many of each class are set aside, by largest remainder; never more than half of a class."""
    exact = counts * wanted / counts.sum()
    taken = exact.astype(np.int64)
    rest = np.argsort(taken - exact, kind="stable")[: wanted - taken.sum()]
    taken[rest] += 1
    return np.minimum(taken, counts // 2)
