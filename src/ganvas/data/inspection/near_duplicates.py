"""Near duplicates: the same image recompressed or slightly brighter, or the next frame of a video.

All steps use thumbnails of 1.2 kilobytes per image, for any size, colour and depth. Candidates are the nearest
neighbours of a coarse descriptor. A candidate is a near duplicate if its fine structure, at the best small shift, and
its tones differ much less than those of images that are only similar. What "similar" means is measured on the data
set itself: two ones of MNIST differ less than two frames of a video.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BLOCK = 2048  # rows and columns of a distance block: 32 MB in float64, 16 MB in float32
SIDE, COARSE, TONES = 32, 12, 8  # side of: gray thumbnail, descriptor, tones
BAND = 8  # rows of a gray thumbnail that are averaged together
WIDE = 5  # side of the local mean that is subtracted
FAINT = 0.03  # lower contrast, relative to the value range, is not stretched, because it may be noise
REACH = 2  # maximum shift of a pair in thumbnail pixels, a sixteenth of the side
NEIGHBOURS = 6  # candidates per image
SAMPLE = 2000  # minimum sample size for measuring similarity; a tenth in larger sets
RANK, PART = 40, 0.2  # similar images: the 40th nearest of all; in small sets the nearest fifth
REFERENCES = 4  # similar images to average over
COARSELY = 0.6  # maximum descriptor difference of candidates, relative to similar images
FINELY, TONALLY = 0.35, 0.1  # maximum difference of near duplicates relative to similar images: structure, tones
MOST = 0.35  # absolute maximum difference in fine structure (1 - correlation)
LARGE, BLOCKS = 64, 8  # image side and blocks per side for deciding whether two images are the same
SAME = 0.3  # maximum difference of a block, relative to the standard deviation of the image
LARGE_SET = 200_000  # images above which thumbnails are on disk, if there is a folder for them
QUICK_SET, QUICK_SAMPLE = 50_000, 5000  # images above which `Likeness.pairs` may search in parts; sample size there
MOST_SAMPLE = 50_000  # maximum sample size
PROBES, ROUNDS, PER_PART = 8, 5, 40  # parts searched per image; rounds of k-means; images per part that it uses
GAIN, OFFSET = 1.6, 0.25  # maximum brightness factor and offset (relative to the value range) of the same image


# Thumbnails.


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of N images."""

    gray: np.ndarray
    """(N, 32, 32) uint8: resized to a square, contrast stretched."""
    tones: np.ndarray
    """(N, 8, 8, 3) uint8: colours, contrast stretched jointly over the channels."""

    def __getitem__(self, places: np.ndarray) -> Thumbnails:
        return Thumbnails(self.gray[places], self.tones[places])

    @classmethod
    def joined(cls, parts: list[Thumbnails]) -> Thumbnails:
        return cls(np.concatenate([part.gray for part in parts]), np.concatenate([part.tones for part in parts]))


def thumbnails(images: np.ndarray, scratch: Path | None = None) -> Thumbnails:
    """Thumbnails of images (N, H, W, C) uint8 or uint16; works in blocks, so `images` may be memory-mapped.

    scratch: folder for files with the thumbnails of large sets, which may be removed after use. None: in memory.
    """
    num, height, width, _ = images.shape
    gray = _array((num, SIDE, SIDE), np.uint8, "gray", scratch)
    tones = _array((num, TONES, TONES, 3), np.uint8, "tones", scratch)
    block = max(1, 2**21 // (height * width))
    for start in range(0, num, block):
        values = images[start : start + block, :, :, :3].astype(np.float32)
        small = area_means(values.reshape(len(values), height, -1), values.shape[3])
        part = of_means(small, np.iinfo(images.dtype).max)
        gray[start : start + block], tones[start : start + block] = part.gray, part.tones
    return Thumbnails(gray, tones)


def area_means(rows: np.ndarray, channels: int) -> np.ndarray:
    """Images averaged to (N, C, 32, 32) float32. rows: (N, H, W * C) float32, the channels of a pixel side by side."""
    num, height, _ = rows.shape
    weights = averaging(height, SIDE)
    means = np.empty((num, SIDE, rows.shape[2]), np.float32)
    for first in range(0, SIDE, BAND):  # a band of the result depends on few rows
        used = slice(first * height // SIDE, -(-(first + BAND) * height // SIDE))
        np.matmul(weights[first : first + BAND, used], rows[:, used], out=means[:, first : first + BAND])
    planes = np.ascontiguousarray(means.reshape(num, SIDE, -1, channels).transpose(0, 3, 1, 2))
    return planes @ averaging(planes.shape[3], SIDE).T


def of_means(small: np.ndarray, top: int) -> Thumbnails:
    """Thumbnails of images averaged to (N, C, 32, 32), with C at most 3. top: the largest possible value."""
    coarse = averaging(SIDE, TONES) @ small @ averaging(SIDE, TONES).T
    gray, tones = _stretched(small.mean(1), FAINT * top), _stretched(coarse, FAINT * top).transpose(0, 2, 3, 1)
    return Thumbnails(gray, np.repeat(tones, 3, axis=3) if tones.shape[3] == 1 else tones)


def _array(shape: tuple[int, ...], dtype: type, name: str, scratch: Path | None) -> np.ndarray:
    """An empty array; of a large set in a file `name` of the folder `scratch`, if there is one."""
    if scratch is None or shape[0] <= LARGE_SET:
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(scratch / f"{name}.npy", "w+", dtype, shape)


@functools.lru_cache(64)
def averaging(size: int, parts: int) -> np.ndarray:
    """(parts, size) float32 matrix that averages `size` values over `parts` equal, possibly fractional intervals."""
    edges, places = np.arange(parts + 1) * size / parts, np.arange(size)
    covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    return np.clip(covered, 0, None).astype(np.float32) * np.float32(parts / size)


def _stretched(images: np.ndarray, least: float) -> np.ndarray:
    """Each image stretched to 0..255 by its own minimum and maximum."""
    axes = tuple(range(1, images.ndim))
    low, high = images.min(axes, keepdims=True), images.max(axes, keepdims=True)
    return ((images - low) * (255 / np.maximum(high - low, least)) + 0.5).astype(np.uint8)


def descriptors(gray: np.ndarray, places: np.ndarray | None = None, scratch: Path | None = None) -> np.ndarray:
    """(N, 144) float32 rows of length 1 (0 for blank images): coarse structure without brightness and slow shading.

    places: thumbnails to describe; default: all. scratch: see `thumbnails`. The dot product of two rows is the
    correlation of the images, 1 - half of their squared distance.
    """
    places = np.arange(len(gray)) if places is None else places
    coarse = averaging(SIDE, COARSE)
    wide = _smoothing(COARSE) @ coarse
    rows = _array((len(places), COARSE * COARSE), np.float32, "rows", scratch)
    for start in range(0, len(places), BLOCK):
        part = gray[places[start : start + BLOCK]].astype(np.float32)
        structure = coarse @ part @ coarse.T - wide @ part @ wide.T
        rows[start : start + BLOCK] = _of_length_1(structure.reshape(len(part), -1))
    return rows


def _smoothing(size: int) -> np.ndarray:
    """(size, size) float32 matrix of the mean over `WIDE` neighbours, with the border repeated."""
    near = np.clip(np.arange(size)[:, None] + np.arange(WIDE) - WIDE // 2, 0, size - 1)
    return np.eye(size, dtype=np.float32)[near].mean(1)


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) without their mean, scaled to length 1; nearly constant rows become 0."""
    rows = rows - rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1, rows / np.maximum(lengths, 1), 0)


# Search.


def nearest(queries: np.ndarray, base: np.ndarray, k: int, block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `base` (N, D) to each row of `queries` (M, D), nearest first.

    Returns squared Euclidean distances (M, k) float32 and row indices (M, k) int64. Exact, with matrix products in
    blocks; memory grows only with M k. Distances far below the length of the rows are rounding errors (float32).
    """
    base_squares = np.einsum("nd,nd->n", base, base)
    distances = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        best = np.full((len(rows), k), np.inf, np.float32)
        found = np.zeros((len(rows), k), np.int64)
        for offset in range(0, len(base), block):
            part = rows @ base[offset : offset + block].T
            part *= -2
            part += base_squares[offset : offset + block]
            # After the first blocks few rows find a nearer neighbour; only these are sorted again.
            better = np.flatnonzero(part.min(1) < best[:, -1])
            joined = np.concatenate([best[better], part[better]], axis=1)
            places = np.argpartition(joined, k - 1, axis=1)[:, :k]
            best[better] = np.take_along_axis(joined, places, axis=1)
            found[better] = np.where(
                places < k, np.take_along_axis(found[better], np.minimum(places, k - 1), axis=1), places - k + offset
            )
            worst = best[better].argmax(1)
            for array in (best, found):  # the k-th nearest is last
                swapped = array[better]
                last, moved = swapped[:, -1].copy(), swapped[np.arange(len(better)), worst]
                swapped[np.arange(len(better)), worst], swapped[:, -1] = last, moved
                array[better] = swapped
        order = np.argsort(best, axis=1)
        squares = np.einsum("md,md->m", rows, rows)[:, None]
        distances[start : start + block] = np.maximum(np.take_along_axis(best, order, axis=1) + squares, 0)
        indices[start : start + block] = np.take_along_axis(found, order, axis=1)
    return distances, indices


def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float32: 1 - correlation of the fine structure of P pairs (P, 32, 32), at the best small shift."""
    result = np.ones(len(first), np.float32)
    size = fft.next_fast_len(SIDE + REACH, real=True)
    shifts = np.arange(-REACH, REACH + 1)
    for start in range(0, len(first), BLOCK):
        pair = [_fine(side[start : start + BLOCK]) for side in (first, second)]
        spectra = [fft.rfft2(fine, (size, size)) for fine in pair]
        product = fft.irfft2(spectra[0] * spectra[1].conj(), (size, size))
        best = product[:, shifts][:, :, shifts].max((1, 2))
        lengths = np.sqrt((pair[0] ** 2).sum((1, 2)) * (pair[1] ** 2).sum((1, 2)))
        result[start : start + BLOCK] -= np.where(lengths > 1, best / np.maximum(lengths, 1), 0)
    return result


def _fine(gray: np.ndarray) -> np.ndarray:
    """Fine structure without slow shading, faded out at the border because of shifts."""
    values = gray.astype(np.float32)
    values -= _smoothing(SIDE) @ values @ _smoothing(SIDE).T
    places = np.arange(SIDE)
    fade = np.minimum(1, np.minimum(places + 1, SIDE - places) / 3).astype(np.float32)
    return values * (fade[:, None] * fade)


def tone_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float32: 1 - correlation of the tones of P pairs (P, 8, 8, 3)."""
    pair = [_of_length_1(side.reshape(-1, 3 * TONES**2).astype(np.float32)) for side in (first, second)]
    return 1 - np.einsum("nd,nd->n", *pair)


class Parts:
    """Approximate search in rows (N, D) of length 1 or 0: about sqrt(N) parts by spherical k-means, of which the
    nearest few are searched. Very similar rows are nearly always in the same part or in neighbouring ones."""

    def __init__(self, rows: np.ndarray, seed: int = 0) -> None:
        num = max(1, round(len(rows) ** 0.5))
        chosen = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[: PER_PART * num])]
        self.rows, self.centres = rows, chosen[:: max(1, len(chosen) // num)][:num].copy()
        for _ in range(ROUNDS):
            part = (chosen @ self.centres.T).argmax(1)
            sums = np.zeros_like(self.centres)
            np.add.at(sums, part, chosen)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            self.centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-9), self.centres)
        part = np.concatenate([self._near(np.arange(len(rows))[at : at + BLOCK], 1)[:, 0] for at in _steps(len(rows))])
        self.order = np.argsort(part, kind="stable")
        self.ends = np.searchsorted(part[self.order], np.arange(num + 1))

    def _near(self, places: np.ndarray, num: int) -> np.ndarray:
        """(M, num) the nearest parts of rows, in no order."""
        similar = self.rows[places] @ self.centres.T
        return np.argpartition(-similar, num - 1, axis=1)[:, :num] if num > 1 else similar.argmax(1)[:, None]

    def nearest(self, places: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest` for the rows at `places`, with infinite distances if fewer than k were found."""
        near = self._near(places, min(PROBES, len(self.centres)))
        who = np.repeat(np.arange(len(places)), near.shape[1])[np.argsort(near.ravel(), kind="stable")]
        counts = np.cumsum(np.bincount(near.ravel(), minlength=len(self.centres)))
        similar = np.full((len(places), k), -np.inf, np.float32)
        found = np.zeros((len(places), k), np.int64)
        for number, (start, stop) in enumerate(zip([0, *counts[:-1]], counts, strict=True)):
            members = self.order[self.ends[number] : self.ends[number + 1]]
            if start == stop or not len(members):
                continue
            asked = who[start:stop]
            part = self.rows[places[asked]] @ self.rows[members].T
            best = np.argpartition(-part, k - 1, axis=1)[:, :k] if part.shape[1] > k else np.arange(part.shape[1])[None]
            best = np.broadcast_to(best, (len(asked), best.shape[1]))
            values = np.concatenate([similar[asked], np.take_along_axis(part, best, axis=1)], axis=1)
            indices = np.concatenate([found[asked], members[best]], axis=1)
            order = np.argsort(-values, axis=1)[:, :k]
            similar[asked] = np.take_along_axis(values, order, axis=1)
            found[asked] = np.take_along_axis(indices, order, axis=1)
        squares = np.square(self.rows[places]).sum(1)[:, None]
        return np.maximum(squares + np.square(self.rows[found]).sum(2) - 2 * similar, 0), found


def _steps(num: int) -> range:
    return range(0, num, BLOCK)


# Near duplicates.


def _keys(thumbs: Thumbnails) -> np.ndarray:
    """(N,) keys that are equal for equal thumbnails: their bytes, or in large sets a hash."""
    num = len(thumbs.gray)
    if num <= LARGE_SET:
        keys = np.concatenate([thumbs.gray.reshape(num, -1), thumbs.tones.reshape(num, -1)], axis=1)
        return keys.view(np.dtype((np.void, keys.shape[1])))[:, 0]
    keys = np.empty(num, np.dtype((np.void, KEY)))
    for i, (gray, tones) in enumerate(zip(thumbs.gray, thumbs.tones, strict=True)):
        keys[i] = np.void(hashlib.blake2b(gray.tobytes() + tones.tobytes(), digest_size=KEY).digest())
    return keys


KEY = 16  # bytes of a hash


class Likeness:
    """Finds near duplicates among N images."""

    def __init__(self, thumbs: Thumbnails, seed: int = 0, *, scratch: Path | None = None, quick: bool = False) -> None:
        """scratch: see `thumbnails`. quick: in large sets, search a part of the images and a smaller sample."""
        # Identical thumbnails count as one from here on.
        _, self.unique, self.twin = np.unique(_keys(thumbs), return_index=True, return_inverse=True)
        self.thumbs = thumbs
        self.rows = descriptors(thumbs.gray, self.unique, scratch)
        num = len(self.unique)
        self.quick = quick and num > QUICK_SET
        size = min(max(SAMPLE, num // 10), QUICK_SAMPLE if self.quick else MOST_SAMPLE)
        self.sample = np.random.default_rng(seed).permutation(num)[:size]
        rank = max(REFERENCES, int(min(PART * num, RANK) * len(self.sample) / num))
        self.rank = max(0, min(rank, len(self.sample) - REFERENCES))

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
        found = [equal[equal[:, 0] != equal[:, 1]]]
        for start in range(0, len(asked), BLOCK):
            found.append(self.unique[self._near(asked[start : start + BLOCK])])
        return np.unique(np.sort(np.concatenate(found), 1), axis=0)

    def _near(self, asked: np.ndarray) -> np.ndarray:
        """(P, 2) pairs of unique images; the first of each is from `asked`."""
        k = min(NEIGHBOURS + 1, len(self.rows))
        distances, found = self.parts.nearest(asked, k) if self.quick else nearest(self.rows[asked], self.rows, k)
        alike, references = self._alike(asked)
        who, which = np.nonzero((distances / 2 < COARSELY * alike[:, None]) & (found != asked[:, None]))
        pairs = np.stack([asked[who], found[who, which]], 1)
        fine, tones = self._differences(pairs)
        for side in (0, 1):  # the condition must hold for the similar images of both
            kept = np.flatnonzero(fine < MOST)
            pairs, fine, tones = pairs[kept], fine[kept], tones[kept]
            places, back = np.unique(pairs[:, side], return_inverse=True)
            if side == 0:
                references = references[np.searchsorted(asked, places)]
            else:
                _, references = self._alike(places)
            fine_apart, tones_apart = self._apart(places, references)
            near = (fine < FINELY * fine_apart[back]) & (tones < TONALLY * tones_apart[back])
            fine = np.where(near, fine, np.inf)
        return pairs[fine < MOST]

    def _alike(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Descriptor difference (n,) to similar images, and their indices (n, 4), for each of these images."""
        k = min(self.rank + REFERENCES, len(self.sample))
        distances, found = nearest(self.rows[places], self.rows[self.sample], k)
        return distances[:, self.rank] / 2, self.sample[found[:, self.rank :]]

    def _apart(self, places: np.ndarray, references: np.ndarray) -> list[np.ndarray]:
        """Mean difference (n,) to similar images in fine structure and in tones."""
        num = references.shape[1]
        pairs = np.stack([np.repeat(places, num), references.ravel()], 1)
        return [apart.reshape(-1, num).mean(1) for apart in self._differences(pairs)]

    def _differences(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = (self.thumbs[self.unique[side]] for side in pairs.T)
        return differences(first.gray, second.gray), tone_differences(first.tones, second.tones)


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
    found = dict(zip(*_split(family[order], order), strict=True))
    return [found[number] for number in dict.fromkeys(family[places].tolist())]


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
    found = np.zeros(len(pairs), bool)
    height, width = images.shape[1:3]
    sides = min(LARGE, height), min(LARGE, width)
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
        worst = (averaging(sides[0], BLOCKS) @ apart.mean(1) @ averaging(sides[1], BLOCKS).T).max((1, 2))
        brighter = np.abs(means[0] - means[1])[:, 0, 0, 0] / np.iinfo(images.dtype).max
        alike = (worst < SAME**2 * spreads[1]) & (gain < GAIN) & (gain > 1 / GAIN) & (brighter < OFFSET)
        found[start : start + block] = equal | alike
    return found
