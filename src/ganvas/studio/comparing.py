"""Several runs side by side: the measures of their evaluations, sample grids, and options that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from fastapi.responses import FileResponse

from ganvas.evaluation.evaluate import CLASSES_SHOWN
from ganvas.reporting.comparison import caveats, config_differences, costs, measures
from ganvas.reporting.reading import RunContent, read
from ganvas.results import Evaluation
from ganvas.studio import run_status, schemas
from ganvas.studio.context import PNG, RunName, StudioParts
from ganvas.studio.errors import AbsentError
from ganvas.studio.model_folder import Place
from ganvas.system import files

_MOST = 6  # runs

_RunNames = Annotated[
    list[Annotated[str, Query(max_length=300)]],
    Query(min_length=2, max_length=_MOST, description="Names of runs, in the order of the columns"),
]


def add(api: FastAPI, studio: StudioParts) -> None:
    """Add the routes."""

    @api.get("/api/comparison")
    def compare(run: _RunNames) -> schemas.ComparisonOut:
        """Compare runs: measures with the better direction, sample grids, differing options, and what to mind."""
        return _compared([run_status.run_place(studio.shelf, name) for name in run])

    @api.get("/api/run/samples", responses=PNG, response_class=FileResponse)
    def samples(run: RunName) -> FileResponse:
        """Get the sample grid of the evaluation of a run."""
        place = run_status.run_place(studio.shelf, run)
        path = _samples_file(place, read(place.folder))
        if path is None:
            raise AbsentError(f"{place.name} has no sample grid of an evaluation: evaluate the run")
        return FileResponse(path, media_type="image/png", headers={"cache-control": "no-cache"})


def _compared(places: Sequence[Place]) -> schemas.ComparisonOut:
    """Raises RunError if a run has no log yet or its evaluation is damaged."""
    runs = [read(place.folder) for place in places]
    names = [run_status.title_of(place) for place in places]
    return schemas.ComparisonOut(
        names=names,
        caveats=caveats(runs, names),
        rows=[*measures(runs), *costs(runs)],
        grids=[_grid_of(place, run) for place, run in zip(places, runs, strict=True)],
        differences=[schemas.DifferenceOut(name=name, values=values) for name, values in config_differences(runs)],
    )


def _samples_file(place: Place, run: RunContent) -> Path | None:
    """The sample grid of an evaluation."""
    grids = (run.evaluation or Evaluation()).grids
    path = files.inside(place.folder, grids.generated if grids else None)
    return path if path is not None and path.is_file() else None


def _grid_of(place: Place, run: RunContent) -> schemas.GridOut:
    """Samples of the evaluation, otherwise the last preview."""
    if _samples_file(place, run) is not None and run.evaluation and (grids := run.evaluation.grids):
        rows = run.evaluation.data.classes[:CLASSES_SHOWN] if grids.per_class else []
        return schemas.GridOut(address=f"api/run/samples?{_encoded(run=place.name)}", note=grids.note, rows=rows)
    if not run.grids:
        return schemas.GridOut(address="", note="no images yet", rows=[])
    address = f"api/run/grid?{_encoded(run=place.name, images=run.grids[-1][0])}"
    return schemas.GridOut(address=address, note="last preview, uncurated", rows=run_status.rows_of_grids(place))


def _encoded(**values: object) -> str:
    return urlencode(values, errors="backslashreplace")
