"""Registry of architectures and the functions that use any of them.

To add an architecture, write a file with an `Architecture` and add a line here; tests/test_models.py then checks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError, did_you_mean
from ganvas.models import classic, compact, dcgan, light, mlp, residual, style
from ganvas.models.architecture import Architecture
from ganvas.models.contract import Discriminator, Generator
from ganvas.models.crops import CropDiscriminator, build_on_features
from ganvas.models.pretrained import ViewDiscriminator

MODELS: dict[str, Architecture] = {
    "light": light.ARCHITECTURE,
    "compact": compact.ARCHITECTURE,
    "residual": residual.ARCHITECTURE,
    "style": style.ARCHITECTURE,
    "dcgan": dcgan.ARCHITECTURE,
    "mlp": mlp.ARCHITECTURE,
    "xray": classic.XRAY_ARCHITECTURE,
    "tf-mnist": classic.TF_MNIST_ARCHITECTURE,
    "mnist-upsample": classic.MNIST_UPSAMPLE_ARCHITECTURE,
    "celeba": classic.CELEBA_ARCHITECTURE,
    "cifar10": classic.CIFAR10_ARCHITECTURE,
}
"""Architectures by name. Those that are not `classic` work for any height and width from 8 pixels and any channels,
with or without labels. The names appear in the help from here (fields.Registry)."""

_Module = TypeVar("_Module", bound=nn.Module)


def architecture_of(name: str) -> Architecture:
    """Raises ConfigError, with a suggestion, for an unknown name."""
    if name not in MODELS:
        raise ConfigError(f"--model {name}: expected one of {', '.join(MODELS)}{did_you_mean(name, [*MODELS])}")
    return MODELS[name]


def build_generator(config: ModelConfig) -> Generator:
    """Only the generator of `build`; does not load weights of a pretrained network."""
    return architecture_of(config.model).build(config)[0]


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    """(generator, discriminator) with new weights from torch's global random state.

    generator(z (N, z_dim), labels (N,) or None) -> (N, C, H, W) in [-1, 1];
    discriminator(images, labels) -> logits (N,).
    Raises ConfigError for an unknown name, or if a classic network does not support the size or labels;
    MissingExtraError and CheckpointError if the weights of a pretrained network are missing or damaged.
    """
    generator, discriminator = architecture_of(config.model).build(config)
    if config.spectral_norm:
        normalise(discriminator)
    if config.discriminator == "own":
        return generator, discriminator

    def own(part: ModelConfig) -> Discriminator:
        return discriminator if part == config else build(dataclasses.replace(part, discriminator="own"))[1]

    return generator, build_on_features(config, own if config.discriminator == "both" else None)


def parts_of(discriminator: nn.Module, images: Tensor, places: Tensor | None = None) -> list[Tensor]:
    """Images that a discriminator sees: the images (N, C, H, W), or parts of them (`ViewDiscriminator.parts_of`)."""
    return discriminator.parts_of(images, places) if isinstance(discriminator, ViewDiscriminator) else [images]


def generated_parts(
    generator: Generator, discriminator: nn.Module, z: Tensor, labels: Tensor | None, places: Tensor | None
) -> list[Tensor]:
    """`parts_of` generated images. A generator that draws windows only draws what is seen."""
    sees_crops = isinstance(discriminator, CropDiscriminator) and places is not None
    if sees_crops and generator.draws_windows and generator.coarse is None:
        small, *crops = generator(z, labels, discriminator.windows(places))
        return discriminator.reduced(small, crops)
    return parts_of(discriminator, generator(z, labels), places)


def views_of(discriminator: nn.Module, parts: list[Tensor]) -> list[Tensor]:
    """Inputs of the heads of a discriminator for the result of `parts_of`."""
    return discriminator.views(parts) if isinstance(discriminator, ViewDiscriminator) else parts


def logits_of(discriminator: Callable[..., Tensor], views: list[Tensor], labels: Tensor | None) -> Tensor:
    """Logits (N, heads), one per view; each depends only on its own view."""
    if isinstance(discriminator, ViewDiscriminator):
        return discriminator.logits_of(views, labels)
    return discriminator(views[0], labels)[:, None]


def heads_on_features(discriminator: nn.Module, num: int) -> list[int]:
    """Indices of those of the first `num` heads that are on pretrained features."""
    if not isinstance(discriminator, ViewDiscriminator):
        return []
    return [i for i, on in enumerate(discriminator.on_features[:num]) if on]


def generator_weights(discriminator: nn.Module, num: int) -> list[float]:
    """The weight of each of the first `num` heads in the generator's loss."""
    return discriminator.weights[:num] if isinstance(discriminator, ViewDiscriminator) else [1.0] * num


def crops_of(discriminator: nn.Module) -> int:
    """Number of crops per image whose positions must be drawn."""
    return discriminator.num_crops if isinstance(discriminator, ViewDiscriminator) else 0


def normalise(network: nn.Module) -> None:
    """Divides each weight matrix by its largest singular value, from power iteration (Miyato et al. 2018)."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and "weight" in dict(layer.named_parameters()):
            parametrizations.spectral_norm(layer)


def channels_last(network: _Module) -> _Module:
    """Converts convolution weights, also fixed ones, to channels-last format, faster on CPUs and tensor cores."""
    for weight in (*network.parameters(), *network.buffers()):
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network
