"""judge/distances.py: against closed forms, slow direct formulas and simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ganvas.errors import DataError
from ganvas.judge.distances import Interval, frechet, kid, kid_interval, precision_recall


def gaussian(num: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (num, width))


def slow_kid(real: np.ndarray, fake: np.ndarray) -> float:
    """Pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    within = [
        np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])
        for rows in (real, fake)
    ]
    return within[0] + within[1] - 2 * np.mean([kernel(x, y) for x in real for y in fake])


# ---- kernel distance ----


def test_kid_by_hand() -> None:
    """One feature: kernels (xy + 1)^3 of real 0, 1 and generated 1, 2."""
    real, fake = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert kid(real, fake) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_kid_is_the_slow_formula_whatever_the_blocks_and_the_order() -> None:
    real, fake = gaussian(23, 6, 0), gaussian(31, 6, 1, 0.4)
    expected = slow_kid(real, fake)
    for block in (1, 5, 23, 24, 1000):
        assert kid(real, fake, block=block) == pytest.approx(expected, rel=1e-10)
        assert kid_interval(real, fake, block=block) == pytest.approx(kid_interval(real, fake), rel=1e-10)
    assert kid(fake, real) == pytest.approx(expected, rel=1e-10)
    order = np.random.default_rng(0).permutation(23)
    assert kid(real[order], fake) == pytest.approx(expected, rel=1e-10)
    assert kid_interval(real[order], fake) == pytest.approx(kid_interval(real, fake), rel=1e-10)


def test_kid_of_float32_features_as_large_as_a_networks() -> None:
    real, fake = np.abs(gaussian(300, 1280, 0)), np.abs(gaussian(300, 1280, 1, 0.05))
    single = kid(real.astype(np.float32), fake.astype(np.float32))
    assert single == pytest.approx(kid(real, fake), rel=1e-3)


def test_kid_is_unbiased_at_few_pictures() -> None:
    values = [kid(gaussian(8, 4, 2 * i), gaussian(12, 4, 2 * i + 1)) for i in range(400)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_kid_grows_with_the_shift() -> None:
    real = gaussian(400, 8, 0)
    values = [kid(real, gaussian(400, 8, 1, shift)) for shift in (0, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    assert abs(values[0]) < 0.05 * values[2]


def test_kid_of_shifted_uniform_features_in_closed_form() -> None:
    """One feature: the kernel's expectation is the sum of C(3, p) E[x^p] E[y^p]."""
    rng = np.random.default_rng(0)
    real, fake = rng.uniform(0, 1, (4000, 1)), rng.uniform(0.25, 1.25, (4000, 1))
    moments = [(1 / (p + 1), (1.25 ** (p + 1) - 0.25 ** (p + 1)) / (p + 1)) for p in (1, 2, 3)]
    exact = sum(times * (x - y) ** 2 for times, (x, y) in zip((3, 3, 1), moments, strict=True))
    interval = kid_interval(real, fake)
    assert interval.value == kid(real, fake)
    assert interval.low < exact < interval.high
    assert interval.high - interval.low < 0.3 * exact


@pytest.mark.parametrize(("mixed", "num"), [(0.0, (60, 60)), (0.0, (200, 40)), (0.2, (100, 140)), (0.7, (80, 80))])
def test_the_interval_covers_the_truth_as_often_as_it_says(mixed: float, num: tuple[int, int]) -> None:
    """Draws from two finite populations, whose distance is known exactly; `mixed` is how far they differ."""
    rng = np.random.default_rng(0)
    first = np.abs(rng.normal(size=(500, 64)) + rng.normal(size=(500, 8)) @ rng.normal(size=(8, 64)) / 4)
    other = np.abs(rng.normal(size=(500, 64)) * 1.1 + rng.normal(size=64) / 2)
    second = np.where(np.arange(500)[:, None] < mixed * 500, other, first)

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x @ y.T / x.shape[1] + 1) ** 3).mean())

    truth = mean_kernel(first, first) + mean_kernel(second, second) - 2 * mean_kernel(first, second)
    intervals = [
        kid_interval(first[rng.integers(0, 500, num[0])], second[rng.integers(0, 500, num[1])]) for _ in range(400)
    ]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.92 < covered < (0.98 if mixed else 1)  # at equal distributions it may be careful
    widths = [interval.high - interval.low for interval in intervals]
    spread = np.std([interval.value for interval in intervals])
    assert 0.9 < np.sqrt(np.mean(np.square(widths))) / (2 * 1.96) / spread < 1.3


def test_a_higher_level_is_wider() -> None:
    real, fake = gaussian(50, 4, 0), gaussian(50, 4, 1, 0.3)
    half = {level: np.diff(kid_interval(real, fake, level)[1:])[0] / 2 for level in (0.5, 0.95, 0.99)}
    assert half[0.95] / half[0.5] == pytest.approx(1.95996 / 0.67449, rel=1e-4)
    assert half[0.99] > half[0.95]


# ---- Frechet distance ----


def test_frechet_of_equal_and_shifted_sets() -> None:
    real = gaussian(200, 16, 0)
    assert frechet(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet(real, real + 0.5) == pytest.approx(16 * 0.25)
    assert frechet(real, real[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet(real, 3 * real) == pytest.approx(np.square(2 * real.mean(0)).sum() + 4 * real.var(0, ddof=1).sum())


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 12), (9, 150, 12), (150, 9, 12), (8, 6, 30)])
def test_frechet_is_the_slow_formula(n: int, m: int, width: int) -> None:
    """Through the eigenvalues of the product of the covariances, with more and with fewer pictures than features."""
    mixing = gaussian(width, width, 5)
    real, fake = gaussian(n, width, 0) @ mixing, gaussian(m, width, 1, 0.2)
    first, second = np.cov(real.T), np.cov(fake.T)
    root = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * root
    assert frechet(real, fake) == pytest.approx(expected, rel=1e-6)
    assert frechet(fake, real) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_independent_features_in_closed_form() -> None:
    """Diagonal covariances made exact: |shift|^2 + the sum of (s - t)^2."""
    orthogonal = np.linalg.qr(gaussian(64, 5, 0) - gaussian(64, 5, 0).mean(0))[0] * np.sqrt(63)
    s, t = np.array([1.0, 2, 3, 4, 0]), np.array([2.0, 2, 1, 0, 0])
    assert frechet(orthogonal * s, orthogonal * t + 2) == pytest.approx(5 * 4 + np.square(s - t).sum())


# ---- precision and recall ----


def test_precision_and_recall_by_hand() -> None:
    """On a line with k = 1: real 0, 1, 10, 11 reach one pixel; generated 0.5, 1.5, 30."""
    real, fake = np.array([[0.0], [1], [10], [11]]), np.array([[0.5], [1.5], [30]])
    precision, recall = precision_recall(real, fake, k=1)
    assert precision == pytest.approx(2 / 3)
    # 0.5 and 1.5 reach 1 and so cover 0 and 1; 30 reaches back over 28.5 and covers 10 and 11.
    assert recall == 1
    assert precision_recall(real[:2], fake[2:].repeat(2, axis=0), k=1) == (0, 0)


def test_precision_and_recall_tell_a_narrow_generator_from_a_wild_one() -> None:
    real = gaussian(300, 4, 0)
    same = precision_recall(real, gaussian(300, 4, 1))
    narrow = precision_recall(real, 0.3 * gaussian(300, 4, 1))
    wild = precision_recall(real, 4 * gaussian(300, 4, 1))
    assert min(same) > 0.7
    assert narrow[0] > 0.95 and narrow[1] < 0.4
    assert wild[0] < 0.4 and wild[1] > 0.9
    for block in (1, 7, 299):
        assert precision_recall(real, gaussian(300, 4, 1)[:20], block=block) == precision_recall(
            real, gaussian(300, 4, 1)[:20]
        )


# ---- errors ----


@pytest.mark.parametrize(("measure", "least"), [(kid, 2), (kid_interval, 4), (frechet, 2), (precision_recall, 4)])
def test_too_few_pictures_are_refused(measure: Callable, least: int) -> None:
    enough, few = gaussian(10, 3, 0), gaussian(least - 1, 3, 1)
    with pytest.raises(DataError, match=f"10 real and {least - 1} generated pictures.*at least {least}"):
        measure(enough, few)
    with pytest.raises(DataError, match=f"{least - 1} real and 10 generated"):
        measure(few, enough)
    result = measure(enough, gaussian(least, 3, 1))
    assert np.isfinite(result.value if isinstance(result, Interval) else result).all()
