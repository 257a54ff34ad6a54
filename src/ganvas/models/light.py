"""The light model: for 32 to 256 pixels, with batch norm, SiLU, and gates from the latent on every grid.

Like FastGAN (Liu et al. 2021) it has nearest upsampling, batch normalisation, few feature maps on fine grids, and a
latent input on every grid. SiLU replaces gated linear units, at half the cost. Normalising each image separately loses
brightness and colours (RESULTS.md). Labels act only through the gates, so that they cannot replace the latent.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import compact
from ganvas.models.batch_norm import BatchNorm
from ganvas.models.layers import LEAK, ClassEmbedding, full_precision, stages

COARSEST = 4  # maximum shorter side of the first grid
WIDEST = 128  # maximum feature maps of a grid
HIDDEN = 64  # hidden features of the gates
STD = 0.02  # standard deviation of initial weights (Radford et al. 2015)
OWN_BASE = 16  # base of its discriminator, which is that of compact


class Stage(nn.Module):
    """Upsamples to `size`, then convolution, batch norm, gates and SiLU, `num` times."""

    def __init__(self, before: int, after: int, size: tuple[int, int], num: int, config: ModelConfig) -> None:
        super().__init__()
        self.size = size
        self.convs = nn.ModuleList(
            nn.Conv2d(before if i == 0 else after, after, 3, padding=1, bias=False) for i in range(num)
        )
        self.norms = nn.ModuleList(BatchNorm(after) for _ in range(num))
        self.gate = nn.Linear(HIDDEN, after)
        self.classes = ClassEmbedding(config.num_classes, 2 * after) if config.num_classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.1)

    def forward(self, x: Tensor, hidden: Tensor, labels: Tensor | None) -> Tensor:
        x = F.interpolate(x, size=self.size, mode="nearest")
        gain = 1 + self.gate(hidden)
        shift = torch.zeros_like(gain)
        if self.classes is not None:
            class_gain, shift = self.classes(labels).chunk(2, dim=1)
            gain = gain + class_gain
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.addcmul(shift[:, :, None, None].to(x.dtype), norm(conv(x)), gain[:, :, None, None].to(x.dtype))
            x = F.silu(x)
        return x


class Generator(nn.Module):
    """z (N, z_dim) and labels (N,) -> images (N, C, H, W) in [-1, 1]."""

    mixes_pictures = True  # batch normalisation

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        grids = stages(config.height, config.width, COARSEST)
        limit = config.widest or max(WIDEST, config.base)
        maps = [min(config.base * 2**level, limit) for level in reversed(range(len(grids)))]
        self.grid, self.maps = grids[0], maps[0]
        self.hidden = nn.Linear(config.z_dim, HIDDEN)
        self.start = nn.Linear(config.z_dim, maps[0] * grids[0][0] * grids[0][1], bias=False)
        self.norm = BatchNorm(maps[0])
        self.stages = nn.ModuleList(
            Stage(before, after, grid, config.blocks, config)
            for (before, after), grid in zip(itertools.pairwise(maps), grids[1:], strict=True)
        )
        self.to_picture = nn.Conv2d(maps[-1], config.channels, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return [self.norm, *self.stages]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        hidden = F.leaky_relu(self.hidden(z), LEAK)
        x = self.start(z).view(-1, *self.grid, self.maps).permute(0, 3, 1, 2)
        x = F.silu(self.norm(x))
        for stage in self.stages:
            x = stage(x, hidden, labels)
        with full_precision(x):
            return torch.tanh(self.to_picture(x.to(self.to_picture.weight.dtype)))


def build(config: ModelConfig) -> tuple[Generator, compact.Discriminator]:
    return Generator(config), compact.Discriminator(dataclasses.replace(config, base=OWN_BASE))
