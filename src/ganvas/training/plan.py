"""From data, device and budget to a complete configuration: what is chosen, and why, in one line each."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganvas.augment import POLICIES
from ganvas.config import ModelConfig, TrainConfig
from ganvas.data.pack import Pack
from ganvas.device import Device, world_size
from ganvas.errors import ConfigError
from ganvas.losses import LOSSES
from ganvas.models import MODELS
from ganvas.models.summary import Summary, summarise_config

DEFAULT_MINUTES = 10.0
MEMORY_SHARE = 0.8  # part of the free memory that a run may plan to use
GAMMA = ((32, 0.05), (64, 2.0), (128, 17.0), (256, 150.0))
"""R3GAN's penalty weights (Huang et al. 2024) by picture side; between them the logarithms are interpolated."""


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


def plan(pack: Pack, asked: TrainConfig, device: Device) -> Plan:
    """Fills every field of `asked` that is None. Values that were asked for are kept, with the reason "asked for"."""
    chooser = Chooser(asked)
    choose_budget(chooser)
    model = choose_model(chooser, pack, device)
    choose_objective(chooser, pack, model)
    choose_optimiser(chooser, pack, model)
    choose_machine(chooser, device)
    generator, discriminator = summarise_config(model)
    memory = choose_micro_batch(chooser, generator, discriminator, device)
    config = dataclasses.replace(asked, **chooser.values)
    return Plan(config, model, chooser.choices, generator, discriminator, memory)


class Chooser:
    """Collects choices; what was asked for wins."""

    def __init__(self, asked: TrainConfig) -> None:
        self.asked, self.values, self.choices = asked, dict[str, Any](), list[Choice]()

    def choose(self, name: str, value: Any, reason: str) -> Any:
        asked = getattr(self.asked, name)
        if asked is not None:
            value, reason = asked, "asked for"
        self.values[name] = value
        self.choices.append(Choice(name, value, reason))
        return value


def choose_budget(chooser: Chooser) -> None:
    if chooser.asked.images is None and chooser.asked.epochs is None:
        chooser.choose("minutes", DEFAULT_MINUTES, "no --minutes, --images or --epochs given")


def choose_model(chooser: Chooser, pack: Pack, device: Device) -> ModelConfig:
    side = max(pack.height, pack.width)
    on_cpu = device.torch_device.type == "cpu"
    if on_cpu:
        name = chooser.choose("model", "compact", "few and coarse convolutions: what a CPU can afford")
    else:
        name = chooser.choose("model", "residual", "norm-free residual blocks: a GPU can afford them")
    if name not in MODELS:
        raise ConfigError(f"--model {name}: expected one of {', '.join(MODELS)}")
    if name == "compact":
        chooser.choose("z_dim", 64, "enough for small pictures")
        tiny = side <= 40
        chooser.choose("base", 16 if tiny else 24, "feature maps, measured on MNIST" if tiny else "feature maps")
    else:
        chooser.choose("z_dim", 64, "as R3GAN")
        base = 16 if on_cpu or side >= 256 else (64 if side <= 64 else 32)
        chooser.choose("base", base, f"feature maps at {side} pixels for {'a CPU' if on_cpu else 'a GPU'}")
    deep = side <= 40 if name == "compact" else not on_cpu
    chooser.choose("blocks", 2 if deep else 1, "per stage; more costs time in proportion")
    labelled = chooser.choose(
        "conditional",
        pack.num_classes > 1,
        f"{pack.num_classes} classes: faster and better" if pack.num_classes > 1 else "the pack has no labels",
    )
    if labelled and pack.num_classes == 0:
        raise ConfigError("--conditional: these pictures have no labels; sort them into one folder per class")
    return ModelConfig(
        model=name,
        height=pack.height,
        width=pack.width,
        channels=pack.channels,
        num_classes=pack.num_classes if labelled else 0,
        z_dim=chooser.values["z_dim"],
        base=chooser.values["base"],
        blocks=chooser.values["blocks"],
    )


def gamma_for(side: float) -> float:
    """R3GAN's penalty weight for pictures of this side (geometric mean of height and width)."""
    points = [(math.log(size), math.log(gamma)) for size, gamma in GAMMA]
    x = math.log(side)
    index = 0 if x < points[1][0] else 1 if x < points[2][0] else 2
    (x0, y0), (x1, y1) = points[index : index + 2]
    slope = (y1 - y0) / (x1 - x0)
    return math.exp(y0 + (x - x0) * slope) if x > points[0][0] else GAMMA[0][1]


def choose_objective(chooser: Chooser, pack: Pack, model: ModelConfig) -> None:
    if chooser.asked.loss not in LOSSES:
        raise ConfigError(f"--loss {chooser.asked.loss}: expected one of {', '.join(LOSSES)}")
    side = math.sqrt(model.height * model.width)
    if model.model == "compact":
        gamma = chooser.choose("r1", 0.05 if side < 48 else 0.1, "measured for this network")
    else:
        gamma = chooser.choose("r1", float(f"{gamma_for(side):.2g}"), f"R3GAN's weight at {side:.0f} pixels")
    chooser.choose("r2", gamma, "as r1")
    chooser.choose("penalty", "exact", "double backward works on this device")
    chooser.choose("penalty_interval", 8, "lazy: the penalty costs as much as three steps, and 8 learn as well as 1")
    probability = augmentation_probability(pack.num_images)
    names = ", ".join(POLICIES[pack.kind])
    reason = (
        f"{pack.num_images:,} pictures of kind {pack.kind}: {names}"
        if probability
        else f"{pack.num_images:,} pictures suffice"
    )
    chooser.choose("augment", probability, reason)


def augmentation_probability(num_images: int) -> float:
    """Fewer pictures are memorised sooner, so augmentation grows as they get fewer; never above 0.6 (it would leak)."""
    if num_images >= 20_000:
        return 0.0
    return float(f"{min(0.6, 0.15 * math.log10(200_000 / num_images)):.2g}")


def choose_optimiser(chooser: Chooser, pack: Pack, model: ModelConfig) -> None:
    side = max(model.height, model.width)
    compact = model.model == "compact"
    batch = 64 if side <= 64 else 32 if side <= 128 else 16 if side <= 256 else 8
    ranks = world_size()
    batch = chooser.choose("batch", max(batch // ranks, 1) * ranks, f"usual at {side} pixels")
    if batch % ranks:
        raise ConfigError(f"--batch {batch}: expected a multiple of the {ranks} processes")
    chooser.choose("lr", 2.5e-3 if compact else 1e-3, "measured for this network")
    chooser.choose("lr_end", 0.1, "a calm end: the pictures gain more than from speed")
    chooser.choose("ema", 500_000.0, "images; long enough to smooth, ramped up from the start")


def choose_machine(chooser: Chooser, device: Device) -> None:
    on_gpu = device.torch_device.type == "cuda"
    chooser.choose("device", str(device.torch_device), f"{device.name}: {device.reason}")
    precise = "bf16" if device.bf16 else "fp32"
    chooser.choose("precision", precise, "this device multiplies bf16 faster" if device.bf16 else "fastest here")
    chooser.choose("compile", on_gpu, "a GPU gains from fused kernels" if on_gpu else "eager is as fast on this device")


def choose_micro_batch(chooser: Chooser, generator: Summary, discriminator: Summary, device: Device) -> int:
    """Halves the micro-batch until the estimate fits the free memory; returns the estimate in bytes."""
    local = chooser.values["batch"] // world_size()
    free = free_memory(device)
    micro = local
    need = memory_needed(generator, discriminator, micro)
    while micro > 1 and need > MEMORY_SHARE * free:
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
    if device.torch_device.type == "cuda":
        return torch.cuda.mem_get_info(device.torch_device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # counts what the disk cache would give back, which sysconf does not
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return 4 * 2**30  # unknown: plan for a small machine
