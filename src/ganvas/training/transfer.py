"""Starting from another run: copies every tensor that fits and lists those that do not."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.errors import CheckpointError, ConfigError
from ganvas.generator import Generator
from ganvas.model_file import find_weights
from ganvas.models import architecture_of
from ganvas.run import Run
from ganvas.training.state import TrainState

_KNOWN = ("model", "z_dim", "base", "widest", "blocks", "spectral_norm", "discriminator")
"""Network options copied from the run to start from."""

_LEAST = 0.2  # minimum fraction of the generator's tensors that must fit

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Origin:
    """The networks to start from. discriminator: None if `place` is a model folder."""

    place: Path
    model: ModelConfig
    generator: Tensors
    discriminator: Tensors | None

    def options(self, height: int) -> dict[str, Any]:
        """Network options for images of this height that fit.

        Widths double from fine to coarse: with half of `base` for each doubling of the finest grid, coarse grids match.
        """
        known = {name: getattr(self.model, name) for name in _KNOWN}
        based_on = architecture_of(self.model.model).based_on
        added = _stages_added(based_on(self.model.height), based_on(height))
        return known | {"base": max(1, self.model.base >> added)}


def _stages_added(before: int, after: int) -> int:
    """Number of additional fine stages of a network for images of height `after`."""
    return max(0, round(math.log2(after / before)))


def open_origin(place: Path) -> Origin:
    """Reads the newest checkpoint of a run (averaged generator, discriminator), or the generator of a model folder.

    Raises CheckpointError if neither can be read.
    """
    place = place.resolve()
    if (place / "config.json").is_file() and (place / "checkpoints").is_dir():
        run = Run(place, writes=False)
        state = run.load_checkpoint(lambda _: None, torch.device("cpu"), repair=False)
        if state is not None:
            model = run.config().model
            return Origin(place, model, _tensors_of(state, "ema", place), _tensors_of(state, "discriminator", place))
    loaded = Generator.load(find_weights(place), device="cpu")
    return Origin(place, loaded.info.config, loaded.network.state_dict(), None)


def _tensors_of(state: Any, name: str, place: Path) -> Tensors:
    """The tensors of one network in a checkpoint. Raises CheckpointError if there are none."""
    tensors = state.get(name) if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"--from {place}: its newest checkpoint was not written by Ganvas: choose another run")
    return tensors


def take_over(state: TrainState, origin: Origin) -> list[str]:
    """Copies tensors that fit to both networks and the average. Returns a report, one line per network.

    Raises ConfigError for another architecture, or if almost no tensor fits.
    """
    if origin.model.model != state.model.model:
        raise ConfigError(
            f"--from {origin.place} is a {origin.model.model!r} network and this run is {state.model.model!r}: "
            f"omit --model, or use --model {origin.model.model}"
        )
    lines = []
    for name, tensors in (("generator", origin.generator), ("discriminator", origin.discriminator)):
        if tensors is None:
            lines.append(f"{name}: not in {origin.place}, starts from new weights")
            continue
        network: nn.Module = getattr(state, name)
        mine = network.state_dict()
        channels = (origin.model.channels, state.model.channels)
        # Stages are added at the fine end; generators count them from coarse to fine, discriminators the other way.
        added = _stages_added(origin.model.height, state.model.height) if name == "discriminator" else 0
        taken: Tensors = {}
        for key, own in mine.items():
            for source in dict.fromkeys([_shifted(key, added), key]):
                if source in tensors and (fitted := fit(tensors[source], own, channels)) is not None:
                    taken[key] = fitted
                    break
        if name == "generator" and len(taken) < _LEAST * len(mine):
            raise ConfigError(
                f"--from {origin.place}: almost no tensor of its {name} fits, because the layer widths differ: "
                "omit --base, --widest, --blocks and --z-dim"
            )
        network.load_state_dict(taken, strict=False)
        lines.append(_describe(name, mine, tensors, taken))
    for average in state.averages:
        average.load_state_dict(state.generator.state_dict())
    return lines


def _shifted(key: str, stages: int) -> str:
    """The tensor name with its first index (the stage) reduced by `stages`."""
    return re.sub(r"\.(\d+)", lambda match: f".{int(match[1]) - stages}", key, count=1)


def _describe(name: str, mine: Tensors, theirs: Tensors, taken: Tensors) -> str:
    changed = sorted(key for key in taken if key in theirs and theirs[key].shape != mine[key].shape)
    fresh = sorted(mine.keys() - taken.keys())
    line = f"{name}: {len(taken)} of {len(mine)} tensors copied"
    if changed:
        line += f", {len(changed)} of them adapted ({', '.join(changed[:4])})"
    if fresh:
        line += f"; {len(fresh)} start from new weights ({', '.join(fresh[:4])}{', ...' if len(fresh) > 4 else ''})"
    return line


def fit(theirs: Tensor, mine: Tensor, channels: tuple[int, int]) -> Tensor | None:
    """`theirs` in the shape of `mine`: unchanged, converted to other image channels, resampled, or None if impossible.

    channels: image channels (theirs, mine).
    """
    if theirs.shape == mine.shape:
        return theirs
    if theirs.dim() != mine.dim():
        return None
    different = [i for i, sides in enumerate(zip(theirs.shape, mine.shape, strict=True)) if sides[0] != sides[1]]
    if different in ([0], [1]) and set(channels) == {1, 3}:
        return _for_channels(theirs, mine, different[0], channels)
    last_two = {theirs.dim() - 2, theirs.dim() - 1}
    if theirs.dim() >= 3 and set(different) <= last_two:
        return _for_grid(theirs, mine)
    return None


def _for_channels(theirs: Tensor, mine: Tensor, dim: int, channels: tuple[int, int]) -> Tensor | None:
    """Gray to colour or back, for a layer whose dimension `dim` is channels (times the positions of a pixel shuffle).

    Outputs (dim 0) are repeated or averaged; inputs (dim 1) are divided or summed, so that a gray image gives
    the same result in both forms.
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


def _for_grid(theirs: Tensor, mine: Tensor) -> Tensor:
    """Resamples a learned grid (..., h, w) to another start size; 4-d layer weights over the grid keep their sum."""
    flat = theirs.reshape(1, -1, *theirs.shape[-2:]).float()
    size = (mine.shape[-2], mine.shape[-1])
    resampled = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    if mine.dim() == 4:
        resampled = resampled * (theirs.shape[-2] * theirs.shape[-1] / (size[0] * size[1]))
    return resampled.reshape(mine.shape).to(mine.dtype)
