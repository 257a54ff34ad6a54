"""HTTP API of the studio. Runs and models are addressed by name, never by path.

Errors are JSON, {"error": one sentence}, with a 4xx status, or 503 with Retry-After if the studio is busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, Response

import ganvas
from ganvas.studio import answers, comparing, explore_routes, media_routes, run_status, schemas, training_routes
from ganvas.studio.access import Guard
from ganvas.studio.context import PNG, Json, RunName, StudioParts
from ganvas.studio.engine import Engine
from ganvas.studio.image_places import ImagePlaces
from ganvas.studio.model_folder import Shelf
from ganvas.studio.slow_jobs import Training
from ganvas.studio.trainings import Trainings
from ganvas.studio.uploads import Uploads


def app(
    folder: Path,
    *,
    data: str | None = None,
    device: str | None = None,
    token: str | None = None,
    hosts: frozenset[str] = frozenset(),
    no_copies: bool = False,
    train: bool = False,
    images: Iterable[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Guard:
    """The studio of a run, a model folder or a folder of runs, as an ASGI application.

    data: the training images, if those of a run are missing. token: required from all clients if given; without a
    token, only requests to names of this machine or to `hosts` are served. no_copies: leave copies of training images
    out of downloads and ZIP files. train: allow trainings, evaluations, uploads, and the use of the images in the
    folders `images`. say: called with a sentence at the end, if a training must be stopped. Raises ConfigError if the
    folder contains no run and no model, unless `train` is given.
    """
    shelf = Shelf(folder, may_be_empty=train)
    uploads = Uploads(shelf.root / "uploads")
    studio = StudioParts(
        shelf,
        Engine(shelf, device),
        Training(data),
        no_copies,
        Trainings(shelf.root) if train else None,
        ImagePlaces(images, uploads.folder),
        uploads,
        device,
    )

    if studio.trainings is not None:
        studio.trainings.find_running((one.name, one.folder) for one in shelf.places().values() if one.is_run)

    api = FastAPI(
        title="Ganvas studio",
        version=ganvas.__version__,
        description=__doc__,
        lifespan=lambda _: _closing(studio, say),
        openapi_url="/api/openapi.json",
        docs_url=None,  # the pages of FastAPI load scripts from other sites
        redoc_url=None,
        default_response_class=Json,
        responses=answers.REFUSALS,
    )
    answers.refusals(api)
    answers.add_pages(api)
    for add in (explore_routes.add, _add_runs, training_routes.add, media_routes.add, comparing.add):
        add(api, studio)
    return Guard(api, token, hosts)


@asynccontextmanager
async def _closing(studio: StudioParts, say: Callable[[str], None]) -> AsyncGenerator[None]:
    """Close everything when the server ends."""
    try:
        yield
    finally:  # a second Ctrl-C cancels this
        studio.bench.close()
        studio.uploads.close()
        if studio.trainings is not None:
            await asyncio.to_thread(studio.trainings.close, say)
        studio.training.close()
        studio.engine.close()


def _add_runs(api: FastAPI, studio: StudioParts) -> None:
    """Routes of runs and their progress."""
    shelf, summaries = studio.shelf, studio.summaries

    def process_of(folder: Path) -> str:
        return studio.trainings.process_of(folder) if studio.trainings is not None else ""

    @api.get("/api/runs")
    def runs() -> schemas.Runs:
        """List the runs of the folder with a short summary."""
        lines = summaries.of((place for place in shelf.places().values() if place.is_run), process_of)
        return schemas.Runs(runs=lines)

    @api.get("/api/run", response_model=schemas.RunOut)
    def run(request: Request, run: RunName) -> Response:
        """Get all information about a run; 304 if nothing has changed."""
        place = run_status.run_place(shelf, run)
        process = process_of(place.folder)
        tag = f'"{run_status.stamp(place, process)}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Json(run_status.watched(place, process).model_dump(), headers=headers)

    @api.get("/api/run/grid", responses=PNG, response_class=FileResponse)
    def run_grid(run: RunName, images: Annotated[int, Query(ge=0)]) -> FileResponse:
        """Get a preview grid."""
        return FileResponse(run_status.grid_file(run_status.run_place(shelf, run), images), media_type="image/png")

    @api.get("/api/run/film", response_class=FileResponse)
    def run_film(run: RunName, form: Literal["webp", "mp4", "gif"] = "webp") -> FileResponse:
        """Get the video of a training, if `ganvas video` has created one."""
        return FileResponse(
            run_status.film_file(run_status.run_place(shelf, run), form), media_type=run_status.FILMS[form]
        )
