"""From data, device and budget to a complete configuration: what is chosen, and why, in one line each."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganvas.augment import POLICIES
from ganvas.config import PRESETS, ModelConfig, Preset, TrainConfig
from ganvas.data.pack import Pack
from ganvas.device import Device, world_size
from ganvas.errors import ConfigError
from ganvas.losses import LOSSES
from ganvas.models import MODELS, MODERN
from ganvas.models.summary import Summary, summarise_config
from ganvas.training.rules import Traits, refuse_what_cannot_work, traits_of, warnings

DEFAULT_MINUTES = 10.0
MEMORY_SHARE = 0.8  # part of the free memory that a run may plan to use
GAMMA = ((32, 0.05), (64, 2.0), (128, 17.0), (256, 150.0))
"""R3GAN's penalty weights (Huang et al. 2024) by picture side; between them the logarithms are interpolated."""
SIZES = {"S": (32, 256, 1), "M": (64, 384, 2), "L": (192, 768, 2), "XL": (384, 1024, 2)}
"""Capacity of residual: feature maps of the finest stage, most of any stage, blocks per stage."""
TINY = 41  # pixels: below, compact has its MNIST recipe
FEW, LARGE = 2_000, 200  # pictures and pixels: up to so many pictures of at least this side are skip's business


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
    """What works but is unlikely to give good pictures, a sentence each."""


def plan(pack: Pack, asked: TrainConfig, device: Device, known: dict[str, Any] | None = None) -> Plan:
    """Fills every field of `asked` that is None. Values that were asked for are kept, with the reason "asked for".

    known: the networks' options of the run that this one starts from; they come before the plan's own choices.
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
    config = dataclasses.replace(asked, **chooser.values)
    refuse_what_cannot_work(config, model, traits)
    return Plan(config, model, chooser.choices, generator, discriminator, memory, warnings(config, traits))


class Chooser:
    """Collects choices; what was asked for wins, then the preset, then the run to start from."""

    def __init__(self, asked: TrainConfig, known: dict[str, Any]) -> None:
        self.asked, self.values, self.choices = asked, dict[str, Any](), list[Choice]()
        self.preset = preset_of(asked).options if asked.preset else {}
        self.known = known

    def choose(self, name: str, value: Any, reason: str) -> Any:
        asked = getattr(self.asked, name)
        if asked is not None:
            value, reason = asked, "asked for"
        elif name in self.preset:
            value, reason = self.preset[name], f"preset {self.asked.preset}"
        elif name in self.known:
            value, reason = self.known[name], "as the run it starts from"
        self.values[name] = value
        self.choices.append(Choice(name, value, reason))
        return value

    def settle(self, name: str, value: Any, reason: str) -> Any:
        """As choose, but says nothing where the plain default stands: what is off need not be shown."""
        chosen = self.choose(name, value, reason)
        if chosen == value and self.choices[-1].reason == reason:
            self.choices.pop()
        return chosen


def preset_of(config: TrainConfig) -> Preset:
    """The preset that was asked for; ConfigError for an unknown name."""
    if config.preset not in PRESETS:
        raise ConfigError(f"--preset {config.preset}: expected one of {', '.join(PRESETS)}")
    return PRESETS[config.preset]


def choose_budget(chooser: Chooser) -> None:
    if chooser.asked.images is None and chooser.asked.epochs is None:
        chooser.choose("minutes", DEFAULT_MINUTES, "no --minutes, --images or --epochs given")


def choose_model(chooser: Chooser, pack: Pack, on_cpu: bool) -> ModelConfig:
    side = max(pack.height, pack.width)
    if min(pack.height, pack.width) >= LARGE and pack.num_training <= FEW:
        name = chooser.choose("model", "skip", f"{pack.num_training:,} large pictures: skip connections learn from few")
    elif side < TINY and on_cpu:
        name = chooser.choose("model", "compact", f"measured at {TINY - 1} pixels and below")
    elif side < TINY:
        name = chooser.choose("model", "residual", "norm-free residual blocks: a GPU can afford them")
    else:
        name = chooser.choose("model", "light", "few maps on fine grids, batch norm: clean and varied images soonest")
    if name not in MODELS:
        raise ConfigError(f"--model {name}: expected one of {', '.join(MODELS)}")
    kind, why = ("both", "pixels and pretrained features: clean and right") if name == "light" else ("own", "pixels")
    if chooser.choose("discriminator", kind, why) == "own":
        chooser.choices.pop()
    base, widest, blocks, why = capacity(chooser, name, side, on_cpu)
    chooser.choose("z_dim", Z_DIM.get(name, 64), Z_REASON.get(name, "enough for small pictures"))
    chooser.choose("base", base, why)
    chooser.settle("widest", widest, "the architecture's own limit" if widest == 0 else why)
    chooser.choose("blocks", blocks, "per stage; more costs time in proportion")
    chooser.settle("magnitude", False, "fix-up: as good on MNIST over three seeds, and simpler")
    chooser.settle("spectral_norm", False, "the penalties suffice")
    labelled = chooser.choose(
        "conditional",
        pack.num_classes > 1 and name in MODERN,
        f"{pack.num_classes} classes: faster and better"
        if pack.num_classes > 1 and name in MODERN
        else f"{name} knows no labels"
        if name not in MODERN
        else "the pack has no labels",
    )
    if labelled and pack.num_classes == 0:
        raise ConfigError("--conditional: these pictures have no labels; sort them into one folder per class")
    return ModelConfig(
        model=name,
        height=pack.height,
        width=pack.width,
        channels=pack.channels,
        num_classes=pack.num_classes if labelled else 0,
        **{field: chooser.values[field] for field in NETWORK_FIELDS},
    )


NETWORK_FIELDS = ("z_dim", "base", "widest", "blocks", "magnitude", "spectral_norm", "discriminator")
"""Options that go into the networks as they are."""
Z_DIM = {"style": 256, "skip": 128}
Z_REASON = {"residual": "as R3GAN", "style": "of z and w alike", "skip": "half of FastGAN's"}


def capacity(chooser: Chooser, name: str, side: int, on_cpu: bool) -> tuple[int, int, int, str]:
    """(feature maps of the finest stage, most of any stage or 0, blocks per stage, the reason)."""
    if name == "residual":
        minutes = chooser.values.get("minutes") or 0.0
        if on_cpu or side >= 512:
            size = chooser.choose("model_size", "S", f"{side} pixels on a {'CPU' if on_cpu else 'GPU'}")
        elif minutes > 120:
            size = chooser.choose("model_size", "L", f"{minutes:g} minutes on a GPU suffice for it")
        else:
            size = chooser.choose("model_size", "M", "learns faster than L within two hours")
        if size not in SIZES:
            raise ConfigError(f"--model-size {size}: expected one of {', '.join(SIZES)}")
        base, widest, blocks = SIZES[size]
        # Above 64 pixels every doubling halves the finest stage, or size L would cost 121 G multiply-adds at 256.
        return max(32, base * 64 // max(64, side)), widest, blocks, f"feature maps of size {size} at {side} pixels"
    if chooser.choose("model_size", None, "residual alone comes in sizes") is not None:
        raise ConfigError(f"--model-size: only residual comes in sizes, {name} is set by --base and --blocks")
    chooser.choices.pop()
    if name == "compact":
        return (16, 0, 2, "feature maps, measured on MNIST") if side < TINY else (24, 0, 1, "feature maps")
    if name == "style":
        return 16 if on_cpu or side >= 256 else 64, 0, 1 if on_cpu else 2, f"feature maps at {side} pixels"
    if name == "light":
        return (12 if on_cpu else 32), 0 if on_cpu else 512, 1, "feature maps of the finest grid"
    if name == "skip":
        base = 8 if on_cpu and side < 400 else 32 if not on_cpu and side <= 256 else 16
        return base, 0, 1, f"feature maps at {side} pixels"
    return 64, 0, 1, "feature maps"


def gamma_for(side: float) -> float:
    """R3GAN's penalty weight for pictures of this side (geometric mean of height and width).

    Below its points the first, between them by logarithm, above them in proportion to the pixels (StyleGAN2-ADA).
    """
    sizes, gammas = zip(*GAMMA, strict=True)
    if side >= sizes[-1]:
        return gammas[-1] * (side / sizes[-1]) ** 2
    return math.exp(float(np.interp(math.log(side), np.log(sizes), np.log(gammas))))


def choose_objective(chooser: Chooser, model: ModelConfig, on_cpu: bool) -> None:
    style = model.model == "style"
    modern = model.model in MODERN
    if style:
        name = chooser.choose("loss", "bce", "non-saturating, as StyleGAN2")
    elif modern:
        name = chooser.choose("loss", "relativistic", "each real picture beside a fake: every mode counts (R3GAN)")
    else:
        name = chooser.choose("loss", "bce", "as the classic projects")
    if name not in LOSSES:
        raise ConfigError(f"--loss {name}: expected one of {', '.join(LOSSES)}")
    side = math.sqrt(model.height * model.width)
    wasserstein = name == "wasserstein"
    clip = chooser.settle("clip", 0.0, "off")
    penalty = 10.0 if wasserstein and not clip and not model.spectral_norm else 0.0
    if penalty:
        chooser.choose("gradient_penalty", penalty, "keeps the critic Lipschitz (WGAN-GP)")
    else:
        chooser.settle("gradient_penalty", penalty, "off")
    if wasserstein or not modern:
        gamma, reason = 0.0, "off" if modern else "the classic projects have none"
    elif style:
        batch = chooser.asked.batch or batch_for(side, on_cpu)
        gamma, reason = max(0.02, 0.0002 * side**2 / batch), "0.0002 x pixels / batch, as StyleGAN2-ADA, or 0.02"
    elif model.model in ("compact", "light"):
        gamma, reason = 0.05 if side < TINY else side**2 / 4096, "measured for this network at 28 and 64 pixels"
    elif model.model == "skip":
        gamma, reason = side**2 / 4096, "pixels / 4096: extrapolated from trials at 64 pixels"
    else:
        gamma, reason = gamma_for(side), f"R3GAN's weight at {side:.0f} pixels"
    if model.discriminator == "features":
        gamma, reason = 0.0, "nothing looks at pixels"
    gamma = chooser.choose("r1", float(f"{gamma:.2g}"), reason)
    if model.discriminator != "own":
        chooser.choose("r1_features", 0.05, "of the heads on features, raised while they are far ahead")
    else:
        chooser.settle("r1_features", 0.0, "no features")
    chooser.choose("r2", 0.0 if style else gamma, "StyleGAN2 has none" if style else "as r1")
    chooser.choose("penalty", "exact", "double backward works on this device")
    if chooser.values["gradient_penalty"]:
        chooser.choose("penalty_interval", 1, "WGAN-GP penalises at every step")
    else:
        reason = "lazy: the penalty costs as much as three steps, and 8 learn as well as 1"
        if model.discriminator != "own":
            chooser.choose("penalty_interval", 4, "lazy: the heads on features are small")
        else:
            chooser.choose("penalty_interval", 16 if style else 8, "lazy, as StyleGAN2" if style else reason)
    if style and side > 32:
        chooser.choose("path_length", 2.0, "equal steps in w change pictures equally")
        chooser.choose("style_mixing", 0.9, "layers must not rely on each other, as StyleGAN2")
    else:
        chooser.settle("path_length", 0.0, "off")
        chooser.settle("style_mixing", 0.0, "off")
    if model.model == "skip" and model.discriminator == "own":
        chooser.choose("reconstruction", 1.0, "the discriminator must describe pictures, not remember them")
    else:
        chooser.settle("reconstruction", 0.0, "off")
    chooser.settle("label_smoothing", 0.0, "off")
    chooser.settle("label_noise", 0.0, "off")


def choose_update(chooser: Chooser, traits: Traits) -> None:
    loss = LOSSES[chooser.values["loss"]]
    if traits.mixes:
        update = chooser.choose("update", "alternating", "its discriminator has batch statistics")
    elif chooser.values["loss"] == "wasserstein" or (chooser.asked.n_critic or 1) > 1:
        update = chooser.choose("update", "alternating", "the critic must be ahead of the generator")
    else:
        reason = "one pass of the discriminator serves both networks"
        update = chooser.choose("update", "joint", reason if loss.rescales else f"{reason}, but for a second backward")
    critic = 5 if chooser.values["loss"] == "wasserstein" and update == "alternating" else 1
    if critic > 1:
        chooser.choose("n_critic", critic, "steps of the critic for one of the generator (Arjovsky et al. 2017)")
    else:
        chooser.settle("n_critic", critic, "one each")


def choose_augmentation(chooser: Chooser, pack: Pack) -> None:
    names = ", ".join(POLICIES[pack.kind])
    probability = augmentation_probability(pack.num_training)
    adaptive = chooser.settle("adaptive", False, "a fixed probability suits short budgets")
    if adaptive:
        chooser.choose("augment", 0.0, f"grows while the discriminator knows its pictures too well: {names}")
        return
    reason = f"{pack.num_training:,} pictures of kind {pack.kind}: {names}"
    chooser.choose("augment", probability, reason if probability else f"{pack.num_training:,} pictures suffice")


def augmentation_probability(num_images: int) -> float:
    """Fewer pictures are memorised sooner, so augmentation grows as they get fewer; never above 0.6 (it would leak)."""
    if num_images >= 20_000:
        return 0.0
    return float(f"{min(0.6, 0.15 * math.log10(200_000 / num_images)):.2g}")


def batch_for(side: float, on_cpu: bool) -> int:
    """Pictures per step: few on a CPU, where steps are dear; by the hundred on a GPU, which would idle otherwise."""
    if on_cpu:
        return 64 if side < TINY else 32 if side <= 64 else 16 if side <= 128 else 8
    return 256 if side <= 32 else 128 if side <= 64 else 64 if side <= 128 else 32 if side <= 256 else 8


def choose_optimiser(chooser: Chooser, model: ModelConfig, on_cpu: bool) -> None:
    side = max(model.height, model.width)
    modern, name = model.model in MODERN, chooser.choose("optimizer", "adam", "the field's usual")
    ranks = world_size()
    usual, reason = batch_for(side, on_cpu), f"usual at {side} pixels"
    if model.discriminator != "own" and on_cpu:
        usual, reason = 16, "8 and 32 gave worse images in the same time"
    batch = chooser.choose("batch", max(usual // ranks, 1) * ranks, reason)
    if batch % ranks:
        raise ConfigError(f"--batch {batch}: expected a multiple of the {ranks} processes")
    rate = rate_for(model) * {"sgd": 10.0, "rmsprop": 0.25}.get(name, 1.0)
    reason = (
        "measured for this network"
        if model.model in ("compact", "light")
        else "a first guess, from short trials on a CPU"
    )
    rate = chooser.choose("lr", rate, reason if modern else "usual for DCGAN")
    chooser.settle("lr_d", rate, "as lr")
    calm = "a calm end: the pictures gain more than from speed"
    chooser.choose("lr_end", 0.1 if modern else 1.0, calm if modern else "constant, as the classic projects")
    chooser.settle("decay_from", 0.3, "of the budget, then the rate falls")
    chooser.settle("warmup", 0.05 if modern else 0.0, "a gentle start" if modern else "none")
    # beta1 = 0: in a game yesterday's direction is no guide (Karras et al. 2018).
    chooser.settle("beta1", 0.0 if modern else 0.5, "no momentum: yesterday's direction is no guide in a game")
    chooser.settle("beta2", 0.99 if modern or name == "rmsprop" else 0.999, "usual")
    chooser.settle("momentum", 0.0, "none")
    chooser.settle("weight_decay", 0.01 if name == "adamw" else 0.0, "usual")
    reason = "images; long enough to smooth, ramped up from the start"
    if model.discriminator != "own":
        chooser.choose("ema", 5_000.0 if on_cpu else 20_000.0, "images: these networks learn fast")
    else:
        chooser.choose("ema", 500_000.0 if modern else 0.0, reason if modern else "off, as the classic projects")


def rate_for(model: ModelConfig) -> float:
    """Adam's learning rate."""
    if model.model == "compact" and max(model.height, model.width) < TINY:
        return 2.5e-3
    if model.magnitude:
        return 2e-2  # the length of its weights does not matter
    return {"compact": 1e-3, "light": 1e-3, "residual": 1e-3, "style": 2e-3, "skip": 1e-3}.get(model.model, 2e-4)


def choose_machine(chooser: Chooser, device: Device) -> None:
    on_gpu = device.torch_device.type == "cuda"
    chooser.choose("device", str(device.torch_device), f"{device.name}: {device.reason}")
    precise = "bf16" if device.bf16 else "fp32"
    chooser.choose("precision", precise, "this device multiplies bf16 faster" if device.bf16 else "fastest here")
    chooser.choose("compile", on_gpu, "a GPU gains from fused kernels" if on_gpu else "eager is as fast on this device")


def choose_micro_batch(chooser: Chooser, generator: Summary, discriminator: Summary, device: Device, least: int) -> int:
    """Halves the micro-batch, to `least`, until the estimate fits the free memory; returns the estimate in bytes."""
    local = chooser.values["batch"] // world_size()
    free = free_memory(device)
    micro = local
    need = memory_needed(generator, discriminator, micro)
    while micro > least and need > MEMORY_SHARE * free:
        micro = -(-micro // 2)
        need = memory_needed(generator, discriminator, micro)
    reason = "the whole batch fits" if micro == local else f"{free / 2**30:.1f} GiB are free"
    micro = chooser.choose("micro_batch", micro, reason)
    if micro > local:
        raise ConfigError(f"--micro-batch {micro}: expected at most the {local} pictures that one process gets")
    return memory_needed(generator, discriminator, micro)


def memory_needed(generator: Summary, discriminator: Summary, micro_batch: int) -> int:
    """Bytes: weights, gradients, two Adam moments, the average; pictures and activations of one micro-batch.

    An adversarial step keeps the generator's activations once and the discriminator's for real and fake; a penalty
    step those of the discriminator four times (forward, backward, and both again): the larger counts. Pictures
    are there a dozen times: real, generated, their augmentations and gradients.
    """
    weights = 5 * generator.parameters + 4 * discriminator.parameters
    pictures = 12 * math.prod(generator.rows[-1].shape)
    adversarial = generator.activations + 2 * discriminator.activations
    return 4 * (weights + micro_batch * (pictures + max(adversarial, 4 * discriminator.activations)))


def free_memory(device: Device) -> int:
    """Bytes that are free on the device now."""
    if device.free is not None:
        return device.free
    if device.torch_device.type == "cuda":
        return torch.cuda.mem_get_info(device.torch_device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # counts what the disk cache would give back, which sysconf does not
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return 4 * 2**30  # unknown: plan for a small machine
