"""What the tests of the studio's HTTP interface share."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import httpx
import numpy as np
from PIL import Image

HOME = "http://127.0.0.1"


def picture(content: bytes) -> np.ndarray:
    """The pixels of an image file."""
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened)


def address(recipe: Any, model: str = "bars", **more: str) -> str:
    """The address of the image of a recipe."""
    return f"/api/picture?{httpx.QueryParams({'model': model, 'recipe': json.dumps(recipe), **more})}"


def refused(answer: httpx.Response, status: int, words: str) -> None:
    """The answer has this status, and one sentence with these words."""
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"] and "\n" not in answer.json()["error"]


def wait_for(ask: Any, done: Any, seconds: float = 150) -> Any:
    """What `ask` gives once it is `done`."""
    end, pause = time.monotonic() + seconds, 0.02
    while not done(told := ask()):
        assert time.monotonic() < end, told
        time.sleep(pause)
        pause = min(1.5 * pause, 0.25)
    return told


def png(height: int, width: int, mode: str = "L") -> bytes:
    """A black PNG file."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()
