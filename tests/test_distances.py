"""evaluation/distances.py: against closed forms, slow direct formulas, torch-fidelity and simulation."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import astuple
from types import ModuleType

import numpy as np
import pytest
import torch

from ganvas.errors import DataError
from ganvas.evaluation.distances import (
    Interval,
    Manifold,
    frechet,
    frechet_interval,
    inception_score,
    kid,
    kid_interval,
    manifold,
    mind,
    precision_recall,
    split_scores,
    vendi,
)


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
        assert astuple(kid_interval(real, fake, block=block)) == pytest.approx(
            astuple(kid_interval(real, fake)), rel=1e-10
        )
    assert kid(fake, real) == pytest.approx(expected, rel=1e-10)
    order = np.random.default_rng(0).permutation(23)
    assert kid(real[order], fake) == pytest.approx(expected, rel=1e-10)
    assert astuple(kid_interval(real[order], fake)) == pytest.approx(astuple(kid_interval(real, fake)), rel=1e-10)


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
    half = {
        level: (interval.high - interval.low) / 2
        for level in (0.5, 0.95, 0.99)
        for interval in [kid_interval(real, fake, level)]
    }
    assert half[0.95] / half[0.5] == pytest.approx(1.95996 / 0.67449, rel=1e-4)
    assert half[0.99] > half[0.95]


# ---- sliced Wasserstein distance ----


def test_mind_by_hand() -> None:
    """One feature, whose only directions are 1 and -1: three times the squared distance of sorted numbers."""
    assert mind(np.array([[0.0], [3]]), np.array([[4.0], [0]])).value == pytest.approx(3 * (0 + 1) / 2)
    # Two images against three: a third of them goes 0 -> 0, a sixth 0 -> 1, a sixth 2 -> 1, a third 2 -> 5.
    assert mind(np.array([[2.0], [0]]), np.array([[0.0], [5], [1]])).value == pytest.approx(3 * (1 / 6 + 1 / 6 + 9 / 3))


def test_mind_of_equal_shifted_and_permuted_sets() -> None:
    real, fake = gaussian(200, 16, 0), gaussian(150, 16, 1, 0.3)
    assert mind(real, real).value == pytest.approx(0, abs=1e-12)
    # Along a unit vector u a shift by s moves every image by u . s, and the mean of (u . s)^2 is |s|^2 / D.
    assert mind(real, real + 0.5, projections=4000).value == pytest.approx(3 * 16 * 0.25, rel=0.05)
    order = np.random.default_rng(2).permutation(200)
    assert astuple(mind(real[order], fake)) == pytest.approx(astuple(mind(real, fake)), rel=1e-9)
    assert astuple(mind(fake, real)) == pytest.approx(astuple(mind(real, fake)), rel=1e-9)
    twice = mind(real.repeat(3, axis=0), fake.repeat(2, axis=0)).value
    assert twice == pytest.approx(mind(real, fake).value)  # the same distributions in other numbers


def test_mind_sees_what_a_frechet_distance_cannot() -> None:
    """The same mean and covariance, two peaks instead of one."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(4000, 2))
    two = np.sign(rng.normal(size=(4000, 2))) * 0.95 + rng.normal(size=(4000, 2)) * np.sqrt(1 - 0.95**2)
    other = rng.normal(size=(4000, 2))
    assert frechet(one, two) < 0.01
    assert mind(one, two).value > 10 * mind(one, other).value


# ---- Inception score ----


def test_inception_score_by_hand() -> None:
    sure = np.log(np.maximum(np.eye(4).repeat(5, axis=0), 1e-300))
    assert split_scores(sure, 1) == pytest.approx([4])  # sure of each image, all classes alike
    assert split_scores(np.zeros((20, 4)), 2) == pytest.approx([1, 1])  # sure of nothing
    assert split_scores(sure, 4) == pytest.approx([1] * 4)  # in order: one class a split
    assert split_scores(sure, 4, shuffle_seed=0).min() > 2
    interval = inception_score(sure, 2)
    assert interval.value == pytest.approx(2) and interval.low >= 1 and interval.high <= 4


def test_inception_score_of_probabilities_that_underflow() -> None:
    logits = np.array([[0, 2000.0, -2000], [0, -2000, 2000], [2000, 0, 1], [1500, 0, 0]])
    assert split_scores(logits, 1)[0] == pytest.approx(np.exp(0.5 * np.log(2) + 2 * 0.25 * np.log(4)))
    assert np.isfinite(astuple(inception_score(logits, 2))).all()


# ---- Vendi score ----


@pytest.mark.parametrize("width", [10, 60])  # fewer and more features than images
def test_vendi_by_hand(width: int) -> None:
    kinds = np.eye(width)[np.arange(40) % 5]
    assert vendi(kinds).value == pytest.approx(5)  # five kinds, eight of each
    assert vendi(np.tile(kinds[:1], (40, 1)) * np.arange(1, 41)[:, None]).value == pytest.approx(
        1
    )  # only lengths differ
    uneven = np.eye(width)[np.repeat([0, 1], [10, 30])]
    assert vendi(uneven).value == pytest.approx(np.exp(0.25 * np.log(4) + 0.75 * np.log(4 / 3)))


def test_vendi_is_the_slow_formula() -> None:
    features = gaussian(50, 12, 0, 0.5)
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    values = np.linalg.eigvalsh(unit @ unit.T / 50)[-12:]
    assert vendi(features).value == pytest.approx(np.exp(-values @ np.log(values)))
    wide = gaussian(50, 80, 1)
    unit = wide / np.linalg.norm(wide, axis=1)[:, None]
    values = np.linalg.eigvalsh(unit @ unit.T / 50)
    assert vendi(wide).value == pytest.approx(np.exp(-values @ np.log(values)))
    assert vendi(np.pad(features, ((0, 0), (0, 60)))).value == pytest.approx(vendi(features).value)


# ---- intervals ----


def features_of(rng: np.random.Generator, num: int, width: int, scale: float, shift: float) -> np.ndarray:
    """Like a network's: few strong directions, many weak ones."""
    strength = np.exp(-np.arange(width) / (width / 4))
    return (rng.normal(size=(num, width)) * scale + shift) * strength


Simulated = Callable[[np.ndarray, np.ndarray], Interval]


def covered(
    measure: Simulated, repetitions: int, num: tuple[int, int], width: int, scale: float, shift: float
) -> float:
    """How often the interval holds the measure's average."""
    rng = np.random.default_rng(3)
    draws = (
        (features_of(rng, num[0], width, 1, 0), features_of(rng, num[1], width, scale, shift)) for _ in range(5000)
    )
    return share_that_holds([measure(*next(draws)) for _ in range(repetitions)])


def share_that_holds(intervals: list[Interval]) -> float:
    """Share of the intervals that hold the average of all values."""
    values, low, high = np.array([astuple(one) for one in intervals]).T
    return float(((low <= values.mean()) & (values.mean() <= high)).mean())


SIMULATED: dict[str, Simulated] = {
    "frechet": frechet_interval,
    "mind": lambda real, fake: mind(real, fake, projections=40),
    "inception score": lambda real, fake: inception_score(4 * fake, splits=3),
    "vendi": lambda real, fake: vendi(fake),
}


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize(("scale", "shift", "num", "width"), [(0.7, 0.3, (120, 100), 24), (1.5, 0.4, (60, 70), 80)])
def test_intervals_hold_the_average_as_often_as_they_say(
    name: str, scale: float, shift: float, num: tuple[int, int], width: int
) -> None:
    """With more and with fewer images than features. The average's own chance is 2% at 250 repetitions."""
    assert 0.90 <= covered(SIMULATED[name], 250, num, width, scale, shift) <= 0.98


def test_intervals_of_the_manifold_hold_the_average() -> None:
    rng = np.random.default_rng(3)
    found = [manifold(features_of(rng, 160, 16, 1, 0), features_of(rng, 140, 16, 1.1, 0.2)) for _ in range(250)]
    for field in ("precision", "recall", "density", "coverage"):
        assert 0.90 <= share_that_holds([getattr(one, field) for one in found]) <= 0.98, field


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SIMULATED, *Manifold._fields])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.1, 0.2), (0.7, 0.3)])
def test_intervals_hold_the_average_at_many_pictures(name: str, scale: float, shift: float) -> None:
    """At equal distributions some are careful."""
    measure = SIMULATED.get(name) or (lambda real, fake: getattr(manifold(real, fake), name))
    rate = covered(measure, 1000, (500, 400), 48, scale, shift)
    assert 0.90 <= rate <= (0.98 if scale != 1 else 1)


# ---- against torch-fidelity ----


LIBRARIES: list[torch.library.Library] = []


@pytest.fixture(scope="module")
def peer() -> Callable[[str], ModuleType]:
    """torch-fidelity's modules; torchvision's two operators are declared for a CPU PyTorch without them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not hasattr(torch.ops.torchvision, "nms"):
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            LIBRARIES.append(library)  # which would take its operators along when it goes
        pytest.importorskip("torch_fidelity")
    return lambda name: importlib.import_module(f"torch_fidelity.metric_{name}")


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return np.maximum(features_of(np.random.default_rng(0), 300, 64, 1, 0) + 0.1, 0)


@pytest.fixture(scope="module")
def fake() -> np.ndarray:
    return np.maximum(features_of(np.random.default_rng(1), 260, 64, 1.1, 0.2) + 0.1, 0)


@pytest.mark.parametrize("num", [300, 40])
def test_frechet_is_torch_fidelitys(peer: Callable, real: np.ndarray, fake: np.ndarray, num: int) -> None:
    fid = peer("fid")
    statistics = [fid.fid_features_to_statistics(torch.from_numpy(features[:num])) for features in (fake, real)]
    expected = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet(real[:num], fake[:num]) == pytest.approx(expected, rel=1e-6)


def test_kid_is_torch_fidelitys(peer: Callable, real: np.ndarray, fake: np.ndarray) -> None:
    """One subset of all."""
    found = peer("kid").kid_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real[:260]), kid_subsets=1, kid_subset_size=260, verbose=False
    )
    assert kid(real[:260], fake) == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-6)


@pytest.mark.parametrize("seed", [None, 2020])
def test_inception_score_is_torch_fidelitys(peer: Callable, fake: np.ndarray, seed: int | None) -> None:
    found = peer("isc").isc_features_to_metric(
        torch.from_numpy(5 * fake), splits=10, shuffle=seed is not None, rng_seed=seed
    )
    scores = split_scores(5 * fake, 10, seed)
    assert scores.mean() == pytest.approx(found["inception_score_mean"], rel=1e-6)
    assert scores.std() == pytest.approx(found["inception_score_std"], rel=1e-6)
    assert inception_score(5 * fake, 10, seed).value == pytest.approx(scores.mean(), rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_torch_fidelitys(peer: Callable, real: np.ndarray, fake: np.ndarray, k: int) -> None:
    found = peer("prc").prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=k, verbose=False
    )
    expected = pytest.approx((found["precision"], found["recall"]), abs=1e-6)
    assert precision_recall(real, fake, k) == expected
    measured = manifold(real, fake, k)
    assert (measured.precision.value, measured.recall.value) == expected


# ---- errors ----


@pytest.mark.parametrize(
    ("measure", "least"),
    [
        (kid, 2),
        (kid_interval, 4),
        (frechet, 2),
        (frechet_interval, 2),
        (precision_recall, 4),
        (manifold, 24),
        (mind, 2),
    ],
)
def test_too_few_pictures_are_refused(measure: Callable, least: int) -> None:
    enough, few = gaussian(30, 3, 0), gaussian(least - 1, 3, 1)
    with pytest.raises(DataError, match=f"30 real and {least - 1} generated images.*at least {least}"):
        measure(enough, few)
    with pytest.raises(DataError, match=f"{least - 1} real and 30 generated"):
        measure(few, enough)
    measure(enough, gaussian(least, 3, 1))


@pytest.mark.parametrize("measure", [kid, kid_interval, frechet, frechet_interval, precision_recall, manifold, mind])
def test_features_that_do_not_fit_are_refused(measure: Callable) -> None:
    good, bad = gaussian(30, 3, 0), gaussian(30, 3, 1)
    with pytest.raises(DataError, match=r"3 numbers and those of generated images 4.*one network"):
        measure(good, gaussian(30, 4, 0))
    bad[[4, 7], 1] = np.nan, np.inf
    with pytest.raises(DataError, match="features of 2 of 30 generated images are not finite"):
        measure(good, bad)
    with pytest.raises(DataError, match="features of 2 of 30 real images are not finite"):
        measure(bad, good)


def test_one_set_that_cannot_be_judged_is_refused() -> None:
    with pytest.raises(DataError, match="19 images are too few for a Vendi score, which needs 20"):
        vendi(gaussian(19, 3, 0))
    with pytest.raises(DataError, match="19 images are too few for an Inception score of 10 splits"):
        inception_score(gaussian(19, 3, 0))
    with pytest.raises(DataError, match="features of 1 of 20 given images"):
        vendi(np.vstack([gaussian(19, 3, 0), np.full((1, 3), np.nan)]))


def test_kid_of_a_set_and_itself_has_no_exception() -> None:
    features = np.random.default_rng(0).normal(size=(30, 4))
    assert kid(features, features) == kid(features, features.copy()) < 0
    assert kid_interval(features, features) == kid_interval(features, features.copy())
