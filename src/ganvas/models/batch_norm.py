"""Batch renormalisation: an image does not depend on the other images of its batch, also in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import contract
from ganvas.system.device import average_over_ranks

GROUP = 8  # images whose common statistics the gradient takes into account
_EPS = 1e-5
MOMENTUM = 0.05  # weight of the statistics of the last step in the running ones
_SCALES, _SHIFTS = 3.0, 3.0  # limits of the corrections (r_max and d_max of the paper)
MEASURED = 128  # latents for measuring the statistics
_PIXELS = 2**20  # most pixels of the images of one pass for that


class BatchNorm(nn.Module):
    """Batch renormalisation (Ioffe 2017) over groups of 8 images.

    The output uses running statistics, in training too: the result of batch normalisation is multiplied by
    r = std / running std, and d = (mean - running mean) / running std is added. Both are constants for the gradient.
    With plain batch normalisation the images of a group change each other, and evaluation uses other statistics than
    training; colours and modes are lost (RESULTS.md). Only the gradient depends on the groups, and the output where r
    or d reaches its limit. Passes over parts of a batch that are multiples of 8 images give the same result as one pass
    over all of it.

    `follow_statistics` updates the running statistics after a step. For evaluation, `measure_statistics` sets those of
    the weights of the EMA.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))
        self.register_buffer("running_mean", torch.zeros(maps))
        self.register_buffer("running_var", torch.ones(maps))
        # (3, maps): number of groups since the last step, and sums of their means and mean squares.
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.gain, self.bias, False, 0.0, _EPS)
        groups = [self.renormalised(group) for group in x.split(GROUP)]
        return groups[0] if len(groups) == 1 else torch.cat(groups)

    def renormalised(self, x: Tensor) -> Tensor:
        """The output for one group (N, C, H, W); adds its statistics to `seen`."""
        with torch.no_grad():
            mean, square = _moments(x)
            var = (square - mean.square()).clamp_min(0)
            sums = torch.stack([torch.ones_like(mean), mean, square])
            self.seen = sums if self.seen is None else self.seen + sums
            std = (self.running_var + _EPS).sqrt()
            scale = ((var + _EPS).sqrt() / std).clamp(1 / _SCALES, _SCALES)
            shift = ((mean - self.running_mean) / std).clamp(-_SHIFTS, _SHIFTS)
        gain = self.gain * scale
        return F.batch_norm(x, None, None, gain, self.bias + self.gain * shift, True, 0.0, _EPS)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each feature map (N, C, H, W), float32; much faster than `torch.var_mean` on a CPU."""
    pixels = x.float().permute(0, 2, 3, 1).flatten(0, 2)
    return pixels.mean(dim=0), pixels.square().mean(dim=0)


def layers_of(network: nn.Module) -> list[BatchNorm]:
    """The layers of this kind, in order."""
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def has_statistics(network: nn.Module) -> bool:
    """Whether the running statistics of a network have been set."""
    return all(bool(layer.running_mean.any()) for layer in layers_of(network))


def forget_statistics(networks: Sequence[nn.Module]) -> None:
    """Before a step: discards the statistics since the last one, for example of a pass that ran out of memory."""
    for layer in (layer for network in networks for layer in layers_of(network)):
        layer.seen = None


@torch.no_grad()
def follow_statistics(network: nn.Module, copies: Sequence[nn.Module] = ()) -> None:
    """After a step: moves the running statistics of `network` towards those of the groups of this step.

    copies: networks that share its running statistics, for other parts of the batch. Averages over all ranks.
    """
    all_layers = [*zip(layers_of(network), *(layers_of(copy) for copy in copies), strict=True)]
    groups = [same for same in all_layers if any(one.seen is not None for one in same)]  # a coarse phase omits some
    if not groups:
        return
    seen = [torch.stack([one.seen for one in layers if one.seen is not None]).sum(dim=0) for layers in groups]
    averages = average_over_ranks(torch.cat(seen, dim=1)).split([one.shape[1] for one in seen], dim=1)
    for (layer, *_), (num, mean, square) in zip(groups, averages, strict=True):
        mean, square = mean / num, square / num
        layer.running_mean.lerp_(mean, MOMENTUM)
        layer.running_var.lerp_((square - mean.square()).clamp_min(0), MOMENTUM)


@torch.no_grad()
def measure_statistics(network: contract.Generator, config: ModelConfig, labels: Tensor | None = None) -> None:
    """Sets the running statistics of a generator from fixed latents; leaves it in evaluation mode.

    labels: assigned to the latents in turn; class indices (K,) or vectors of conditions (K, num_conditions).
    Deterministic ("precise batch norm": Wu and Johnson 2021, section 3). A network without batch normalisation is not
    changed.
    """
    layers = layers_of(network)
    if not layers:
        return
    device = layers[0].gain.device
    z = torch.randn(MEASURED, config.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    if labels is not None:
        labels = labels.to(device)[torch.arange(MEASURED, device=device) % len(labels)]

    sums = [torch.zeros(2, len(layer.gain), device=device) for layer in layers]

    def take(layer: Any, given: tuple[Tensor, ...]) -> None:
        mean, square = _moments(given[0])
        sums[layers.index(layer)] += len(given[0]) / MEASURED * torch.stack([mean, square])
        _set_statistics(layer, mean, square)

    hooks = [layer.register_forward_pre_hook(take) for layer in layers]
    network.eval()
    coarse, network.coarse = network.coarse, network.coarse_sizes[-1] if network.draws_windows else None
    height, width = network.coarse or (config.height, config.width)
    part = min(MEASURED, max(GROUP, _PIXELS // (height * width)))
    for start in range(0, MEASURED, part):
        network(z[start : start + part], None if labels is None else labels[start : start + part])
    network.coarse = coarse
    for hook in hooks:
        hook.remove()
    for layer, (mean, square) in zip(layers, sums, strict=True):
        _set_statistics(layer, mean, square)


def _set_statistics(layer: BatchNorm, mean: Tensor, square: Tensor) -> None:
    """Sets the running statistics from means and mean squares (maps,)."""
    layer.running_mean.copy_(mean)
    layer.running_var.copy_((square - mean.square()).clamp_min(0))
