"""Precision and recall, density and coverage, alpha-precision and beta-recall: balls in feature space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from ganvas.evaluation.intervals import CONFIDENCE, Interval, check_features, share, slices

DISTANCE_BLOCK = 2048  # rows and columns of distances at a time: 16 MB in float32
_PARTS, _ROUNDS = 4, 4  # random splits into parts, and number of splits, for the intervals
_TINY = 1e-12
_WIDEST = 3.5  # most that the intervals of a collapsed generator are widened


class Manifold(NamedTuple):
    """Six measures; higher is better. In 0..1, except for density, which can exceed 1. See `manifold`."""

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval
    alpha_precision: Interval
    beta_recall: Interval


def manifold(real: np.ndarray, fake: np.ndarray, k: int = 3, k_density: int = 5, seed: int = 0) -> Manifold:
    """The measures of `Manifold` for features (N, D) and (M, D), from one pass over all pairs.

    Precision and recall: Kynkaanniemi et al. 2019, "Improved precision and recall", with balls to the k-th neighbour.
    Density and coverage: Naeem et al. 2020, "Reliable fidelity and diversity metrics", with k_density: number of real
    balls that contain a generated image, divided by k_density; share of real balls that contain a generated image.
    Alpha-precision and beta-recall: Alaa et al. 2022, "How faithful is your synthetic data?", integrated over alpha and
    beta, see `_integrated`. P(alpha): share of generated images in the smallest ball around the mean of the real images
    that contains a share alpha of these. R(beta): share of real images whose nearest generated image is at most as
    far as their nearest other real one and lies in the smallest ball around the mean of the generated images that
    contains a share beta of these; so beta-recall is 0.5 to 0.7 for as many other real images, and 1 for copies. The
    nearest of all generated images decides, as in the authors' program, not the nearest in that ball, as in the paper.
    The program takes the shares beta of these nearest images instead of all generated ones. The paper trains an
    embedding of the features for each data set; here they are used as they are. All measures depend on the numbers of
    images; the interval is of their average at these numbers.

    Intervals by subsampling (Politis & Romano 1994), because the radii vary too, and duplicates in a bootstrap would be
    neighbours of each other. Both sets are split into 4 parts (with `seed`), and the variance over the parts is divided
    by 4; Student's t with 12 degrees of freedom from 4 splits. The variances of density and coverage, which depend on
    the size of the parts, are rescaled: density as its square, coverage as p (1 - p). All intervals are at least as
    wide as those of a plain share. The images of a collapsed generator lie inside or outside the real balls together,
    which the parts do not show: the intervals of precision, density and alpha-precision are widened by the ratio of the
    deviations of real and generated features, at most 3.5 times. In simulations (16 and 128 features of decreasing
    size, 48 to 300 images; equal, shifted and collapsed sets) the intervals contained the average in at least 85% of
    cases, and in 89% to 99% for equal sets. A binomial interval, which ignores the variation of the balls, has a tenth
    to three quarters of the variance.

    Distances are computed in the type of the features, centred, in blocks. Raises `DataError` for fewer than 4 parts of
    max(k, k_density) + 1 images.
    """
    most = max(k, k_density)
    check_features(real, fake, _PARTS * (most + 1))
    real, fake = _centred(real, fake)
    values = _measured(real, fake, k, k_density, DISTANCE_BLOCK)
    rng = np.random.default_rng(seed)
    deals = []
    for _ in range(_ROUNDS):
        hands = (np.array_split(rng.permutation(len(features)), _PARTS) for features in (real, fake))
        deals.append([_measured(real[i], fake[j], k, k_density, DISTANCE_BLOCK) for i, j in zip(*hands, strict=True)])
    variances = np.var(deals, axis=1, ddof=1).mean(axis=0) / _PARTS
    means = np.mean(deals, axis=(0, 1))
    variances[2] *= (values[2] / max(means[2], _TINY)) ** 2
    variances[3] *= values[3] * (1 - values[3]) / max(means[3] * (1 - means[3]), _TINY)
    half = student.ppf((1 + CONFIDENCE) / 2, _ROUNDS * (_PARTS - 1)) * np.sqrt(variances)
    deviations = (np.sqrt(features.var(axis=0, dtype=np.float64).sum()) for features in (real, fake))
    narrow = next(deviations) / max(next(deviations), _TINY)
    wider = float(np.clip(narrow, 1, _WIDEST))
    half[[0, 2, 4]] *= wider, min(wider**1.5, _WIDEST), wider
    if narrow >= _WIDEST:  # nearly a single image: its number of real balls is one draw (Poisson)
        half[2] = max(half[2], (2 + 2 * np.sqrt(k_density * values[2] + 1)) / k_density)
    low, high = np.maximum(values - half, 0), values + half
    intervals = [Interval(*map(float, row)) for row in zip(values, low, high, strict=True)]
    different = max(1, round(len(fake) / wider**2))
    for i, num in enumerate((different, len(real)) * 3):
        value, most = intervals[i].value, 1.0 if i != 2 else np.inf  # density can exceed 1
        plain = share(min(value, 1.0), num)
        intervals[i] = Interval(value, min(plain.low, float(low[i])), min(most, max(plain.high, float(high[i]))))
    return Manifold(*intervals)


def precision_recall(
    real: np.ndarray, fake: np.ndarray, k: int = 3, block: int = DISTANCE_BLOCK
) -> tuple[float, float]:
    """Share of generated images in the manifold of real images (precision), and vice versa (recall).

    Kynkaanniemi et al. 2019, "Improved precision and recall": the manifold is the union of balls around each image, up
    to its k-th nearest neighbour in the same set. Both in 0..1, higher is better. Raises `DataError` for at most k
    images in a set.
    """
    check_features(real, fake, k + 1)
    real, fake = _centred(real, fake)
    precision, recall, *_ = _measured(real, fake, k, k, block)
    return float(precision), float(recall)


def resemblance(real: np.ndarray, fake: np.ndarray, k: int = 3, block: int = DISTANCE_BLOCK) -> float:
    """Precision with balls of at most the median size: a share of generated images, 0 to 1.

    Among few images of several classes, some have their k-th neighbour in another class, and their large balls contain
    images that resemble neither. Kynkaanniemi et al. 2019, section 5, omit the larger half of the balls for that.
    Raises `DataError` for at most k images in a set.
    """
    check_features(real, fake, k + 1)
    real, fake = _centred(real, fake)
    reach = _reach(real, k, block)[:, -1]
    reach = np.minimum(reach, np.median(reach))[:, None]
    similar = np.zeros(len(fake), bool)
    squares_real, squares_fake = _squares(real), _squares(fake)
    for i in slices(len(real), block):
        for j in slices(len(fake), block):
            distance = _distances(real[i], fake[j], squares_real[i], squares_fake[j])
            similar[j] |= (distance <= reach[i]).any(axis=0)
    return float(similar.mean())


def _centred(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mean of the real features, which improves the numerical precision of distances."""
    mean = real.mean(axis=0, dtype=np.float64)
    return real - mean.astype(real.dtype), fake - mean.astype(fake.dtype)


def _measured(real: np.ndarray, fake: np.ndarray, k: int, k_density: int, block: int) -> np.ndarray:
    """(6,): the values of `Manifold`."""
    reach = _reach(real, max(k, k_density), block)
    reach_real, reach_density = reach[:, k - 1, None], reach[:, k_density - 1, None]
    reach_fake = _reach(fake, k, block)[:, k - 1]
    precise, recalled, covered, held = np.zeros(len(fake), bool), *np.zeros((2, len(real)), bool), 0
    squares_real, squares_fake = _squares(real), _squares(fake)
    typical = _share_nearer(fake, fake)
    closest, level = np.full((2, len(real)), np.inf)  # of each real image: nearest generated one, and its beta
    for i in slices(len(real), block):
        for j in slices(len(fake), block):
            distance = _distances(real[i], fake[j], squares_real[i], squares_fake[j])
            precise[j] |= (distance <= reach_real[i]).any(axis=0)
            recalled[i] |= (distance <= reach_fake[j]).any(axis=1)
            counts = np.count_nonzero(distance <= reach_density[i], axis=1)
            covered[i] |= counts > 0
            held += int(counts.sum())
            nearest = distance.argmin(axis=1)
            least = distance[np.arange(len(nearest)), nearest]
            level[i] = np.where(least < closest[i], typical[j][nearest], level[i])
            closest[i] = np.minimum(closest[i], least)
    shares = [precise.mean(), recalled.mean(), held / (k_density * len(fake)), covered.mean()]
    level[closest > reach[:, 0]] = np.inf
    return np.array([*shares, _integrated(_share_nearer(real, fake)), _integrated(level)])


def _share_nearer(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(M,): share of `features` (N, D) in the smallest ball around their mean that contains each of `others` (M, D).

    The balls end at one of the features; infinite outside the largest one.
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    reaches = np.sort(_squares(features - mean))
    place = 1 + np.searchsorted(reaches, _squares(others - mean), side="left")
    return np.where(place <= len(reaches), place / len(reaches), np.inf)


def _integrated(levels: np.ndarray) -> float:
    """1 - 2 times the integral of |P(t) - t| for t from 0 to 1, P(t) the share of levels (N,) up to t.

    1 if the levels are uniform, 0 if all are 0 or all are infinite.
    """
    edges = np.concatenate([[0.0], np.sort(levels).clip(0, 1), [1.0]])
    steps = np.arange(len(edges) - 1) / len(levels)
    left, right = edges[:-1] - steps, edges[1:] - steps
    return 1 - float((right * np.abs(right) - left * np.abs(left)).sum())


def _reach(features: np.ndarray, k: int, block: int) -> np.ndarray:
    """(N, k): sorted squared distances of each image to its k nearest neighbours in its own set.

    Only blocks on and above the diagonal are computed, because the matrix is symmetric.
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
