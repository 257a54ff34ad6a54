"""Reads frames of video files at a constant rate, with PyAV (the `video` extra). One frame at a time is in memory."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganvas.data.reading.headers import MAX_PIXELS, too_large
from ganvas.errors import PictureError

_ENDINGS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
FPS = 1.0  # default number of frames per second of video
_MAX_FRAMES = 2**16  # frames of one file, more are ignored
_MAX_DECODED = 2**22  # frames that are decoded to find them; 38 hours at 30 frames per second
NO_AV = "video files need the package 'av': pip install 'ganvas[video]'"


def available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def is_video(name: str) -> bool:
    """Whether the file name ends like a video."""
    return name.lower().endswith(_ENDINGS)


def num_frames(content: bytes | Path, fps: float) -> int:
    """Number of frames that `frames` gives at this rate, by the duration that the file states; 0 if it is damaged.

    Raises `PictureError` for a file that is not read for another reason, such as its size.
    """
    try:
        with _opened(content) as container:
            stream = container.streams.video[0]
            if stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            else:
                seconds = (container.duration or 0) / 1e6  # in microseconds
        return min(_MAX_FRAMES, max(1, int(seconds * fps)))
    except PictureError:
        raise
    except Exception:  # damaged files can make PyAV raise almost anything
        return 0


def frames(content: bytes | Path, fps: float, indices: Sequence[int]) -> Iterator[np.ndarray | PictureError]:
    """The frames with these increasing indices, each (H, W, 3) uint8 or an error; frame k is at k / fps seconds."""
    wanted = iter(indices)
    given = 0
    try:
        index = next(wanted, None)
        for seconds, image in _decoded(content):
            while index is not None and seconds >= index / fps:
                yield image()
                given += 1
                index = next(wanted, None)
            if index is None:
                return
        reason = PictureError("the video ends before this frame")
    except PictureError as error:
        reason = error
    except Exception:
        reason = PictureError("damaged video file")
    yield from [reason] * (len(indices) - given)


def _decoded(content: bytes | Path) -> Iterator[tuple[float, Any]]:
    """(seconds since the first frame, function that gives the pixels) of every frame."""
    with _opened(content) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first = None
        for number, frame in enumerate(container.decode(stream)):
            if number >= _MAX_DECODED:
                raise PictureError(f"a video of more than {_MAX_DECODED:,} frames: split it")
            if frame.width * frame.height > MAX_PIXELS:
                raise too_large(frame.width * frame.height)
            time = frame.time if frame.time is not None else number / float(stream.average_rate or 25)
            first = time if first is None else first
            yield time - first, lambda frame=frame: _pixels(frame)


def _pixels(frame: Any) -> np.ndarray:
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _opened(content: bytes | Path) -> Any:
    """The open file. Its first bytes select the reader: others, such as those of playlists, open further files."""
    import av

    start = content[:16] if isinstance(content, bytes) else _start(content)
    if start[:4] == b"\x1aE\xdf\xa3":
        form = "matroska"
    elif start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        form = "avi"
    elif start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        form = "mov"
    else:
        raise PictureError("not a video of a known format")
    container = av.open(str(content) if isinstance(content, Path) else io.BytesIO(content), format=form)
    if not container.streams.video:
        container.close()
        raise PictureError("has no video stream")
    context = container.streams.video[0].codec_context
    if context.width * context.height > MAX_PIXELS:
        container.close()
        raise too_large(context.width * context.height)
    return container


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)
