"""Measure visible artefacts of generated images relative to real images.

`examine` compares a set of generated images with a set of real images, in one pass over each. Images are float arrays
or tensors (N, H, W) or (N, C, H, W) in [-1, 1], or (N, H, W, C) uint8 or uint16 as in a pack. Structure is measured on
the mean of the colours; opacity is used only in the histogram.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor

from ganvas.data.inspection.near_duplicates import nearest_neighbours
from ganvas.errors import DataError
from ganvas.evaluation import appearance, findings
from ganvas.evaluation.appearance import BINS, GRAY_LEVEL, Looks, Pictures
from ganvas.evaluation.intervals import normal, share
from ganvas.results import Artefacts, Compared, Correlation, Interval, Largest, Period, Power, Spectrum, Tones

_PERIODS = (2, 4, 8)
"""Periods in pixels of checkerboard artefacts after upsampling by 2 once, twice or three times."""
_REACH = 8  # bins of the spectrum on each side that a peak is compared with
_BANDS = {"coarse": (0.0, 1 / 8), "middle": (1 / 8, 1 / 4), "fine": (1 / 4, 1.0)}
"""Cycles per pixel."""
_DRAWN = 9  # images per sample for the mean correlation, as in the chest X-ray project
_DRAWS, _RESAMPLED = 200, 500  # samples of nine real images; bootstrap samples of each set
_BLANK, _SATURATED = 0.02, 0.1  # standard deviation relative to the range; excess share of pure black or white pixels
_NEAR, _VERY_NEAR, _REPEATED = (
    0.3,
    0.05,
    4000,
)  # fractions of the usual distance to the next image; most images compared

# Measures of one set.


def checkerboard(images: Tensor | np.ndarray) -> dict[int, float]:
    """Strength of checkerboard artefacts for each period in pixels; compare with real images (about 1.0).

    Mean power spectrum of all rows, and of all columns, at the frequency 1 / period, divided by the median of its
    neighbours (8 bins on each side without the nearest one; fewer for sides below 128 pixels); the larger of the two.
    A checkerboard pattern shows in both. Spectra of lines are used because a point of the two-dimensional spectrum
    would detect patterns a thousand times below the resolution of 8 bits. Patterns that are not sines have overtones,
    so period 4 can also show at 2. Period 2 is the end of the spectrum, with neighbours on one side only; it is below 1
    in smooth real images.

    Sides are cropped to multiples of 8. A period that does not fit three times into a side is left out. Raises
    `DataError` for images with a side below 8 pixels.
    """
    spectra = [_mean(images, functools.partial(appearance.fine_lines, axis=axis)) for axis in (1, 2)]
    ratios = {}
    for period in _PERIODS:
        peaks = [float(_peak(power, period)) for power in spectra if _fits(period, power)]
        if peaks:
            ratios[period] = max(peaks)
    return ratios


def sharpness(images: Tensor | np.ndarray) -> float:
    """Variance of the Laplacian (sum of the four neighbours minus four times the pixel), mean over the images.

    Compare with real images: lower is blurred, higher is noisy.
    """
    return float(_mean(images, appearance.laplacian))


def _mean(images: Tensor | np.ndarray, measure: Callable[[Tensor], Tensor]) -> np.ndarray:
    return np.concatenate([measure(appearance.gray(batch)).numpy() for batch in appearance.batches(images)]).mean(
        axis=0
    )


def _fits(period: int, power: np.ndarray) -> bool:
    return 2 * (power.shape[-1] - 1) >= 3 * period


def _peak(power: np.ndarray, period: int) -> np.ndarray:
    """Power (..., F) at 1 / period divided by its neighbourhood (median of logarithms, because spectra are steep)."""
    num = power.shape[-1]
    side = 2 * (num - 1)
    centre = side // period
    reach = max(2, min(_REACH, side // 16))
    around = [i for i in range(centre - reach, centre + reach + 1) if abs(i - centre) > 1 and 0 < i < num]
    power = power.astype(np.float64) + np.finfo(np.float64).tiny  # for blank images
    return power[..., centre] / np.exp(np.median(np.log(power[..., around]), axis=-1))


# Diversity.


class _Range(NamedTuple):
    """A measure over many samples of real images."""

    mean: float
    low: float
    high: float


def pairwise_correlation(images: Tensor | np.ndarray, size: int = 128, quarter: bool = False) -> float:
    """Mean Pearson correlation of the pixels over all pairs of images; higher than real indicates mode collapse.

    Images are first reduced by area averaging to at most `size` pixels per side. quarter: use only the upper left
    quarter, to detect content repeated at one place. Raises `DataError` for a single image.
    """
    return _mean_of_pairs(_unit_rows(images, size, quarter))


def correlation_range(
    real: Tensor | np.ndarray, num: int = 9, draws: int = 200, seed: int = 0, size: int = 128, quarter: bool = False
) -> _Range:
    """`pairwise_correlation` of `num` real images: mean, minimum and maximum over random samples.

    Raises `DataError` for fewer than `num` real images.
    """
    if len(real) < num:
        raise DataError(f"{len(real)} real images are too few to draw samples of {num}: use more images, or draw fewer")
    return _range(_unit_rows(real, size, quarter), num, draws, seed)


def _range(rows: np.ndarray, num: int, draws: int, seed: int) -> _Range:
    rng = np.random.default_rng(seed)
    values = [_mean_of_pairs(rows[rng.permutation(len(rows))[:num]]) for _ in range(draws)]
    return _Range(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def _unit_rows(images: Tensor | np.ndarray, size: int, quarter: bool) -> np.ndarray:
    if len(images) < 2:
        raise DataError(f"a correlation of pairs needs at least 2 images, got {len(images)}: use more images")
    return np.concatenate(
        [appearance.standardised(appearance.gray(batch), size, quarter).numpy() for batch in appearance.batches(images)]
    )


def _mean_of_pairs(rows: np.ndarray) -> float:
    """Mean product of two different unit rows, from the square of their sum."""
    num = len(rows)
    return float((np.square(rows.sum(axis=0, dtype=np.float64)).sum() - num) / (num * (num - 1)))


# Generated against real.


def examine(real: Pictures, fake: Pictures, seed: int = 0) -> Artefacts:
    """Compare generated images with real images of the same shape.

    Intervals by bootstrap, for the correlation by its variance. Memory: about 50 kB per image in addition to the
    images. Raises `DataError` for different shapes, and the errors of `appearance.look`.
    """
    sets = [appearance.looks_of(real, "real"), appearance.looks_of(fake, "generated")]
    if sets[0].shape != sets[1].shape:
        shapes = ["x".join(map(str, (*one.shape[1:], one.shape[0]))) for one in sets]
        raise DataError(f"the real images are {shapes[0]} and the generated ones {shapes[1]}: both must be the same")
    again = _Resampling(*sets, seed)
    rows = _checkerboard_rows(*sets, again)
    spectrum, power = _spectra(*sets, again)
    sharp = _sharpness_row(*sets, again)
    noise = _excess(*sets, again, "grain")
    alternating = _excess(*sets, again, "alternating")
    blocks = _blocks_row(*sets, again)
    empty = sets[1]["empty"].mean() - sets[0]["empty"].mean()
    compressed = again.within(empty, again.fake @ sets[1]["empty"] - again.real @ sets[0]["empty"])
    in_blocks = findings.of_blocks(blocks, compressed)
    blocky = in_blocks.severity != "ok"
    tones = _tones(*sets, again)
    alike = _alike(sets[0]["whole"], sets[1]["whole"], seed)
    quarter = _alike(sets[0]["quarter"], sets[1]["quarter"], seed)
    blank = _shares(*(one["contrast"] < 2 * _BLANK for one in sets))
    saturated = _shares(*_saturated(*sets))
    duplicates = _shares(*_repeated(*sets))
    sentences = [
        findings.of_checkerboard(rows, alternating),
        in_blocks,
        findings.of_power(power),
        findings.of_sharpness(sharp, noise, blocky, alternating),
        findings.of_noise(noise, blocky, alternating),
        findings.of_tones(tones),
        findings.of_variety(alike, quarter, duplicates),
        findings.of_shares("blank", "are blank", blank, *findings.BLANKS),
        findings.of_shares("saturated", "are black or white in large parts", saturated, *findings.SHARES),
    ]
    return Artefacts(
        findings=sentences,
        checkerboard=rows,
        spectrum=spectrum,
        power=power,
        sharpness=sharp,
        alternating=alternating,
        blocks=blocks,
        compressed=compressed,
        noise=noise,
        tones=tones,
        correlation=alike,
        quarter=quarter,
        blank=blank,
        saturated=saturated,
        duplicates=duplicates,
    )


class _Resampling:
    """Bootstrap of both sets: means of per-image values over samples with replacement.

    Identical images are drawn together: they are no independent evidence (cluster bootstrap; Davison & Hinkley 1997,
    "Bootstrap methods and their application", section 3.8).
    """

    def __init__(self, real: Looks, fake: Looks, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def drawn(looks: Looks, num: int | None = None) -> np.ndarray:
            which = np.unique(looks["thumbnail"], axis=0, return_inverse=True)[1].ravel()
            different = int(which.max()) + 1
            times = rng.multinomial(num or different, np.full(different, 1 / different), _RESAMPLED)[:, which]
            return (times / times.sum(axis=1, keepdims=True)).astype(np.float32)

        self.real, self.fake, self.other = drawn(real), drawn(fake), drawn(real, len(fake))
        """(R, N) weights of the images; `other`: samples of real images with the number of generated images."""

    @staticmethod
    def within(value: float, values: np.ndarray) -> Interval:
        """Interval that contains the middle 95% of the values."""
        low, high = np.quantile(values, (0.025, 0.975))
        return Interval(float(value), float(low), float(high))


def _checkerboard_rows(real: Looks, fake: Looks, again: _Resampling) -> list[Period]:
    rows = []
    for period in _PERIODS:
        directions = {}
        for direction in ("horizontal", "vertical"):
            first, second = real[direction], fake[direction]
            if _fits(period, first):
                peaks = [float(_peak(lines.mean(axis=0), period)) for lines in (first, second)]
                drawn = _peak(again.fake @ second, period) / _peak(again.real @ first, period)
                ratio = again.within(peaks[1] / peaks[0], drawn)
                directions[direction] = Compared(**vars(ratio), real=peaks[0], generated=peaks[1])
        if directions:
            rows.append(Period(period, **directions))
    return rows


def _sharpness_row(real: Looks, fake: Looks, again: _Resampling) -> Compared:
    least = 1e-9  # for blank images
    means = [float(one["laplacian"].mean()) for one in (real, fake)]
    drawn = (again.fake @ fake["laplacian"] + least) / (again.real @ real["laplacian"] + least)
    ratio = again.within((means[1] + least) / (means[0] + least), drawn)
    return Compared(**vars(ratio), real=means[0], generated=means[1])


def _blocks_row(real: Looks, fake: Looks, again: _Resampling) -> Interval:
    """Of the direction with the smaller ratio, because a single edge at such a border is no block."""

    def ratio(borders: np.ndarray) -> np.ndarray:
        return (borders[..., ::2] + GRAY_LEVEL) / (borders[..., 1::2] + GRAY_LEVEL)

    values = ratio(fake["steps"].mean(axis=0)) / ratio(real["steps"].mean(axis=0))
    least = int(values.argmin())
    drawn = ratio(again.fake @ fake["steps"]) / ratio(again.real @ real["steps"])
    return again.within(values[least], drawn[:, least])


def _excess(real: Looks, fake: Looks, again: _Resampling, name: str) -> Interval:
    """Deviation beyond that of real images, from a statistic that is a variance, as a fraction of the range.

    Variances add up, so it is the root of their difference; half of it, as values are from -1 to 1.
    """
    drawn = again.fake @ fake[name] - again.real @ real[name]
    variance = again.within(fake[name].mean() - real[name].mean(), drawn)
    return Interval(*(float(np.sqrt(max(value, 0.0))) / 2 for value in vars(variance).values()))


def _spectra(real: Looks, fake: Looks, again: _Resampling) -> tuple[Spectrum, Power]:
    frequency = appearance.frequencies(*real.shape[1:])
    means = [one["radial"].mean(axis=0) for one in (real, fake)]
    more = means[1] - means[0]
    drawn = again.fake @ fake["radial"] - again.real @ real["radial"]
    bands = {}
    for name, (low, high) in _BANDS.items():
        band = (frequency >= low) & (frequency < high)
        if band.any():
            bands[name] = again.within(10 ** more[band].mean(), 10 ** drawn[:, band].mean(axis=1))
    most = int(np.abs(more).argmax())
    largest = again.within(10 ** more[most], 10 ** drawn[:, most])
    curves = Spectrum(frequency.tolist(), *((10.0**mean).tolist() for mean in means))
    return curves, Power(Largest(**vars(largest), frequency=float(frequency[most])), **bands)


def _tones(real: Looks, fake: Looks, again: _Resampling) -> Tones:
    ways = appearance.fine_directions(real.shape[0])
    # Scale of each direction: its values are divided by the sum of the absolute components, not by the length.
    scale = np.abs(ways).sum(axis=1) / np.linalg.norm(ways, axis=1) / (BINS - 1)

    def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        difference = (first - second).reshape(-1, len(ways), BINS)
        return np.abs(difference.cumsum(axis=2)).sum(axis=2) * scale

    means = [one["histogram"].mean(axis=0) for one in (real, fake)]
    each = distances(means[0], means[1])[0]
    drawn = again.real @ real["histogram"]
    spread = distances(drawn, again.fake @ fake["histogram"]).mean(axis=1).var()
    floor = distances(drawn, again.other @ real["histogram"]).mean(axis=1)
    distance = normal(each.mean(), spread, within=(0.0, 1.0))
    shown = min(real.shape[0], 3)
    levels = [float((mean.reshape(-1, BINS)[:shown] @ np.linspace(0, 1, BINS)).mean()) for mean in means]
    names = {1: ["gray"], 3: ["red", "green", "blue"], 4: ["red", "green", "blue", "opacity"]}[real.shape[0]]
    places = [*range(shown), len(ways) - 1]
    return Tones(
        **vars(distance),
        real=float(floor.mean()),
        real_high=float(floor.max()),
        channels={name: float(each[place]) for name, place in zip(names, places, strict=False)},
        brighter=levels[1] - levels[0],
    )


def _alike(real: np.ndarray, fake: np.ndarray, seed: int) -> Correlation:
    """Means over all pairs, with variances by the jackknife of a U-statistic."""
    means, variances = [], []
    for rows in (real, fake):
        each = (rows @ rows.sum(axis=0, dtype=np.float64) - 1) / (len(rows) - 1)
        means.append(float(each.mean()))
        variances.append(4 * float(each.var(ddof=1)) / len(rows) * ((len(rows) - 1) / (len(rows) - 2)) ** 2)
    distance = max(1 - means[0], 1e-6)
    ratio = (1 - means[1]) / distance
    variance = (variances[1] + ratio**2 * variances[0]) / distance**2
    few = (
        stats.t.ppf(0.975, min(len(real), len(fake)) - 1) / stats.norm.ppf(0.975)
    ) ** 2  # the variance is estimated from few images
    variety = normal(ratio, variance * few, within=(0.0, np.inf))
    nine = _range(real, _DRAWN, _DRAWS, seed)
    return Correlation(*means, nine.low, nine.high, variety)


def _saturated(real: Looks, fake: Looks) -> tuple[np.ndarray, np.ndarray]:
    """Whether pure black or white pixels of each image exceed those of 99% of the real images by a tenth."""
    shown = min(real.shape[0], 3)
    ends = [one["histogram"].reshape(len(one), -1, BINS)[:, :shown, [0, -1]].mean(axis=1) for one in (real, fake)]
    usual = np.quantile(ends[0], 0.99, axis=0) + _SATURATED
    return (ends[0] > usual).any(axis=1), (ends[1] > usual).any(axis=1)


def _repeated(real: Looks, fake: Looks) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image is much closer to another image of its set than usual for real images.

    In sets of equal size; identical images also among all generated images, of which there may be more.
    """

    def next_one(one: Looks, num: int) -> np.ndarray:
        some = one["thumbnail"][np.linspace(0, len(one) - 1, num).astype(int)]
        rows = some - some.mean(axis=0)
        return np.sqrt(np.maximum(nearest_neighbours(rows, rows, 2)[0][:, 1], 0))

    num, every = min(len(real), len(fake), _REPEATED), min(len(fake), _REPEATED)
    first, second = (next_one(one, num) for one in (real, fake))
    # If many real images are near duplicates, the limit is stricter; identical images always count.
    usual = np.median(first)
    limit = np.clip(np.quantile(first, 0.01), _VERY_NEAR * usual, _NEAR * usual)
    repeated = second <= limit
    if every > num and (identical := next_one(fake, every) <= _VERY_NEAR * usual).mean() > repeated.mean():
        repeated = identical
    return first <= limit, repeated


def _shares(real: np.ndarray, fake: np.ndarray) -> Compared:
    """Shares of both sets and the 95% interval of their difference (Newcombe 1998, method 10)."""
    first, second = share(float(real.mean()), len(real)), share(float(fake.mean()), len(fake))
    value = second.value - first.value
    low = value - np.hypot(second.value - second.low, first.high - first.value)
    high = value + np.hypot(second.high - second.value, first.value - first.low)
    return Compared(value, float(low), float(high), first.value, second.value)
