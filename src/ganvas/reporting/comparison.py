"""Compare several runs: measures, images, curves and configuration differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ganvas.errors import duration
from ganvas.reporting.charts import Chart, Series, line_chart
from ganvas.reporting.page import BETTER, latest, shown_value
from ganvas.reporting.pictures import Picture, embed
from ganvas.reporting.reading import RunContent, column
from ganvas.results import Evaluation, Measure, figure

_PICTURES = 5_000_000  # bytes, of all runs together
_SIGNIFICANT = {
    "features": "features",
    "num_real": "number of real images",
    "num_generated": "number of generated images",
    "split": "split",
    "truncation": "truncation",
}
"""Fields of a protocol that must be equal, and their names in sentences."""


@dataclass(frozen=True)
class _Cell:
    """best: better than all others, with intervals that do not overlap."""

    value: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """better: which way is better."""

    name: str
    arrow: str
    better: str
    cells: list[_Cell]


def comparison(runs: list[RunContent]) -> dict[str, Any]:
    """Content of the template of a comparison."""
    return {
        "names": _names_of(runs),
        "caveats": caveats(runs, _names_of(runs)),
        "rows": [*measures(runs), *costs(runs)],
        "grids": [_grid(run, name, len(runs)) for run, name in zip(runs, _names_of(runs), strict=True)],
        "charts": _overlaid(runs),
        "differences": config_differences(runs),
    }


def _names_of(runs: list[RunContent]) -> list[str]:
    """Names of the runs, or their folders if two runs have the same name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def caveats(runs: list[RunContent], names: list[str]) -> list[str]:
    """Warnings about values that are not comparable. names: of the runs, for the sentences."""
    warnings = []
    missing = [name for run, name in zip(runs, names, strict=True) if run.evaluation is None]
    if missing:
        warnings.append(f"No evaluation yet: {', '.join(missing)}. Run ganvas evaluate.")
    evaluations = [run.evaluation for run in runs if run.evaluation is not None]
    if len({one.data.hash for one in evaluations}) > 1:
        warnings.append("These runs were evaluated on different data: their values are not comparable.")
    differing = [name for name in _SIGNIFICANT if len({getattr(one.protocol, name) for one in evaluations}) > 1]
    if differing:
        words = ", ".join(_SIGNIFICANT[name] for name in differing)
        warnings.append(f"These runs were evaluated with different protocols ({words}): compare with care.")
    warnings += disagreements(runs, names)
    if any(run.stale for run in runs):
        warnings.append("An evaluation used other weights than its run has now: run ganvas evaluate again.")
    return warnings


def disagreements(runs: list[RunContent], names: list[str] | None = None) -> list[str]:
    """Pairs of runs that the two feature networks rank in opposite orders, with intervals that do not overlap."""
    named = zip(names or _names_of(runs), runs, strict=True)
    tables = [(name, (run.evaluation or Evaluation()).by_key) for name, run in named]
    both = [(name, rows["kid"], rows["kid_second"]) for name, rows in tables if {"kid", "kid_second"} <= {*rows}]
    return [
        f"{first[0]} has the lower {first[1].name} and {second[0]} the lower {first[2].name}: the networks "
        "disagree, so the ranking of these two is not clear."
        for first in both
        for second in both
        if first[1].high < second[1].low and second[2].high < first[2].low
    ]


def measures(runs: list[RunContent]) -> list[Row]:
    """One row for each measure that any run has, in order of first appearance."""
    tables = [(run.evaluation or Evaluation()).by_key for run in runs]
    for table, run in zip(tables, runs, strict=True):
        copies = (run.evaluation or Evaluation()).copies
        if copies and copies.meaningful and copies.rate:
            table["copies"] = Measure(**vars(copies.rate), key="copies", name="Copies of training images")
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = []
    for key in keys:
        row_of = [table.get(key) for table in tables]
        known = [row for row in row_of if row is not None]
        best, first = winner(known), known[0]
        digits = min(row.decimals for row in known)
        cells = []
        for row in row_of:
            value, low, high = (figure(getattr(row, part, None), digits) for part in ("value", "low", "high"))
            cells.append(_Cell(value, f"{low} to {high}", row is best) if row else _Cell(value))
        rows.append(Row(first.name, first.arrow, BETTER[first.better], cells))
    return rows


def winner(rows: list[Measure]) -> Measure | None:
    """The row that is better than all others with intervals that do not overlap; None if there is none."""
    if len(rows) < 2 or rows[0].better == "near":
        return None
    if rows[0].better == "lower":
        best = min(rows, key=lambda row: row.value)
        return best if all(row is best or row.low > best.high for row in rows) else None
    best = max(rows, key=lambda row: row.value)
    return best if all(row is best or row.high < best.low for row in rows) else None


def costs(runs: list[RunContent]) -> list[Row]:
    return [
        Row("Images seen", "", "", [_Cell(f"{run.images_seen:,}") for run in runs]),
        Row("Training time", "", "", [_Cell(duration(run.seconds)) for run in runs]),
        Row("Machine", "", "", [_Cell(run.config.device or "–") for run in runs]),
    ]


def _grid(run: RunContent, name: str, num: int) -> tuple[str, Picture | None, int, str]:
    """(name, image, width of its cells, note) from the evaluation, otherwise the last preview."""
    grids, side = (run.evaluation or Evaluation()).grids, run.config.model.width
    if grids and (picture := embed(run.folder, grids.generated, _PICTURES // num)) is not None:
        return name, picture, side, grids.note
    return name, latest(run, _PICTURES // num), side, "last preview, uncurated"


def _overlaid(runs: list[RunContent]) -> list[Chart]:
    """Curves of all runs by images seen and by time."""
    names = _names_of(runs)

    def over(kind: str, x: str, y: str) -> list[Series]:
        return [
            Series(name, column(getattr(run, kind), x), column(getattr(run, kind), y), style=i)
            for i, (run, name) in enumerate(zip(runs, names, strict=True))
        ]

    charts = [
        line_chart("Score during training; lower is better.", over("vitals", "images", "score"), y_label="score",
                   points=True),
        line_chart("Precision during training; higher is better.", over("vitals", "images", "precision"),
                   points=True, unit_range=True),
        line_chart("Recall during training; higher is better.", over("vitals", "images", "recall"), points=True,
                   unit_range=True),
        line_chart("Discriminator loss.", over("reports", "images", "loss"), y_label="loss", log_y=False),
        line_chart("Images seen over time.", over("reports", "seconds", "images"), "seconds", "images", log_y=False),
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


def config_differences(runs: list[RunContent]) -> list[tuple[str, list[str]]]:
    """(option, value in each run) where the runs differ."""
    data = ("source", "num_images", "size", "channels", "kind")
    flat = [
        {f"data {name}": getattr(run.config.data, name) for name in data}
        | vars(run.config.model)
        | vars(run.config.train)
        | {"ganvas": run.config.ganvas}
        for run in runs
    ]
    names = dict.fromkeys(name for one in flat for name in one)
    table = [(name, [shown_value(one.get(name)) for one in flat]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]
