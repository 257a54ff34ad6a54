"""Improved precision and recall, density and coverage: nearest-neighbour balls in feature space, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from ganvas.judge.intervals import LEVEL, Interval, check, share, slices

BLOCK = 2048  # rows and columns of distances at a time: 16 MB in float32
PARTS, ROUNDS = 4, 4  # both sets are dealt into so many parts, so many times, for the intervals
TINY = 1e-12


class Manifold(NamedTuple):
    """Four shares; higher is better in all, and density may exceed 1. See `manifold`."""

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


def manifold(real: np.ndarray, fake: np.ndarray, k: int = 3, k_density: int = 5, seed: int = 0) -> Manifold:
    """Precision, recall, density and coverage of features (N, D) and (M, D), from one pass over all pairs.

    Precision and recall: Kynkaanniemi et al. 2019, "Improved precision and recall", with balls to the k-th neighbour.
    Density and coverage: Naeem et al. 2020, "Reliable fidelity and diversity metrics", k_density: how many real balls
    hold a generated image, over k_density, and the share of real balls that hold one. All four depend on the numbers
    of images; the interval is of their average at these numbers.

    The chance of the balls matters as much as that of the images that fall in them, and a bootstrap's duplicates
    would be each other's neighbours, so: both sets are dealt into 4 parts (with `seed`), the four shares measured on
    each, and their variance divided by 4 (subsampling, Politis & Romano 1994; a share of N images has a variance
    like 1 / N); Student's t of the 4 deals' 12 differences. Density and coverage, which change with the size of the
    parts, bring their variance along: density like its square, coverage like p (1 - p). At shares near 0 and 1 at least
    as wide as a plain share's interval. Held against simulation (8 to 128 features of falling size, 100 to 1,000
    images, Gaussian and heavy tails, equal, moved and collapsed sets): precision, recall and coverage 90% to 100%,
    95% to 96% on average; density 91% on average, and down to 71% for a collapsed generator at 100 images. A
    binomial interval, which takes the balls as given, has a tenth to three quarters of the variance.

    Distances in the type of the features, centred, block by block, whatever N and M.
    Raises `DataError` below 4 parts of max(k, k_density) + 1 images.
    """
    most = max(k, k_density)
    check(real, fake, PARTS * (most + 1))
    real, fake = _centred(real, fake)
    values = _measured(real, fake, k, k_density, BLOCK)
    rng = np.random.default_rng(seed)
    deals = []
    for _ in range(ROUNDS):
        hands = (np.array_split(rng.permutation(len(features)), PARTS) for features in (real, fake))
        deals.append([_measured(real[i], fake[j], k, k_density, BLOCK) for i, j in zip(*hands, strict=True)])
    variances = np.var(deals, axis=1, ddof=1).mean(axis=0) / PARTS
    means = np.mean(deals, axis=(0, 1))
    variances[2] *= (values[2] / max(means[2], TINY)) ** 2
    variances[3] *= values[3] * (1 - values[3]) / max(means[3] * (1 - means[3]), TINY)
    half = student.ppf((1 + LEVEL) / 2, ROUNDS * (PARTS - 1)) * np.sqrt(variances)
    low, high = np.maximum(values - half, 0), values + half
    intervals = [Interval(*map(float, row)) for row in zip(values, low, high, strict=True)]
    for i, num in ((0, len(fake)), (1, len(real)), (3, len(real))):
        plain = share(intervals[i].value, num)
        intervals[i] = Interval(plain.value, min(plain.low, float(low[i])), min(1.0, max(plain.high, float(high[i]))))
    return Manifold(*intervals)


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3, block: int = BLOCK) -> tuple[float, float]:
    """Share of generated images within the real ones' manifold, and of real ones within the generated ones'.

    Kynkaanniemi et al. 2019, "Improved precision and recall": a manifold is the balls about each of its images that
    just reach its k-th nearest neighbour in the same set. Both in 0..1, higher is better. Raises `DataError` at k
    images or fewer in a set.
    """
    check(real, fake, k + 1)
    real, fake = _centred(real, fake)
    precision, recall, _, _ = _measured(real, fake, k, k, block)
    return float(precision), float(recall)


def _centred(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About the real mean, which takes no precision from the distances."""
    mean = real.mean(axis=0, dtype=np.float64)
    return real - mean.astype(real.dtype), fake - mean.astype(fake.dtype)


def _measured(real: np.ndarray, fake: np.ndarray, k: int, k_density: int, block: int) -> np.ndarray:
    """Precision, recall, density, coverage (4,)."""
    reach = _reach(real, max(k, k_density), block)
    reach_real, reach_density = reach[:, k - 1, None], reach[:, k_density - 1, None]
    reach_fake = _reach(fake, k, block)[:, k - 1]
    precise, recalled, covered, held = np.zeros(len(fake), bool), *np.zeros((2, len(real)), bool), 0
    squares_real, squares_fake = _squares(real), _squares(fake)
    for i in slices(len(real), block):
        for j in slices(len(fake), block):
            distance = _distances(real[i], fake[j], squares_real[i], squares_fake[j])
            precise[j] |= (distance <= reach_real[i]).any(axis=0)
            recalled[i] |= (distance <= reach_fake[j]).any(axis=1)
            counts = np.count_nonzero(distance <= reach_density[i], axis=1)
            covered[i] |= counts > 0
            held += int(counts.sum())
    return np.array([precise.mean(), recalled.mean(), held / (k_density * len(fake)), covered.mean()])


def _reach(features: np.ndarray, k: int, block: int) -> np.ndarray:
    """Squared distances of each image to its k nearest neighbours in its own set, in order (N, k).

    Only the blocks on and above the diagonal; one below is the transpose of one above.
    """
    nearest = np.full((len(features), k), np.inf, features.dtype)
    squares = _squares(features)

    def offer(rows: slice, distance: np.ndarray) -> None:
        if distance.shape[1] > k:
            distance = np.partition(distance, k - 1, axis=1)[:, :k]
        both = np.concatenate([nearest[rows], distance], axis=1)
        nearest[rows] = np.partition(both, k - 1, axis=1)[:, :k]

    for i in slices(len(features), block):
        for j in slices(len(features), block):
            if j.start < i.start:
                continue
            distance = _distances(features[i], features[j], squares[i], squares[j])
            if i == j:
                np.fill_diagonal(distance, np.inf)
            else:
                offer(j, np.ascontiguousarray(distance.T))
            offer(i, distance)
    return np.sort(nearest, axis=1)


def _squares(features: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", features, features)


def _distances(first: np.ndarray, second: np.ndarray, squares: np.ndarray, others: np.ndarray) -> np.ndarray:
    distance = first @ second.T
    distance *= -2
    distance += squares[:, None]
    distance += others
    return np.maximum(distance, 0, out=distance)
