"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and CodeCarbon (energy), each a thin `Callback`."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganvas.callbacks import Callback
from ganvas.errors import MissingExtraError
from ganvas.records import energy_of, write_energy
from ganvas.run import Run
from ganvas.training.card import write_card

_PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow", "energy": "codecarbon"}
_ENERGY_SECONDS = 15  # between two measurements of the power


def trackers(names: Sequence[str], folder: Path) -> list[Callback]:
    """The trackers of these names for the run `folder`. Raises MissingExtraError if a package is not installed."""
    return [TRACKERS[name](_library(name), folder) for name in dict.fromkeys(names)]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(_PACKAGES[name])
    except ImportError:
        package = "codecarbon" if name == "energy" else name
        raise MissingExtraError(package, "track" if name == "tensorboard" else name, f"--track {name}") from None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log line, except truth values."""
    return {name: float(one) for name, one in values.items() if type(one) in (int, float)}


def _hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a run (config.json) in one level: data/size, model/base, train/lr ..."""
    parts = {"data": config["data"].get("options") or {}, "model": config["model"], "train": config["train"]}
    given = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    return {name: one if isinstance(one, str | int | float) else str(one) for name, one in given.items()
            if one not in (None, [], ())}  # fmt: skip


class TensorBoard(Callback):
    """Event files in the folder tensorboard/ of the run: all numbers of the log, previews, options, last scores."""

    def __init__(self, package: Any, folder: Path) -> None:
        self.package, self.folder = package, folder / "tensorboard"
        self.options: dict[str, Any] = {}
        self.last: dict[str, float] = {}

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.writer = self.package.SummaryWriter(str(self.folder))
        self.options = _hyperparameters(config)

    def on_log(self, images_seen: int, values: Mapping[str, Any]) -> None:
        for name, value in _numbers(values).items():
            self.writer.add_scalar(name, value, images_seen)
            self.last[f"last/{name}"] = value

    def on_preview(self, images_seen: int, path: Path) -> None:
        with Image.open(path) as image:
            self.writer.add_image("preview", np.asarray(image.convert("RGB")), images_seen, dataformats="HWC")

    def on_end(self, images_seen: int) -> None:
        self.writer.add_hparams(self.options, self.last, run_name="options", global_step=images_seen)
        self.writer.close()


class WandB(Callback):
    """A run of Weights & Biases, named as the run folder; project and account from WANDB_PROJECT and `wandb login`.

    A resumed run continues its run there; runs of another start in a folder of the same name are others.
    """

    def __init__(self, package: Any, folder: Path) -> None:
        self.package, self.folder = package, folder

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        name = folder.resolve().name
        identity = hashlib.sha256(f"{name} {config.get('started')}".encode(errors="backslashreplace")).hexdigest()[:16]
        options = {"name": name, "id": identity, "dir": str(folder), "config": _hyperparameters(config)}
        self.run = self.package.init(resume="allow", **options)

    def on_log(self, images_seen: int, values: Mapping[str, Any]) -> None:
        self.run.log({**_numbers(values), "images": images_seen})

    def on_preview(self, images_seen: int, path: Path) -> None:
        self.run.log({"preview": self.package.Image(str(path)), "images": images_seen})

    def on_end(self, images_seen: int) -> None:
        self.run.finish()


class MLflow(Callback):
    """A run of MLflow, named as the run folder; server and experiment from MLFLOW_TRACKING_URI and
    MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, package: Any, folder: Path) -> None:
        self.package = package

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.package.start_run(run_name=folder.resolve().name)
        self.package.log_params(_hyperparameters(config))

    def on_log(self, images_seen: int, values: Mapping[str, Any]) -> None:
        self.package.log_metrics(_numbers(values), step=images_seen)

    def on_preview(self, images_seen: int, path: Path) -> None:
        self.package.log_artifact(str(path), "previews")

    def on_end(self, images_seen: int) -> None:
        self.package.end_run()


class Energy(Callback):
    """The energy of all sessions of a run, in its energy.json and in the model card.

    CodeCarbon measures processors and GPUs where the system allows it, and estimates the rest from their kind. It runs
    offline: no location is looked up and nothing is sent.
    """

    def __init__(self, package: Any, folder: Path) -> None:
        self.package, self.folder = package, folder

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.before = energy_of(folder)
        self.meter = self.package.OfflineEmissionsTracker(
            country_iso_code="USA",  # required; only emissions depend on it, which are not used
            measure_power_secs=_ENERGY_SECONDS,
            tracking_mode="process",
            allow_multiple_runs=True,
            save_to_file=False,
            log_level="error",
        )
        self.meter.start()

    def on_end(self, images_seen: int) -> None:
        self.meter.stop()
        spent = self.meter.final_emissions_data.energy_consumed
        write_energy(self.folder, (self.before or 0.0) + spent)
        write_card(Run(self.folder))


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "energy": Energy}
