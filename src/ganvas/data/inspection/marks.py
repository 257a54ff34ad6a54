"""Burned-in marks: letters, numbers and symbols in many images, at any position.

A generator learns marks that are frequent in its images, and a classifier may learn the mark instead of the image
(Zech et al. 2018: a metal token revealed the hospital). Each image is searched for spots: small, sharp, bright or
dark, on a smooth background, near the border. Spots of the same shape in many images are a mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ganvas.data.inspection.near_duplicates import grouped
from ganvas.data.inspection.thumbnails import THUMBNAILS_AT_A_TIME, averaging

_WORKING = 256  # longer image side for the search, in pixels
_PATCH = 16  # side of a spot for comparing shapes, in pixels
_SMALLEST, _LARGEST = 6, 1 / 8  # longer side of a spot: minimum in pixels, maximum relative to the shorter image side
_THINNEST = 0.2  # minimum ratio of shorter to longer side
_BORDER = 0.35  # maximum distance of a spot from a border, as a fraction of the image side
_LEVELS = (0.12, 0.25, 0.45)  # contrast thresholds relative to the value range of the image
_SHARP = 0.4  # minimum 95th percentile of pixel differences, relative to the value range of the spot
_SMOOTH = 0.35  # maximum standard deviation of the surroundings, relative to the contrast of the spot
_PER_PICTURE = 12  # maximum spots per image, strongest first
_SAME = 0.85  # minimum correlation of two spots of the same shape
_LIKE = 0.75  # minimum correlation of a spot with the mean shape of the mark
_UNITED, _CORE = 0.87, 0.7  # minimum correlation with the mean shape; fraction of the spots that must remain
_GENERIC = 1.5  # a shape that matches this many times more images than it was found in is not a mark
_PLAIN = 0.85  # a spot with this correlation to a simple blob or stroke is not a mark
_PLACES = np.indices((_PATCH, _PATCH)).reshape(2, -1)
_LEAST, _LEAST_SHARE = 5, 0.05  # minimum number and fraction of images with the mark
_GROWN = 0.3  # margin around the box that is also filled, relative to its longer side
EXAMINED = 1000  # maximum images searched for marks

Box = tuple[float, float, float, float]
"""Top, left, height and width as fractions of the image height and width."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A possible mark in an image."""

    box: Box
    bright: bool
    contrast: float
    patch: np.ndarray
    """(16, 16) float32: the spot, resized, mean 0 and length 1."""


@dataclass(frozen=True)
class Mark:
    """A mark in many images."""

    bright: bool
    template: np.ndarray
    """(16, 16) float32: mean shape, mean 0 and length 1."""
    size: float
    """Median of the longer side, relative to the shorter image side."""
    share: float
    """Fraction of the examined images that have it."""
    places: dict[int, Box]
    """Index of an image -> position in it."""

    @property
    def box(self) -> Box:
        """Typical position: medians of top, left, height and width."""
        top, left, height, width = np.median(list(self.places.values()), axis=0).tolist()
        return top, left, height, width


def marks(images: np.ndarray, seed: int = 0) -> list[Mark]:
    """Marks in images (N, H, W, C) uint8 or uint16, most frequent first; `places` has indices 0 to N - 1.

    If there are more than 1,000 images, a random sample of 1,000 is examined.
    """
    numbers = np.arange(len(images))
    if len(images) > EXAMINED:
        numbers = np.sort(np.random.default_rng(seed).choice(len(images), EXAMINED, replace=False))
    return gathered({int(number): spots(images[number]) for number in numbers})


def share(mark: Mark, images: np.ndarray) -> float:
    """Fraction of images (N, H, W, C), real or generated, uint8 or uint16, with `mark`."""
    return sum(find(mark, picture) is not None for picture in images) / len(images)


def find(mark: Mark, picture: np.ndarray) -> Box | None:
    """Position of `mark` in an image (H, W, C) uint8 or uint16, or None."""
    return _best(mark, spots(picture))


def spots(picture: np.ndarray) -> list[Spot]:
    """Possible marks in an image (H, W, C) uint8 or uint16, strongest first."""
    gray = _working(picture)
    span = float(np.ptp(gray))
    if span < 0.1:
        return []
    gray = (gray - gray.min()) / span
    candidates = [*_bright_spots(gray, True), *_bright_spots(1 - gray, False)]
    return sorted(candidates, key=lambda spot: -spot.contrast)[:_PER_PICTURE]


def _working(picture: np.ndarray) -> np.ndarray:
    """(H, W) float32 in 0..1, the longer side at most about `_WORKING` pixels."""
    gray = picture[..., :3].mean(2, dtype=np.float32) / np.iinfo(picture.dtype).max
    height, width = gray.shape
    factor = max(height, width) / _WORKING
    if factor <= 1:
        return gray
    return averaging(height, round(height / factor)) @ gray @ averaging(width, round(width / factor)).T


def _bright_spots(gray: np.ndarray, bright: bool) -> list[Spot]:
    """Small regions that are brighter than a morphological opening with a square larger than a mark."""
    reach = max(5, round(min(gray.shape) * _LARGEST)) | 1
    raised = gray - ndimage.grey_opening(gray, (reach, reach), mode="nearest")
    bright_spots = []
    for level in _LEVELS:  # low levels find faint marks, high levels separate marks from their neighbours
        regions, _ = ndimage.label(raised > level, np.ones((3, 3)))
        for number, region in enumerate(ndimage.find_objects(regions), start=1):
            spot = _spot(gray, regions, number, region, bright)
            if spot is not None and all(spot.box != other.box for other in bright_spots):
                bright_spots.append(spot)
    return bright_spots


def _spot(gray: np.ndarray, regions: np.ndarray, number: int, region: tuple[slice, slice], bright: bool) -> Spot | None:
    """The spot of region `number`, if it is small, not too thin, near the border and on a smooth background."""
    height, width = gray.shape
    rows, columns = region
    if not (rows.start and columns.start and rows.stop < height and columns.stop < width):
        return None  # cut off by the border
    tall, broad = rows.stop - rows.start, columns.stop - columns.start
    longer = max(tall, broad)
    if not (_SMALLEST <= longer <= min(height, width) * _LARGEST and min(tall, broad) >= max(2, _THINNEST * longer)):
        return None
    middle = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
    if min(middle[0] / height, middle[1] / width, 1 - middle[0] / height, 1 - middle[1] / width) > _BORDER:
        return None
    margin = max(2, round(0.4 * longer))
    around = (
        slice(max(0, rows.start - margin), rows.stop + margin),
        slice(max(0, columns.start - margin), columns.stop + margin),
    )
    ring, inside = gray[around][regions[around] != number], gray[region][regions[region] == number]
    contrast = _quantile(inside, 0.75) - _quantile(ring, 0.5)
    if contrast < _LEVELS[0] or ring.std() > _SMOOTH * contrast:
        return None
    edges = gray[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1]
    steps = np.abs(np.concatenate([np.diff(edges, axis=0).ravel(), np.diff(edges, axis=1).ravel()]))
    patch = _patch(gray, middle, 1.25 * longer)
    if _quantile(steps, 0.95) < _SHARP * np.ptp(edges) or _is_plain(patch):
        return None
    box = (rows.start / height, columns.start / width, tall / height, broad / width)
    return Spot(box, bright, contrast, patch)


def _quantile(values: np.ndarray, part: float) -> float:
    """`np.quantile` of a few values (N,), without its overhead, which is larger than the sorting."""
    ordered = np.sort(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def _patch(gray: np.ndarray, middle: tuple[float, float], size: float) -> np.ndarray:
    """A square of `size` pixels around `middle`, sampled at 16x16 points; mean 0, length 1."""
    steps = ((np.arange(_PATCH) + 0.5) / _PATCH - 0.5) * size - 0.5
    places = np.meshgrid(middle[0] + steps, middle[1] + steps, indexing="ij")
    return _normal(ndimage.map_coordinates(gray, places, order=1, mode="nearest"))


def _normal(patch: np.ndarray) -> np.ndarray:
    patch = patch - patch.mean()
    return (patch / max(float(np.linalg.norm(patch)), 1e-6)).astype(np.float32)


def without(mark: Mark, picture: np.ndarray) -> np.ndarray | None:
    """The image (H, W, C) with its mark filled in smoothly from the surroundings; None if it has no mark.

    The box is interpolated between its four sides (Coons 1967), each smoothed along its length.
    """
    box = find(mark, picture)
    if box is None:
        return None
    height, width = picture.shape[:2]
    margin = _GROWN * max(box[2] * height, box[3] * width) + 1
    top, bottom = (round(max(0, edge)) for edge in (box[0] * height - margin, (box[0] + box[2]) * height + margin))
    left, right = (round(max(0, edge)) for edge in (box[1] * width - margin, (box[1] + box[3]) * width + margin))
    bottom, right = min(bottom, height), min(right, width)
    filled = picture.copy()
    filled[top:bottom, left:right] = _coons(picture.astype(np.float32), top, bottom, left, right).round()
    return filled


def _coons(picture: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """(bottom - top, right - left, C) interpolation between the lines around a box; at a border uses the opposite."""
    height, width = picture.shape[:2]
    above, below = picture[max(top - 1, 0), left:right], picture[min(bottom, height - 1), left:right]
    before, after = picture[top:bottom, max(left - 1, 0)], picture[top:bottom, min(right, width - 1)]
    above, below = (below if top == 0 else above), (above if bottom == height else below)
    before, after = (after if left == 0 else before), (before if right == width else after)
    above, below, before, after = (
        ndimage.uniform_filter1d(line, max(3, len(line) // 3), axis=0, mode="nearest")
        for line in (above, below, before, after)
    )
    down = ((np.arange(bottom - top) + 0.5) / (bottom - top))[:, None, None]
    across = ((np.arange(right - left) + 0.5) / (right - left))[None, :, None]
    lines = (1 - down) * above + down * below + (1 - across) * before[:, None] + across * after[:, None]
    corners = [
        (one[end] + other[side]) / 2
        for one, end, other, side in (
            (above, 0, before, 0),
            (above, -1, after, 0),
            (below, 0, before, -1),
            (below, -1, after, -1),
        )
    ]
    upper, lower = ((1 - across) * corners[i] + across * corners[i + 1] for i in (0, 2))
    around = np.concatenate([above, below, before, after])
    return np.clip(lines - (1 - down) * upper - down * lower, around.min(0), around.max(0))


# From spots to marks.


def gathered(spots_of: Mapping[int, Sequence[Spot]]) -> list[Mark]:
    """Marks among the spots of examined images (index -> spots), most frequent first."""
    flat = [(number, spot) for number, candidates in spots_of.items() for spot in candidates]
    least = max(_LEAST, _LEAST_SHARE * len(spots_of))
    if len(flat) < least:
        return []
    rows = np.stack([spot.patch.ravel() for _, spot in flat])
    bright = np.array([spot.bright for _, spot in flat])
    groups = _groups(rows, bright)
    marks: list[Mark] = []
    for group in np.argsort(-np.bincount(groups), kind="stable"):
        members = np.flatnonzero(groups == group)
        if len(members) < least:
            break
        core = members
        for _ in range(2):  # remove spots that were only linked by a chain
            template = _normal(rows[core].mean(0).reshape(_PATCH, _PATCH))
            core = members[rows[members] @ template.ravel() > _LIKE]
        if len(core) < _CORE * len(members) or (rows[core] @ template.ravel()).mean() < _UNITED:
            continue
        size = float(np.median([max(flat[member][1].box[2:]) for member in core]))
        mark = Mark(bool(bright[members[0]]), template, size, 0.0, {})
        places = {number: box for number, candidates in spots_of.items() if (box := _best(mark, candidates))}
        enough = least <= len(places) < _GENERIC * len({flat[member][0] for member in core})
        if enough and not any(_overlap(places, other.places) for other in marks):
            marks.append(Mark(mark.bright, template, size, len(places) / len(spots_of), places))
    return sorted(marks, key=lambda mark: -mark.share)


def _groups(rows: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """(S,) group index of each spot; similar spots are connected."""
    links = []
    for start in range(0, len(rows), THUMBNAILS_AT_A_TIME):
        alike = (rows[start : start + THUMBNAILS_AT_A_TIME] @ rows.T > _SAME) & (
            bright[start : start + THUMBNAILS_AT_A_TIME, None] == bright
        )
        links.append(np.argwhere(np.triu(alike, start + 1)) + np.array([start, 0]))
    return grouped(len(rows), np.concatenate(links))


def _best(mark: Mark, candidates: Sequence[Spot]) -> Box | None:
    """Box of the spot with the shape and about the size of the mark, or None."""
    matches = [
        (float((spot.patch * mark.template).sum()), spot.box)
        for spot in candidates
        if spot.bright == mark.bright and 0.5 < max(spot.box[2:]) / mark.size < 2
    ]
    best = max(matches, default=(0.0, None), key=lambda match: match[0])
    return best[1] if best[0] > _LIKE else None


def _is_plain(patch: np.ndarray) -> bool:
    """Whether the shape is a simple blob or stroke, similar to a Gaussian with the same moments."""
    mass = np.clip(patch - np.median(patch), 0, None).ravel()
    if not mass.any():
        return True  # more than half of it is filled
    offsets = _PLACES - (_PLACES @ mass / mass.sum())[:, None]
    spread = (offsets * mass) @ offsets.T / mass.sum() + 0.1 * np.eye(2)
    blob = np.exp(-0.5 * np.einsum("in,ij,jn->n", offsets, np.linalg.inv(spread), offsets))
    return float((_normal(blob.reshape(_PATCH, _PATCH)) * patch).sum()) > _PLAIN


def _overlap(places: dict[int, Box], others: dict[int, Box]) -> bool:
    """Whether most of these boxes overlap those of the other mark, such as the hole of a letter."""
    touching = 0
    for number in places.keys() & others.keys():
        one, other = places[number], others[number]
        touching += all(
            one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1)
        )
    return touching > len(places) / 2
