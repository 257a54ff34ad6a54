"""The residual model: norm-free residual networks after R3GAN (Huang et al. 2024), for any height and width.

Both networks consist of stages. A stage resamples, changes the number of feature maps and applies residual blocks
with grouped convolutions. No operation mixes images, so a seed gives the same image in any batch, and micro-batches
and ranks change only rounding. Fixup initialisation (Zhang et al. 2019) makes deep networks train without
normalisation.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import contract
from ganvas.models.architecture import SMALL_SIDE, Architecture, Defaults, Setting, modern_defaults
from ganvas.models.layers import (
    LEAK,
    LINEAR,
    ClassEmbedding,
    downsample,
    full_precision,
    scaled_init,
    stages,
    upsample,
)

_COARSEST = 7  # maximum shorter side of the start grid
_WIDEST = 8  # maximum feature maps of coarse stages, relative to the finest stage
_GROUP, _LARGEST_GROUP = 16, 64  # feature maps per group of the 3x3 convolutions
SIZES = {"S": (32, 256, 1), "M": (64, 384, 2), "L": (192, 768, 2), "XL": (384, 1024, 2)}
"""Feature maps of the finest stage, most of any stage, blocks per stage."""
_LONG = 120  # minutes of training on a GPU from which size L pays off


def widths(config: ModelConfig, num_stages: int) -> list[int]:
    """Feature maps from coarse to fine: doubling towards the coarse end, at most `widest` or `_WIDEST` times the base.

    Multiples of `_GROUP`: the base is rounded up, `widest` down.
    """
    base = -(-config.base // _GROUP) * _GROUP
    limit = max(config.widest // _GROUP, 1) * _GROUP if config.widest else _WIDEST * base
    return [min(base * 2**level, limit) for level in reversed(range(num_stages))]


def group(maps: int) -> int:
    """Feature maps per group of the 3x3 convolutions in a stage with `maps` maps: 16, 32 or 64, at most a third.

    In bfloat16 a 3x3 convolution in groups of g does 4.5 g operations per byte moved; a data-centre GPU does about 250.
    So groups of 16 are limited by memory there, and groups of 64 do more in the same time. Narrow stages, as used on a
    CPU, keep groups of 16, because a CPU is limited by arithmetic.
    """
    size = _GROUP
    while size < _LARGEST_GROUP and 6 * size <= maps and maps % size == 0:
        size *= 2
    return size


def _convolution(
    before: int,
    after: int,
    scale: float = 1.0,
    kernel: int | tuple[int, int] = 1,
    *,
    padding: int = 0,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """scale: 1 before a leaky ReLU, else LINEAR, times the wanted initial magnitude of the outputs."""
    layer = nn.Conv2d(before, after, kernel, padding=padding, groups=groups, bias=bias)
    scaled_init(layer, scale)
    return layer


def _linear(before: int, after: int) -> nn.Linear:
    """A linear layer that is not followed by a leaky ReLU."""
    layer = nn.Linear(before, after)
    scaled_init(layer, LINEAR)
    return layer


def _embedding(dim: int, label_size: int, norm: float) -> nn.Embedding | None:
    """Embedding with `dim` numbers and the given norm per class or condition; None without labels."""
    if not label_size:
        return None
    layer = ClassEmbedding(label_size, dim)
    nn.init.normal_(layer.weight, std=norm * dim**-0.5)
    return layer


class Block(nn.Module):
    """x + W3 * leaky(W2 (*) leaky(W1 x)): expansion by two, grouped 3x3, projection. W3 starts at zero."""

    def __init__(self, maps: int, config: ModelConfig, num_blocks: int) -> None:
        super().__init__()
        inner = 2 * maps
        # L^(-1 / (2m - 2)) with m = 3 layers in the branch; zero for the last, except with spectral norm.
        fixup = num_blocks**-0.25
        last = LINEAR if config.spectral_norm else 0.0
        self.expand = _convolution(maps, inner, fixup)
        self.mix = _convolution(inner, inner, fixup, 3, padding=1, groups=inner // group(maps))
        self.contract = _convolution(inner, maps, last, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.expand(x), LEAK)
        y = F.leaky_relu(self.mix(y), LEAK)
        return x + self.contract(y)


def _blocks(maps: int, config: ModelConfig, num_stages: int) -> nn.Sequential:
    return nn.Sequential(*(Block(maps, config, config.blocks * num_stages) for _ in range(config.blocks)))


class Generator(contract.Generator):
    """z (N, z_dim) and labels (N,) -> images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.z_dim = config.z_dim
        self.sizes = stages(config.height, config.width, _COARSEST)
        maps = widths(config, len(self.sizes))
        self.embed = _embedding(config.z_dim, config.label_size, config.z_dim**0.5)
        self.scale = _linear(config.z_dim * (2 if config.label_size else 1), maps[0])
        self.basis = nn.Parameter(torch.randn(maps[0], *self.sizes[0]))
        self.change = nn.ModuleList(
            _convolution(before, after, LINEAR, bias=False) for before, after in itertools.pairwise(maps)
        )
        self.blocks = nn.ModuleList(_blocks(number, config, len(maps)) for number in maps)
        self.to_picture = _convolution(maps[-1], config.channels, 0.5 * LINEAR)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return list(self.blocks)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            z = torch.cat([z, self.embed(labels)], dim=1)
        x = self.scale(z)[:, :, None, None] * self.basis  # learned grid, weighted by the latent
        x = self.blocks[0](x.contiguous(memory_format=torch.channels_last))
        for size, change, stage in zip(self.sizes[1:], self.change, self.blocks[1:], strict=True):
            x = stage(upsample(change(x), size))
        with full_precision(x):
            return torch.tanh(self.to_picture(x.to(self.to_picture.weight.dtype)))


class Discriminator(contract.Discriminator):
    """Images (N, C, H, W) in [-1, 1] and labels (N,) -> logits (N,); conditional by projection (Miyato 2018)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = stages(config.height, config.width, _COARSEST)
        maps = widths(config, len(sizes))
        self.from_picture = _convolution(config.channels, maps[-1])
        self.blocks = nn.ModuleList(_blocks(number, config, len(maps)) for number in reversed(maps))
        self.change = nn.ModuleList(
            _convolution(before, after, LINEAR, bias=False) for before, after in itertools.pairwise(maps[::-1])
        )
        # One weight per grid cell and feature map.
        self.gather = _convolution(maps[0], maps[0], LINEAR, sizes[0], groups=maps[0])
        self.head = _linear(maps[0], 1)
        self.classes = _embedding(maps[0], config.label_size, 1.0)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.blocks[0](F.leaky_relu(self.from_picture(images), LEAK))
        for change, stage in zip(self.change, self.blocks[1:], strict=True):
            x = stage(change(downsample(x)))
        with full_precision(x):
            features = self.gather(x.to(self.gather.weight.dtype)).flatten(1)
            logits = self.head(features).squeeze(1)
            if self.classes is not None:
                logits = logits + (features * self.classes(labels)).sum(dim=1)
        return logits


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    return Generator(config), Discriminator(config)


def defaults(setting: Setting) -> Defaults:
    side = setting.longer
    size, why = _usual_size(setting)
    base, widest, blocks = SIZES[setting.model_size or size]
    maps = f"feature maps of size {setting.model_size or size} at {side} pixels"
    return modern_defaults(setting) | {
        "model_size": (size, why),
        "z_dim": (64, "as R3GAN"),
        # Above 64 pixels the base is halved with every doubling; otherwise L needs 121 G multiply-adds at 256.
        "base": (max(32, base * 64 // max(64, side)), maps),
        "widest": (widest, maps),
        "blocks": (blocks, "per stage"),
        "lr": (1e-3, "untuned default"),
    }


def _usual_size(setting: Setting) -> tuple[str, str]:
    """A key of `SIZES` and the reason."""
    if setting.on_cpu or setting.longer >= 512:
        return "S", f"{setting.longer} pixels on a {'CPU' if setting.on_cpu else 'GPU'}"
    if (setting.minutes or 0.0) > _LONG:
        return "L", f"enough time: {setting.minutes:g} minutes on a GPU"
    return "M", "learns faster than L in budgets up to two hours"


def preferred(setting: Setting) -> str | None:
    return f"used up to {SMALL_SIDE - 1} pixels on a GPU" if setting.small and not setting.on_cpu else None


ARCHITECTURE = Architecture(build, "default up to 40 pixels on a GPU", defaults, preferred, sizes=tuple(SIZES))
