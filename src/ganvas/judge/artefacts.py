"""What the eye sees wrong in generated pictures, as numbers to hold against those of real ones.

Pictures are arrays or tensors (N, H, W) or (N, C, H, W) in [-1, 1]; colours count by their mean, opacity not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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
