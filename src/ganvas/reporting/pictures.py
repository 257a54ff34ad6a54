"""Embed images in the page: small PNGs unchanged, larger images as WebP of limited size."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ganvas.errors import PictureError, RunError
from ganvas.film import CAPTION, FRAME_MS, LAST_MS, Timing, animated, eight_bit, scene
from ganvas.provenance import opened_image
from ganvas.system import files

_AS_IT_IS = 300_000  # bytes up to which a PNG is embedded unchanged
_LARGEST = 1600  # longer side in pixels
_SMALLEST = 64
_AIM = 0.9  # fraction of the budget that the next attempt aims at
_PIXELS_PER_BYTE = 8  # for an image that compresses well
_FRAMES, _FRAME_SIDE = 40, 480  # of the training video
_STILLS, _CELLS = 5, 4  # stages shown side by side, and cells per side of each


@dataclass(frozen=True)
class Picture:
    """An image as a data URI with its size in pixels."""

    uri: str
    width: int
    height: int
    caption: str = ""


def embed(folder: Path, name: object, budget: int) -> Picture | None:
    """The image `name` of the run folder in at most `budget` bytes; None if it is missing or outside the folder."""
    path = files.inside(folder, name)
    if path is None:
        return None
    try:
        with opened_image(path) as opened:
            if opened.format == "PNG" and path.stat().st_size <= min(budget, _AS_IT_IS):
                return _as_uri(path.read_bytes(), "png", opened.size)
            picture = eight_bit(opened)
    except PictureError:
        return None
    return _compressed(picture, budget)


def _compressed(picture: Image.Image, budget: int) -> Picture:
    """Encode as WebP, reducing the size until it fits the budget."""
    side = int(min(_LARGEST, max(picture.size), math.sqrt(_PIXELS_PER_BYTE * budget)))
    while True:
        smaller = picture.copy()
        smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        smaller.save(buffer, "WEBP", quality=82)
        if buffer.tell() <= budget or side <= _SMALLEST:
            return _as_uri(buffer.getvalue(), "webp", smaller.size)
        side = max(_SMALLEST, int(side * _shrink(budget, buffer.tell())))


def film(grids: list[tuple[int, Path]], budget: int) -> Picture:
    """At most 40 preview grids as an animated WebP."""
    scenes = [scene(path, images) for images, path in _spread(grids, _FRAMES)]
    times = Timing(FRAME_MS, LAST_MS).of(len(scenes), 1)
    scale = min(1.0, _FRAME_SIDE / max(scenes[0].picture.size))
    while True:
        frames = [one.frame(scale) for one in scenes]
        content = animated(frames, times, "WEBP", quality=70, method=3)
        if len(content) <= budget or max(frames[0].size) <= _LEAST_FILM:
            return _as_uri(content, "webp", frames[0].size)
        scale *= _shrink(budget, len(content))


_LEAST_FILM = 160 + CAPTION


def _shrink(budget: int, size: int) -> float:
    """Factor by which to reduce the sides; bytes are proportional to the area."""
    return math.sqrt(_AIM * budget / size)


def stills(grids: list[tuple[int, Path]], height: int, width: int, budget: int) -> list[Picture]:
    """The upper left cells of a few grids, first to last. height, width: size of a cell in pixels."""
    pictures = []
    for images, path in _spread(grids, _STILLS):
        sheet = opened_grid(path)
        right, bottom = (min(side, _CELLS * (cell + 2)) for side, cell in zip(sheet.size, (width, height), strict=True))
        sheet = sheet.crop((2, 2, right, bottom))  # image_files.grid has a gap of 2 pixels
        one = _compressed(sheet, budget // _STILLS) if max(sheet.size) > 256 else _lossless(sheet)
        pictures.append(Picture(one.uri, one.width, one.height, f"{images:,}"))
    return pictures


def opened_grid(grid: Path) -> Image.Image:
    try:
        with opened_image(grid) as picture:
            return eight_bit(picture)
    except PictureError as error:
        raise RunError(f"the grid {grid} is damaged: delete it, then report again") from error


def _lossless(picture: Image.Image) -> Picture:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return _as_uri(buffer.getvalue(), "png", picture.size)


def _spread(grids: list[tuple[int, Path]], num: int) -> list[tuple[int, Path]]:
    """At most `num` grids, evenly spaced, including the first and the last."""
    if len(grids) <= num:
        return grids
    return [grids[round(i * (len(grids) - 1) / (num - 1))] for i in range(num)]


def _as_uri(content: bytes, form: str, size: tuple[int, int]) -> Picture:
    return Picture(f"data:image/{form};base64,{base64.b64encode(content).decode()}", *size)
