"""Gamma probe: short runs with 0.1, 1 and 10 times the penalty weight, compared by their scores.

The best weight depends on the images, not only on their size (Huang et al. 2024).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from ganvas.config import TrainConfig
from ganvas.data.batches import Batches
from ganvas.data.packing.pack import Pack
from ganvas.generator import Generator
from ganvas.run import Run
from ganvas.system.device import Device
from ganvas.training import loop
from ganvas.training.compiled import call_networks
from ganvas.training.plan import Plan
from ganvas.training.progress import Display
from ganvas.training.state import TrainState, info_of

_FACTORS = (0.1, 1.0, 10.0)
_SHARE = 0.05  # fraction of the budget for each run


def probe_gamma(planned: Plan, pack: Pack, device: Device, display: Display, examine: loop.Examine) -> Plan:
    """Returns the plan with the best of three penalty weights; the scores become the reason. One process only.

    Each weight is trained for an additional twentieth of the budget, with complete schedules.
    """
    weights = [float(f"{planned.config.r1 * factor:.2g}") for factor in _FACTORS]
    scores = []
    for weight in weights:
        config = _short(planned.config, weight)
        scores.append(_score(config, planned, pack, device, examine))
        display.say(f"  probe: r1 {weight:g} scores {scores[-1]:.4f} (lower is better) after {config.budget}")
    best = weights[scores.index(min(scores))]
    reason = "probed: " + ", ".join(f"{w:g} scores {s:.4f}" for w, s in zip(weights, scores, strict=True))
    choices = [
        dataclasses.replace(choice, value=best, reason=reason) if choice.name in ("r1", "r2") else choice
        for choice in planned.choices
    ]
    factor = best / planned.config.r1
    config = dataclasses.replace(planned.config, r1=best, r2=planned.config.r2 * factor)
    return dataclasses.replace(planned, config=config, choices=choices)


def _short(config: TrainConfig, weight: float) -> TrainConfig:
    """The same configuration with a twentieth of the budget and this penalty weight."""
    factor = weight / config.r1
    budget = {name: value * _SHARE for name in ("minutes", "epochs") if (value := getattr(config, name)) is not None}
    if config.images is not None:
        budget["images"] = max(config.batch, round(config.images * _SHARE))
    return dataclasses.replace(
        config, **budget, r1=weight, r2=config.r2 * factor, previews=1, snapshots=0, compile=False
    )


def _score(config: TrainConfig, planned: Plan, pack: Pack, device: Device, examine: loop.Examine) -> float:
    """Trains from scratch without writing files. Returns the score of the averaged generator."""
    quiet = Display(quiet=True)
    batches = Batches(pack, config.batch, seed=config.seed, device=device.torch_device, mirror=pack.mirror)
    state = TrainState(planned.model, config, batches, device)
    info = info_of(planned.model, pack)
    networks = call_networks(state, config, quiet.say)
    outcome = loop.train(state, networks, config, info, Run(Path("probe")), quiet, trial=True)
    if outcome.signal:
        raise KeyboardInterrupt
    if not loop.are_finite(state):
        return math.inf
    return examine(Generator(state.ema.average, info, state.device))["score"]
