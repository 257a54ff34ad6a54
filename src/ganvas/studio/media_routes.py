"""Routes of videos and prints: start them, and get their files. Progress and cancelling: `GET /api/task`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse

from ganvas.explore.recipes import Recipe, resolve
from ganvas.explore.sampling import file_name
from ganvas.fields import build_options, check_bounds
from ganvas.options import Files, Interpolate, Video
from ganvas.studio import commands, media, run_status, schemas
from ganvas.studio.context import StudioParts, TaskName, task_out
from ganvas.studio.engine import Loaded
from ganvas.studio.errors import AbsentError
from ganvas.studio.model_folder import Place
from ganvas.studio.slow_jobs import Task


def add(api: FastAPI, studio: StudioParts) -> None:
    """Add the routes."""
    engine, bench = studio.engine, studio.bench

    @api.post("/api/films", status_code=202)
    async def film(body: schemas.NewFilm) -> schemas.TaskOut:
        """Start a video that morphs from image to image; the options are those of `ganvas interpolate`."""
        loaded = await engine.ready(body.model)
        recipes, asked = await usable(loaded, body.recipes), _film_of(loaded, body)
        known = studio.training.of(loaded) if studio.no_copies else None
        task = Task("film", loaded.place.name)
        return task_out(bench.begin(task, media.filming(bench, loaded, recipes, asked, known)))

    @api.post("/api/films/command")
    def film_command(body: schemas.NewFilm) -> schemas.CommandOut:
        """Get the command line that makes this video."""
        loaded = engine.model(body.model)
        return commands.of_film(loaded, [one.recipe() for one in body.recipes], _film_of(loaded, body))

    @api.post("/api/run/films", status_code=202)
    def training_film(body: schemas.NewTrainingFilm) -> schemas.TaskOut:
        """Start a video of a training, from its preview grids; the options are those of `ganvas video`."""
        place = run_status.run_place(studio.shelf, body.run)
        asked = _training_film_of(place, body)
        return task_out(bench.begin(Task("film", place.name), media.filming_training(bench, place, asked)))

    @api.post("/api/run/films/command")
    def training_film_command(body: schemas.NewTrainingFilm) -> schemas.CommandOut:
        """Get the command line that makes this video."""
        place = run_status.run_place(studio.shelf, body.run)
        return commands.of_training_film(_training_film_of(place, body))

    @api.post("/api/prints", status_code=202)
    async def prints(body: schemas.NewPrint) -> schemas.TaskOut:
        """Start enlarging images: one file, a ZIP file of several, or one grid; options as in `ganvas sample`."""
        loaded = await engine.ready(body.model)
        recipes, form = await usable(loaded, body.recipes), _files_of(body)
        task = Task("print", loaded.place.name)
        return task_out(bench.begin(task, media.printing(bench, loaded, recipes, form, body.columns)))

    @api.post("/api/prints/command")
    def print_command(body: schemas.NewPrint) -> schemas.CommandOut:
        """Get the command line that makes these files."""
        recipes = [one.recipe() for one in body.recipes]
        return commands.of_recipes(engine.model(body.model), recipes, _files_of(body), body.columns)

    @api.get("/api/task/file", response_class=FileResponse)
    def file(id: TaskName, download: bool = False) -> FileResponse:
        """Get the file that a finished job has written. download: with its name, to be saved."""
        task = bench.find(id)
        if task.file is None or task.state != "done":
            raise AbsentError(f"job {id} has no file: wait until it is done, or start a video or a print")
        name: dict[str, Any] = {"filename": task.file.name} if download else {}
        return FileResponse(task.file, media_type=media.TYPES[task.file.suffix[1:]], **name)

    async def usable(loaded: Loaded, bodies: Sequence[schemas.RecipeBody]) -> list[Recipe]:
        """The recipes, without copies if those are left out of downloads. Raises ConfigError if one does not fit."""
        recipes = [one.recipe() for one in bodies]
        await asyncio.wrap_future(engine.call(loaded, lambda: resolve(loaded.generator, recipes, loaded.directions)))
        return await studio.without_copies(loaded, recipes)


def _film_of(loaded: Loaded, body: schemas.NewFilm) -> Interpolate:
    values = body.look() | {name: getattr(body, name) for name in ("easing", "loop")}
    return build_options(Interpolate, (str(loaded.place.folder), f"{file_name(loaded.place.name)}.{body.form}"), values)


def _training_film_of(place: Place, body: schemas.NewTrainingFilm) -> Video:
    values = body.look() | {"fps": None if body.seconds is not None else body.fps}
    return build_options(Video, (str(place.folder), f"{file_name(place.name)}-training.{body.form}"), values)


def _files_of(body: schemas.NewPrint) -> Files:
    form = build_options(Files, (), {name: getattr(body, name) for name in ("format", "enlarge", "filter", "dpi")})
    check_bounds(form)
    return form
