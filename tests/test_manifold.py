"""evaluation/manifold.py: by hand, against direct formulas, and what the four shares are for."""

from __future__ import annotations

import numpy as np
import pytest

from ganvas.evaluation.manifold import manifold, precision_recall, resemblance


def gaussian(num: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (num, width))


def slow_shares(real: np.ndarray, fake: np.ndarray, k: int, k_density: int) -> tuple[float, float, float, float]:
    """Picture by image."""

    def reach(features: np.ndarray, k: int) -> list[float]:
        return [sorted(np.linalg.norm(features - own, axis=1))[k] for own in features]

    def held(points: np.ndarray, centres: np.ndarray, reaches: list[float]) -> np.ndarray:
        return np.array([[np.linalg.norm(p - c) <= r for c, r in zip(centres, reaches, strict=True)] for p in points])

    dense = held(fake, real, reach(real, k_density))
    return (
        float(held(fake, real, reach(real, k)).any(axis=1).mean()),
        float(held(real, fake, reach(fake, k)).any(axis=1).mean()),
        float(dense.sum() / (k_density * len(fake))),
        float(dense.any(axis=0).mean()),
    )


def slow_integrals(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """Alpha-precision and beta-recall by their definition, with 2,000 values of alpha and beta."""
    levels = (np.arange(2000) + 0.5) / 2000

    def reaches(features: np.ndarray) -> np.ndarray:
        """Smallest radius of a ball around the mean that contains each share of the images."""
        distances = np.sort(np.linalg.norm(features - features.mean(axis=0), axis=1))
        return np.array(
            [distances[int(level * len(distances)) - 1] if level * len(distances) >= 1 else -1 for level in levels]
        )

    centred = np.linalg.norm(fake - real.mean(axis=0), axis=1)
    precise = np.array([(centred <= reach).mean() for reach in reaches(real)])
    recalled = np.zeros(len(levels))
    typical = np.linalg.norm(fake - fake.mean(axis=0), axis=1)
    for own in real:
        others = np.sort(np.linalg.norm(real - own, axis=1))[1]
        distances = np.linalg.norm(fake - own, axis=1)
        if distances.min() <= others:
            recalled += typical[distances.argmin()] <= reaches(fake) + 1e-9
    alpha, beta = (1 - 2 * np.abs(curve - levels).mean() for curve in (precise, recalled / len(real)))
    return float(alpha), float(beta)


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


# ---- all four ----


@pytest.mark.parametrize(("k", "k_density"), [(3, 5), (4, 2)])
def test_the_measures_are_the_slow_formula(k: int, k_density: int) -> None:
    real, fake = gaussian(60, 5, 0), 0.8 * gaussian(47, 5, 1, 0.3)
    measured = manifold(real, fake, k, k_density)
    assert [interval.value for interval in measured[:4]] == pytest.approx(slow_shares(real, fake, k, k_density))
    assert [interval.value for interval in measured[4:]] == pytest.approx(slow_integrals(real, fake), abs=1e-3)
    assert all(interval.low <= interval.value <= interval.high for interval in measured)
    again = manifold(real.astype(np.float32) + 1000, fake.astype(np.float32) + 1000, k, k_density)
    assert [interval.value for interval in again] == pytest.approx([interval.value for interval in measured])


def test_alpha_precision_and_beta_recall_by_hand() -> None:
    """Distances of real images from their mean 0: 1, 1, 2, 2, ...; generated images all at a distance of 1, or far."""
    real = np.concatenate([np.arange(1.0, 13), -np.arange(1.0, 13)])[:, None]
    near, far = np.full((24, 1), 1.0), np.full((24, 1), 99.0)
    # All generated images are in every ball that is not empty: P(alpha) = 1 from alpha = 1/24.
    first = 1 / 24
    expected = 1 - (first**2 + (1 - first) ** 2)
    assert manifold(real, near).alpha_precision.value == pytest.approx(expected)
    assert manifold(real, far).alpha_precision.value == 0 == manifold(real, far).beta_recall.value
    for share in manifold(real, real)[4:]:  # steps of 1/12 across the diagonal: 1/48 off on average
        assert share.value == pytest.approx(1 - 2 / 48)


def test_alpha_precision_and_beta_recall_separate_quality_from_diversity() -> None:
    real = gaussian(300, 4, 0)
    same, narrow, wild = (manifold(real, scale * gaussian(300, 4, 1)) for scale in (1, 0.3, 4))
    copies = manifold(real, real[np.random.default_rng(0).permutation(300)])
    assert same.alpha_precision.value > 0.9 and 0.45 < same.beta_recall.value < 0.8
    assert max(narrow.alpha_precision.value, wild.alpha_precision.value) < 0.5
    assert max(narrow.beta_recall.value, wild.beta_recall.value) < 0.35
    assert copies.beta_recall.low > same.beta_recall.high and copies.beta_recall.value > 0.99


def test_blocks_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = gaussian(61, 4, 0), gaussian(53, 4, 1, 0.2)
    whole = manifold(real, fake)
    rng = np.random.default_rng(0)
    moved = manifold(real[rng.permutation(61)], fake[rng.permutation(53)])
    assert [interval.value for interval in moved] == [interval.value for interval in whole]
    for block in (1, 2, 7, 60):
        monkeypatch.setattr("ganvas.evaluation.manifold.DISTANCE_BLOCK", block)
        assert manifold(real, fake) == whole


def test_of_one_distribution_all_are_high_and_density_is_about_one() -> None:
    measured = manifold(gaussian(400, 6, 0), gaussian(400, 6, 1))
    assert min(measured.precision.value, measured.recall.value, measured.coverage.value) > 0.85
    assert measured.density.low < 1 < measured.density.high
    same = gaussian(100, 6, 2)
    assert manifold(same, same).coverage.value == 1


def test_one_outlier_among_the_real_ones_lifts_precision_but_not_density() -> None:
    """Naeem et al. 2020, section 3.1: a ball about an outlier holds whatever is generated there."""
    rng = np.random.default_rng(0)
    real = np.vstack([rng.normal(size=(200, 8)), np.full((1, 8), 12.0)])
    fake = rng.normal(6, 1.5, size=(200, 8))
    measured = manifold(real, fake)
    assert measured.precision.value > 0.9
    assert measured.density.value < 0.3
    assert measured.coverage.value < 0.1


def test_a_collapsed_generator_has_precision_without_recall_or_coverage() -> None:
    real = gaussian(300, 6, 0)
    measured = manifold(real, 0.01 * gaussian(300, 6, 1))
    assert measured.precision.value == 1
    assert measured.recall.value < 0.05
    assert measured.coverage.value < 0.5
    assert measured.precision.low < 1  # 300 of 300 do not prove that all are


def test_the_interval_shrinks_with_the_number_of_pictures() -> None:
    few, many = (manifold(gaussian(num, 6, 0), gaussian(num, 6, 1, 0.4)) for num in (100, 1600))
    for before, after in zip(few, many, strict=True):
        assert 1.5 < (before.high - before.low) / (after.high - after.low) < 9


@pytest.mark.parametrize("width", [0.05, 0.3, 0.6])
def test_the_intervals_of_a_collapsed_generator_hold_the_average(width: float) -> None:
    rng = np.random.default_rng(0)
    sizes = np.arange(1, 17) ** -0.5
    centre = rng.normal(size=16) * sizes
    found = np.empty((60, 6, 3))  # value, low, high
    for i in range(len(found)):
        real = rng.normal(size=(100, 16)) * sizes
        every = manifold(real, centre + width * sizes * rng.normal(size=(100, 16)))
        found[i] = [(one.value, one.low, one.high) for one in every]
    average = found[:, :, 0].mean(axis=0)
    assert (found[:, :, 2] - found[:, :, 0]).max() < 3  # wide, but they say something
    assert (((found[:, :, 1] <= average) & (average <= found[:, :, 2])).mean(axis=0) >= 0.85).all()


def test_the_large_balls_of_rare_classes_are_no_resemblance() -> None:
    """Two images of a class of their own have their third neighbour in another class, and much lies between."""
    real = gaussian(40, 16, 0)
    real[:2, 0] += 30
    fake, unseen = gaussian(50, 16, 1), gaussian(50, 16, 2)
    fake[:, :2] += [15, 12]
    assert precision_recall(real, fake)[0] > 0.9 and resemblance(real, fake) == 0
    assert resemblance(real, unseen) == resemblance(real, unseen, block=7) > 0.5
