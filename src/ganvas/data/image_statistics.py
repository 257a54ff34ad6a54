"""Measures one image for the data report; the result takes a few kilobytes."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

from ganvas.config import FULL
from ganvas.data.inspection.marks import Spot, spots
from ganvas.data.inspection.thumbnails import Thumbnails, area_means, of_means
from ganvas.data.packing.selection import readable
from ganvas.data.reading.decode import TRACE, decode_whole, glance, highest, span
from ganvas.data.reading.headers import PictureInfo
from ganvas.data.reading.sources import Payload
from ganvas.data.reading.wide import Span
from ganvas.errors import PictureError

_BLANK = 0.02  # standard deviation of the values (0..1) below which an image counts as blank
_EVEN = 0.04  # maximum difference within a bar, relative to the value range; allows for compression
_CHANGED, _MOST_OF = 0.08, 0.75  # edge of a bar: minimum change, over this fraction of its length
_CLEARLY = 2 * TRACE  # difference of channels (of 255) of a clearly coloured area
_BAR = 0.02  # minimum thickness of a bar, as a fraction of the image side


@dataclass(frozen=True, slots=True)
class Look:
    """Measurements of one image."""

    info: PictureInfo
    digest: bytes
    """16 bytes of a hash of size, checksum of the pixels, means and deviations; equal for equal images."""
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
        return self.spread < _BLANK * (white / FULL[1] if self.info.depth == 16 and not self.info.wide else 1)


def look(payload: Payload, for_marks: bool = True) -> Look:
    """Decodes and measures one image at its original size. Raises `PictureError`."""
    content = readable(payload)
    info, pixels = decode_whole(content)
    top = np.iinfo(pixels.dtype).max
    small, deviations = _reduced(pixels)
    values = span(content) if info.wide else None
    # Half the time of hashing all pixels: equal means, deviations and checksum are equal images.
    checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
    known = f"{pixels.shape}{values or ''}{checksum}".encode() + small.tobytes() + deviations.tobytes()
    return Look(
        info,
        hashlib.sha256(known).digest()[:16],
        float(small[:3].mean()) / top,
        info.channels == 1 or _is_gray(pixels, small),
        highest(content) if info.depth == 16 and not info.wide else 0,
        values,
        float(deviations.max()) / top,
        bars(pixels),
        of_means(small[None, :3], top),
        spots(pixels) if for_marks else None,
    )


def _reduced(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, C) averaged to (C, 32, 32) float32, and the standard deviation (C,) of its channels."""
    height, width, channels = pixels.shape
    columns = np.zeros((1, width * channels))
    small = area_means(pixels.reshape(1, height, -1), channels, columns)[0]
    squares = columns.reshape(width, channels).sum(0) / (height * width)
    means = small.mean((1, 2), dtype=np.float64)
    return small, np.sqrt(np.maximum(squares - means**2, 0))


def _is_gray(pixels: np.ndarray, small: np.ndarray) -> bool:
    """Whether an image has no colour, as in `decode.glance`, which is slow and only decides unclear cases.

    pixels: the image (H, W, C). small: averaged to (C, 32, 32). The mean of an area cannot be coloured more than one of
    its pixels.
    """
    if len(small) == 2:
        return True
    if len(small) == 3 and np.ptp(small, axis=0).max() > _CLEARLY * np.iinfo(pixels.dtype).max / 255:
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
    a head does not count, nor do two uniform areas with nothing between them.
    """
    height, width = pixels.shape[:2]
    top, bottom = (_bar(rows) for rows in (pixels, pixels[::-1]))
    if top + bottom >= height:
        return 0.0, 0.0, 0.0, 0.0
    inner = pixels[top : height - bottom].transpose(1, 0, 2)
    left, right = (_bar(columns) for columns in (inner, inner[::-1]))
    if left + right >= width:
        return 0.0, 0.0, 0.0, 0.0
    return top / height, bottom / height, left / width, right / width


def _bar(lines: np.ndarray) -> int:
    """Number of first lines (H, W, C) that are a uniform bar."""
    depth = np.iinfo(lines.dtype).max
    channels = np.ascontiguousarray(lines[0].T)
    if (channels.max(1) - channels.min(1)).max() > 2 * _EVEN * depth:
        return 0  # as below, but faster
    ordered, half = np.sort(lines[0], axis=0).astype(np.float64), len(lines[0]) // 2
    color = (ordered[half] + ordered[-half - 1]) / 2  # the median
    if max((ordered[-1] - color).max(), (color - ordered[0]).max()) > _EVEN * depth:
        return 0  # not even the first line is uniform
    ends = 0
    while ends < len(lines) and np.abs(lines[ends] - color).max() <= _EVEN * depth:
        ends += 1
    beyond = np.abs(lines[ends : ends + 3] - color).max(-1) > _CHANGED * depth  # compression softens the edge
    straight = len(beyond) > 0 and beyond.mean(1).max() > _MOST_OF
    return ends if straight and ends >= max(2, _BAR * len(lines)) else 0
