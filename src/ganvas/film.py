"""The film of a training: the preview grids as GIF, WebP and MP4. Every cell keeps its place and its latent."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganvas import files
from ganvas.errors import ConfigError, MissingExtraError, RunError
from ganvas.run import Run

SMALLEST, LARGEST = 480, 960  # pixels of the longer side of a frame
CAPTION = 28  # pixels of height below the grid
FRAME_MS, LAST_MS = 120, 2500  # how long a frame is shown, and the last one
SHRINK = 0.8  # step by which a GIF that is too large gets smaller


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
    frames = [frame(path, images) for images, path in grids]
    folder = Path(out) if out is not None else Path(run)
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in wanted:
        content = WRITERS[name](frames, max_mb)
        path = folder / f"training.{name}"
        files.write_atomically(path, lambda file, content=content: file.write(content))
        paths.append(path)
    return paths


def frame(path: Path, images_seen: int) -> Image.Image:
    """One grid, enlarged by whole pixels or reduced to a sensible size, with the images seen below it."""
    try:
        picture = eight_bit(Image.open(path))
    except (OSError, SyntaxError) as error:
        raise RunError(f"the grid {path} is damaged: delete it, then make the film again") from error
    longer = max(picture.size)
    if longer < SMALLEST:
        times = -(-SMALLEST // longer)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    elif longer > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    sheet = Image.new(picture.mode, (picture.width, picture.height + CAPTION), "white")
    sheet.paste(picture, (0, 0))
    font = ImageFont.load_default(size=16)
    ImageDraw.Draw(sheet).text((8, picture.height + 4), f"{images_seen:,} images", fill="black", font=font)
    return sheet


def eight_bit(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.float32) / 257
        return Image.fromarray(pixels.round().astype(np.uint8))
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def durations(num: int) -> list[int]:
    return [FRAME_MS] * (num - 1) + [LAST_MS]


def gif(frames: list[Image.Image], max_mb: float) -> bytes:
    """GIF with one palette for all frames; smaller and smaller until it is within the limit."""
    while True:
        content = animated(frames, "GIF", optimize=True)
        if len(content) <= max_mb * 1e6 or max(frames[0].size) < 64:
            return content
        size = tuple(max(2, int(side * SHRINK)) for side in frames[0].size)
        frames = [one.resize((size[0], size[1]), Image.Resampling.LANCZOS) for one in frames]


def webp(frames: list[Image.Image], _: float) -> bytes:
    return animated(frames, "WEBP", quality=80, method=4)


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


def mp4(frames: list[Image.Image], _: float) -> bytes:
    """H.264 (4:2:0, so that every player takes it); the last frame is held."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "MP4") from None
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


WRITERS: dict[str, Callable[[list[Image.Image], float], bytes]] = {"gif": gif, "webp": webp, "mp4": mp4}
