"""Read a run folder for the report: config.json, log.jsonl, samples/ and evaluation.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganvas.errors import RunError
from ganvas.model_file import WEIGHTS
from ganvas.records import LogRecord, Score, TrainingReport, Warned, read_log, typed
from ganvas.results import Evaluation, read_evaluation
from ganvas.run import Run
from ganvas.run_config import RunConfig


@dataclass(frozen=True)
class RunContent:
    """The content of a run folder."""

    folder: Path
    config: RunConfig
    reports: list[TrainingReport]
    vitals: list[Score]
    """Evaluations during training."""
    health: list[Warned]
    grids: list[tuple[int, Path]]
    """(images seen, preview grid), in order."""
    evaluation: Evaluation | None
    stale: bool
    """Whether the evaluation used other weights than those in model/."""

    @property
    def name(self) -> str:
        return self.config.name or self.folder.name

    @property
    def images_seen(self) -> int:
        return self.reports[-1].images if self.reports else 0

    @property
    def seconds(self) -> float:
        return self.reports[-1].seconds if self.reports else 0.0


def read(folder: Path) -> RunContent:
    """Read a run folder. Raises `RunError` if it is not a run, is damaged, or has no log and no images yet."""
    run = Run(folder)
    config = run.config()
    reports, vitals, health = sorted_out(typed(read_log(folder)))
    grids = run.grids()
    if not reports and not grids:
        raise RunError(f"{folder} has no log and no images yet: run its `ganvas train` command again, then report")
    evaluation = read_evaluation(folder)
    weights = folder / "model" / WEIGHTS
    stale = evaluation is not None and weights.is_file() and not evaluation.is_of(weights)
    return RunContent(folder, config, reports, vitals, health, grids, evaluation, stale)


def sorted_out(log: Iterable[LogRecord]) -> tuple[list[TrainingReport], list[Score], list[Warned]]:
    """The reports, the evaluations during training and the warnings of a log."""
    lines = [*log]
    scores = {line.images: line for line in lines if isinstance(line, Score)}  # the end may be evaluated twice
    health = [line for line in lines if isinstance(line, Warned)]
    return [line for line in lines if isinstance(line, TrainingReport)], [*scores.values()], health


def column(records: Sequence[LogRecord], name: str) -> list[float]:
    """One quantity of the records; NaN where it is missing."""
    values = (getattr(record, name) for record in records)
    return [math.nan if value is None else value for value in values]
