"""The format of every image of a pack, and the conversion of pixels to it.

Order of steps: background behind transparency, fit (crop, pad or stretch), channels, depth. 16 bit images are processed
as 32 bit floats, without loss of precision.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor

from ganvas.config import FULL, Fit
from ganvas.data.reading import wide
from ganvas.errors import ConfigError

_COMPOSITE_PIXELS = 2**22  # pixels of a transparent image composited at a time
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, the weights that Pillow uses too


@dataclass(frozen=True, slots=True)
class Target:
    """Format of every image of a pack."""

    height: int
    width: int
    channels: int
    """1 gray, 3 colour, 4 colour with transparency."""
    depth: int
    """8 (uint8) or 16 (uint16)."""
    fit: Fit
    background: str | None
    """Colour behind transparent images and in padded borders. None: white for colour, black for gray."""
    levels: tuple[float, float] = FULL
    """Values of 16 bit images that are mapped to black and white."""
    wide: tuple[float, float] | None = None
    """The same for images with other values (wide.py). None: lowest and highest value of each image, only to measure
    a single image."""
    window: tuple[float, float] | None = None
    """Values of DICOM files, such as Hounsfield units, to map to black and white instead of their own window."""

    def is_met(self, pixels: np.ndarray) -> bool:
        """Whether an image (H, W, C) already has this format."""
        same = pixels.shape == (self.height, self.width, self.channels) and pixels.dtype == f"u{self.depth // 8}"
        return same and (self.depth == 8 or self.levels == FULL)


def _background_color(background: str | None, channels: int) -> tuple[int, int, int]:
    """RGB 0 to 255 of "white", "#rrggbb" ... None: black for gray images, white for colour images."""
    name = background or ("black" if channels == 1 else "white")
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ConfigError(f"--background {name}: expected white, black, gray or a colour as #rrggbb") from None
    return red, green, blue


def from_array(pixels: np.ndarray, target: Target) -> np.ndarray:
    if wide.is_wide_array(pixels):
        pixels = wide.checked_values(pixels)
        low, high = target.wide or (float(pixels.min()), float(pixels.max()))
        scaled = ((pixels.astype(np.float64) - low) * (FULL[1] / ((high - low) or 1.0))).clip(*FULL)
        planes = [Image.fromarray(scaled[:, :, c].astype(np.float32)) for c in range(pixels.shape[2])]
        return from_floats(planes, dataclasses.replace(target, levels=FULL))
    if pixels.dtype == np.uint16:
        planes = [Image.fromarray(pixels[:, :, c].astype(np.float32)) for c in range(pixels.shape[2])]
        return from_floats(planes, target)
    squeezed = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return from_image(Image.fromarray(squeezed), target)


def from_image(image: Image.Image, target: Target) -> np.ndarray:
    """Converts an 8 bit Pillow image to the target format."""
    color = _background_color(target.background, target.channels)
    if target.channels == 4:
        image = _fitted(image.convert("RGBA"), target, (*color, 0))
    else:
        if image.has_transparency_data:
            image = _on_background(image, color)
        gray = target.channels == 1
        image = _to_gray(image) if gray else image if image.mode == "RGB" else image.convert("RGB")
        image = _fitted(image, target, round(float(np.dot(color, _LUMA))) if gray else color)
    pixels = np.asarray(image).reshape(target.height, target.width, target.channels)
    return pixels.astype(np.uint16) * 257 if target.depth == 16 else np.array(pixels)


def _on_background(image: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """Composites a transparent image on a colour, in bands to save memory."""
    flat = Image.new("RGB", image.size)
    step = max(1, _COMPOSITE_PIXELS // image.width)
    for top in range(0, image.height, step):
        layer = image.crop((0, top, image.width, min(top + step, image.height))).convert("RGBA")
        band = Image.new("RGBA", layer.size, (*color, 255))
        band.alpha_composite(layer)
        flat.paste(band.convert("RGB"), (0, top))
    return flat


def _to_gray(image: Image.Image) -> Image.Image:
    if image.mode in ("1", "L", "RGB", "LA", "La", "RGBA"):
        return image.convert("L")
    return image.convert("RGB").convert("L")  # palette, CMYK and others via RGB


def from_floats(planes: list[Image.Image], target: Target) -> np.ndarray:
    """Converts one (gray) or three (colour) float planes, 0 to 65535, to the target format."""
    if target.levels != FULL:
        low, high = target.levels
        scaled = [((np.asarray(plane) - low) * (FULL[1] / (high - low))).clip(*FULL) for plane in planes]
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in scaled]
    color = _background_color(target.background, target.channels)
    fills = color if len(planes) == 3 else (float(np.dot(color, _LUMA)),)
    fitted = [np.asarray(_fitted(p, target, f * 257)) for p, f in zip(planes, fills, strict=True)]
    pixels = np.stack(fitted, axis=2)
    if target.channels == 1 and len(planes) == 3:
        pixels = pixels @ _LUMA[:, None]
    elif target.channels >= 3 and len(planes) == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if target.channels == 4:
        inside = _fitted(Image.new("F", planes[0].size, 65535.0), target, 0.0)
        pixels = np.concatenate([pixels, np.asarray(inside)[:, :, None]], axis=2)
    # 65535 = 255 * 257, so dividing by 257 maps white to white.
    pixels = pixels if target.depth == 16 else pixels / 257
    top = 65535 if target.depth == 16 else 255
    return np.rint(pixels).clip(0, top).astype(np.uint16 if target.depth == 16 else np.uint8)


def _fitted(image: Image.Image, target: Target, fill: float | tuple[int, ...]) -> Image.Image:
    """Fits `image` to the target size. An image of that size is returned unchanged."""
    size = (target.width, target.height)
    width, height = image.size
    if image.size == size:
        return image
    if target.fit == "stretch":
        return image.resize(size, Image.Resampling.LANCZOS)
    ratios = (target.width / width, target.height / height)
    if target.fit == "crop":
        # The region to keep, before scaling. Its corner is at whole pixels, so that pixels are copied
        # exactly if no scaling is needed.
        scale = max(ratios)
        kept_width, kept_height = min(width, target.width / scale), min(height, target.height / scale)
        left, top = int((width - kept_width) / 2), int((height - kept_height) / 2)
        box = (left, top, left + kept_width, top + kept_height)
        return image.resize(size, Image.Resampling.LANCZOS, box=box)
    scale = min(ratios)
    inner = (
        min(target.width, max(1, round(width * scale))),
        min(target.height, max(1, round(height * scale))),
    )
    canvas = Image.new(image.mode, size, fill)
    scaled = image if inner == image.size else image.resize(inner, Image.Resampling.LANCZOS)
    canvas.paste(scaled, ((target.width - inner[0]) // 2, (target.height - inner[1]) // 2))
    return canvas
