"""Read a run folder for the report: config.json, log.jsonl, samples/ and evaluation.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganvas.errors import RunError
from ganvas.model_file import WEIGHTS
from ganvas.records import is_of, number, read_evaluation, read_log
from ganvas.run import Run
from ganvas.run_config import RunConfig

Record = dict[str, Any]


@dataclass(frozen=True)
class RunContent:
    """The content of a run folder."""

    folder: Path
    config: RunConfig
    reports: list[Record]
    """Log lines of the training loop: images, seconds, loss ..."""
    vitals: list[Record]
    """Log lines of the evaluations during training: images, score, kid, precision ..."""
    health: list[Record]
    """Log lines of the training warnings: images, health, words, action."""
    grids: list[tuple[int, Path]]
    """(images seen, preview grid), in order."""
    evaluation: Record | None
    stale: bool
    """Whether the evaluation used other weights than those in model/."""

    @property
    def name(self) -> str:
        return self.config.name or self.folder.name

    @property
    def images_seen(self) -> int:
        return int(self.reports[-1]["images"]) if self.reports else 0

    @property
    def seconds(self) -> float:
        return float(self.reports[-1].get("seconds", 0.0)) if self.reports else 0.0


def read(folder: Path) -> RunContent:
    """Read a run folder. Raises `RunError` if it is not a run, is damaged, or has no log and no images yet."""
    run = Run(folder)
    config = run.config()
    records = [
        record for record in read_log(folder) if isinstance(record, dict) and number(record.get("images")) is not None
    ]
    reports, vitals, health = sorted_out(records)
    grids = run.grids()
    if not reports and not grids:
        raise RunError(f"{folder} has no log and no images yet: run its `ganvas train` command again, then report")
    evaluation = read_evaluation(folder)
    weights = folder / "model" / WEIGHTS
    stale = evaluation is not None and weights.is_file() and not is_of(evaluation, weights)
    return RunContent(folder, config, reports, vitals, health, grids, evaluation, stale)


def sorted_out(log: list[Record]) -> tuple[list[Record], list[Record], list[Record]]:
    """Split the records of a log into (reports, vitals, training warnings)."""
    health = [record for record in log if "health" in record]
    vitals = [record for record in log if "health" not in record and number(record.get("score")) is not None]
    reports = [record for record in log if number(record.get("loss")) is not None]
    return reports, last_of_each(vitals), health


def last_of_each(vitals: list[Record]) -> list[Record]:
    """Keep the last evaluation for each number of images: the end of training may be evaluated twice."""
    return list({record["images"]: record for record in vitals}.values())


def column(records: list[Record], name: str) -> list[float]:
    """One quantity of the records; NaN where it is missing."""
    found = (number(record.get(name)) for record in records)
    return [math.nan if value is None else value for value in found]
