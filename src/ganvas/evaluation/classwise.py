"""Measures for labelled data: class shares, class accuracy, KID by class, mode coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from ganvas.errors import DataError
from ganvas.evaluation.distances import kid_interval
from ganvas.evaluation.intervals import Interval, normal, share

LEAST_FOR_KID = 4


@dataclass(frozen=True)
class ClassRow:
    """Results of one class; None for values that need missing images."""

    name: str
    real: float
    """Share of the class in the data, 0..1."""
    fake: Interval
    """Share of generated images that are classified as this class."""
    agreement: Interval | None
    """Share of the images requested of this class that are classified as this class."""
    taken_for: str | None
    """The most frequent wrong class."""
    kid: Interval | None


@dataclass(frozen=True)
class ClassTable:
    """Results of all classes."""

    rows: tuple[ClassRow, ...]
    distance: Interval
    """Total variation distance between the class shares of generated images and of the data, 0..1, lower is better."""
    chance: float
    """Mean of that distance at this number of images if the true shares were equal."""
    agreement: Interval | None
    """Class accuracy over all images; None if no class was requested."""
    worst: str | None
    """The class with the lowest accuracy."""
    confusion: np.ndarray | None
    """(K, K) counts by requested class (rows) and predicted class (columns); None if no class was requested."""


def class_table(
    names: Sequence[str],
    real: np.ndarray,
    found: np.ndarray,
    asked: np.ndarray | None = None,
    real_features: np.ndarray | None = None,
    fake_features: np.ndarray | None = None,
) -> ClassTable:
    """Compare labels of real images (N,) with predicted labels of generated images (M,), 0 to K - 1.

    asked: (M,) labels that were requested. real_features, fake_features: (N, D) and (M, D), for the KID of each class
    (by requested label, otherwise by predicted label). The classifier must not have been used in training. Its own
    errors affect all results: pass held-out images with `asked` = true labels to measure them. Intervals: Wilson for
    shares; normal for the total variation distance, of its average at this number of images.
    Raises `DataError` for labels out of range or no images.
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
    # Each image contributes half the sign of the difference of its class.
    signs = np.sign(difference) / 2
    variance = np.var(signs[found]) / len(found) + np.var(signs[real]) / len(real)
    joint = (shares * len(real) + fakes * len(found)) / (len(real) + len(found))
    spread = np.sqrt(joint * (1 - joint) * (1 / len(real) + 1 / len(found)))
    return normal(distance, float(variance), within=(0, 1)), float(spread.sum() / math.sqrt(2 * math.pi))


class Modes(NamedTuple):
    """`covered` of `of` modes have a generated image; `divergence`: KL(generated || data) of the shares."""

    covered: Interval
    of: int
    divergence: Interval


def mode_coverage(found: np.ndarray, shares: np.ndarray) -> Modes:
    """Modes covered and Kullback-Leibler divergence, as for the 1,000 modes of StackedMNIST.

    Metz et al. 2017, "Unrolled generative adversarial networks", section 3.3.1; Lin et al. 2018, "PacGAN".
    found: (M,) predicted mode of each generated image, 0 to K - 1. shares: (K,) of the data. Divergence is
    KL(generated || data) in nats, lower is better. Both depend on the number of images; the intervals (normal, by
    jackknife) are of the averages at this number. Raises `DataError` for a mode that the data does not have.
    """
    num = len(found)
    _check_labels(found, len(shares), "generated")
    counts = np.bincount(found, minlength=len(shares))
    if not shares[counts > 0].all():
        raise DataError("a generated image has a mode that the data lacks: compute the shares over the same modes")
    single = np.count_nonzero(counts == 1)
    fakes = counts / num
    divergence = rel_entr(fakes, shares / shares.sum()).sum()
    surprise = np.log(np.where(counts, fakes, 1) / np.where(counts, shares / shares.sum(), 1))
    return Modes(
        normal(int(np.count_nonzero(counts)), single * (1 - single / num), within=(0, len(shares))),
        len(shares),
        normal(divergence, float(np.var(surprise[found])) / num, within=(0, math.inf)),
    )


def expected_shares(shares: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Shares (K,) that the classifier reports for images with the true `shares` (K,).

    confusion: (K, K) counts by true class (rows) and predicted class, of test images. Classes without test images are
    taken as recognised.
    """
    tested = confusion.sum(axis=1, keepdims=True)
    return shares @ np.where(tested, confusion / np.maximum(tested, 1), np.eye(len(shares)))


def missing(found: np.ndarray, expected: np.ndarray) -> list[int]:
    """Classes whose share of the predicted labels `found` (M,) is certainly below half of the expected share (K,).

    Certainly: the whole interval (Wilson) is below. A class that never appears also counts as found now and then,
    because the classifier errs.
    """
    counts = np.bincount(found, minlength=len(expected))
    return [i for i, count in enumerate(counts) if share(count / len(found), len(found)).high < expected[i] / 2]


def _check_labels(labels: np.ndarray, num: int, kind: str) -> None:
    if not len(labels):
        raise DataError(f"there are no labels of {kind} images: a comparison of classes needs real and generated ones")
    if labels.min() < 0 or labels.max() >= num:
        raise DataError(
            f"the labels of {kind} images range from {labels.min()} to {labels.max()}, but there are {num} classes: "
            f"use 0 to {num - 1}"
        )
