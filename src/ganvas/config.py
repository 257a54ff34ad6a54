"""All options with units and defaults. Does not import torch, so that `ganvas --help` starts fast.

`DataConfig`: how images become a pack. `ModelConfig`: the networks. `TrainOptions`: what was asked of a training; None
means that training/plan.py chooses the value from the data, the device and the budget, and prints the reason.
`TrainConfig`: the complete result.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from ganvas.errors import ConfigError
from ganvas.fields import FRACTION, NOT_NEGATIVE, POSITIVE, Bounds, Registry, check_bounds, option

Fit = Literal["crop", "pad", "stretch"]
Kind = Literal["photo", "face", "digits", "text", "xray", "scan", "comic", "drawing"]
"""Type of the images; selects the augmentations that are safe for them (see augment.py)."""

ConditionKind = Literal["yesno", "category", "several", "number"]
"""Kind of a column of conditions; see conditions.py."""

_ModelSize = Literal["S", "M", "L", "XL"]
"""Size of the residual network (see training/plan.py)."""

_DiscriminatorKind = Literal["own", "features", "both"]
"""Input of the discriminator: pixels, features of a frozen network trained on ImageNet, or both."""

ModelName = Annotated[str, Registry("ganvas.models", "MODELS", grows=True)]
LossName = Annotated[str, Registry("ganvas.losses", "LOSSES", grows=True)]
_PresetName = Annotated[str, Registry("ganvas.presets", "PRESETS")]
_TrackerName = Literal["tensorboard", "wandb", "mlflow", "energy"]
BUDGET_FIELDS = ("minutes", "images", "epochs")
"""A run may get a larger budget of the same unit later."""

_TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".txt")  # of --conditions
MOST_CONDITIONS = 1000  # length of a vector of conditions
MIN_SIZE, MAX_SIZE = 8, 4096  # pixels per side
_PIXELS = Bounds(MIN_SIZE, MAX_SIZE)
_MOST_BLOCK_PIXELS = 4 * MAX_SIZE**2  # blocks x height x width: blocks of some networks store a number per pixel
_Channels = Literal["auto", "gray", "color", "alpha"]
CHANNELS: dict[int, _Channels] = {1: "gray", 3: "color", 4: "alpha"}
"""Option `channels` by the number of channels."""
FULL = (0, 65535)  # black and white of 16 bit images


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images become a pack. The same values and the same images give the same pack."""

    size: str | int | None = None
    """Image size in pixels, 8 to 4096 per side: 64, 800 or 96x128 (height x width). Default: chosen from the images."""
    fit: Fit | None = None
    """How images are brought to that size: crop the centre, pad the border, or stretch.
    Default: the setting of the named data set, else crop."""
    channels: _Channels = "auto"
    """auto: gray images stay gray, and transparency is kept if most images have it. alpha: always keep transparency,
    as a fourth channel."""
    background: str | None = None
    """Colour behind transparent images: white, black, gray or #rrggbb. Default: white for colour, black for gray."""
    levels: str | None = None
    """Pixel values to map to black and white, for images of 16 bits, floating point numbers or 32 bits, e.g. 0-4095,
    0-1.5 or --levels=-160-240; for DICOM files in their units, such as Hounsfield units. Default: 0-65535, or the range
    of the bits in use if no image uses more than 14 bits; for floating point and negative numbers the range of all
    images; for DICOM files their own windows."""
    labels: str | None = None
    """Source of the labels: none, a csv file with the columns file,label, or CelebA attributes (Smiling or
    Smiling,Male). Default: class sub-folders or the labels of the data set."""
    conditions: str | None = None
    """Table (.csv, .tsv, .jsonl, or .txt of CelebA) whose columns together are conditions of the images, instead of
    classes: table.csv for all columns, or table.csv:hair,glasses=yesno,age=number. Kinds: yesno, category, several
    (labels joined by |) and number; default: detected from the values."""
    frames: Literal["first", "all"] = "first"
    """Images to read from a TIFF, GIF, PNG or WebP file with several: the first or all. DICOM files always give all."""
    fps: Annotated[float | None, POSITIVE] = None
    """Frames per second to read from videos (mp4, mov, webm, mkv, avi). Default: 1. Near duplicates are dropped."""
    masks: Literal["skip", "use"] = "skip"
    """Masks and annotations (a folder masks/ beside images/, files x_mask.png beside x.png): skip them, or use them as
    images."""
    split: Literal["train", "test", "all"] = "train"
    """Part to use of a data set that has parts (MNIST, CIFAR, CelebA)."""
    classes: tuple[str, ...] = ()
    """Keep only these classes."""
    limit: int | None = None
    """Keep at most this many images, chosen at random (see --subset-seed); at least 2."""
    files: Path | None = None
    """Text file with one image name per line: keep only these images."""
    subset_seed: Annotated[int, NOT_NEGATIVE] = 0
    """Random seed of the choice made by --limit."""
    kind: Kind | None = None
    """Type of the images; selects mirroring and augmentation. Default: the type of the named data set, else scan for
    gray images, drawing for images with flat areas of colour, and photo for all others."""
    holdout: Annotated[float | None, Bounds(0, 0.5)] = None
    """Fraction of the images held out from training, 0 to 0.5; they are used for evaluation. Default: 0.1, at most
    2,000 images; none for fewer than 40 images."""
    drop_duplicates: bool = False
    """Of images that differ only in compression or brightness, keep one."""
    mask_marks: bool = False
    """Fill burned-in marks, such as the R on X-ray films, from the surrounding pixels."""

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", str(self.size))
            parse_size(self.size)
        if self.levels is not None:
            parse_levels(self.levels)
        if self.conditions is not None:
            parse_conditions(self.conditions)
            if self.labels not in (None, "none"):
                raise ConfigError("--labels and --conditions: give one of them; a class may be a column of conditions")
        if self.limit is not None and self.limit < 2:
            raise ConfigError(f"--limit {self.limit}: at least 2 images are needed")
        check_bounds(self)


def parse_size(size: str | int) -> tuple[int, int]:
    """(height, width) from "64" or "96x128". Raises `ConfigError` outside 8 to 4096 pixels."""
    text = str(size)
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not match:
        raise ConfigError(f"--size {text}: expected a number of pixels such as 64, or height x width such as 96x128")
    height = int(match[1])
    width = int(match[2] or match[1])
    if not all(MIN_SIZE <= side <= MAX_SIZE for side in (height, width)):
        raise ConfigError(f"--size {text}: each side must be between {MIN_SIZE} and {MAX_SIZE} pixels")
    return height, width


_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"


def parse_levels(text: str) -> tuple[float, float]:
    """(black, white) from "0-4095", "0-1.5" or "-160-240". Raises `ConfigError` unless black < white."""
    match = re.fullmatch(f"{_NUMBER}-{_NUMBER}", text.strip())
    low, high = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"--levels {text}: expected two values, black and white, such as 0-4095 or 0-1.5")
    return (int(low) if low.is_integer() else low), (int(high) if high.is_integer() else high)


def parse_conditions(option: str) -> tuple[str, dict[str, ConditionKind | None]]:
    """(file, column -> kind or None to detect it; empty for all columns) of "table.csv:hair,glasses=yesno".

    Raises `ConfigError`.
    """
    file, colon, listed = option.rpartition(":")
    if not colon or not file.lower().endswith(_TABLE_ENDINGS):
        file, listed = option, ""
    if not file.lower().endswith(_TABLE_ENDINGS):
        raise ConfigError(
            f"--conditions {option}: expected a table that ends in {', '.join(_TABLE_ENDINGS)}, perhaps with columns, "
            "such as table.csv:hair,glasses=yesno,age"
        )
    columns: dict[str, ConditionKind | None] = {}
    for part in filter(None, (part.strip() for part in listed.split(","))):
        name, _, kind = part.partition("=")
        if name in columns:
            raise ConfigError(f"--conditions {option}: the column {name!r} is given twice")
        if kind and kind not in get_args(ConditionKind):
            raise ConfigError(
                f"--conditions {option}: {kind!r} is not a kind: use {', '.join(get_args(ConditionKind))}"
            )
        columns[name] = next((known for known in get_args(ConditionKind) if known == kind), None)
    return file, columns


@dataclass(frozen=True)
class ModelConfig:
    """Arguments of `models.build`; saved in the config.json of a model folder.

    The bounds limit the time spent on untrusted files.
    """

    model: str
    height: Annotated[int, _PIXELS]
    width: Annotated[int, _PIXELS]
    channels: Annotated[int, Bounds(1, 4)]
    num_classes: Annotated[int, Bounds(0, 100_000)] = 0
    """0 for a model without classes."""
    z_dim: Annotated[int, Bounds(1, 65_536)] = 64
    base: Annotated[int, Bounds(1, 8_192)] = 32
    """Feature maps of the finest stage that has its own blocks; coarser stages have more."""
    widest: Annotated[int, Bounds(0, 65_536)] = 0
    """Maximum number of feature maps of a stage; 0: the default of the architecture."""
    blocks: Annotated[int, Bounds(1, 16)] = 1
    """Convolution blocks per stage."""
    spectral_norm: bool = False
    """Divide each weight of the discriminator by its largest singular value (Miyato et al. 2018)."""
    discriminator: _DiscriminatorKind = "own"
    """own: discriminator of the architecture; features: heads on a frozen pretrained network; both: use both."""
    num_conditions: Annotated[int, Bounds(0, MOST_CONDITIONS)] = 0
    """Length of the vectors of conditions, which take the place of classes; 0: none."""

    @property
    def label_size(self) -> int:
        """Length of what describes an image to the networks: a one-hot class or a vector of conditions; 0: nothing."""
        return self.num_classes or self.num_conditions

    def __post_init__(self) -> None:
        check_bounds(self, named=str)
        if self.blocks * self.height * self.width > _MOST_BLOCK_PIXELS:
            raise ConfigError(f"blocks {self.blocks}: too many for {self.height}x{self.width} pixels")
        if self.num_classes and self.num_conditions:
            raise ConfigError("num_classes and num_conditions: a model has one of them")


@dataclass(frozen=True, kw_only=True)
class TrainBasics:
    """The options of a training that most users need. Progress is counted in images seen: the real images shown to the
    discriminator."""

    minutes: Annotated[float | None, POSITIVE] = None
    """Train for this many minutes. Learning-rate schedules end with the budget. Default without any budget: 10."""
    images: Annotated[int | None, POSITIVE] = None
    """Train until this many images have been seen."""
    epochs: Annotated[float | None, POSITIVE] = None
    """Train for this many passes over the images."""
    preset: _PresetName | None = None
    """Use the networks, loss and optimiser of a classic project. Other options override it."""
    model: ModelName | None = None
    """Architecture of the networks. Default: light; compact for small images on a CPU (gray up to 40
    pixels, colour below 32), residual for images up to 40 pixels on a GPU."""
    conditional: bool | None = None
    """Train on labels, to generate images of a chosen class. Default: yes if the pack has labels."""
    batch: Annotated[int | None, POSITIVE] = None
    """Images per step, summed over all ranks (processes)."""
    device: str | None = None
    """cpu, cuda, cuda:1 or mps. Default: the fastest available."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Random seed of weights, batches and latents."""
    previews: Annotated[int, POSITIVE] = 40
    """Number of preview grids over the whole budget, more of them at the beginning."""
    track: tuple[_TrackerName, ...] = ()
    """Record the run with experiment trackers: tensorboard (extra track), wandb, mlflow. energy: record the
    energy that it needs, for the model card."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainBasics):
    """Options for experts. None: the plan (training/plan.py) chooses the value and prints its reason."""

    # -- networks --
    discriminator: _DiscriminatorKind | None = None
    """own: discriminator of the architecture; features: heads on a frozen network trained on ImageNet; both."""
    model_size: _ModelSize | None = None
    """Size of the residual model: S, M, L or XL; sets base, widest and blocks."""
    z_dim: Annotated[int | None, POSITIVE] = None
    """Length of the latent vector."""
    base: Annotated[int | None, POSITIVE] = None
    """Feature maps of the finest stage; coarser stages have more. Larger values need more time and memory."""
    widest: Annotated[int | None, NOT_NEGATIVE] = None
    """Maximum number of feature maps of a stage; 0: the default of the architecture."""
    blocks: Annotated[int | None, POSITIVE] = None
    """Convolution blocks per stage."""
    spectral_norm: bool | None = None
    """Divide each weight of the discriminator by its largest singular value."""

    # -- objective --
    loss: LossName | None = None
    """Adversarial loss. Default: relativistic; bce for style and the classic networks."""
    r1: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight (gamma) of the gradient penalty on real images, 0 or more. Raise it if training is unstable."""
    r2: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight (gamma) of the gradient penalty on generated images, 0 or more. Default: equal to r1."""
    r1_features: Annotated[float | None, NOT_NEGATIVE] = None
    """features and both only: initial weight of the gradient penalties of the heads on features."""
    features_lead: Annotated[float, FRACTION] = 0.4
    """features and both only: how clearly the heads may rank real above generated images, 0 to 1. The weight of their
    penalties is adapted to reach this value; 1: constant weight."""
    probe_gamma: bool = False
    """Before training, try 0.1, 1 and 10 times the penalty weight in short runs and use the best."""
    gradient_penalty: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight of the WGAN-GP penalty, which keeps gradient norms between real and generated images near 1. Usual: 10."""
    penalty_interval: Annotated[int | None, POSITIVE] = None
    """Compute penalties every N steps, weighted by N. Larger values are faster."""
    path_length: Annotated[float | None, NOT_NEGATIVE] = None
    """style only: weight of the path-length regularisation, computed every fourth step; 0: off."""
    style_mixing: Annotated[float | None, FRACTION] = None
    """style only: probability, 0 to 1, that a training image is generated from two latents."""
    label_noise: Annotated[float | None, NOT_NEGATIVE] = None
    """Subtract uniform noise of this width from both targets (bce and least-squares); 0: off."""
    augment: Annotated[float | None, FRACTION] = None
    """Probability of each augmentation, 0 to 0.8 (with --adaptive: the initial value). --kind selects them."""
    augment_after: Annotated[float | None, NOT_NEGATIVE] = None
    """Epochs without augmentation; its probability then rises for as many epochs. 0: from the start."""
    adaptive: bool | None = None
    """Raise that probability, up to 0.8, while the discriminator overfits. Useful for small data sets."""

    # -- optimisation --
    micro_batch: Annotated[int | None, POSITIVE] = None
    """Images per forward pass and rank. Lower it to save memory; results stay the same except for rounding."""
    workers: Annotated[int | None, POSITIVE] = None
    """CPU threads that each compute a part of the batch. Default: measured at the start if it may be faster."""
    update: Literal["joint", "alternating"] | None = None
    """joint: update both networks from one discriminator pass; alternating: discriminator first, then generator."""
    n_critic: Annotated[int | None, POSITIVE] = None
    """alternating only: discriminator steps per generator step."""
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] | None = None
    """Optimiser of both networks."""
    lr: Annotated[float | None, POSITIVE] = None
    """Learning rate of the generator, and of the discriminator unless --lr-d is given."""
    lr_d: Annotated[float | None, POSITIVE] = None
    """Learning rate of the discriminator. Default: equal to lr."""
    lr_end: Annotated[float | None, FRACTION] = None
    """Learning rate at the end of the budget, as a fraction of lr, 0 to 1."""
    decay_from: Annotated[float | None, FRACTION] = None
    """Fraction of the budget, 0 to 1, after which the learning rate decays linearly to lr_end."""
    warmup: Annotated[float | None, FRACTION] = None
    """Fraction of the budget, 0 to 1, during which the learning rate rises from 0."""
    beta1: Annotated[float | None, FRACTION] = None
    """Decay of Adam's first moment, 0 to 1."""
    beta2: Annotated[float | None, FRACTION] = None
    """Decay of Adam's second moment, 0 to 1; for rmsprop the smoothing constant."""
    momentum: Annotated[float | None, FRACTION] = None
    """Momentum of sgd and rmsprop, 0 to 1."""
    weight_decay: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight decay of adamw and sgd."""
    ema: Annotated[float | None, NOT_NEGATIVE] = None
    """Longest half-life of the moving average (EMA) of the generator's weights, in images; 0: no averaging."""
    snapshots: Annotated[int, NOT_NEGATIVE] = 0
    """Number of weight snapshots to save for `ganvas average`, which makes an EMA of any length after training."""

    # -- machine --
    precision: Literal["fp32", "bf16"] | None = None
    """bf16: run both networks in bfloat16, except for the output heads (float32); fp32: run everything in float32."""
    compile: bool | None = None
    """Compile both networks with torch.compile."""

    # -- output --
    checkpoint_minutes: Annotated[float, POSITIVE] = 2.0
    """Maximum time between two checkpoints, in minutes."""
    keep: Annotated[int, POSITIVE] = 3
    """Number of newest checkpoints to keep; the best model is kept in addition."""

    def __post_init__(self) -> None:
        budgets = [option(name) for name in BUDGET_FIELDS if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise ConfigError(f"give one budget, not {len(budgets)}: {' and '.join(budgets)}")
        check_bounds(self)

    @property
    def budget(self) -> str:
        """The budget as text, e.g. "5 minutes"."""
        for name in BUDGET_FIELDS:
            if (value := getattr(self, name)) is not None:
                return f"{value:g} {name}" if name != "images" else f"{value:,} images"
        return "no budget"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainOptions):
    """A complete configuration, as the plan makes it from TrainOptions: training needs no further decision.

    The defaults leave out everything that can be left out. micro_batch: None for the whole batch.
    """

    model: ModelName = "light"
    conditional: bool = False
    batch: int = 1
    discriminator: _DiscriminatorKind = "own"
    z_dim: int = 64
    base: int = 32
    widest: int = 0
    blocks: int = 1
    spectral_norm: bool = False
    loss: LossName = "relativistic"
    r1: float = 0.0
    r2: float = 0.0
    r1_features: float = 0.0
    gradient_penalty: float = 0.0
    penalty_interval: int = 1
    path_length: float = 0.0
    style_mixing: float = 0.0
    label_noise: float = 0.0
    augment: float = 0.0
    augment_after: float = 0.0
    adaptive: bool = False
    micro_batch: int | None = None
    update: Literal["joint", "alternating"] = "joint"
    n_critic: int = 1
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    lr: float = 1e-3
    lr_d: float = 1e-3
    lr_end: float = 1.0
    decay_from: float = 0.0
    warmup: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.99
    momentum: float = 0.0
    weight_decay: float = 0.0
    ema: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False


MACHINE_FIELDS = frozenset(
    ("device", "precision", "micro_batch", "workers", "compile", "previews", "checkpoint_minutes", "keep", "track")
)
"""Options that may change when a run resumes: apart from rounding they do not change the result."""
