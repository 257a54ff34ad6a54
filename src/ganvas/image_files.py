"""Pictures as files: PNG and TIFF of 8 or 16 bit, and grids."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ganvas.errors import ConfigError
from ganvas.system import files


def to_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 or uint16 -> a Pillow image; 16 bit stays 16 bit where Pillow can (gray), else 8."""
    if pixels.dtype == np.uint16 and pixels.shape[2] != 1:
        pixels = (pixels / 257).round().astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def png_text(text: Mapping[str, str] | None) -> PngInfo:
    """Texts for a PNG's metadata, Latin or not."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value) if key.startswith("XML:") or not value.isascii() else info.add_text(key, value)
    return info


def png_bytes(pixels: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """(H, W, C) pixels as a PNG file with these texts in its metadata."""
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, format="PNG", pnginfo=png_text(text))
    return buffer.getvalue()


def save_png(path: Path, pixels: np.ndarray, text: Mapping[str, str] | None = None, sync: bool = True) -> None:
    """Writes (H, W, C) pixels as PNG, whole or not at all; text: for its metadata (see provenance.py)."""
    content = png_bytes(pixels, text)
    files.write_atomically(path, lambda file: file.write(content), sync)


def save_picture(path: Path, pixels: np.ndarray, text: Mapping[str, str] | None = None, sync: bool = True) -> None:
    """Writes (H, W, C) pixels as PNG or TIFF, by the ending of `path`, whole or not at all.

    text: for the metadata; TIFF takes the entry "ganvas" alone, as its description. sync: see `write_atomically`.

    Both are lossless: 8 bit gray, colour and colour with transparency, and 16 bit gray; colour of 16 bit becomes 8
    (Pillow writes no deeper). Raises `ConfigError` for any other ending.
    """
    ending = path.suffix.lower()
    if ending == ".png":
        save_png(path, pixels, text, sync)
    elif ending in (".tif", ".tiff"):
        image = to_image(pixels)
        # Deflate as Adobe numbered it (8), which every reader of today knows.
        known = {"description": text["ganvas"]} if text else {}
        write = partial(image.save, format="TIFF", compression="tiff_adobe_deflate", **known)
        files.write_atomically(path, write, sync)
    else:
        raise ConfigError(f"{path} ends in {ending or 'nothing'}: images are written as .png, .tif or .tiff")


def as_html(png: bytes, caption: str) -> str:
    """An image with a caption, for notebooks."""
    data = base64.b64encode(png).decode()
    return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def grid(pixels: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """(N, H, W, C) -> one (rows * (H + gap) + gap, columns * (W + gap) + gap, C) image on a white ground.

    Filled row by row; as square as possible when `columns` is None.
    """
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
