"""Batch normalisation independent of micro-batches, threads and processes, with measured statistics for evaluation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 8  # images that share statistics
EPS = 1e-5
MEASURED = 128  # latents for measuring the statistics


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) over groups of 8 images in training ("ghost batches").

    So a pass over a multiple of 8 images gives the same result as passes over its parts. Evaluation mode uses the fixed
    statistics set by `measure_statistics`, so each image is independent of its batch. There are no running averages,
    because they would not belong to the weights of the EMA.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))
        self.register_buffer("running_mean", torch.zeros(maps))
        self.register_buffer("running_var", torch.ones(maps))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.gain, self.bias, False, 0.0, EPS)
        groups = [F.batch_norm(g, None, None, self.gain, self.bias, True, 0.0, EPS) for g in x.split(GROUP)]
        return groups[0] if len(groups) == 1 else torch.cat(groups)


@torch.no_grad()
def measure_statistics(network: nn.Module, z_dim: int, labels: Tensor | None = None) -> None:
    """Sets the statistics of every `BatchNorm` of a generator from fixed latents; leaves it in evaluation mode.

    labels: those that the latents take in turn, class indices (K,) or vectors of conditions (K, num_conditions).
    Deterministic ("precise batch norm": Wu and Johnson 2021, section 3). A network without batch normalisation is not
    changed.
    """
    layers = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not layers:
        return
    device = layers[0].gain.device
    z = torch.randn(MEASURED, z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    if labels is not None:
        labels = labels.to(device)[torch.arange(MEASURED, device=device) % len(labels)]
    sums = {layer: [torch.zeros_like(layer.running_mean), torch.zeros_like(layer.running_mean)] for layer in layers}

    def gather(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].float()
        total, square = sums[layer]  # ty: ignore[invalid-argument-type]
        total += x.mean(dim=(2, 3)).sum(dim=0)
        square += x.square().mean(dim=(2, 3)).sum(dim=0)

    hooks = [layer.register_forward_pre_hook(gather) for layer in layers]
    network.train()
    for start in range(0, MEASURED, 4 * GROUP):
        part = slice(start, start + 4 * GROUP)
        network(z[part], None if labels is None else labels[part])
    network.eval()
    for hook in hooks:
        hook.remove()
    for layer, (total, square) in sums.items():
        mean = total / MEASURED
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((square / MEASURED - mean.square()).clamp_min(0))
