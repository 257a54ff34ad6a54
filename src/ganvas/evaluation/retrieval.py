"""Thumbnails of images, and the training images that are most similar to any moved version of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.evaluation.appearance import grain

RETRIEVAL_SIDE, _FINE = (
    16,
    32,
)  # thumbnail sides in pixels: for retrieval and coarse registration; for fine registration
_BORDER = 0.1  # fraction of the side that has less weight in retrieval
_EXHAUSTIVE = 2000  # training images up to which the index has one part
_PROBES = 3  # parts of the index that are searched for each moved version
_FAINT = 0.1  # least relative length of a part of an image: parts with less content are similar to too many
_AT_ONCE = 4096  # moved versions at a time
_PIXELS = 2**22  # pixels at a time
ROWS = 8192  # training images at a time


# ---- thumbnails ----


class ImagePyramid(NamedTuple):
    """Thumbnails of N images, without opacity. One channel, or luminance and two of chroma (`luminance_first`)."""

    fine: Tensor
    """(N, C, 32, 32) float16."""
    coarse: Tensor
    """(N, C, 16, 16) float16."""
    grain: Tensor
    """(N,) float32: noise variance at full size."""

    def at(self, places: np.ndarray) -> ImagePyramid:
        return ImagePyramid(*(part[torch.from_numpy(places)] for part in self))


def pyramid_of(
    images: np.ndarray, places: np.ndarray | None = None, progress: Callable[[str, int, int], None] | None = None
) -> ImagePyramid:
    """Thumbnails of images (N, H, W, C) uint8 or uint16, or of those at `places`; reads in blocks."""
    places = np.arange(len(images)) if places is None else places
    block = max(1, _PIXELS // max(images.shape[1] * images.shape[2], _FINE**2))
    shape = (len(places), min(images.shape[3], 3))
    # Not joined from parts, which would need twice the memory.
    fine = torch.empty((*shape, _FINE, _FINE), dtype=torch.float16)
    coarse = torch.empty((*shape, RETRIEVAL_SIDE, RETRIEVAL_SIDE), dtype=torch.float16)
    noise = torch.empty(len(places))
    for start in range(0, len(places), block):
        pixels = images[places[start : start + block], ..., :3].astype(np.float32) / np.iinfo(images.dtype).max
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        part = luminance_first(_shrunk(pictures))
        fine[start : start + block], noise[start : start + block] = part, grain(pictures)
        coarse[start : start + block] = F.avg_pool2d(part, _FINE // RETRIEVAL_SIDE)
        if progress is not None:
            progress("training images", start + len(pixels), len(places))
    return ImagePyramid(fine, coarse, noise)


def _shrunk(pictures: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 32, 32), slightly blurred, so that losses by compression or resizing do not count."""
    rows = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    for _ in range(4):  # binomial kernel with a standard deviation of 1 pixel
        rows = F.avg_pool2d(rows, 2, 1)
    return F.interpolate(rows, (_FINE, _FINE), mode="bilinear", antialias=True)


def luminance_first(pictures: Tensor) -> Tensor:
    """RGB (N, 3, H, W) as luminance and two channels of chroma, an orthonormal change; gray images as they are.

    All colours have equal weight in the luminance: so it changes little if the hue turns.
    """
    if pictures.shape[1] != 3:
        return pictures
    red, green, blue = pictures.unbind(dim=1)
    channels = [(red + green + blue) / 3**0.5, (red - blue) / 2**0.5, (red - 2 * green + blue) / 6**0.5]
    return torch.stack(channels, dim=1)


def energy_of_noise(shape: tuple[int, ...], directions: Tensor) -> tuple[float, float]:
    """Energy of unit white noise in images (H, W, C): in these directions of their thumbnails, and outside them."""
    generator = _seeded()
    noise = torch.cat([_shrunk(torch.randn((1, min(shape[2], 3), *shape[:2]), generator=generator)) for _ in range(32)])
    rows = without_brightness(noise)
    inside = float(((rows @ directions) ** 2).sum(dim=1).mean())
    return inside, float((rows**2).sum(dim=1).mean()) - inside


def without_brightness(thumbs: Tensor) -> Tensor:
    """(N, C * S * S): thumbnails without the mean of their luminance."""
    return torch.cat([thumbs[:, :1] - thumbs[:, :1].mean(dim=(2, 3), keepdim=True), thumbs[:, 1:]], dim=1).flatten(1)


def window() -> Tensor:
    """(16 * 16,) pixel weights of a coarse thumbnail: lower at the border, which a moved image may lack."""
    places = (torch.arange(RETRIEVAL_SIDE) + 0.5) / RETRIEVAL_SIDE
    counts = (torch.minimum(places, 1 - places) / _BORDER).clamp(max=1)
    return (counts[:, None] * counts).flatten()


def principal(thumbs: Tensor, num: int, weights: Tensor | None = None) -> Tensor:
    """(D, num): projection to the first principal components of at most 8,192 thumbnails, without brightness.

    weights: (D,) of the values of one channel. Method: subspace iteration (Halko, Martinsson & Tropp 2011, algorithm
    4.4). Without weights the projection is orthonormal, except for the brightness.
    """
    some = thumbs[:: max(1, len(thumbs) // ROWS)].float()
    bright = torch.zeros_like(some[0])
    bright[0] = 1
    some, bright = some.flatten(1), bright.flatten()
    weights = torch.ones(some.shape[1]) if weights is None else weights
    weighted = weights * bright / (weights * bright).sum()
    some = F.normalize((some - (some @ weighted)[:, None] * bright) * weights, dim=1)
    space = torch.randn((some.shape[1], min(num, *some.shape)), generator=_seeded())
    for _ in range(5):
        space = torch.linalg.qr(some.T @ (some @ space)).Q
    space = space * weights[:, None]
    return space - weighted[:, None] * (bright @ space)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---- retrieval ----


def visible_areas(coarse: Tensor, areas: Tensor) -> Tensor:
    """(V, N) float16: relative length of the part of each of N coarse thumbnails that each of V areas (V, D) shows.

    The whole is the first area. Lengths are without the brightness of the part and with the weights of `window`.
    """
    weights = areas * window() ** 2
    lengths = []
    for part in coarse.split(ROWS):
        pixels = part[:, 0].float().flatten(1)
        pixels = pixels - pixels.mean(dim=1, keepdim=True)
        squares = weights @ (pixels**2).T - (weights @ pixels.T) ** 2 / weights.sum(dim=1, keepdim=True)
        relative = squares.clamp_min(0) / squares[:1].clamp_min(1e-9)
        lengths.append((relative + _FAINT**2).sqrt().half())
    return torch.cat(lengths, dim=1)


class Index:
    """Approximate search in unit rows (N, D), split into about sqrt(N) parts by spherical k-means.

    shown: (V, N) as by the function of this name. The similarity of a version of a query to a row is their product
    divided by the length of what the version shows of the row. Without this, an image with most of its content outside
    a close crop is less similar to its own crop than other images are.
    """

    def __init__(self, rows: Tensor, shown: Tensor) -> None:
        num = 1 if len(rows) <= _EXHAUSTIVE else round(len(rows) ** 0.5)
        self.centres = rows[torch.randperm(len(rows), generator=_seeded())[:num]]
        for _ in range(10):
            part = torch.cat([(some @ self.centres.T).argmax(dim=1) for some in rows.split(ROWS)])
            self.centres = F.normalize(torch.zeros_like(self.centres).index_add(0, part, rows), dim=1)
        self.order = part.argsort(stable=True)
        self.rows, self.shown = rows[self.order], shown[:, self.order]
        counts = torch.bincount(part, minlength=num)
        sums = torch.zeros(len(shown), num).index_add(1, part, shown.float())
        self.shown_of_centres = torch.where(counts > 0, sums / counts, 1)  # means of the parts
        self.ends = counts.cumsum(0).tolist()

    def search(self, queries: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """(rows, versions), (B, num) each: the most similar rows to any version of each of B queries (B, V, D).

        The first version and its negative, and the last two, are compared with all rows, the others with the rows of
        the nearest parts: without a quarter, the nearest parts are often others.
        """
        similar = (queries[:, 0] @ self.rows.T).abs_()
        for last in (-2, -1):
            similar = torch.maximum(similar, (queries[:, last] @ self.rows.T).div_(self.shown[last]))
        similar = similar.numpy()
        versions, kinds = queries.flatten(0, 1), queries.shape[1]
        near = ((queries @ self.centres.T) / self.shown_of_centres).flatten(0, 1)
        near = near.topk(min(_PROBES, len(self.centres)), dim=1).indices
        looking = near.flatten().argsort(stable=True) // near.shape[1]
        counts = torch.bincount(near.flatten(), minlength=len(self.centres)).tolist()
        start = 0
        for who, end in zip(looking.split(counts), self.ends, strict=True):
            for some in who.split(_AT_ONCE) if end > start else ():
                products = (versions[some] @ self.rows[start:end].T).div_(self.shown[some % kinds, start:end])
                query, first = np.unique(some.numpy() // kinds, return_index=True)
                best = np.maximum.reduceat(products.numpy(), first)
                similar[query, start:end] = np.maximum(similar[query, start:end], best)
            start = end
        finalists = torch.from_numpy(similar).topk(min(num, len(self.rows)), dim=1).indices
        similarity = torch.bmm(self.rows[finalists], queries.transpose(1, 2))
        similarity /= self.shown[:, finalists.flatten()].T.view_as(similarity)
        similarity[:, :, 0].abs_()
        return self.order[finalists], similarity.argmax(dim=2)
