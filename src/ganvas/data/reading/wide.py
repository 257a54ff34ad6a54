"""Pixels of more than 16 bits, floating point pixels and negative ones: TIFF files and arrays.

Such values have no known black and white. They are read unchanged; `decode` maps one range of values, the same for all
images of a set, to black and white (`levels_of`). Uncompressed and zip-compressed TIFF files are read here, because
Pillow knows only gray ones of 32 bits; others are read by Pillow.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

from ganvas.config import FULL
from ganvas.data.reading.headers import MAX_PIXELS, PictureInfo, too_large
from ganvas.errors import PictureError
from ganvas.image_formats import IMAGE_FORMATS

_Tags = TiffImagePlugin.ImageFileDirectory_v2
TIFF_MARKS = IMAGE_FORMATS["TIFF"].starts

_WIDTH, _HEIGHT, BITS, _COMPRESSION, _STRIPS, _ORIENTATION = 256, 257, 258, 259, 273, 274
_SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _FORMAT = 322, 323, 324, 325, 339
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # sample formats
_PLAIN, _ZIP = 1, (8, 32946)  # compressions that are read here
_TYPES = {
    (16, _FLOAT): "f2",
    (32, _FLOAT): "f4",
    (64, _FLOAT): "f8",
    (16, _SIGNED): "i2",
    (32, _SIGNED): "i4",
    (64, _SIGNED): "i8",
    (32, _UNSIGNED): "u4",
    (64, _UNSIGNED): "u8",
}
_MAX_BYTES = 4 * MAX_PIXELS // 3  # largest decoded image, in bytes
_MAX_PAGES = 2**16
_MISSING = 1e30  # larger floating point values mark missing pixels
_BULK, _MEASURED = (0.1, 99.9), 2**18  # percentiles of the values of an image, and number of pixels to measure them
_ROUND = (1.0, 255.0, 65535.0)  # usual values of white
_NARROW = 4  # how much wider than the bulk of the values a range is that gets a note


@dataclass(frozen=True, slots=True)
class Span:
    """Range of the values of an image, or of all images of a set."""

    low: float
    high: float
    bulk_low: float
    bulk_high: float
    """Lowest and highest value without the outermost 0.1% of each image."""
    whole: bool
    """Whether all values are whole numbers by type."""

    def __or__(self, other: Span | None) -> Span:
        if other is None:
            return self
        return Span(
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.bulk_low, other.bulk_low),
            max(self.bulk_high, other.bulk_high),
            self.whole and other.whole,
        )


def span_of(values: np.ndarray) -> Span:
    """The range of an image."""
    flat = values.reshape(-1)
    bulk = np.percentile(flat[:: max(1, flat.size // _MEASURED)], _BULK)
    return Span(float(values.min()), float(values.max()), *map(float, bulk), values.dtype.kind != "f")


def levels_of(span: Span) -> tuple[float, float]:
    """Black and white of a set: a usual range that its values fill to a quarter at least, else their own range."""
    if span.low >= 0 and span.whole:
        top = int(span.high)
        return 0, FULL[1] if FULL[1] // 4 < top <= FULL[1] else max(1, 2 ** top.bit_length() - 1)
    usual = next((top for top in _ROUND if top / 4 < span.high <= top), None)
    if span.low >= 0 and usual:
        return 0, usual
    if span.low >= -1 and span.high <= 1 and max(-span.low, span.high) > 1 / 4:
        return -1, 1
    return span.low, span.high if span.high > span.low else span.low + 1


def remark(span: Span, levels: tuple[float, float]) -> str:
    """A sentence about the range that was chosen."""
    kind = "Pixels with negative or more than 16 bit values" if span.whole else "Floating point pixels"
    text = (
        f"{kind} from {span.low:,g} to {span.high:,g}: all images are scaled equally, with {levels[0]:,g} as black and "
        f"{levels[1]:,g} as white; --levels={levels[0]:g}-{levels[1]:g} sets others."
    )
    if levels[1] - levels[0] > _NARROW * (span.bulk_high - span.bulk_low) > 0:
        text += (
            f" 99.8% of the pixels of each image are between {span.bulk_low:,.4g} and {span.bulk_high:,.4g}, which "
            f"look alike in this range: --levels={span.bulk_low:.4g}-{span.bulk_high:.4g} shows their differences."
        )
    return text


# Arrays.


def is_wide_array(pixels: np.ndarray) -> bool:
    """Whether an array holds numbers other than uint8 and uint16."""
    return pixels.dtype.kind in "iuf" and pixels.dtype not in (np.uint8, np.uint16)


def checked_values(values: np.ndarray) -> np.ndarray:
    """The values in native byte order. Raises `PictureError` for missing values."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise PictureError("has NaN or infinite values: replace them, for example by the lowest value")
        if max(-float(values.min()), float(values.max())) > _MISSING:
            raise PictureError(f"has values beyond {_MISSING:g}, which usually mark missing pixels: replace them")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


# TIFF.


def tags_of(payload: bytes, page: int = 0) -> _Tags | None:
    """The tags of a page of a TIFF file if its pixels are of such a type, else None."""
    if not payload.startswith(TIFF_MARKS):
        return None
    tags = next((tags for number, tags in enumerate(_all_tags(payload)) if number == page), None)
    return tags if tags is not None and _type(tags) is not None else None


def probe(payload: bytes, tags: _Tags) -> PictureInfo:
    """Properties of the image. Raises `PictureError` if `pixels` would certainly fail."""
    height, width, samples = _shape(tags)
    if tags.get(_ORIENTATION) in (5, 6, 7, 8):
        height, width = width, height
    return PictureInfo(height, width, samples, False, 16, len(pages_of(payload)), wide=True)


def pages_of(payload: bytes) -> list[int]:
    """Numbers of the pages with the size and type of the first one."""
    pages: list[int] = []
    first = None
    for number, tags in enumerate(_all_tags(payload)):
        key = [tags.get(tag) for tag in (_WIDTH, _HEIGHT, BITS, _FORMAT, _SAMPLES)]
        first = first or key
        pages += [number] if key == first else []
        if number == _MAX_PAGES:
            break
    return pages


def pixels(payload: bytes, tags: _Tags, page: int = 0) -> np.ndarray:
    """The values of a page: (H, W, 1 or 3) of one of `_TYPES`. Raises `PictureError`."""
    height, width, samples = _shape(tags)
    if tags.get(_COMPRESSION, 1) in (_PLAIN, *_ZIP):
        values = _read(payload, tags, (height, width, samples))
    else:
        values = _read_by_pillow(payload, tags, page)
    return np.ascontiguousarray(_turned(checked_values(values), tags.get(_ORIENTATION, 1)))


def _all_tags(payload: bytes) -> Iterator[_Tags]:
    file = io.BytesIO(payload)
    tags = _Tags(payload[:8])
    seen = set()
    while tags.next and tags.next not in seen:
        seen.add(tags.next)
        file.seek(tags.next)
        try:
            tags.load(file)
        except Exception:  # damaged files can make Pillow raise almost anything
            return
        yield tags


def _one(tags: _Tags, tag: int, default: int) -> int:
    value = tags.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def _type(tags: _Tags) -> str | None:
    bits = tags.get(BITS, (1,))
    bits = bits if isinstance(bits, tuple) else (bits,)
    return _TYPES.get((bits[0], _one(tags, _FORMAT, _UNSIGNED))) if bits and len(set(bits)) == 1 else None


def _shape(tags: _Tags) -> tuple[int, int, int]:
    """(H, W, C). Raises `PictureError` for other numbers of channels and images that are too large."""
    height, width, samples = _one(tags, _HEIGHT, 0), _one(tags, _WIDTH, 0), _one(tags, _SAMPLES, 1)
    if not height or not width:
        raise PictureError("has no pixels")
    if samples not in (1, 3):
        raise PictureError(f"has {samples} channels of floating point or 32 bit pixels: expected 1 or 3")
    itemsize = np.dtype(_type(tags)).itemsize
    if height * width * samples * itemsize > _MAX_BYTES:
        raise too_large(height * width, _MAX_BYTES // (samples * itemsize))
    return height, width, samples


def _read(payload: bytes, tags: _Tags, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels of strips or tiles that are uncompressed or compressed as zip."""
    height, width, samples = shape
    dtype = np.dtype(_type(tags)).newbyteorder("<" if payload.startswith(b"II") else ">")
    tiled = _TILES in tags
    rows = _one(tags, _TILE_HEIGHT, 0) if tiled else min(height, _one(tags, _STRIP_ROWS, height))
    columns = _one(tags, _TILE_WIDTH, 0) if tiled else width
    offsets, sizes = (tags.get(tag, ()) for tag in ((_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)))
    planes = samples if _one(tags, _PLANAR, 1) == 2 else 1
    if not 0 < rows <= MAX_PIXELS or not 0 < columns <= MAX_PIXELS or rows * columns * samples > _MAX_BYTES:
        raise PictureError("damaged TIFF file")
    corners = [(p, y, x) for p in range(planes) for y in range(0, height, rows) for x in range(0, width, columns)]
    if not len(corners) <= min(len(offsets), len(sizes)):
        raise PictureError("damaged TIFF file")
    values = np.empty((planes, height, width, samples // planes), dtype)
    for (plane, top, left), offset, size in zip(corners, offsets, sizes, strict=False):
        high = rows if tiled else min(rows, height - top)  # only strips end with the image
        block = (high, columns, samples // planes)
        content = _unpacked(payload[offset : offset + size], tags, int(np.prod(block)) * dtype.itemsize)
        part = _unpredicted(content, _one(tags, _PREDICTOR, 1), block, dtype)
        values[plane, top : top + high, left : left + columns] = part[: height - top, : width - left]
    return np.concatenate(list(values), axis=2) if planes > 1 else values[0]


def _unpacked(content: bytes, tags: _Tags, num_bytes: int) -> bytes:
    if tags.get(_COMPRESSION, 1) in _ZIP:
        try:
            content = zlib.decompressobj().decompress(content, num_bytes)
        except zlib.error:
            raise PictureError("damaged TIFF file") from None
    if len(content) < num_bytes:
        raise PictureError("truncated")
    return content[:num_bytes]


def _unpredicted(content: bytes, predictor: int, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """Undoes the differences between neighbours: 2 of whole numbers, 3 of the bytes of floating point numbers."""
    if predictor == 1:
        return np.frombuffer(content, dtype).reshape(shape)
    if predictor == 2:
        unsigned = np.frombuffer(content, np.dtype(f"u{dtype.itemsize}").newbyteorder(dtype.byteorder)).reshape(shape)
        return np.cumsum(unsigned, axis=1, dtype=unsigned.dtype).astype(unsigned.dtype).view(dtype)
    if predictor == 3 and dtype.kind == "f":
        rows, columns, samples = shape
        steps = np.frombuffer(content, np.uint8).reshape(rows, -1, samples)
        joined = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, dtype.itemsize, columns * samples)
        return joined.transpose(0, 2, 1).copy().view(dtype.newbyteorder(">")).reshape(shape)
    raise PictureError(f"TIFF with the unknown predictor {predictor}: save it uncompressed")


def _read_by_pillow(payload: bytes, tags: _Tags, page: int) -> np.ndarray:
    """Gray pixels of other compressions."""
    kind = _type(tags)
    if _one(tags, _SAMPLES, 1) != 1 or kind not in ("f4", "i4", "u4", "i2"):
        raise PictureError("compressed TIFF of floating point or 32 bit pixels: save it uncompressed")
    image = Image.open(io.BytesIO(payload), formats=["TIFF"])
    image.seek(page)
    values = np.asarray(image)
    return (values.view(np.uint32) if kind == "u4" else values)[:, :, None]


def _turned(values: np.ndarray, turn: object) -> np.ndarray:
    """The image (H, W, C) after its EXIF orientation 1 to 8."""
    if turn in (5, 6, 7, 8):
        values = values.transpose(1, 0, 2)
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if turn in (3, 4, 7, 8) else values
