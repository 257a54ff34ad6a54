"""The registry: a name, and a function that builds a generator and a discriminator for any picture size.

A new architecture is one file with `build(config)` and one line here; tests/test_models.py then checks it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError
from ganvas.models import compact, residual

MODELS: dict[str, Callable[[ModelConfig], tuple[nn.Module, nn.Module]]] = {
    "compact": compact.build,
    "residual": residual.build,
}


def build(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator) with fresh weights from torch's global random state.

    generator(z (N, z_dim), labels (N,) or None) -> (N, C, H, W) in [-1, 1];
    discriminator(images, labels) -> logits (N,).
    """
    if config.model not in MODELS:
        raise ConfigError(f"--model {config.model}: expected one of {', '.join(MODELS)}")
    return MODELS[config.model](config)


def channels_last(network: nn.Module) -> nn.Module:
    """The same network with convolution weights in the layout that CPUs and tensor cores like best."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
