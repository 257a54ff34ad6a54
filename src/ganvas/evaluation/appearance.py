"""Per-image statistics for `evaluation.artefacts`, computed in one pass without keeping the images in memory.

Each statistic has one row per image, so that intervals can be computed by resampling the rows. Structure is measured
on the mean of the colours; opacity is used only in the histogram.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.config import MIN_SIZE
from ganvas.errors import DataError

Pictures = Tensor | np.ndarray | Iterable[Tensor | np.ndarray]
"""Floats (N, C, H, W) or (N, H, W) in [-1, 1], or (N, H, W, C) uint8 or uint16; one array, or batches of any size."""

_PIXELS = 2**19  # pixels per batch
_LEAST = {"real": 18, "generated": 9}  # fewest images
_CORRELATED, _THUMBNAIL = 64, 16  # side in pixels for correlations, and for the search for duplicates
BINS, _CURVE = 256, 64  # bins of a histogram; most bins of the radial spectrum
_BLOCK = 8  # side in pixels of the blocks of JPEG
_LEVELS = 2**14  # most pixels per image for its histogram
GRAY_LEVEL = 2 / 255  # one of 256 levels
_EIGHT_BITS = GRAY_LEVEL**2 / 12
"""Power per frequency of rounding to 8 bits, which is invisible."""


@dataclass(frozen=True, eq=False)
class Looks:
    """Statistics of a set: arrays by name with one row per image."""

    shape: tuple[int, int, int]
    """Channels, height, width."""
    parts: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.parts[name]

    def __len__(self) -> int:
        return len(self.parts["laplacian"])


def looks_of(images: Pictures, kind: str) -> Looks:
    """Compute the statistics in one pass, about 50 kB per image. kind: "real" or "generated".

    Raises `DataError` for fewer than 18 real or 9 generated images, different shapes, sides below 8 pixels, or values
    that are not finite.
    """
    measured: list[dict[str, Tensor]] = []
    shapes: set[tuple[int, int, int]] = set()
    num = 0
    for batch in batches(images):
        finite = batch.flatten(1).isfinite().all(dim=1)
        if not finite.all():
            raise DataError(
                f"{kind} image {num + int((~finite).int().argmax())} has values that are not finite, expected numbers "
                "from -1 to 1: use an earlier checkpoint, or check the images"
            )
        num += len(batch)
        shapes.add((batch.shape[1], batch.shape[2], batch.shape[3]))
        # Copied after the large temporary tensors are freed, which avoids fragmentation of the heap.
        measured.append({name: part.clone() for name, part in _looked_at(batch.float()).items()})
    if num < _LEAST[kind] or len(shapes) > 1:
        was = f"{num} {kind} images" if num < _LEAST[kind] else f"{kind} images of {len(shapes)} shapes"
        raise DataError(f"{was} were given: expected at least {_LEAST[kind]}, all of one shape")
    parts = {name: torch.cat([part[name] for part in measured]).numpy() for name in measured[0]}
    return Looks(shapes.pop(), parts)


def _looked_at(batch: Tensor) -> dict[str, Tensor]:
    shades = gray(batch)
    return {
        "horizontal": fine_lines(shades, 2),
        "vertical": fine_lines(shades, 1),
        "laplacian": laplacian(shades),
        "grain": grain(shades[:, None]),
        "alternating": _alternating(shades),
        "steps": _steps(shades),
        "empty": _empty(shades),
        "radial": _radial(shades),
        "histogram": _histograms(batch),
        "contrast": batch[:, :3].std(dim=(2, 3), correction=0).amax(dim=1),
        "whole": standardised(shades, _CORRELATED, quarter=False),
        "quarter": standardised(shades, _CORRELATED, quarter=True),
        "thumbnail": F.interpolate(batch, (_THUMBNAIL, _THUMBNAIL), mode="area").flatten(1),
    }


def gray(batch: Tensor) -> Tensor:
    """Mean of the colours (n, H, W)."""
    return batch[:, 0] if batch.shape[1] == 1 else batch[:, :3].mean(dim=1)


def batches(images: Pictures) -> Iterator[Tensor]:
    """The images as floats (n, C, H, W) in [-1, 1] on the CPU, about half a million pixels at a time."""
    for part in [images] if isinstance(images, (Tensor, np.ndarray)) else images:
        stored = isinstance(part, np.ndarray) and part.dtype.kind == "u"
        height, width = part.shape[1:3] if stored else part.shape[-2:]
        step = max(1, _PIXELS // (height * width))
        for start in range(0, len(part), step):
            piece = part[start : start + step]
            if isinstance(piece, np.ndarray) and stored:
                top = np.float32((256**piece.itemsize - 1) / 2)
                yield torch.from_numpy(piece.astype(np.float32) / top - 1).permute(0, 3, 1, 2).contiguous()
            else:
                tensor = torch.as_tensor(piece).cpu()
                yield tensor[:, None] if tensor.ndim == 3 else tensor


# Functions of a batch, gray (n, H, W) or with channels (n, C, H, W).


def fine_lines(gray: Tensor, axis: int) -> Tensor:
    """(n, side / 2 + 1): mean power spectrum of the lines of an image along `axis`, frequencies 0 to side / 2.

    The side is cropped to a multiple of 8, so that the periods 2, 4 and 8 are exact frequencies. Raises `DataError` for
    images with a side below 8 pixels.
    """
    height, width = gray.shape[1:]
    if min(height, width) < MIN_SIZE:
        raise DataError(
            f"images of {height}x{width} pixels cannot be measured: expected at least {MIN_SIZE}x{MIN_SIZE}"
        )
    side = gray.shape[axis] // 8 * 8
    return torch.fft.rfft(gray.narrow(axis, 0, side), dim=axis).abs().square().mean(dim=3 - axis)


def laplacian(gray: Tensor) -> Tensor:
    """(n,): variance of the Laplacian of each image."""
    around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    values = (around - 4 * gray[:, 1:-1, 1:-1]).flatten(1)
    return values.square().mean(dim=1) - values.mean(dim=1).square()


def grain(images: Tensor) -> Tensor:
    """(N,) variance of white noise, from the median diagonal difference (Donoho & Johnstone 1994)."""
    height, width = (side // 2 * 2 for side in images.shape[2:])
    upper, lower = images[:, :, :height:2, :width], images[:, :, 1:height:2, :width]
    apart = (upper - lower).unflatten(3, (-1, 2))
    return ((apart[..., 0] - apart[..., 1]).abs().flatten(1).median(dim=1).values / (2 * 0.6745)) ** 2


def _alternating(gray: Tensor) -> Tensor:
    """(n,): squared amplitudes of the three patterns of period 2 (rows, columns, checkerboard), summed.

    That of the same patterns times a slow wave is subtracted, because noise and edges contain both alike.
    """
    height, width = gray.shape[1:]
    y, x = torch.arange(height)[:, None], torch.arange(width)
    rows, columns = 1 - 2 * (y % 2).to(gray.dtype), 1 - 2 * (x % 2).to(gray.dtype)
    waves = [
        2**0.5 * torch.cos(2 * torch.pi * place / side).to(gray.dtype) for place, side in ((y, height), (x, width))
    ]
    strength = torch.zeros(len(gray), dtype=gray.dtype)
    for pattern, wave in ((rows, waves[0]), (columns, waves[1]), (rows * columns, waves[0])):
        strength += (gray * pattern).mean(dim=(1, 2)).square() - (gray * pattern * wave).mean(dim=(1, 2)).square()
    return strength


def _steps(gray: Tensor) -> Tensor:
    """(n, 4): mean difference of vertical neighbours across the borders of blocks of 8 pixels, and elsewhere; the same
    of horizontal neighbours."""
    sizes = []
    for axis in (1, 2):
        apart = gray.diff(dim=axis).abs().mean(dim=3 - axis)
        border = torch.arange(1, gray.shape[axis]) % _BLOCK == 0
        sizes += [apart[:, border].sum(dim=1) / max(1, int(border.sum())), apart[:, ~border].mean(dim=1)]
    return torch.stack(sizes, dim=1)


def _empty(gray: Tensor) -> Tensor:
    """(n,): share of fine frequencies that are empty in blocks of 8 pixels, as in JPEG, minus that in moved blocks.

    Quantisation removes most fine coefficients of the discrete cosine transform of a block (Fan & de Queiroz 2003,
    "Identification of bitmap compression history"), but not those of blocks that are moved by half their side. Inner
    blocks are compared with the four moved ones that they overlap. Blocks without content do not count. 0 for images
    with a side below 20 pixels.
    """
    inner = [(side - _BLOCK // 2) // _BLOCK - 1 for side in gray.shape[1:]]
    if min(inner) < 1:
        return torch.zeros(len(gray))
    waves, shares = _cosines().to(gray.dtype), []
    for start, (rows, columns) in ((_BLOCK, inner), (_BLOCK // 2, [num + 1 for num in inner])):
        area = gray[:, start : start + rows * _BLOCK, start : start + columns * _BLOCK]
        blocks = area.unflatten(2, (-1, _BLOCK)).unflatten(1, (-1, _BLOCK)).transpose(2, 3)
        is_empty = ((waves @ blocks @ waves.T)[..., _fine()].abs() < 1.5 * GRAY_LEVEL).float().mean(dim=3)
        weights = (blocks.std(dim=(3, 4)) > 2 * GRAY_LEVEL).float()
        if start < _BLOCK:  # number of inner blocks that a moved one overlaps
            weights[:, 1:-1] *= 2
            weights[:, :, 1:-1] *= 2
        shares.append((is_empty * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp_min(1))
    return shares[0] - shares[1]


@functools.lru_cache(maxsize=1)
def _cosines() -> Tensor:
    """(8, 8): the orthonormal discrete cosine transform."""
    places = torch.arange(_BLOCK)
    waves = torch.cos(torch.pi / _BLOCK * places[:, None] * (places + 0.5)) * (2 / _BLOCK) ** 0.5
    waves[0] /= 2**0.5
    return waves


@functools.lru_cache(maxsize=1)
def _fine() -> Tensor:
    """(8, 8) bool: the finer half of the frequencies of a block."""
    places = torch.arange(_BLOCK)
    return places[:, None] + places >= 6


def _power(gray: Tensor) -> Tensor:
    """(n, H, W / 2 + 1): power spectrum with a Hann window; white noise gives its variance."""
    height, width = gray.shape[1:]
    window = torch.hann_window(height, dtype=gray.dtype)[:, None] * torch.hann_window(width, dtype=gray.dtype)
    centred = (gray - gray.mean(dim=(1, 2), keepdim=True)) * window
    return torch.fft.rfft2(centred).abs().square() / window.square().sum()


def _radial(gray: Tensor) -> Tensor:
    """(n, R): base-10 logarithm of the power at `frequencies`, mean over all directions."""
    places, weights, totals = _rings(*gray.shape[1:])
    sums = torch.zeros(len(gray), len(totals) + 1, dtype=gray.dtype)
    sums.index_add_(1, places, _power(gray).flatten(1) * weights)
    return torch.log10(sums[:, :-1] / totals + _EIGHT_BITS)


def frequencies(height: int, width: int) -> np.ndarray:
    """Centre frequencies of the radial spectrum in cycles per pixel, up to 1/2."""
    num = min(_CURVE, min(height, width) // 2)
    return np.arange(1, num + 1) / (2 * num)


@functools.lru_cache(maxsize=4)
def _rings(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ring of each frequency, the last one for none; its weight, 2 if its mirror image is omitted; ring weights)."""
    num = len(frequencies(height, width))
    across = np.fft.rfftfreq(width)
    places = np.rint(np.hypot(np.fft.fftfreq(height)[:, None], across) * 2 * num).astype(np.int64).ravel() - 1
    places[(places < 0) | (places >= num)] = num
    weights = np.broadcast_to(np.where((across == 0) | (across == 0.5), 1.0, 2.0), (height, len(across))).ravel()
    totals = np.bincount(places, weights, num + 1)[:num]
    return torch.from_numpy(places), torch.from_numpy(weights.astype(np.float32)), torch.from_numpy(totals).float()


def standardised(gray: Tensor, size: int, quarter: bool) -> Tensor:
    """(n, D): unit rows whose products are the correlations of the images."""
    if quarter:
        gray = gray[:, : gray.shape[1] // 2, : gray.shape[2] // 2]
    small = [min(size, side) for side in gray.shape[1:]]
    rows = F.interpolate(gray[:, None], small, mode="area").flatten(1)
    rows = rows - rows.mean(dim=1, keepdim=True)
    norm = rows.norm(dim=1, keepdim=True)
    blank = norm < 1e-5  # the last coordinate makes blank images equal to each other and different from all others
    return torch.cat([torch.where(blank, 0.0, rows / norm.clamp(min=1e-5)), blank.to(rows.dtype)], dim=1)


@functools.lru_cache(maxsize=4)
def fine_directions(channels: int) -> np.ndarray:
    """(K, channels): directions of the histograms: the channels and the diagonals of the colour cube."""
    if channels < 3:
        return np.eye(channels)
    cube = [(x, y, z) for x in (1, 0, -1) for y in (1, 0, -1) for z in (1, 0, -1)]
    half = [way for way in cube if way > (0, 0, 0)]  # one of two opposite directions
    ways = np.array(sorted(half, key=lambda way: sum(map(abs, way))), np.float32)  # the three channels come first
    if channels == 3:
        return ways
    return np.concatenate([np.pad(ways, ((0, 0), (0, 1))), [[0, 0, 0, 1]]])


def _histograms(batch: Tensor) -> Tensor:
    """(n, K * 256): histogram of the values of each image along each direction, from -1 to 1 in 256 bins."""
    num, channels = batch.shape[:2]
    values = batch.flatten(2)
    if values.shape[2] > _LEVELS:
        values = values[:, :, _places(values.shape[2])]
    ways = fine_directions(channels)
    scaled = torch.from_numpy(ways / np.abs(ways).sum(axis=1, keepdims=True) * ((BINS - 1) / 2)).to(values.dtype)
    steps = (
        (scaled @ values).add_(BINS / 2).clamp_(0, BINS - 1).int()
    )  # -1 becomes 0.5, which rounds instead of truncating
    steps += torch.arange(num * len(ways), dtype=torch.int32).view(num, len(ways), 1) * BINS
    counts = torch.bincount(steps.flatten(), minlength=num * len(ways) * BINS)
    return counts.view(num, -1).float() / values.shape[2]


@functools.lru_cache(maxsize=4)
def _places(pixels: int) -> Tensor:
    """Random pixels of a large image for its histogram."""
    return torch.from_numpy(np.sort(np.random.default_rng(0).permutation(pixels)[:_LEVELS]))
