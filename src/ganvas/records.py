"""The records that a run writes for others to read: log.jsonl and energy.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ganvas.errors import ConfigError
from ganvas.fields import from_dict
from ganvas.system import files

_MOST_IMAGES = 2**53  # larger numbers of images seen are errors
_ENERGY = "energy.json"


# -- log.jsonl --


@dataclass(frozen=True)
class TrainingReport:
    """A line of log.jsonl about the last step of training. Values that older versions did not log are NaN."""

    images: int
    """Real images seen."""
    loss: float
    """Adversarial loss of the discriminator."""
    seconds: float = 0.0
    """Training time over all sessions."""
    images_per_second: float = math.nan
    eta: float = math.nan
    """Estimated seconds until the budget ends."""
    d_real: float = math.nan
    """Mean logit of real images."""
    d_fake: float = math.nan
    """Mean logit of generated images."""
    lr: float = math.nan
    """Learning rate of the generator."""
    ema_half_life: int = 0
    """In images."""
    g_norm: float = math.nan
    """Norm of the gradient of the generator."""
    d_norm: float = math.nan
    penalty: float = math.nan
    """Sum of the gradient penalties at the last step that computed them."""
    augment: float = math.nan
    """Probability of the augmentations."""
    sign: float = math.nan
    """Overfitting measure of the discriminator, -1 to 1."""
    r1_features: float | None = None
    """Weight of the penalties of the heads on features; None without such heads, as `lead`."""
    lead: float | None = None
    """How clearly these heads rank real above generated images, -1 to 1."""


@dataclass(frozen=True)
class Score:
    """A line of log.jsonl about an evaluation of the moving average during training. None: not measured.

    The values are those of evaluation/training_score.py and training/health.heldout_scores.
    """

    images: int
    score: float
    """Lower is better."""
    margin: float | None = None
    """Half of the 95% interval of the score."""
    kid: float | None = None
    precision: float | None = None
    recall: float | None = None
    diversity: float | None = None
    """Relative to real images, as the next two."""
    checkerboard: float | None = None
    """Checkerboard artefacts."""
    sharpness: float | None = None
    near: float | None = None
    """Share of images much closer to one training image than to the next ones."""
    change: float | None = None
    """Mean absolute change of a pixel since the evaluation before, relative to the range."""
    d_training: float | None = None
    """Mean logit of training images."""
    d_heldout: float | None = None
    d_gap: float | None = None
    """Score of held-out images: 0 like training images, 1 like generated ones."""


@dataclass(frozen=True)
class Variety:
    """A line of log.jsonl about the images of a preview: pixel variation relative to real images."""

    images: int
    variety: float
    worst_variety: float | None = None
    """Of the class whose images vary least."""
    worst: str | None = None
    """The name of that class."""


@dataclass(frozen=True)
class Warned:
    """A line of log.jsonl about a training warning that started."""

    images: int
    health: str
    """Name of the warning."""
    words: str = ""
    """The problem."""
    action: str = ""
    """What to do."""


LogRecord = TrainingReport | Score | Variety | Warned
_KINDS = {"health": Warned, "score": Score, "variety": Variety, "loss": TrainingReport}
"""The type of a line by a field that only this type has."""
_Line = TypeVar("_Line", bound=LogRecord)


def record_of(cls: type[_Line], record: dict[str, Any]) -> _Line | None:
    """The line of this type in a record of the log; None if it is another one or has a wrong value.

    Ignores fields that the type does not have.
    """
    try:
        return from_dict(cls, record, "log.jsonl", ignore_unknown=True)
    except ConfigError:
        return None


def line_of(record: LogRecord) -> dict[str, Any]:
    """The record for the log, without the values that were not measured (None or NaN)."""
    return {name: value for name, value in vars(record).items() if value is not None and value == value}


def typed(records: Iterable[dict[str, Any]]) -> Iterator[LogRecord]:
    """The lines that have one of the types above."""
    for record in records:
        kind = next((kind for name, kind in _KINDS.items() if name in record), None)
        if kind is not None and (line := record_of(kind, record)) is not None:
            yield line


def read_reports(folder: Path) -> list[TrainingReport]:
    """The reports in a run's log.jsonl, in order."""
    return [report for record in read_log(folder) if (report := record_of(TrainingReport, record)) is not None]


def read_log(folder: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Records of a run's log.jsonl, in order, without damaged lines; each has a number `images`.

    most: read at most this many bytes, at the end.
    """
    for line in log_lines(folder, most):
        if (record := record_in(line)) is not None:
            yield record


def log_lines(folder: Path, most: int | None = None) -> list[bytes]:
    try:
        with (folder / "log.jsonl").open("rb") as file:
            if most is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def record_in(line: bytes) -> dict[str, Any] | None:
    """Record of a log line; None for a damaged line, such as the last one after a crash."""
    try:
        record = files.parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or any(isinstance(value, list | dict) for value in record.values()):
        return None
    images = record.get("images")
    if type(images) not in (int, float) or not 0 <= images <= _MOST_IMAGES:
        return None
    if "lattice" in record:  # its name in ganvas 0.1.0
        record["checkerboard"] = record.pop("lattice")
    return record


# -- numbers and energy.json --


def number(value: float | None) -> float | None:
    """A number; None if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


def energy_of(folder: Path) -> float | None:
    """The recorded energy of a run in kWh; None if it was not recorded, or its file is damaged."""
    try:
        energy = json.loads((folder / _ENERGY).read_text(encoding="utf-8"))["kwh"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return float(energy) if isinstance(energy, float | int) and 0 <= energy < math.inf else None


def write_energy(folder: Path, kwh: float) -> None:
    files.write_json(folder / _ENERGY, {"kwh": kwh})
