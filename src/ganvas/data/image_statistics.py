"""Measures one image for the data report; the result takes a few kilobytes."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from ganvas.config import FULL
from ganvas.data.inspection.marks import Spot, spots
from ganvas.data.inspection.near_duplicates import Thumbnails, averaging, thumbnails
from ganvas.data.packing.selection import readable
from ganvas.data.reading.decode import TRACE, decode_whole, glance, highest, span
from ganvas.data.reading.headers import PictureInfo
from ganvas.data.reading.sources import Payload
from ganvas.data.reading.wide import Span
from ganvas.errors import PictureError

BLANK = 0.02  # standard deviation of the values (0..1) below which an image counts as blank
EVEN = 0.04  # maximum difference within a bar, relative to the value range; allows for compression
CHANGED, MOST_OF = 0.08, 0.75  # edge of a bar: minimum change, over this fraction of its length
CLEARLY, AREAS = 2 * TRACE, 8  # difference of channels (of 255) of a clearly coloured area; areas per side
BAR = 0.02  # minimum thickness of a bar, as a fraction of the image side


@dataclass(frozen=True, slots=True)
class Look:
    """Measurements of one image."""

    info: PictureInfo
    digest: bytes
    """First 16 bytes of the SHA-256 of size and pixels."""
    brightness: float
    """Mean value, 0..1."""
    gray: bool
    """Whether the image has no colour, even in a colour file."""
    highest: int
    """Highest value of a 16 bit image (decode.highest); 0 for others."""
    span: Span | None
    """Range of an image with `PictureInfo.wide`, which is measured relative to it; None for others."""
    spread: float
    """Largest standard deviation of a channel, for values in 0..1."""
    bars: tuple[float, float, float, float]
    """Thickness of uniform bars at the top, bottom, left and right, as fractions of the side."""
    thumbnail: Thumbnails
    spots: list[Spot] | None
    """Possible burned-in marks; None if not searched for."""

    def within(self, levels: tuple[float, float]) -> Look:
        """The measurements relative to the range of the set instead of the image's own."""
        if self.span is None:
            return self
        factor = (self.span.high - self.span.low) / (levels[1] - levels[0])
        offset = (self.span.low - levels[0]) / (levels[1] - levels[0])
        brightness = min(1.0, max(0.0, self.brightness * factor + offset))
        return dataclasses.replace(self, brightness=brightness, spread=self.spread * factor)

    def blank(self, white: int) -> bool:
        """Whether the image is blank. white: white level of 16 bit images (selection.levels_of)."""
        return self.spread < BLANK * (white / FULL[1] if self.info.depth == 16 and not self.info.wide else 1)


def look(payload: Payload, for_marks: bool = True) -> Look:
    """Decodes and measures one image at its original size. Raises `PictureError`."""
    content = readable(payload)
    info, pixels = decode_whole(content)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))  # the layout in which most measurements are fast
    top = np.iinfo(pixels.dtype).max
    means, deviations = moments(planes)
    values = span(content) if info.wide else None
    return Look(
        info,
        hashlib.sha256(f"{pixels.shape}{values or ''}".encode() + pixels.tobytes()).digest()[:16],
        float(means[:3].mean()) / top,
        info.channels == 1 or is_gray(pixels, planes, means),
        highest(content) if info.depth == 16 and not info.wide else 0,
        values,
        float(deviations.max()) / top,
        bars(pixels),
        thumbnails(planes.transpose(1, 2, 0)[None]),
        spots(pixels) if for_marks else None,
    )


def moments(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C,) of the channels of an image (C, H, W)."""
    planes = planes.reshape(len(planes), -1).astype(np.float32)
    means = planes.mean(1)
    planes -= means[:, None]
    return means, np.sqrt([np.dot(plane, plane) / len(plane) for plane in planes])


def is_gray(pixels: np.ndarray, planes: np.ndarray, means: np.ndarray) -> bool:
    """Whether an image has no colour, as in `decode.glance`, which is slow and only decides unclear cases.

    pixels, planes: the image as (H, W, C) and as (C, H, W). means: of its channels. The mean of an area cannot be
    coloured more than one of its pixels.
    """
    if len(means) == 2:
        return True
    scale = np.iinfo(pixels.dtype).max / 255
    if len(means) == 3 and np.ptp(means) > CLEARLY * scale:
        return False
    height, width = (side // AREAS * AREAS for side in pixels.shape[:2])
    if len(means) == 3 and height and width:
        rows, columns = averaging(height, AREAS), averaging(width, AREAS)
        red, green, blue = rows @ planes[:, :height, :width].astype(np.float32) @ columns.T
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        if spread.max() > CLEARLY * scale:
            return False
    return glance(pixels).gray


def look_chunk(payloads: list[Payload], first: int, step: int) -> list[Look | str]:
    """`look` for several images, in a child process or in this one; the error text for unusable images.

    first: number of the first image. step: marks are searched for in every `step`-th image.
    """
    looks: list[Look | str] = []
    for number, payload in enumerate(payloads, start=first):
        try:
            looks.append(look(payload, for_marks=number % step == 0))
        except PictureError as error:
            looks.append(str(error))
    return looks


def bars(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Uniform bars at the top, bottom, left and right of an image (H, W, C), as fractions of its height and width.

    A bar ends in a straight edge along most of its length, like a letterbox or a frame. The black around a digit or
    a head does not count.
    """
    top, bottom = (_bar(rows) for rows in (pixels, pixels[::-1]))
    inner = pixels[top : len(pixels) - bottom].transpose(1, 0, 2)
    left, right = (_bar(columns) for columns in (inner, inner[::-1]))
    height, width = pixels.shape[:2]
    return top / height, bottom / height, left / width, right / width


def _bar(lines: np.ndarray) -> int:
    """Number of first lines (H, W, C) that are a uniform bar."""
    depth = np.iinfo(lines.dtype).max
    ordered, half = np.sort(lines[0], axis=0).astype(np.float64), len(lines[0]) // 2
    color = (ordered[half] + ordered[-half - 1]) / 2  # the median
    if max((ordered[-1] - color).max(), (color - ordered[0]).max()) > EVEN * depth:
        return 0  # not even the first line is uniform
    ends = 0
    while ends < len(lines) and np.abs(lines[ends] - color).max() <= EVEN * depth:
        ends += 1
    beyond = np.abs(lines[ends : ends + 3] - color).max(-1) > CHANGED * depth  # compression softens the edge
    straight = len(beyond) > 0 and beyond.mean(1).max() > MOST_OF
    return ends if straight and ends >= max(2, BAR * len(lines)) else 0
