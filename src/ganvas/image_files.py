"""Images as files: PNG, JPEG, WebP and TIFF with metadata, enlargement, grids, and sheets with captions."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ganvas.errors import ConfigError
from ganvas.image_formats import IMAGE_FORMATS
from ganvas.provenance import DESCRIPTION, SOFTWARE, XMP_PACKET, note
from ganvas.system import files

FORMATS = {ending: name for name, form in IMAGE_FORMATS.items() if form.writing for ending in form.endings}
"""Endings of the image files that Ganvas writes -> Pillow's name of the format."""
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _INCH = 282, 283, 296, 2  # tag numbers of EXIF, and a value of the last
_XMP_TAG = 700  # tag number of TIFF
_LEAST_CELL = 128  # minimum longer side of an image on a sheet, in pixels
_SQUARES, _LIGHT_GRAY = (2, 16), 0.8  # smallest and largest side of a square of a checkerboard in pixels; darker tone
_TEXT, _MARGIN = 15, 8  # font size of captions and space around them, in pixels


def to_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 or uint16 -> a Pillow image; 16 bit stays 16 bit where Pillow can (gray), else 8."""
    if pixels.dtype == np.uint16 and pixels.shape[2] != 1:
        pixels = eight_bits(pixels)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 -> uint8."""
    return pixels if pixels.dtype == np.uint8 else (pixels / 257).round().astype(np.uint8)


def on_colour(image: Image.Image, colour: str | tuple[int, ...]) -> Image.Image:
    """An RGBA image without its transparency, on a colour; other images unchanged."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")


def _on_checkerboard(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 or uint16 -> (H, W, 3) of the same type, on squares of white and light gray."""
    height, width = pixels.shape[:2]
    side = min(_SQUARES[1], max(_SQUARES[0], max(height, width) // 8))
    rows, columns = np.arange(height) // side, np.arange(width) // side
    top = np.iinfo(pixels.dtype).max
    ground = np.where((rows[:, None] + columns) % 2, _LIGHT_GRAY * top, top)[:, :, None]
    opacity = pixels[:, :, 3:].astype(np.float64) / top
    return np.rint(pixels[:, :, :3] * opacity + ground * (1 - opacity)).astype(pixels.dtype)


def resized(image: Image.Image, width: int, height: int, filter: str) -> Image.Image:
    """An image at another size. filter: lanczos, bicubic or nearest. 16 bit gray stays 16 bit."""
    method = Image.Resampling[filter.upper()]
    if image.size == (width, height):
        return image
    if image.mode != "I;16" or filter == "nearest":
        return image.resize((width, height), method)
    real = Image.fromarray(np.asarray(image).astype(np.float32)).resize((width, height), method)
    return Image.fromarray(np.asarray(real).round().clip(0, 65_535).astype(np.uint16))


def enlarged(pixels: np.ndarray, times: int, filter: str = "lanczos") -> np.ndarray:
    """(N, H, W, C) -> (N, H * times, W * times, C). Colour of 16 bit becomes 8 bit."""
    if times == 1:
        return pixels
    height, width = (side * times for side in pixels.shape[1:3])
    images = [np.asarray(resized(to_image(one), width, height, filter)) for one in pixels]
    return np.stack(images).reshape(len(images), height, width, pixels.shape[3])


# -- files --


def png_text(text: Mapping[str, str] | None) -> PngInfo:
    """Texts for a PNG's metadata, Latin or not."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value) if key.startswith("XML:") or not value.isascii() else info.add_text(key, value)
    return info


def png_bytes(pixels: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """(H, W, C) pixels as a PNG file with these texts in its metadata."""
    return _encoded(pixels, "PNG", text)


def _encoded(pixels: np.ndarray, form: str, text: Mapping[str, str] | None = None, dpi: int | None = None) -> bytes:
    """(H, W, C) pixels as the content of a file. form: of `FORMATS`. See `save_picture`."""
    image = to_image(pixels)
    check_size(form, image.width, image.height)
    writing = IMAGE_FORMATS[form].writing
    assert writing is not None
    if not writing.sixteen_bits and pixels.dtype == np.uint16:
        image = to_image(eight_bits(pixels))
    if not writing.transparent:
        image = on_colour(image, "white")
    options: dict[str, Any] = {**writing.options, **({"dpi": (dpi, dpi)} if dpi else {})}
    if writing.texts == "png":
        options["pnginfo"] = png_text(text)
    else:
        exif = _exif_of(text, None if writing.dpi else dpi)
        packet = text[XMP_PACKET].encode() if text else b""
        if writing.texts == "tiff":
            if packet:
                exif[_XMP_TAG] = packet
            options["tiffinfo"] = exif
        else:
            options |= {"exif": exif.tobytes()} if len(exif) else {}
            options |= {"xmp": packet} if packet else {}
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def check_size(form: str, width: int, height: int) -> None:
    """Raises ConfigError if images of this size cannot be stored."""
    writing = IMAGE_FORMATS[form].writing
    assert writing is not None
    if max(width, height) > (most := writing.most_side):
        raise ConfigError(
            f"{width}x{height} pixels: {form} files have up to {most:,} per side; reduce --enlarge or --n"
        )


def _exif_of(text: Mapping[str, str] | None, dpi: int | None = None) -> Image.Exif:
    """The texts as EXIF data, which TIFF files have as tags. dpi: for WebP, which has no other place for it."""
    exif = Image.Exif()
    if text:
        exif[DESCRIPTION], exif[SOFTWARE] = note(text), text["Software"]
    if dpi:
        exif[_X_RESOLUTION], exif[_Y_RESOLUTION], exif[_RESOLUTION_UNIT] = float(dpi), float(dpi), _INCH
    return exif


def save_png(path: Path, pixels: np.ndarray, text: Mapping[str, str] | None = None, sync: bool = True) -> None:
    """Writes (H, W, C) pixels as PNG, whole or not at all; text: for its metadata (see provenance.py)."""
    content = png_bytes(pixels, text)
    files.write_atomically(path, lambda file: file.write(content), sync)


def save_picture(
    path: Path,
    pixels: np.ndarray,
    text: Mapping[str, str] | None = None,
    sync: bool = True,
    dpi: int | None = None,
) -> None:
    """Writes (H, W, C) pixels as PNG, JPEG, WebP or TIFF, by the ending of `path`, whole or not at all.

    text: for the metadata (see provenance.py), as texts of a PNG, else as EXIF and XMP. dpi: resolution for printing.
    sync: see `write_atomically`.

    PNG and TIFF are lossless: 8 bit gray, colour and colour with transparency, and 16 bit gray; colour of 16 bit
    becomes 8 (Pillow writes no deeper). JPEG and WebP have 8 bit; JPEG has no transparency and shows white instead.
    Raises `ConfigError` for any other ending, and for images that are too large for JPEG or WebP.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ConfigError(f"{path} ends in {path.suffix or 'nothing'}: images are written as {', '.join(FORMATS)}")
    content = _encoded(pixels, form, text, dpi)
    files.write_atomically(path, lambda file: file.write(content), sync)


def as_html(png: bytes, caption: str) -> str:
    """An image with a caption, for notebooks."""
    data = base64.b64encode(png).decode()
    return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption></figure>'


# -- grids and sheets --


def grid(pixels: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """(N, H, W, C) -> one (rows * (H + gap) + gap, columns * (W + gap) + gap, C) image on a white ground.

    Filled row by row; as square as possible when `columns` is None. Images with transparency are shown on a
    checkerboard, so that their outlines are visible on any ground; the grid then has 3 channels.
    """
    if pixels.shape[3] == 4:
        pixels = np.stack([_on_checkerboard(one) for one in pixels])
    num, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    top = np.iinfo(pixels.dtype).max
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), top, pixels.dtype)
    for i, picture in enumerate(pixels):
        y = gap + i // columns * (height + gap)
        x = gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet


def sheet(pixels: np.ndarray, title: str, above: Sequence[str], left: Sequence[str]) -> np.ndarray:
    """(N, H, W, C) -> a grid (8 bit) with a title, a caption above each column and one to the left of each row.

    Small images are enlarged by a whole number to at least 128 pixels, so that they can be seen. Gray stays gray.
    """
    font = ImageFont.load_default(size=_TEXT)
    times = -(-_LEAST_CELL // max(pixels.shape[1:3]))
    cells = enlarged(np.stack([eight_bits(one) for one in pixels]), times, "nearest")
    gap, (height, width) = 4, cells.shape[1:3]
    body = to_image(grid(cells, len(above), gap))
    column = max((round(font.getlength(text)) for text in left), default=0) + 2 * _MARGIN
    head, band = _TEXT + 2 * _MARGIN, _TEXT + _MARGIN
    title = _shortened(title, font, column + body.width - 2 * _MARGIN)
    page = Image.new(body.mode, (column + body.width, head + band + body.height), "white")
    page.paste(body, (column, head + band))
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, _MARGIN), title, fill="black", font=font)
    for i, text in enumerate(above):
        middle = column + gap + i * (width + gap) + width // 2
        pen.text((middle, head), _shortened(text, font, width), fill="black", font=font, anchor="ma")
    for i, text in enumerate(left):
        middle = head + band + gap + i * (height + gap) + height // 2
        pen.text((column - _MARGIN, middle), text, fill="black", font=font, anchor="rm")
    return np.asarray(page).reshape(page.height, page.width, -1)


def _shortened(text: str, font: Any, width: int) -> str:
    """A text that is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
