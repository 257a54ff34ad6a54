"""Moving averages of the generator's weights: the EMA for previews and the model, and averages for `ganvas average`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)

_RAMP = 0.2
"""The half-life is at most this fraction of the images seen so far."""


def half_life_at(images_seen: int, half_life: float) -> float:
    """Half-life in images: `_RAMP` times the images seen, at most `half_life`.

    A short half-life at first removes the poor early weights (ramp-up of StyleGAN2-ADA). 0: no averaging.
    """
    return min(half_life, max(1.0, _RAMP * images_seen))


class EMA(Generic[_Module]):
    """Maintains `average`, a copy of `generator` with exponentially averaged weights."""

    def __init__(self, generator: _Module) -> None:
        self.average = copy.deepcopy(generator).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: nn.Module, batch: int, half_life: float) -> None:
        """Updates the average after a step. batch, half_life: in images."""
        keep = 0.5 ** (batch / half_life) if half_life else 0.0
        averages: list[Tensor] = [*self.average.parameters()]
        torch._foreach_lerp_(averages, [*generator.parameters()], 1 - keep)
        for mean, now in zip(self.average.buffers(), generator.buffers(), strict=True):
            mean.copy_(now)


WIDTHS = (0.05, 0.10)
"""Relative standard deviations of the two stored averages (Karras et al. 2024, EDM2, section 3.1)."""


class PowerAverages(Generic[_Module]):
    """Two power-function averages of the weights, from which an average of any width can be computed afterwards.

    After t images, the weights at time s count in proportion to s^gamma (EDM2, equation 4), so the width of an average
    is a fixed fraction of the training so far.
    """

    def __init__(self, generator: _Module) -> None:
        self.averages = [copy.deepcopy(generator).eval().requires_grad_(False) for _ in WIDTHS]

    @torch.no_grad()
    def update(self, generator: nn.Module, batch: int, images_seen: int) -> None:
        """images_seen: including this step's batch."""
        for width, average in zip(WIDTHS, self.averages, strict=True):
            keep = (1 - batch / images_seen) ** (exponent(width) + 1)
            torch._foreach_lerp_([*average.parameters()], [*generator.parameters()], 1 - keep)
            for mean, now in zip(average.buffers(), generator.buffers(), strict=True):
                mean.copy_(now)


def exponent(width: float) -> float:
    """gamma of the power function whose standard deviation is `width` (0 to 0.28) times the length of training.

    The density (gamma + 1) s^gamma on [0, 1] has the variance (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
    """
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])  # the same equation as a cubic in gamma
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def overlap(end: float, gamma: float, other_end: float, other_gamma: float) -> float:
    """Integral of the product of two power densities (gamma + 1) s^gamma / end^(gamma + 1) on [0, end]."""
    least = min(end, other_end)
    reach = (least / end) ** (gamma + 1) * (least / other_end) ** (other_gamma + 1)
    return (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1) * reach / least


def combination(stored: Sequence[tuple[float, float]], width: float) -> np.ndarray:
    """Factors (len(stored),) that combine stored averages to one of another width, at the time of the last one.

    stored: (images seen, width) of each. Least-squares fit of the weighting function (EDM2, section 3.2).
    """
    powers = [(end, exponent(wide)) for end, wide in stored]
    wanted = (max(end for end, _ in stored), exponent(width))
    gram = np.array([[overlap(*one, *other) for other in powers] for one in powers])
    factors = np.linalg.lstsq(gram, np.array([overlap(*one, *wanted) for one in powers]), rcond=1e-10)[0]
    return factors / factors.sum()
