"""Chooses every training option from the data, the device and the budget, and gives the reason for each.

The defaults of an architecture are in its file; here are those that hold for all of them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from ganvas.augment import POLICIES
from ganvas.config import ModelConfig, TrainConfig, TrainOptions
from ganvas.data.packing.pack import Pack
from ganvas.errors import ConfigError, did_you_mean
from ganvas.losses import LOSSES
from ganvas.models import MODELS, architecture_of
from ganvas.models.architecture import Architecture, Setting, batch_for
from ganvas.models.crops import LARGE, part_sizes
from ganvas.models.summary import Summary, summarise_config
from ganvas.presets import PRESETS
from ganvas.system.device import Device, world_size
from ganvas.training.rules import Traits, refuse_what_cannot_work, traits_of, warnings

DEFAULT_MINUTES = 10.0
UNSEEN = 10.0  # epochs without augmentation
MEMORY_SHARE = 0.8  # part of the free memory that a run may plan to use


@dataclass(frozen=True)
class _Choice:
    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """config and model: complete. choices: every decision with its reason."""

    config: TrainConfig
    model: ModelConfig
    choices: list[_Choice]
    generator: Summary
    discriminator: Summary
    memory: int
    """Bytes that training will need, estimated."""
    warnings: list[str]
    """Choices that work but are unlikely to give good images, one sentence each."""


def plan(pack: Pack, asked: TrainOptions, device: Device, known: dict[str, Any] | None = None) -> Plan:
    """Fills every field of `asked` that is None; keeps the others, with the reason "given".

    known: the network options of the run that training starts from; they take precedence over the plan's choices.
    """
    chooser = Chooser(asked, known or {})
    _choose_budget(chooser)
    on_cpu = device.torch_device.type == "cpu"
    model = _choose_model(chooser, pack, on_cpu)
    _choose_objective(chooser, model)
    traits = traits_of(model)
    _choose_update(chooser, traits)
    _choose_augmentation(chooser, pack)
    _choose_optimiser(chooser, model, on_cpu)
    choose_machine(chooser, device)
    generator, discriminator = summarise_config(model)
    memory = _choose_micro_batch(chooser, generator, discriminator, device, traits)
    config = TrainConfig(**{**vars(asked), **chooser.values})
    refuse_what_cannot_work(config, model, traits)
    return Plan(config, model, chooser.choices, generator, discriminator, memory, warnings(config, traits))


class Chooser:
    """Collects choices. Order of precedence: given options, the preset, the run to start from, the plan.

    architecture, setting: of this run, once the model is chosen; they give the values of `usual`.
    """

    architecture: Architecture
    setting: Setting

    def __init__(self, asked: TrainOptions, known: dict[str, Any]) -> None:
        self.asked, self.values, self.choices = asked, dict[str, Any](), list[_Choice]()
        self.preset = PRESETS[asked.preset].options if asked.preset else {}
        self.known = known

    def usual(self, name: str, other: tuple[Any, str] = (None, "")) -> tuple[Any, str]:
        """The architecture's default of an option with its reason; `other` if it has none."""
        return self.architecture.defaults(self.setting).get(name, other)

    def choose(self, name: str, value: Any, reason: str) -> Any:
        asked = getattr(self.asked, name)
        if asked is not None:
            value, reason = asked, "given"
        elif name in self.preset:
            value, reason = self.preset[name], f"preset {self.asked.preset}"
        elif name in self.known:
            value, reason = self.known[name], "same as in the start run"
        self.values[name] = value
        self.choices.append(_Choice(name, value, reason))
        return value

    def settle(self, name: str, value: Any, reason: str) -> Any:
        """Like choose, but does not list the option where it has its default value."""
        chosen = self.choose(name, value, reason)
        if chosen == value and self.choices[-1].reason == reason:
            self.choices.pop()
        return chosen


def _choose_budget(chooser: Chooser) -> None:
    if chooser.asked.images is None and chooser.asked.epochs is None:
        chooser.choose("minutes", DEFAULT_MINUTES, "default: no --minutes, --images or --epochs given")


def _choose_model(chooser: Chooser, pack: Pack, on_cpu: bool) -> ModelConfig:
    setting = chooser.setting = Setting(
        pack.height,
        pack.width,
        on_cpu,
        chooser.values.get("minutes"),
        chooser.asked.batch,
        channels=pack.channels,
    )
    usual = ((name, why) for name, one in MODELS.items() if (why := one.preferred(setting)) is not None)
    name = chooser.choose("model", *next(usual))
    chosen = chooser.architecture = architecture_of(name)
    if chooser.choose("discriminator", *chooser.usual("discriminator")) == "own":
        chooser.choices.pop()
    _choose_capacity(chooser, name)
    labelled = chooser.choose(
        "conditional",
        (pack.num_classes > 1 or pack.schema is not None) and not chosen.classic,
        f"{name} does not support {'labels' if pack.schema is None else 'conditions'}"
        if chosen.classic
        else f"{len(pack.schema.columns)} columns of conditions"
        if pack.schema is not None
        else f"{pack.num_classes} classes: labels improve quality"
        if pack.num_classes > 1
        else "the dataset has no labels",
    )
    if labelled and pack.num_classes == 0 and pack.schema is None:
        raise ConfigError("--conditional: these images have no labels; put them into one folder per class")
    return ModelConfig(
        model=name,
        height=pack.height,
        width=pack.width,
        channels=pack.channels,
        num_classes=pack.num_classes if labelled else 0,
        num_conditions=pack.schema.width if labelled and pack.schema is not None else 0,
        **{field: chooser.values[field] for field in _NETWORK_FIELDS},
    )


_NETWORK_FIELDS = ("z_dim", "base", "widest", "blocks", "spectral_norm", "discriminator")
"""Options that are passed to the networks unchanged."""


def _choose_capacity(chooser: Chooser, name: str) -> None:
    sizes = chooser.architecture.sizes
    if sizes:
        size = chooser.choose("model_size", *chooser.usual("model_size"))
        if size not in sizes:
            raise ConfigError(f"--model-size {size}: expected one of {', '.join(sizes)}")
        chooser.setting = dataclasses.replace(chooser.setting, model_size=size)
    elif chooser.choose("model_size", None, "no sizes") is not None:
        sized = " or ".join(other for other, one in MODELS.items() if one.sizes)
        raise ConfigError(
            f"--model-size works with --model {sized} only; set the capacity of {name} with --base and --blocks"
        )
    else:
        chooser.choices.pop()
    chooser.choose("z_dim", *chooser.usual("z_dim"))
    chooser.choose("base", *chooser.usual("base"))
    chooser.settle("widest", *chooser.usual("widest"))
    chooser.choose("blocks", *chooser.usual("blocks"))
    chooser.settle("spectral_norm", False, "gradient penalties are used instead")


def _choose_objective(chooser: Chooser, model: ModelConfig) -> None:
    name = chooser.choose("loss", *chooser.usual("loss"))
    if name not in LOSSES:
        raise ConfigError(f"--loss {name}: expected one of {', '.join(LOSSES)}{did_you_mean(name, [*LOSSES])}")
    if model.discriminator == "both":
        chooser.setting = dataclasses.replace(chooser.setting, seen=part_sizes(model.height, model.width)[1][0])
    wasserstein = name == "wasserstein"
    penalty = 10.0 if wasserstein and not model.spectral_norm else 0.0
    if penalty:
        chooser.choose("gradient_penalty", penalty, "keeps the critic Lipschitz (WGAN-GP)")
    else:
        chooser.settle("gradient_penalty", penalty, "off")
    gamma, reason = chooser.usual("r1")
    if wasserstein and gamma:
        gamma, reason = 0.0, "off"
    if model.discriminator == "features":
        gamma, reason = 0.0, "no discriminator of pixels"
    gamma = chooser.choose("r1", float(f"{gamma:.2g}"), reason)
    if model.discriminator != "own":
        chooser.choose("r1_features", 0.05, "start value; adapted during training")
    else:
        chooser.settle("r1_features", 0.0, "no feature discriminator")
    chooser.choose("r2", *chooser.usual("r2", (gamma, "same as r1")))
    if chooser.values["gradient_penalty"]:
        interval = (1, "every step, as in WGAN-GP")
    else:
        interval = chooser.usual("penalty_interval")
    chooser.choose("penalty_interval", *interval)
    for field in ("path_length", "style_mixing"):
        value, reason = chooser.usual(field)
        (chooser.choose if value else chooser.settle)(field, value, reason)
    chooser.settle("label_noise", 0.0, "off")


def _choose_update(chooser: Chooser, traits: Traits) -> None:
    loss = LOSSES[chooser.values["loss"]]
    if traits.mixes:
        update = chooser.choose("update", "alternating", "the discriminator uses batch statistics")
    elif chooser.values["loss"] == "wasserstein" or (chooser.asked.n_critic or 1) > 1:
        update = chooser.choose("update", "alternating", "the critic trains for several steps")
    else:
        reason = "one discriminator pass for both networks"
        update = chooser.choose(
            "update", "joint", reason if loss.rescales else f"{reason}, with a second backward pass"
        )
    critic = 5 if chooser.values["loss"] == "wasserstein" and update == "alternating" else 1
    if critic > 1:
        chooser.choose("n_critic", critic, "critic steps per generator step (Arjovsky et al. 2017)")
    else:
        chooser.settle("n_critic", critic, "one per generator step")


def _choose_augmentation(chooser: Chooser, pack: Pack) -> None:
    names = ", ".join(POLICIES[pack.kind])
    probability = augmentation_probability(pack.num_training)
    adaptive = chooser.settle("adaptive", False, "a fixed probability works better for short budgets")
    now = adaptive or chooser.asked.augment is not None
    after = chooser.settle("augment_after", 0.0 if now else UNSEEN, "new images are not memorised")
    if adaptive:
        chooser.choose("augment", 0.0, f"start value, raised when the discriminator overfits: {names}")
        return
    reason = f"after {after:g} epochs, for {pack.num_training:,} images of kind {pack.kind}: {names}"
    chooser.choose("augment", probability, reason if probability else f"off: {pack.num_training:,} images are enough")


def augmentation_probability(num_images: int) -> float:
    """Higher for smaller datasets, which are memorised sooner; at most 0.6, since more would show in the samples."""
    if num_images >= 20_000:
        return 0.0
    return float(f"{min(0.6, 0.15 * math.log10(200_000 / num_images)):.2g}")


def _choose_optimiser(chooser: Chooser, model: ModelConfig, on_cpu: bool) -> None:
    side = max(model.height, model.width)
    name = chooser.choose("optimizer", "adam", "the usual choice for GANs")
    ranks = world_size()
    usual, reason = batch_for(side, on_cpu), f"default at {side} pixels"
    if model.discriminator != "own" and on_cpu:
        usual, reason = (16, "better than 8 or 32 at equal time") if side <= LARGE else (8, "for large images")
    batch = chooser.choose("batch", max(usual // ranks, 1) * ranks, reason)
    if batch % ranks:
        raise ConfigError(f"--batch {batch}: expected a multiple of the {ranks} processes")
    rate, reason = chooser.usual("lr")
    rate = chooser.choose("lr", rate * {"sgd": 10.0, "rmsprop": 0.25}.get(name, 1.0), reason)
    chooser.settle("lr_d", rate, "same as lr")
    chooser.choose("lr_end", *chooser.usual("lr_end"))
    chooser.settle("decay_from", 0.3, "part of the budget before the learning rate decays")
    chooser.settle("warmup", *chooser.usual("warmup"))
    chooser.settle("beta1", *chooser.usual("beta1"))
    beta2, reason = chooser.usual("beta2")
    chooser.settle("beta2", 0.99 if name == "rmsprop" else beta2, reason)
    chooser.settle("momentum", 0.0, "none")
    chooser.settle("weight_decay", 0.01 if name == "adamw" else 0.0, "usual")
    if model.discriminator != "own":
        chooser.choose("ema", 5_000.0 if on_cpu else 20_000.0, "half-life in images, shorter at the start")
    else:
        chooser.choose("ema", *chooser.usual("ema"))


def choose_machine(chooser: Chooser, device: Device) -> None:
    on_gpu = device.torch_device.type == "cuda"
    chooser.choose("device", str(device.torch_device), f"{device.name}: {device.reason}")
    precise = "bf16" if device.bf16 else "fp32"
    chooser.choose("precision", precise, "faster on this device" if device.bf16 else "fastest on this device")
    chooser.choose("compile", on_gpu, "faster on a GPU" if on_gpu else "not faster on this device")


def _choose_micro_batch(
    chooser: Chooser, generator: Summary, discriminator: Summary, device: Device, traits: Traits
) -> int:
    """Halves the micro-batch until the estimated memory fits, if possible; returns the estimate in bytes."""
    local = chooser.values["batch"] // world_size()
    free = free_memory(device)
    micro = local
    need = memory_needed(generator, discriminator, micro)
    while micro > traits.least and need > MEMORY_SHARE * free:
        micro = traits.smaller(micro)
        need = memory_needed(generator, discriminator, micro)
    reason = "the whole batch fits into memory" if micro == local else f"{free / 2**30:.1f} GiB of free memory"
    micro = chooser.choose("micro_batch", micro, reason)
    if micro > local:
        raise ConfigError(f"--micro-batch {micro}: expected at most {local}, the images per process")
    return memory_needed(generator, discriminator, micro)


def memory_needed(generator: Summary, discriminator: Summary, micro_batch: int) -> int:
    """Bytes for weights, gradients, two Adam moments and the EMA, and for images and activations of one micro-batch.

    An adversarial step stores the generator's activations once and the discriminator's for real and generated
    images. Penalties need less, because they look at real and generated images in turn: with their double backward pass
    2.5 times the discriminator's activations, and nothing of a frozen network (RESULTS.md). Images are stored twelve
    times: real, generated, augmented, and gradients.
    """
    weights = 5 * generator.parameters + 4 * discriminator.parameters
    images = 12 * math.prod(generator.rows[-1].shape)
    return 4 * (weights + micro_batch * (images + generator.activations + 2 * discriminator.activations))


def free_memory(device: Device) -> int:
    """Free memory of the device in bytes."""
    if device.free is not None:
        return device.free
    if device.torch_device.type == "cuda":
        return torch.cuda.mem_get_info(device.torch_device)[0]
    return 4 * 2**30  # unknown: assume a small machine
