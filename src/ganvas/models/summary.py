"""What a network consists of: layers, output shapes, parameters, multiply-adds. Runs on the meta device, at no cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import build


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    shape: tuple[int, ...]
    """Output shape for one picture, without the batch."""
    parameters: int
    macs: int
    """Multiply-adds for one picture."""


@dataclass(frozen=True)
class Summary:
    rows: list[Row]
    parameters: int
    macs: int
    activations: int
    """Numbers that one picture leaves in memory for the backward pass (an estimate: outputs of all layers, twice)."""


def multiply_adds(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        return output[0].numel() * kernel * layer.in_channels // layer.groups
    if isinstance(layer, nn.Linear):
        return output[0].numel() * layer.in_features
    return 0


def summarise(network: nn.Module, *inputs: Tensor | None) -> Summary:
    """Runs `network` once (on whatever device it is) and records every layer that has parameters."""
    rows: list[Row] = []
    numbers = 0

    def record(name: str):
        def hook(layer: nn.Module, _: object, output: Tensor) -> None:
            nonlocal numbers
            numbers += 2 * output[0].numel()  # the output, and what the nonlinearity after it keeps
            own = sum(p.numel() for p in layer.parameters(recurse=False))
            rows.append(Row(name, type(layer).__name__, tuple(output.shape[1:]), own, multiply_adds(layer, output)))

        return hook

    hooks = [
        layer.register_forward_hook(record(name))
        for name, layer in network.named_modules()
        if next(layer.children(), None) is None
    ]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    parameters = sum(p.numel() for p in network.parameters())
    return Summary(rows, parameters, sum(row.macs for row in rows), numbers)


def summarise_config(config: ModelConfig) -> tuple[Summary, Summary]:
    """(generator's, discriminator's) summary, without allocating a weight."""
    with torch.device("meta"):
        generator, discriminator = build(config)
        labels = torch.zeros(1, dtype=torch.int64) if config.num_classes else None
        return (
            summarise(generator, torch.zeros(1, config.z_dim), labels),
            summarise(discriminator, torch.zeros(1, config.channels, config.height, config.width), labels),
        )
