"""Routes of new trainings: choose or upload images, check them, see the plan, start, stop and resume; evaluations.

All of them need the permission of the studio's owner (`ganvas studio --train`), except those that only read.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import FileResponse

from ganvas.config import DataConfig, Kind
from ganvas.data.reading.containers import PICTURES
from ganvas.data.reading.sources import ARCHIVES
from ganvas.errors import ConfigError
from ganvas.fields import build_options
from ganvas.options import Train
from ganvas.run import Run
from ganvas.studio import preparation, run_status, schemas
from ganvas.studio.context import RunName, StudioParts, TaskName, task_out
from ganvas.studio.errors import AbsentError, ForbiddenError
from ganvas.studio.image_places import named_sets
from ganvas.studio.slow_jobs import Task
from ganvas.studio.trainings import Started, Trainings
from ganvas.training.plan import DEFAULT_MINUTES

_FORBIDDEN = (
    "this studio may not start trainings or evaluations, or read images: its owner can allow it with "
    "`ganvas studio --train`"
)
_PathText = Annotated[str, Query(max_length=2000, description="Full path; empty: the allowed folders")]
_REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"


def add(api: FastAPI, studio: StudioParts) -> None:
    """Add the routes."""

    def allowed() -> None:
        _trainings_of(studio)

    router = APIRouter(dependencies=[Depends(allowed)])
    _add_overview(api, studio)
    _add_images(router, studio)
    _add_uploads(router, studio)
    _add_jobs(router, studio)
    _add_trainings(router, studio)
    _add_titles(router, studio)
    api.include_router(router)


def _trainings_of(studio: StudioParts) -> Trainings:
    """The trainings of this studio. Raises ForbiddenError if it may not start any."""
    if studio.trainings is None:
        raise ForbiddenError(_FORBIDDEN)
    return studio.trainings


def _add_overview(api: FastAPI, studio: StudioParts) -> None:
    """Routes that only read."""

    @api.get("/api/new")
    def new() -> schemas.NewOut:
        """Say whether trainings may be started here, from which folders and data sets."""
        may = studio.trainings is not None
        obstacle = _FORBIDDEN if studio.trainings is None else studio.trainings.obstacle()
        return schemas.NewOut(
            allowed=may,
            new=not obstacle,
            sentence=obstacle,
            folder=str(studio.shelf.root) if may else "",
            roots=[str(root) for root in studio.places.roots] if may else [],
            sets=[schemas.SetOut(name=one.name, title=one.title, licence=one.licence) for one in named_sets()],
            kinds=list(get_args(Kind)),
            files=[*PICTURES, *ARCHIVES],
            minutes=DEFAULT_MINUTES,
        )

    @api.get("/api/trainings")
    def trainings() -> schemas.TrainingsOut:
        """List the trainings that were started from this studio, the newest last."""
        known = studio.trainings.known if studio.trainings is not None else []
        return schemas.TrainingsOut(trainings=[_started_as(one) for one in known])

    @api.get("/api/tasks")
    def tasks(kind: Annotated[str, Query(max_length=40)] = "") -> schemas.Tasks:
        """List the slow jobs, the newest last."""
        known = list(studio.bench.tasks.values())
        return schemas.Tasks(tasks=[task_out(one) for one in known if kind in ("", one.kind)])

    @api.get("/api/run/report", response_class=FileResponse)
    def report(run: RunName) -> FileResponse:
        """Get the HTML report of a run, if an evaluation or `ganvas report` has written it."""
        path = run_status.report_file(run_status.run_place(studio.shelf, run))
        headers = {"content-security-policy": _REPORT_POLICY, "cache-control": "no-cache"}
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


def _add_images(router: APIRouter, studio: StudioParts) -> None:
    """Routes of folders on the server."""

    @router.get("/api/folders")
    def folders(path: _PathText = "") -> schemas.FolderOut:
        """List the subfolders and archives of a folder, and count its images."""
        if not path:
            roots = [schemas.EntryOut(name=str(root), path=str(root)) for root in studio.places.listed()]
            return schemas.FolderOut(path="", parent="", num_images=0, folders=roots, archives=[], complete=True)
        inside = studio.places.inside(path)
        return schemas.FolderOut(
            path=str(inside.folder),
            parent="" if inside.parent is None else str(inside.parent),
            num_images=inside.num_images,
            folders=[schemas.EntryOut(name=one.name, path=str(one)) for one in inside.folders],
            archives=[schemas.EntryOut(name=one.name, path=str(one)) for one in inside.archives],
            complete=inside.complete,
        )


def _add_uploads(router: APIRouter, studio: StudioParts) -> None:
    """Routes of uploads, in pieces of at most 16 MB."""
    uploads = studio.uploads

    @router.post("/api/uploads", status_code=201)
    def begin(body: schemas.UploadBody) -> schemas.UploadOut:
        """Start an upload of one archive, or of image files."""
        upload = uploads.begin(body.name, body.files, body.bytes)
        return schemas.UploadOut(id=upload.id, folder=str(upload.folder))

    @router.post(
        "/api/uploads/piece",
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def piece(
        request: Request,
        id: TaskName,
        name: Annotated[str, Query(max_length=500, description="File name with its folders, such as cats/1.png")],
        start: Annotated[int, Query(ge=0, le=10**15, description="Bytes of this file that were sent before")] = 0,
        last: Annotated[bool, Query(description="This piece completes the file")] = True,
    ) -> schemas.PieceOut:
        """Send the next piece of a file."""
        uploads.find(id)
        async with studio.receiving:
            content = await request.body()
            received = await asyncio.to_thread(uploads.write, id, name, start, content, last)
        return schemas.PieceOut(received=received)

    @router.post("/api/uploads/finish")
    def finish(id: TaskName) -> schemas.SourceOut:
        """Complete an upload, and get the source to train on."""
        return schemas.SourceOut(source=str(uploads.finish(id)))

    @router.post("/api/uploads/remove", status_code=204)
    def remove(id: TaskName) -> None:
        """Cancel an upload, and delete its files."""
        uploads.remove(id)


def _add_jobs(router: APIRouter, studio: StudioParts) -> None:
    """Routes of check-ups, plans and evaluations. Progress and result: `GET /api/task`."""
    planner = preparation.Planner()

    @router.post("/api/checkups", status_code=202)
    def check_bounds(body: schemas.Images) -> schemas.TaskOut:
        """Start a check of images: number, sizes, classes, problems."""
        source = studio.places.source(body.source)
        work = preparation.checking(source, DataConfig(labels=None if body.labels else "none"))
        return task_out(studio.bench.begin(Task("checkup"), work))

    @router.post("/api/plans", status_code=202)
    def plan(body: schemas.NewTraining) -> schemas.TaskOut:
        """Start a plan: every option with its reason, and the speed of this machine."""
        return task_out(studio.bench.begin(Task("plan"), planner.planning(_training_of(studio, body))))

    @router.post("/api/evaluations", status_code=202)
    def evaluate(body: schemas.ToEvaluate) -> schemas.TaskOut:
        """Start the evaluation of a run, with its report, or of a model."""
        place = studio.shelf.find(body.model)
        if place.weights is None:
            raise AbsentError(f"{place.name} has no model yet: wait for the first checkpoint")
        if any(one.model == place.name and one.state in ("waiting", "working") for one in _evaluations(studio)):
            raise ConfigError(f"{place.name} is being evaluated: wait until that is finished, or cancel it")
        data = studio.places.source(body.source) if body.source is not None else studio.training.data
        work = preparation.evaluating(place, data, studio.device)
        return task_out(studio.bench.begin(Task("evaluation", place.name), work))


def _evaluations(studio: StudioParts) -> list[Task]:
    return [one for one in list(studio.bench.tasks.values()) if one.kind == "evaluation" and not one.cancelled]


def _add_trainings(router: APIRouter, studio: StudioParts) -> None:
    """Routes that start, stop and resume trainings."""

    @router.post("/api/trainings", status_code=201)
    def start(body: schemas.NewTraining) -> schemas.TrainingOut:
        """Start a training in a process of its own; it goes on without the page. One runs at a time."""
        known, name = _trainings_of(studio), body.name.strip()
        asked = _training_of(studio, body, known.check_new(name))
        return _started_as(known.start(name, preparation.words(asked)))

    @router.post("/api/trainings/stop")
    def stop(body: schemas.RunBody) -> schemas.TrainingOut:
        """Stop a training as Ctrl-C does: checkpoint and model are saved, and it can be resumed."""
        return _started_as(_trainings_of(studio).stop(body.run))

    @router.post("/api/trainings/resume")
    def resume(body: schemas.Resumed) -> schemas.TrainingOut:
        """Resume a run that was stopped; with `budget` also a finished one."""
        place = run_status.run_place(studio.shelf, body.run)
        unit = run_status.watched(place).budget_unit
        words = preparation.resumed(place, body.budget, unit, studio.device)
        return _started_as(_trainings_of(studio).resume(place.name, place.folder, words))


def _add_titles(router: APIRouter, studio: StudioParts) -> None:
    """The route that changes the title of a run."""

    @router.post("/api/run/title")
    def title(body: schemas.Titled) -> schemas.TitleOut:
        """Change the title of a run, which the page, reports and model cards show. Its folder keeps its name."""
        place = run_status.run_place(studio.shelf, body.run)
        Run(place.folder, writes=False).rename(body.title.strip())
        return schemas.TitleOut(title=run_status.title_of(place))


def _training_of(studio: StudioParts, body: schemas.NewTraining, out: Path | None = None) -> Train:
    """The options of `ganvas train`. Raises ConfigError for values that it does not accept."""
    same = ("kind", "minutes", "images", "seed", "drop_duplicates", "mask_marks")
    values = {name: getattr(body, name) for name in same}
    values |= {"size": body.size or None, "labels": None if body.labels else "none", "device": studio.device}
    place = None if out is None else str(out)
    return build_options(Train, (studio.places.source(body.source), place), values)


def _started_as(one: Started) -> schemas.TrainingOut:
    return schemas.TrainingOut(run=one.name, state=one.state, sentence=one.sentence, began=one.began)
