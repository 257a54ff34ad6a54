"""A paragraph for a methods section, and all numbers of an evaluation as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from ganvas.results import Evaluation

_Row = dict[str, Any]
_COLUMNS = ("part", "name", "value", "low", "high", "real", "better", "protocol")


def methods(evaluation: Evaluation) -> str:
    """How the images were evaluated, in full sentences."""
    protocol, data, copies = evaluation.protocol, evaluation.data, evaluation.copies
    names = ", ".join(row.name for row in evaluation.measures)
    sentences = [
        f"{protocol.num_generated:,} generated images were compared with {protocol.num_real:,} real ones "
        f"({protocol.split} images) with Ganvas {evaluation.ganvas}.",
        f"Measures: {names}; each with a 95% interval and, where possible, the value between two sets of real images.",
    ]
    if protocol.features:
        sentences.append(f"Features: {protocol.features}.")
    if data.num_training:
        sentences.append(
            f"Data: {data.source}, {data.num_training:,} training and {data.num_heldout:,} held-out images, content "
            f"hash {data.hash[:12]}."
        )
    if protocol.truncation not in (None, 1):
        sentences.append(f"Latents were truncated to {protocol.truncation:g}.")
    if copies:
        num, alarms = copies.num or protocol.num_generated, copies.false_alarms or 0
        sentences.append(
            f"{num:,} generated images were searched for copies of training images after mirroring, shift, crop, "
            "rotation and changes of tone and colour, also as blends and collages of two training images (false-alarm "
            f"rate among real images {alarms:.2%})."
        )
    return " ".join(sentences)


def as_csv(evaluation: Evaluation) -> str:
    """All measures, class results, copy rates and artefacts of an evaluation: one number with its interval per line."""
    rows: list[_Row] = [{"part": "measures"} | vars(row) for row in evaluation.measures]
    for one in evaluation.classes.rows if evaluation.classes else []:
        share = {"value": one.generated_share, "low": one.generated_low, "high": one.generated_high}
        rows.append({"part": "class share", "name": one.name, "real": one.real_share} | share)
        rows += [
            {"part": f"class {key}", "name": one.name, "value": value}
            for key, value in (("kid", one.kid), ("agreement", one.agreement))
            if value is not None
        ]
    values = evaluation.to_dict()
    for part in ("copies", "artefacts", "real_or_fake"):
        rows += _intervals(part, values[part])
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _intervals(part: str, content: Any, name: str = "") -> list[_Row]:
    """Every value with an interval in nested content, named by its keys."""
    if isinstance(content, list):
        named = [
            (str(one.get("name", one.get("period", i))), one) for i, one in enumerate(content) if isinstance(one, dict)
        ]
    elif isinstance(content, dict):
        if {"value", "low", "high"} <= content.keys():
            return [{"part": part, "name": name} | content]
        named = list(content.items())
    else:
        return []
    return [row for key, one in named for row in _intervals(part, one, f"{name} {key}".strip())]
