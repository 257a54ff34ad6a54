"""Ganvas trains generative adversarial networks on your own images.

    run = ganvas.train("pictures/", out="runs/mine", minutes=30)   # the same call again resumes
    gan = ganvas.Generator.load("runs/mine")
    gan.sample(16, seed=0)                                          # float32 (16, C, H, W) in [-1, 1]

Names are loaded when first used, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganvas.config import DataConfig, TrainConfig
    from ganvas.data.opening import open_pack
    from ganvas.data.packing.pack import Pack
    from ganvas.errors import GanvasError
    from ganvas.film import video
    from ganvas.generator import Generator
    from ganvas.verbs import directions, evaluate, favourites, interpolate, mix, project, sample, train

__version__ = "0.1.0"

# onnxruntime reads this when it is first imported, and without it sends telemetry to Microsoft. It is set here, since
# this file runs before all others of the package. Whoever wants the telemetry sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "DataConfig",
    "GanvasError",
    "Generator",
    "Pack",
    "TrainConfig",
    "directions",
    "evaluate",
    "favourites",
    "interpolate",
    "mix",
    "open_pack",
    "project",
    "sample",
    "train",
    "video",
]

_HOME = {
    "DataConfig": "ganvas.config",
    "GanvasError": "ganvas.errors",
    "Generator": "ganvas.generator",
    "Pack": "ganvas.data.packing.pack",
    "TrainConfig": "ganvas.config",
    "directions": "ganvas.verbs",
    "evaluate": "ganvas.verbs",
    "favourites": "ganvas.verbs",
    "interpolate": "ganvas.verbs",
    "mix": "ganvas.verbs",
    "open_pack": "ganvas.data.opening",
    "project": "ganvas.verbs",
    "sample": "ganvas.verbs",
    "train": "ganvas.verbs",
    "video": "ganvas.film",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ganvas' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
