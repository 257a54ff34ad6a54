"""Chooses every training option from the data, the device and the budget, and gives the reason for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ganvas.augment import POLICIES
from ganvas.config import ModelConfig, TrainConfig, TrainOptions
from ganvas.data.packing.pack import Pack
from ganvas.errors import ConfigError, did_you_mean
from ganvas.losses import LOSSES
from ganvas.models import MODELS, MODERN
from ganvas.models.crops import LARGE, part_sizes
from ganvas.models.summary import Summary, summarise_config
from ganvas.presets import PRESETS
from ganvas.system.device import Device, world_size
from ganvas.training.rules import Traits, refuse_what_cannot_work, traits_of, warnings

DEFAULT_MINUTES = 10.0
MEMORY_SHARE = 0.8  # part of the free memory that a run may plan to use
GAMMA = ((32, 0.05), (64, 2.0), (128, 17.0), (256, 150.0))
"""R3GAN's penalty weights (Huang et al. 2024) by image side; logarithms are interpolated in between."""
SIZES = {"S": (32, 256, 1), "M": (64, 384, 2), "L": (192, 768, 2), "XL": (384, 1024, 2)}
"""Capacity of residual: feature maps of the finest stage, most of any stage, blocks per stage."""
TINY = 41  # pixels: smaller images use compact on a CPU and residual on a GPU


@dataclass(frozen=True)
class Choice:
    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """config and model: complete. choices: every decision with its reason."""

    config: TrainConfig
    model: ModelConfig
    choices: list[Choice]
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
    choose_budget(chooser)
    on_cpu = device.torch_device.type == "cpu"
    model = choose_model(chooser, pack, on_cpu)
    choose_objective(chooser, model, on_cpu)
    traits = traits_of(model)
    choose_update(chooser, traits)
    choose_augmentation(chooser, pack)
    choose_optimiser(chooser, model, on_cpu)
    choose_machine(chooser, device)
    generator, discriminator = summarise_config(model)
    memory = choose_micro_batch(chooser, generator, discriminator, device, 2 if traits.batch_statistics else 1)
    config = TrainConfig(**{**vars(asked), **chooser.values})
    refuse_what_cannot_work(config, model, traits)
    return Plan(config, model, chooser.choices, generator, discriminator, memory, warnings(config, traits))


class Chooser:
    """Collects choices. Order of precedence: given options, the preset, the run to start from, the plan."""

    def __init__(self, asked: TrainOptions, known: dict[str, Any]) -> None:
        self.asked, self.values, self.choices = asked, dict[str, Any](), list[Choice]()
        self.preset = PRESETS[asked.preset].options if asked.preset else {}
        self.known = known

    def choose(self, name: str, value: Any, reason: str) -> Any:
        asked = getattr(self.asked, name)
        if asked is not None:
            value, reason = asked, "given"
        elif name in self.preset:
            value, reason = self.preset[name], f"preset {self.asked.preset}"
        elif name in self.known:
            value, reason = self.known[name], "same as in the start run"
        self.values[name] = value
        self.choices.append(Choice(name, value, reason))
        return value

    def settle(self, name: str, value: Any, reason: str) -> Any:
        """Like choose, but does not list the option where it has its default value."""
        chosen = self.choose(name, value, reason)
        if chosen == value and self.choices[-1].reason == reason:
            self.choices.pop()
        return chosen


def choose_budget(chooser: Chooser) -> None:
    if chooser.asked.images is None and chooser.asked.epochs is None:
        chooser.choose("minutes", DEFAULT_MINUTES, "default: no --minutes, --images or --epochs given")


def choose_model(chooser: Chooser, pack: Pack, on_cpu: bool) -> ModelConfig:
    side = max(pack.height, pack.width)
    if side < TINY and on_cpu:
        name = chooser.choose("model", "compact", f"best up to {TINY - 1} pixels on a CPU")
    elif side < TINY:
        name = chooser.choose("model", "residual", f"used up to {TINY - 1} pixels on a GPU")
    else:
        name = chooser.choose("model", "light", "best image quality per minute above 40 pixels")
    if name not in MODELS:
        raise ConfigError(f"--model {name}: expected one of {', '.join(MODELS)}{did_you_mean(name, [*MODELS])}")
    kind, why = (
        ("both", "pixels and pretrained features: better than either alone")
        if name == "light"
        else ("own", "pixels only")
    )
    if chooser.choose("discriminator", kind, why) == "own":
        chooser.choices.pop()
    base, widest, blocks, why = capacity(chooser, name, side, on_cpu)
    chooser.choose("z_dim", Z_DIM.get(name, 64), Z_REASON.get(name, "enough for small images"))
    chooser.choose("base", base, why)
    chooser.settle("widest", widest, "the architecture's own limit" if widest == 0 else why)
    chooser.choose("blocks", blocks, "per stage")
    chooser.settle("spectral_norm", False, "gradient penalties are used instead")
    labelled = chooser.choose(
        "conditional",
        pack.num_classes > 1 and name in MODERN,
        f"{pack.num_classes} classes: labels improve quality"
        if pack.num_classes > 1 and name in MODERN
        else f"{name} does not support labels"
        if name not in MODERN
        else "the dataset has no labels",
    )
    if labelled and pack.num_classes == 0:
        raise ConfigError("--conditional: these images have no labels; put them into one folder per class")
    return ModelConfig(
        model=name,
        height=pack.height,
        width=pack.width,
        channels=pack.channels,
        num_classes=pack.num_classes if labelled else 0,
        **{field: chooser.values[field] for field in NETWORK_FIELDS},
    )


NETWORK_FIELDS = ("z_dim", "base", "widest", "blocks", "spectral_norm", "discriminator")
"""Options that are passed to the networks unchanged."""
Z_DIM = {"style": 256}
Z_REASON = {"residual": "as R3GAN", "style": "for z and w"}


def capacity(chooser: Chooser, name: str, side: int, on_cpu: bool) -> tuple[int, int, int, str]:
    """(feature maps of the finest stage, most of any stage or 0, blocks per stage, the reason)."""
    if name == "residual":
        minutes = chooser.values.get("minutes") or 0.0
        if on_cpu or side >= 512:
            size = chooser.choose("model_size", "S", f"{side} pixels on a {'CPU' if on_cpu else 'GPU'}")
        elif minutes > 120:
            size = chooser.choose("model_size", "L", f"enough time: {minutes:g} minutes on a GPU")
        else:
            size = chooser.choose("model_size", "M", "learns faster than L in budgets up to two hours")
        if size not in SIZES:
            raise ConfigError(f"--model-size {size}: expected one of {', '.join(SIZES)}")
        base, widest, blocks = SIZES[size]
        # Above 64 pixels the base is halved with every doubling; otherwise L needs 121 G multiply-adds at 256.
        return max(32, base * 64 // max(64, side)), widest, blocks, f"feature maps of size {size} at {side} pixels"
    if chooser.choose("model_size", None, "only residual has sizes") is not None:
        raise ConfigError(
            f"--model-size works with --model residual only; set the capacity of {name} with --base and --blocks"
        )
    chooser.choices.pop()
    if name == "compact":
        return (16, 0, 2, "feature maps, tuned on MNIST") if side < TINY else (24, 0, 1, "feature maps")
    if name == "style":
        return 16 if on_cpu or side >= 256 else 64, 0, 1 if on_cpu else 2, f"feature maps at {side} pixels"
    if name == "light":
        return (12 if on_cpu else 32), 0 if on_cpu else 512, 1, "feature maps of the finest grid"
    return 64, 0, 1, "feature maps"


def gamma_for(side: float) -> float:
    """R3GAN's penalty weight for images of this side (geometric mean of height and width).

    Constant below its points, log-log interpolation between them, proportional to the pixels above (StyleGAN2-ADA).
    """
    sizes, gammas = zip(*GAMMA, strict=True)
    if side >= sizes[-1]:
        return gammas[-1] * (side / sizes[-1]) ** 2
    return math.exp(float(np.interp(math.log(side), np.log(sizes), np.log(gammas))))


def choose_objective(chooser: Chooser, model: ModelConfig, on_cpu: bool) -> None:
    style = model.model == "style"
    modern = model.model in MODERN
    if style:
        name = chooser.choose("loss", "bce", "non-saturating, as in StyleGAN2")
    elif modern:
        name = chooser.choose(
            "loss", "relativistic", "compares real and generated images in pairs; reduces mode collapse (R3GAN)"
        )
    else:
        name = chooser.choose("loss", "bce", "as in the classic projects")
    if name not in LOSSES:
        raise ConfigError(f"--loss {name}: expected one of {', '.join(LOSSES)}{did_you_mean(name, [*LOSSES])}")
    side = math.sqrt(model.height * model.width)
    if model.discriminator == "both":
        side = math.sqrt(math.prod(part_sizes(model.height, model.width)[1][0]))  # pixels that it sees
    wasserstein = name == "wasserstein"
    penalty = 10.0 if wasserstein and not model.spectral_norm else 0.0
    if penalty:
        chooser.choose("gradient_penalty", penalty, "keeps the critic Lipschitz (WGAN-GP)")
    else:
        chooser.settle("gradient_penalty", penalty, "off")
    if wasserstein or not modern:
        gamma, reason = 0.0, "off" if modern else "off, as in the classic projects"
    elif style:
        batch = chooser.asked.batch or batch_for(side, on_cpu)
        gamma, reason = max(0.02, 0.0002 * side**2 / batch), "0.0002 x pixels / batch, at least 0.02 (StyleGAN2-ADA)"
    elif model.model in ("compact", "light"):
        gamma, reason = 0.05 if side < TINY else side**2 / 4096, "tuned at 28 and 64 pixels"
    else:
        gamma, reason = gamma_for(side), f"R3GAN's value at {side:.0f} pixels"
    if model.discriminator == "features":
        gamma, reason = 0.0, "no discriminator of pixels"
    gamma = chooser.choose("r1", float(f"{gamma:.2g}"), reason)
    if model.discriminator != "own":
        chooser.choose("r1_features", 0.05, "start value; adapted during training")
    else:
        chooser.settle("r1_features", 0.0, "no feature discriminator")
    chooser.choose("r2", 0.0 if style else gamma, "off, as in StyleGAN2" if style else "same as r1")
    if chooser.values["gradient_penalty"]:
        chooser.choose("penalty_interval", 1, "every step, as in WGAN-GP")
    else:
        reason = "every 8th step: as good as every step, and much faster"
        if model.discriminator != "own":
            chooser.choose("penalty_interval", 4, "every 4th step: as good as every step, and faster")
        else:
            chooser.choose(
                "penalty_interval", 16 if style else 8, "every 16th step, as in StyleGAN2" if style else reason
            )
    if style and side > 32:
        chooser.choose("path_length", 2.0, "smoother latent space (StyleGAN2)")
        chooser.choose("style_mixing", 0.9, "separates coarse and fine styles (StyleGAN2)")
    else:
        chooser.settle("path_length", 0.0, "off")
        chooser.settle("style_mixing", 0.0, "off")
    chooser.settle("label_noise", 0.0, "off")


def choose_update(chooser: Chooser, traits: Traits) -> None:
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


def choose_augmentation(chooser: Chooser, pack: Pack) -> None:
    names = ", ".join(POLICIES[pack.kind])
    probability = augmentation_probability(pack.num_training)
    adaptive = chooser.settle("adaptive", False, "a fixed probability works better for short budgets")
    if adaptive:
        chooser.choose("augment", 0.0, f"start value, raised when the discriminator overfits: {names}")
        return
    reason = f"for {pack.num_training:,} images of kind {pack.kind}: {names}"
    chooser.choose("augment", probability, reason if probability else f"off: {pack.num_training:,} images are enough")


def augmentation_probability(num_images: int) -> float:
    """Higher for smaller datasets, which are memorised sooner; at most 0.6, since more would show in the samples."""
    if num_images >= 20_000:
        return 0.0
    return float(f"{min(0.6, 0.15 * math.log10(200_000 / num_images)):.2g}")


def batch_for(side: float, on_cpu: bool) -> int:
    """Images per step: small on a CPU, where a step is slow; large on a GPU, so that it is fully used."""
    if on_cpu:
        return 64 if side < TINY else 32 if side <= 64 else 16 if side <= 128 else 8
    return 256 if side <= 32 else 128 if side <= 64 else 64 if side <= 128 else 32 if side <= 256 else 8


def choose_optimiser(chooser: Chooser, model: ModelConfig, on_cpu: bool) -> None:
    side = max(model.height, model.width)
    modern, name = model.model in MODERN, chooser.choose("optimizer", "adam", "the usual choice for GANs")
    ranks = world_size()
    usual, reason = batch_for(side, on_cpu), f"default at {side} pixels"
    if model.discriminator != "own" and on_cpu:
        usual, reason = (16, "better than 8 or 32 at equal time") if side <= LARGE else (8, "for large images")
    batch = chooser.choose("batch", max(usual // ranks, 1) * ranks, reason)
    if batch % ranks:
        raise ConfigError(f"--batch {batch}: expected a multiple of the {ranks} processes")
    rate = rate_for(model) * {"sgd": 10.0, "rmsprop": 0.25}.get(name, 1.0)
    reason = "tuned for this network" if model.model in ("compact", "light") else "untuned default"
    rate = chooser.choose("lr", rate, reason if modern else "usual for DCGAN")
    chooser.settle("lr_d", rate, "same as lr")
    calm = "learning rate decays to a tenth: better final images"
    chooser.choose("lr_end", 0.1 if modern else 1.0, calm if modern else "constant, as in the classic projects")
    chooser.settle("decay_from", 0.3, "part of the budget before the learning rate decays")
    chooser.settle(
        "warmup", 0.05 if modern else 0.0, "of the budget; avoids divergence at the start" if modern else "none"
    )
    chooser.settle("beta1", 0.0 if modern else 0.5, "usual for GANs (Karras et al. 2018)")
    chooser.settle("beta2", 0.99 if modern or name == "rmsprop" else 0.999, "usual")
    chooser.settle("momentum", 0.0, "none")
    chooser.settle("weight_decay", 0.01 if name == "adamw" else 0.0, "usual")
    reason = "half-life in images, shorter at the start"
    if model.discriminator != "own":
        chooser.choose("ema", 5_000.0 if on_cpu else 20_000.0, "half-life in images, shorter at the start")
    else:
        chooser.choose("ema", 500_000.0 if modern else 0.0, reason if modern else "off, as in the classic projects")


def rate_for(model: ModelConfig) -> float:
    """Adam's learning rate."""
    if model.model == "compact" and max(model.height, model.width) < TINY:
        return 2.5e-3
    return {"compact": 1e-3, "light": 1e-3, "residual": 1e-3, "style": 2e-3}.get(model.model, 2e-4)


def choose_machine(chooser: Chooser, device: Device) -> None:
    on_gpu = device.torch_device.type == "cuda"
    chooser.choose("device", str(device.torch_device), f"{device.name}: {device.reason}")
    precise = "bf16" if device.bf16 else "fp32"
    chooser.choose("precision", precise, "faster on this device" if device.bf16 else "fastest on this device")
    chooser.choose("compile", on_gpu, "faster on a GPU" if on_gpu else "not faster on this device")


def choose_micro_batch(chooser: Chooser, generator: Summary, discriminator: Summary, device: Device, least: int) -> int:
    """Halves the micro-batch until the estimated memory fits, not below `least`; returns the estimate in bytes."""
    local = chooser.values["batch"] // world_size()
    free = free_memory(device)
    micro = local
    need = memory_needed(generator, discriminator, micro)
    while micro > least and need > MEMORY_SHARE * free:
        micro = -(-micro // 2)
        need = memory_needed(generator, discriminator, micro)
    reason = "the whole batch fits into memory" if micro == local else f"{free / 2**30:.1f} GiB of free memory"
    micro = chooser.choose("micro_batch", micro, reason)
    if micro > local:
        raise ConfigError(f"--micro-batch {micro}: expected at most {local}, the images per process")
    return memory_needed(generator, discriminator, micro)


def memory_needed(generator: Summary, discriminator: Summary, micro_batch: int) -> int:
    """Bytes for weights, gradients, two Adam moments and the EMA, and for images and activations of one micro-batch.

    An adversarial step stores the generator's activations once and the discriminator's for real and generated
    images. A penalty step stores the discriminator's activations four times (forward and backward, each twice). The
    larger of the two counts. Images are stored twelve times: real, generated, augmented, and gradients.
    """
    weights = 5 * generator.parameters + 4 * discriminator.parameters
    images = 12 * math.prod(generator.rows[-1].shape)
    adversarial = generator.activations + 2 * discriminator.activations
    return 4 * (weights + micro_batch * (images + max(adversarial, 4 * discriminator.activations)))


def free_memory(device: Device) -> int:
    """Free memory of the device in bytes."""
    if device.free is not None:
        return device.free
    if device.torch_device.type == "cuda":
        return torch.cuda.mem_get_info(device.torch_device)[0]
    return 4 * 2**30  # unknown: assume a small machine
