"""The complete training state; a checkpoint of it resumes training bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ganvas.augment import TARGET, AdaptiveProbability
from ganvas.config import ModelConfig, TrainConfig
from ganvas.data.batches import Batches, images_at, spaced
from ganvas.data.packing.pack import Pack
from ganvas.ema import EMA, PowerAverages
from ganvas.model_file import ModelInfo, labels_in_turn
from ganvas.models import build, channels_last, crops_of
from ganvas.models.batch_norm import has_statistics, measure_statistics
from ganvas.models.contract import Discriminator, Generator, StyledGenerator
from ganvas.models.pretrained import CALIBRATION, ViewDiscriminator
from ganvas.system.device import Device

_NOISE_SEED = 1_000_003  # offset, so that latents differ from the random numbers used for the weights


class TrainState:
    """Networks, averages, optimisers, batches, random states and counters.

    generator, discriminator: the networks in training; `ema.average` is the generator for previews and the model.
    powers: the averages for snapshots, if enabled. augment: probability of augmentations.
    noise: random generator of latents and augmentations, equal on all ranks (each uses its slice of the numbers).
    images_seen, step: counters. seconds: training time over all sessions.
    micro_batch, penalty_micro_batch: images of a pass without and with penalties; smaller where memory ran out.
    workers: threads that share each batch; 0: not chosen yet, or only the main thread.
    rollbacks: number of returns to a checkpoint after divergence; each halves the learning rate.
    restarts: number of automatic restarts because of identical images; each halves the learning rate.
    fitted_again: 1 after `latents.fit_latents_again`.
    gradient_norms: gradient norm of each network before its last update; on the device.
    total_images: end of the schedules, in images; for a budget in minutes an estimate from the measured speed.
    """

    def __init__(self, model: ModelConfig, config: TrainConfig, batches: Batches, device: Device) -> None:
        torch.manual_seed(config.seed)
        self.model, self.config, self.device = model, config, device.torch_device
        generator, discriminator = build(model)
        self.generator: Generator = channels_last(generator.to(self.device))
        self.discriminator: Discriminator = channels_last(discriminator.to(self.device))
        pack = batches.pack
        if isinstance(self.discriminator, ViewDiscriminator):
            self.discriminator.calibrate(images_at(pack, spaced(pack.training, CALIBRATION)).to(self.device))
        if isinstance(self.generator, StyledGenerator):
            self.generator.style_mixing = config.style_mixing
        self.ema = EMA(self.generator)
        self.powers = PowerAverages(self.generator) if config.snapshots else None
        self.optimizers = {
            "generator": make_optimizer(self.generator, config),
            "discriminator": make_optimizer(self.discriminator, config),
        }
        self.augment = AdaptiveProbability(config.augment, TARGET, self.device)
        self.features_penalty = FeaturesPenalty(
            config.r1_features, config.features_lead, self.device, 1 + crops_of(self.discriminator)
        )
        self.batches = batches
        self.noise = torch.Generator(self.device).manual_seed(config.seed + _NOISE_SEED)
        self.images_seen = 0
        self.step = 0
        self.seconds = 0.0
        self.total_images = 0
        self.micro_batch = self.penalty_micro_batch = config.micro_batch or config.batch
        self.workers = config.workers or 0
        self.best_score = float("inf")
        self.rollbacks = 0
        self.restarts = 0
        self.fitted_again = 0
        self.gradient_norms: dict[str, torch.Tensor] = {}

    COUNTERS = (
        "images_seen",
        "step",
        "seconds",
        "total_images",
        "micro_batch",
        "penalty_micro_batch",
        "workers",
        "best_score",
        "rollbacks",
        "restarts",
        "fitted_again",
    )

    def start_again(self) -> None:
        """Resets weights (from another seed), optimisers and averages; halves the learning rate. Counters continue."""
        self.restarts += 1
        torch.manual_seed(self.config.seed + 1000 * self.restarts)
        generator, discriminator = build(self.model)
        self.generator.load_state_dict(generator.state_dict())
        self.measure_generator()
        fresh = discriminator.state_dict()
        kept = self.discriminator.state_dict()
        learning = {name for name, _ in discriminator.named_parameters()}
        self.discriminator.load_state_dict({name: fresh[name] if name in learning else kept[name] for name in kept})
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        for average in self.averages:
            average.load_state_dict(self.generator.state_dict())

    def measure_generator(self) -> None:
        """Sets the running statistics of the trained generator, to be called before the first step."""
        self.measure(self.generator)
        self.generator.train()

    def measure_averages(self) -> None:
        """Sets the running statistics of the averages, to be called before they are used."""
        for average in self.averages:
            self.measure(average)

    def measure(self, generator: Generator) -> None:
        """Sets the running statistics of a generator of this training; leaves it in evaluation mode."""
        measure_statistics(generator, self.model, self.labels_in_turn)

    @property
    def averages(self) -> list[Generator]:
        """All averages of the generator's weights."""
        return [self.ema.average, *(self.powers.averages if self.powers is not None else ())]

    @property
    def labels_in_turn(self) -> torch.Tensor | None:
        """See `model_file.labels_in_turn`."""
        return labels_in_turn(self.model, self.batches.pack.schema)

    @property
    def augmentation(self) -> torch.Tensor:
        """Probability of augmentations now, a tensor () on the device."""
        return self.augment.value * self.augmentation_share

    @property
    def augmentation_share(self) -> float:
        """0 in the first epochs, in which images are new and not memorised, then rising to 1 (`augment_after`)."""
        after = self.config.augment_after
        epochs = self.images_seen / self.batches.pack.num_training
        return min(1.0, max(0.0, epochs / after - 1)) if after else 1.0

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "batches": self.batches.state_dict(),
            "augment": self.augment.state_dict(),
            "features_penalty": self.features_penalty.state_dict(),
            "noise": self.noise.get_state(),
            "rng": {"cpu": torch.get_rng_state()},
            "counters": {name: getattr(self, name) for name in self.COUNTERS},
            "machine": self.machine(),
        }
        if self.powers is not None:
            state["powers"] = [average.state_dict() for average in self.powers.averages]
        if self.device.type == "cuda":
            state["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            state["rng"]["mps"] = torch.mps.get_rng_state()
        return state

    def machine(self) -> dict[str, Any]:
        """Settings that affect rounding: a run resumed with other values is not bit-exact."""
        config = self.config
        return {"device": self.device.type, "precision": config.precision, "micro-batch": config.micro_batch}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Returns the differences to the machine of the checkpoint; empty: training continues bit for bit."""
        self.generator.load_state_dict(state["generator"])
        if not has_statistics(self.generator):  # runs of older versions have none
            self.measure_generator()
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.average.load_state_dict(state["ema"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.batches.load_state_dict(state["batches"])
        self.augment.load_state_dict(state["augment"])
        if "features_penalty" in state:  # not in runs of ganvas 0.1.0
            self.features_penalty.load_state_dict(state["features_penalty"])
        if self.powers is not None:
            for average, kept in zip(self.powers.averages, state["powers"], strict=True):
                average.load_state_dict(kept)
        counters, kept, noise = state["counters"], state.get("machine", {}), state["noise"].cpu()
        changes = [
            f"{name} {kept[name]} -> {now}" for name, now in self.machine().items() if kept.get(name, now) != now
        ]
        if len(noise) == len(self.noise.get_state()):
            self.noise.set_state(noise)
        else:  # state of another type of device: start a new sequence of random numbers
            self.noise.manual_seed(self.config.seed + _NOISE_SEED + counters["images_seen"])
            torch.manual_seed(self.config.seed + counters["images_seen"])
            changes = changes or ["another kind of device"]
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        if "cuda" in state["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"].cpu(), self.device)
        if "mps" in state["rng"] and self.device.type == "mps":
            torch.mps.set_rng_state(state["rng"]["mps"].cpu())
        planned = self.micro_batch
        for name in self.COUNTERS:
            setattr(self, name, counters.get(name, getattr(self, name)))
        if changes:
            # Not the sizes reduced for the memory of the other machine.
            self.micro_batch = self.penalty_micro_batch = planned
        return changes


def info_of(model: ModelConfig, pack: Pack) -> ModelInfo:
    """Metadata of a model of these images."""
    return ModelInfo(
        config=model,
        classes=pack.classes,
        depth=pack.depth,
        kind=pack.kind,
        data_hash=pack.hash,
        conditions=pack.schema if model.num_conditions else None,
    )


class FeaturesPenalty:
    """Weight of the gradient penalties of heads on features, adapted during training.

    With few, large or simple images, heads on pretrained features become too strong early, and the weight needed
    differs by a factor of twenty between data sets (RESULTS.md). So the weight increases while the heads rank pairs of
    a real and a generated image too clearly, and decreases otherwise, like adaptive augmentation (Karras et al. 2020a).
    The margin is used, not the accuracy: with a large weight the heads are still nearly always right.
    Each part of an image that the discriminator sees (models/crops.py) has a weight of its own: `value` and `lead` are
    tensors (parts,) on the device; updates do not synchronise.
    """

    RATE = 0.05  # change of the weight's logarithm per step and unit of the lead
    MEMORY = 0.1  # weight of the newest step in the mean lead
    LEAST, MOST = 0.01, 20.0

    def __init__(self, start: float, target: float, device: torch.device, parts: int = 1) -> None:
        self.value, self.lead = (torch.full((parts,), value, device=device) for value in (start, target))
        self.target, self.adapts = target, start > 0 and target < 1

    def update(self, lead: torch.Tensor) -> None:
        """lead: `Stats.lead` (training/step.py) of the parts that were seen, averaged over all ranks."""
        if self.adapts:
            seen, rest = self.lead.split([len(lead), len(self.lead) - len(lead)])
            seen = torch.lerp(seen, lead.detach().to(seen), self.MEMORY)
            change = (self.RATE * (seen - self.target)).exp()
            value = (self.value[: len(lead)] * change).clamp(self.LEAST, self.MOST)
            self.lead, self.value = torch.cat([seen, rest]), torch.cat([value, self.value[len(lead) :]])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"value": self.value, "lead": self.lead}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.value, self.lead = (
            state[name].to(own).expand_as(own).clone() for name, own in (("value", self.value), ("lead", self.lead))
        )


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Optimiser of `config` for this network. The learning rate is set before every step (step.learning_rate)."""
    parameters, rate = [*network.parameters()], config.lr
    match config.optimizer:
        case "adam" | "adamw":
            kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
            betas, decay = (config.beta1, config.beta2), config.weight_decay
            return kind(parameters, lr=rate, betas=betas, eps=1e-8, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=rate, alpha=config.beta2, momentum=config.momentum, foreach=True)
        case _:
            return torch.optim.SGD(
                parameters,
                lr=rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                foreach=True,
            )
