"""Images as a ZIP file with a table of seeds and a favourites file to generate them again."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO

from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from ganvas.explore.recipes import Recipe
from ganvas.explore.sampling import file_name as plain
from ganvas.studio import commands
from ganvas.studio.engine import Engine, Loaded
from ganvas.studio.errors import BusyError

_IN_MEMORY = 2**23  # bytes; larger archives are written to disk
_PIECE = 2**16
_PATIENCE = 60  # seconds that an archive waits for space in the queue


async def response(engine: Engine, loaded: Loaded, recipes: Sequence[Recipe]) -> StreamingResponse:
    """Create the ZIP file in batches, so that other requests are not blocked."""
    file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (closed after sending)
    try:
        names = [f"{place:04}-{recipe_file_name(loaded, recipe)}.png" for place, recipe in enumerate(recipes)]
        with zipfile.ZipFile(file, "w") as target:  # not compressed, because PNG files already are
            for start in range(0, len(recipes), loaded.batch):
                part = recipes[start : start + loaded.batch]
                drawn = await _patiently(engine, loaded, part)
                for name, content in zip(names[start:], drawn, strict=False):
                    target.writestr(name, content)
            target.writestr("manifest.csv", manifest(loaded, recipes, names))
            target.writestr("favourites.json", commands.favourites_command(loaded, recipes))
        size = file.tell()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    headers = {
        "content-disposition": f'attachment; filename="{plain(loaded.place.name)}-{len(recipes)}.zip"',
        "content-length": str(size),
    }
    return StreamingResponse(
        _pieces(file), media_type="application/zip", headers=headers, background=BackgroundTask(file.close)
    )


async def _patiently(engine: Engine, loaded: Loaded, recipes: Sequence[Recipe]) -> list[bytes]:
    for _ in range(_PATIENCE):
        try:
            return await engine.pictures(loaded, recipes)
        except BusyError:
            await asyncio.sleep(1)
    return await engine.pictures(loaded, recipes)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def recipe_file_name(loaded: Loaded, recipe: Recipe) -> str:
    """File name such as seed17-Hand, with only letters, digits, dots and dashes."""
    start = f"seed{recipe.seed}" if recipe.seed is not None else "code"
    extra = [name for name, has in (("edited", recipe.edits), ("morph", recipe.towards), ("mix", recipe.mix)) if has]
    return (
        plain("-".join([start, *filter(None, [_label_of(loaded, recipe)]), *extra]))
        .encode("ascii", "replace")
        .decode()
        .replace("?", "-")
    )


def _label_of(loaded: Loaded, recipe: Recipe) -> str:
    """The class or the conditions; "" for none or several classes."""
    classes = loaded.generator.label_names
    if not classes:
        return ""
    if isinstance(recipe.label, str):
        return recipe.label
    return classes[(recipe.seed or 0) % len(classes)] if recipe.label is None else ""


def manifest(loaded: Loaded, recipes: Sequence[Recipe], names: Sequence[str]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "seed", "label", "truncation", "recipe", "model"])
    for name, recipe in zip(names, recipes, strict=True):
        seed = "" if recipe.seed is None else recipe.seed
        content = json.dumps(recipe.to_dict())
        writer.writerow([name, seed, _label_of(loaded, recipe), recipe.truncation, content, loaded.generator.hash])
    return table.getvalue()
