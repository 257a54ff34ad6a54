"""The studio's HTTP interface. Every address of a run or a model is a name that is looked up, never a path.

An error is JSON, {"error": one sentence}, with a 4xx status; 503 with Retry-After when too much is waiting.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

import ganvas
from ganvas.errors import ConfigError, GanvasError
from ganvas.explore.recipes import Favourites, Recipe, as_recipe, resolve
from ganvas.generator import Generator
from ganvas.pictures import grid, png_bytes
from ganvas.provenance import provenance
from ganvas.studio import archive, bodies, commands, live, workbench
from ganvas.studio.engine import Engine, Loaded, address_hash, is_newer
from ganvas.studio.guard import Guard
from ganvas.studio.lists import FIRST, Lists
from ganvas.studio.refusals import AbsentError, BusyError, ConflictError, TooLargeError
from ganvas.studio.shelf import Shelf
from ganvas.studio.workbench import Task, Training, Workbench

STATIC = {
    "index.html": "text/html; charset=utf-8",
    "studio.css": "text/css; charset=utf-8",
    "studio.js": "text/javascript; charset=utf-8",
    "explore.js": "text/javascript; charset=utf-8",
    "gallery.js": "text/javascript; charset=utf-8",
    "panel.js": "text/javascript; charset=utf-8",
    "tray.js": "text/javascript; charset=utf-8",
    "watch.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "recipes.js": "text/javascript; charset=utf-8",
    "client.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "api.html": "text/html; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
UPLOADS, ARRIVING = 2, 16  # decoded at a time, which takes memory; received, of which some may be slow
LONGEST_ADDRESS = 6000  # letters; a recipe with a code is sent by POST
FOREVER = "private, max-age=31536000, immutable"
STATUSES: dict[type[GanvasError], int] = {AbsentError: 404, ConflictError: 409, TooLargeError: 413, BusyError: 503}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": bodies.Error, "description": "It does not fit this model or this file"},
    401: {"model": bodies.Error, "description": "The token is missing"},
    403: {"model": bodies.Error, "description": "Asked by another site, or by a name that is not the studio's"},
    404: {"model": bodies.Error, "description": "No such run, model, image or job"},
    409: {"model": bodies.Error, "description": "Of another model, or of other weights than now"},
    413: {"model": bodies.Error, "description": "Too many bytes"},
    414: {"model": bodies.Error, "description": "Too long an address: send the recipe by POST"},
    422: {"model": bodies.Error, "description": "Not as documented here"},
    503: {"model": bodies.Error, "description": "Busy: ask again after Retry-After seconds"},
}
PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "The picture"}}

ModelName = Annotated[str, Query(max_length=300, description="A name of `GET /api/places`")]
RunName = ModelName
ListName = Annotated[str, Query(alias="list", max_length=40)]


def app(
    folder: Path,
    *,
    data: str | None = None,
    device: str | None = None,
    token: str | None = None,
    hosts: frozenset[str] = frozenset(),
    no_copies: bool = False,
) -> Guard:
    """The studio of a run, a model folder or a folder of runs, as an ASGI application.

    data: the training images, where a run's own are gone. token: asked of everyone where given; without one only
    requests to this machine's own names, or to `hosts`, are served. no_copies: downloads and ZIP files leave out what
    copies a training image. Raises ConfigError when the folder holds nothing.
    """
    shelf = Shelf(folder)
    engine, lists, training, bench = Engine(shelf, device), Lists(), Training(data), Workbench()
    summaries, receiving, decoding = live.Summaries(), asyncio.Semaphore(ARRIVING), asyncio.Semaphore(UPLOADS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        bench.close()
        engine.close()

    api = FastAPI(
        title="Ganvas studio",
        version=ganvas.__version__,
        description=__doc__,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        responses=REFUSALS,
    )
    refusals(api)
    pages(api)

    # ---- what is here ----

    @api.get("/api/places")
    def places() -> bodies.Places:
        """The runs and models of the folder."""
        found = shelf.places().values()
        lines = [bodies.PlaceOut(name=one.name, is_run=one.is_run, has_model=one.weights is not None) for one in found]
        return bodies.Places(places=lines, version=ganvas.__version__)

    @api.get("/api/model")
    def model(model: ModelName, anew: bool = False) -> bodies.ModelOut:
        """What a model makes; loads it if need be. anew: load it again if its training has gone on."""
        return described(engine.model(model, anew=anew), lists)

    async def without_copies(loaded: Loaded, recipes: list[Recipe]) -> list[Recipe]:
        """Those that may be taken along: with no_copies, the ones that copy no training image."""
        if not no_copies:
            return recipes
        known = training.of(loaded)
        if known.state != "ready":
            raise ConflictError(f"no image leaves before it is known not to be a copy (--no-copies): {known.sentence}")
        kept: list[Recipe] = []
        for start in range(0, len(recipes), loaded.batch):
            part = recipes[start : start + loaded.batch]
            found = await asyncio.to_thread(workbench.copies, known, await engine.pixels(loaded, part))
            kept += [recipe for recipe, copied in zip(part, found, strict=True) if not copied]
        if not kept:
            raise ConflictError("this copies a training image (--no-copies): take another one")
        return kept

    # ---- images ----

    @api.get("/api/picture", responses=PNG, response_class=Response)
    async def picture(
        request: Request,
        model: ModelName,
        recipe: Annotated[str, Query(description='JSON, such as {"seed": 5}')],
        version: Annotated[str | None, Query(max_length=64, description="As `GET /api/model` says")] = None,
        download: bool = False,
    ) -> Response:
        """One image as PNG, with its provenance in the metadata. With the right version it never changes."""
        asked = bodies.read_recipe(recipe)
        loaded = await engine.ready(model, version)
        tag = f'"{address_hash(loaded, asked)}"'
        headers = {"etag": tag, "cache-control": FOREVER if version is not None else "no-cache"}
        if download:
            await without_copies(loaded, [asked])
            headers["content-disposition"] = f'attachment; filename="{archive.file_name(loaded, asked)}.png"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        (content,) = await engine.pictures(loaded, [asked])
        return Response(content, media_type="image/png", headers=headers)

    @api.post("/api/pictures", responses={200: {"content": {"image/png": {}}, "model": bodies.DrawnList}})
    async def pictures(
        body: bodies.Pictures,
        form: Annotated[Literal["list", "sheet"], Query(description="list: JSON; sheet: one PNG grid")] = "list",
    ) -> Response:
        """Several images at once: a list with their addresses, or one sheet."""
        asked = [one.recipe() for one in body.recipes]
        loaded = await engine.ready(body.model)
        if form == "sheet":
            sheet = grid(await engine.pixels(loaded, asked), body.columns)
            told = provenance(loaded.generator.hash, {"grid": [one.to_dict() for one in asked]})
            return Response(await asyncio.to_thread(png_bytes, sheet, told), media_type="image/png")
        drawn = await engine.pictures(loaded, asked)
        found = [
            {"address": address(loaded, recipe), "png": base64.b64encode(content).decode()}
            for recipe, content in zip(asked, drawn, strict=True)
        ]
        return JSONResponse({"pictures": found})

    @api.post("/api/code")
    async def code(body: bodies.One) -> bodies.RecipeOut:
        """The same image with its code in place of all that led to it, so that it can be the start of another."""
        asked = body.recipe.recipe()
        loaded = await engine.ready(body.model)
        found = await asyncio.wrap_future(engine.call(loaded, lambda: coded(loaded, asked)))
        return bodies.RecipeOut(recipe=found.to_dict())

    @api.post("/api/archive", responses={200: {"content": {"application/zip": {}}}}, response_class=Response)
    async def zipped(body: bodies.Archive) -> Response:
        """A ZIP file of images with manifest.csv and a favourites file that makes them again."""
        asked = [one.recipe() for one in body.recipes]
        loaded = await engine.ready(body.model)
        return await archive.response(engine, loaded, await without_copies(loaded, asked))

    @api.post("/api/command")
    def command(body: bodies.Command) -> bodies.CommandOut:
        """The command line that makes these images again."""
        loaded = engine.model(body.model)
        if (body.in_list is None) == (not body.recipes):
            raise ConfigError("expected either recipes or a list")
        if body.in_list is not None:
            return bodies.CommandOut(command=commands.of_list(loaded, lists.file(loaded, body.in_list), body.film))
        return bodies.CommandOut(command=commands.of_recipes(loaded, [one.recipe() for one in body.recipes], body.film))

    # ---- kept images ----

    @api.get("/api/favourites")
    def kept(model: ModelName, name: ListName = FIRST) -> bodies.ListOut:
        """A list of kept images."""
        loaded = engine.model(model)
        return listed(loaded, lists, name, lists.read(loaded, name))

    @api.post("/api/favourites")
    def keep(body: bodies.Kept) -> bodies.ListOut:
        """Keeps an image, or gives a kept one another title; saved before this answers."""
        loaded = engine.model(body.model)
        recipe = body.recipe.recipe()
        engine.call(
            loaded, lambda: resolve(loaded.generator, [recipe], loaded.directions)
        ).result()  # or it does not fit
        return listed(loaded, lists, body.in_list, lists.keep(loaded, body.in_list, recipe, body.title))

    @api.post("/api/favourites/remove")
    def remove(body: bodies.Kept) -> bodies.ListOut:
        """Takes an image out of a list."""
        loaded = engine.model(body.model)
        return listed(loaded, lists, body.in_list, lists.remove(loaded, body.in_list, body.recipe.recipe()))

    @api.post("/api/favourites/aside")
    def aside(model: ModelName, name: ListName = FIRST) -> bodies.Aside:
        """Renames a list that is of another model, so that a new one can begin."""
        return bodies.Aside(file=lists.set_aside(engine.model(model), name))

    # ---- the training images ----

    @api.post("/api/nearest")
    async def nearest(body: bodies.Compared) -> bodies.NearOut:
        """The nearest training image of each, where the training images are at hand."""
        asked = [one.recipe() for one in body.recipes]
        loaded = await engine.ready(body.model)
        known = training.of(loaded, body.begin)
        if known.state != "ready":
            return bodies.NearOut(state=known.state, sentence=known.sentence, found=[])
        pixels = await engine.pixels(loaded, asked)
        found = await asyncio.to_thread(workbench.nearest, known, pixels)
        return bodies.NearOut(state="ready", sentence="", found=[bodies.Near(**one) for one in found])

    @api.get("/api/training-picture", responses=PNG, response_class=Response)
    def training_picture(model: ModelName, index: Annotated[int, Query(ge=0)]) -> Response:
        """One of the training images, which are real."""
        known = training.of(engine.model(model), False)
        if known.state != "ready" or known.pack is None:
            raise AbsentError(known.sentence)
        if index >= known.pack.num_images:
            raise AbsentError(f"there is no training image {index:,}: the last one is {known.pack.num_images - 1:,}")
        content = png_bytes(np.asarray(known.pack.images[index]))
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    # ---- slow jobs ----

    @api.post(
        "/api/projections",
        status_code=202,
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def project(
        request: Request,
        model: ModelName,
        label: Annotated[str | None, Query(max_length=300)] = None,
        steps: Annotated[int, Query(ge=1, le=2000)] = 300,
    ) -> bodies.TaskOut:
        """Begins to look for the recipe of an uploaded image, the body: PNG, JPEG, WebP, BMP, GIF or TIFF."""
        loaded = await engine.ready(model)
        if label is not None:
            loaded.generator.label_indices(label, [0])
        async with receiving:  # others wait with their files unread
            bench.check_room()
            content = await request.body()
            async with decoding:
                pixels, note = await asyncio.to_thread(workbench.uploaded, loaded, content)
        task = Task("projection", target=pixels, sentence=note)
        return told(bench.begin(task, workbench.projecting(loaded, pixels, label, steps)))

    @api.post("/api/directions", status_code=202)
    def directions(body: bodies.Wanted) -> bodies.TaskOut:
        """Begins to look for directions, which are saved beside the model."""
        loaded = engine.model(body.model)
        return told(bench.begin(Task("directions"), workbench.finding_directions(loaded, body.num)))

    @api.get("/api/task")
    def task(id: Annotated[str, Query(max_length=40)]) -> bodies.TaskOut:
        """How far a slow job is, and what it found."""
        return told(bench.find(id))

    @api.post("/api/task/stop")
    def stop(id: Annotated[str, Query(max_length=40)]) -> bodies.TaskOut:
        """Ends a slow job."""
        found = bench.find(id)
        found.cancelled = True
        return told(found)

    @api.get("/api/task/target", responses=PNG, response_class=Response)
    def target(id: Annotated[str, Query(max_length=40)]) -> Response:
        """The uploaded image as the model's size has it."""
        found = bench.find(id)
        if found.target is None:
            raise AbsentError(f"the job {id} has no image: only projections have one")
        return Response(png_bytes(found.target), media_type="image/png", headers={"cache-control": "no-store"})

    # ---- trainings ----

    @api.get("/api/runs")
    def runs() -> bodies.Runs:
        """The runs of the folder, in a line each."""
        found = summaries.of(place for place in shelf.places().values() if place.is_run)
        return bodies.Runs(runs=[bodies.RunLine(**one) for one in found])

    @api.get("/api/run", response_model=bodies.RunOut)
    def run(request: Request, run: RunName) -> Response:
        """All about a run; 304 while nothing has changed."""
        place = live.run_place(shelf, run)
        tag = f'"{live.stamp(place)}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return JSONResponse(bodies.RunOut(**live.watched(place)).model_dump(), headers=headers)

    @api.get("/api/run/grid", responses=PNG, response_class=FileResponse)
    def run_grid(run: RunName, images: Annotated[int, Query(ge=0)]) -> FileResponse:
        """A preview grid."""
        return FileResponse(live.grid_file(live.run_place(shelf, run), images), media_type="image/png")

    @api.get("/api/run/film", response_class=FileResponse)
    def run_film(run: RunName, form: Literal["webp", "mp4", "gif"] = "webp") -> FileResponse:
        """The film of a training, where `ganvas video` has made one."""
        return FileResponse(live.film_file(live.run_place(shelf, run), form), media_type=live.FILMS[form])

    return Guard(api, token, hosts)


# ---- parts of answers ----


def described(loaded: Loaded, lists: Lists) -> bodies.ModelOut:
    generator = loaded.generator
    info = generator.info
    return bodies.ModelOut(
        name=loaded.place.name,
        hash=generator.hash,
        version=loaded.version,
        newer=is_newer(loaded),
        architecture=info.config.model,
        height=info.config.height,
        width=info.config.width,
        channels=info.config.channels,
        depth=info.depth,
        kind=info.kind,
        classes=generator.classes,
        num_depths=generator.num_depths,
        images_seen=info.images_seen,
        directions=[
            bodies.DirectionOut(
                name=one.name, source=one.source, depths=None if one.depths is None else list(one.depths)
            )
            for one in loaded.directions.values()
        ],
        sentence=loaded.directions_sentence,
        lists=lists.names(loaded),
    )


def address(loaded: Loaded, recipe: Recipe) -> str:
    """Where an image can be had; empty where its recipe is too long for an address."""
    values = {
        "model": loaded.place.name,
        "version": loaded.version,
        "recipe": json.dumps(recipe.to_dict(), separators=(",", ":")),
    }
    found = f"/api/picture?{urlencode(values, errors='backslashreplace')}"
    return found if len(found) <= LONGEST_ADDRESS else ""


def listed(loaded: Loaded, lists: Lists, name: str, found: Favourites) -> bodies.ListOut:
    names = found.names or [""] * len(found.recipes)
    return bodies.ListOut(
        name=name,
        lists=lists.names(loaded),
        file=lists.file(loaded, name).name,
        pictures=[
            bodies.KeptOut(recipe=recipe.to_dict(), title=title)
            for recipe, title in zip(found.recipes, names, strict=True)
        ],
    )


def told(task: Task) -> bodies.TaskOut:
    return bodies.TaskOut(
        id=task.id,
        kind=task.kind,
        state=task.state,
        sentence=task.sentence,
        done=task.done,
        total=task.total,
        result=task.result,
    )


def coded(loaded: Loaded, recipe: Recipe) -> Recipe:
    generator: Generator = loaded.generator
    return as_recipe(resolve(generator, [recipe], loaded.directions), generator.classes)


# ---- refusals and pages ----


def refusals(api: FastAPI) -> None:
    """Every error as {"error": sentence}."""

    @api.exception_handler(GanvasError)
    def of_ganvas(_: Request, error: GanvasError) -> JSONResponse:
        status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 400)
        headers = {"retry-after": str(error.seconds)} if isinstance(error, BusyError) else {}
        return JSONResponse({"error": str(error)}, status, headers)

    @api.exception_handler(RequestValidationError)
    def of_form(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": bodies.in_words(list(error.errors()))}, 422)

    @api.exception_handler(HTTPException)
    def of_http(request: Request, error: HTTPException) -> JSONResponse:
        sentence = {
            400: "the request cannot be read: its body should be JSON",
            404: f"there is nothing at {request.url.path[:200]}: GET /api/openapi.json tells what there is",
            405: f"{request.method} is not for {request.url.path[:200]}: GET /api/openapi.json tells what is",
        }.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one of several routes
            known = [
                one.methods or set() for one in api.routes if isinstance(one, APIRoute) and one.path == request.url.path
            ]
            headers["allow"] = ", ".join(sorted(set().union(*known)))
        return JSONResponse({"error": sentence}, error.status_code, headers)

    @api.exception_handler(Exception)
    def of_code(_: Request, error: Exception) -> JSONResponse:
        logging.getLogger("ganvas.studio").error("unexpected", exc_info=error)
        return JSONResponse({"error": f"the studio failed ({type(error).__name__}): see where it was started"}, 500)


def pages(api: FastAPI) -> None:
    """The page and its parts: a fixed list of files of this package."""
    folder = resources.files("ganvas.studio") / "static"
    content = {name: (folder / name).read_bytes() for name in STATIC if (folder / name).is_file()}

    def static(name: str) -> Response:
        if name not in content:
            raise HTTPException(404)
        return Response(content[name], media_type=STATIC[name], headers={"cache-control": "no-cache"})

    @api.get("/", include_in_schema=False)
    def index() -> Response:
        return static("index.html")

    @api.get("/api", include_in_schema=False)
    def documentation() -> Response:
        return static("api.html")

    @api.get("/static/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        return static(name)
