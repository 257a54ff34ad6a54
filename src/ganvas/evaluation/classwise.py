"""Measures for labelled data: class shares, class accuracy, KID by class, mode coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import rel_entr

from ganvas.errors import DataError
from ganvas.evaluation.distances import kid_interval
from ganvas.evaluation.intervals import normal, share
from ganvas.results import ClassResult, ClassResults, Modes

_LEAST_FOR_KID = 4


def class_table(
    names: Sequence[str],
    real: np.ndarray,
    predicted: np.ndarray,
    asked: np.ndarray | None = None,
    real_features: np.ndarray | None = None,
    fake_features: np.ndarray | None = None,
) -> ClassResults:
    """Compare labels of real images (N,) with predicted labels of generated images (M,), 0 to K - 1.

    asked: (M,) labels that were requested. real_features, fake_features: (N, D) and (M, D), for the KID of each class
    (by requested label, otherwise by predicted label). The classifier must not have been used in training. Its own
    errors affect all results: pass held-out images with `asked` = true labels to measure them. Intervals: Wilson for
    shares.
    Raises `DataError` for labels out of range or no images.
    """
    num = len(names)
    for labels, kind in ((real, "real"), (predicted, "generated"), (asked, "asked")):
        if labels is not None:
            _check_labels(labels, num, kind)
    shares = np.bincount(real, minlength=num) / len(real)
    counts = np.bincount(predicted, minlength=num)
    confusion = None
    if asked is not None:
        confusion = np.bincount(asked * num + predicted, minlength=num * num).reshape(num, num)
    rows = []
    for i, name in enumerate(names):
        agreement = taken_for = kid = None
        if confusion is not None and confusion[i].sum():
            total = int(confusion[i].sum())
            agreement = float(confusion[i, i] / total)
            others = np.where(np.arange(num) == i, 0, confusion[i])
            taken_for = names[int(others.argmax())] if others.any() else None
        if real_features is not None and fake_features is not None:
            first, second = real_features[real == i], fake_features[(predicted if asked is None else asked) == i]
            if min(len(first), len(second)) >= _LEAST_FOR_KID:
                kid = kid_interval(first, second).value
        part = share(counts[i] / len(predicted), len(predicted))
        num_images = int(counts[i] if confusion is None else confusion[i].sum())
        rows.append(
            ClassResult(
                name, float(shares[i]), part.value, part.low, part.high, kid, agreement, taken_for, num=num_images
            )
        )
    judged = [(row.agreement, i) for i, row in enumerate(rows) if row.agreement is not None]
    worst = names[min(judged)[1]] if judged else None
    overall = None if confusion is None else share(np.trace(confusion) / len(predicted), len(predicted))
    distance = float(np.abs(counts / len(predicted) - shares).sum()) / 2
    chance = _chance(shares, counts / len(predicted), len(real), len(predicted))
    return ClassResults(rows, distance, chance, overall, worst)


def _chance(shares: np.ndarray, fakes: np.ndarray, num_real: int, num_fake: int) -> float:
    """See `ClassResults.chance`."""
    joint = (shares * num_real + fakes * num_fake) / (num_real + num_fake)
    spread = np.sqrt(joint * (1 - joint) * (1 / num_real + 1 / num_fake))
    return float(spread.sum() / math.sqrt(2 * math.pi))


def mode_coverage(predicted: np.ndarray, shares: np.ndarray) -> Modes:
    """Modes covered and Kullback-Leibler divergence, as for the 1,000 modes of StackedMNIST.

    Metz et al. 2017, "Unrolled generative adversarial networks", section 3.3.1; Lin et al. 2018, "PacGAN".
    found: (M,) predicted mode of each generated image, 0 to K - 1. shares: (K,) of the data. Divergence is
    KL(generated || data) in nats, lower is better. Both depend on the number of images; the intervals (normal, by
    jackknife) are of the averages at this number. Raises `DataError` for a mode that the data does not have.
    """
    num = len(predicted)
    _check_labels(predicted, len(shares), "generated")
    counts = np.bincount(predicted, minlength=len(shares))
    if not shares[counts > 0].all():
        raise DataError("a generated image has a mode that the data lacks: compute the shares over the same modes")
    single = np.count_nonzero(counts == 1)
    fakes = counts / num
    divergence = rel_entr(fakes, shares / shares.sum()).sum()
    surprise = np.log(np.where(counts, fakes, 1) / np.where(counts, shares / shares.sum(), 1))
    return Modes(
        normal(int(np.count_nonzero(counts)), single * (1 - single / num), within=(0, len(shares))),
        len(shares),
        normal(divergence, float(np.var(surprise[predicted])) / num, within=(0, math.inf)),
    )


def expected_shares(shares: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Shares (K,) that the classifier reports for images with the true `shares` (K,).

    confusion: (K, K) counts by true class (rows) and predicted class, of test images. Classes without test images are
    taken as recognised.
    """
    tested = confusion.sum(axis=1, keepdims=True)
    return shares @ np.where(tested, confusion / np.maximum(tested, 1), np.eye(len(shares)))


def missing(predicted: np.ndarray, expected: np.ndarray) -> list[int]:
    """Classes whose share of the predicted labels `predicted` (M,) is certainly below half of the expected share (K,).

    Certainly: the whole interval (Wilson) is below. A class that never appears also counts as found now and then,
    because the classifier errs.
    """
    counts = np.bincount(predicted, minlength=len(expected))
    return [i for i, count in enumerate(counts) if share(count / len(predicted), len(predicted)).high < expected[i] / 2]


def _check_labels(labels: np.ndarray, num: int, kind: str) -> None:
    if not len(labels):
        raise DataError(f"there are no labels of {kind} images: a comparison of classes needs real and generated ones")
    if labels.min() < 0 or labels.max() >= num:
        raise DataError(
            f"the labels of {kind} images range from {labels.min()} to {labels.max()}, but there are {num} classes: "
            f"use 0 to {num - 1}"
        )
