"""A run folder as the report sees it: config.json, log.jsonl, samples/, evaluation.json. Only files, no network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganvas import files
from ganvas.errors import RunError
from ganvas.generator import WEIGHTS
from ganvas.run import Run, read_log

Record = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What a run's files tell."""

    folder: Path
    config: Record
    reports: list[Record]
    """Log lines of the training loop: images, seconds, loss ..."""
    vitals: list[Record]
    """Log lines of the examinations: images, score, kid, precision ..."""
    health: list[Record]
    """Log lines of what went wrong: images, health, words, action."""
    grids: list[tuple[int, Path]]
    """(images seen, preview grid), in order."""
    evaluation: Record | None
    stale: bool
    """The evaluation is of other weights than those in model/."""

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.folder.name)

    @property
    def images_seen(self) -> int:
        return int(self.reports[-1]["images"]) if self.reports else 0

    @property
    def seconds(self) -> float:
        return float(self.reports[-1].get("seconds", 0.0)) if self.reports else 0.0


def read(folder: Path) -> Told:
    """Reads a run folder; raises `RunError` where it is none, is damaged, or nothing was trained in it yet."""
    run = Run(folder)
    config = run.config()
    records = [
        record for record in read_log(folder) if isinstance(record, dict) and number(record.get("images")) is not None
    ]
    reports, vitals, health = sorted_out(records)
    grids = run.grids()
    if not reports and not grids:
        raise RunError(f"{folder} holds no log and no images yet: run its `ganvas train` command again, then report")
    evaluation = read_evaluation(folder)
    weights = folder / "model" / WEIGHTS
    stale = (
        evaluation is not None and weights.is_file() and evaluation["model"].get("weights") != files.sha256(weights)[:8]
    )
    return Told(folder, config, reports, vitals, health, grids, evaluation, stale)


def sorted_out(log: list[Record]) -> tuple[list[Record], list[Record], list[Record]]:
    """(reports, vitals, health events) among the records of a log."""
    health = [record for record in log if "health" in record]
    vitals = [record for record in log if "health" not in record and number(record.get("score")) is not None]
    reports = [record for record in log if number(record.get("loss")) is not None]
    return reports, last_of_each(vitals), health


def last_of_each(vitals: list[Record]) -> list[Record]:
    """One examination for each number of images: the end of a training may be examined twice."""
    return list({record["images"]: record for record in vitals}.values())


def read_evaluation(folder: Path) -> Record | None:
    """evaluation.json, None where there is none; raises `RunError` where it is damaged or of another version."""
    path = folder / "evaluation.json"
    again = f"run `ganvas evaluate {folder}` again"
    try:
        evaluation = files.parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is damaged: {again}") from error
    if not isinstance(evaluation, dict) or evaluation.get("format") != 1:
        raise RunError(f"{path} is not an evaluation of format 1: {again}")
    if not (isinstance(evaluation.get("measures"), list) and all(isinstance(evaluation.get(k), dict) for k in PARTS)):
        raise RunError(f"{path} is damaged: {again}")
    return evaluation


PARTS = ("model", "data", "protocol")  # of an evaluation, which it always has


def number(value: object) -> float | None:
    """A finite number, or the value of an interval; else None."""
    if isinstance(value, dict):
        value = value.get("value")
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def column(records: list[Record], name: str) -> list[float]:
    """One quantity of the records; not a number where one lacks it."""
    found = (number(record.get(name)) for record in records)
    return [math.nan if value is None else value for value in found]
