"""The small sibling for 28 to 64 pixels on a CPU: few convolutions, on coarse grids.

One-channel convolutions at full resolution are slow on a CPU, so the generator's last stage is computed at half the
resolution and shuffled up, and the discriminator unshuffles before its first convolution. Activations are normalised
at every place over the feature maps, never over the batch: a seed gives the same image in any batch.
How this was chosen, and what did not help, is in RESULTS.md.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models.layers import LEAK, ClassEmbedding, full_precision, stages

COARSEST = 8  # longest allowed shorter side of the start grid
WIDEST = 4  # the coarsest grids have at most this many times the finest grid's feature maps
HIDDEN = 128  # features of the discriminator's last hidden layer


class PlaceNorm(nn.Module):
    """Layer normalisation over the feature maps at every place, then leaky ReLU."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)  # N, H, W, C: free in the channels-last layout
        normed = F.layer_norm(last, last.shape[-1:], self.gain, self.bias, eps=1e-4)
        return F.leaky_relu(normed.permute(0, 3, 1, 2), LEAK)


class LeakyTanh(torch.autograd.Function):
    """tanh whose gradient never vanishes: 1 - (1 - LEAST) y^2 in place of 1 - y^2.

    An image that went all black in the first steps would otherwise stay black, since no gradient comes back through
    saturated pixels. The values are tanh's own. For the start of training only: later it does harm (RESULTS.md).
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


class Up(nn.Module):
    """Convolutions at one grid, then one that is shuffled up to the next.

    direction: of the smoothing (see `smooth`); None for none.
    """

    def __init__(self, maps: int, after: int, size: tuple[int, int], num_blocks: int, direction: bool | None) -> None:
        super().__init__()
        same = [(nn.Conv2d(maps, maps, 3, padding=1), PlaceNorm(maps)) for _ in range(num_blocks)]
        self.same = nn.Sequential(*(layer for pair in same for layer in pair))
        self.up = nn.Conv2d(maps, 4 * after, 3, padding=1)
        self.norm = PlaceNorm(after)
        self.size, self.direction = size, direction

    def forward(self, x: Tensor) -> Tensor:
        x = crop(F.pixel_shuffle(self.up(self.same(x)), 2), self.size)
        return self.norm(x if self.direction is None else smooth(x, self.direction))


class Generator(nn.Module):
    """z (N, z_dim) and labels (N,) -> images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.starting = False  # set by the training loop during its first steps
        *grids, self.size = stages(config.height, config.width, COARSEST)
        self.grid = grids[0] if grids else self.size
        maps = [config.base * min(WIDEST, 2**level) for level in reversed(range(max(1, len(grids))))]
        self.maps = maps[0]
        numbers = self.maps * self.grid[0] * self.grid[1]
        self.start = nn.Linear(config.z_dim, numbers)
        self.classes = ClassEmbedding(config.num_classes, numbers) if config.num_classes else None
        if self.classes is not None:
            # With the usual 1 the class drowns the latent: one prototype a class, read well and all alike.
            nn.init.normal_(self.classes.weight, std=0.3)
        self.norm = PlaceNorm(self.maps)
        self.stages = nn.Sequential(
            *(
                # With one stage the last smoothing is enough, and the start is steadier.
                Up(maps[i], maps[i + 1], grids[i + 1], config.blocks, i % 2 == 0 if len(maps) > 2 else None)
                for i in range(len(maps) - 1)
            )
        )
        self.to_picture = nn.Conv2d(maps[-1], 4 * config.channels, 3, padding=1)

    @property
    def depths(self) -> list[nn.Module]:
        """The modules whose outputs are the features, coarse to fine."""
        return [self.norm, *self.stages]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.start(z)
        if self.classes is not None:
            assert labels is not None
            x = x + self.classes(labels)
        x = self.norm(x.view(-1, *self.grid, self.maps).permute(0, 3, 1, 2))
        x = F.pixel_shuffle(self.to_picture(self.stages(x)), 2).to(self.to_picture.weight.dtype)
        x = smooth(crop(x, self.size), towards_end=len(self.stages) % 2 == 0)
        return LeakyTanh.apply(x) if self.starting else torch.tanh(x)


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left part: where a side was halved upwards, shuffling gives one row too many."""
    return x[:, :, : size[0], : size[1]]


def smooth(x: Tensor, towards_end: bool) -> Tensor:
    """The mean of 2x2 neighbours: it removes exactly the lattice of period 2 that shuffled pixels would show.

    Half a pixel is shifted; stages take the two directions in turn.
    """
    pad = (0, 1, 0, 1) if towards_end else (1, 0, 1, 0)
    return F.avg_pool2d(F.pad(x, pad, mode="replicate"), 2, stride=1)


class Discriminator(nn.Module):
    """Pictures (N, C, H, W) in [-1, 1] and labels (N,) -> logits (N,): a shared logit plus one per class."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = stages(config.height, config.width, COARSEST)
        self.pad = (0, config.width % 2, 0, config.height % 2)
        maps = [4 * config.channels]
        for _ in sizes[:-2]:
            maps.append(min(2 * maps[-1], WIDEST * config.base) if len(maps) > 1 else 2 * config.base)
        height, width = ((side + 1) // 2 for side in (config.height, config.width))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(maps):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(LEAK)]
            height, width = height // 2, width // 2
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Linear(maps[-1] * height * width, HIDDEN)
        self.shared = nn.Linear(HIDDEN, 1)
        self.classes = nn.Linear(HIDDEN, config.num_classes) if config.num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.layers(F.pixel_unshuffle(F.pad(images, self.pad, mode="replicate"), 2))
        with full_precision(x):
            x = x.to(self.hidden.weight.dtype).permute(0, 2, 3, 1).flatten(1)
            x = F.leaky_relu(self.hidden(x), LEAK)
            logits = self.shared(x).squeeze(1)
            if self.classes is not None:
                assert labels is not None
                logits = logits + self.classes(x).gather(1, labels[:, None]).squeeze(1)
        return logits


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    return Generator(config), Discriminator(config)
