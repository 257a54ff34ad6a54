"""Run notebooks from top to bottom in an empty folder and store their outputs: python store_outputs.py NOTEBOOK ..."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image, ImageSequence

LARGE = 500_000  # characters of an animation that is stored with half of its frames


def run(path: Path) -> Any:
    """The notebook with its outputs. Raises nbclient's CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}}).execute()
    return notebook


def reduce(notebook: Any) -> None:
    """Drop progress displays, store figures with 32 colours, and of large animations every second frame."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if not is_progress(one)]
            for one in cell.outputs:
                for kind, smaller in (("image/png", with_few_colours), ("image/gif", with_few_frames)):
                    if kind in (data := one.get("data", {})):
                        data[kind] = smaller(data[kind])


def is_progress(output: Any) -> bool:
    text = output.get("data", {}).get("text/plain", "")
    return "text/html" in output.get("data", {}) and "%  " in text


def with_few_colours(png: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(32, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def with_few_frames(gif: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(gif))) as opened:
        if len(gif) < LARGE:
            return gif
        frames, seconds = [], []
        for frame in ImageSequence.Iterator(opened):
            frames.append(frame.convert("RGB").quantize(32, dither=Image.Dither.NONE))
            seconds.append(frame.info["duration"])
    file = io.BytesIO()
    durations = [sum(seconds[i : i + 2]) for i in range(0, len(seconds), 2)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[2::2], duration=durations, loop=0)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        notebook = run(Path(name))
        reduce(notebook)
        nbformat.write(notebook, name)
