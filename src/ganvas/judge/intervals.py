"""The type of a measured value with its confidence interval, and what all measures of two sets share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ganvas.errors import DataError

LEVEL = 0.95


class Interval(NamedTuple):
    """A measured value and the confidence interval of what it estimates."""

    value: float
    low: float
    high: float


def normal(
    value: float, variance: float, level: float = LEVEL, within: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """The interval of an estimate that is normal with this variance, cut off at what the measure can be."""
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(variance, 0.0))
    return Interval(float(value), max(float(value) - half, within[0]), min(float(value) + half, within[1]))


def share(value: float, num: int) -> Interval:
    """The interval of a share of `num` independent draws (Wilson 1927): of use at shares of 0 and 1 too."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (value + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(value * (1 - value) / num + z**2 / (4 * num**2))
    return Interval(float(value), max(0.0, middle - half), min(1.0, middle + half))


def check(real: np.ndarray, fake: np.ndarray, least: int) -> None:
    """Raises `DataError` unless both are (at least `least`, D) finite numbers of one width."""
    check_shapes(real.shape, fake.shape, least)
    check_finite(real, "real")
    check_finite(fake, "generated")


def check_shapes(real: tuple[int, ...], fake: tuple[int, ...], least: int) -> None:
    if min(real[0], fake[0]) < least:
        raise DataError(
            f"{real[0]} real and {fake[0]} generated images were given and this measure needs at least {least} "
            "of each: ask for more samples or take more pictures"
        )
    if real[1] != fake[1]:
        raise DataError(
            f"the features of real images have {real[1]} numbers and those of generated ones {fake[1]}, "
            "which cannot be compared: take both from one network"
        )


def check_finite(features: np.ndarray, kind: str) -> None:
    bad = len(features) - sum(int(np.isfinite(features[part]).all(axis=1).sum()) for part in slices(len(features)))
    if bad:
        raise DataError(
            f"the features of {bad} of {len(features)} {kind} images are not finite numbers: "
            "look for NaN in the images or in the network's weights"
        )


def slices(num: int, block: int = 4096) -> Iterator[slice]:
    for start in range(0, num, block):
        yield slice(start, min(start + block, num))
