"""torch.compile where it works: tried once on one picture before training, with a clean way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from ganvas.config import TrainConfig
from ganvas.models.pretrained import FeatureDiscriminator
from ganvas.training.state import TrainState
from ganvas.training.workers import Networks


def call_networks(state: TrainState, config: TrainConfig, say: Callable[[str], None]) -> Networks:
    """The networks as training will call them: compiled when `config.compile`, and when that works."""
    plain = Networks(state.generator, state.discriminator, state.generator, state.discriminator)
    if not config.compile:
        return plain
    compiled = dataclasses.replace(plain, generator=torch.compile(state.generator))
    if isinstance(state.discriminator, FeatureDiscriminator):
        state.discriminator.frozen.compile()  # nearly all of its time, and never differentiated twice
    else:
        compiled = dataclasses.replace(compiled, discriminator=torch.compile(state.discriminator))
    try:
        try_out(compiled, state)
    except Exception as error:  # whatever a compiler tool chain may raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        say(f"torch.compile does not work here ({reason[:120]}): going on without it")
        torch._dynamo.reset()
        return plain
    return compiled


def try_out(networks: Networks, state: TrainState) -> None:
    """One forward and backward pass of both networks; leaves no gradient behind."""
    model = state.model
    z = torch.zeros(2, model.z_dim, device=state.device)
    labels = torch.zeros(2, dtype=torch.int64, device=state.device) if model.num_classes else None
    networks.discriminator(networks.generator(z, labels), labels).sum().backward()
    for optimizer in state.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
