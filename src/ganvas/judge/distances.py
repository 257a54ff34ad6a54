"""Distances between two sets of features, real (N, D) and generated (M, D): pure arithmetic on NumPy arrays.

None of them depends on the order of the pictures. All are 0 (or as near as chance puts them) for two draws of one
distribution; lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ganvas.errors import DataError

BLOCK = 1024  # rows and columns of the kernel matrix that are held at a time: 8 MB in float64


class Interval(NamedTuple):
    """A measured value and the confidence interval of what it estimates."""

    value: float
    low: float
    high: float


# ---- kernel distance ----


def kid(real: np.ndarray, fake: np.ndarray, block: int = BLOCK) -> float:
    """Kernel distance: the unbiased estimate of MMD^2 with the kernel (x . y / D + 1)^3, over all pairs of pictures.

    Binkowski et al. 2018, "Demystifying MMD GANs", section 4, over everything at once instead of 100 subsets: the
    same expectation, less noise. Unbiased: around 0, so also below 0, for equal distributions, at any number of
    pictures. Products in the type of the features, sums in float64. Raises `DataError` below 2 pictures in a set.
    """
    _check(real, fake, 2)
    return _mmd(_sums(real, real, block), _sums(fake, fake, block), _sums(real, fake, block))


def kid_interval(real: np.ndarray, fake: np.ndarray, level: float = 0.95, block: int = BLOCK) -> Interval:
    """`kid` with its confidence interval for other pictures of both kinds, from the same single pass over the pairs.

    Normal interval with the variance of the two-sample U-statistic to both orders (Hoeffding 1948; Sutherland & Deka
    2019, "Unbiased estimators for the variance of MMD estimators"): the first order rules where the distributions
    differ, the second alone is left where they are equal. A bootstrap would need hundreds of passes, and is about
    three times too wide in variance at equal distributions, where the statistic is degenerate. On draws of 50 and 200
    from real features (CIFAR-10, MedNIST) the 95% interval held the truth in 89% to 100%, at least 93% in 14 of 16
    settings: careful at equal distributions, and where it misses it mostly lies too low.
    Raises `DataError` below 4 pictures in a set.
    """
    _check(real, fake, 4)
    rr, ff, rf = _sums(real, real, block), _sums(fake, fake, block), _sums(real, fake, block)
    n, m = len(real), len(fake)
    value = _mmd(rr, ff, rf)
    spread_rr, spread_ff = _spread_within(rr), _spread_within(ff)
    spread_rf = _spread_between(rf)
    # What each picture contributes: its mean kernel with its own set less that with the other. The other pictures'
    # chance is in it too, and is taken off.
    first_real = np.var(rr.rows / (n - 1) - rf.rows / m, ddof=1) - spread_rr / (n - 1) - spread_rf / m
    first_fake = np.var(ff.rows / (m - 1) - rf.columns / n, ddof=1) - spread_ff / (m - 1) - spread_rf / n
    variance = 4 * max(first_real, 0.0) / n + 4 * max(first_fake, 0.0) / m
    variance += 2 * spread_rr / (n * (n - 1)) + 2 * spread_ff / (m * (m - 1)) + 4 * spread_rf / (n * m)
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(variance, 0.0))
    return Interval(value, value - half, value + half)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of a kernel matrix, without its diagonal where both sides are the same set."""

    rows: np.ndarray
    columns: np.ndarray
    squares: float


def _sums(first: np.ndarray, second: np.ndarray, block: int) -> _Sums:
    """One pass over all pairs in square blocks; only the upper half where both are the same array."""
    within = first is second
    rows, columns, squares = np.zeros(len(first)), np.zeros(len(second)), 0.0
    for i in _slices(len(first), block):
        for j in _slices(len(second), block):
            if within and j.start < i.start:
                continue
            base = (first[i] @ second[j].T).astype(np.float64)
            base /= first.shape[1]
            base += 1
            kernel = base * base * base  # not ** 3, which is a call of pow for each
            if within and i == j:
                np.fill_diagonal(kernel, 0)
            rows[i] += kernel.sum(axis=1)
            columns[j] += kernel.sum(axis=0)
            squares += np.vdot(kernel, kernel)
            if within and i != j:
                rows[j] += kernel.sum(axis=0)
                columns[i] += kernel.sum(axis=1)
                squares += np.vdot(kernel, kernel)
    return _Sums(rows, columns, float(squares))


def _mmd(rr: _Sums, ff: _Sums, rf: _Sums) -> float:
    n, m = len(rf.rows), len(rf.columns)
    return float(rr.rows.sum() / (n * (n - 1)) + ff.rows.sum() / (m * (m - 1)) - 2 * rf.rows.sum() / (n * m))


def _spread_within(sums: _Sums) -> float:
    """Variance of the kernel of two pictures of one set beyond what each has by itself, unbiased.

    The squares of the U-centred matrix, Szekely & Rizzo 2014, "Partial distance correlation", section 2.
    """
    n, total = len(sums.rows), sums.rows.sum()
    centred = sums.squares - 2 / (n - 2) * np.square(sums.rows).sum() + total**2 / ((n - 1) * (n - 2))
    return float(centred / (n * (n - 3)))


def _spread_between(sums: _Sums) -> float:
    """The same for one picture of each set: the squares of the matrix centred along both sides."""
    n, m = len(sums.rows), len(sums.columns)
    total = sums.rows.sum()
    centred = sums.squares - np.square(sums.rows).sum() / m - np.square(sums.columns).sum() / n + total**2 / (n * m)
    return float(centred / ((n - 1) * (m - 1)))


# ---- Frechet distance ----


def frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """|mean difference|^2 + tr(S + T - 2 (S T)^(1/2)) of the two sets' means and covariances S, T, in float64.

    Heusel et al. 2017, equation 6; it is an FID only in the features of the 2015 Inception network. Biased upwards
    where pictures are few. With factors S = A^T A and T = B^T B, tr (S T)^(1/2) is the sum of the singular values of
    A B^T: no square root of a matrix, and the factors are the centred features themselves where there are fewer
    pictures than features. Raises `DataError` below 2 pictures in a set.
    """
    _check(real, fake, 2)
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    factors = [_factor(features) for features in (real, fake)]
    traces = sum(np.square(factor).sum() for factor in factors)
    root = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    return float(np.square(real.mean(axis=0) - fake.mean(axis=0)).sum() + traces - 2 * root)


def _factor(features: np.ndarray) -> np.ndarray:
    """A of at most as many rows as features, A^T A being the covariance."""
    num, width = features.shape
    centred = (features - features.mean(axis=0)) / math.sqrt(num - 1)
    return centred if num <= width else np.asarray(np.linalg.qr(centred, mode="r"))


# ---- precision and recall ----


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3, block: int = BLOCK) -> tuple[float, float]:
    """Share of generated pictures within the real ones' manifold, and of real ones within the generated ones'.

    Kynkaanniemi et al. 2019, "Improved precision and recall": a manifold is the balls about each of its pictures that
    just reach its k-th nearest neighbour in the same set. Both in 0..1, higher is better. Raises `DataError` at k
    pictures or fewer in a set.
    """
    _check(real, fake, k + 1)
    reach_real, reach_fake = _reach(real, k, block), _reach(fake, k, block)
    precise, recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for i in _slices(len(real), block):
        for j in _slices(len(fake), block):
            distance = _squared_distances(real[i], fake[j])
            precise[j] |= (distance <= reach_real[i, None]).any(axis=0)
            recalled[i] |= (distance <= reach_fake[None, j]).any(axis=1)
    return float(precise.mean()), float(recalled.mean())


def _reach(features: np.ndarray, k: int, block: int) -> np.ndarray:
    """Squared distance of each picture to its k-th nearest neighbour in its own set."""
    reach = np.empty(len(features))
    for i in _slices(len(features), block):
        nearest = np.full((i.stop - i.start, k), np.inf)
        for j in _slices(len(features), block):
            distance = _squared_distances(features[i], features[j])
            if i == j:
                np.fill_diagonal(distance, np.inf)
            nearest = np.partition(np.concatenate([nearest, distance], axis=1), k - 1, axis=1)[:, :k]
        reach[i] = nearest[:, k - 1]
    return reach


def _squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first.astype(np.float64), second.astype(np.float64)
    product = first @ second.T
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)
    return np.maximum(squares - 2 * product, 0)


# ---- shared ----


def _slices(num: int, block: int) -> Iterator[slice]:
    for start in range(0, num, block):
        yield slice(start, min(start + block, num))


def _check(real: np.ndarray, fake: np.ndarray, least: int) -> None:
    if min(len(real), len(fake)) < least:
        raise DataError(
            f"{len(real)} real and {len(fake)} generated pictures were given and this measure needs at least {least} "
            "of each: ask for more samples or take more pictures"
        )
