"""Reads image files as arrays of a given size: `probe` reads the header, `decode` the pixels.

Pillow reads the files; dicom.py reads DICOM files, wide.py floating point pixels; target.py fits all of them after the
EXIF rotation.
Any exception of Pillow for a damaged or malicious file becomes a `PictureError` with a short reason.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import os
import re
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

from ganvas.config import FULL
from ganvas.data.reading import dicom, wide
from ganvas.data.reading.headers import MAX_PIXELS, PictureInfo, too_large
from ganvas.data.reading.target import Target, from_array, from_floats, from_image
from ganvas.errors import ConfigError, PictureError
from ganvas.image_formats import IMAGE_FORMATS, ImageFormat, format_of

for _known in IMAGE_FORMATS.values():  # so that Pillow does not load all others
    importlib.import_module(f"PIL.{_known.plugin}")

_PNG_BITS = 24  # position of the bit depth in a PNG file
_MAX_SCANS, _MAX_SCANNED = 1000, 2**31
"""Limits on the scans of a progressive JPEG (10 are usual) and on scans times pixels: each scan processes all pixels
and can be very small in the file."""

_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 0x0112, 256, 257, 258  # tag numbers of EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_GLANCE, TRACE = 128, 4  # image side in pixels and threshold (of 255) for distinguishing colour from gray
_SAME, _SOFT, _OPAQUE = 2, 24, 250  # thresholds (of 255): equal neighbours, small difference, opaque


def probe(payload: bytes | np.ndarray) -> PictureInfo:
    """Properties of an image from its header. Raises `PictureError` if `decode` would certainly fail."""
    if isinstance(payload, np.ndarray):
        pixels = _checked(payload)
        height, width, channels = pixels.shape
        if wide.is_wide_array(pixels):
            return PictureInfo(height, width, channels, False, 16, wide=True)
        return PictureInfo(height, width, 3 if channels >= 3 else 1, channels in (2, 4), pixels.itemsize * 8)
    if dicom.is_dicom(payload):
        return dicom.probe(payload)
    with _explained(payload):
        if (tags := wide.tags_of(payload)) is not None:
            return wide.probe(payload, tags)
        return _describe(_open(payload), payload)


def decode(payload: bytes | np.ndarray, target: Target) -> np.ndarray:
    """Decodes one image: (target.height, target.width, target.channels), uint8 or uint16.

    payload: content of a PNG, JPEG, WebP, BMP, GIF (first frame), TIFF (first page) or DICOM (single
    frame) file, or an array (H, W) or (H, W, C) of numbers. Raises `PictureError` with the reason.
    """
    if isinstance(payload, bytes) and dicom.is_dicom(payload):
        payload = dicom.pixels(payload, target.window)
    if isinstance(payload, np.ndarray):
        pixels = _checked(payload)
        if target.is_met(pixels):
            return np.array(pixels)
        return from_array(pixels, target)
    with _explained(payload):
        if (tags := wide.tags_of(payload)) is not None:
            return from_array(wide.pixels(payload, tags), target)
        return _decode_image(_open(payload), payload, target)


def decode_whole(payload: bytes | np.ndarray) -> tuple[PictureInfo, np.ndarray]:
    """The properties of an image and its pixels (H, W, C) at its own size, depth and channels. Raises `PictureError`.

    The same as `probe` and `decode`, but most files are opened once.
    """
    if not isinstance(payload, bytes) or dicom.is_dicom(payload) or payload.startswith(wide.TIFF_MARKS):
        info = probe(payload)
        return info, decode(payload, _own_target(info))
    with _explained(payload):
        image = _open(payload)
        info = _describe(image, payload)
        return info, _decode_image(image, payload, _own_target(info))


def _own_target(info: PictureInfo) -> Target:
    return Target(info.height, info.width, 4 if info.alpha else info.channels, info.depth, "crop", None)


@dataclass(frozen=True, slots=True)
class _Glance:
    """Properties of an image measured on a small copy."""

    gray: bool
    """Whether the image has no colour: R = G = B except for JPEG artefacts."""
    transparent: bool
    """Whether parts of the image are transparent."""
    flatness: float
    """Ratio of equal neighbours to neighbours with a small difference: below 2 for photographs, above 2 for flat
    areas of colour."""


def glance(content: bytes | np.ndarray) -> _Glance:
    """Measures a small copy of an image. Raises `PictureError`."""
    info = probe(content)
    small = Target(min(info.height, _GLANCE), min(info.width, _GLANCE), 4, 8, "stretch", "white")
    pixels = decode(content, small).astype(np.int16)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    colours = np.where(alpha > 0, colours, 255)
    steps = np.concatenate([np.abs(np.diff(colours, axis=axis)).max(axis=2).ravel() for axis in (0, 1)])
    flatness = np.mean(steps <= _SAME) / (np.mean((steps > TRACE) & (steps <= _SOFT)) + 1e-3) if len(steps) else 0.0
    return _Glance(bool(np.ptp(colours, axis=2).max() <= TRACE), bool(alpha.min() < _OPAQUE), float(flatness))


def highest(content: bytes | np.ndarray) -> int:
    """Highest value of a 16 bit image, or the highest possible by its TIFF header. Raises `PictureError`."""
    if isinstance(content, bytes) and dicom.is_dicom(content):
        return FULL[1]  # values are already scaled by its header
    info = probe(content)
    top = int(decode(content, Target(info.height, info.width, info.channels, 16, "crop", None)).max())
    bits = 0 if isinstance(content, np.ndarray) else _tiff_bits(_open(content))
    return max(top, 2**bits - 1 if bits < 16 else 0)


def span(content: bytes | np.ndarray) -> wide.Span:
    """Range of the values of an image with `PictureInfo.wide`. Raises `PictureError`."""
    if isinstance(content, np.ndarray):
        return wide.span_of(wide.checked_values(_checked(content)))
    if dicom.is_dicom(content):
        return wide.span_of(wide.checked_values(dicom.pixels(content)))
    with _explained(content):
        tags = wide.tags_of(content)
        assert tags is not None
        return wide.span_of(wide.pixels(content, tags))


# Reading the file.


def _open(payload: bytes) -> Image.Image:
    """Opens an image without decoding it. Raises `PictureError` for non-images and images that are too large."""
    if not payload:
        raise PictureError("empty file")
    try:
        image = Image.open(io.BytesIO(payload), formats=tuple(IMAGE_FORMATS))
    except Image.DecompressionBombError as error:  # Pillow's own limit; its message contains the number of pixels
        raise too_large(int(re.sub(r"\D.*", "", str(error).partition("(")[2]))) from None
    # Transparent and 16 bit images need temporary copies.
    limit = MAX_PIXELS // (3 if image.mode.startswith("I") else 2 if image.has_transparency_data else 1)
    if image.width * image.height > limit:
        raise too_large(image.width * image.height, limit)
    if image.format in ("JPEG", "MPO"):
        scans = payload.count(b"\xff\xda")
        if scans > _MAX_SCANS or scans * image.width * image.height > _MAX_SCANNED:
            raise PictureError(f"JPEG with {scans:,} scans, which would take too long: save it again")
    if 0 in image.size:
        raise PictureError("has no pixels")
    return image


def _describe(image: Image.Image, payload: bytes) -> PictureInfo:
    depth = _depth(image)
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow versions differ in whether `size` is already rotated, so the tags are used.
        width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    if _orientation(image, payload) in _SIDEWAYS:
        width, height = height, width
    gray = depth == 16 or image.mode in ("1", "L", "LA", "La") or _gray_palette(image)
    alpha = depth == 8 and image.has_transparency_data
    reduced = depth == 8 and _stored_bits(image, payload) > 8
    return PictureInfo(height, width, 1 if gray else 3, alpha, depth, len(_pages(image)), reduced=reduced)


def _stored_bits(image: Image.Image, payload: bytes) -> int:
    """Bits of one channel in a PNG or TIFF file; 8 for other formats."""
    if image.format == "PNG":
        return payload[_PNG_BITS]
    return max(image.tag_v2.get(wide.BITS, (8,))) if isinstance(image, TiffImagePlugin.TiffImageFile) else 8


def _pages(image: Image.Image) -> list[int]:
    """Numbers of the pages or frames with the size of the first one; others are previews or masks."""
    if image.format not in IMAGE_FORMATS or not IMAGE_FORMATS[image.format].paged:
        return [0]
    if image.format != "TIFF":  # all frames of an animation have the same size
        try:
            return list(range(int(getattr(image, "n_frames", 1))))
        except Exception:  # the first frame may still be readable
            return [0]
    size, same = image.size, [0]
    with contextlib.suppress(Exception):  # EOFError at the end; anything in a damaged file
        for number in itertools.count(1):
            image.seek(number)
            same += [number] if image.size == size else []
    image.seek(0)
    return same


def pages(payload: bytes, indices: Sequence[int]) -> Iterator[np.ndarray | PictureError]:
    """Images of a file by index (see `PictureInfo.pages`), each as an array for `decode` or an error."""
    image, numbers = None, []
    for index in indices:
        try:
            with _explained(payload):
                if wide.tags_of(payload) is not None:
                    numbers = numbers or wide.pages_of(payload)
                    tags = wide.tags_of(payload, numbers[index])
                    assert tags is not None
                    page = wide.pixels(payload, tags, numbers[index])
                else:
                    if image is None:
                        image = _open(payload)
                        numbers = _pages(image)
                    image.seek(numbers[index])
                    page = _page(image, payload)
        except PictureError as error:
            page = error
        yield page


def _page(image: Image.Image, payload: bytes) -> np.ndarray:
    """The current page as an array."""
    if _depth(image) == 16:
        image.load()
        return np.asarray(_turned(_gray16(image), _orientation(image, payload))).astype(np.uint16)
    gray = image.mode in ("1", "L") or _gray_palette(image)
    page = image.convert("RGBA" if image.has_transparency_data else "L" if gray else "RGB")
    return np.array(_turned(page, _orientation(image, payload)))


def _depth(image: Image.Image) -> int:
    """8 or 16 bits. Raises `PictureError` for pixel types with an unknown range."""
    if image.mode.startswith("I;16"):
        return 16
    if image.mode == "I":  # a PNG; TIFF files are read by wide.py
        return 16
    if image.mode == "LAB":
        raise PictureError("LAB colours are not supported: save it as RGB")
    return 8


def _tiff_bits(image: Image.Image) -> int:
    bits = image.tag_v2.get(_TIFF_BITS, (0,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else (0,)
    return bits[0]


def _orientation(image: Image.Image, payload: bytes) -> int:
    """EXIF orientation 1 to 8. The search for a marker avoids slow metadata parsing for most files."""
    if image.format in ("JPEG", "MPO"):
        if not image.info.keys() & {"exif", "xmp"}:  # Pillow has found them while opening the file
            return 1
    elif image.format != "TIFF" and not any(mark in payload for mark in (b"xif", b"EXIF", b"XIf", b"Orientation")):
        return 1
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # ignore damaged metadata
        return 1
    return turn if turn in _TURNS else 1


def _gray_palette(image: Image.Image) -> bool:
    if image.mode != "P" or image.palette is None or image.palette.mode != "RGB":
        return False
    colors = np.frombuffer(bytes(image.palette.palette), np.uint8)
    colors = colors[: len(colors) // 3 * 3].reshape(-1, 3)
    return bool((colors == colors[:, :1]).all())


def _decode_image(image: Image.Image, payload: bytes, target: Target) -> np.ndarray:
    """Decodes an image that `_open` has opened."""
    depth = _depth(image)
    turn = _orientation(image, payload)
    if image.format in ("JPEG", "MPO"):  # MPO: JPEG followed by more images, written by phones
        _draft(image, target, sideways=turn in _SIDEWAYS)
    with _quiet() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    if image.format == "TIFF":
        turn = _orientation(image, payload)  # Pillow may have rotated it while loading and removed the tag
    if depth == 16:
        return from_floats([_turned(_gray16(image), turn)], target)
    return from_image(_turned(image, turn), target)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Suppresses messages of libtiff on standard error; errors are reported as `PictureError`."""
    with _SILENCE, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # standard error may be closed
            before = os.dup(2)
            stack.callback(os.close, before)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nowhere)
            os.dup2(nowhere, 2)
            stack.callback(os.dup2, before, 2)
        yield


_SILENCE = threading.Lock()  # standard error is shared by all threads


def _draft(image: Image.Image, target: Target, sideways: bool) -> None:
    """Lets the JPEG decoder reduce a much larger image, but not below twice the target size."""
    height, width = (target.width, target.height) if sideways else (target.height, target.width)
    ratios = (width / image.width, height / image.height)
    scale = 2 * (min(ratios) if target.fit == "pad" else max(ratios))
    if scale < 0.5:
        image.draft(None, (round(image.width * scale), round(image.height * scale)))


def _gray16(image: Image.Image) -> Image.Image:
    """A loaded 16 bit gray image as floats 0 to 65535; transparency is ignored."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise PictureError("negative pixels or more than 16 bits: save it as unsigned 16 bit gray")
    return Image.fromarray(pixels.astype(np.float32))


def _turned(image: Image.Image, turn: int) -> Image.Image:
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


# Conversion to the target format.


def _checked(pixels: np.ndarray) -> np.ndarray:
    """The array as (H, W, C). Raises `PictureError` for shapes and types that are not images."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    allowed = (1, 2, 3, 4) if pixels.dtype == np.uint8 else (1, 3)
    if pixels.ndim != 3 or pixels.shape[2] not in allowed or 0 in pixels.shape or pixels.dtype.kind not in "uif":
        raise PictureError(
            f"an array {pixels.shape} of {pixels.dtype}; expected height x width or height x width x channels "
            "of numbers: 1 or 3 channels, for uint8 1 to 4"
        )
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise too_large(pixels.shape[0] * pixels.shape[1])
    return pixels


# Detection by the first bytes.


def has_picture_mark(start: bytes) -> bool:
    """Whether the first bytes (12 or more) are those of an image file."""
    form = format_of(start)
    return form is not None and form.is_certain(start)


def is_lfs_pointer(start: bytes) -> bool:
    """Whether the file is a Git LFS pointer (before `git lfs pull`)."""
    return start.startswith(b"version https://git-lfs.github.com/spec/")


# Reasons for the user.


@contextlib.contextmanager
def _explained(payload: bytes) -> Generator[None]:
    """Suppresses warnings; converts any exception about a file to a `PictureError` with a short reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (PictureError, ConfigError):
            raise
        except Exception as error:  # damaged files can make Pillow raise almost anything
            raise PictureError(_reason(error, payload)) from None


def _reason(error: Exception, payload: bytes) -> str:
    form = format_of(payload)
    if is_lfs_pointer(payload):
        return "Git LFS pointer instead of an image: run git lfs pull"
    if form is None:
        text = b"\0" not in payload[:512] and all(byte >= 32 or byte in b"\t\r\n\f" for byte in payload[:512])
        return "not an image, but text" if text else "not an image of a known format"
    if _looks_truncated(error, payload, form):
        return "truncated"
    if isinstance(error, MemoryError):
        return "needs more memory than available"
    return f"damaged {form.title} file"


def _looks_truncated(error: Exception, payload: bytes, form: ImageFormat) -> bool:
    return form.lacks_end(payload) or isinstance(error, EOFError) or "truncat" in str(error).lower()
