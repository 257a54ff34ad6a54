"""Every option, its unit and its default. No torch here, so that `ganvas --help` answers at once.

Three flat dataclasses: how images become a pack (`DataConfig`), what the networks look like
(`ModelConfig`), and how they are trained (`TrainConfig`). `None` means "chosen by training/plan.py
from the data, the device and the budget, and said in one line".
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
"""What the images are; decides which augmentations are harmless (see augment.py)."""

ModelSize = Literal["S", "M", "L", "XL"]
"""Capacity of the residual network (see training/plan.py)."""

DiscriminatorKind = Literal["own", "features", "both"]
"""What the discriminator looks at: pixels, features of a frozen network trained on ImageNet, or both."""

T = TypeVar("T")

MIN_SIZE, MAX_SIZE = 8, 4096  # pixels on one side
FULL = (0, 65535)  # black and white of 16 bit


@dataclass(frozen=True)
class DataConfig:
    """How a source of images becomes a pack. The same values on the same source give the same pack."""

    size: str | None = None
    """Picture size in pixels: 64, 800 or 96x128 (height x width). Default: chosen from the images."""
    fit: Fit | None = None
    """How an image gets its size: crop the middle, pad the border, or stretch.
    Default: the named set's own, else crop."""
    channels: Literal["auto", "gray", "color", "alpha"] = "auto"
    """auto keeps gray images gray, and transparency where most images have it; alpha always keeps it, as a fourth
    channel."""
    background: str | None = None
    """Colour behind transparent images: white, black, gray or #rrggbb. Default: white for colour, black for gray."""
    levels: str | None = None
    """Values of 16 bit images that become black and white, such as 0-4095. Default: 0-65535, but the bits in use
    where no image of the set uses more than 14 of the 16."""
    labels: str | None = None
    """Where labels come from: none, a csv file of file,label, or CelebA attributes (Smiling or Smiling,Male).
    Default: class sub-folders or the data set's own labels."""
    frames: Literal["first", "all"] = "first"
    """Of a TIFF, GIF, PNG or WebP file that holds several images: the first, or all, as DICOM files give."""
    split: Literal["train", "test", "all"] = "train"
    """Which part of a data set that comes in parts (MNIST, CIFAR, CelebA)."""
    classes: tuple[str, ...] = ()
    """Keep only these classes."""
    limit: int | None = None
    """Keep at most this many images, drawn by the seed."""
    files: Path | None = None
    """A text file with one image name per line: keep only these."""
    subset_seed: int = 0
    """Seed of the draw that --limit makes."""
    kind: Kind | None = None
    """What the images are; decides mirroring and augmentation. Default: the named set's own, else scan
    for gray images, drawing for flat areas of colour, and photo."""
    holdout: float | None = None
    """Part of the images set aside and never trained on, 0 to 0.5. Default: a tenth, at most 2,000, none below
    40 images."""
    drop_duplicates: bool = False
    """Keep one of the images that are the same but for compression or brightness."""
    mask_marks: bool = False
    """Fill burned-in marks, such as the R of X-ray films, from their surroundings."""

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
            raise ConfigError(f"--holdout {self.holdout}: expected a part of the images from 0 to 0.5")


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "64" or "96x128"; raises `ConfigError` outside 8 to 4096 pixels."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not match:
        raise ConfigError(f"--size {text}: expected a number of pixels such as 64, or height x width such as 96x128")
    height = int(match[1])
    width = int(match[2] or match[1])
    if not all(MIN_SIZE <= side <= MAX_SIZE for side in (height, width)):
        raise ConfigError(f"--size {text}: each side must be between {MIN_SIZE} and {MAX_SIZE} pixels")
    return height, width


def parse_levels(text: str) -> tuple[int, int]:
    """(black, white) of "0-4095"; raises `ConfigError` unless 0 <= black < white <= 65535."""
    match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if not match or not int(match[1]) < int(match[2]) <= FULL[1]:
        raise ConfigError(f"--levels {text}: expected the values of black and white of 16 bit, such as 0-4095")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class ModelConfig:
    """All that `models.build` needs; written to a model folder's config.json."""

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
    """Most feature maps of any stage; 0: the architecture's own limit."""
    blocks: int = 1
    """Convolution blocks per stage."""
    magnitude: bool = False
    """residual only: magnitude-preserving weights in place of fix-up initialisation."""
    spectral_norm: bool = False
    """Every weight of the discriminator is divided by its largest singular value (Miyato et al. 2018)."""
    discriminator: DiscriminatorKind = "own"
    """own: the architecture's; features: heads on a frozen pretrained network; both: the two together."""

    def __post_init__(self) -> None:
        for name, (least, most) in MODEL_LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"{name} {value!r:.40}: expected a whole number from {least:,} to {most:,}")
        if self.blocks * self.height * self.width > MOST_BLOCK_PIXELS:
            raise ConfigError(f"blocks {self.blocks}: too many for {self.height}x{self.width} pixels")
        for name in ("magnitude", "spectral_norm"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name} {getattr(self, name)!r:.40}: expected true or false")
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
"""Least and greatest numbers of a `ModelConfig`, far from any use: one from a file that is not to be trusted must not
cost more than a moment."""
MOST_BLOCK_PIXELS = 4 * MAX_SIZE**2  # blocks x height x width: the blocks of some networks hold a number for each pixel


def from_dict(cls: Callable[..., T], values: dict[str, Any], where: str) -> T:
    """Build dataclass `cls` from plain JSON values.

    Unknown keys, and values of another type than the field's, raise `ConfigError` naming `where`.
    """
    names = {field.name for field in dataclasses.fields(cls)}  # ty: ignore[invalid-argument-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(f"{where} has fields this version does not know: {', '.join(unknown)}")
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise ConfigError(f"{where} is damaged: {name} is {repr(value)[:40]}; restore it")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except TypeError as error:
        raise ConfigError(f"{where} lacks fields that are needed ({error}): restore it") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type."""
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
    """How the networks are trained. Progress is counted in images seen: one real image shown to D is one image."""

    # -- budget: give one of the three --
    minutes: float | None = None
    """Train for this long; schedules end with the budget. Default when no budget is given: 10."""
    images: int | None = None
    """Train until this many images were seen."""
    epochs: float | None = None
    """Train for this many passes over the pack."""

    # -- networks --
    preset: str | None = None
    """A classic project's networks, objective and optimiser, exactly: dcgan, dcgan128, mlp64, xray800, tf-mnist,
    mnist-upsample, celeba or cifar10. Other options change it."""
    model: str | None = None
    """Architecture: compact, light, residual, style, skip, or a classic one."""
    discriminator: DiscriminatorKind | None = None
    """own: the architecture's discriminator; features: heads on a frozen network trained on ImageNet; both."""
    model_size: ModelSize | None = None
    """Capacity of residual: S, M, L or XL; sets base, widest and blocks."""
    z_dim: int | None = None
    """Length of the latent vector."""
    base: int | None = None
    """Feature maps of the finest stage; coarser stages have more."""
    widest: int | None = None
    """Most feature maps of any stage; 0: the architecture's own limit."""
    blocks: int | None = None
    """Convolution blocks per stage."""
    magnitude: bool | None = None
    """residual only: magnitude-preserving weights in place of fix-up initialisation."""
    spectral_norm: bool | None = None
    """Divide every weight of the discriminator by its largest singular value."""
    conditional: bool | None = None
    """Give both networks the label. Default: when the pack has labels."""

    # -- objective --
    loss: str | None = None
    """Adversarial loss: relativistic, relativistic-average, bce, minimax, least-squares, hinge or wasserstein."""
    r1: float | None = None
    """Weight (gamma) of the gradient penalty on real images."""
    r2: float | None = None
    """Weight (gamma) of the gradient penalty on generated images. Default: as r1."""
    r1_features: float | None = None
    """Weight of the penalties on real and generated images of heads on features, at the start of training."""
    features_lead: float = 0.4
    """How surely heads on features may rank real above generated images, 0 to 1: the weight of their penalties is
    adapted to hold this; 1: constant weight."""
    probe_gamma: bool = False
    """Try a tenth, one and ten times the penalty weight in short runs first, and take the best."""
    gradient_penalty: float | None = None
    """Weight of WGAN-GP's penalty: gradient norms of 1 between real and generated images. Usual: 10."""
    clip: float | None = None
    """Keep every weight of the discriminator within +- this (the first Wasserstein GAN: 0.01); 0: off."""
    penalty: Literal["exact", "finite"] | None = None
    """exact: double backward; finite: a finite difference, for devices without double backward."""
    penalty_interval: int | None = None
    """The penalties are computed in every so many-th step, with as many times the weight."""
    path_length: float | None = None
    """style only: weight of the path-length regularisation, in every fourth step; 0: off."""
    style_mixing: float | None = None
    """style only: probability that two latents share a training image."""
    reconstruction: float | None = None
    """skip only: weight of the images that decoders rebuild from the discriminator's features; 0: off."""
    label_smoothing: float | None = None
    """The discriminator's target for real images is 1 minus this (bce and least-squares)."""
    label_noise: float | None = None
    """Uniform noise of this width is taken from both targets (bce and least-squares)."""
    augment: float | None = None
    """Probability of each augmentation, 0 to 0.8 (adaptive: at the start); the kind of image decides which ones."""
    adaptive: bool | None = None
    """Adapt that probability, up to 0.8, while the discriminator knows its training images too well."""
    adaptive_target: float = 0.6
    """Adaptive augmentation keeps E[sign(D(real))] here."""

    # -- optimisation --
    batch: int | None = None
    """Pictures per step, over all ranks together."""
    micro_batch: int | None = None
    """Pictures per forward pass and rank; a smaller number saves memory and changes nothing else."""
    workers: int | None = None
    """CPU threads that each compute a part of the batch. Default: measured at the start where it may pay."""
    update: Literal["joint", "alternating"] | None = None
    """joint: both networks learn from one pass of the discriminator; alternating: first it, then the generator."""
    n_critic: int | None = None
    """Steps of the discriminator for each of the generator (alternating)."""
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] | None = None
    """Optimiser of both networks."""
    lr: float | None = None
    """Learning rate of the generator, and of the discriminator without --lr-d."""
    lr_d: float | None = None
    """Learning rate of the discriminator (two time scales). Default: as lr."""
    lr_end: float | None = None
    """Learning rate at the end of the budget, as a fraction of lr."""
    decay_from: float | None = None
    """Part of the budget after which the learning rate falls linearly to lr_end."""
    warmup: float | None = None
    """Part of the budget over which the learning rate rises from 0."""
    beta1: float | None = None
    """Adam's first-moment decay."""
    beta2: float | None = None
    """Adam's second-moment decay; RMSprop's smoothing."""
    momentum: float | None = None
    """Momentum of sgd and rmsprop."""
    weight_decay: float | None = None
    """Weight decay of adamw and sgd."""
    ema: float | None = None
    """Longest half-life of the EMA of the generator's weights, in images; 0: no averaging."""
    ema_ramp: float = 0.2
    """The half-life is never longer than this part of the images seen."""
    snapshots: int = 0
    """Pairs of power-function averages kept for `ganvas average`, which makes an EMA of any width afterwards."""

    # -- machine --
    device: str | None = None
    """cpu, cuda, cuda:1 or mps. Default: the fastest there is."""
    precision: Literal["fp32", "bf16"] | None = None
    """bf16 runs the trunk of both networks in bfloat16, heads stay in float32."""
    compile: bool | None = None
    """torch.compile both networks."""
    seed: int = 0
    """Seed of weights, batches and latents."""

    # -- what is kept --
    previews: int = 40
    """Grids drawn over the whole budget, denser at the beginning."""
    checkpoint_minutes: float = 2.0
    """Longest time between two checkpoints."""
    keep: int = 3
    """Newest checkpoints kept (the best one is kept besides)."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder (extra `track`)."""

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
            "ema_ramp",
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
            "clip",
            "path_length",
            "reconstruction",
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
            "label_smoothing",
            "lr_end",
            "warmup",
            "decay_from",
            "beta1",
            "beta2",
            "momentum",
            "ema_ramp",
            "adaptive_target",
            "features_lead",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected a number from 0 to 1")

    @property
    def budget(self) -> str:
        """The budget in words: "5 minutes"."""
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
"""Options that may change between two sessions of one run: they do not change what is learned, but for rounding."""
BUDGET_FIELDS = frozenset({"minutes", "images", "epochs"})
"""A run may be given a larger budget of the same unit later."""


@dataclass(frozen=True)
class Preset:
    """A classic project: the options that make it, and the images that define it (None: any)."""

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
"""What the reference projects share: BCE on logits, constant rates, no average of the weights."""

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
"""The settings of the projects that Ganvas replaces (docs/presets.md)."""
