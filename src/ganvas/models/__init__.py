"""The registry: a name, and a function that builds a generator and a discriminator for any image size.

A new architecture is one file with `build(config)` and one line here; tests/test_models.py then checks it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError
from ganvas.models import classic, compact, dcgan, light, mlp, residual, skip, style
from ganvas.models.pretrained import FeatureDiscriminator

Build = Callable[[ModelConfig], tuple[nn.Module, nn.Module]]

MODERN: dict[str, Build] = {
    "compact": compact.build,
    "light": light.build,
    "residual": residual.build,
    "style": style.build,
    "skip": skip.build,
}
"""Any height and width from 8 pixels, any channels, with labels or without."""

CLASSIC: dict[str, Build] = {
    "mlp": mlp.build,
    "dcgan": dcgan.build,
    "xray": classic.build_xray,
    "tf-mnist": classic.build_tf_mnist,
    "mnist-upsample": classic.build_mnist_upsample,
    "celeba": classic.build_celeba,
    "cifar10": classic.build_cifar10,
}
"""The reference projects' networks, exactly; without labels, and most at certain sizes only."""

MODELS: dict[str, Build] = MODERN | CLASSIC


def build_generator(config: ModelConfig) -> nn.Module:
    """The generator of `build` alone: no weights of a pretrained network are loaded."""
    if config.model not in MODELS:
        raise ConfigError(f"--model {config.model}: expected one of {', '.join(MODELS)}")
    return MODELS[config.model](config)[0]


def build(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator) with fresh weights from torch's global random state.

    generator(z (N, z_dim), labels (N,) or None) -> (N, C, H, W) in [-1, 1];
    discriminator(images, labels) -> logits (N,).
    Raises ConfigError for an unknown name, or where a classic network cannot take the size or labels;
    MissingExtraError and CheckpointError where the weights of a pretrained network are missing or damaged.
    """
    if config.model not in MODELS:
        raise ConfigError(f"--model {config.model}: expected one of {', '.join(MODELS)}")
    generator, discriminator = MODELS[config.model](config)
    if config.spectral_norm:
        normalise(discriminator)
    if config.discriminator != "own":
        discriminator = FeatureDiscriminator(config, discriminator if config.discriminator == "both" else None)
    return generator, discriminator


def views_of(discriminator: nn.Module, images: Tensor) -> list[Tensor]:
    """What the heads of a discriminator look at: the images (N, C, H, W) themselves, or views of a frozen network."""
    return discriminator.views(images) if isinstance(discriminator, FeatureDiscriminator) else [images]


def judge(discriminator: Callable[..., Tensor], views: list[Tensor], labels: Tensor | None) -> Tensor:
    """Logits (N, heads) of views: one of each view, which depends on no other view."""
    if isinstance(discriminator, FeatureDiscriminator):
        return discriminator.judge(views, labels)
    return discriminator(views[0], labels)[:, None]


def normalise(network: nn.Module) -> None:
    """Divides every weight matrix by its largest singular value, found by power iteration (Miyato et al. 2018)."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and "weight" in dict(layer.named_parameters()):
            parametrizations.spectral_norm(layer)


def mixes_pictures(network: nn.Module) -> bool:
    """Whether an operation mixes the images of a batch while training: batch norm, mini-batch deviation."""
    return bool(getattr(network, "mixes_pictures", False))


def channels_last(network: nn.Module) -> nn.Module:
    """The same network with convolution weights in the layout that CPUs and tensor cores like best."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
