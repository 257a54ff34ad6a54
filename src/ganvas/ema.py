"""The moving average of the generator's weights: what is shown, saved and sampled."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def half_life_at(images_seen: int, half_life: float, ramp: float) -> float:
    """Half-life in images: grows with the images seen (`ramp` times them) up to `half_life`.

    Early weights are poor, so they must be forgotten quickly at first (StyleGAN2-ADA's ramp-up).
    """
    return max(1.0, min(half_life, ramp * images_seen))


class EMA:
    """Keeps `average`, a copy of `generator` whose weights are an exponential moving average of its weights."""

    def __init__(self, generator: nn.Module) -> None:
        self.average = copy.deepcopy(generator).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: nn.Module, batch: int, half_life: float) -> None:
        """Moves the average by one step of `batch` images; both in images."""
        keep = 0.5 ** (batch / half_life)
        averages: list[Tensor] = [*self.average.parameters()]
        torch._foreach_lerp_(averages, [*generator.parameters()], 1 - keep)
        for mean, now in zip(self.average.buffers(), generator.buffers(), strict=True):
            mean.copy_(now)
