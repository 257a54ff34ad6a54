"""What the header of an image file says, and the largest image that is read."""

from __future__ import annotations

from dataclasses import dataclass

from ganvas.errors import PictureError

MAX_PIXELS = 178_956_970
"""Larger images are rejected by their header: they need half a gigabyte of RGB, or are decompression bombs."""


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """Properties of an image from its header, after EXIF rotation."""

    height: int
    width: int
    channels: int
    """1 (gray) or 3 (colour), transparency not counted."""
    alpha: bool
    depth: int
    """Bits of one channel that `decode` can give: 8 or 16."""
    pages: int = 1
    """Number of images of this size in the file (`decode` reads the first). Not used for DICOM."""
    wide: bool = False
    """Whether the pixels are floating point numbers, negative or of more than 16 bits (wide.py)."""
    reduced: bool = False
    """Whether the file has 16 bits per channel, but colour or transparency, so that only 8 are read."""


def too_large(num_pixels: int, limit: int = MAX_PIXELS) -> PictureError:
    return PictureError(f"too large: {num_pixels:,} pixels, more than the limit of {limit:,}")
