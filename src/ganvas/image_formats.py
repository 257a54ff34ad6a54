"""The image formats that Ganvas reads and writes with Pillow, with everything that depends on the format by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Writing:
    """How images are written in a format.

    most_side: longest side in pixels. options: of Pillow's `save`. sixteen_bits: gray of 16 bits stays so.
    transparent: whether there is an alpha channel. texts: where the metadata is stored. dpi: whether the file has a
    place for the resolution other than the EXIF data.
    """

    most_side: int
    options: Mapping[str, Any] = field(default_factory=dict)
    sixteen_bits: bool = False
    transparent: bool = True
    texts: Literal["png", "tiff", "exif"] = "exif"
    dpi: bool = True


@dataclass(frozen=True)
class ImageFormat:
    """endings: of files; the first one is also the name of the format in options. starts: possible first bytes.

    plugin: Pillow's module. lacks_end: whether a damaged file is cut off. is_certain: whether 12 first bytes are
    certainly of this format, where `starts` is not enough. paged: a file can contain several images. signed: C2PA can
    sign it. writing: None if Ganvas only reads it.
    """

    title: str
    endings: tuple[str, ...]
    starts: tuple[bytes, ...]
    media_type: str
    plugin: str
    lacks_end: Callable[[bytes], bool] = lambda content: False
    is_certain: Callable[[bytes], bool] = lambda start: True
    paged: bool = False
    signed: bool = False
    writing: Writing | None = None


IMAGE_FORMATS: dict[str, ImageFormat] = {
    "PNG": ImageFormat(
        "PNG",
        (".png",),
        (b"\x89PNG",),
        "image/png",
        "PngImagePlugin",
        lacks_end=lambda content: b"IEND" not in content[-64:],
        paged=True,
        signed=True,
        writing=Writing(100_000, sixteen_bits=True, texts="png"),
    ),
    "JPEG": ImageFormat(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        (b"\xff\xd8\xff",),
        "image/jpeg",
        "JpegImagePlugin",
        lacks_end=lambda content: b"\xff\xd9" not in content[-64:],
        signed=True,
        writing=Writing(65_500, {"quality": 95, "subsampling": 0}, transparent=False),
    ),
    "WEBP": ImageFormat(
        "WebP",
        (".webp",),
        (b"RIFF",),
        "image/webp",
        "WebPImagePlugin",
        lacks_end=lambda content: len(content) < 8 + int.from_bytes(content[4:8], "little"),
        is_certain=lambda start: start[8:12] == b"WEBP",
        paged=True,
        signed=True,
        writing=Writing(16_383, {"quality": 90, "method": 4}, dpi=False),
    ),
    "BMP": ImageFormat(
        "BMP",
        (".bmp",),
        (b"BM",),
        "image/bmp",
        "BmpImagePlugin",
        lacks_end=lambda content: len(content) < int.from_bytes(content[2:6], "little"),
        is_certain=lambda start: start[6:10] == b"\0\0\0\0",  # a text may also start with these two letters
    ),
    "GIF": ImageFormat("GIF", (".gif",), (b"GIF8",), "image/gif", "GifImagePlugin", paged=True, signed=True),
    "TIFF": ImageFormat(
        "TIFF",
        (".tiff", ".tif"),
        (b"II*\0", b"MM\0*"),
        "image/tiff",
        "TiffImagePlugin",
        paged=True,
        signed=True,
        # This compression is known to every reader of today.
        writing=Writing(100_000, {"compression": "tiff_adobe_deflate"}, sixteen_bits=True, texts="tiff"),
    ),
}
"""By Pillow's name."""

WRITTEN: dict[str, ImageFormat] = {one.endings[0][1:]: one for one in IMAGE_FORMATS.values() if one.writing}
"""The formats that Ganvas writes, by their name in options."""


def format_of(start: bytes) -> ImageFormat | None:
    """The format that starts with these bytes."""
    return next((one for one in IMAGE_FORMATS.values() if start.startswith(one.starts)), None)
