"""Thumbnails of 1.2 kilobytes per image, and their descriptors, for the search for near duplicates.

`thumbnails_of` gives those of a set: in memory, or of a large set made again whenever they are used.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

THUMBNAILS_AT_A_TIME = (
    2048  # images, or rows and columns of a distance block, at a time: 32 MB in float64, 16 MB in float32
)
_PIXELS = 2**18  # pixels at a time: a megabyte, which stays in the cache of a processor
SIDE, _COARSE, TONES = 32, 12, 8  # side of: gray thumbnail, descriptor, tones
_BAND = 8  # rows of a gray thumbnail that are averaged together
_WIDE = 5  # side of the local mean that is subtracted
_FAINT = 0.03  # lower contrast, relative to the value range, is not stretched, because it may be noise
LARGE_SET = 200_000  # images above which thumbnails are not kept, if there is a folder for temporary files
_KEY = 16  # bytes of a hash

_Described = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Descriptors (U, 144) of images with different thumbnails, the index of the first image (U,) with each of these
thumbnails, and the row (N,) of every image."""


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

    def flat(self) -> np.ndarray:
        """(N, 1216) uint8: all values of each thumbnail."""
        num = len(self.gray)
        return np.concatenate([self.gray.reshape(num, -1), self.tones.reshape(num, -1)], axis=1)

    def described(self) -> _Described:
        flat = self.flat()
        keys = flat.view(np.dtype((np.void, flat.shape[1])))[:, 0]
        _, unique, twin = np.unique(keys, return_index=True, return_inverse=True)
        return descriptors(self.gray, unique), unique, twin


@dataclass(frozen=True)
class OnDemand:
    """Thumbnails of a large set of images (N, H, W, C), made when they are used: neither memory nor disk hold them.

    The descriptors (576 bytes per image) are in a file of the folder `scratch`.
    """

    images: np.ndarray
    scratch: Path

    def __getitem__(self, places: np.ndarray) -> Thumbnails:
        return thumbnails(self.images, places)

    def described(self) -> _Described:
        num = len(self.images)
        shape = (num, _COARSE * _COARSE)
        rows = np.lib.format.open_memmap(self.scratch / "rows.npy", "w+", np.float32, shape)
        keys = np.empty(num, np.dtype((np.void, _KEY)))
        for start in range(0, num, THUMBNAILS_AT_A_TIME):
            part = thumbnails(self.images, np.arange(start, min(start + THUMBNAILS_AT_A_TIME, num)))
            rows[start : start + THUMBNAILS_AT_A_TIME] = descriptors(part.gray)
            hashes = [hashlib.blake2b(flat, digest_size=_KEY).digest() for flat in part.flat()]
            keys[start : start + THUMBNAILS_AT_A_TIME] = np.frombuffer(b"".join(hashes), keys.dtype)
            release(self.images, rows)
        _, unique, twin = np.unique(keys, return_index=True, return_inverse=True)
        del keys
        # In the order of the images, so that the rows of the unique ones can be moved together within the file.
        order = np.argsort(unique)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        unique, twin = unique[order], rank[twin]
        for start in range(0, len(unique) if len(unique) < num else 0, THUMBNAILS_AT_A_TIME):
            part_of = unique[start : start + THUMBNAILS_AT_A_TIME]
            rows[start : start + len(part_of)] = rows[part_of]
            release(rows)
        return rows[: len(unique)], unique, twin


def thumbnails_of(images: np.ndarray, scratch: Path | None = None) -> Thumbnails | OnDemand:
    """Thumbnails of images (N, H, W, C) uint8 or uint16.

    scratch: folder for temporary files, so that memory does not grow with a large set. None: all in memory.
    """
    if scratch is None or len(images) <= LARGE_SET:
        return thumbnails(images)
    return OnDemand(images, scratch)


def release(*arrays: np.ndarray) -> None:
    """Lets the system take back the memory of arrays that are memory-mapped files; their contents stay."""
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def thumbnails(images: np.ndarray, places: np.ndarray | None = None) -> Thumbnails:
    """Thumbnails of images (N, H, W, C) uint8 or uint16, or of those at `places`; in blocks, so `images` may be
    memory-mapped."""
    num = len(images) if places is None else len(places)
    height, width = images.shape[1:3]
    gray = np.empty((num, SIDE, SIDE), np.uint8)
    tones = np.empty((num, TONES, TONES, 3), np.uint8)
    block = max(1, _PIXELS // max(height * width, SIDE * SIDE))
    for start in range(0, num, block):
        chosen = slice(start, start + block) if places is None else places[start : start + block]
        values = np.ascontiguousarray(images[chosen][..., :3])
        small = area_means(values.reshape(len(values), height, -1), values.shape[3])
        part = of_means(small, np.iinfo(images.dtype).max)
        gray[start : start + block], tones[start : start + block] = part.gray, part.tones
    return Thumbnails(gray, tones)


def area_means(rows: np.ndarray, channels: int, squares: np.ndarray | None = None) -> np.ndarray:
    """Images averaged to (N, C, 32, 32) float32. rows: (N, H, W * C), the channels of a pixel side by side.

    squares: (N, W * C) float64, to which the sum of the squares of each column is added.
    """
    num, height, _ = rows.shape
    weights = averaging(height, SIDE)
    means = np.empty((num, SIDE, rows.shape[2]), np.float32)
    for first in range(0, SIDE, _BAND):  # a band of the result depends on few rows, which fit into the cache
        start, end = first * height // SIDE, (first + _BAND) * height // SIDE
        used = slice(start, -(-(first + _BAND) * height // SIDE))
        values = rows[:, used].astype(np.float32)
        np.matmul(weights[first : first + _BAND, used], values, out=means[:, first : first + _BAND])
        if squares is not None:
            own = values[:, : end - start]
            squares += np.einsum("nhv,nhv->nv", own, own)
    planes = np.ascontiguousarray(means.reshape(num, SIDE, -1, channels).transpose(0, 3, 1, 2))
    return planes @ averaging(planes.shape[3], SIDE).T


def of_means(small: np.ndarray, top: int) -> Thumbnails:
    """Thumbnails of images averaged to (N, C, 32, 32), with C at most 3. top: the largest possible value."""
    coarse = averaging(SIDE, TONES) @ small @ averaging(SIDE, TONES).T
    bright = small.mean(1) if small.shape[1] > 1 else small[:, 0]
    gray, tones = _stretched(bright, _FAINT * top), _stretched(coarse, _FAINT * top).transpose(0, 2, 3, 1)
    return Thumbnails(gray, np.repeat(tones, 3, axis=3) if tones.shape[3] == 1 else tones)


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
    values = images - low
    values *= 255 / np.maximum(high - low, least)
    values += 0.5
    return values.astype(np.uint8)


def descriptors(gray: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """(N, 144) float32 rows of length 1 (0 for blank images): coarse structure without brightness and slow shading.

    places: thumbnails to describe; default: all. The dot product of two rows is the correlation of the images, 1 - half
    of their squared distance.
    """
    places = np.arange(len(gray)) if places is None else places
    coarse = averaging(SIDE, _COARSE)
    wide = smoothing(_COARSE) @ coarse
    rows = np.empty((len(places), _COARSE * _COARSE), np.float32)
    block = _PIXELS // SIDE**2
    for start in range(0, len(places), block):
        part = gray[places[start : start + block]].astype(np.float32)
        structure = coarse @ part @ coarse.T - wide @ part @ wide.T
        rows[start : start + block] = of_length_1(structure.reshape(len(part), -1))
    return rows


def smoothing(size: int) -> np.ndarray:
    """(size, size) float32 matrix of the mean over `_WIDE` neighbours, with the border repeated."""
    near = np.clip(np.arange(size)[:, None] + np.arange(_WIDE) - _WIDE // 2, 0, size - 1)
    return np.eye(size, dtype=np.float32)[near].mean(1)


def of_length_1(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) without their mean, scaled to length 1; nearly constant rows become 0."""
    rows = rows - rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1, rows / np.maximum(lengths, 1), 0)
