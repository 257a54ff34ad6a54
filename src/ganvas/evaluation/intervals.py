"""Confidence intervals, and checks that all measures of two sets share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from ganvas.errors import DataError
from ganvas.results import Interval

CONFIDENCE = 0.95


def normal(
    value: float, variance: float, level: float = CONFIDENCE, within: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Normal interval of an estimate with this variance, limited to the range `within`."""
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(variance, 0.0))
    return Interval(float(value), max(float(value) - half, within[0]), min(float(value) + half, within[1]))


def share(value: float, num: int) -> Interval:
    """Interval of a share of `num` independent samples (Wilson 1927); also valid for shares of 0 and 1."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (value + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(value * (1 - value) / num + z**2 / (4 * num**2))
    return Interval(float(value), max(0.0, middle - half), min(1.0, middle + half))


def check_features(real: np.ndarray, fake: np.ndarray, least: int) -> None:
    """Raise `DataError` unless both are finite (at least `least`, D) with the same D."""
    check_shapes(real.shape, fake.shape, least)
    check_finite(real, "real")
    check_finite(fake, "generated")


def check_shapes(real: tuple[int, ...], fake: tuple[int, ...], least: int) -> None:
    if min(real[0], fake[0]) < least:
        raise DataError(
            f"{real[0]} real and {fake[0]} generated images are too few for this measure, which needs at least {least} "
            "of each: use more samples or more images"
        )
    if real[1] != fake[1]:
        raise DataError(
            f"the features of real images have {real[1]} numbers and those of generated images {fake[1]}, "
            "which cannot be compared: use one network for both"
        )


def check_finite(features: np.ndarray, kind: str) -> None:
    bad = len(features) - sum(int(np.isfinite(features[part]).all(axis=1).sum()) for part in slices(len(features)))
    if bad:
        raise DataError(
            f"the features of {bad} of {len(features)} {kind} images are not finite numbers: "
            "check the images and the weights of the network for NaN"
        )


def slices(num: int, block: int = 4096) -> Iterator[slice]:
    for start in range(0, num, block):
        yield slice(start, min(start + block, num))
