"""The film of a training: the preview grids as GIF, WebP and MP4. Every cell keeps its place and its latent."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganvas import files
from ganvas.errors import ConfigError, MissingExtraError, RunError
from ganvas.run import Run

SMALLEST, LARGEST = 480, 960  # pixels of the longer side of a frame
CAPTION = 28  # pixels of height below the grid
FRAME_MS, LAST_MS = 120, 2500  # how long a frame is shown, and the last one
AIM = 0.9  # part of the limit at which a GIF that was too large aims
LEAST = 160  # pixels of the longer side of a GIF: below, the caption does not fit


def video(
    run: str | Path, out: str | Path | None = None, max_mb: float = 8.0, formats: str | None = None
) -> list[Path]:
    """Writes training.gif, training.webp and training.mp4 from a run's preview grids; returns their paths.

    run: a run folder. out: where the files go; default: the run folder.
    max_mb: the GIF's largest size in MB (10^6 bytes): frames become smaller until it fits.
    formats: comma-separated among gif, webp, mp4; by default all that can be made here (MP4 needs the extra `video`).
    """
    grids = Run(Path(run)).grids()
    if not grids:
        raise RunError(f"{run} has no preview grids in samples/: expected the folder of a run whose training has begun")
    wanted = formats.split(",") if formats else ["gif", "webp", *(["mp4"] if importlib.util.find_spec("av") else [])]
    if not max_mb > 0:
        raise ConfigError(f"--max-mb {max_mb:g}: expected a number above 0")
    if unknown := [name for name in wanted if name not in WRITERS]:
        raise ConfigError(f"--formats {','.join(unknown)}: expected some of {', '.join(WRITERS)}")
    scenes = [scene(path, images) for images, path in grids]
    films = {name: WRITERS[name](scenes, max_mb) for name in wanted}
    folder = Path(out) if out is not None else Path(run)
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in films.items():
        path = folder / f"training.{name}"
        files.write_atomically(path, lambda file, content=content: file.write(content))
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Scene:
    """One grid at its size in the film, and how many images training had seen."""

    picture: Image.Image
    images_seen: int

    def frame(self, scale: float = 1.0) -> Image.Image:
        """The grid, scaled, with the images seen below it in letters that stay as large."""
        picture = self.picture
        if scale < 1:
            width, height = (max(2, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        sheet = Image.new(picture.mode, (picture.width, picture.height + CAPTION), "white")
        sheet.paste(picture, (0, 0))
        font = ImageFont.load_default(size=16)
        ImageDraw.Draw(sheet).text((8, picture.height + 4), f"{self.images_seen:,} images", fill="black", font=font)
        return sheet


def scene(path: Path, images_seen: int) -> Scene:
    """A grid, enlarged by whole pixels or reduced to a sensible size."""
    try:
        with Image.open(path) as opened:
            picture = eight_bit(opened)
    except (OSError, SyntaxError) as error:
        raise RunError(f"the grid {path} is damaged: delete it, then make the film again") from error
    longer = max(picture.size)
    if longer < SMALLEST:
        times = -(-SMALLEST // longer)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    elif longer > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return Scene(picture, images_seen)


def eight_bit(picture: Image.Image) -> Image.Image:
    """Gray or colour of 8 bit; transparent pictures lie on white."""
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.float32) / 257
        return Image.fromarray(pixels.round().astype(np.uint8))
    if picture.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def durations(num: int) -> list[int]:
    return [FRAME_MS] * (num - 1) + [LAST_MS]


def gif(scenes: list[Scene], max_mb: float) -> bytes:
    """GIF, every frame with its own 256 colours; smaller and smaller until it is within the limit."""
    scale = 1.0
    while max(scenes[0].picture.size) * scale >= LEAST:
        content = animated([one.frame(scale) for one in scenes], "GIF", optimize=True)
        if len(content) <= max_mb * 1e6:
            return content
        scale *= math.sqrt(AIM * max_mb * 1e6 / len(content))  # bytes go with the area
    raise ConfigError(f"--max-mb {max_mb:g} is too little for {len(scenes)} frames of {LEAST} pixels: allow more")


def webp(scenes: list[Scene], _: float) -> bytes:
    return animated([one.frame() for one in scenes], "WEBP", quality=80, method=4)


def animated(frames: list[Image.Image], form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        form,
        save_all=True,
        append_images=frames[1:],
        duration=durations(len(frames)),
        loop=0,
        **options,
    )
    return buffer.getvalue()


def mp4(scenes: list[Scene], _: float) -> bytes:
    """H.264 (4:2:0, so that every player takes it); the last frame is held."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "MP4") from None
    frames = [one.frame() for one in scenes]
    buffer = io.BytesIO()
    rate = 1000 // FRAME_MS
    width, height = (side // 2 * 2 for side in frames[0].size)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "20"}
        held = [frames[-1]] * (LAST_MS // FRAME_MS)
        for one in [*frames, *held]:
            pixels = np.asarray(one.convert("RGB").crop((0, 0, width, height)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


WRITERS: dict[str, Callable[[list[Scene], float], bytes]] = {"gif": gif, "webp": webp, "mp4": mp4}
