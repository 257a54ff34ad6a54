"""The records that a run writes for others to read: log.jsonl, evaluation.json and energy.json."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ganvas.errors import RunError
from ganvas.fields import fits, hints_of
from ganvas.system import files

MOST_IMAGES = 2**53  # larger numbers of images seen are errors
ENERGY = "energy.json"
PARTS = ("model", "data", "protocol")  # parts that every evaluation has
ARROWS = {"lower": "↓", "higher": "↑", "near": "≈"}
"""Sign for the field `better` of a measure: lower or higher is better, or closer to real images."""


# -- log.jsonl --


@dataclass(frozen=True)
class Report:
    """A line of log.jsonl about the last step of training."""

    images: int
    """Real images seen."""
    seconds: float
    """Training time over all sessions."""
    images_per_second: float
    eta: float
    """Estimated seconds until the budget ends."""
    d_real: float
    """Mean logit of real images."""
    d_fake: float
    """Mean logit of generated images."""
    loss: float
    """Adversarial loss of the discriminator."""
    lr: float
    """Learning rate of the generator."""
    ema_half_life: int
    """In images."""
    g_norm: float
    """Norm of the gradient of the generator."""
    d_norm: float
    penalty: float
    """Sum of the gradient penalties at the last step that computed them."""
    augment: float
    """Probability of the augmentations."""
    sign: float
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
    lattice: float | None = None
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


LogRecord = Report | Score | Variety | Warned
Line = TypeVar("Line", bound=LogRecord)


def record_of(cls: type[Line], record: dict[str, Any]) -> Line | None:
    """The line of this type in a record of the log; None if it is another one or has a wrong value.

    Ignores fields that the type does not have.
    """
    values = {name: record[name] for name in hints_of(cls) if name in record}
    for name, value in values.items():
        if not fits(value, hints_of(cls)[name]) or (isinstance(value, float) and not math.isfinite(value)):
            return None
    try:
        return cls(**values)
    except TypeError:  # a field is missing
        return None


def line_of(record: LogRecord) -> dict[str, Any]:
    """The record for the log, without the values that were not measured."""
    return {name: value for name, value in dataclasses.asdict(record).items() if value is not None}


def typed(records: Iterable[dict[str, Any]]) -> Iterator[LogRecord]:
    """The lines that have one of the types above."""
    for record in records:
        for cls in (Warned, Score, Variety, Report):
            if (line := record_of(cls, record)) is not None:
                yield line
                break


def read_reports(folder: Path) -> list[Report]:
    """The reports in a run's log.jsonl, in order."""
    return [report for record in read_log(folder) if (report := record_of(Report, record)) is not None]


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
    return record if type(images) in (int, float) and 0 <= images <= MOST_IMAGES else None


# -- evaluation.json --

EVALUATION_FORMAT = 1


class Evaluation(dict[str, Any]):
    """The content of evaluation.json. `lines()` is its text, and notebooks show a table."""

    def measure(self, key: str) -> dict[str, Any]:
        """The row of a measure, such as "kid": value, low, high (95% interval), real, better ... Raises KeyError."""
        return {row["key"]: row for row in self["measures"]}[key]

    def lines(self) -> list[str]:
        """One line per measure, then the other findings."""
        found = []
        for row in self["measures"]:
            real = "" if row["real"] is None else f"   real {row['real']:.4g}"
            flags = "".join(f"  ({flag})" for flag in row["flags"])
            interval = f"({row['low']:.4g} to {row['high']:.4g})"
            found.append(f"{ARROWS[row['better']]} {row['name']:<46}{row['value']:<9.4g} {interval:<22}{real}{flags}")
        return found + self.sentences()

    def sentences(self) -> list[str]:
        """The findings that are not measures, and what was not evaluated."""
        parts = ("classes", "copies", "real_or_fake", "usefulness")
        found = [part["sentence"] for name in parts if (part := self.get(name))]
        artefacts = (self.get("artefacts") or {}).get("findings", [])
        found += [f"{one['severity']}: {one['sentence']}" for one in artefacts if one["severity"] != "ok"]
        found += [f"not evaluated: {sentence}" for sentence in self["left_out"]]
        protocol = self["protocol"]
        counts = f"{protocol['num_real']:,} {protocol['split']} and {protocol['num_generated']:,} generated images"
        return [*found, f"{counts}, 95% intervals, {self['seconds']:g} s"]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{ARROWS[row['better']]} {html.escape(row['name'])}</td><td>{row['value']:.4g}</td>"
            f"<td>{row['low']:.4g} to {row['high']:.4g}</td>"
            f"<td>{'' if row['real'] is None else format(row['real'], '.4g')}</td></tr>"
            for row in self["measures"]
        )
        head = "<tr><th>measure</th><th>value</th><th>95% interval</th><th>real images</th></tr>"
        notes = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<table>{head}{rows}</table><ul>{notes}</ul>"


def read_evaluation(folder: Path) -> Evaluation | None:
    """evaluation.json of a folder; None if there is none. Raises RunError if it is damaged or of another version."""
    path = folder / "evaluation.json"
    again = f"run `ganvas evaluate {folder}` again"
    try:
        found = files.parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is damaged: {again}") from error
    if not isinstance(found, dict) or found.get("format") != EVALUATION_FORMAT:
        raise RunError(f"{path} is not an evaluation of format {EVALUATION_FORMAT}: {again}")
    if not (isinstance(found.get("measures"), list) and all(isinstance(found.get(part), dict) for part in PARTS)):
        raise RunError(f"{path} is damaged: {again}")
    return Evaluation(found)


def number(value: object) -> float | None:
    """A finite number, or the value of an interval; otherwise None."""
    if isinstance(value, dict):
        value = value.get("value")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer too large for a float
        return None


def decimals(row: dict[str, Any]) -> int:
    """Number of decimals of a measure, such that the width of its interval has two significant digits."""
    width = row["high"] - row["low"]
    size = width if width > 0 else abs(row["value"]) / 10
    return max(0, min(6, 1 - math.floor(math.log10(size)))) if size > 0 else 2


def is_of(evaluation: dict[str, Any], weights: Path) -> bool:
    """Whether an evaluation used this weights file."""
    return evaluation["model"].get("weights") == files.sha256(weights)[:8]


def energy_of(folder: Path) -> float | None:
    """The recorded energy of a run in kWh; None if it was not recorded, or its file is damaged."""
    try:
        energy = json.loads((folder / ENERGY).read_text(encoding="utf-8"))["kwh"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return float(energy) if isinstance(energy, float | int) and 0 <= energy < math.inf else None


def write_energy(folder: Path, kwh: float) -> None:
    files.write_json(folder / ENERGY, {"kwh": kwh})
