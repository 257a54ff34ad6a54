"""A paragraph for a methods section, and all numbers of an evaluation as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from ganvas.reporting.reading import Record

COLUMNS = ("part", "name", "value", "low", "high", "real", "better", "protocol")


def methods(evaluation: Record) -> str:
    """How the images were evaluated, in full sentences; "" without an evaluation."""
    if not evaluation:
        return ""
    protocol, data, copies = evaluation["protocol"], evaluation.get("data") or {}, evaluation.get("copies")
    names = ", ".join(row["name"] for row in evaluation["measures"])
    found = [
        f"{protocol['num_generated']:,} generated images were compared with {protocol['num_real']:,} real ones "
        f"({protocol['split']} images) with Ganvas {evaluation['ganvas']}.",
        f"Measures: {names}; each with a 95% interval and, where possible, the value between two sets of real images.",
    ]
    if protocol.get("features"):
        found.append(f"Features: {protocol['features']}.")
    if data.get("num_training"):
        found.append(
            f"Data: {data['source']}, {data['num_training']:,} training and {data['num_heldout']:,} held-out images, "
            f"content hash {data['hash'][:12]}."
        )
    if protocol.get("truncation", 1) != 1:
        found.append(f"Latents were truncated to {protocol['truncation']:g}.")
    if copies:
        num, alarms = copies.get("num", protocol["num_generated"]), copies.get("false_alarms") or 0
        found.append(
            f"{num:,} generated images were searched for copies of training images after mirroring, shift, crop, "
            "rotation and changes of tone and colour, also as blends and collages of two training images (false-alarm "
            f"rate among real images {alarms:.2%})."
        )
    return " ".join(found)


def as_csv(evaluation: Record) -> str:
    """All measures, class results, copy rates and artefacts of an evaluation: one number with its interval per line."""
    rows: list[Record] = [{"part": "measures"} | row for row in evaluation.get("measures", [])]
    for one in (evaluation.get("classes") or {}).get("rows", []):
        share = {
            key: one.get(f"generated_{ending}")
            for key, ending in (("value", "share"), ("low", "low"), ("high", "high"))
        }
        rows.append({"part": "class share", "name": one["name"], "real": one["real_share"]} | share)
        rows += [
            {"part": f"class {key}", "name": one["name"], "value": one[key]}
            for key in ("kid", "agreement")
            if one.get(key) is not None
        ]
    for part in ("copies", "artefacts", "real_or_fake"):
        rows += _intervals(part, evaluation.get(part) or {})
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _intervals(part: str, content: Any, name: str = "") -> list[Record]:
    """Every value with an interval in nested content, named by its keys; shares of both kinds of images as well."""
    if isinstance(content, list):
        named = [(str(one.get("name", one.get("period", i))), one) for i, one in enumerate(content) if _is_record(one)]
    elif _is_record(content):
        if {"value", "low", "high"} <= content.keys():
            return [{"part": part, "name": name} | content]
        named = list(content.items())
    else:
        return []
    return [row for key, one in named for row in _intervals(part, one, f"{name} {key}".strip())]


def _is_record(content: Any) -> bool:
    return isinstance(content, dict)
