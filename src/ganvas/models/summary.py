"""Network summary: layers, output shapes, parameters, multiply-adds. Computed on the meta device."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import build
from ganvas.models.layers import without_memory


@dataclass(frozen=True)
class _Row:
    name: str
    kind: str
    shape: tuple[int, ...]
    """Output shape for one image, without the batch."""
    parameters: int
    macs: int
    """Multiply-adds for one image."""


@dataclass(frozen=True)
class Summary:
    rows: list[_Row]
    parameters: int
    macs: int
    activations: int
    """Estimate of the numbers stored per image for the backward pass (outputs of all layers, twice)."""


def _multiply_adds(layer: nn.Module, given: Tensor, output: Tensor) -> int:
    """Multiply-adds for one image."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        # Each number of the larger side (output of a convolution, input of a transposed one) uses a whole kernel.
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        if isinstance(layer, nn.ConvTranspose2d):
            return given[0].numel() * kernel * layer.out_channels // layer.groups
        return output[0].numel() * kernel * layer.in_channels // layer.groups
    return output[0].numel() * layer.in_features if isinstance(layer, nn.Linear) else 0


def _is_layer(module: nn.Module) -> bool:
    """Whether a module has no submodules except parametrisations (spectral norm) of its weights."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def summarise(network: nn.Module, *inputs: Tensor | None) -> Summary:
    """Runs `network` once in eval mode, on its device, and records every layer with parameters."""
    rows: list[_Row] = []
    numbers = 0

    def record(name: str):
        def hook(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            nonlocal numbers
            if isinstance(output, tuple):  # a frozen network, which reports its own cost
                frozen: Any = layer
                numbers += frozen.activations(output)
                shape = tuple(output[0].shape[1:])
                rows.append(_Row(name, type(layer).__name__, shape, 0, frozen.multiply_adds(output)))
                return
            numbers += 2 * output[0].numel()  # the output, and what the following nonlinearity stores
            own = sum(p.numel() for p in layer.parameters())
            macs = _multiply_adds(layer, given[0], output)
            rows.append(_Row(name, type(layer).__name__, tuple(output.shape[1:]), own, macs))

        return hook

    hooks = [
        layer.register_forward_hook(record(name))
        for name, layer in network.named_modules()
        if _is_layer(layer) and "parametrizations" not in name
    ]
    training = network.training
    network.eval()  # one image has no batch statistics
    with torch.no_grad():
        network(*inputs)
    network.train(training)
    for hook in hooks:
        hook.remove()
    parameters = sum(p.numel() for p in network.parameters())
    return Summary(rows, parameters, sum(row.macs for row in rows), numbers)


@functools.cache  # half a second for large networks; a plan, its table and a training ask for the same ones
def summarise_config(config: ModelConfig) -> tuple[Summary, Summary]:
    """Summaries of (generator, discriminator), without allocating weights."""
    with without_memory():
        generator, discriminator = build(config)
        labels = torch.zeros(1, dtype=torch.int64) if config.num_classes else None
        labels = torch.zeros(1, config.num_conditions) if config.num_conditions else labels
        return (
            summarise(generator, torch.zeros(1, config.z_dim), labels),
            summarise(discriminator, torch.zeros(1, config.channels, config.height, config.width), labels),
        )
