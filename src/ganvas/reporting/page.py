"""Prepare the content of a report page: charts, tables of formatted text, and images of limited size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from PIL import Image

from ganvas.errors import amount, duration
from ganvas.evaluation.measures import MEANINGS
from ganvas.records import LogRecord, line_of, number
from ganvas.reporting.advice import Advice, advice, sentence, train_command
from ganvas.reporting.charts import Chart, Series, line_chart, scatter_chart
from ganvas.reporting.methods import as_csv, methods
from ganvas.reporting.pictures import Picture, embed, film, stills
from ganvas.reporting.reading import RunContent, column
from ganvas.results import Artefacts, CopyResults, Evaluation, Interval, MarkResult, Measure, Pair, figure
from ganvas.run_config import RunConfig
from ganvas.training.starting_weights import description

_Shown = TypeVar("_Shown", Pair, MarkResult)
BETTER = {"lower": "lower is better", "higher": "higher is better", "near": "closer to real images is better"}
_HEADLINE = ("kid", "kid_second", "fid", "precision", "recall", "accuracy_asked")
_GRID, _FILM, _STILLS, _PAIR, _MARK, _MAP = 1_000_000, 2_000_000, 400_000, 90_000, 50_000, 100_000  # bytes of images
_MOST_PAIRS, _MOST_MARKS = 16, 12
_MANY_CLASSES = 30  # more rows than this are folded
_GAP = 2  # pixels between the cells of a grid (image_files.grid)
_LOGGED = {
    "kid": "KID (random)",
    "precision": "Precision",
    "recall": "Recall",
}  # measures that the training log has too
_TERMS = (  # (parts of the evaluation or of the log that use the term, term, better, meaning)
    ("protocol", "95% interval", "", "Uncertainty caused by the limited number of images."),
    ("protocol", "Real", "", "The same measure between two sets of real images: the best value to expect."),
    ("protocol d_gap", "Held-out images", "", "Real images that were not used for training."),
    ("classes", "Total variation", "lower", "Difference between the class shares of two sets, from 0 to 1."),
    ("copies", "Copy rate", "lower", "Share of generated images flagged as copies of training images."),
    ("copies", "False alarms", "lower", "Share of held-out images flagged as copies."),
    (
        "copies",
        "Authenticity",
        "higher",
        "Share of generated images farther from their nearest training image than that image is from the next one.",
    ),
    (
        "copies",
        "Closer than held-out images",
        "",
        "Probability that a generated image is closer to a training image than a held-out image is. "
        "50% is ideal; higher values indicate copying.",
    ),
    ("copies", "Leaks", "lower", "Held-out images that also appear among the training images."),
    (
        "artefacts checkerboard",
        "Checkerboard artefacts",
        "near",
        "Regular patterns with periods of 2, 4 or 8 pixels, measured as peaks of the spectrum.",
    ),
    ("artefacts sharpness", "Sharpness", "near", "Variance of the Laplacian; lower is blurred, higher is noisy."),
    (
        "real_or_fake",
        "Real-vs-generated classifier accuracy",
        "",
        "Share of unseen images that a linear classifier on features labels correctly. 50% is chance, the best result.",
    ),
    ("usefulness", "Usefulness", "higher", "Gain in accuracy of a classifier that also trains on generated images."),
    ("diversity", "Diversity", "near", "Mean squared feature distance of two images, relative to real images."),
    ("near", "Near neighbours", "lower", "Share of images much closer to one training image than to the next ones."),
    (
        "d_gap",
        "Discriminator gap",
        "lower",
        "Score of held-out images on a scale from training images (0) to generated images (1). "
        "High values indicate overfitting.",
    ),
    ("d_real", "Logit", "", "Output of the discriminator; higher means more likely real."),
    ("penalty", "Gradient penalty", "", "Regularisation that limits the gradients of the discriminator."),
    ("augment", "Augmentation", "", "Random changes of the images that the discriminator sees, with a probability."),
    (
        "sign",
        "E[sign]",
        "",
        "How well the discriminator recognises training images, from -1 to 1; overfitting raises it.",
    ),
)


def page_values(run: RunContent) -> dict[str, Any]:
    """Content of the template of one run."""
    evaluation, folder = run.evaluation or Evaluation(), run.folder
    letters, shared = protocols(evaluation.measures)
    return {
        "run": run,
        "evaluation": run.evaluation,
        "headline": [row for key in _HEADLINE for row in evaluation.measures if row.key == key],
        "better": BETTER,
        "agreement": agreement_sentence(evaluation),
        "pictures": _side_by_side(folder, evaluation),
        "latest": None if evaluation.grids else latest(run, _GRID),
        "advice": _found_advice(run),
        "measures": evaluation.measures,
        "feature_map": _feature_map(evaluation),
        "methods": methods(evaluation),
        "csv": quote(as_csv(evaluation)),
        "shared_protocol": shared,
        "letters": letters,
        "classes": evaluation.classes,
        "many": _MANY_CLASSES,
        "copies": evaluation.copies,
        "copy_facts": copy_facts(evaluation.copies or CopyResults()),
        "closest": _with_picture(folder, evaluation.copies.closest[:_MOST_PAIRS] if evaluation.copies else [], _PAIR),
        "marks": _with_picture(folder, evaluation.marks[:_MOST_MARKS], _MARK),
        "artefacts": evaluation.artefacts,
        "spectrum": _spectrum(evaluation.artefacts or Artefacts()),
        "faults": _faults(evaluation.artefacts or Artefacts()),
        "real_or_fake": evaluation.real_or_fake,
        "map": embed(folder, evaluation.real_or_fake.map, _MAP) if evaluation.real_or_fake else None,
        "usefulness": evaluation.usefulness,
        "film": film(run.grids, _FILM) if len(run.grids) > 1 else None,
        "stills": stills(run.grids, run.config.model.height, run.config.model.width, _STILLS),
        "charts": _curves(run),
        "health": run.health,
        "choices": _choices(run.config),
        "data": _data_facts(run),
        "cost": _cost_facts(run),
        "command": train_command(run.config, str(folder), {}),
        "glossary": _glossary(run, evaluation),
    }


def _found_advice(run: RunContent) -> list[Advice]:
    log = [*run.reports, *run.vitals, *run.health]
    return advice(run.evaluation, log, run.config, str(run.folder))


def _glossary(run: RunContent, evaluation: Evaluation) -> list[tuple[str, str]]:
    """(term, meaning) of the measures and terms on the page."""
    used = {name for record in (*run.reports, *run.vitals) for name in line_of(record)}
    logged = [key for key in _LOGGED if key in used and key not in evaluation.by_key]
    used |= {name for name, value in vars(evaluation).items() if value and run.evaluation}
    entries = [(row.name, BETTER[row.better], row.meaning) for row in evaluation.measures]
    entries += [(_LOGGED[key], BETTER[MEANINGS[key][0]], MEANINGS[key][1]) for key in logged]
    entries += [(term, BETTER.get(way, ""), words) for where, term, way, words in _TERMS if used & {*where.split()}]
    return [(name, f"{meaning} {sentence(better)}" if better else meaning) for name, better, meaning in entries]


# ---- numbers as text ----


def number_text(value: float | None, digits: int | None = None) -> str:
    """Format a number with a minus sign and thousands separators; default: three significant digits."""
    finite = number(value)
    if finite and digits is None:
        digits = max(0, 2 - math.floor(math.log10(abs(finite))))
    return figure(finite, digits or 0)


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%".replace("-", "−")


def percent_interval(share: Interval | None) -> str:
    """ "3.1% (2.0 to 4.8%)"."""
    if not share:
        return "–"
    return f"{percent(share.value)} ({100 * share.low:.1f} to {100 * share.high:.1f}%)".replace("-", "−")


# ---- measures ----


def protocols(rows: list[Measure]) -> tuple[dict[str, tuple[str, str]], str]:
    """(the letter and the protocol of each measure by its key, the part of the protocol that most measures share).

    A protocol is "numbers; features; versions". The part after the first semicolon is usually the same, and left out.
    """
    parts = [row.protocol.partition("; ")[::2] for row in rows]
    tails = Counter(tail for _, tail in parts if tail)
    shared = tails.most_common(1)[0][0] if tails else ""
    own = [head if tail in (shared, "") else f"{head}; {tail}" for head, tail in parts]
    letters = {note: "abcdefghijklmnopqrstuvwxyz"[i % 26] for i, note in enumerate(dict.fromkeys(own))}
    return {row.key: (letters[note], note) for row, note in zip(rows, own, strict=True)}, shared


def agreement_sentence(evaluation: Evaluation) -> str:
    """Whether both feature networks distinguish generated from real images; "" if that is unknown."""
    rows = evaluation.by_key
    both = [rows[key] for key in ("kid", "kid_second") if key in rows and rows[key].real is not None]
    if len(both) < 2:
        return ""
    apart = [row.low > max(row.real or 0.0, 0.0) for row in both]
    if all(apart):
        said = "Both feature networks distinguish the generated images from real ones."
    elif not any(apart):
        said = "Neither feature network distinguishes the generated images from real ones."
    else:
        differs, equal = (both[apart.index(one)].name for one in (True, False))
        said = (
            f"The two networks disagree: by {differs} the generated images differ from real ones, by {equal} they do "
            "not. Decide by the images, precision and recall."
        )
    if evaluation.unlike:
        said += " The generated images do not resemble the data, so the other measures mean little."
    return said


# ---- images ----


@dataclass(frozen=True)
class _SideBySide:
    real: Picture | None
    generated: Picture | None
    labels: list[str]
    """Of the rows."""
    note: str


def _side_by_side(folder: Path, evaluation: Evaluation) -> _SideBySide | None:
    grids = evaluation.grids
    if not grids:
        return None
    generated = embed(folder, grids.generated, _GRID)
    by_class = grids.per_class and generated is not None
    rows = _num_rows(folder, grids.generated, evaluation.model.height) if by_class else 0
    return _SideBySide(embed(folder, grids.real, _GRID), generated, evaluation.data.classes[:rows], grids.note)


def _num_rows(folder: Path, name: str, height: int) -> int:
    """Number of rows of a grid file, from the height of its cells."""
    with Image.open(folder / name) as picture:
        return (picture.height - _GAP) // max(1, height + _GAP)


def latest(run: RunContent, budget: int) -> Picture | None:
    """The last preview grid; None if there is none."""
    return embed(run.folder, str(run.grids[-1][1].relative_to(run.folder)), budget) if run.grids else None


def _with_picture(folder: Path, rows: Sequence[_Shown], budget: int) -> list[tuple[_Shown, Picture]]:
    """The rows whose image file exists, each with its image."""
    return [(row, picture) for row in rows if (picture := embed(folder, row.file, budget)) is not None]


# ---- parts of the evaluation ----


def copy_facts(copies: CopyResults) -> list[tuple[str, str]]:
    facts = []
    if copies.meaningful:
        facts += [("Copy rate", percent_interval(copies.rate))] if copies.rate else []
        facts += [("Authenticity", percent_interval(copies.authenticity))] if copies.authenticity else []
        closer = copies.closer_than_heldout
        facts += [("Closer than held-out images", f"{percent_interval(closer)}; 50% is chance")] if closer else []
    if copies.false_alarms is not None:
        facts.append(("False alarms", f"{percent(copies.false_alarms)} of held-out images"))
    if copies.training_duplicates is not None:
        facts.append(("Duplicates", f"{copies.training_duplicates:,} among the training images"))
    if copies.leaks is not None:
        facts.append(("Leaks", f"{amount(copies.leaks, 'held-out image')} among the training images"))
    return facts


def _spectrum(artefacts: Artefacts) -> Chart | None:
    curves = artefacts.spectrum
    if not curves:
        return None
    lines = [
        Series(name, curves.frequency, getattr(curves, name), style=i) for i, name in enumerate(("real", "generated"))
    ]
    caption = "Power spectrum, mean over all directions and images."
    return line_chart(caption, lines, "cycles per pixel", "power", log_y=True)


def _feature_map(evaluation: Evaluation) -> Chart | None:
    points = evaluation.feature_map
    if not points:
        return None
    caption = (
        "Map of the features (first two principal components). Each point is an image. Real images without generated "
        "ones nearby show what the generator misses; generated images away from the real ones are unlike the data. The "
        f"map shows {percent(points.explained)} of the variance, so points that are close on it can still differ."
    )
    return scatter_chart(caption, points.real, points.generated)


def _faults(artefacts: Artefacts) -> list[tuple[str, str, str]]:
    """(artefact, value for generated images, value for real images)."""
    rows = [
        (
            f"Checkerboard artefacts, period {row.period} pixels",
            number_text(row.worse.generated),
            number_text(row.worse.real),
        )
        for row in artefacts.checkerboard
    ]
    if sharp := artefacts.sharpness:
        bounds = f"{number_text(sharp.value, 2)} ({number_text(sharp.low, 2)} to {number_text(sharp.high, 2)})"
        rows.append(("Sharpness (1 = like real images)", bounds, "1"))
    if tones := artefacts.tones:
        rows.append(("Difference of pixel values, of their range", percent(tones.value), percent(tones.real)))
    if alike := artefacts.correlation:
        real = f"{number_text(alike.low, 2)} to {number_text(alike.high, 2)}"
        rows.append(("Mean correlation of two images (real: samples of nine)", number_text(alike.generated, 2), real))
    if blank := artefacts.blank:
        rows.append(("Blank images", percent(blank.generated), percent(blank.real)))
    if repeated := artefacts.duplicates:
        rows.append(("Near duplicates among the images", percent(repeated.generated), percent(repeated.real)))
    return rows


# ---- training ----


def _curves(run: RunContent) -> list[Chart]:
    """Charts of the training log; charts without data are left out."""
    vitals, reports = run.vitals, run.reports
    at, seen = column(vitals, "images"), column(reports, "images")

    def of(records: Sequence[LogRecord], x: list[float], *names: tuple[str, str]) -> list[Series]:
        return [Series(shown, x, column(records, name)) for name, shown in names]

    score, margin = column(vitals, "score"), column(vitals, "margin")
    band = ([s - m for s, m in zip(score, margin, strict=True)], [s + m for s, m in zip(score, margin, strict=True)])
    has_band = bool(vitals) and not any(map(math.isnan, margin))
    low, high = band if has_band else (None, None)
    # Named, because the KID of an evaluation is usually in another network.
    has_kid = any(record.kid is not None for record in vitals)
    title = "KID (random network) of the averaged weights (EMA)" if has_kid else "Score"
    charts = [
        line_chart(
            f"{title} during training{', with 95% interval' if has_band else ''}; lower is better.",
            [Series("score", at, score, low, high)], y_label="KID (random)" if has_kid else "score", points=True,
        ),
        line_chart(
            "Quality (precision) and diversity (recall) during training; higher is better.",
            of(vitals, at, ("precision", "precision"), ("recall", "recall")), points=True, unit_range=True,
        ),
        line_chart(
            "Diversity, sharpness and checkerboard artefacts (1 = like real images).",
            of(vitals, at, ("diversity", "diversity"), ("sharpness", "sharpness"), ("checkerboard", "checkerboard")),
            y_label="relative to real", points=True, log_y=False,
        ),
        line_chart(
            "Signs of copying and overfitting: share of near neighbours (held-out images: 0.02) and discriminator "
            "gap; lower is better.",
            of(vitals, at, ("near", "near neighbours"), ("d_gap", "discriminator gap")), y_label="share",
            points=True, log_y=False,
        ),
        line_chart("Discriminator loss.", of(reports, seen, ("loss", "loss")), y_label="loss", log_y=False),
        line_chart(
            "Discriminator output for real and generated images.",
            [Series("real", seen, column(reports, "d_real"), style=0),
             Series("generated", seen, column(reports, "d_fake"), style=1)], y_label="logit", log_y=False,
        ),
        line_chart("Gradient penalty.", of(reports, seen, ("penalty", "penalty")), y_label="penalty", log_y=False),
        line_chart(
            "Gradient norms.", of(reports, seen, ("g_norm", "generator"), ("d_norm", "discriminator")),
            y_label="norm",
        ),
        line_chart(
            "Augmentation probability and the sign of the discriminator output that controls it.",
            of(reports, seen, ("augment", "probability"), ("sign", "E[sign]")), log_y=False,
        ),
        line_chart("Learning rate.", of(reports, seen, ("lr", "learning rate")), y_label="rate", log_y=False),
        line_chart(
            "Training speed.",
            of(reports, seen, ("images_per_second", "speed")), y_label="images per second", log_y=False,
        ),
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


# ---- how it was made ----


def _choices(config: RunConfig) -> list[tuple[str, str, str]]:
    """(option, value, reason) of each option that was set automatically."""
    values = vars(config.model) | vars(config.train)
    return [(name, shown_value(values.get(name)), str(reason)) for name, reason in config.reasons.items()]


def shown_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1e4 else f"{value:g}"
    return "–" if value is None else str(value)


def _data_facts(run: RunContent) -> list[tuple[str, str]]:
    data, evaluated = run.config.data, (run.evaluation or Evaluation()).data
    classes = evaluated.classes
    channels = {1: "gray", 3: "colour", 4: "colour with transparency"}
    facts = [
        ("Source", data.source),
        ("Images", f"{data.num_training:,} for training, {data.num_heldout:,} held out"),
        ("Size", f"{data.size} pixels, {channels.get(data.channels, data.channels)}"),
        ("Kind", data.kind),
        ("Classes", ", ".join(classes[:_MANY_CLASSES]) + (" …" if len(classes) > _MANY_CLASSES else "")),
        ("Conditions", evaluated.conditions),
        ("Content hash", data.hash[:16]),
        ("Licence", data.licence or "not stated"),
        ("Attribution", data.attribution or "none"),
    ]
    return [(name, value) for name, value in facts if value]


def _cost_facts(run: RunContent) -> list[tuple[str, str]]:
    config, evaluation = run.config, run.evaluation or Evaluation()
    protocol = evaluation.protocol
    rates = sorted(value for value in column(run.reports, "images_per_second") if not math.isnan(value))
    facts = [
        ("Started", config.started),
        ("Machine", config.device),
        ("Budget", config.budget),
        ("Starting weights", description(config.start)),
        ("Training", f"{duration(run.seconds)}, {run.images_seen:,} images seen"),
        ("Speed", f"{rates[len(rates) // 2]:,.0f} images per second (median)" if rates else ""),
        (
            "Evaluation",
            f"{duration(evaluation.seconds)} on {protocol.machine}" if evaluation.seconds else "",
        ),
        ("Weights", evaluation.model.weights),
        (
            "Versions",
            ", ".join(f"{name} {value}" for name, value in {"ganvas": config.ganvas, **protocol.versions}.items()),
        ),
    ]
    return [(name, value) for name, value in facts if value]
