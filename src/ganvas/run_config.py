"""The content of a run's config.json: its images, what was asked of the training, and what was chosen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ganvas.config import DataConfig, Kind, ModelConfig, TrainConfig, TrainOptions
from ganvas.fields import changed, from_dict

_Training = TypeVar("_Training", bound=TrainOptions)

_DROPPED: dict[str, Any] = {
    "adaptive_target": 0.6,
    "clip": 0.0,
    "ema_ramp": 0.2,
    "label_smoothing": 0.0,
    "magnitude": False,
    "penalty": "exact",
    "reconstruction": 0.0,
    "tensorboard": False,
}
"""Options that no longer exist, with the value that training now always uses: `read_training` ignores them."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The images of a run."""

    source: str
    """As it was given: a folder, an archive, a pack or the name of a data set."""
    pack: str
    """Folder of the pack; it may be gone."""
    hash: str
    """Of the pack."""
    num_images: int
    """With the held-out ones."""
    num_heldout: int = 0
    size: str
    """Height x width."""
    channels: int
    kind: Kind | None = None
    licence: str | None = None
    attribution: str | None = None
    options: DataConfig = field(default_factory=DataConfig)
    # Not in runs of ganvas 0.1.0:
    fingerprint: str | None = None
    levels: list[int | float] = field(default_factory=list)
    labels: list | None = None
    """Names of the classes, or name, kind and values of each column of conditions."""
    grown: list[dict] = field(default_factory=list)
    """Each time that images were added: time, images seen, and the images before (from) and after (to)."""

    @property
    def num_training(self) -> int:
        return self.num_images - self.num_heldout


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The content of config.json."""

    name: str = ""
    titled: bool = False
    """Whether the user chose the name; otherwise it is that of the folder."""
    ganvas: str = ""
    """Version that started the run."""
    started: str = ""
    start: str | None = None
    """What the weights started from; see training/starting_weights.py."""
    budget: str = ""
    device: str = ""
    data: RunData
    model: ModelConfig
    asked: TrainOptions
    train: TrainConfig
    reasons: dict = field(default_factory=dict)
    """Of the options that the plan chose, by name."""
    checksum: str = ""
    """See `options_hash`; "" in runs of ganvas 0.1.0."""

    @classmethod
    def from_dict(cls, values: Any, where: str) -> RunConfig:
        """The object for the content of a file, also of earlier versions.

        Raises ConfigError, with `where` in the message, for anything else.
        """
        if isinstance(values, dict):
            training = {"asked": TrainOptions, "train": TrainConfig}
            values = values | {
                part: read_training(kind, values[part], where) for part, kind in training.items() if part in values
            }
        return from_dict(cls, values, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the checksum."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        return values | {"checksum": options_hash(values)}

    def wanted(self) -> dict[str, Any]:
        """Every option that was given for the images and the training, by name."""
        return changed(self.data.options) | changed(self.asked)


def options_hash(values: dict[str, Any]) -> str:
    """SHA-256 of the parts of a config.json that determine how a run is resumed."""
    parts = {name: values.get(name) for name in ("model", "asked", "train", "start")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_training(cls: type[_Training], values: Any, where: str) -> _Training:
    """TrainOptions or TrainConfig from plain JSON values, also of earlier versions.

    Raises ConfigError, with `where` in the message, for unknown names and wrong values.
    """
    if isinstance(values, dict):
        values = {
            name: one for name, one in values.items() if name not in _DROPPED or one not in (None, _DROPPED[name])
        }
        if values.pop("tensorboard", False):
            values["track"] = ["tensorboard"]
        required = {field.name for field in dataclasses.fields(cls) if field.default is not None}
        values = {name: one for name, one in values.items() if one is not None or name not in required}
    return from_dict(cls, values, where)
