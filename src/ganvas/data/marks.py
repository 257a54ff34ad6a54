"""Burned-in marks: letters, numbers and symbols that many pictures carry, wherever they stand.

A generator learns a mark that enough of its pictures carry, and a classifier may learn the mark in place of the
picture (Zech et al. 2018: a metal token gave the hospital away). Each picture is searched for spots: small, sharp,
bright or dark, in a smooth surrounding, towards the border. Spots of the same shape in many pictures are a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from ganvas.data.near import averaging

WORKING = 256  # pixels of the longer side at which spots are looked for
PATCH = 16  # pixels of a spot's side when shapes are compared
SMALLEST, LARGEST = 4, 1 / 8  # longer side of a spot: at least in pixels, at most of the picture's shorter side
THINNEST = 0.2  # shorter side by longer side
BORDER = 0.35  # spots lie in this part of the picture, counted from a border
RAISED = 0.12  # a spot stands out from its surroundings by this part of the picture's range, or more
SMOOTH = 0.5  # standard deviation of the surroundings by the spot's contrast
PER_PICTURE = 8  # spots kept of a picture, the strongest
SAME = 0.85  # correlation of two spots of the same shape
LIKE = 0.75  # ... of a spot with the mark's mean shape
PLAIN = 0.85  # a mark whose shape is a mere blob or line, to this correlation, is none
LEAST, LEAST_SHARE = 5, 0.03  # a mark is in this many pictures and in this part of them, at least
EXAMINED = 2000  # pictures that say which marks there are


@dataclass(frozen=True, slots=True)
class Spot:
    """A place of a picture that might be a mark."""

    box: tuple[float, float, float, float]
    """Top, left, height and width as parts of the picture's height and width."""
    bright: bool
    contrast: float
    patch: np.ndarray
    """(16, 16) float32: the spot, squeezed to this size, mean 0 and length 1."""


@dataclass(frozen=True)
class Mark:
    """A mark that many pictures carry."""

    bright: bool
    template: np.ndarray
    """(16, 16) float32: the mean shape, mean 0 and length 1."""
    size: float
    """Median of the longer side, as a part of the picture's shorter side."""
    share: float
    """Part of the examined pictures that carry it."""
    places: dict[int, tuple[float, float, float, float]]
    """Number of a picture -> top, left, height and width in it, as parts of its height and width."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box that most of its places share: medians of top, left, height and width."""
        top, left, height, width = np.median(list(self.places.values()), axis=0).tolist()
        return top, left, height, width


def marks(pictures: np.ndarray, seed: int = 0) -> list[Mark]:
    """The marks of pictures (N, H, W, C) uint8 or uint16, the most frequent first; `places` count from 0 to N - 1.

    Of more than 2,000 pictures that many are drawn by the seed and examined.
    """
    numbers = np.arange(len(pictures))
    if len(pictures) > EXAMINED:
        numbers = np.sort(np.random.default_rng(seed).choice(len(pictures), EXAMINED, replace=False))
    return gathered({int(number): spots(pictures[number]) for number in numbers})


def share(mark: Mark, pictures: np.ndarray) -> float:
    """Part of these pictures (N, H, W, C), real or generated, uint8 or uint16, that carry `mark`."""
    return sum(find(mark, picture) is not None for picture in pictures) / len(pictures)


def find(mark: Mark, picture: np.ndarray) -> tuple[float, float, float, float] | None:
    """Where a picture (H, W, C) carries `mark`: top, left, height and width as parts of its own; None: nowhere."""
    return _best(mark, spots(picture))


def spots(picture: np.ndarray) -> list[Spot]:
    """The places of a picture (H, W, C) uint8 or uint16 that might be a mark, the strongest first."""
    gray = _working(picture)
    span = float(np.ptp(gray))
    if span < 0.1:
        return []
    gray = (gray - gray.min()) / span
    found = [*_bright_spots(gray, True), *_bright_spots(1 - gray, False)]
    return sorted(found, key=lambda spot: -spot.contrast)[:PER_PICTURE]


def _working(picture: np.ndarray) -> np.ndarray:
    """(H, W) float32 in 0..1, the longer side at most about `WORKING` pixels."""
    gray = picture[..., :3].mean(2, dtype=np.float32) / np.iinfo(picture.dtype).max
    height, width = gray.shape
    factor = max(height, width) / WORKING
    if factor <= 1:
        return gray
    return averaging(height, round(height / factor)) @ gray @ averaging(width, round(width / factor)).T


def _bright_spots(gray: np.ndarray, bright: bool) -> list[Spot]:
    """Small regions that stand out from an opening with a square somewhat larger than a mark."""
    height, width = gray.shape
    side = min(height, width)
    reach = max(5, round(side * LARGEST)) | 1
    regions, _ = ndimage.label(
        gray - ndimage.grey_opening(gray, (reach, reach), mode="nearest") > RAISED, np.ones((3, 3))
    )
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), start=1):
        tall, broad = rows.stop - rows.start, columns.stop - columns.start
        longer = max(tall, broad)
        if not (SMALLEST <= longer <= side * LARGEST and min(tall, broad) >= max(2, THINNEST * longer)):
            continue
        middle = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
        if min(middle[0] / height, middle[1] / width, 1 - middle[0] / height, 1 - middle[1] / width) > BORDER:
            continue
        margin = max(2, round(0.4 * longer))
        around = (
            slice(max(0, rows.start - margin), rows.stop + margin),
            slice(max(0, columns.start - margin), columns.stop + margin),
        )
        ring, inside = gray[around][regions[around] != number], gray[rows, columns][regions[rows, columns] == number]
        contrast = float(np.percentile(inside, 75) - np.median(ring))
        if contrast < RAISED or ring.std() > SMOOTH * contrast:
            continue
        box = (rows.start / height, columns.start / width, tall / height, broad / width)
        found.append(Spot(box, bright, contrast, _patch(gray, middle, 1.25 * longer)))
    return found


def _patch(gray: np.ndarray, middle: tuple[float, float], size: float) -> np.ndarray:
    """A square of `size` pixels about `middle`, sampled at 16x16 points; mean 0, length 1."""
    steps = ((np.arange(PATCH) + 0.5) / PATCH - 0.5) * size - 0.5
    places = np.meshgrid(middle[0] + steps, middle[1] + steps, indexing="ij")
    return _normal(ndimage.map_coordinates(gray, places, order=1, mode="nearest"))


def _normal(patch: np.ndarray) -> np.ndarray:
    patch = patch - patch.mean()
    return (patch / max(float(np.linalg.norm(patch)), 1e-6)).astype(np.float32)


# From spots to marks.


def gathered(spots_of: dict[int, Sequence[Spot]]) -> list[Mark]:
    """The marks among the spots of examined pictures, by the pictures' numbers; the most frequent first."""
    flat = [(number, spot) for number, found in spots_of.items() for spot in found]
    least = max(LEAST, LEAST_SHARE * len(spots_of))
    if len(flat) < least:
        return []
    rows = np.stack([spot.patch.ravel() for _, spot in flat])
    bright = np.array([spot.bright for _, spot in flat])
    alike = (rows @ rows.T > SAME) & (bright[:, None] == bright)
    groups = connected_components(alike, directed=False)[1]
    marks: list[Mark] = []
    for group in np.argsort(-np.bincount(groups), kind="stable"):
        members = np.flatnonzero(groups == group)
        if len(members) < least:
            break
        template = _normal(rows[members].mean(0).reshape(PATCH, PATCH))
        if _is_plain(template):
            continue
        size = float(np.median([max(flat[member][1].box[2:]) for member in members]))
        mark = Mark(bool(bright[members[0]]), template, size, 0.0, {})
        places = {number: box for number, found in spots_of.items() if (box := _best(mark, found))}
        if len(places) >= least and not any(_overlap(places, other.places) for other in marks):
            marks.append(Mark(mark.bright, template, size, len(places) / len(spots_of), places))
    return sorted(marks, key=lambda mark: -mark.share)


def _best(mark: Mark, found: Sequence[Spot]) -> tuple[float, float, float, float] | None:
    """The box of the spot that has the mark's shape and about its size."""
    matches = [
        (float((spot.patch * mark.template).sum()), spot.box)
        for spot in found
        if spot.bright == mark.bright and 0.5 < max(spot.box[2:]) / mark.size < 2
    ]
    best = max(matches, default=(0.0, None), key=lambda match: match[0])
    return best[1] if best[0] > LIKE else None


def _is_plain(template: np.ndarray) -> bool:
    """Whether the shape is a mere blob or stroke: what a Gaussian of its own moments is as well."""
    mass = np.clip(template - np.median(template), 0, None).ravel()
    places = np.stack(np.meshgrid(np.arange(PATCH), np.arange(PATCH), indexing="ij")).reshape(2, -1)
    offsets = places - (places @ mass / mass.sum())[:, None]
    spread = (offsets * mass) @ offsets.T / mass.sum() + 0.1 * np.eye(2)
    blob = np.exp(-0.5 * np.einsum("in,ij,jn->n", offsets, np.linalg.inv(spread), offsets))
    return float((_normal(blob.reshape(PATCH, PATCH)) * template).sum()) > PLAIN


def _overlap(places: dict[int, tuple[float, ...]], others: dict[int, tuple[float, ...]]) -> bool:
    """Whether most of these boxes touch the other mark's in the same picture: a hole of a letter is no mark itself."""
    touching = 0
    for number in places.keys() & others.keys():
        one, other = places[number], others[number]
        touching += all(
            one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1)
        )
    return touching > len(places) / 2
