"""The modern default: norm-free residual networks after R3GAN (Huang et al. 2024), for any height and width.

Both networks are stacks of stages; a stage resamples, changes the number of feature maps and applies residual blocks
with grouped convolutions. Without normalisation no operation mixes pictures: a seed gives the same picture in any
batch, and micro-batches and ranks change nothing but rounding. Fix-up initialisation (Zhang et al. 2019) keeps the
depth trainable.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models.layers import LEAK, LINEAR, downsample, full_precision, scaled_init, stages, upsample

COARSEST = 7  # longest allowed shorter side of the start grid
WIDEST = 8  # the coarsest stages have at most this many times the finest stage's feature maps
GROUP = 16  # feature maps per group of the 3x3 convolutions


def widths(config: ModelConfig, num_stages: int) -> list[int]:
    """Feature maps from coarse to fine: doubling towards the coarse end, at most `WIDEST` times the base."""
    base = -(-config.base // GROUP) * GROUP
    return [base * min(WIDEST, 2**level) for level in reversed(range(num_stages))]


class Block(nn.Module):
    """x + W3 * leaky(W2 (*) leaky(W1 x)): expand by two, 3x3 in groups, back; W3 starts at zero."""

    def __init__(self, channels: int, num_blocks: int) -> None:
        super().__init__()
        inner = 2 * channels
        fixup = num_blocks**-0.25  # L^(-1 / (2m - 2)) with m = 3 layers in the branch
        self.expand = scaled_init(nn.Conv2d(channels, inner, 1), fixup)
        self.mix = scaled_init(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // GROUP), fixup)
        self.contract = scaled_init(nn.Conv2d(inner, channels, 1, bias=False), 0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.expand(x), LEAK)
        y = F.leaky_relu(self.mix(y), LEAK)
        return x + self.contract(y)


def blocks(channels: int, config: ModelConfig, num_stages: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, config.blocks * num_stages) for _ in range(config.blocks)))


class Generator(nn.Module):
    """z (N, z_dim) and labels (N,) -> pictures (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.z_dim, self.num_classes = config.z_dim, config.num_classes
        self.sizes = stages(config.height, config.width, COARSEST)
        maps = widths(config, len(self.sizes))
        self.embed = nn.Embedding(config.num_classes, config.z_dim) if config.num_classes else None
        self.scale = scaled_init(nn.Linear(config.z_dim * (2 if config.num_classes else 1), maps[0]), LINEAR)
        self.basis = nn.Parameter(torch.randn(maps[0], *self.sizes[0]))
        self.change = nn.ModuleList(
            scaled_init(nn.Conv2d(before, after, 1, bias=False), LINEAR) for before, after in itertools.pairwise(maps)
        )
        self.blocks = nn.ModuleList(blocks(channels, config, len(maps)) for channels in maps)
        self.to_picture = scaled_init(nn.Conv2d(maps[-1], config.channels, 1), 0.5 * LINEAR)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            z = torch.cat([z, self.embed(labels)], dim=1)
        x = self.scale(z)[:, :, None, None] * self.basis  # a learned grid, weighted by the latent
        x = self.blocks[0](x)
        for size, change, stage in zip(self.sizes[1:], self.change, self.blocks[1:], strict=True):
            x = stage(upsample(change(x), size))
        with full_precision(x):
            return torch.tanh(self.to_picture(x.to(self.to_picture.weight.dtype)))


class Discriminator(nn.Module):
    """Pictures (N, C, H, W) in [-1, 1] and labels (N,) -> logits (N,); conditional by projection (Miyato 2018)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = stages(config.height, config.width, COARSEST)
        maps = widths(config, len(sizes))
        self.from_picture = scaled_init(nn.Conv2d(config.channels, maps[-1], 1))
        self.blocks = nn.ModuleList(blocks(channels, config, len(maps)) for channels in reversed(maps))
        self.change = nn.ModuleList(
            scaled_init(nn.Conv2d(before, after, 1, bias=False), LINEAR)
            for before, after in itertools.pairwise(maps[::-1])
        )
        # One weight per grid cell and feature map.
        self.gather = scaled_init(nn.Conv2d(maps[0], maps[0], sizes[0], groups=maps[0]), LINEAR)
        self.head = scaled_init(nn.Linear(maps[0], 1), LINEAR)
        self.classes = nn.Embedding(config.num_classes, maps[0]) if config.num_classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=maps[0] ** -0.5)

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
