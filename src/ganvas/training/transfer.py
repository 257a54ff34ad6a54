"""Starting from another run: every tensor that fits is taken over, and what does not is named."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig, from_dict
from ganvas.errors import CheckpointError, ConfigError
from ganvas.generator import Generator, find_weights
from ganvas.run import Run
from ganvas.training.state import TrainState

KNOWN = ("model", "z_dim", "base", "widest", "blocks", "magnitude", "spectral_norm", "discriminator")
"""Options of the networks that a run takes over from the one it starts from."""

LEAST = 0.2  # part of the generator's tensors that must fit, or it is a start from scratch by another name

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Origin:
    """The networks to start from; discriminator is None where only a model folder is left."""

    place: Path
    model: ModelConfig
    generator: Tensors
    discriminator: Tensors | None

    def options(self, height: int) -> dict[str, Any]:
        """Options of networks for images of this height that fit: half the finest maps for twice the height.

        Widths double from fine to coarse, so that the coarse stages are then the same, and a finer one is added.
        """
        known = {name: getattr(self.model, name) for name in KNOWN}
        return known | {"base": max(1, self.model.base >> stages_added(self.model.height, height))}


def stages_added(before: int, after: int) -> int:
    """How many finer stages a network for images of the height `after` has."""
    return max(0, round(math.log2(after / before)))


def open_origin(place: Path) -> Origin:
    """Reads a run's newest checkpoint (averaged generator, discriminator), or a model folder's generator.

    Raises CheckpointError when nothing usable is there.
    """
    place = place.resolve()
    if (place / "config.json").is_file() and (place / "checkpoints").is_dir():
        run = Run(place, writes=False)
        state = run.load_checkpoint(lambda _: None, torch.device("cpu"), repair=False)
        if state is not None:
            model = from_dict(ModelConfig, run.config()["model"], str(place / "config.json"))
            return Origin(place, model, tensors_of(state, "ema", place), tensors_of(state, "discriminator", place))
    loaded = Generator.load(find_weights(place), device="cpu")
    return Origin(place, loaded.info.config, loaded.network.state_dict(), None)


def tensors_of(state: Any, name: str, place: Path) -> Tensors:
    """The tensors of one network in a checkpoint; raises CheckpointError where it has none."""
    tensors = state.get(name) if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"--from {place}: its newest checkpoint is not one of Ganvas: choose another run")
    return tensors


def take_over(state: TrainState, origin: Origin) -> list[str]:
    """Copies what fits into both networks and the average; returns the report, a line each.

    Raises ConfigError when the architecture is another one, or next to nothing fits.
    """
    if origin.model.model != state.model.model:
        raise ConfigError(
            f"--from {origin.place} is a {origin.model.model!r} network and this run is {state.model.model!r}: "
            f"leave --model out or say --model {origin.model.model}"
        )
    lines = []
    for name, tensors in (("generator", origin.generator), ("discriminator", origin.discriminator)):
        if tensors is None:
            lines.append(f"{name}: not in {origin.place}, starts anew")
            continue
        network: nn.Module = getattr(state, name)
        mine = network.state_dict()
        channels = (origin.model.channels, state.model.channels)
        # Generators count their stages from the coarse end, discriminators from the fine one, where stages are added.
        added = stages_added(origin.model.height, state.model.height) if name == "discriminator" else 0
        taken: Tensors = {}
        for key, own in mine.items():
            for source in dict.fromkeys([shifted(key, added), key]):
                if source in tensors and (fitted := fit(tensors[source], own, channels)) is not None:
                    taken[key] = fitted
                    break
        if name == "generator" and len(taken) < LEAST * len(mine):
            raise ConfigError(
                f"--from {origin.place}: hardly a tensor of its {name} fits this run's, which has other widths: "
                "leave --base, --widest, --blocks and --z-dim out"
            )
        network.load_state_dict(taken, strict=False)
        lines.append(describe(name, mine, tensors, taken))
    state.ema.average.load_state_dict(state.generator.state_dict())
    if state.powers is not None:
        for average in state.powers.averages:
            average.load_state_dict(state.generator.state_dict())
    return lines


def shifted(key: str, stages: int) -> str:
    """A tensor's name with its first index, that of a stage, lower by so many."""
    return re.sub(r"\.(\d+)", lambda match: f".{int(match[1]) - stages}", key, count=1)


def describe(name: str, mine: Tensors, theirs: Tensors, taken: Tensors) -> str:
    changed = sorted(key for key in taken if key in theirs and theirs[key].shape != mine[key].shape)
    fresh = sorted(mine.keys() - taken.keys())
    line = f"{name}: {len(taken)} of {len(mine)} tensors taken over"
    if changed:
        line += f", {len(changed)} of them adapted ({', '.join(changed[:4])})"
    if fresh:
        line += f"; {len(fresh)} start anew ({', '.join(fresh[:4])}{', ...' if len(fresh) > 4 else ''})"
    return line


def fit(theirs: Tensor, mine: Tensor, channels: tuple[int, int]) -> Tensor | None:
    """Their tensor in my shape: as it is, a first or last layer for other channels, a grid resampled, or None.

    channels: of their images and of mine.
    """
    if theirs.shape == mine.shape:
        return theirs
    if theirs.dim() != mine.dim():
        return None
    different = [i for i, sides in enumerate(zip(theirs.shape, mine.shape, strict=True)) if sides[0] != sides[1]]
    if different in ([0], [1]) and set(channels) == {1, 3}:
        return for_channels(theirs, mine, different[0], channels)
    last_two = {theirs.dim() - 2, theirs.dim() - 1}
    if theirs.dim() >= 3 and set(different) <= last_two:
        return for_grid(theirs, mine)
    return None


def for_channels(theirs: Tensor, mine: Tensor, dim: int, channels: tuple[int, int]) -> Tensor | None:
    """Gray to colour or back, in a layer whose dimension `dim` counts channels (times the places of a shuffle).

    An output (dim 0) is repeated, or averaged; an input (dim 1) is shared out, or summed, so that a gray image gives
    the same number either way.
    """
    before, after = channels
    places, rest = divmod(theirs.shape[dim], before)
    if rest or mine.shape[dim] != places * after:
        return None
    split = theirs.unflatten(dim, (before, places))
    if after > before:
        split = split.repeat_interleave(after, dim) / (after if dim == 1 else 1)
    else:
        split = split.sum(dim, keepdim=True) / (before if dim == 0 else 1)
    return split.flatten(dim, dim + 1)


def for_grid(theirs: Tensor, mine: Tensor) -> Tensor:
    """A learned grid (..., h, w) at another start size; a layer's weight over the grid (4-d) keeps its sum."""
    flat = theirs.reshape(1, -1, *theirs.shape[-2:]).float()
    size = (mine.shape[-2], mine.shape[-1])
    resampled = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    if mine.dim() == 4:
        resampled = resampled * (theirs.shape[-2] * theirs.shape[-1] / (size[0] * size[1]))
    return resampled.reshape(mine.shape).to(mine.dtype)
