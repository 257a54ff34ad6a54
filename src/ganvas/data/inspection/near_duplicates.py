"""Near duplicates: the same image recompressed or slightly brighter, or the next frame of a video.

All steps use thumbnails (thumbnails.py), for any size, colour and depth. Candidates are the nearest neighbours of a
coarse descriptor. A candidate is a near duplicate if its fine structure, at the best small shift, and its tones differ
much less than those of images that are only similar. What "similar" means is measured on the data set itself: two ones
of MNIST differ less than two frames of a video.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from ganvas.data.inspection.thumbnails import (
    SIDE,
    THUMBNAILS_AT_A_TIME,
    TONES,
    OnDemand,
    Thumbnails,
    averaging,
    of_length_1,
    release,
    smoothing,
)
from ganvas.limits import num_cores

_T = TypeVar("_T")

_REACH = 2  # maximum shift of a pair in thumbnail pixels, a sixteenth of the side
_NEIGHBOURS = 6  # candidates per image
_SAMPLE = 2000  # minimum sample size for measuring similarity; a tenth in larger sets
_RANK, _PART = 40, 0.2  # similar images: the 40th nearest of all; in small sets the nearest fifth
_REFERENCES = 4  # similar images to average over
_COARSELY = 0.6  # maximum descriptor difference of candidates, relative to similar images
_FINELY, _TONALLY = 0.35, 0.1  # maximum difference of near duplicates relative to similar images: structure, tones
_MOST = 0.35  # absolute maximum difference in fine structure (1 - correlation)
_LARGE, _BLOCKS = 64, 8  # image side and blocks per side for deciding whether two images are the same
_SAME = 0.3  # maximum difference of a block, relative to the standard deviation of the image
QUICK_SET, QUICK_SAMPLE = 50_000, 5000  # images above which `Likeness.pairs` may search in parts; sample size there
_MOST_SAMPLE = 50_000  # maximum sample size
_GROUP = 16  # columns of a group whose minimum is compared first
_MANY = 8 * THUMBNAILS_AT_A_TIME  # images whose neighbours are searched together in parts
_PROBES, _ROUNDS, _PER_PART = 8, 5, 40  # parts searched per image; rounds of k-means; images per part that it uses
_GAIN, _OFFSET = 1.6, 0.25  # maximum brightness factor and offset (relative to the value range) of the same image


# Search.


def nearest_neighbours(
    queries: np.ndarray, base: np.ndarray, k: int, block: int = THUMBNAILS_AT_A_TIME
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `base` (N, D) to each row of `queries` (M, D), nearest first.

    Returns squared Euclidean distances (M, k) float32 and row indices (M, k) int64. Exact, with matrix products in
    blocks; memory grows only with M k, also if `base` is memory-mapped. Distances far below the length of the rows are
    rounding errors (float32).
    """
    base_squares = np.empty(len(base), np.float32)
    for offset in range(0, len(base), block):
        part = base[offset : offset + block]
        np.einsum("nd,nd->n", part, part, out=base_squares[offset : offset + block])
        _release_sometimes(base, offset // block)
    distances = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        best = np.full((len(rows), k), np.inf, np.float32)
        closest = np.zeros((len(rows), k), np.int64)
        for offset in range(0, len(base), block):
            part = (-2 * rows) @ base[offset : offset + block].T
            part += base_squares[offset : offset + block]
            # After the first blocks few rows find a nearer neighbour; only these are sorted again.
            better = np.flatnonzero(part.min(1) < best[:, -1])
            places = _smallest(part[better], k)
            joined = np.concatenate([best[better], np.take_along_axis(part[better], places, axis=1)], axis=1)
            numbers = np.concatenate([closest[better], places + offset], axis=1)
            places = np.argpartition(joined, k - 1, axis=1)[:, :k]  # the k-th nearest is last
            best[better] = np.take_along_axis(joined, places, axis=1)
            closest[better] = np.take_along_axis(numbers, places, axis=1)
            _release_sometimes(base, offset // block)
        order = np.argsort(best, axis=1)
        squares = np.einsum("md,md->m", rows, rows)[:, None]
        distances[start : start + block] = np.maximum(np.take_along_axis(best, order, axis=1) + squares, 0)
        indices[start : start + block] = np.take_along_axis(closest, order, axis=1)
    return distances, indices


def _smallest(values: np.ndarray, k: int) -> np.ndarray:
    """(M, min(k, N)) columns of the k smallest values of each row (M, N), in no order.

    The k smallest are in the k groups of columns with the smallest minima: so few values are sorted.
    """
    num, width = values.shape[1], values.shape[1] // _GROUP
    if k >= num:
        return np.broadcast_to(np.arange(num), values.shape)
    if width < 4 * k:
        return np.argpartition(values, k - 1, axis=1)[:, :k]
    minima = values[:, : _GROUP * width].reshape(-1, _GROUP, width).min(1)
    groups = np.argpartition(minima, k - 1, axis=1)[:, None, :k]
    members = (groups + width * np.arange(_GROUP)[:, None]).reshape(len(values), _GROUP * k)
    rest = np.broadcast_to(np.arange(_GROUP * width, num), (len(values), num - _GROUP * width))
    members = np.concatenate([members, rest], axis=1)
    chosen = np.argpartition(np.take_along_axis(values, members, axis=1), k - 1, axis=1)[:, :k]
    return np.take_along_axis(members, chosen, axis=1)


def _release_sometimes(base: np.ndarray, number: int) -> None:
    """Frees the memory of a memory-mapped array after every 64th block (75 MB of descriptors)."""
    if number % 64 == 63:
        release(base)


def pixel_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float32: 1 - correlation of the fine structure of P pairs (P, 32, 32), at the best small shift."""
    num = len(first)
    return _differences_among(np.concatenate([first, second]), np.arange(2 * num).reshape(2, num).T)


def _differences_among(gray: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """As `pixel_differences`, of pairs (P, 2) of thumbnails (N, 32, 32), each transformed once per block of pairs."""
    result = np.ones(len(pairs), np.float32)
    size = fft.next_fast_len(SIDE + _REACH, real=True)
    shifts = np.arange(-_REACH, _REACH + 1)
    for start in range(0, len(pairs), THUMBNAILS_AT_A_TIME):
        places, ends = np.unique(pairs[start : start + THUMBNAILS_AT_A_TIME], return_inverse=True)
        one, other = ends.reshape(-1, 2).T
        fine = _fine(gray[places])
        spectra, squares = fft.rfft2(fine, (size, size)), (fine**2).sum((1, 2))
        product = fft.irfft2(spectra[one] * spectra[other].conj(), (size, size))
        best = product[:, shifts][:, :, shifts].max((1, 2))
        lengths = np.sqrt(squares[one] * squares[other])
        result[start : start + THUMBNAILS_AT_A_TIME] -= np.where(lengths > 1, best / np.maximum(lengths, 1), 0)
    return result


def _fine(gray: np.ndarray) -> np.ndarray:
    """Fine structure without slow shading, faded out at the border because of shifts."""
    values = gray.astype(np.float32)
    values -= smoothing(SIDE) @ values @ smoothing(SIDE).T
    places = np.arange(SIDE)
    fade = np.minimum(1, np.minimum(places + 1, SIDE - places) / 3).astype(np.float32)
    return values * (fade[:, None] * fade)


def _tone_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float32: 1 - correlation of the tones of P pairs (P, 8, 8, 3)."""
    pair = [of_length_1(side.reshape(-1, 3 * TONES**2).astype(np.float32)) for side in (first, second)]
    return 1 - np.einsum("nd,nd->n", *pair)


class Parts:
    """Approximate search in rows (N, D) of length 1 or 0: about sqrt(N) parts by spherical k-means, of which the
    nearest few are searched. Very similar rows are nearly always in the same part or in neighbouring ones."""

    def __init__(self, rows: np.ndarray) -> None:
        num = max(1, round(len(rows) ** 0.5))
        chosen = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[: _PER_PART * num])]
        self.rows, self.centres = rows, chosen[:: max(1, len(chosen) // num)][:num].copy()
        for _ in range(_ROUNDS):
            part = (chosen @ self.centres.T).argmax(1)
            sums = np.zeros_like(self.centres)
            np.add.at(sums, part, chosen)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            self.centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-9), self.centres)
        part = np.concatenate(
            [self._near(np.arange(len(rows))[at : at + THUMBNAILS_AT_A_TIME], 1)[:, 0] for at in _steps(len(rows))]
        )
        self.order = np.argsort(part, kind="stable")
        self.ends = np.searchsorted(part[self.order], np.arange(num + 1))

    def _near(self, places: np.ndarray, num: int) -> np.ndarray:
        """(M, num) the nearest parts of rows, in no order."""
        similar = self.rows[places] @ self.centres.T
        return np.argpartition(-similar, num - 1, axis=1)[:, :num] if num > 1 else similar.argmax(1)[:, None]

    def nearest(self, places: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest_neighbours` for the rows at `places`, with infinite distances if fewer than k were found."""
        near = self._near(places, min(_PROBES, len(self.centres)))
        by_part = np.argsort(near.ravel(), kind="stable")
        counts = np.cumsum(np.bincount(near.ravel(), minlength=len(self.centres)))
        similar = np.full((near.size, k), -np.inf, np.float32)  # of each place in each of its parts
        closest = np.zeros((near.size, k), np.int64)
        for number, (start, stop) in enumerate(zip([0, *counts[:-1]], counts, strict=True)):
            members = self.order[self.ends[number] : self.ends[number + 1]]
            if start == stop or not len(members):
                continue
            asked = by_part[start:stop]
            part = -self.rows[places[asked // near.shape[1]]] @ self.rows[members].T
            best = _smallest(part, k)
            similar[asked, : best.shape[1]] = -np.take_along_axis(part, best, axis=1)
            closest[asked, : best.shape[1]] = members[best]
        similar, closest = similar.reshape(len(places), -1), closest.reshape(len(places), -1)
        best = np.argpartition(-similar, k - 1, axis=1)[:, :k] if similar.shape[1] > k else np.arange(k)[None]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(similar, best, axis=1), axis=1), axis=1)
        similar, closest = np.take_along_axis(similar, best, axis=1), np.take_along_axis(closest, best, axis=1)
        squares = np.square(self.rows[places]).sum(1)[:, None]
        return np.maximum(squares + np.square(self.rows[closest]).sum(2) - 2 * similar, 0), closest


def _steps(num: int) -> range:
    return range(0, num, THUMBNAILS_AT_A_TIME)


# Near duplicates.


class Likeness:
    """Finds near duplicates among N images."""

    def __init__(self, thumbs: Thumbnails | OnDemand, *, quick: bool = False) -> None:
        """quick: in large sets, search a part of the images and a smaller sample."""
        self.thumbs = thumbs
        self.rows, self.unique, self.twin = thumbs.described()  # identical thumbnails count as one from here on
        num = len(self.unique)
        self.quick = quick and num > QUICK_SET
        size = min(max(_SAMPLE, num // 10), QUICK_SAMPLE if self.quick else _MOST_SAMPLE)
        self.sample = np.random.default_rng(0).permutation(num)[:size]
        rank = max(_REFERENCES, int(min(_PART * num, _RANK) * len(self.sample) / num))
        self.rank = max(0, min(rank, len(self.sample) - _REFERENCES))

    @functools.cached_property
    def parts(self) -> Parts:
        return Parts(self.rows)

    def pairs(self, of: np.ndarray | None = None) -> np.ndarray:
        """(P, 2) int64 pairs of near duplicates. of: only pairs with one of these images.

        Identical images are paired only with the first of their group.
        """
        asked = np.arange(len(self.unique)) if of is None else np.unique(self.twin[of])
        wanted = np.zeros(len(self.unique), bool)
        wanted[asked] = True
        twins = np.flatnonzero(wanted[self.twin])
        equal = np.stack([self.unique[self.twin[twins]], twins], 1)
        blocks = [equal[equal[:, 0] != equal[:, 1]]]
        step = _MANY if self.quick else THUMBNAILS_AT_A_TIME
        if self.quick:
            _ = self.parts  # before threads ask for it
        candidates = _each(self._candidates, [asked[start : start + step] for start in range(0, len(asked), step)])
        numbers = np.unique(np.concatenate([np.empty(0, np.int64), *candidates]))  # each pair once
        blocks.append(self.unique[self._confirmed(np.stack([numbers // len(self.rows), numbers % len(self.rows)], 1))])
        return np.unique(np.sort(np.concatenate(blocks), 1), axis=0)

    def _candidates(self, asked: np.ndarray) -> np.ndarray:
        """Pairs of one of these unique images and one of its nearest, as numbers: smaller index * U + larger index."""
        k = min(_NEIGHBOURS + 1, len(self.rows))
        distances, closest = (
            self.parts.nearest(asked, k) if self.quick else nearest_neighbours(self.rows[asked], self.rows, k)
        )
        alike = np.concatenate([self._alike(part)[0] for part in _blocks(asked)])
        who, which = np.nonzero((distances / 2 < _COARSELY * alike[:, None]) & (closest != asked[:, None]))
        first, second = asked[who], closest[who, which]
        return np.minimum(first, second) * len(self.rows) + np.maximum(first, second)

    def _confirmed(self, pairs: np.ndarray) -> np.ndarray:
        """Those of the pairs (P, 2) of unique images that are near duplicates, judged by the images similar to each."""
        compared = _each(self._differences, _blocks(pairs))
        fine, tones = np.concatenate([np.empty((2, 0), np.float32), *compared], axis=1)
        kept = fine < _MOST
        pairs, fine, tones = pairs[kept], fine[kept], tones[kept]
        places, ends = np.unique(pairs, return_inverse=True)
        apart = _each(lambda part: self._apart(part, self._alike(part)[1]), _blocks(places))
        limits = np.concatenate([np.empty((2, 0), np.float32), *apart], axis=1)[:, ends.reshape(pairs.shape)].min(2)
        return pairs[(fine < _FINELY * limits[0]) & (tones < _TONALLY * limits[1])]

    def _alike(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Descriptor difference (n,) to similar images, and their indices (n, 4), for each of these images."""
        k = min(self.rank + _REFERENCES, len(self.sample))
        distances, closest = nearest_neighbours(self.rows[places], self.rows[self.sample], k)
        return distances[:, self.rank] / 2, self.sample[closest[:, self.rank :]]

    def _apart(self, places: np.ndarray, references: np.ndarray) -> np.ndarray:
        """(2, n) mean difference to similar images in fine structure and in tones."""
        num = references.shape[1]
        pairs = np.stack([np.repeat(places, num), references.ravel()], 1)
        return self._differences(pairs).reshape(2, -1, num).mean(2)

    def _differences(self, pairs: np.ndarray) -> np.ndarray:
        """(2, P) differences of pairs of unique images in fine structure and in tones."""
        places, ends = np.unique(pairs, return_inverse=True)
        ends, thumbs = ends.reshape(-1, 2), self.thumbs[self.unique[places]]
        tones = _tone_differences(thumbs.tones[ends[:, 0]], thumbs.tones[ends[:, 1]])
        return np.stack([_differences_among(thumbs.gray, ends), tones])


def _blocks(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + THUMBNAILS_AT_A_TIME] for start in range(0, len(array), THUMBNAILS_AT_A_TIME)]


def _each(compute: Callable[[np.ndarray], _T], parts: list[np.ndarray]) -> list[_T]:
    """compute(part) of each part, with one thread per core: threads that share a matrix product take twice the time."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(compute, parts))


def families(likeness: Likeness, places: np.ndarray, most: int) -> list[np.ndarray]:
    """Groups of near duplicates of the images at `places`, each sorted, in the order of `places`.

    A group is extended until it is complete or has more than `most` members.
    """
    members, asked = places, places
    pairs = np.empty((0, 2), np.int64)
    while True:
        pairs = np.concatenate([pairs, likeness.pairs(asked)])
        known = members
        members = np.union1d(members, pairs)
        family = grouped(len(likeness.twin), pairs)
        sizes = np.bincount(family[members], minlength=len(likeness.twin))
        asked = np.setdiff1d(members, known)
        asked = asked[sizes[family[asked]] <= most]
        if not len(asked):
            break
    order = members[np.argsort(family[members], kind="stable")]
    members_of = dict(zip(*_split(family[order], order), strict=True))
    return [members_of[number] for number in dict.fromkeys(family[places].tolist())]


def clusters(pairs: np.ndarray, num: int) -> list[np.ndarray]:
    """Groups of two or more of `num` images connected by (P, 2) pairs, largest first."""
    if not len(pairs):
        return []
    members = np.unique(pairs)
    family = grouped(num, pairs)[members]
    order = np.argsort(family, kind="stable")
    return sorted(_split(family[order], members[order])[1], key=len, reverse=True)


def grouped(num: int, pairs: np.ndarray) -> np.ndarray:
    """(num,) index of the connected group of each image."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (num, num))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _split(numbers: np.ndarray, values: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """Splits `values` where the sorted `numbers` change; returns the number of each part and the parts."""
    names, starts = np.unique(numbers, return_index=True)
    return names.tolist(), np.split(values, starts[1:])


def same(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) bool: which pairs (P, 2) of images (N, H, W, C) are the same image, recompressed or brighter.

    Stricter than near duplicates: no region may differ, as the mouth does in the next frame of a video.
    """
    is_same = np.zeros(len(pairs), bool)
    height, width = images.shape[1:3]
    sides = min(_LARGE, height), min(_LARGE, width)
    rows, columns = averaging(height, sides[0]), averaging(width, sides[1]).T
    block = max(1, 2**21 // (height * width))
    for start in range(0, len(pairs), block):
        part = pairs[start : start + block]
        whole = [images[part[:, side]] for side in (0, 1)]
        equal = (whole[0] == whole[1]).all((1, 2, 3))
        one, other = (rows @ half.transpose(0, 3, 1, 2).astype(np.float32) @ columns for half in whole)
        means = [half.mean((1, 2, 3), keepdims=True) for half in (one, other)]
        one, other = one - means[0], other - means[1]
        spreads = [np.maximum((half**2).mean((1, 2, 3)), 1e-6) for half in (one, other)]
        gain = (one * other).mean((1, 2, 3)) / spreads[0]
        apart = (other - gain[:, None, None, None] * one) ** 2
        worst = (averaging(sides[0], _BLOCKS) @ apart.mean(1) @ averaging(sides[1], _BLOCKS).T).max((1, 2))
        brighter = np.abs(means[0] - means[1])[:, 0, 0, 0] / np.iinfo(images.dtype).max
        alike = (worst < _SAME**2 * spreads[1]) & (gain < _GAIN) & (gain > 1 / _GAIN) & (brighter < _OFFSET)
        is_same[start : start + block] = equal | alike
    return is_same
