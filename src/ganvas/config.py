"""All options with units and defaults. Does not import torch, so that `ganvas --help` starts fast.

`DataConfig`: how images become a pack. `ModelConfig`: the networks. `TrainConfig`: the training.
`None`: training/plan.py chooses the value from the data, the device and the budget, and prints the reason.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ganvas.errors import ConfigError

Fit = Literal["crop", "pad", "stretch"]
Kind = Literal["photo", "face", "digits", "text", "xray", "scan", "comic", "drawing"]
"""Type of the images; selects the augmentations that are safe for them (see augment.py)."""

ModelSize = Literal["S", "M", "L", "XL"]
"""Size of the residual network (see training/plan.py)."""

DiscriminatorKind = Literal["own", "features", "both"]
"""Input of the discriminator: pixels, features of a frozen network trained on ImageNet, or both."""

T = TypeVar("T")

MIN_SIZE, MAX_SIZE = 8, 4096  # pixels per side
FULL = (0, 65535)  # black and white of 16 bit images


@dataclass(frozen=True)
class DataConfig:
    """How images become a pack. The same values and the same images give the same pack."""

    size: str | None = None
    """Image size in pixels, 8 to 4096 per side: 64, 800 or 96x128 (height x width). Default: chosen from the images."""
    fit: Fit | None = None
    """How images are brought to that size: crop the centre, pad the border, or stretch.
    Default: the setting of the named data set, else crop."""
    channels: Literal["auto", "gray", "color", "alpha"] = "auto"
    """auto: gray images stay gray, and transparency is kept if most images have it. alpha: always keep transparency,
    as a fourth channel."""
    background: str | None = None
    """Colour behind transparent images: white, black, gray or #rrggbb. Default: white for colour, black for gray."""
    levels: str | None = None
    """Pixel values of 16 bit images to map to black and white, e.g. 0-4095. Default: 0-65535, or the range of the bits
    in use if no image uses more than 14 bits."""
    labels: str | None = None
    """Source of the labels: none, a csv file with the columns file,label, or CelebA attributes (Smiling or
    Smiling,Male). Default: class sub-folders or the labels of the data set."""
    frames: Literal["first", "all"] = "first"
    """Images to read from a TIFF, GIF, PNG or WebP file with several: the first or all. DICOM files always give all."""
    split: Literal["train", "test", "all"] = "train"
    """Part to use of a data set that has parts (MNIST, CIFAR, CelebA)."""
    classes: tuple[str, ...] = ()
    """Keep only these classes."""
    limit: int | None = None
    """Keep at most this many images, chosen at random (see --subset-seed); at least 2."""
    files: Path | None = None
    """Text file with one image name per line: keep only these images."""
    subset_seed: int = 0
    """Random seed of the choice made by --limit."""
    kind: Kind | None = None
    """Type of the images; selects mirroring and augmentation. Default: the type of the named data set, else scan for
    gray images, drawing for images with flat areas of colour, and photo for all others."""
    holdout: float | None = None
    """Fraction of the images held out from training, 0 to 0.5; they are used for evaluation. Default: 0.1, at most
    2,000 images; none for fewer than 40 images."""
    drop_duplicates: bool = False
    """Of images that differ only in compression or brightness, keep one."""
    mask_marks: bool = False
    """Fill burned-in marks, such as the R on X-ray films, from the surrounding pixels."""

    def __post_init__(self) -> None:
        if self.size is not None:
            parse_size(self.size)
        if self.levels is not None:
            parse_levels(self.levels)
        if self.limit is not None and self.limit < 2:
            raise ConfigError(f"--limit {self.limit}: at least 2 images are needed")
        if self.subset_seed < 0:
            raise ConfigError(f"--subset-seed {self.subset_seed}: expected 0 or more")
        if self.holdout is not None and not 0 <= self.holdout <= 0.5:
            raise ConfigError(f"--holdout {self.holdout}: expected a fraction of the images from 0 to 0.5")


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) from "64" or "96x128". Raises `ConfigError` outside 8 to 4096 pixels."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not match:
        raise ConfigError(f"--size {text}: expected a number of pixels such as 64, or height x width such as 96x128")
    height = int(match[1])
    width = int(match[2] or match[1])
    if not all(MIN_SIZE <= side <= MAX_SIZE for side in (height, width)):
        raise ConfigError(f"--size {text}: each side must be between {MIN_SIZE} and {MAX_SIZE} pixels")
    return height, width


def parse_levels(text: str) -> tuple[int, int]:
    """(black, white) from "0-4095". Raises `ConfigError` unless 0 <= black < white <= 65535."""
    match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if not match or not int(match[1]) < int(match[2]) <= FULL[1]:
        raise ConfigError(f"--levels {text}: expected two 16 bit values, black and white, such as 0-4095")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class ModelConfig:
    """Arguments of `models.build`; saved in the config.json of a model folder."""

    model: str
    height: int
    width: int
    channels: int
    num_classes: int = 0
    """0 for an unconditional model."""
    z_dim: int = 64
    base: int = 32
    """Feature maps of the finest stage that has its own blocks; coarser stages have more."""
    widest: int = 0
    """Maximum number of feature maps of a stage; 0: the default of the architecture."""
    blocks: int = 1
    """Convolution blocks per stage."""
    spectral_norm: bool = False
    """Divide each weight of the discriminator by its largest singular value (Miyato et al. 2018)."""
    discriminator: DiscriminatorKind = "own"
    """own: discriminator of the architecture; features: heads on a frozen pretrained network; both: use both."""

    def __post_init__(self) -> None:
        for name, (least, most) in MODEL_LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"{name} {value!r:.40}: expected a whole number from {least:,} to {most:,}")
        if self.blocks * self.height * self.width > MOST_BLOCK_PIXELS:
            raise ConfigError(f"blocks {self.blocks}: too many for {self.height}x{self.width} pixels")
        if type(self.spectral_norm) is not bool:
            raise ConfigError(f"spectral_norm {self.spectral_norm!r:.40}: expected true or false")
        for name, known in (("model", None), ("discriminator", get_args(DiscriminatorKind))):
            value = getattr(self, name)
            if not isinstance(value, str) or (known is not None and value not in known):
                raise ConfigError(f"{name} {value!r:.40}: expected {'a name' if known is None else ', '.join(known)}")


MODEL_LIMITS = {
    "height": (MIN_SIZE, MAX_SIZE),
    "width": (MIN_SIZE, MAX_SIZE),
    "channels": (1, 4),
    "num_classes": (0, 100_000),
    "z_dim": (1, 65_536),
    "base": (1, 8_192),
    "widest": (0, 65_536),
    "blocks": (1, 16),
}
"""Minimum and maximum values in a `ModelConfig`. They only limit the time spent on untrusted files."""
MOST_BLOCK_PIXELS = 4 * MAX_SIZE**2  # blocks x height x width: blocks of some networks store a number per pixel


DROPPED: dict[str, Any] = {
    "adaptive_target": 0.6,
    "clip": 0.0,
    "ema_ramp": 0.2,
    "label_smoothing": 0.0,
    "magnitude": False,
    "penalty": "exact",
    "reconstruction": 0.0,
}
"""Options that no longer exist, with the value that training now always uses: files with it can still be read."""


def from_dict(cls: Callable[..., T], values: dict[str, Any], where: str) -> T:
    """Build the dataclass `cls` from plain JSON values.

    Raises `ConfigError`, with `where` in the message, for unknown keys and values of the wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is damaged: it holds {repr(values)[:40]} instead of named values; restore it")
    values = {name: one for name, one in values.items() if name not in DROPPED or one not in (None, DROPPED[name])}
    names = {field.name for field in dataclasses.fields(cls)}  # ty: ignore[invalid-argument-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(f"{where} has fields that this version of Ganvas does not know: {', '.join(unknown)}")
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise ConfigError(f"{where} is damaged: {name} is {repr(value)[:40]}; restore the file")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except TypeError as error:
        raise ConfigError(f"{where} lacks required fields ({error}): restore the file") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON has the type `hint`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(one, arguments[0]) for one in value)
    if hint is float:
        return type(value) in (int, float)
    if hint is Path:
        return isinstance(value, str | Path)
    return type(value) is hint if hint in (int, bool, str) else isinstance(value, hint)


@dataclass(frozen=True)
class TrainConfig:
    """How the networks are trained. Progress is counted in images seen: the real images shown to the discriminator."""

    # -- budget: choose one of the three --
    minutes: float | None = None
    """Train for this many minutes. Learning-rate schedules end with the budget. Default without any budget: 10."""
    images: int | None = None
    """Train until this many images have been seen."""
    epochs: float | None = None
    """Train for this many passes over the images."""

    # -- networks --
    preset: str | None = None
    """Use the networks, loss and optimiser of a classic project: dcgan, dcgan128, mlp64, xray800, tf-mnist,
    mnist-upsample, celeba or cifar10. Other options override it."""
    model: str | None = None
    """Architecture, such as light, residual or style; an unknown name lists all."""
    discriminator: DiscriminatorKind | None = None
    """own: discriminator of the architecture; features: heads on a frozen network trained on ImageNet; both."""
    model_size: ModelSize | None = None
    """Size of the residual model: S, M, L or XL; sets base, widest and blocks."""
    z_dim: int | None = None
    """Length of the latent vector."""
    base: int | None = None
    """Feature maps of the finest stage; coarser stages have more. Larger values need more time and memory."""
    widest: int | None = None
    """Maximum number of feature maps of a stage; 0: the default of the architecture."""
    blocks: int | None = None
    """Convolution blocks per stage."""
    spectral_norm: bool | None = None
    """Divide each weight of the discriminator by its largest singular value."""
    conditional: bool | None = None
    """Train on labels, to generate images of a chosen class. Default: yes if the pack has labels."""

    # -- objective --
    loss: str | None = None
    """Adversarial loss, such as relativistic, bce, hinge or wasserstein; an unknown name lists all."""
    r1: float | None = None
    """Weight (gamma) of the gradient penalty on real images, 0 or more. Raise it if training is unstable."""
    r2: float | None = None
    """Weight (gamma) of the gradient penalty on generated images, 0 or more. Default: equal to r1."""
    r1_features: float | None = None
    """features and both only: initial weight of the gradient penalties of the heads on features."""
    features_lead: float = 0.4
    """features and both only: how clearly the heads may rank real above generated images, 0 to 1. The weight of their
    penalties is adapted to reach this value; 1: constant weight."""
    probe_gamma: bool = False
    """Before training, try 0.1, 1 and 10 times the penalty weight in short runs and use the best."""
    gradient_penalty: float | None = None
    """Weight of the WGAN-GP penalty, which keeps gradient norms between real and generated images near 1. Usual: 10."""
    penalty_interval: int | None = None
    """Compute penalties every N steps, weighted by N. Larger values are faster."""
    path_length: float | None = None
    """style only: weight of the path-length regularisation, computed every fourth step; 0: off."""
    style_mixing: float | None = None
    """style only: probability, 0 to 1, that a training image is generated from two latents."""
    label_noise: float | None = None
    """Subtract uniform noise of this width from both targets (bce and least-squares); 0: off."""
    augment: float | None = None
    """Probability of each augmentation, 0 to 0.8 (with --adaptive: the initial value). --kind selects them."""
    adaptive: bool | None = None
    """Raise that probability, up to 0.8, while the discriminator overfits. Useful for small data sets."""

    # -- optimisation --
    batch: int | None = None
    """Images per step, summed over all ranks (processes)."""
    micro_batch: int | None = None
    """Images per forward pass and rank. Lower it to save memory; results stay the same except for rounding."""
    workers: int | None = None
    """CPU threads that each compute a part of the batch. Default: measured at the start if it may be faster."""
    update: Literal["joint", "alternating"] | None = None
    """joint: update both networks from one discriminator pass; alternating: discriminator first, then generator."""
    n_critic: int | None = None
    """alternating only: discriminator steps per generator step."""
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] | None = None
    """Optimiser of both networks."""
    lr: float | None = None
    """Learning rate of the generator, and of the discriminator unless --lr-d is given."""
    lr_d: float | None = None
    """Learning rate of the discriminator. Default: equal to lr."""
    lr_end: float | None = None
    """Learning rate at the end of the budget, as a fraction of lr, 0 to 1."""
    decay_from: float | None = None
    """Fraction of the budget, 0 to 1, after which the learning rate decays linearly to lr_end."""
    warmup: float | None = None
    """Fraction of the budget, 0 to 1, during which the learning rate rises from 0."""
    beta1: float | None = None
    """Decay of Adam's first moment, 0 to 1."""
    beta2: float | None = None
    """Decay of Adam's second moment, 0 to 1; for rmsprop the smoothing constant."""
    momentum: float | None = None
    """Momentum of sgd and rmsprop, 0 to 1."""
    weight_decay: float | None = None
    """Weight decay of adamw and sgd."""
    ema: float | None = None
    """Longest half-life of the moving average (EMA) of the generator's weights, in images; 0: no averaging."""
    snapshots: int = 0
    """Number of weight snapshots to save for `ganvas average`, which makes an EMA of any length after training."""

    # -- machine --
    device: str | None = None
    """cpu, cuda, cuda:1 or mps. Default: the fastest available."""
    precision: Literal["fp32", "bf16"] | None = None
    """bf16: run both networks in bfloat16, except for the output heads (float32); fp32: run everything in float32."""
    compile: bool | None = None
    """Compile both networks with torch.compile."""
    seed: int = 0
    """Random seed of weights, batches and latents."""

    # -- output --
    previews: int = 40
    """Number of preview grids over the whole budget, more of them at the beginning."""
    checkpoint_minutes: float = 2.0
    """Maximum time between two checkpoints, in minutes."""
    keep: int = 3
    """Number of newest checkpoints to keep; the best model is kept in addition."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder (extra `track`)."""

    def __post_init__(self) -> None:
        budgets = [name for name in ("minutes", "images", "epochs") if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise ConfigError(f"give one budget, not {len(budgets)}: {' and '.join('--' + name for name in budgets)}")
        for name in (
            "minutes",
            "images",
            "epochs",
            "z_dim",
            "base",
            "blocks",
            "batch",
            "micro_batch",
            "workers",
            "lr",
            "lr_d",
            "penalty_interval",
            "n_critic",
            "previews",
            "checkpoint_minutes",
            "keep",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected a number above 0")
        for name in (
            "r1",
            "r2",
            "r1_features",
            "gradient_penalty",
            "path_length",
            "label_noise",
            "weight_decay",
            "widest",
            "ema",
            "snapshots",
            "seed",
        ):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected 0 or more")
        for name in (
            "augment",
            "style_mixing",
            "lr_end",
            "warmup",
            "decay_from",
            "beta1",
            "beta2",
            "momentum",
            "features_lead",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected a number from 0 to 1")

    @property
    def budget(self) -> str:
        """The budget as text, e.g. "5 minutes"."""
        for name in ("minutes", "images", "epochs"):
            if (value := getattr(self, name)) is not None:
                return f"{value:g} {name}" if name != "images" else f"{value:,} images"
        return "no budget"


MACHINE_FIELDS = frozenset(
    {
        "device",
        "precision",
        "micro_batch",
        "workers",
        "compile",
        "previews",
        "checkpoint_minutes",
        "keep",
        "tensorboard",
    }
)
"""Options that may change when a run resumes: apart from rounding they do not change the result."""
BUDGET_FIELDS = frozenset({"minutes", "images", "epochs"})
"""A run may get a larger budget of the same unit later."""


@dataclass(frozen=True)
class Preset:
    """A classic project: its options and the images that it needs (None: any)."""

    title: str
    options: dict[str, Any]
    size: str | None = None
    channels: Literal["gray", "color"] | None = None


_CLASSIC: dict[str, Any] = {
    "loss": "bce",
    "r1": 0.0,
    "r2": 0.0,
    "gradient_penalty": 0.0,
    "augment": 0.0,
    "adaptive": False,
    "conditional": False,
    "optimizer": "adam",
    "beta1": 0.9,
    "beta2": 0.999,
    "lr_end": 1.0,
    "warmup": 0.0,
    "ema": 0.0,
    "update": "alternating",
}
"""Common to the reference projects: BCE on logits, constant learning rates, no average of the weights."""

PRESETS: dict[str, Preset] = {
    "mlp64": Preset(
        "the multilayer perceptron of the Simpsons and MedNIST projects, 64x64 colour",
        _CLASSIC | {"model": "mlp", "z_dim": 120, "lr": 1.5e-4, "batch": 32},
        "64",
        "color",
    ),
    "xray800": Preset(
        "the transposed convolutions of the chest X-ray project, 800x800 gray",
        _CLASSIC | {"model": "xray", "z_dim": 100, "lr": 1e-4, "batch": 8, "update": "joint"},
        "800",
        "gray",
    ),
    "tf-mnist": Preset(
        "the DCGAN of the TensorFlow tutorial, 28x28 gray; the MNIST project ran it with --lr 1e-5",
        _CLASSIC | {"model": "tf-mnist", "z_dim": 100, "lr": 1e-4, "batch": 256, "update": "joint"},
        "28",
        "gray",
    ),
    "mnist-upsample": Preset(
        "upsampling generator and dense discriminator, 28x28 gray",
        _CLASSIC | {"model": "mnist-upsample", "z_dim": 100, "lr": 2e-4, "beta1": 0.5, "batch": 128},
        "28",
        "gray",
    ),
    "celeba": Preset(
        "transposed convolutions without normalisation, noisy labels, 64x64 colour",
        _CLASSIC | {"model": "celeba", "z_dim": 128, "lr": 1e-4, "batch": 32, "label_noise": 0.05},
        "64",
        "color",
    ),
    "cifar10": Preset(
        "transposed convolutions without normalisation, 32x32 colour",
        _CLASSIC | {"model": "cifar10", "z_dim": 100, "lr": 2e-4, "beta1": 0.5, "batch": 128},
        "32",
        "color",
    ),
    "dcgan": Preset(
        "DCGAN (Radford et al. 2015) as in the comic-faces project, any size",
        _CLASSIC | {"model": "dcgan", "z_dim": 100, "base": 64, "lr": 2e-4, "beta1": 0.5, "batch": 128},
    ),
    "dcgan128": Preset(
        "DCGAN with one more stage, 128x128",
        _CLASSIC | {"model": "dcgan", "z_dim": 100, "base": 64, "lr": 2e-4, "beta1": 0.5, "batch": 128},
        "128",
    ),
}
"""Settings of the projects that Ganvas replaces (docs/presets.md)."""
