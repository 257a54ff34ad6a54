"""Writes videos as GIF, WebP and MP4: of a training run, from its preview grids, and of any frames.

`write` takes an iterable of frames, so an MP4 of any length needs little memory; GIF and WebP store all frames.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganvas.errors import ConfigError, MissingExtraError, RunError
from ganvas.fields import takes
from ganvas.options import Video
from ganvas.provenance import SENTENCE, XMP
from ganvas.run import Run
from ganvas.system import files

SMALLEST, LARGEST = 480, 960  # minimum and maximum longer side of a training frame, in pixels
CAPTION = 28  # height of the caption below the grid, in pixels
FRAME_MS, LAST_MS = 120, 2500  # duration of a training frame and of the last one, in ms
AIM = 0.9  # target size of a reduced GIF, relative to the limit
LEAST = 160  # minimum longer side of a GIF with caption, in pixels
LEAST_FILM = 256  # default minimum longer side of other videos, in pixels
LEAST_PLAIN = 32  # minimum longer side of a GIF without caption, in pixels
NO_FRAMES = "no frames: a video needs at least one"
MOST_GIF_FPS = 50  # frames per second; most programs play faster GIFs slowly


@takes(Video)
def video(asked: Video) -> list[Path]:
    """Writes training.gif, training.webp and training.mp4 from the preview grids of a run. Returns their paths."""
    run, out, max_mb, formats = asked.run, asked.out, asked.max_mb, asked.formats
    grids = Run(Path(run)).grids()
    if not grids:
        raise RunError(f"{run} has no preview grids in samples/: expected a run that has started training")
    wanted = formats.split(",") if formats else ["gif", "webp", *(["mp4"] if importlib.util.find_spec("av") else [])]
    check_limit(max_mb)
    if unknown := [name for name in wanted if name not in WRITERS]:
        raise ConfigError(f"--formats {','.join(unknown)}: expected some of {', '.join(WRITERS)}")
    scenes = [scene(path, images) for images, path in grids]
    films = {name: WRITERS[name](scenes, Timing(FRAME_MS, LAST_MS), max_mb) for name in wanted}
    folder = Path(out) if out is not None else Path(run)
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in films.items():
        path = folder / f"training.{name}"
        files.write_atomically(path, lambda file, content=content: file.write(content))
        paths.append(path)
    return paths


def write(
    frames: Iterable[np.ndarray], out: Path, *, fps: int = 24, scale: int | None = None, max_mb: float = 8.0
) -> Path:
    """Writes frames (H, W, C), uint8 or uint16, as the video `out` (.gif, .webp or .mp4), atomically.

    fps: frames per second. scale: enlargement factor; by default so that the longer side is at least 256 pixels.
    max_mb: maximum size of a GIF in MB (10^6 bytes); frames are reduced until it fits. The file metadata state
    that it is synthetic. Raises ConfigError for other endings or invalid numbers, and MissingExtraError for
    MP4 without its extra, before the first frame is used.
    """
    form = out.suffix.lower().removeprefix(".")
    if form not in WRITERS:
        raise ConfigError(f"{out} ends in {out.suffix or 'nothing'}: videos are written as .gif, .webp or .mp4")
    most = MOST_GIF_FPS if form == "gif" else 120
    if not 1 <= fps <= most:
        raise ConfigError(f"--fps {fps}: expected 1 to {most} for {form.upper()}")
    if scale is not None and scale < 1:
        raise ConfigError(f"--scale {scale}: expected a whole number, 1 or more")
    check_limit(max_mb)
    if form == "mp4":
        codec()
    scenes = (Scene(enlarged(as_image(one), scale or -(-LEAST_FILM // max(one.shape[:2])))) for one in frames)
    content = WRITERS[form](scenes, Timing(1000 / fps, 1000 / fps), max_mb)
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(out, lambda file: file.write(content))
    return out


def check_limit(max_mb: float) -> None:
    if not max_mb > 0:
        raise ConfigError(f"--max-mb {max_mb:g}: expected a number above 0")


@dataclass(frozen=True)
class Timing:
    """Duration of a frame and of the last one, in ms."""

    frame: float
    last: float

    def of(self, num: int, unit: int) -> list[int]:
        """Duration of each of `num` frames in ms, as multiples of `unit`, without accumulated rounding errors."""
        ends = [round(self.frame * i / unit) * unit for i in range(num)]
        return [b - a for a, b in itertools.pairwise(ends)] + [round(self.last / unit) * unit]


@dataclass(frozen=True)
class Scene:
    """One frame at full size, and its caption."""

    picture: Image.Image
    caption: str = ""

    def frame(self, scale: float = 1.0) -> Image.Image:
        """The scaled image with the caption below; the font size is constant."""
        picture = self.picture
        if scale < 1:
            width, height = (max(2, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        if not self.caption:
            return picture
        sheet = Image.new(picture.mode, (picture.width, picture.height + CAPTION), "white")
        sheet.paste(picture, (0, 0))
        font = ImageFont.load_default(size=16)
        ImageDraw.Draw(sheet).text((8, picture.height + 4), self.caption, fill="black", font=font)
        return sheet


def scene(path: Path, images_seen: int) -> Scene:
    """A grid, enlarged by an integer factor or reduced, with the images seen as caption."""
    try:
        with Image.open(path) as opened:
            picture = eight_bit(opened)
    except (OSError, SyntaxError) as error:
        raise RunError(f"the grid {path} is damaged: delete it, then make the video again") from error
    longer = max(picture.size)
    if longer < SMALLEST:
        picture = enlarged(picture, -(-SMALLEST // longer))
    elif longer > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return Scene(picture, f"{images_seen:,} images")


def enlarged(picture: Image.Image, times: int) -> Image.Image:
    if times == 1:
        return picture
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def as_image(pixels: np.ndarray) -> Image.Image:
    """Converts (H, W, C) uint8 or uint16 with 1, 3 or 4 channels to an 8 bit gray or colour image."""
    if pixels.dtype == np.uint16:
        pixels = (pixels / 257).round().astype(np.uint8)
    return eight_bit(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def eight_bit(picture: Image.Image) -> Image.Image:
    """Converts to 8 bit gray or colour; transparent images on white."""
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.float32) / 257
        return Image.fromarray(pixels.round().astype(np.uint8))
    if picture.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def gif(scenes: Iterable[Scene], timing: Timing, max_mb: float) -> bytes:
    """GIF with 256 colours per frame; reduced until it is within the limit."""
    scenes = listed(scenes)
    scale, size = 1.0, max(scenes[0].picture.size)
    least = LEAST if scenes[0].caption else min(LEAST_PLAIN, size)
    times = timing.of(len(scenes), 10)
    while size * scale >= least:
        content = animated([one.frame(scale) for one in scenes], times, "GIF", optimize=True, comment=SENTENCE.encode())
        if len(content) <= max_mb * 1e6:
            return content
        scale *= math.sqrt(AIM * max_mb * 1e6 / len(content))  # size is proportional to the area
    raise ConfigError(f"--max-mb {max_mb:g} is too small for {len(scenes)} frames of {least} pixels: increase it")


def webp(scenes: Iterable[Scene], timing: Timing, _: float) -> bytes:
    frames = [one.frame() for one in listed(scenes)]
    return animated(frames, timing.of(len(frames), 1), "WEBP", quality=80, method=4, xmp=XMP.encode())


def listed(scenes: Iterable[Scene]) -> list[Scene]:
    found = list(scenes)
    if not found:
        raise ConfigError(NO_FRAMES)
    return found


def animated(frames: list[Image.Image], times: list[int], form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=times, loop=0, **options)
    return buffer.getvalue()


def codec() -> Any:
    """Module that writes MP4."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "MP4") from None
    return av


def mp4(scenes: Iterable[Scene], timing: Timing, _: float) -> bytes:
    """H.264 (4:2:0, for all players), frame by frame; the last frame is repeated for its duration."""
    av = codec()
    scenes = iter(scenes)
    first = next(scenes, None)
    if first is None:
        raise ConfigError(NO_FRAMES)
    buffer = io.BytesIO()
    rate = max(1, int(1000 / timing.frame + 1e-6))
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata["comment"] = SENTENCE
        stream = container.add_stream("h264", rate=rate)
        width, height = (max(2, side // 2 * 2) for side in first.frame().size)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": "20"}
        pixels = np.empty(0)
        for one in itertools.chain([first], scenes):
            pixels = np.asarray(one.frame().convert("RGB").crop((0, 0, width, height)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for _held in range(int(timing.last // timing.frame) if timing.last > timing.frame else 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Iterable[Scene], Timing, float], bytes]] = {"gif": gif, "webp": webp, "mp4": mp4}
