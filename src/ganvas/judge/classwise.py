"""Labelled data: shares of the classes, agreement with what was asked for, distances class by class, modes covered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from ganvas.errors import DataError
from ganvas.judge.distances import kid_interval
from ganvas.judge.intervals import Interval, normal, share

LEAST_FOR_KID = 4


@dataclass(frozen=True)
class ClassRow:
    """One class. What needs images that are not there is None."""

    name: str
    real: float
    """Share of the data, 0..1."""
    fake: Interval
    """Share of the generated images that the classifier finds."""
    agreement: Interval | None
    """Share of the images asked for that the classifier finds to be of this class."""
    taken_for: str | None
    """The class that the others are most often taken for."""
    kid: Interval | None


@dataclass(frozen=True)
class ClassTable:
    """All classes, and what is said of them together."""

    rows: tuple[ClassRow, ...]
    distance: Interval
    """Total variation distance of the generated shares from the data's, 0..1, lower is better."""
    chance: float
    """What that distance is on average by the chance of so few images alone, were the shares equal."""
    agreement: Interval | None
    """Over all images asked for; None where no class was asked for."""
    worst: str | None
    """The class with the lowest agreement."""
    confusion: np.ndarray | None
    """Pictures asked for (rows) and found (columns), (K, K); None where no class was asked for."""


def class_table(
    names: Sequence[str],
    real: np.ndarray,
    found: np.ndarray,
    asked: np.ndarray | None = None,
    real_features: np.ndarray | None = None,
    fake_features: np.ndarray | None = None,
) -> ClassTable:
    """Compares real labels (N,) with those that a classifier finds in generated images (M,), 0 up to K - 1.

    `asked` (M,): the labels that the generator was given. With features (N, D) and (M, D) the kernel distance of each
    class to its real images: of those asked for, or else found. The classifier must not have taken part in the
    training, and its own mistakes on real images are in all of this: `asked` = the true labels of held-out images
    shows them. Shares have Wilson's interval; the total variation distance a normal one, of its average at this number
    of images. Raises `DataError` on labels that are not of the classes, or no images.
    """
    num = len(names)
    for labels, kind in ((real, "real"), (found, "generated"), (asked, "asked")):
        if labels is not None:
            _check_labels(labels, num, kind)
    shares = np.bincount(real, minlength=num) / len(real)
    counts = np.bincount(found, minlength=num)
    confusion = None
    if asked is not None:
        confusion = np.bincount(asked * num + found, minlength=num * num).reshape(num, num)
    rows = []
    for i, name in enumerate(names):
        agreement = taken_for = kid = None
        if confusion is not None and confusion[i].sum():
            total = int(confusion[i].sum())
            agreement = share(confusion[i, i] / total, total)
            others = np.where(np.arange(num) == i, 0, confusion[i])
            taken_for = names[int(others.argmax())] if others.any() else None
        if real_features is not None and fake_features is not None:
            first, second = real_features[real == i], fake_features[(found if asked is None else asked) == i]
            if min(len(first), len(second)) >= LEAST_FOR_KID:
                kid = kid_interval(first, second)
        rows.append(
            ClassRow(name, float(shares[i]), share(counts[i] / len(found), len(found)), agreement, taken_for, kid)
        )
    judged = [(row.agreement.value, i) for i, row in enumerate(rows) if row.agreement is not None]
    worst = names[min(judged)[1]] if judged else None
    overall = None if confusion is None else share(np.trace(confusion) / len(found), len(found))
    distance, chance = _total_variation(real, found, shares, counts / len(found))
    return ClassTable(tuple(rows), distance, chance, overall, worst, confusion)


def _total_variation(
    real: np.ndarray, found: np.ndarray, shares: np.ndarray, fakes: np.ndarray
) -> tuple[Interval, float]:
    difference = fakes - shares
    distance = np.abs(difference).sum() / 2
    # An image adds half the sign of its class's difference; nearly equal shares flip their signs, which is less.
    signs = np.sign(difference) / 2
    variance = np.var(signs[found]) / len(found) + np.var(signs[real]) / len(real)
    joint = (shares * len(real) + fakes * len(found)) / (len(real) + len(found))
    spread = np.sqrt(joint * (1 - joint) * (1 / len(real) + 1 / len(found)))
    return normal(distance, float(variance), within=(0, 1)), float(spread.sum() / math.sqrt(2 * math.pi))


class Modes(NamedTuple):
    """`covered` of `of` modes have a generated image; `divergence`: KL of the generated shares from the data's."""

    covered: Interval
    of: int
    divergence: Interval


def mode_coverage(found: np.ndarray, shares: np.ndarray) -> Modes:
    """Modes covered and Kullback-Leibler divergence, as for 1,000 modes of StackedMNIST: Metz et al. 2017, "Unrolled
    generative adversarial networks", section 3.3.1; Lin et al. 2018, "PacGAN".

    `found` (M,): the mode of each generated image, 0 up to K - 1, by a classifier; `shares` (K,): the data's. Both
    depend on the number of images, of whose average the intervals are: normal, by the jackknife that leaves
    every image out once, to which only modes of a single image matter in the first. Divergence in nats, lower is
    better, KL(generated || data). Raises `DataError` on a mode that the data does not have.
    """
    num = len(found)
    _check_labels(found, len(shares), "generated")
    counts = np.bincount(found, minlength=len(shares))
    if not shares[counts > 0].all():
        raise DataError("a generated image is of a mode that the data has none of: count the shares on the same modes")
    single = np.count_nonzero(counts == 1)
    fakes = counts / num
    divergence = rel_entr(fakes, shares / shares.sum()).sum()
    surprise = np.log(np.where(counts, fakes, 1) / np.where(counts, shares / shares.sum(), 1))
    return Modes(
        normal(int(np.count_nonzero(counts)), single * (1 - single / num), within=(0, len(shares))),
        len(shares),
        normal(divergence, float(np.var(surprise[found])) / num, within=(0, math.inf)),
    )


def _check_labels(labels: np.ndarray, num: int, kind: str) -> None:
    if not len(labels):
        raise DataError(f"there are no labels of {kind} images: a comparison of classes needs some of either")
    if labels.min() < 0 or labels.max() >= num:
        raise DataError(
            f"the labels of {kind} images go from {labels.min()} to {labels.max()} and there are {num} classes: "
            f"use 0 to {num - 1}"
        )
