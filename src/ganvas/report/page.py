"""From what a run's files tell to what the page shows: charts, tables of ready text, images within their budgets."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ganvas.report.advice import Advice, advice, train_command
from ganvas.report.charts import Chart, Series, line_chart
from ganvas.report.pictures import Picture, embed, film, stills
from ganvas.report.reading import Record, Told, column, number
from ganvas.training.progress import duration

ARROW = {"lower": "↓", "higher": "↑", "near": "≈"}
BETTER = {"lower": "lower is better", "higher": "higher is better", "near": "near the real pictures' is better"}
HEADLINE = ("kid", "fid", "precision", "recall", "accuracy_asked")
GRID, FILM, STILLS, PAIR, MARK, MAP = 1_000_000, 2_000_000, 400_000, 90_000, 50_000, 100_000  # bytes of images
MOST_PAIRS, MOST_MARKS = 16, 12
MANY_CLASSES = 30  # rows of a table before it is folded
GAP = 2  # pixels between the cells of a grid (images.grid)


@dataclass(frozen=True)
class Measure:
    """A row of the table of measures, ready to print."""

    key: str
    name: str
    short: str
    """The name without its network."""
    arrow: str
    better: str
    value: str
    low: str
    high: str
    real: str
    meaning: str
    flags: list[str]
    note: str
    """Letter of its protocol."""


def page(told: Told) -> dict[str, Any]:
    """All that the template of one run needs."""
    evaluation, folder = told.evaluation or {}, told.folder
    measures, shared, notes = measured(evaluation.get("measures", []))
    return {
        "told": told,
        "evaluation": evaluation,
        "headline": [row for key in HEADLINE for row in measures if row.key == key],
        "pictures": side_by_side(folder, evaluation),
        "latest": None if evaluation.get("pictures") else latest(told, GRID),
        "advice": found_advice(told),
        "measures": measures,
        "shared_protocol": shared,
        "notes": notes,
        "classes": class_rows(evaluation),
        "copies": evaluation.get("copies"),
        "copy_facts": copy_facts(evaluation.get("copies") or {}),
        "closest": closest(folder, evaluation),
        "marks": marks(folder, evaluation),
        "artefacts": evaluation.get("artefacts"),
        "spectrum": spectrum(evaluation),
        "faults": faults(evaluation.get("artefacts") or {}),
        "real_or_fake": evaluation.get("real_or_fake"),
        "map": embed(folder, (evaluation.get("real_or_fake") or {}).get("map"), MAP),
        "usefulness": evaluation.get("usefulness"),
        "film": film(told.grids, FILM) if len(told.grids) > 1 else None,
        "stills": stills(told.grids, *cell(told), STILLS),
        "charts": curves(told),
        "health": told.health,
        "choices": choices(told.config),
        "data": data_facts(told),
        "cost": cost_facts(told),
        "command": train_command(told.config, str(folder), {}),
    }


def found_advice(told: Told) -> list[Advice]:
    log = [*told.reports, *told.vitals, *told.health]
    return advice(told.evaluation, log, told.config, str(told.folder))


def cell(told: Told) -> tuple[int, int]:
    return told.config["model"]["height"], told.config["model"]["width"]


# ---- numbers as text ----


def decimals(row: Record) -> int:
    """Digits behind the point that the interval justifies: two of its width."""
    width = row["high"] - row["low"]
    size = width if width > 0 else abs(row["value"]) / 10
    return max(0, min(6, 1 - math.floor(math.log10(size)))) if size > 0 else 2


def text(value: object, digits: int | None = None) -> str:
    """A number with a true minus sign and thousands apart; three figures unless `digits` behind the point are given."""
    found = number(value)
    if found is None:
        return "–"
    if digits is None:
        digits = max(0, 2 - math.floor(math.log10(abs(found)))) if found else 0
    return f"{found:,.{digits}f}".replace("-", "−")


def percent(value: object, digits: int = 1) -> str:
    found = number(value)
    return "–" if found is None else f"{100 * found:.{digits}f}%".replace("-", "−")


def percent_interval(value: Record | None) -> str:
    """ "3.1% (2.0 to 4.8%)"."""
    if not value:
        return "–"
    return f"{percent(value)} ({100 * value['low']:.1f} to {100 * value['high']:.1f}%)".replace("-", "−")


# ---- measures ----


def measured(rows: list[Record]) -> tuple[list[Measure], str, list[tuple[str, str]]]:
    """(rows, the protocol's part that most of them share, the rest by letter).

    A protocol is "numbers; features; versions": what stands behind the first semicolon is mostly the same.
    """
    parts = [str(row["protocol"]).partition("; ")[::2] for row in rows]
    tails = Counter(tail for _, tail in parts if tail)
    shared = tails.most_common(1)[0][0] if tails else ""
    own = [head if tail in (shared, "") else f"{head}; {tail}" for head, tail in parts]
    letters = {note: "abcdefghijklmnopqrstuvwxyz"[i % 26] for i, note in enumerate(dict.fromkeys(own))}
    table = [as_measure(row, letters[note]) for row, note in zip(rows, own, strict=True)]
    return table, shared, [(letter, note) for note, letter in letters.items()]


def as_measure(row: Record, note: str) -> Measure:
    digits, better = decimals(row), row["better"]
    return Measure(
        key=row["key"],
        name=row["name"],
        short=str(row["name"]).partition(" (")[0],
        arrow=ARROW[better],
        better=BETTER[better],
        value=text(row["value"], digits),
        low=text(row["low"], digits),
        high=text(row["high"], digits),
        real=text(row.get("real"), digits),
        meaning=row["meaning"],
        flags=list(row.get("flags") or []),
        note=note,
    )


# ---- images ----


@dataclass(frozen=True)
class SideBySide:
    real: Picture | None
    generated: Picture | None
    labels: list[str]
    """Of the rows."""
    note: str


def side_by_side(folder: Path, evaluation: Record) -> SideBySide | None:
    found = evaluation.get("pictures")
    if not found:
        return None
    generated = embed(folder, found.get("generated"), GRID)
    names = [str(name) for name in evaluation["data"].get("classes") or []]
    by_class = found.get("per_class") and generated is not None
    rows = num_rows(folder, found["generated"], evaluation["model"]["height"]) if by_class else 0
    return SideBySide(embed(folder, found.get("real"), GRID), generated, names[:rows], str(found.get("note", "")))


def num_rows(folder: Path, name: str, height: int) -> int:
    """Rows of a grid file, by the height of its cells."""
    with Image.open(folder / name) as picture:
        return (picture.height - GAP) // (height + GAP)


def latest(told: Told, budget: int) -> Picture | None:
    """The last preview grid, where no evaluation has images."""
    return embed(told.folder, str(told.grids[-1][1].relative_to(told.folder)), budget) if told.grids else None


def closest(folder: Path, evaluation: Record) -> list[tuple[Record, Picture]]:
    found = (evaluation.get("copies") or {}).get("closest") or []
    pairs = [(one, embed(folder, one.get("file"), PAIR)) for one in found[:MOST_PAIRS]]
    return [(one, picture) for one, picture in pairs if picture is not None]


def marks(folder: Path, evaluation: Record) -> list[tuple[Record, Picture]]:
    found = [(one, embed(folder, one.get("file"), MARK)) for one in (evaluation.get("marks") or [])[:MOST_MARKS]]
    return [(one, picture) for one, picture in found if picture is not None]


# ---- parts of the evaluation ----


def class_rows(evaluation: Record) -> Record | None:
    found = evaluation.get("classes")
    if not found:
        return None
    modes = found.get("modes") or {}
    covered = number(modes.get("covered"))
    return {
        "rows": found["rows"],
        "folded": len(found["rows"]) > MANY_CLASSES,
        "worst": found.get("worst"),
        "judge": found.get("judge"),
        "distance": percent(found.get("total_variation")),
        "chance": percent(found["chance"]) if number(found.get("chance")) is not None else None,
        "agreement": percent_interval(found["agreement"]) if found.get("agreement") else None,
        "modes": None if covered is None else f"{covered:.0f} of {modes['of']}",
    }


def copy_facts(copies: Record) -> list[tuple[str, str]]:
    intervals = (
        ("Copy rate", "rate"),
        ("Authenticity", "authenticity"),
    )
    facts = [(name, percent_interval(copies[key])) for name, key in intervals if copies.get(key)]
    if copies.get("closer_than_heldout"):
        likelihood = percent_interval(copies["closer_than_heldout"])
        facts.append(
            (
                "Nearness",
                f"a sample is nearer to a training image than a held-out one is: {likelihood}; 50% is chance",
            )
        )
    if number(copies.get("false_alarms")) is not None:
        facts.append(("False alarms", f"{percent(copies['false_alarms'])} of held-out images are taken for copies"))
    for name, key in (("Duplicates", "training_duplicates"), ("Leaks", "leaks")):
        where = "within the training pictures" if name == "Duplicates" else "of held-out images into the training part"
        if number(copies.get(key)) is not None:
            facts.append((name, f"{text(copies[key], 0)} {where}"))
    return facts


def spectrum(evaluation: Record) -> Chart | None:
    found = (evaluation.get("artefacts") or {}).get("spectrum")
    if not found:
        return None
    lines = [
        Series("real", found["frequency"], found["real"], style=0),
        Series("generated", found["frequency"], found["generated"], style=1),
    ]
    caption = "Power spectrum by frequency, mean over all directions and images."
    return line_chart(caption, lines, "cycles per pixel", "power", log_y=True)


def faults(artefacts: Record) -> list[tuple[str, str, str]]:
    """(what, of the generated images, of the real ones) for each number of an examination."""
    rows = [
        (f"Lattice of {row['period']:g} pixels, peak over its surroundings", text(row["generated"]), text(row["real"]))
        for row in artefacts.get("lattice") or []
    ]
    if sharp := artefacts.get("sharpness"):
        bounds = f"{text(sharp['value'], 2)} ({text(sharp['low'], 2)} to {text(sharp['high'], 2)})"
        rows.append(("Sharpness, times the real pictures'", bounds, "1"))
    if tone := artefacts.get("histogram"):
        rows.append(("Distance of the values, of their range", percent(tone["value"]), percent(tone["real"])))
    if alike := artefacts.get("correlation"):
        real = f"{text(alike['low'], 2)} to {text(alike['high'], 2)}"
        rows.append(("Correlation of nine pictures", text(alike["generated"], 2), real))
    if blank := artefacts.get("blank"):
        rows.append(("Blank pictures", percent(blank["generated"]), percent(blank["real"])))
    if number(artefacts.get("repeated")) is not None:
        rows.append(("Pictures that nearly repeat another one", percent(artefacts["repeated"]), "0.5%"))
    return rows


# ---- training ----


def curves(told: Told) -> list[Chart]:
    """The log as charts; those whose quantities it lacks are left out."""
    vitals, reports = told.vitals, told.reports
    at, seen = column(vitals, "images"), column(reports, "images")

    def of(records: list[Record], x: list[float], *names: tuple[str, str]) -> list[Series]:
        return [Series(shown, x, column(records, name)) for name, shown in names]

    score, margin = column(vitals, "score"), column(vitals, "margin")
    band = ([s - m for s, m in zip(score, margin, strict=True)], [s + m for s, m in zip(score, margin, strict=True)])
    has_band = bool(vitals) and not any(map(math.isnan, margin))
    low, high = band if has_band else (None, None)
    title = (
        "Kernel distance (KID) of the moving average"
        if any(number(r.get("kid")) is not None for r in vitals)
        else "Score"
    )
    found = [
        line_chart(
            f"{title} at each examination{', with its 95% interval' if has_band else ''}; lower is better.",
            [Series("score", at, score, low, high)], y_label="KID" if "KID" in title else "score", points=True,
        ),
        line_chart(
            "Quality (precision) and variety (recall) at each examination.",
            of(vitals, at, ("precision", "precision"), ("recall", "recall")), points=True, unit_range=True,
        ),
        line_chart(
            "Generated against real images: 1 is the same.",
            of(vitals, at, ("diversity", "diversity"), ("sharpness", "sharpness"), ("lattice", "lattice")),
            y_label="times real", points=True, log_y=False,
        ),
        line_chart(
            "Near neighbours in the training images (held-out ones: 0.02), and how far the discriminator takes "
            "held-out images for generated ones.",
            of(vitals, at, ("near", "share of near neighbours"), ("d_gap", "discriminator's gap")), y_label="share",
            points=True, log_y=False,
        ),
        line_chart("Loss of the discriminator.", of(reports, seen, ("loss", "loss")), y_label="loss", log_y=False),
        line_chart(
            "What the discriminator answers to real and to generated images.",
            [Series("real", seen, column(reports, "d_real"), style=0),
             Series("generated", seen, column(reports, "d_fake"), style=1)], y_label="logit", log_y=False,
        ),
        line_chart("Gradient penalty.", of(reports, seen, ("penalty", "penalty")), y_label="penalty", log_y=False),
        line_chart(
            "Length of the gradients.", of(reports, seen, ("g_norm", "generator"), ("d_norm", "discriminator")),
            y_label="norm",
        ),
        line_chart(
            "Probability of augmentation, and the sign of the discriminator's answers that steers it.",
            of(reports, seen, ("augment", "probability"), ("sign", "E[sign]")), log_y=False,
        ),
        line_chart("Learning rate.", of(reports, seen, ("lr", "learning rate")), y_label="rate", log_y=False),
        line_chart(
            "Speed.", of(reports, seen, ("images_per_second", "speed")), y_label="images per second", log_y=False
        ),
    ]  # fmt: skip
    return [chart for chart in found if chart is not None]


# ---- how it was made ----


def choices(config: Record) -> list[tuple[str, str, str]]:
    """(option, value, reason) of every choice in the plan."""
    values = config["model"] | config["train"]
    return [(name, shown(values.get(name)), str(reason)) for name, reason in (config.get("reasons") or {}).items()]


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1e4 else f"{value:g}"
    return "–" if value is None else str(value)


def data_facts(told: Told) -> list[tuple[str, str]]:
    data, evaluation = told.config["data"], told.evaluation or {}
    held = number(data.get("num_heldout")) or 0
    classes = evaluation.get("data", {}).get("classes") or []
    channels = {1: "gray", 3: "colour", 4: "colour with transparency"}
    facts = [
        ("Source", str(data.get("source"))),
        ("Pictures", f"{data['num_images'] - held:,.0f} for training, {held:,.0f} held out"),
        ("Size", f"{data.get('size')} pixels, {channels.get(data.get('channels'), data.get('channels'))}"),
        ("Kind", str(data.get("kind") or "")),
        ("Classes", ", ".join(map(str, classes[:MANY_CLASSES])) + (" …" if len(classes) > MANY_CLASSES else "")),
        ("Content hash", str(data.get("hash"))[:16]),
        ("Licence", str(data.get("licence") or "not stated")),
        ("Attribution", str(data.get("attribution") or "none")),
    ]
    return [(name, value) for name, value in facts if value]


def cost_facts(told: Told) -> list[tuple[str, str]]:
    config, evaluation = told.config, told.evaluation or {}
    protocol = evaluation.get("protocol", {})
    versions = protocol.get("versions") or {}
    rates = sorted(value for value in column(told.reports, "images_per_second") if not math.isnan(value))
    facts = [
        ("Started", str(config.get("started") or "")),
        ("Machine", str(config.get("device") or "")),
        ("Budget", str(config.get("budget") or "")),
        ("Training", f"{duration(told.seconds)}, {told.images_seen:,} images seen"),
        ("Speed", f"{rates[len(rates) // 2]:,.0f} images per second (median)" if rates else ""),
        (
            "Evaluation",
            f"{duration(evaluation['seconds'])} on {protocol.get('machine')}" if evaluation.get("seconds") else "",
        ),
        ("Weights", str(evaluation.get("model", {}).get("weights") or "")),
        (
            "Versions",
            ", ".join(f"{name} {value}" for name, value in {"ganvas": config.get("ganvas"), **versions}.items()),
        ),
    ]
    return [(name, value) for name, value in facts if value]
