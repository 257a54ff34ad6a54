"""Registry of architectures: name -> function that builds a generator and a discriminator.

To add an architecture, write a file with `build(config)` and add a line here; tests/test_models.py then checks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError
from ganvas.models import classic, compact, dcgan, light, mlp, residual, style
from ganvas.models.crops import CropDiscriminator, build_on_features
from ganvas.models.pretrained import ViewDiscriminator

Build = Callable[[ModelConfig], tuple[nn.Module, nn.Module]]

MODERN: dict[str, Build] = {
    "compact": compact.build,
    "light": light.build,
    "residual": residual.build,
    "style": style.build,
}
"""For any height and width from 8 pixels and any channels, with or without labels."""

CLASSIC: dict[str, Build] = {
    "mlp": mlp.build,
    "dcgan": dcgan.build,
    "xray": classic.build_xray,
    "tf-mnist": classic.build_tf_mnist,
    "mnist-upsample": classic.build_mnist_upsample,
    "celeba": classic.build_celeba,
    "cifar10": classic.build_cifar10,
}
"""The exact networks of the reference projects; without labels, most only for certain sizes."""

MODELS: dict[str, Build] = MODERN | CLASSIC


def build_generator(config: ModelConfig) -> nn.Module:
    """Only the generator of `build`; does not load weights of a pretrained network."""
    if config.model not in MODELS:
        raise ConfigError(f"--model {config.model}: expected one of {', '.join(MODELS)}")
    return MODELS[config.model](config)[0]


def build(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator) with new weights from torch's global random state.

    generator(z (N, z_dim), labels (N,) or None) -> (N, C, H, W) in [-1, 1];
    discriminator(images, labels) -> logits (N,).
    Raises ConfigError for an unknown name, or if a classic network does not support the size or labels;
    MissingExtraError and CheckpointError if the weights of a pretrained network are missing or damaged.
    """
    if config.model not in MODELS:
        raise ConfigError(f"--model {config.model}: expected one of {', '.join(MODELS)}")
    generator, discriminator = MODELS[config.model](config)
    if config.spectral_norm:
        normalise(discriminator)
    if config.discriminator == "own":
        return generator, discriminator

    def own(part: ModelConfig) -> nn.Module:
        return discriminator if part == config else build(dataclasses.replace(part, discriminator="own"))[1]

    return generator, build_on_features(config, own if config.discriminator == "both" else None)


def parts_of(discriminator: nn.Module, images: Tensor, places: Tensor | None = None) -> list[Tensor]:
    """Images that a discriminator sees: the images (N, C, H, W), or parts of them (`ViewDiscriminator.parts_of`)."""
    return discriminator.parts_of(images, places) if isinstance(discriminator, ViewDiscriminator) else [images]


def generated_parts(
    generator: Callable[..., Any], discriminator: nn.Module, z: Tensor, labels: Tensor | None, places: Tensor | None
) -> list[Tensor]:
    """`parts_of` generated images. A generator of large images (`coarse_size`) only draws what is seen."""
    if isinstance(discriminator, CropDiscriminator) and places is not None and draws_windows(generator):
        small, *crops = generator(z, labels, discriminator.windows(places))
        return discriminator.reduced(small, crops)
    return parts_of(discriminator, generator(z, labels), places)


def draws_windows(generator: Any) -> bool:
    """Whether a generator draws windows of its images at this time: not in its coarse phase."""
    return getattr(generator, "coarse_size", None) is not None and not generator.coarse


def views_of(discriminator: nn.Module, parts: list[Tensor]) -> list[Tensor]:
    """Inputs of the heads of a discriminator for the result of `parts_of`."""
    return discriminator.views(parts) if isinstance(discriminator, ViewDiscriminator) else parts


def judge(discriminator: Callable[..., Tensor], views: list[Tensor], labels: Tensor | None) -> Tensor:
    """Logits (N, heads), one per view; each depends only on its own view."""
    if isinstance(discriminator, ViewDiscriminator):
        return discriminator.judge(views, labels)
    return discriminator(views[0], labels)[:, None]


def heads_on_features(discriminator: nn.Module, num: int) -> list[int]:
    """Indices of those of the first `num` heads that are on pretrained features."""
    if not isinstance(discriminator, ViewDiscriminator):
        return []
    return [i for i, on in enumerate(discriminator.on_features[:num]) if on]


def crops_of(discriminator: nn.Module) -> int:
    """Number of crops per image whose positions must be drawn."""
    return discriminator.num_crops if isinstance(discriminator, ViewDiscriminator) else 0


def normalise(network: nn.Module) -> None:
    """Divides each weight matrix by its largest singular value, from power iteration (Miyato et al. 2018)."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and "weight" in dict(layer.named_parameters()):
            parametrizations.spectral_norm(layer)


def mixes_pictures(network: nn.Module) -> bool:
    """Whether an operation mixes the images of a batch during training: batch norm, mini-batch deviation."""
    return bool(getattr(network, "mixes_pictures", False))


def channels_last(network: nn.Module) -> nn.Module:
    """Converts convolution weights to the channels-last layout, which is faster on CPUs and tensor cores."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
