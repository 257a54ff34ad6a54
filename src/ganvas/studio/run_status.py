"""State of a training run for the page: progress, speed, scores and training warnings. Reads files only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ganvas.config import BUDGET_FIELDS
from ganvas.errors import GanvasError
from ganvas.model_file import ModelInfo
from ganvas.records import LogRecord, Score, number, read_log, typed
from ganvas.reporting.reading import sorted_out
from ganvas.run import Run
from ganvas.run_config import RunConfig
from ganvas.studio.engine import stamp_of
from ganvas.studio.errors import AbsentError
from ganvas.studio.model_folder import Place, Shelf
from ganvas.studio.schemas import RunLine, RunOut
from ganvas.training.preview import layout, num_rows

_POINTS = 400  # most points per curve
_LOG_BYTES = 2**25  # most bytes read from the end of a log
_QUIET = 60.0  # seconds without file changes after which a training is not running; it logs every 2 seconds
_USED_UP = 0.97  # fraction of the budget after which a quiet run counts as finished
_REPORTS = ("d_real", "d_fake", "loss", "penalty", "lr", "g_norm", "d_norm", "augment", "images_per_second")
_VITALS = ("score", "kid", "precision", "recall", "diversity", "checkerboard", "sharpness", "near", "d_gap")
_REPORT = "report.html"  # as `ganvas report` names it
FILMS = {"webp": "image/webp", "mp4": "video/mp4", "gif": "image/gif"}


def stamp(place: Place, process: str = "") -> str:
    """A text that changes when the run changes. process: see `_state_of`."""
    parts = [
        stamp_of(place.folder / name)
        for name in ("log.jsonl", "config.json", "samples", "checkpoints", "model", _REPORT)
    ]
    films = [stamp_of(place.folder / f"training.{ending}") for ending in FILMS]
    return "-".join(f"{when:x}.{size:x}" for when, size in [*parts, *films]) + f"-{_state_is_quiet(place)}{process}"


def _state_is_quiet(place: Place) -> bool:
    newest = max(stamp_of(place.folder / name)[0] for name in ("log.jsonl", "samples", "checkpoints"))
    return time.time() - newest / 1e9 > _QUIET


class Summaries:
    """Summaries of runs; the log is read again only for changed runs."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, RunLine]] = {}

    def of(self, places: Iterable[Place], process_of: Callable[[Path], str]) -> list[RunLine]:
        lines: dict[str, tuple[str, RunLine]] = {}
        for place in places:
            process = process_of(place.folder)
            now = stamp(place, process)
            before = self.known.get(place.name)
            lines[place.name] = before if before is not None and before[0] == now else (now, _summary(place, process))
        self.known = lines
        return [line for _, line in lines.values()]


def _summary(place: Place, process: str = "") -> RunLine:
    """Summary of one run for the list of runs."""
    run = watched(place, process)
    return RunLine(**run.model_dump(include={*RunLine.model_fields}), grid=run.grids[-1] if run.grids else None)


def watched(place: Place, process: str = "") -> RunOut:
    """All information about a run for the page; `sentence` describes errors. process: see `_state_of`."""
    try:
        return _described(place, process)
    except Exception as error:  # a damaged run must not affect the other runs
        reason = f"the files of this run cannot be read ({type(error).__name__}): check its folder"
    has_model = place.weights is not None
    return RunOut(name=place.name, title=place.name, sentence=reason, state="stopped", has_model=has_model)


def _described(place: Place, process: str) -> RunOut:
    run = Run(place.folder, writes=False)
    sentence, config = "", None
    try:
        config = run.config()
    except GanvasError as error:
        sentence = str(error)
    reports, vitals, health = sorted_out(typed(read_log(place.folder, _LOG_BYTES)))
    last = reports[-1] if reports else None
    images = max((one.images for one in (*reports[-1:], *vitals[-1:])), default=0)
    progress = 0.0 if config is None else _progress_of(config, last.seconds if last else None, images)
    unit, budget = ("", None) if config is None else _budget_of(config)
    return RunOut(
        name=place.name,
        title=place.name if config is None else _title_in(config, place),
        sentence=sentence,
        state=_state_of(place, progress, vitals, process),
        has_model=place.weights is not None,
        progress=progress,
        images=images,
        seconds=last.seconds if last else None,
        eta=number(last.eta) if last else None,
        rate=number(last.images_per_second) if last else None,
        score=vitals[-1].score if vitals else None,
        best=min((one.score for one in vitals), default=None),
        about={} if config is None else _about(config),
        options={} if config is None else _options(config),
        reports=_curves(reports, _REPORTS),
        vitals=_curves(vitals, _VITALS),
        health=health[-50:],
        grids=[images for images, path in run.grids() if _own(place, path)],
        rows=rows_of_grids(place),
        films=[ending for ending in FILMS if _own(place, place.folder / f"training.{ending}")],
        has_report=_own(place, place.folder / _REPORT),
        budget=budget,
        budget_unit=unit,
    )


def title_of(place: Place) -> str:
    """The title of a run; the name of a model without its run."""
    if not place.is_run:
        return place.name
    try:
        return _title_in(Run(place.folder, writes=False).config(), place)
    except GanvasError:
        return place.name


def _title_in(config: RunConfig, place: Place) -> str:
    """The title in a config.json if the user gave one; otherwise the name, as the folder may have been renamed."""
    return config.name or place.name if config.titled else place.name


def rows_of_grids(place: Place) -> list[str]:
    """The class or conditions of each row of the preview grids; empty without, or before the first model is saved."""
    if place.weights is None:
        return []
    path = place.weights.parent / "config.json"
    try:
        info = ModelInfo.from_json(path.read_text(encoding="utf-8"), path)
    except (OSError, ValueError, GanvasError):
        return []
    if not (num := num_rows(info)):
        return []
    schema, most = info.conditions, layout(info.config.height, info.config.width, num).rows
    return info.classes[:most] if schema is None else [schema.text(vector) for vector in schema.table[:most]]


def _budget_of(config: RunConfig) -> tuple[str, float | None]:
    """(unit, value) of the budget: minutes, images or epochs."""
    values = ((name, getattr(config.train, name)) for name in BUDGET_FIELDS)
    return next(((name, value) for name, value in values if value is not None), ("", None))


def _progress_of(config: RunConfig, seconds: float | None, images: int) -> float:
    """Used fraction of the budget, 0 to 1."""
    train = config.train
    if train.minutes and seconds is not None:
        return min(1.0, seconds / (60 * train.minutes))
    budget = train.epochs * config.data.num_training if train.epochs else train.images
    return min(1.0, images / budget) if budget else 0.0


def _state_of(place: Place, progress: float, vitals: list[Score], process: str) -> str:
    """training, stopping, finished, stopped, or waiting (before the first log line).

    process: what is known of the process: training, stopping, ended, or nothing ("").
    """
    if process in ("training", "stopping"):
        return process
    if process != "ended" and not _state_is_quiet(place):
        ended = progress >= 1.0 or (progress >= _USED_UP and bool(vitals) and vitals[-1].change == 0.0)
        return "finished" if ended else "training"
    if progress >= _USED_UP:
        return "finished"
    return "stopped" if progress > 0 else "waiting"


def _about(config: RunConfig) -> dict[str, str]:
    """Facts about the run."""
    facts = {
        "data": config.data.source,
        "images": config.data.num_images,
        "size": config.data.size,
        "model": config.model.model,
        "budget": config.budget,
        "device": config.device,
        "started": config.started,
    }
    return {key: str(value) for key, value in facts.items() if value}


def _options(config: RunConfig) -> dict[str, str]:
    """All options of the run as a flat dictionary, for comparisons."""
    values = config.to_dict()
    flat = {
        f"{part} {name}": value
        for part in ("model", "train", "data")
        for name, value in values[part].items()
        if not isinstance(value, dict)
    }
    hidden = {"data pack", "data hash", "data attribution"}
    return {name: "" if value is None else str(value)[:200] for name, value in flat.items() if name not in hidden}


def _curves(records: Sequence[LogRecord], names: tuple[str, ...]) -> dict[str, list[float | None]]:
    """Columns of the records, including `images`, reduced to POINTS; the last record is always included."""
    step = max(1, -(-len(records) // _POINTS))
    kept = records[::-1][::step][::-1]
    columns = {name: [number(getattr(one, name)) for one in kept] for name in ("images", *names)}
    return {name: column for name, column in columns.items() if any(value is not None for value in column)}


def _own(place: Place, path: Path) -> bool:
    """Whether the path is a file of the run; links that lead outside are not."""
    return path.is_file() and path.resolve().is_relative_to(place.folder.resolve())


def grid_file(place: Place, images: int) -> Path:
    """The preview grid at that number of images. Raises AbsentError if there is none."""
    path = dict(Run(place.folder, writes=False).grids()).get(images)
    if path is None or not _own(place, path):
        raise AbsentError(f"{place.name} has no preview grid at {images:,} images: reload the page")
    return path


def report_file(place: Place) -> Path:
    path = place.folder / _REPORT
    if not _own(place, path):
        raise AbsentError(f"{place.name} has no report: evaluate the run")
    return path


def film_file(place: Place, ending: str) -> Path:
    path = place.folder / f"training.{ending}"
    if ending not in FILMS or not _own(place, path):
        raise AbsentError(f"{place.name} has no video training.{ending}: create it with `ganvas video`")
    return path


def run_place(shelf: Shelf, name: str) -> Place:
    place = shelf.find(name)
    if not place.is_run:
        raise AbsentError(f"{name} is a model without a training run")
    return place
