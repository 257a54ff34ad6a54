"""torch.compile: tried on a real batch before training; falls back to the plain networks on failure."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import torch

from ganvas.config import TrainConfig
from ganvas.models import crops_of
from ganvas.models.batch_norm import forget_statistics
from ganvas.models.pretrained import ViewDiscriminator
from ganvas.system.device import is_out_of_memory
from ganvas.training.state import TrainState
from ganvas.training.step import Side, accumulate_gradients, at_size, augmentations_for, draw_inputs, phases
from ganvas.training.workers import Networks


def call_networks(state: TrainState, config: TrainConfig, say: Callable[[str], None]) -> Networks:
    """The networks for training: compiled if `config.compile` is set and compilation works."""
    plain = Networks(state.generator, state.discriminator, state.generator, state.discriminator)
    if not config.compile:
        return plain
    # A step may run backward through the discriminator twice (step.joint_gradients) and needs the buffers of the
    # forward pass; by default compiled code frees them in the first backward pass.
    functorch = importlib.import_module("torch._functorch.config")
    functorch.donated_buffer = False  # ty: ignore[invalid-assignment]
    compiled = dataclasses.replace(plain, generator=torch.compile(state.generator))
    frozen = state.discriminator.frozen if isinstance(state.discriminator, ViewDiscriminator) else None
    if frozen is not None:
        frozen.compile()  # most of the discriminator's time, and never differentiated twice
    else:
        compiled = dataclasses.replace(compiled, discriminator=torch.compile(state.discriminator))
    try:
        _try_out(compiled, state, config)
    except Exception as error:  # the compiler may raise anything
        if is_out_of_memory(error):  # the loop then uses smaller micro-batches
            return compiled
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        say(f"torch.compile failed on this machine ({reason[:120]}): continuing without it")
        torch._dynamo.reset()
        if frozen is not None:
            frozen._compiled_call_impl = None
        return plain
    return compiled


def _try_out(networks: Networks, state: TrainState, config: TrainConfig) -> None:
    """Computes the gradients of a step of each phase of the training, then restores the state.

    The compiler makes code for each phase, and so does not need the time of the budget for that.
    """
    policy = augmentations_for(state.batches.pack.kind, config)
    place = slice(state.batches.start, state.batches.stop)
    position = state.batches.state_dict()
    real, labels = next(state.batches)
    state.batches.load_state_dict(position)
    labels = labels if state.model.label_size else None
    noise = torch.Generator(state.device).manual_seed(0)
    generator = state.generator
    sizes = [size for size, _ in phases(generator)]
    sides: tuple[Side, ...] = ("both",) if config.update == "joint" else ("discriminator", "generator")
    buffers = [*state.generator.buffers(), *state.discriminator.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        with torch.random.fork_rng([state.device] if state.device.type == "cuda" else []):
            for generator.starting, generator.coarse in [(True, sizes[0]), *((False, size) for size in sizes)]:
                inputs = draw_inputs(
                    at_size(real, generator.coarse), labels, place, config, policy, state.augment.value, noise,
                    state.features_penalty.value, crops_of(state.discriminator),
                )  # fmt: skip
                for side in sides:
                    forget_statistics([generator])
                    accumulate_gradients(networks, inputs, config, policy, state.micro_batch, True, side, True)
    finally:
        generator.starting, generator.coarse = False, None
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        for optimizer in state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
