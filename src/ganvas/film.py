"""Writes videos as GIF, WebP, MP4, WebM and MOV: of a training run, from its preview grids, and of any frames.

`write` takes an iterable of frames, so MP4, WebM and MOV need little memory; GIF and WebP store all frames.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ganvas.data.packing.pack import Progress
from ganvas.errors import ConfigError, MissingExtraError, PictureError, RunError
from ganvas.image_files import eight_bits, on_colour, resized, to_image
from ganvas.options import Frames, Video
from ganvas.provenance import DESCRIPTION, SOFTWARE, XMP, note, opened_image
from ganvas.run import Run
from ganvas.system import files

_T = TypeVar("_T")
_SMALLEST, _LARGEST = 480, 960  # minimum and maximum longer side of a training frame, in pixels
CAPTION = 28  # height of the caption below the grid, in pixels
FRAME_MS, LAST_MS = 120, 2500  # duration of a training frame and of the last one, in ms
_AIM = 0.9  # target size of a reduced GIF, relative to the limit
LEAST_GIF_SIDE = 160  # minimum longer side of a GIF with caption, in pixels
_LEAST_FILM = 256  # default minimum longer side of other videos, in pixels
_LEAST_PLAIN = 32  # minimum longer side of a GIF without caption, in pixels
_GIF_MB = 8.0  # default maximum size of a GIF
_SIDES = (16, 7680)  # smallest and largest side that --size accepts, in pixels
HELD_MS = 40  # longest frame of a video with a constant rate whose last frame is held
_NO_FRAMES = "no frames: a video needs at least one"
MOST_GIF_FPS = 50  # frames per second; most programs play faster GIFs slowly


def of_training(asked: Video, progress: Progress) -> list[Path]:
    """Writes training.gif, training.webp and training.mp4, or the file `out`, from the preview grids of a run.

    Returns the paths.
    """
    grids = Run(Path(asked.run)).grids()
    if not grids:
        raise RunError(f"{asked.run} has no preview grids in samples/: expected a run that has started training")
    places = _places_of(asked)
    sizes = {name: checked_size(name, asked) for name in places}  # report errors before the first file
    for name in places:
        check_fps(name, asked.fps or 0)
    timing, films = timing_of(asked, len(grids)), {}
    for name, path in places.items():
        scenes = (scene(grid, images, sizes[name], asked) for images, grid in grids)
        films[path] = _WRITERS[name](counted(scenes, path.name, len(grids), progress), timing, _limit_of(asked), None)
    for path, content in films.items():
        with files.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, lambda file, content=content: file.write(content))
    return list(films)


def counted(frames: Iterable[_T], name: str, total: int, progress: Progress) -> Iterator[_T]:
    """The frames, reporting how many of `total` have been taken for the video `name`."""
    for i, frame in enumerate(frames, 1):
        yield frame
        progress(f"{name}: frames", i, total)
    progress(f"{name}: encoding", 0, 0)


def _places_of(asked: Video) -> dict[str, Path]:
    """The files to write, by format."""
    out = Path(asked.out) if asked.out is not None else Path(asked.run)
    ending = out.suffix.lower().removeprefix(".")
    if ending in _WRITERS and not out.is_dir():
        if asked.formats is not None:
            raise ConfigError(f"--formats: the ending of {out} selects the format; remove the option")
        return {ending: out}
    if asked.formats:
        wanted = asked.formats.split(",")
    else:
        wanted = ["gif", "webp", *(["mp4"] if importlib.util.find_spec("av") else [])]
    if unknown := [name for name in wanted if name not in _WRITERS]:
        raise ConfigError(f"--formats {','.join(unknown)}: expected some of {', '.join(_WRITERS)}")
    return {name: out / f"training.{name}" for name in wanted}


def timing_of(asked: Video, num: int) -> Timing:
    """Duration of the frames of a training video with `num` grids."""
    if asked.fps is not None:
        return Timing(1000 / asked.fps, LAST_MS)
    if asked.seconds is None:
        return Timing(FRAME_MS, LAST_MS)
    if num == 1:
        return Timing(asked.seconds * 1000, asked.seconds * 1000)
    frame = (asked.seconds * 1000 - LAST_MS) / (num - 1)
    if frame < 1000 / MOST_GIF_FPS:
        least = (LAST_MS + (num - 1) * 1000 / MOST_GIF_FPS) / 1000
        raise ConfigError(f"--seconds {asked.seconds:g}: {num} grids need at least {math.ceil(least * 10) / 10:g}")
    return Timing(frame, LAST_MS)


def write(
    frames: Iterable[np.ndarray],
    out: Path,
    look: Frames | None = None,
    *,
    fps: float = 24,
    enlarge: int | None = None,
    text: Mapping[str, str] | None = None,
) -> Path:
    """Writes frames (H, W, C), uint8 or uint16, as the video `out` (.gif, .webp, .mp4, .webm or .mov), atomically.

    look: size, filter, background and maximum size of the video. fps: frames per second. enlarge: factor; by default so
    that the longer side is at least 256 pixels. text: metadata (see provenance.py); without it the file states only
    that it is synthetic. Raises ConfigError for other endings or invalid numbers, and MissingExtraError for MP4, WebM
    and MOV without their extra, before the first frame is used.
    """
    look = look or Frames()
    form = out.suffix.lower().removeprefix(".")
    if form not in _WRITERS:
        raise ConfigError(
            f"{out} ends in {out.suffix or 'nothing'}: videos are written as .gif, .webp, .mp4, .webm or .mov"
        )
    check_fps(form, fps)
    size = checked_size(form, look)

    def shown(pixels: np.ndarray) -> _Scene:
        image = to_image(eight_bits(pixels))
        if look.background is not None or form not in _TRANSPARENT:
            image = on_colour(image, look.background or "white")
        if size is not None:
            return _Scene(_placed(image, size, look, pixels.shape[2] == 4))
        times = enlarge or -(-_LEAST_FILM // max(image.size))
        return _Scene(resized(image, image.width * times, image.height * times, look.filter))

    content = _WRITERS[form](map(shown, frames), Timing(1000 / fps, 1000 / fps), _limit_of(look), text)
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(out, lambda file: file.write(content))
    return out


def check_fps(form: str, fps: float) -> None:
    if form == "gif" and fps > MOST_GIF_FPS:
        raise ConfigError(f"--fps {fps:g}: expected up to {MOST_GIF_FPS} for GIF")


def checked_size(form: str, look: Frames) -> tuple[int, int] | None:
    """(width, height) of `look.size`; None if not given. Raises ConfigError or MissingExtraError for wrong options."""
    if form in CODECS:
        _codec()
    if look.background is not None:
        try:
            ImageColor.getrgb(look.background)
        except ValueError:
            raise ConfigError(f"--background {look.background}: expected a colour such as black or #ffcc00") from None
    if look.size is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", look.size.strip().lower())
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(_SIDES[0] <= side <= _SIDES[1] for side in (width, height)):
        raise ConfigError(
            f"--size {look.size}: expected width x height in pixels such as 1920x1080, {_SIDES[0]} to {_SIDES[1]} each"
        )
    if isinstance(look, Video) and height < _SIDES[0] + CAPTION:
        raise ConfigError(f"--size {look.size}: expected a height of {_SIDES[0] + CAPTION} or more, with the caption")
    if form in CODECS and (width % 2 or height % 2):
        raise ConfigError(f"--size {look.size}: {form.upper()} needs even numbers")
    return width, height


def _limit_of(look: Frames) -> float:
    """Maximum size of a GIF in MB."""
    return look.max_mb or (_GIF_MB if look.size is None else math.inf)


def _placed(image: Image.Image, size: tuple[int, int], look: Frames, was_transparent: bool) -> Image.Image:
    """The image as large as fits into (width, height), in the middle of the background."""
    share = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * share)) for side in image.size)
    image = resized(image, width, height, look.filter if share > 1 else "lanczos")
    if image.size == size:
        return image
    if image.mode == "RGBA":
        sheet = Image.new("RGBA", size)
    else:
        colour = look.background or ("white" if was_transparent else "black")
        image = image.convert("RGB") if look.background else image
        sheet = Image.new(image.mode, size, colour)
    sheet.paste(image, ((size[0] - width) // 2, (size[1] - height) // 2))
    return sheet


@dataclass(frozen=True)
class Timing:
    """Duration of a frame and of the last one, in ms."""

    frame: float
    last: float

    @property
    def step(self) -> float:
        """Duration of a frame in formats with a constant rate, in ms: short if the last one is longer, to repeat it."""
        return self.frame if self.last == self.frame else min(self.frame, HELD_MS)

    def of(self, num: int, unit: int) -> list[int]:
        """Duration of each of `num` frames in ms, as multiples of `unit`, without accumulated rounding errors."""
        ends = [round(self.frame * i / unit) * unit for i in range(num)]
        return [b - a for a, b in itertools.pairwise(ends)] + [round(self.last / unit) * unit]


@dataclass(frozen=True)
class _Scene:
    """One frame at full size, and its caption. band: height of the caption in pixels."""

    picture: Image.Image
    caption: str = ""
    band: int = CAPTION

    def frame(self, scale: float = 1.0) -> Image.Image:
        """The scaled image with the caption below; the font size is constant."""
        picture = self.picture
        if scale < 1:
            width, height = (max(2, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        if not self.caption:
            return picture
        sheet = Image.new(picture.mode, (picture.width, picture.height + self.band), "white")
        sheet.paste(picture, (0, 0))
        font = ImageFont.load_default(size=self.band * 4 // 7)
        place = (self.band * 2 // 7, picture.height + self.band // 7)
        ImageDraw.Draw(sheet).text(place, self.caption, fill="black", font=font)
        return sheet


def scene(path: Path, images_seen: int, size: tuple[int, int] | None = None, look: Frames | None = None) -> _Scene:
    """A grid with the images seen as caption.

    size: (width, height) of the frame with its caption; default: enlarged by a whole number or reduced to 480 to 960.
    """
    look = look or Frames(filter="nearest")
    try:
        with opened_image(path) as opened:
            picture = eight_bit(opened, look.background or "white")
    except PictureError as error:
        raise RunError(f"the grid {path} is damaged: delete it, then make the video again") from error
    caption = f"{images_seen:,} images"
    if size is not None:
        band = max(CAPTION, size[1] // 40)
        return _Scene(_placed(picture, (size[0], size[1] - band), look, True), caption, band)
    longer = max(picture.size)
    if longer < _SMALLEST:
        times = -(-_SMALLEST // longer)
        picture = resized(picture, picture.width * times, picture.height * times, look.filter)
    elif longer > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return _Scene(picture, caption)


def eight_bit(picture: Image.Image, background: str = "white") -> Image.Image:
    """Converts to 8 bit gray or colour; transparent images on a background."""
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.float32) / 257
        return Image.fromarray(pixels.round().astype(np.uint8))
    if picture.mode == "RGBA":
        return on_colour(picture, background)
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


# -- formats: (frames, durations, maximum size in MB, metadata) -> content of a file --


def gif(scenes: Iterable[_Scene], timing: Timing, max_mb: float, text: Mapping[str, str] | None) -> bytes:
    """GIF with 256 colours per frame; reduced until it is within the limit. Pixels are opaque or transparent."""
    scenes = _listed(scenes)
    scale, size = 1.0, max(scenes[0].picture.size)
    least = LEAST_GIF_SIDE if scenes[0].caption else min(_LEAST_PLAIN, size)
    times = timing.of(len(scenes), 10)
    options: dict[str, Any] = {"optimize": True, "comment": note(text).encode()}
    if scenes[0].picture.mode == "RGBA":
        options["disposal"] = 2  # clear the frame before the next one
    while size * scale >= least:
        content = animated([_one_bit_alpha(one.frame(scale)) for one in scenes], times, "GIF", **options)
        if len(content) <= max_mb * 1e6:
            return content
        scale *= math.sqrt(_AIM * max_mb * 1e6 / len(content))  # size is proportional to the area
    raise ConfigError(f"--max-mb {max_mb:g} is too small for {len(scenes)} frames of {least} pixels: increase it")


def _one_bit_alpha(image: Image.Image) -> Image.Image:
    """An RGBA image whose pixels are opaque (on white) or transparent; other images unchanged."""
    if image.mode != "RGBA":
        return image
    alpha = image.getchannel("A").point(lambda value: 255 if value >= 128 else 0)
    solid = on_colour(image, "white").convert("RGBA")
    solid.putalpha(alpha)
    return solid


def webp(scenes: Iterable[_Scene], timing: Timing, _: float, text: Mapping[str, str] | None) -> bytes:
    frames = [one.frame() for one in _listed(scenes)]
    exif = Image.Exif()
    exif[DESCRIPTION], exif[SOFTWARE] = note(text), "Ganvas"
    options: dict[str, Any] = {"quality": 80, "method": 4, "xmp": XMP.encode(), "exif": exif.tobytes()}
    return animated(frames, timing.of(len(frames), 1), "WEBP", **options)


def _listed(scenes: Iterable[_Scene]) -> list[_Scene]:
    every = list(scenes)
    if not every:
        raise ConfigError(_NO_FRAMES)
    return every


def animated(frames: list[Image.Image], times: list[int], form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=times, loop=0, **options)
    return buffer.getvalue()


def _codec() -> Any:
    """Module that writes MP4, WebM and MOV."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "MP4, WebM and MOV") from None
    return av


@dataclass(frozen=True)
class _Codec:
    """Codec of a format, with its pixel format without and with transparency; "" if it has none."""

    name: str
    opaque: str
    transparent: str
    options: Mapping[str, str]


CODECS = {
    "mp4": _Codec("h264", "yuv420p", "", {"crf": "18"}),  # plays everywhere
    "webm": _Codec("libvpx-vp9", "yuv420p", "yuva420p", {"crf": "24", "b": "0", "cpu-used": "4"}),
    "mov": _Codec("prores_ks", "yuv422p10le", "yuva444p10le", {}),  # for video editors
}
_BT709 = 1  # colour space of all three, which players expect of large videos


def _encoded(form: str, scenes: Iterable[_Scene], timing: Timing, _: float, text: Mapping[str, str] | None) -> bytes:
    """MP4, WebM or MOV, frame by frame; frames are repeated for their duration."""
    av = _codec()
    scenes = iter(scenes)
    first = next(scenes, None)
    if first is None:
        raise ConfigError(_NO_FRAMES)
    known, buffer = CODECS[form], io.BytesIO()
    image = first.frame()
    width, height = (max(2, side // 2 * 2) for side in image.size)
    mode, pixel_format = ("RGBA", known.transparent) if image.mode == "RGBA" else ("RGB", known.opaque)
    with av.open(buffer, "w", format=form) as container:
        container.metadata["comment"] = note(text)
        stream = container.add_stream(
            known.name, rate=Fraction(1000 / timing.step).limit_denominator(1001), options=dict(known.options)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        stream.codec_context.color_range = 1  # limited, as usual for video

        def add(pixels: np.ndarray, times: int) -> None:
            for _ in range(times):
                rgb = av.VideoFrame.from_ndarray(pixels, format="rgba" if mode == "RGBA" else "rgb24")
                container.mux(stream.encode(rgb.reformat(format=pixel_format, dst_colorspace="itu709")))

        num, pixels = 0, np.empty(0)
        for num, one in enumerate(itertools.chain([first], scenes)):
            if num:
                add(pixels, round(num * timing.frame / timing.step) - round((num - 1) * timing.frame / timing.step))
            pixels = np.asarray(one.frame().convert(mode).crop((0, 0, width, height)))
        add(pixels, round(timing.last / timing.step))
        container.mux(stream.encode())
    return buffer.getvalue()


_Writer = Callable[[Iterable[_Scene], Timing, float, Mapping[str, str] | None], bytes]
_WRITERS: dict[str, _Writer] = {"gif": gif, "webp": webp, **{form: partial(_encoded, form) for form in CODECS}}
_TRANSPARENT = ("gif", "webp", "webm", "mov")
