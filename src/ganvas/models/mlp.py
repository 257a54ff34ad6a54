"""Multilayer perceptrons: both networks of the Simpsons and MedNIST projects, and the discriminator of mnist-upsample.

The oldest type of GAN (Goodfellow et al. 2014), for comparison. Every pixel has its own weights, so the networks
support any size and channels, but do not use neighbourhoods. Initialisation: PyTorch's default.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import contract
from ganvas.models.architecture import classic
from ganvas.models.layers import LEAK, full_precision, refuse_labels

_UPWARDS = (256, 512, 1024)  # hidden features of the generator
_DOWNWARDS = (512, 256, 128)  # hidden features of the discriminator
_DROPOUT = 0.3  # after each hidden layer of the discriminator


class Generator(contract.Generator):
    """z (N, z_dim) -> images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.shape = (config.channels, config.height, config.width)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((config.z_dim, *_UPWARDS)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers)
        self.to_picture = nn.Linear(_UPWARDS[-1], math.prod(self.shape))

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return [layer for layer in self.layers if isinstance(layer, nn.LeakyReLU)]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.layers(z)
        with full_precision(x):
            return torch.tanh(self.to_picture(x.to(self.to_picture.weight.dtype))).view(-1, *self.shape)


class Discriminator(contract.Discriminator):
    """Images (N, C, H, W) in [-1, 1] -> logits (N,).

    hidden: features of the hidden layers, starting at the image.
    """

    stochastic = True  # dropout

    def __init__(self, config: ModelConfig, hidden: tuple[int, ...] = _DOWNWARDS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((config.channels * config.height * config.width, *hidden)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(LEAK), nn.Dropout(_DROPOUT)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(hidden[-1], 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.layers(images.flatten(1))
        with full_precision(x):
            return self.head(x.to(self.head.weight.dtype)).squeeze(1)


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    refuse_labels(config)
    return Generator(config), Discriminator(config)


ARCHITECTURE = classic(build, "multilayer perceptrons of the Simpsons and MedNIST projects")
