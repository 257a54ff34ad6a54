"""DCGAN (Radford et al. 2015) with the widths and initialisation of the comic-faces project, for 16 pixels and more.

64 pixels: grids of 4, 8, 16, 32 and 64 with 512, 256, 128 and 64 feature maps and the image; each further doubling
adds a stage with twice the maps, up to 1024. Odd sizes are rounded up when halved (45 -> 23 -> 12 -> 6 -> 3): the
generator removes the additional row, the discriminator adds a row of zeros.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError
from ganvas.models import contract
from ganvas.models.architecture import classic
from ganvas.models.layers import LEAK, full_precision, refuse_labels, stages

_SMALLEST = 16  # minimum shorter side in pixels; smaller images would have only one stage
_COARSEST = 4  # maximum shorter side of the start grid
_WIDEST = 1024  # maximum feature maps of a stage


def _widths(config: ModelConfig, num_stages: int) -> list[int]:
    """Feature maps from coarse to fine, without the image: doubling from `config.base` towards the coarse end."""
    widest = config.widest or _WIDEST
    return [min(widest, config.base * 2**level) for level in reversed(range(num_stages))]


class _Up(nn.Module):
    """Doubles the grid and crops it to `size` (height, width)."""

    def __init__(self, before: int, after: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(after)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(_crop(self.conv(x), self.size)))


class Generator(contract.Generator):
    """z (N, z_dim) -> images (N, C, H, W) in [-1, 1]."""

    mixes_images = True  # batch normalisation

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        *grids, self.size = stages(config.height, config.width, _COARSEST)
        maps = _widths(config, len(grids))
        self.start = nn.ConvTranspose2d(config.z_dim, maps[0], grids[0], bias=False)
        self.norm = nn.BatchNorm2d(maps[0])
        pairs = zip(itertools.pairwise(maps), grids[1:], strict=True)
        self.stages = nn.Sequential(*(_Up(before, after, size) for (before, after), size in pairs))
        self.to_picture = nn.ConvTranspose2d(maps[-1], config.channels, 4, 2, 1, bias=False)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return [self.norm, *self.stages]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stages(F.relu(self.norm(self.start(z[:, :, None, None]))))
        with full_precision(x):
            return torch.tanh(_crop(self.to_picture(x.to(self.to_picture.weight.dtype)), self.size))


class _Down(nn.Module):
    """Halves the grid, rounded up."""

    def __init__(self, before: int, after: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(after) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        return F.leaky_relu(self.norm(self.conv(x)), LEAK)


class Discriminator(contract.Discriminator):
    """Images (N, C, H, W) in [-1, 1] -> logits (N,)."""

    mixes_images = True  # batch normalisation

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        grid, *rest = stages(config.height, config.width, _COARSEST)
        maps = [config.channels, *reversed(_widths(config, len(rest)))]
        self.stages = nn.Sequential(
            *(_Down(before, after, norm=level > 0) for level, (before, after) in enumerate(itertools.pairwise(maps)))
        )
        self.head = nn.Conv2d(maps[-1], 1, grid, bias=False)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stages(images)
        with full_precision(x):
            return self.head(x.to(self.head.weight.dtype)).flatten()


def _crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x[:, :, : size[0], : size[1]]


def _initialise(layer: nn.Module) -> None:
    """Convolutions from N(0, 0.02); batch normalisation with gains from N(1, 0.02) and zero bias."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, std=0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, mean=1.0, std=0.02)
        nn.init.zeros_(layer.bias)


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    """Raises `ConfigError` for labels and for images below 16 pixels."""
    refuse_labels(config)
    if min(config.height, config.width) < _SMALLEST:
        raise ConfigError(
            f"--model dcgan: the size is {config.height}x{config.width}, but each side needs at least {_SMALLEST}; "
            "use a larger --size, or --model compact"
        )
    generator, discriminator = Generator(config), Discriminator(config)
    generator.apply(_initialise)
    discriminator.apply(_initialise)
    return generator, discriminator


ARCHITECTURE = classic(build, "DCGAN with the widths of the comic-faces project")
