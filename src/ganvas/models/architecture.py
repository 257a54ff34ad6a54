"""What an architecture consists of: how to build its networks, when to use it, and its default options with reasons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganvas.config import ModelConfig
from ganvas.models.contract import Discriminator, Generator

SMALL_SIDE = 41  # pixels; images with smaller sides need other networks and options than larger ones
_COLOUR = 32  # pixels; colour images of at least this size are better with pretrained features (RESULTS.md: CIFAR-10)
GAMMA = ((32, 0.05), (64, 2.0), (128, 17.0), (256, 150.0))
"""R3GAN's penalty weights (Huang et al. 2024) by image side; logarithms are interpolated in between."""

_Networks = tuple[Generator, Discriminator]
Defaults = dict[str, tuple[Any, str]]
"""Value of an option of training (a field of TrainOptions) and the reason for it."""


@dataclass(frozen=True)
class Setting:
    """What defaults may depend on; the options are None until they are chosen."""

    height: int
    width: int
    on_cpu: bool
    minutes: float | None = None
    """Budget, if it is one of time."""
    batch: int | None = None
    model_size: str | None = None
    seen: tuple[int, int] | None = None
    """Size of the images that the discriminator on pixels sees, if it does not see whole images."""
    channels: int = 1
    """Of the images."""

    @property
    def longer(self) -> int:
        """Longer side in pixels."""
        return max(self.height, self.width)

    @property
    def small(self) -> bool:
        return self.longer < SMALL_SIDE

    @property
    def for_compact(self) -> bool:
        """Whether `compact` is the default: on a CPU, up to 40 pixels, in colour below 32 pixels."""
        return self.on_cpu and self.small and (self.channels == 1 or self.longer < _COLOUR)

    @property
    def side(self) -> float:
        """Geometric mean of the sides that the discriminator on pixels sees."""
        return math.sqrt(math.prod(self.seen or (self.height, self.width)))


def modern_defaults(setting: Setting) -> Defaults:
    """Defaults of a network that nothing more is known about. Architectures replace some of them."""
    return {
        "discriminator": ("own", "pixels only"),
        "z_dim": (64, "enough for small images"),
        "base": (64, "feature maps"),
        "widest": (0, "the architecture's own limit"),
        "blocks": (1, "per stage"),
        "loss": ("relativistic", "compares real and generated images in pairs; reduces mode collapse (R3GAN)"),
        "r1": (gamma_for(setting.side), f"R3GAN's value at {setting.side:.0f} pixels"),
        "penalty_interval": (8, "every 8th step: as good as every step, and much faster"),
        "path_length": (0.0, "off"),
        "style_mixing": (0.0, "off"),
        "lr": (2e-4, "untuned default"),
        "lr_end": (0.1, "learning rate decays to a tenth: better final images"),
        "warmup": (0.05, "of the budget; avoids divergence at the start"),
        "beta1": (0.0, "usual for GANs (Karras et al. 2018)"),
        "beta2": (0.99, "usual"),
        "ema": (500_000.0, "half-life in images, shorter at the start"),
    }


def classic_defaults(setting: Setting) -> Defaults:
    """Defaults of the reference projects; their presets (presets.py) have more exact ones."""
    return modern_defaults(setting) | {
        "loss": ("bce", "as in the classic projects"),
        "r1": (0.0, "off, as in the classic projects"),
        "lr": (2e-4, "usual for DCGAN"),
        "lr_end": (1.0, "constant, as in the classic projects"),
        "warmup": (0.0, "none"),
        "beta1": (0.5, "usual for GANs (Karras et al. 2018)"),
        "beta2": (0.999, "usual"),
        "ema": (0.0, "off, as in the classic projects"),
    }


def _never(setting: Setting) -> None:
    """For architectures that are used only if asked for."""


@dataclass(frozen=True)
class Architecture:
    """An entry of `models.MODELS`, under the name of `--model`. Its name changes nothing."""

    build: Callable[[ModelConfig], _Networks]
    """Generator and discriminator on pixels. Raises ConfigError for sizes or labels that it does not support."""
    about: str
    """What it is for, in one sentence without a full stop."""
    defaults: Callable[[Setting], Defaults] = modern_defaults
    preferred: Callable[[Setting], str | None] = _never
    """The reason to use it if no model is given; the first architecture with a reason is used."""
    based_on: Callable[[int], int] = int
    """Height in pixels of the grid that has `base` feature maps, from that of the image; coarser grids have more."""
    sizes: tuple[str, ...] = ()
    """Values of `--model-size`; `defaults` then has a `model_size`."""
    classic: bool = False
    """An exact network of a reference project: no labels, no heads on features, most only for certain sizes."""


def classic(build: Callable[[ModelConfig], _Networks], about: str) -> Architecture:
    """A network of a reference project."""
    return Architecture(build, about, classic_defaults, classic=True)


def gamma_for(side: float) -> float:
    """R3GAN's penalty weight for images of this side (geometric mean of height and width).

    Constant below its points, log-log interpolation between them, proportional to the pixels above (StyleGAN2-ADA).
    """
    sizes, gammas = zip(*GAMMA, strict=True)
    if side >= sizes[-1]:
        return gammas[-1] * (side / sizes[-1]) ** 2
    return math.exp(float(np.interp(math.log(side), np.log(sizes), np.log(gammas))))


def batch_for(side: float, on_cpu: bool) -> int:
    """Images per step: small on a CPU, where a step is slow; large on a GPU, so that it is fully used."""
    if on_cpu:
        return 64 if side < SMALL_SIDE else 32 if side <= 64 else 16 if side <= 128 else 8
    return 256 if side <= 32 else 128 if side <= 64 else 64 if side <= 128 else 32 if side <= 256 else 8
