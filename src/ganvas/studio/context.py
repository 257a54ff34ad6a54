"""What the routes of the studio share."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse

from ganvas.explore.recipes import Recipe
from ganvas.studio import run_status, schemas, slow_jobs
from ganvas.studio.engine import Engine, Loaded
from ganvas.studio.errors import ConflictError
from ganvas.studio.favourites import Lists
from ganvas.studio.image_places import ImagePlaces
from ganvas.studio.model_folder import Shelf
from ganvas.studio.slow_jobs import Task, Training, Workbench
from ganvas.studio.trainings import Trainings
from ganvas.studio.uploads import Uploads

_UPLOADS, _ARRIVING = 2, 16  # uploads decoded at a time (limited by memory); uploads received at a time
PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "The image"}}


class Json(JSONResponse):
    """JSON in ASCII: names from files may contain characters that UTF-8 cannot encode (lone surrogates)."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


ModelQuery = Annotated[str, Query(max_length=300, description="A name from `GET /api/places`")]
RunName = ModelQuery
ListName = Annotated[str, Query(alias="list", max_length=40)]
TaskName = Annotated[str, Query(max_length=40)]


@dataclass
class StudioParts:
    """What the routes share. no_copies: leave copies of training images out of downloads.

    trainings: None if this studio may not start trainings; then nothing is uploaded and no folder is shown either.
    """

    shelf: Shelf
    engine: Engine
    training: Training
    no_copies: bool
    trainings: Trainings | None
    places: ImagePlaces
    uploads: Uploads
    device: str | None = None
    lists: Lists = field(default_factory=Lists)
    bench: Workbench = field(default_factory=Workbench)
    summaries: run_status.Summaries = field(default_factory=run_status.Summaries)
    receiving: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_ARRIVING))
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_UPLOADS))

    async def without_copies(self, loaded: Loaded, recipes: list[Recipe]) -> list[Recipe]:
        """Recipes that may be downloaded; with no_copies, those that are not copies of training images."""
        if not self.no_copies:
            return recipes
        known = self.training.of(loaded)
        if known.state != "ready":
            raise ConflictError(f"downloads need a check for copies of training images (--no-copies): {known.sentence}")
        kept: list[Recipe] = []
        for start in range(0, len(recipes), loaded.batch):
            part = recipes[start : start + loaded.batch]
            flags = await asyncio.to_thread(slow_jobs.copies, known, await self.engine.pixels(loaded, part))
            kept += [recipe for recipe, copied in zip(part, flags, strict=True) if not copied]
        if not kept:
            what = "this image is a copy of a training image" if len(recipes) == 1 else "all of these images are copies"
            raise ConflictError(f"{what} (--no-copies): choose others")
        return kept


def task_out(task: Task) -> schemas.TaskOut:
    return schemas.TaskOut.model_validate(task, from_attributes=True)
