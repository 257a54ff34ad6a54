"""What the eye sees wrong in generated pictures, as numbers to hold against those of real ones.

Pictures are arrays or tensors (N, H, W) or (N, C, H, W) in [-1, 1]; colours count by their mean, opacity not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.near import nearest
from ganvas.errors import DataError

PERIODS = (2, 4, 8)
"""Periods in pixels at which upsampling by 2, once, twice and three times, leaves its lattice."""
REACH = 8  # bins of the spectrum on either side that a peak is compared with


def lattice(images: Tensor | np.ndarray) -> dict[int, float]:
    """For each period in pixels: how far the spectrum stands out there; hold it against real pictures' (about 1.0).

    The mean power spectrum of all rows, and that of all columns, at the frequency 1 / period over the median of the
    frequencies beside it (8 bins on either side without the nearest; fewer where the sides are below 128 pixels), and
    the larger of the two. A chequered pattern shows in both. Spectra of lines, not the single point of the
    two-dimensional spectrum: that would take 800 rows for one, and find regularities a thousand times below what
    8 bits can show. A lattice that is no sine has overtones, so one of period 4 may show at 2 as well. Period 2 ends
    the spectrum and has neighbours on one side only: in smooth real pictures it is below 1.

    Sides are cropped to multiples of 8, so that each period has a frequency of its own. A period that does not fit
    three times into a side is left out of that direction, and out of the answer where it fits neither.
    """
    spectra = [_line_spectrum(images, axis) for axis in (0, 1)]
    ratios = {}
    for period in PERIODS:
        found = [_peak(power, period) for power in spectra if 2 * (len(power) - 1) >= 3 * period]
        if found:
            ratios[period] = max(found)
    return ratios


def _line_spectrum(images: Tensor | np.ndarray, axis: int) -> np.ndarray:
    """Mean power of the lines along `axis` at the frequencies 0, 1, ... side / 2 per side."""
    total = np.zeros(1)
    for picture in _gray(images):
        picture = np.moveaxis(picture, axis, 1)
        side = picture.shape[1] // 8 * 8
        total = total + np.square(np.abs(np.fft.rfft(picture[:, :side], axis=1))).mean(axis=0)
    return total / len(images)


def _peak(power: np.ndarray, period: int) -> float:
    """Power at 1 / period over its surroundings, whose median is of the logarithms: spectra fall steeply."""
    side = 2 * (len(power) - 1)
    centre = side // period
    reach = max(2, min(REACH, side // 16))
    around = [i for i in range(centre - reach, centre + reach + 1) if abs(i - centre) > 1 and 0 < i < len(power)]
    power = power + np.finfo(np.float64).tiny  # of blank pictures
    return float(power[centre] / np.exp(np.median(np.log(power[around]))))


def sharpness(images: Tensor | np.ndarray) -> float:
    """Variance of the Laplacian (the four neighbours less four times the pixel), mean over the pictures.

    Near the real pictures' value is good: below it the generated ones are blurred, above it noisy.
    """
    values = []
    for x in _gray(images):
        inner = x[1:-1, 1:-1]
        values.append(np.var(x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * inner))
    return float(np.mean(values))


# ---- diversity ----


class Range(NamedTuple):
    """A measure over many draws of real pictures."""

    mean: float
    low: float
    high: float


def pairwise_correlation(images: Tensor | np.ndarray, size: int = 128, quarter: bool = False) -> float:
    """Mean Pearson correlation of the pixels over all pairs of pictures; above real pictures' it tells a collapse.

    Pictures are first reduced, by the mean over areas, to at most `size` pixels a side; `quarter` looks at the upper
    left quarter alone, for what comes at one place in every picture. Raises `DataError` for a single picture.
    """
    return _mean_of_pairs(_correlations(images, size, quarter))


def correlation_range(
    real: Tensor | np.ndarray, num: int = 9, draws: int = 200, seed: int = 0, size: int = 128, quarter: bool = False
) -> Range:
    """`pairwise_correlation` of `num` real pictures: mean, lowest and highest over random draws without replacement.

    Raises `DataError` where there are fewer than `num` real pictures.
    """
    if len(real) < num:
        raise DataError(f"{len(real)} real pictures were given to draw {num} of: take more, or draw fewer")
    matrix = _correlations(real, size, quarter)
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(len(real))[:num] for _ in range(draws)]
    values = [_mean_of_pairs(matrix[np.ix_(rows, rows)]) for rows in chosen]
    return Range(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def _correlations(images: Tensor | np.ndarray, size: int, quarter: bool) -> np.ndarray:
    """Pearson correlation of every picture with every other (N, N)."""
    if len(images) < 2:
        raise DataError(f"a correlation of pairs needs at least 2 pictures, and {len(images)} was given: ask for more")
    rows = []
    for picture in _gray(images):
        if quarter:
            picture = picture[: picture.shape[0] // 2, : picture.shape[1] // 2]
        small = [min(size, side) for side in picture.shape]
        reduced = F.interpolate(torch.from_numpy(picture)[None, None], small, mode="area").numpy().ravel()
        centred = reduced - reduced.mean()
        norm = np.linalg.norm(centred)
        blank = norm < 1e-6  # equal to every other blank picture and unlike all others: the last coordinate
        rows.append(np.append(centred * 0 if blank else centred / norm, float(blank)))
    unit = np.stack(rows)
    return unit @ unit.T


def _mean_of_pairs(matrix: np.ndarray) -> float:
    num = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (num * (num - 1)))


def _gray(images: Tensor | np.ndarray) -> Iterator[np.ndarray]:
    """One picture after the other as (H, W) float64."""
    for image in images:
        picture = image.cpu().numpy() if isinstance(image, Tensor) else image
        picture = picture.astype(np.float64)
        yield picture if picture.ndim == 2 else picture[:3].mean(axis=0)


# ---- all of it ----


class Finding(NamedTuple):
    what: str
    sentence: str
    severity: str
    """ok, note or bad."""


@dataclass(frozen=True)
class Artefacts:
    """What the generated pictures look like beside the real ones; plain values."""

    findings: list[dict[str, str]]
    """Sentences with their subject and severity."""
    lattice: list[dict[str, float]]
    """A row for each period: period in pixels, real, generated."""
    spectrum: dict[str, list[float]]
    """Radially averaged power: frequency in cycles per pixel, real, generated."""
    sharpness: dict[str, float]
    """Laplacian variance over the real pictures', with its 95% interval: value, low, high."""
    histogram: dict[str, float]
    """Mean Wasserstein distance of the channels' values, of the range: value, and the same between real halves."""
    correlation: dict[str, float]
    """Mean correlation of nine: generated; real, low and high over draws of real ones."""
    blank: dict[str, float]
    """Share of pictures that show next to nothing: real, generated."""
    repeated: float
    """Share of generated pictures that are nearer to another one than 99.5% of real ones are to each other."""


NOTED, BAD = 1.5, 3.0  # times the real pictures' peak of a lattice
BLANK = 0.02  # standard deviation of the values, of the range
SOFT, HARD = 0.67, 1.5  # of the real pictures' sharpness


def examine(real: np.ndarray, fake: np.ndarray) -> Artefacts:
    """Holds generated pictures against as many real ones; both (N, H, W, C) uint8 or uint16, 50 at least."""
    num = min(len(real), len(fake))
    sets = [_scaled(pictures[:num]) for pictures in (real, fake)]
    peaks = [lattice(pictures) for pictures in sets]
    rows = [{"period": p, "real": peaks[0][p], "generated": peaks[1][p]} for p in peaks[0]]
    sharp = _ratio(*(np.array([sharpness(picture[None]) for picture in pictures]) for pictures in sets))
    nine = [correlation_range(pictures) for pictures in sets]
    halves = _histogram_distance(sets[0][: num // 2], sets[0][num // 2 :])
    tone = _histogram_distance(*sets)
    blank = [float((pictures.std(axis=(1, 2, 3)) < 2 * BLANK).mean()) for pictures in sets]
    near = [_nearest_other(pictures) for pictures in sets]
    repeated = float((near[1] < np.quantile(near[0], 0.005)).mean())
    frequency, *power = _radial(sets)
    findings = [_of_lattice(rows), _of_sharpness(sharp), _of_variety(nine, repeated), _of_tone(tone, halves)]
    if blank[1] > blank[0] + 0.02:
        findings.append(
            Finding("blank", f"{blank[1]:.0%} of the pictures are blank (real ones: {blank[0]:.0%}).", "bad")
        )
    return Artefacts(
        findings=[finding._asdict() for finding in findings],
        lattice=rows,
        spectrum={"frequency": frequency, "real": power[0], "generated": power[1]},
        sharpness=dict(zip(("value", "low", "high"), sharp, strict=True)),
        histogram={"value": tone, "real": halves},
        correlation={"generated": nine[1].mean, "real": nine[0].mean, "low": nine[0].low, "high": nine[0].high},
        blank={"real": blank[0], "generated": blank[1]},
        repeated=repeated,
    )


def _of_lattice(rows: list[dict[str, float]]) -> Finding:
    worst = max(
        rows, key=lambda row: row["generated"] / row["real"], default={"period": 2, "real": 1.0, "generated": 1.0}
    )
    ratio = worst["generated"] / worst["real"]
    if ratio < NOTED:
        return Finding(
            "lattice", "No lattice: the spectrum has no peaks at 2, 4 or 8 pixels beyond the real one's.", "ok"
        )
    sentence = (
        f"A lattice with a period of {worst['period']:g} pixels: its peak is {ratio:.1f} times the real pictures'."
    )
    return Finding("lattice", sentence, "bad" if ratio >= BAD else "note")


def _of_sharpness(ratio: tuple[float, float, float]) -> Finding:
    value, low, high = ratio
    words = f"the Laplacian variance is {value:.2f} times the real pictures' ({low:.2f} to {high:.2f})"
    if high < SOFT:
        return Finding(
            "sharpness", f"The pictures are softer than real ones: {words}.", "bad" if value < 0.4 else "note"
        )
    if low > HARD:
        return Finding(
            "sharpness", f"The pictures are noisier than real ones: {words}.", "bad" if value > 2.5 else "note"
        )
    return Finding("sharpness", f"As sharp as real ones: {words}.", "ok")


def _of_variety(nine: list[Range], repeated: float) -> Finding:
    real, fake = nine
    words = f"nine of them correlate by {fake.mean:.2f} on average, nine real ones by {real.low:.2f} to {real.high:.2f}"
    if fake.mean > real.high:
        return Finding("variety", f"The pictures are too alike: {words}.", "bad")
    if repeated > 0.05:
        return Finding(
            "variety", f"{repeated:.0%} of the pictures nearly repeat another one (real ones: 0.5%).", "note"
        )
    return Finding("variety", f"As varied as real ones by their pixels: {words}.", "ok")


def _of_tone(distance: float, floor: float) -> Finding:
    words = f"values differ by {distance:.1%} of the range (two halves of the real ones: {floor:.1%})"
    if distance > max(0.03, 3 * floor):
        return Finding("tone", f"Tones or colours are off: {words}.", "bad" if distance > 0.08 else "note")
    return Finding("tone", f"Tones are right: {words}.", "ok")


def _scaled(pictures: np.ndarray) -> np.ndarray:
    """(N, C, H, W) float32 in [-1, 1]."""
    top = np.iinfo(pictures.dtype).max / 2
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32) / np.float32(top) - 1


def _ratio(real: np.ndarray, fake: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the means of two samples of positive numbers and its 95% interval, by the variance of its logarithm."""
    value = float(fake.mean() / max(real.mean(), 1e-12))
    relative = [x.var(ddof=1) / len(x) / max(x.mean(), 1e-12) ** 2 for x in (real, fake)]
    half = 1.96 * float(np.sqrt(sum(relative)))
    return value, value * float(np.exp(-half)), value * float(np.exp(half))


def _histogram_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over the channels of the Wasserstein-1 distance of their values, as a part of the range."""
    steps = np.linspace(0, 1, 257)
    quantiles = [np.quantile(x[:: max(1, len(x) // 500)], steps, axis=(0, 2, 3)) for x in (first, second)]
    return float(np.abs(quantiles[0] - quantiles[1]).mean() / 2)


def _nearest_other(pictures: np.ndarray) -> np.ndarray:
    """Distance of each picture's thumbnail, of mean 0 and length 1, to the nearest other one's."""
    small = F.interpolate(torch.from_numpy(pictures), (12, 12), mode="area").flatten(1)
    rows = F.normalize(small - small.mean(dim=1, keepdim=True), dim=1).numpy()
    return nearest(rows, rows, 2)[0][:, 1]


def _radial(sets: list[np.ndarray]) -> tuple[list[float], list[float], list[float]]:
    """Frequencies in cycles per pixel up to 1/2, and the mean power of each set there, under a Hann window."""
    height, width = sets[0].shape[2:]
    window = np.hanning(height)[:, None] * np.hanning(width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    bins = np.minimum(height, width) // 2
    places = np.round(frequency * 2 * bins).astype(int)
    inside = (places >= 1) & (places <= bins)
    counts = np.bincount(places[inside], minlength=bins + 1)[1:]
    curves = []
    for pictures in sets:
        total = np.zeros(frequency.shape)
        for gray in _gray(pictures):
            total += np.square(np.abs(np.fft.rfft2((gray - gray.mean()) * window)))
        power = np.bincount(places[inside], (total / len(pictures))[inside], bins + 1)[1:] / counts
        curves.append([float(value) for value in power])
    return [float((i + 1) / (2 * bins)) for i in range(bins)], curves[0], curves[1]
