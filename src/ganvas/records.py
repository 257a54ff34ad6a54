"""evaluation.json, as everything that shows an evaluation reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganvas import files
from ganvas.errors import RunError

PARTS = ("model", "data", "protocol")  # parts that every evaluation has
ARROWS = {"lower": "↓", "higher": "↑", "near": "≈"}
"""Sign for the field `better` of a measure: lower or higher is better, or closer to real images."""


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """evaluation.json of a folder; None if there is none. Raises RunError if it is damaged or of another version."""
    path = folder / "evaluation.json"
    again = f"run `ganvas evaluate {folder}` again"
    try:
        found = files.parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is damaged: {again}") from error
    if not isinstance(found, dict) or found.get("format") != 1:
        raise RunError(f"{path} is not an evaluation of format 1: {again}")
    if not (isinstance(found.get("measures"), list) and all(isinstance(found.get(part), dict) for part in PARTS)):
        raise RunError(f"{path} is damaged: {again}")
    return found


def is_of(evaluation: dict[str, Any], weights: Path) -> bool:
    """Whether an evaluation used this weights file."""
    return evaluation["model"].get("weights") == files.sha256(weights)[:8]
