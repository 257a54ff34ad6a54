"""One look at one image for the data report: what is kept of it is a few kilobytes, whatever its size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ganvas.config import FULL
from ganvas.data.decode import PictureInfo, Target, decode, glance, highest, probe
from ganvas.data.marks import Spot, spots
from ganvas.data.near import Thumbnails, thumbnails
from ganvas.data.selection import readable
from ganvas.data.sources import Payload
from ganvas.errors import PictureError

BLANK = 0.02  # standard deviation of the values, of 0..1, below which an image shows next to nothing
EVEN = 0.04  # values of a bar differ by this part of the depth at most: compression leaves some
CHANGED, MOST_OF = 0.08, 0.75  # where a bar ends, this much changes over this part of its length: a straight edge
BAR = 0.02  # of the side: thinner bars are not named


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of one image."""

    info: PictureInfo
    digest: bytes
    """The first 16 bytes of the sha256 of its size and pixels."""
    brightness: float
    """Mean of the values, of 0..1."""
    gray: bool
    """Without colour, whatever its file could hold."""
    highest: int
    """Highest value of a 16 bit image (decode.highest); 0 for 8 bit."""
    spread: float
    """Standard deviation of the values of the channel where it is largest, of 0..1."""
    bars: tuple[float, float, float, float]
    """Even bars at the top, bottom, left and right, as parts of the side."""
    thumbnail: Thumbnails
    spots: list[Spot] | None
    """Places that might be burned-in marks; None where they were not looked for."""

    def blank(self, white: int) -> bool:
        """Whether it shows next to nothing; white: of the set's 16 bit images (selection.levels_of)."""
        return self.spread < BLANK * (white / FULL[1] if self.info.depth == 16 else 1)


def look(payload: Payload, for_marks: bool = True) -> Look:
    """Decode one image at its own size; raises `PictureError`."""
    content = readable(payload)
    info = probe(content)
    channels = 4 if info.alpha else info.channels
    pixels = decode(content, Target(info.height, info.width, channels, info.depth, "crop", None))
    top = np.iinfo(pixels.dtype).max
    return Look(
        info,
        hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()[:16],
        float(pixels[..., :3].mean(dtype=np.float32)) / top,
        info.channels == 1 or glance(pixels).gray,
        highest(content) if info.depth == 16 else 0,
        float(pixels.std(axis=(0, 1), dtype=np.float32).max()) / top,
        bars(pixels),
        thumbnails(pixels[None]),
        spots(pixels) if for_marks else None,
    )


def look_chunk(payloads: list[Payload], first: int, step: int) -> list[Look | str]:
    """`look` at some images, in a child process or here; the reason instead where one cannot be used.

    first: number of the first image; marks are looked for in every `step`-th of all.
    """
    looks: list[Look | str] = []
    for number, payload in enumerate(payloads, start=first):
        try:
            looks.append(look(payload, for_marks=number % step == 0))
        except PictureError as error:
            looks.append(str(error))
    return looks


def bars(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Even bars at the top, bottom, left and right of an image (H, W, C), as parts of its height and width.

    A bar ends in a straight edge along most of its length: a letterbox or a frame does, the black around a digit or
    a head does not.
    """
    top, bottom = (_bar(rows) for rows in (pixels, pixels[::-1]))
    inner = pixels[top : len(pixels) - bottom].transpose(1, 0, 2)
    left, right = (_bar(columns) for columns in (inner, inner[::-1]))
    height, width = pixels.shape[:2]
    return top / height, bottom / height, left / width, right / width


def _bar(lines: np.ndarray) -> int:
    """How many of the first lines (H, W, C) are an even bar."""
    depth = np.iinfo(lines.dtype).max
    color = np.median(lines[0], axis=0)
    ends = 0
    while ends < len(lines) and np.abs(lines[ends] - color).max() <= EVEN * depth:
        ends += 1
    beyond = np.abs(lines[ends : ends + 3] - color).max(-1) > CHANGED * depth  # compression softens the edge
    straight = len(beyond) > 0 and beyond.mean(1).max() > MOST_OF
    return ends if straight and ends >= max(2, BAR * len(lines)) else 0
