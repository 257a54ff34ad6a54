"""Ganvas trains generative adversarial networks on your own images.

    run = ganvas.train("images/", out="runs/mine", minutes=30)   # the same call again resumes
    gan = ganvas.Generator.from_pretrained("runs/mine")
    gan.sample(16, seed=0)                                        # float32 (16, C, H, W) in [-1, 1]

Names are loaded when first used, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganvas.callbacks import Callback
    from ganvas.config import DataConfig, TrainConfig, TrainOptions
    from ganvas.data.opening import open_pack
    from ganvas.data.packing.pack import Pack
    from ganvas.data_verbs import check, pack
    from ganvas.datasets import SyntheticDataset
    from ganvas.errors import GanvasError
    from ganvas.explore.verbs import directions, favourites, interpolate, mix, project, sample
    from ganvas.generator import Generator
    from ganvas.hub import pull
    from ganvas.provenance import read_provenance
    from ganvas.reporting import report
    from ganvas.results import Evaluation
    from ganvas.run import Run
    from ganvas.share.publish import publish
    from ganvas.share.signing import sign
    from ganvas.share.upload import push
    from ganvas.verbs import Trained, average, evaluate, export, init, train, video

__version__ = "0.1.0"

# onnxruntime reads this when it is first imported, and without it sends telemetry to Microsoft. It is set here, since
# this file runs before all others of the package. Whoever wants the telemetry sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Callback": "callbacks",
    "DataConfig": "config",
    "Evaluation": "results",
    "GanvasError": "errors",
    "Generator": "generator",
    "Pack": "data.packing.pack",
    "Run": "run",
    "SyntheticDataset": "datasets",
    "TrainConfig": "config",
    "TrainOptions": "config",
    "Trained": "verbs",
    "average": "verbs",
    "check": "data_verbs",
    "directions": "explore.verbs",
    "evaluate": "verbs",
    "export": "verbs",
    "favourites": "explore.verbs",
    "init": "verbs",
    "interpolate": "explore.verbs",
    "mix": "explore.verbs",
    "open_pack": "data.opening",
    "pack": "data_verbs",
    "project": "explore.verbs",
    "publish": "share.publish",
    "pull": "hub",
    "push": "share.upload",
    "read_provenance": "provenance",
    "report": "reporting",
    "sample": "explore.verbs",
    "sign": "share.signing",
    "train": "verbs",
    "video": "verbs",
}

__all__ = [
    "Callback",
    "DataConfig",
    "Evaluation",
    "GanvasError",
    "Generator",
    "Pack",
    "Run",
    "SyntheticDataset",
    "TrainConfig",
    "TrainOptions",
    "Trained",
    "average",
    "check",
    "directions",
    "evaluate",
    "export",
    "favourites",
    "init",
    "interpolate",
    "mix",
    "open_pack",
    "pack",
    "project",
    "publish",
    "pull",
    "push",
    "read_provenance",
    "report",
    "sample",
    "sign",
    "train",
    "video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ganvas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ganvas.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
