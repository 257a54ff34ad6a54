"""evaluation/frechet.py: against closed forms, the slow square root of a matrix and simulation."""

from __future__ import annotations

import warnings
from dataclasses import astuple

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from ganvas.errors import DataError
from ganvas.evaluation.frechet import MINIMUM_FOR_FID, Statistics, check_fid, fid_infinity, frechet, frechet_interval


def gaussian(num: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (num, width))


def slow_frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """Through scipy's square root of the product of the covariances."""
    first, second = np.cov(real.T), np.cov(fake.T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the product is singular
        root = scipy.linalg.sqrtm(first @ second)
    difference = real.mean(0) - fake.mean(0)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


# ---- Frechet distance ----


def test_frechet_of_equal_and_shifted_sets() -> None:
    real = gaussian(200, 16, 0)
    assert frechet(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet(real, real + 0.5) == pytest.approx(16 * 0.25)
    assert frechet(real, real[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet(real, 3 * real) == pytest.approx(np.square(2 * real.mean(0)).sum() + 4 * real.var(0, ddof=1).sum())


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 12), (9, 150, 12), (150, 9, 12), (8, 6, 30)])
def test_frechet_is_the_slow_formula(n: int, m: int, width: int) -> None:
    """Through the eigenvalues of the product of the covariances, with more and with fewer images than features."""
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


@pytest.mark.parametrize(("strength", "num"), [(3.0, 300), (12.0, 300), (0.0, 41), (3.0, 45)])
def test_frechet_of_nearly_singular_covariances(strength: float, num: int) -> None:
    """Eigenvalues that fall by up to ten orders of magnitude, or hardly more images than the 40 features."""
    scale = np.exp(-strength * np.linspace(0, 2, 40))
    turn = np.linalg.qr(gaussian(40, 40, 7))[0]
    real, fake = gaussian(num, 40, 0) * scale @ turn, (1.2 * gaussian(num, 40, 1) + 0.1) * scale @ turn
    expected = slow_frechet(real, fake)
    assert frechet(real, fake) == pytest.approx(expected, rel=1e-5)
    assert frechet(Statistics.of(real), Statistics.of(fake)) == pytest.approx(expected, rel=1e-5)
    assert frechet_interval(real, fake).value == pytest.approx(expected, rel=1e-5)


def test_frechet_of_features_that_are_always_zero() -> None:
    """As of a dead unit: the covariance has no Cholesky factor without pivots."""
    real, fake = gaussian(100, 12, 0), gaussian(90, 12, 1, 0.2)
    dead = [np.insert(features, [0, 5, 12], 0.0, axis=1) for features in (real, fake)]
    assert frechet(*dead) == pytest.approx(frechet(real, fake))
    assert astuple(frechet_interval(*dead)) == pytest.approx(astuple(frechet_interval(real, fake)))
    constant = np.ones((30, 4))
    assert frechet(constant, constant + 1) == pytest.approx(4)
    assert astuple(frechet_interval(constant, constant + 1)) == pytest.approx((4, 4, 4))


# ---- statistics ----


def test_statistics_are_mean_and_covariance() -> None:
    features = gaussian(70, 5, 0, 3.0).astype(np.float32)
    statistics = Statistics.of(features)
    assert statistics.num == 70
    np.testing.assert_allclose(statistics.mean, features.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features.astype(float).T), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(statistics.factor.T @ statistics.factor, statistics.covariance, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    ranks=st.integers(1, 3),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_statistics_in_any_batches_over_any_ranks_are_those_of_all(
    sizes: list[int], ranks: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(offset, 1, (size, 4)) for size in sizes]
    shares = [Statistics(4) for _ in range(ranks)]
    for i, batch in enumerate(batches):
        shares[i % ranks].update(batch)
    merged = Statistics(4)
    for rank in rng.permutation(ranks):
        merged.merge(shares[rank])
    everything = np.concatenate(batches)
    assert merged.num == len(everything)
    if len(everything) > 1:
        np.testing.assert_allclose(merged.mean, everything.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(merged.covariance, np.cov(everything.T), rtol=1e-8, atol=1e-8)


def test_frechet_takes_statistics_and_forgets_no_update() -> None:
    real, fake = gaussian(90, 6, 0), gaussian(80, 6, 1, 0.4)
    reference, statistics = Statistics.of(real), Statistics.of(fake[:50])
    assert frechet(reference, statistics) == pytest.approx(frechet(real, fake[:50]))
    statistics.update(fake[50:])
    assert frechet(reference, statistics) == pytest.approx(frechet(real, fake))
    assert frechet(reference, fake) == pytest.approx(frechet(real, fake))


def test_statistics_of_other_features_are_refused() -> None:
    statistics = Statistics.of(gaussian(30, 5, 0))
    for other in (Statistics.of(gaussian(30, 4, 0)), Statistics(6)):
        with pytest.raises(DataError, match="cannot be merged with those of 5"):
            statistics.merge(other)
    with pytest.raises(DataError, match="cannot be merged"):
        statistics.update(gaussian(3, 4, 0))
    with pytest.raises(DataError, match="features of 1 of 2 given images are not finite"):
        statistics.update(np.array([[0, 0, 0, 0, 0], [0, np.nan, 0, 0, 0]]))
    with pytest.raises(DataError, match="cannot be compared"):
        frechet(statistics, Statistics.of(gaussian(30, 4, 0)))
    with pytest.raises(DataError, match="1 real and 30 generated"):
        frechet(Statistics.of(gaussian(1, 5, 0)), statistics)


# ---- infinitely many ----


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.2, 0.1), (0.7, 0.3)])
def test_the_distance_of_infinitely_many_is_the_truth(scale: float, shift: float) -> None:
    """Gaussians: |shift|^2 + the sum of (s - t)^2. The interval holds it as often as it says."""
    rng = np.random.default_rng(0)
    strength = np.exp(-np.arange(24) / 6)
    truth = np.square(strength).sum() * ((scale - 1) ** 2 + shift**2)
    intervals, plain = [], []
    for _ in range(300):
        real = rng.normal(size=(120, 24)) * strength
        fake = (rng.normal(size=(100, 24)) * scale + shift) * strength
        intervals.append(fid_infinity(real, fake))
        plain.append(frechet(real, fake))
    values, low, high = np.array([astuple(one) for one in intervals]).T
    assert 0.90 <= ((low <= truth) & (truth <= high)).mean() <= 0.98
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(300)
    assert np.mean(plain) - truth > 10 * abs(values.mean() - truth)


def test_infinitely_many_needs_as_many_as_features() -> None:
    with pytest.raises(DataError, match=r"19 real and 30 generated.*at least 20"):
        fid_infinity(gaussian(19, 20, 0), gaussian(30, 20, 1))


# ---- few images ----


def test_an_fid_of_few_pictures_is_refused_unless_forced() -> None:
    assert not check_fid(MINIMUM_FOR_FID, MINIMUM_FOR_FID)
    assert not check_fid(50_000, 10_000, force=True)
    for real, fake in ((MINIMUM_FOR_FID - 1, 50_000), (50_000, 100)):
        with pytest.raises(DataError, match=f"FID of {real} real and {fake} generated.*2048 of each.*KID"):
            check_fid(real, fake)
        assert check_fid(real, fake, force=True)
