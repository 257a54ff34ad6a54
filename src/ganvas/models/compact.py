"""The compact model: for 28 to 64 pixels on a CPU, with few convolutions on coarse grids.

One-channel convolutions at full resolution are slow on a CPU, so the generator's last stage is computed at half
resolution and pixel-shuffled, and the discriminator pixel-unshuffles before its first convolution. Activations are
normalised at each pixel over the feature maps, not over the batch, so a seed gives the same image in any batch.
RESULTS.md has the experiments behind these choices.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import contract
from ganvas.models.architecture import SMALL_SIDE, Architecture, Defaults, Setting, modern_defaults
from ganvas.models.layers import LEAK, ClassEmbedding, full_precision, stages

_COARSEST = 8  # maximum shorter side of the start grid
_WIDEST = 4  # maximum feature maps of coarse grids, relative to the finest grid
_HIDDEN = 128  # features of the last hidden layer of the discriminator


class _PlaceNorm(nn.Module):
    """Layer normalisation over the feature maps at each pixel, then leaky ReLU."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)  # N, H, W, C: free in the channels-last layout
        normed = F.layer_norm(last, last.shape[-1:], self.gain, self.bias, eps=1e-4)
        return F.leaky_relu(normed.permute(0, 3, 1, 2), LEAK)


class LeakyTanh(torch.autograd.Function):
    """tanh with a gradient that never vanishes: 1 - (1 - LEAST) y^2 instead of 1 - y^2.

    Otherwise images that become black in the first steps stay black, because saturated pixels pass no gradient. The
    output is that of tanh. Only for the start of training; later it makes results worse (RESULTS.md).
    """

    LEAST = 0.1

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        y = torch.tanh(inputs[0])
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradients[0] * (1 - (1 - LeakyTanh.LEAST) * y.square())


class _Up(nn.Module):
    """Convolutions on one grid, then one that is pixel-shuffled to the next grid.

    direction: direction of the smoothing (see `smooth`); None: no smoothing.
    """

    def __init__(self, maps: int, after: int, size: tuple[int, int], num_blocks: int, direction: bool | None) -> None:
        super().__init__()
        same = [(nn.Conv2d(maps, maps, 3, padding=1), _PlaceNorm(maps)) for _ in range(num_blocks)]
        self.same = nn.Sequential(*(layer for pair in same for layer in pair))
        self.up = nn.Conv2d(maps, 4 * after, 3, padding=1)
        self.norm = _PlaceNorm(after)
        self.size, self.direction = size, direction

    def forward(self, x: Tensor) -> Tensor:
        x = _crop(F.pixel_shuffle(self.up(self.same(x)), 2), self.size)
        return self.norm(x if self.direction is None else smooth(x, self.direction))


class Generator(contract.Generator):
    """z (N, z_dim) and labels (N,) -> images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        *grids, self.size = stages(config.height, config.width, _COARSEST)
        self.grid = grids[0] if grids else self.size
        maps = [config.base * min(_WIDEST, 2**level) for level in reversed(range(max(1, len(grids))))]
        self.maps = maps[0]
        numbers = self.maps * self.grid[0] * self.grid[1]
        self.start = nn.Linear(config.z_dim, numbers)
        self.classes = ClassEmbedding(config.label_size, numbers) if config.label_size else None
        if self.classes is not None:
            # With the usual 1 the class dominates the latent: all images of a class are nearly identical.
            nn.init.normal_(self.classes.weight, std=0.3)
        self.norm = _PlaceNorm(self.maps)
        self.stages = nn.Sequential(
            *(
                # With one stage the last smoothing is sufficient, and training starts more stably.
                _Up(maps[i], maps[i + 1], grids[i + 1], config.blocks, i % 2 == 0 if len(maps) > 2 else None)
                for i in range(len(maps) - 1)
            )
        )
        self.to_picture = nn.Conv2d(maps[-1], 4 * config.channels, 3, padding=1)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return [self.norm, *self.stages]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.start(z)
        if self.classes is not None:
            assert labels is not None
            x = x + self.classes(labels)
        x = self.norm(x.view(-1, *self.grid, self.maps).permute(0, 3, 1, 2))
        x = F.pixel_shuffle(self.to_picture(self.stages(x)), 2).to(self.to_picture.weight.dtype)
        x = smooth(_crop(x, self.size), towards_end=len(self.stages) % 2 == 0)
        return LeakyTanh.apply(x) if self.starting else torch.tanh(x)


def _crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left part: for odd sizes, pixel shuffling gives an additional row or column."""
    return x[:, :, : size[0], : size[1]]


def smooth(x: Tensor, towards_end: bool) -> Tensor:
    """The mean of 2x2 neighbours, which removes the checkerboard artefacts (period 2) of pixel shuffling.

    It shifts by half a pixel, so stages alternate between the two directions.
    """
    pad = (0, 1, 0, 1) if towards_end else (1, 0, 1, 0)
    return F.avg_pool2d(F.pad(x, pad, mode="replicate"), 2, stride=1)


class Discriminator(contract.Discriminator):
    """Images (N, C, H, W) in [-1, 1] and labels -> logits (N,): a shared logit plus one per class or condition."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = stages(config.height, config.width, _COARSEST)
        self.pad = (0, config.width % 2, 0, config.height % 2)
        maps = [4 * config.channels]
        for _ in sizes[:-2]:
            maps.append(min(2 * maps[-1], _WIDEST * config.base) if len(maps) > 1 else 2 * config.base)
        height, width = ((side + 1) // 2 for side in (config.height, config.width))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(maps):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(LEAK)]
            height, width = height // 2, width // 2
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Linear(maps[-1] * height * width, _HIDDEN)
        self.shared = nn.Linear(_HIDDEN, 1)
        self.classes = nn.Linear(_HIDDEN, config.label_size) if config.label_size else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.layers(F.pixel_unshuffle(F.pad(images, self.pad, mode="replicate"), 2))
        with full_precision(x):
            x = x.to(self.hidden.weight.dtype).permute(0, 2, 3, 1).flatten(1)
            x = F.leaky_relu(self.hidden(x), LEAK)
            logits = self.shared(x).squeeze(1)
            if self.classes is not None:
                assert labels is not None
                each = self.classes(x)
                if labels.is_floating_point():
                    logits = logits + (each * labels).sum(dim=1)
                else:
                    logits = logits + each.gather(1, labels[:, None]).squeeze(1)
        return logits


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    return Generator(config), Discriminator(config)


def penalty(setting: Setting) -> tuple[float, str]:
    """Weight of R1 for its discriminator, which `light` has too."""
    return 0.05 if setting.side < SMALL_SIDE else setting.side**2 / 4096, "tuned at 28 and 64 pixels"


def defaults(setting: Setting) -> Defaults:
    base, blocks, why = (16, 2, "feature maps, tuned on MNIST") if setting.small else (24, 1, "feature maps")
    return modern_defaults(setting) | {
        "base": (base, why),
        "blocks": (blocks, "per stage"),
        "r1": penalty(setting),
        "lr": (2.5e-3 if setting.small else 1e-3, "tuned for this network"),
    }


def preferred(setting: Setting) -> str | None:
    return "best for small images on a CPU" if setting.for_compact else None


ARCHITECTURE = Architecture(
    build, "default on a CPU for gray images up to 40 pixels and for colour images below 32 pixels", defaults, preferred
)
