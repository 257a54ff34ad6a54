"""Files with the options of a training: TOML files, and the config.json of a run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganvas.config import BUDGET_FIELDS, DataConfig, TrainBasics, TrainOptions
from ganvas.errors import ConfigError, did_you_mean
from ganvas.fields import choices, fits, hints_of, meanings, owners
from ganvas.options import FromImages, Train
from ganvas.run_config import RunConfig

_EXCLUDED = ("config", "dry_run", "quiet", "callbacks")  # options that a file cannot have
_HEAD = """# Options of a training with Ganvas: ganvas train --config {name}
# Remove the # in front of an option to set it. Options on the command line take precedence.
"""
_TITLES = {"Run": (Train, FromImages), "Images": (DataConfig,), "Training": (TrainBasics,),
          "For experts": (TrainOptions,)}  # fmt: skip


def _values_of(path: str | Path) -> dict[str, Any]:
    """The options of `ganvas.train` in a file: a TOML file, or the config.json of a run (also the run folder).

    Raises ConfigError for a file that cannot be read, an unknown option or a value of another type.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        expected = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"--config {path} is not a valid {expected} file: {error}") from error
    if isinstance(values, dict) and isinstance(values.get("asked"), dict):
        config = RunConfig.from_dict(values, f"--config {path}")
        values = {"source": config.data.source} | config.wanted()
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: expected options by name, such as minutes = 30")
    hints = {name: hint for name, hint in hints_of(Train).items() if name not in _EXCLUDED}
    for name, value in values.items():
        if name not in hints:
            near = did_you_mean(name, [*hints]) or ": see `ganvas init`"
            raise ConfigError(f"--config {path}: unknown option {name!r}{near}")
        if not fits(value, hints[name]) and not (choices(hints[name]) and isinstance(value, str)):
            raise ConfigError(f"--config {path}: {name} = {value!r:.40} has the wrong type; {meanings(Train)[name]}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def from_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the file of the option `config`, for a call with the options `given`. A budget that is given
    replaces that of the file, also in another unit."""
    if given.get("config") is None:
        return {}
    replaced = BUDGET_FIELDS if set(given).intersection(BUDGET_FIELDS) else ()
    return {name: value for name, value in _values_of(given["config"]).items() if name not in replaced}


def template(name: str, source: str | None) -> str:
    """A TOML file with all options of `train`, grouped as in the help; all but `source` and `minutes` as comments."""
    owner, told = owners(Train), meanings(Train)
    lines = [_HEAD.format(name=name)]
    for title, classes in _TITLES.items():
        lines.append(f"# ---- {title} ----\n")
        for field in (name for name in hints_of(Train) if owner[name] in classes and name not in _EXCLUDED):
            value = {"source": source, "minutes": 10}.get(field)
            lines += [
                f"# {told[field]}",
                f"{field} = {_toml(value)}" if value else f"# {field} = {_example(field)}",
                "",
            ]
    return "\n".join(lines)


def _example(name: str) -> str:
    """A value of an option of `train`, as TOML."""
    default = getattr(Train(source=""), name)
    if default not in (None, (), ""):
        return _toml(default)
    hint = str(hints_of(owners(Train)[name])[name])
    if allowed := choices(hints_of(owners(Train)[name])[name]):
        return _toml([allowed[0]] if "tuple" in hint else allowed[0])
    return "[]" if "tuple" in hint else '""' if "str" in hint else "true" if "bool" in hint else "0"


def _toml(value: Any) -> str:
    """A text, number, truth value or list of texts as TOML, which writes these as JSON does."""
    return json.dumps(value, ensure_ascii=False)
