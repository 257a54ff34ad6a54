"""All that training needs to go on as if it had never stopped: one object, one checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ganvas.augment import AdaptiveProbability
from ganvas.config import ModelConfig, TrainConfig
from ganvas.data.batches import Batches
from ganvas.device import Device
from ganvas.ema import EMA, PowerAverages
from ganvas.models import build, channels_last

NOISE_SEED = 1_000_003  # latents must not repeat the random numbers that the weights were drawn from


class TrainState:
    """Networks, averages, optimisers, batches, random states and counters.

    generator, discriminator: the networks in training; `ema.average` is the generator that is shown and saved.
    powers: the averages that snapshots are taken of, where asked for. augment: the probability of augmentations.
    noise: the generator of latents and augmentations, the same on every rank (each takes its slice of the draws).
    images_seen, step: counters. seconds: training time over all sessions.
    rollbacks: how often a diverged training went back; each halves the learning rate.
    gradient_norms: of each network, before its last update; on the device.
    total_images: where the schedules end; with a budget in minutes an estimate that follows the measured speed.
    """

    def __init__(self, model: ModelConfig, config: TrainConfig, batches: Batches, device: Device) -> None:
        torch.manual_seed(config.seed)
        self.model, self.device = model, device.torch_device
        generator, discriminator = build(model)
        self.generator: nn.Module = channels_last(generator.to(self.device))
        self.discriminator: nn.Module = channels_last(discriminator.to(self.device))
        if config.style_mixing:
            self.generator.style_mixing = config.style_mixing  # ty: ignore[invalid-assignment]
        self.ema = EMA(self.generator)
        self.powers = PowerAverages(self.generator) if config.snapshots else None
        self.optimizers = {
            "generator": make_optimizer(self.generator, config),
            "discriminator": make_optimizer(self.discriminator, config),
        }
        self.augment = AdaptiveProbability(config.augment or 0.0, config.adaptive_target, self.device)
        self.batches = batches
        self.noise = torch.Generator(self.device).manual_seed(config.seed + NOISE_SEED)
        self.images_seen = 0
        self.step = 0
        self.seconds = 0.0
        self.total_images = 0
        self.micro_batch = config.micro_batch or config.batch or 1
        self.best_score = float("inf")
        self.rollbacks = 0
        self.gradient_norms: dict[str, torch.Tensor] = {}

    COUNTERS = ("images_seen", "step", "seconds", "total_images", "micro_batch", "best_score", "rollbacks")

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "batches": self.batches.state_dict(),
            "augment": self.augment.state_dict(),
            "noise": self.noise.get_state(),
            "rng": {"cpu": torch.get_rng_state()},
            "counters": {name: getattr(self, name) for name in self.COUNTERS},
        }
        if self.powers is not None:
            state["powers"] = [average.state_dict() for average in self.powers.averages]
        if self.device.type == "cuda":
            state["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            state["rng"]["mps"] = torch.mps.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.average.load_state_dict(state["ema"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.batches.load_state_dict(state["batches"])
        self.augment.load_state_dict(state["augment"])
        if self.powers is not None:
            for average, kept in zip(self.powers.averages, state["powers"], strict=True):
                average.load_state_dict(kept)
        self.noise.set_state(state["noise"].cpu())
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        if "cuda" in state["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"].cpu(), self.device)
        if "mps" in state["rng"] and self.device.type == "mps":
            torch.mps.set_rng_state(state["rng"]["mps"].cpu())
        for name in self.COUNTERS:
            setattr(self, name, state["counters"][name])


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of `config` for this network; its rate is set before every step (step.learning_rate)."""
    parameters, rate = [*network.parameters()], config.lr or 0.0
    match config.optimizer:
        case "adam" | "adamw":
            kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
            betas, decay = (config.beta1 or 0.0, config.beta2 or 0.0), config.weight_decay or 0.0
            return kind(parameters, lr=rate, betas=betas, eps=1e-8, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters, lr=rate, alpha=config.beta2 or 0.0, momentum=config.momentum or 0.0, foreach=True
            )
        case _:
            return torch.optim.SGD(
                parameters,
                lr=rate,
                momentum=config.momentum or 0.0,
                weight_decay=config.weight_decay or 0.0,
                foreach=True,
            )
