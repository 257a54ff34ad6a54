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
from PIL import Image


def run(path: Path) -> Any:
    """The notebook with its outputs. Raises nbclient's CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}}).execute()
    return notebook


def reduce(notebook: Any) -> None:
    """Keep the last line of each progress display, store figures with 64 colours, and drop what changes every time."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if not is_progress(one)]
            for one in cell.outputs:
                if "image/png" in (data := one.get("data", {})):
                    data["image/png"] = with_few_colours(data["image/png"])


def is_progress(output: Any) -> bool:
    text = output.get("data", {}).get("text/plain", "")
    return "text/html" in output.get("data", {}) and "%  " in text


def with_few_colours(png: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        notebook = run(Path(name))
        reduce(notebook)
        nbformat.write(notebook, name)
