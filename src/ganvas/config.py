"""Every option, its unit and its default. No torch here, so that `ganvas --help` answers at once.

Three flat dataclasses: how pictures become a pack (`DataConfig`), what the networks look like
(`ModelConfig`), and how they are trained (`TrainConfig`). `None` means "chosen by training/plan.py
from the data, the device and the budget, and said in one line".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ganvas.errors import ConfigError

Fit = Literal["crop", "pad", "stretch"]
Kind = Literal["photo", "face", "digits", "text", "xray", "scan", "comic"]
"""What the pictures are; decides which augmentations are harmless (see augment.py)."""

T = TypeVar("T")

MIN_SIZE, MAX_SIZE = 8, 4096  # pixels on one side


@dataclass(frozen=True)
class DataConfig:
    """How a source of pictures becomes a pack. The same values on the same source give the same pack."""

    size: str | None = None
    """Picture size in pixels: 64, 800 or 96x128 (height x width). Default: chosen from the pictures."""
    fit: Fit | None = None
    """How a picture gets its size: crop the middle, pad the border, or stretch.
    Default: the named set's own, else crop."""
    channels: Literal["auto", "gray", "color", "alpha"] = "auto"
    """auto keeps gray pictures gray; alpha keeps transparency as a fourth channel."""
    background: str | None = None
    """Colour behind transparent pictures: white, black, gray or #rrggbb. Default: white for colour, black for gray."""
    labels: str | None = None
    """Where labels come from: none, a csv file of file,label, or CelebA attributes (Smiling or Smiling,Male).
    Default: class sub-folders or the data set's own labels."""
    split: Literal["train", "test", "all"] = "train"
    """Which part of a data set that comes in parts (MNIST, CIFAR, CelebA)."""
    classes: tuple[str, ...] = ()
    """Keep only these classes."""
    limit: int | None = None
    """Keep at most this many pictures, drawn by the seed."""
    files: Path | None = None
    """A text file with one picture name per line: keep only these."""
    subset_seed: int = 0
    """Seed of the draw that --limit makes."""
    kind: Kind | None = None
    """What the pictures are; decides mirroring and augmentation. Default: the named set's own, else photo
    for colour and scan for gray pictures."""

    def __post_init__(self) -> None:
        if self.size is not None:
            parse_size(self.size)
        if self.limit is not None and self.limit < 2:
            raise ConfigError(f"--limit {self.limit}: at least 2 pictures are needed")
        if self.subset_seed < 0:
            raise ConfigError(f"--subset-seed {self.subset_seed}: expected 0 or more")


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
    blocks: int = 1
    """Convolution blocks per stage."""


def from_dict(cls: Callable[..., T], values: dict[str, Any], where: str) -> T:
    """Build dataclass `cls` from plain JSON values; unknown keys raise `ConfigError` naming `where`."""
    names = {field.name for field in dataclasses.fields(cls)}  # ty: ignore[invalid-argument-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(f"{where} has fields this version does not know: {', '.join(unknown)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where} lacks fields that are needed ({error}): restore it") from error


@dataclass(frozen=True)
class TrainConfig:
    """How the networks are trained. Progress is counted in images seen: one real picture shown to D is one image."""

    # -- budget: give one of the three --
    minutes: float | None = None
    """Train for this long; schedules end with the budget. Default when no budget is given: 10."""
    images: int | None = None
    """Train until this many images were seen."""
    epochs: float | None = None
    """Train for this many passes over the pack."""

    # -- networks --
    model: str | None = None
    """Architecture: compact or residual."""
    z_dim: int | None = None
    """Length of the latent vector."""
    base: int | None = None
    """Feature maps of the finest stage; coarser stages have more."""
    blocks: int | None = None
    """Convolution blocks per stage."""
    conditional: bool | None = None
    """Give both networks the label. Default: when the pack has labels."""

    # -- objective --
    loss: str = "relativistic"
    """Adversarial loss."""
    r1: float | None = None
    """Weight (gamma) of the gradient penalty on real pictures."""
    r2: float | None = None
    """Weight (gamma) of the gradient penalty on generated pictures. Default: as r1."""
    penalty: Literal["exact", "finite"] | None = None
    """exact: double backward; finite: a finite difference, for devices without double backward."""
    penalty_interval: int | None = None
    """The penalties are computed in every so many-th step, with as many times the weight."""
    augment: float | None = None
    """Probability of each augmentation, 0 to 1; which ones follows from the kind of picture."""

    # -- optimisation --
    batch: int | None = None
    """Pictures per step, over all ranks together."""
    micro_batch: int | None = None
    """Pictures per forward pass and rank; a smaller number saves memory and changes nothing else."""
    lr: float | None = None
    """Adam's learning rate for both networks."""
    lr_end: float | None = None
    """Learning rate at the end of the budget, as a fraction of lr."""
    decay_from: float = 0.3
    """Part of the budget after which the learning rate falls linearly to lr_end."""
    warmup: float = 0.05
    """Part of the budget over which the learning rate rises from 0."""
    beta2: float = 0.99
    """Adam's second-moment decay (the first is 0)."""
    ema: float | None = None
    """Longest half-life of the EMA of the generator's weights, in images."""
    ema_ramp: float = 0.2
    """The half-life is never longer than this part of the images seen."""

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
            "lr",
            "penalty_interval",
            "ema",
            "ema_ramp",
            "previews",
            "checkpoint_minutes",
            "keep",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected a number above 0")
        for name in ("r1", "r2", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"--{name} {value}: expected 0 or more")
        for name in ("augment", "lr_end", "warmup", "decay_from", "beta2", "ema_ramp"):
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
    {"device", "micro_batch", "compile", "previews", "checkpoint_minutes", "keep", "tensorboard"}
)
"""Options that may change between two sessions of one run: they do not change what is learned."""
BUDGET_FIELDS = frozenset({"minutes", "images", "epochs"})
"""A run may be given a larger budget of the same unit later."""
