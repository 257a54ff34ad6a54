"""Files to download that take a while: videos of a training or of generated images, and images enlarged for printing.

Each is a slow job that calls the function of the command line; its file lies in the folder of the workbench.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganvas import film
from ganvas.errors import ConfigError
from ganvas.explore import sampling
from ganvas.explore.recipes import Recipe
from ganvas.explore.verbs import morphed, rendered
from ganvas.image_files import enlarged, grid, save_picture
from ganvas.image_formats import WRITTEN
from ganvas.options import Files, Interpolate, Video
from ganvas.provenance import provenance
from ganvas.run import Run
from ganvas.studio import archive, slow_jobs
from ganvas.studio.engine import Loaded
from ganvas.studio.model_folder import Place
from ganvas.studio.slow_jobs import Neighbours, Task, Work, Workbench

TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mov": "video/quicktime",
    "gif": "image/gif",
    **{name: form.media_type for name, form in WRITTEN.items()},
    "zip": "application/zip",
}
"""Media types of the files."""
_IN_MEMORY = ("gif", "webp")  # formats that store all frames before they are written
_MOST_FRAMES, _MOST_STORED = 20_000, 2**28  # most frames of a video; most pixels of all frames of GIF and WebP
_MOST_PIXELS = 2**28  # most pixels of a print


def filming(
    bench: Workbench, loaded: Loaded, recipes: Sequence[Recipe], asked: Interpolate, known: Neighbours | None
) -> Work:
    """The video `asked` through these images. known: leave out the frames that are copies of its training images."""
    _check_frames(asked, Path(asked.out).suffix[1:], asked.num_frames)

    def work(task: Task) -> dict[str, Any]:
        keep = None if known is None else lambda pixels: ~slow_jobs.copies(known, pixels)
        generator, out = slow_jobs.own_copy(loaded), bench.place_for(task, str(asked.out))
        written = dataclasses.replace(asked, out=out)
        return _done(task, morphed(generator, recipes, loaded.directions, written, task.progress, keep))

    return work


def filming_training(bench: Workbench, place: Place, asked: Video) -> Work:
    """The video `asked` of a training, from its preview grids."""
    _check_frames(asked, Path(str(asked.out)).suffix[1:], len(Run(place.folder, writes=False).grids()))

    def work(task: Task) -> dict[str, Any]:
        written = dataclasses.replace(asked, out=bench.place_for(task, str(asked.out)))
        return _done(task, *film.of_training(written, task.progress))

    return work


def _check_frames(look: Interpolate | Video, form: str, num: int) -> None:
    """Raises ConfigError for wrong options, or if the video would need too much memory or time."""
    size = film.checked_size(form, look)
    film.check_fps(form, look.fps or 0)
    if num > _MOST_FRAMES:
        raise ConfigError(f"{num:,} frames: expected at most {_MOST_FRAMES:,}; choose a shorter video, or --fps")
    if form in _IN_MEMORY and size is not None and num * size[0] * size[1] > _MOST_STORED:
        raise ConfigError(
            f"{num:,} frames of {look.size} pixels are too many for {form.upper()}: "
            "choose MP4 or WebM, a smaller size or a shorter video"
        )


def printing(bench: Workbench, loaded: Loaded, recipes: Sequence[Recipe], form: Files, columns: int | None) -> Work:
    """Images enlarged as asked: one file, a ZIP file of several, or with `columns` one grid."""
    config, ending = loaded.generator.info.config, form.format or "png"
    together = 1 if columns is None else len(recipes)
    if config.height * config.width * form.enlarge**2 * together > _MOST_PIXELS:
        raise ConfigError(f"--enlarge {form.enlarge}: more than {_MOST_PIXELS // 2**20} million pixels; reduce it")

    def work(task: Task) -> dict[str, Any]:
        generator = slow_jobs.own_copy(loaded)
        name = sampling.file_name(loaded.place.name)
        images = film.counted(rendered(generator, recipes, loaded.directions), "enlarging", len(recipes), task.progress)
        if columns is not None:
            out = bench.place_for(task, f"{name}-grid.{ending}")
            pixels = np.stack([enlarged(one[None], form.enlarge, form.filter)[0] for _, one in images])
            text = provenance(generator.hash, {"grid": [one.to_dict() for one in recipes]})
            save_picture(out, grid(pixels, columns), text, dpi=form.dpi)
        elif len(recipes) == 1:
            out = bench.place_for(task, f"{archive.recipe_file_name(loaded, recipes[0])}.{ending}")
            for recipe, pixels in images:
                sampling.write_one(out, pixels, provenance(generator.hash, recipe.to_dict()), form)
        else:
            out = bench.place_for(task, f"{name}-{len(recipes)}.zip")
            _write_zip(out, loaded, recipes, images, form)
        return _done(task, out)

    return work


def _write_zip(
    out: Path, loaded: Loaded, recipes: Sequence[Recipe], images: Iterable[tuple[Recipe, np.ndarray]], form: Files
) -> None:
    """The images and manifest.csv."""
    ending = form.format or "png"
    names = [f"{i:04}-{archive.recipe_file_name(loaded, recipe)}.{ending}" for i, recipe in enumerate(recipes)]
    with zipfile.ZipFile(out, "w") as target:  # not compressed, because the files already are
        for name, (recipe, pixels) in zip(names, images, strict=True):
            path = out.with_name(name)
            sampling.write_one(path, pixels, provenance(loaded.generator.hash, recipe.to_dict()), form, sync=False)
            target.write(path, name)
            path.unlink()
        target.writestr("manifest.csv", archive.manifest(loaded, recipes, names))


def _done(task: Task, file: Path) -> dict[str, Any]:
    task.file = file
    return {"name": file.name, "type": TYPES[file.suffix[1:]], "bytes": file.stat().st_size}
