"""Routes of models: images, downloads, favourites, training images, projections and searches."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Annotated, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import Response

import ganvas
from ganvas.errors import ConfigError
from ganvas.explore.recipes import SLIDERS, Favourites, Recipe, as_recipe, resolve
from ganvas.image_files import grid, png_bytes
from ganvas.image_formats import WRITTEN
from ganvas.provenance import provenance
from ganvas.studio import archive, commands, run_status, schemas, slow_jobs
from ganvas.studio.context import PNG, Json, ListName, ModelQuery, StudioParts, TaskName, task_out
from ganvas.studio.engine import Loaded, address_hash, is_newer
from ganvas.studio.errors import AbsentError
from ganvas.studio.favourites import FIRST, Lists
from ganvas.studio.slow_jobs import Task

_LONGEST_ADDRESS = 6000  # characters; longer recipes are sent by POST
_FOREVER = "private, max-age=31536000, immutable"


def add(api: FastAPI, studio: StudioParts) -> None:
    """Add the routes."""
    for routes in (_add_models, _add_images, _add_downloads, _add_favourites, _add_training_images, _add_slow_jobs):
        routes(api, studio)


def _add_models(api: FastAPI, studio: StudioParts) -> None:
    """Routes of runs and models."""
    shelf, engine, lists = studio.shelf, studio.engine, studio.lists

    @api.get("/api/places")
    def places() -> schemas.Places:
        """List the runs and models of the folder."""
        places = shelf.places().values()
        lines = [
            schemas.PlaceOut(
                name=one.name, title=run_status.title_of(one), is_run=one.is_run, has_model=one.weights is not None
            )
            for one in places
        ]
        return schemas.Places(places=lines, version=ganvas.__version__)

    @api.get("/api/model")
    def model(model: ModelQuery, anew: bool = False) -> schemas.ModelOut:
        """Describe a model; load it if necessary. anew: reload it if its file has changed."""
        return _described(engine.model(model, anew=anew), lists)


def _add_images(api: FastAPI, studio: StudioParts) -> None:
    """Routes that generate images."""
    engine = studio.engine

    @api.get("/api/picture", responses=PNG, response_class=Response)
    async def picture(
        request: Request,
        model: ModelQuery,
        recipe: Annotated[str, Query(description='JSON, such as {"seed": 5}')],
        version: Annotated[str | None, Query(max_length=64, description="`version` from `GET /api/model`")] = None,
        download: bool = False,
    ) -> Response:
        """Get one image as PNG with provenance metadata. With `version`, the image never changes."""
        asked = schemas.read_recipe(recipe)
        loaded = await engine.ready(model, version)
        tag = f'"{address_hash(loaded, asked)}"'
        headers = {"etag": tag, "cache-control": _FOREVER if version is not None else "no-cache"}
        if download:
            await studio.without_copies(loaded, [asked])
            headers["content-disposition"] = f'attachment; filename="{archive.recipe_file_name(loaded, asked)}.png"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        (content,) = await engine.pictures(loaded, [asked])
        return Response(content, media_type="image/png", headers=headers)

    @api.post("/api/pictures", responses={200: {"content": {"image/png": {}}, "model": schemas.DrawnList}})
    async def pictures(
        body: schemas.SeveralImages,
        form: Annotated[Literal["list", "sheet"], Query(description="list: JSON; sheet: one PNG grid")] = "list",
    ) -> Response:
        """Get several images: a list with their URLs, or one grid."""
        asked = [one.recipe() for one in body.recipes]
        loaded = await engine.ready(body.model)
        if form == "sheet":
            sheet = grid(await engine.pixels(loaded, asked), body.columns)
            text = provenance(loaded.generator.hash, {"grid": [one.to_dict() for one in asked]})
            return Response(await asyncio.to_thread(png_bytes, sheet, text), media_type="image/png")
        drawn = await engine.pictures(loaded, asked)
        drawn_list = [
            {"address": _address(loaded, recipe), "png": base64.b64encode(content).decode()}
            for recipe, content in zip(asked, drawn, strict=True)
        ]
        return Json({"pictures": drawn_list})

    @api.post("/api/code")
    async def code(body: schemas.One) -> schemas.RecipeOut:
        """Convert a recipe to one with a latent code, as a start for further edits."""
        asked = body.recipe.recipe()
        loaded = await engine.ready(body.model)
        coded_recipe = await asyncio.wrap_future(engine.call(loaded, lambda: _coded(loaded, asked)))
        return schemas.RecipeOut(recipe=coded_recipe.to_dict())


def _add_downloads(api: FastAPI, studio: StudioParts) -> None:
    """Routes of downloads and commands."""
    engine, lists = studio.engine, studio.lists

    @api.post("/api/archive", responses={200: {"content": {"application/zip": {}}}}, response_class=Response)
    async def zipped(body: schemas.Archive) -> Response:
        """Get a ZIP file of images with manifest.csv and a favourites file to generate them again."""
        asked = [one.recipe() for one in body.recipes]
        loaded = await engine.ready(body.model)
        return await archive.response(engine, loaded, await studio.without_copies(loaded, asked))

    @api.post("/api/command")
    def command(body: schemas.Command) -> schemas.CommandOut:
        """Get the command line that generates these images."""
        loaded = engine.model(body.model)
        if (body.in_list is None) == (not body.recipes):
            raise ConfigError("expected either recipes or a list")
        if body.in_list is not None:
            return commands.of_list(loaded, lists.file(loaded, body.in_list))
        return commands.of_recipes(loaded, [one.recipe() for one in body.recipes])


def _add_favourites(api: FastAPI, studio: StudioParts) -> None:
    """Routes of favourites."""
    engine, lists = studio.engine, studio.lists

    @api.get("/api/favourites")
    def kept(model: ModelQuery, name: ListName = FIRST) -> schemas.ListOut:
        """Get a list of favourites."""
        loaded = engine.model(model)
        return _listed(loaded, lists, name, lists.read(loaded, name))

    @api.post("/api/favourites")
    def keep(body: schemas.Favourite) -> schemas.ListOut:
        """Add an image to the favourites, or change its title; saved before the response."""
        loaded = engine.model(body.model)
        recipe = body.recipe.recipe()
        # Raises if the recipe does not fit.
        engine.call(loaded, lambda: resolve(loaded.generator, [recipe], loaded.directions)).result()
        return _listed(loaded, lists, body.in_list, lists.keep(loaded, body.in_list, recipe, body.title))

    @api.post("/api/favourites/remove")
    def remove(body: schemas.Favourite) -> schemas.ListOut:
        """Remove an image from a list."""
        loaded = engine.model(body.model)
        return _listed(loaded, lists, body.in_list, lists.remove(loaded, body.in_list, body.recipe.recipe()))

    @api.post("/api/favourites/move")
    def move(body: schemas.Moved) -> schemas.ListOut:
        """Move an image to another place in its list."""
        loaded = engine.model(body.model)
        favourites = lists.move(loaded, body.in_list, body.recipe.recipe(), body.place)
        return _listed(loaded, lists, body.in_list, favourites)

    @api.post("/api/favourites/undo")
    def undo(model: ModelQuery, name: ListName = FIRST) -> schemas.ListOut:
        """Undo the last change of a list that was made since the studio started."""
        loaded = engine.model(model)
        return _listed(loaded, lists, name, lists.undo(loaded, name))

    @api.post("/api/favourites/aside")
    def aside(model: ModelQuery, name: ListName = FIRST) -> schemas.Aside:
        """Rename a list that belongs to another model, to start a new list."""
        return schemas.Aside(file=lists.set_aside(engine.model(model), name))


def _add_training_images(api: FastAPI, studio: StudioParts) -> None:
    """Routes of the training images."""
    engine, training = studio.engine, studio.training

    @api.post("/api/nearest")
    async def nearest(body: schemas.ToCompare) -> schemas.NearOut:
        """Find the nearest training image of each image, if the training images are available."""
        asked = [one.recipe() for one in body.recipes]
        loaded = await engine.ready(body.model)
        known = training.of(loaded, body.begin)
        if known.state != "ready":
            return schemas.NearOut(state=known.state, sentence=known.sentence, images=[])
        pixels = await engine.pixels(loaded, asked)
        near = await asyncio.to_thread(slow_jobs.nearest_training_images, known, pixels)
        return schemas.NearOut(state="ready", sentence="", images=near)

    @api.get("/api/training-picture", responses=PNG, response_class=Response)
    def training_picture(model: ModelQuery, index: Annotated[int, Query(ge=0)]) -> Response:
        """Get a (real) training image."""
        known = training.of(engine.model(model), False)
        if known.state != "ready" or known.pack is None:
            raise AbsentError(known.sentence)
        if index >= known.pack.num_images:
            raise AbsentError(f"training image {index:,} does not exist: the last one is {known.pack.num_images - 1:,}")
        content = png_bytes(np.asarray(known.pack.images[index]))
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


def _add_slow_jobs(api: FastAPI, studio: StudioParts) -> None:
    """Routes of projections and searches."""
    engine, bench, receiving, decoding = studio.engine, studio.bench, studio.receiving, studio.decoding

    @api.post(
        "/api/projections",
        status_code=202,
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def project(
        request: Request,
        model: ModelQuery,
        label: Annotated[str | None, Query(max_length=2000)] = None,
        steps: Annotated[int, Query(ge=1, le=2000)] = 300,
    ) -> schemas.TaskOut:
        """Start the projection of an uploaded image (request body: the file)."""
        loaded = await engine.ready(model)
        if label is not None:
            loaded.generator.labels_of(label, [0])
        async with receiving:  # limits the number of uploads at a time
            bench.check_room()
            content = await request.body()
            async with decoding:
                pixels, note = await asyncio.to_thread(slow_jobs.uploaded, loaded, content)
        task = Task("projection", target=pixels, sentence=note)
        return task_out(bench.begin(task, slow_jobs.projecting(loaded, pixels, label, steps)))

    @api.post("/api/directions", status_code=202)
    def directions(body: schemas.Wanted) -> schemas.TaskOut:
        """Start a search for edit directions, which are saved next to the model."""
        loaded = engine.model(body.model)
        return task_out(bench.begin(Task("directions"), slow_jobs.finding_directions(loaded, body.num)))

    @api.get("/api/task")
    def task(id: TaskName) -> schemas.TaskOut:
        """Get progress and result of a job."""
        return task_out(bench.find(id))

    @api.post("/api/task/stop")
    def stop(id: TaskName) -> schemas.TaskOut:
        """Stop a job."""
        job = bench.find(id)
        job.cancelled = True
        return task_out(job)

    @api.get("/api/task/target", responses=PNG, response_class=Response)
    def target(id: TaskName) -> Response:
        """Get the uploaded image in the size of the model."""
        job = bench.find(id)
        if job.target is None:
            raise AbsentError(f"job {id} has no image: only projections have one")
        return Response(png_bytes(job.target), media_type="image/png", headers={"cache-control": "no-store"})


# ---- parts of answers ----


def _described(loaded: Loaded, lists: Lists) -> schemas.ModelOut:
    generator = loaded.generator
    info = generator.info
    return schemas.ModelOut(
        name=loaded.place.name,
        title=run_status.title_of(loaded.place),
        hash=generator.hash,
        version=loaded.version,
        newer=is_newer(loaded),
        architecture=info.config.model,
        height=info.config.height,
        width=info.config.width,
        channels=info.config.channels,
        depth=info.depth,
        kind=info.kind,
        classes=generator.label_names,
        has_conditions=info.conditions is not None,
        num_depths=generator.num_depths,
        images_seen=info.images_seen,
        directions=[
            schemas.DirectionOut(
                name=one.name, source=one.source, depths=None if one.depths is None else list(one.depths)
            )
            for one in loaded.directions.values()
        ],
        sliders=[
            schemas.SliderOut(
                name=name,
                title=one.title,
                low=one.low,
                high=one.high,
                step=one.step,
                neutral=one.neutral,
                ends=one.ends,
            )
            for name, one in SLIDERS.items()
        ],
        formats={name: form.title for name, form in WRITTEN.items()},
        sentence=loaded.directions_sentence,
        lists=lists.names(loaded),
    )


def _address(loaded: Loaded, recipe: Recipe) -> str:
    """URL of an image; empty if the recipe is too long."""
    values = {
        "model": loaded.place.name,
        "version": loaded.version,
        "recipe": json.dumps(recipe.to_dict(), separators=(",", ":")),
    }
    url = f"/api/picture?{urlencode(values, errors='backslashreplace')}"
    return url if len(url) <= _LONGEST_ADDRESS else ""


def _listed(loaded: Loaded, lists: Lists, name: str, favourites: Favourites) -> schemas.ListOut:
    names = favourites.names or [""] * len(favourites.recipes)
    return schemas.ListOut(
        name=name,
        lists=lists.names(loaded),
        file=lists.file(loaded, name).name,
        undo=lists.undoable(loaded, name),
        pictures=[
            schemas.KeptOut(recipe=recipe.to_dict(), title=title)
            for recipe, title in zip(favourites.recipes, names, strict=True)
        ],
    )


def _coded(loaded: Loaded, recipe: Recipe) -> Recipe:
    """The recipe with a latent code."""
    generator = loaded.generator
    return as_recipe(resolve(generator, [recipe], loaded.directions), generator.classes, generator.info.conditions)
