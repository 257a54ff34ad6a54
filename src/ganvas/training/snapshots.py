"""Snapshots of the power-function averages: saved during training, combined to an EMA of any width afterwards."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch

from ganvas.config import TrainConfig
from ganvas.ema import WIDTHS, PowerAverages, combination
from ganvas.errors import ConfigError, RunError
from ganvas.generator import Generator
from ganvas.model_file import CONFIG
from ganvas.models import contract
from ganvas.models.batch_norm import measure_statistics
from ganvas.run import Run

_WIDEST = 0.28  # upper bound of the relative standard deviation; equal weights have 0.289


class Snapshots:
    """Writes `config.snapshots` pairs of averages to run/averages at equal intervals of the budget."""

    def __init__(self, run: Run, config: TrainConfig) -> None:
        self.run, self.num, self.written = run, config.snapshots, -1

    def due(self, progress: float) -> bool:
        """Whether the next pair is due. progress: fraction of the budget used."""
        place = int(self.num * progress)
        if self.written < 0:
            # At the start there is nothing to save. After resuming, pairs were saved, unless the run stopped before.
            self.written = min(place, self._pairs())
        return place > self.written

    def _pairs(self) -> int:
        """Number of pairs in the folder. One whose writing was interrupted is deleted."""
        complete = {file.parent.name.partition("-")[0] for file in self.run.averages.glob(f"*-{WIDTHS[-1]:g}/{CONFIG}")}
        for folder in self.run.averages.glob("*-*"):
            if folder.name.partition("-")[0] not in complete:
                shutil.rmtree(folder)
        return len(complete)

    def write(
        self, powers: PowerAverages[contract.Generator], like: Generator, images_seen: int, progress: float
    ) -> None:
        """like: generator of the run, for its configuration and classes."""
        self.written = int(self.num * progress)
        info = dataclasses.replace(like.info, images_seen=images_seen)
        for width, average in zip(WIDTHS, powers.averages, strict=True):
            Generator(average, info, like.device).save(self.run.averages / f"{images_seen:012d}-{width:g}")


def averaged(run: Path, width: float) -> Generator:
    """EMA of this width (0.01 to 0.28: standard deviation as a fraction of the training) from a run's snapshots.

    Raises ConfigError for other widths, RunError if the run has no snapshots.
    """
    if not 0.01 <= width <= _WIDEST:
        raise ConfigError(f"--width {width:g}: expected a number from 0.01 to {_WIDEST}")
    folders = sorted((run / "averages").glob("*-*"))
    if not folders:
        raise RunError(f"{run} has no weight snapshots: train with --snapshots 20")
    stored = [(float(one), float(other)) for one, _, other in (folder.name.partition("-") for folder in folders)]
    factors = combination(stored, width)
    result = Generator.load(folders[-1], device="cpu")
    total: dict[str, torch.Tensor] = {}
    for folder, factor in zip(folders, factors, strict=True):
        for name, weight in Generator.load(folder, device="cpu").network.named_parameters():
            total[name] = total.get(name, 0) + factor * weight.detach().double()
    result.network.load_state_dict(total, strict=False)
    measure_statistics(result.network, result.info.config, result.info.labels_in_turn)
    return result
