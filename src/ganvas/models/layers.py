"""Common parts of the networks: stage sizes for any height and width, resampling, initialisation."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError

LEAK = 0.2  # slope of the leaky ReLU for negative inputs
LINEAR = ((1 + LEAK**2) / 2) ** 0.5  # weight scale of a layer without leaky ReLU that keeps the variance at 1


def stages(height: int, width: int, coarsest: int) -> list[tuple[int, int]]:
    """Grid sizes from coarse to fine by halving (rounded up) until the shorter side is at most `coarsest`.

    28x28 -> 7, 14, 28; 96x128 -> 6x8, 12x16, ... ; 800 -> 7, 13, 25, 50, ..., 800.
    """
    sizes = [(height, width)]
    while min(sizes[0]) > coarsest:
        sizes.insert(0, (-(-sizes[0][0] // 2), -(-sizes[0][1] // 2)))
    return sizes


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation to (height, width), which avoids checkerboard artefacts (Karras et al. 2018)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def downsample(x: Tensor) -> Tensor:
    """Halves height and width (rounded up) with the binomial filter [1, 3, 3, 1]."""
    channels, height, width = x.shape[1:]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4)
    x = F.pad(x, (1, 1 + width % 2, 1, 1 + height % 2), mode="replicate")
    return F.conv2d(x, kernel, stride=2, groups=channels)


def scaled_init(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> nn.Conv2d | nn.Linear:
    """He-normal weights for the leaky ReLU times `scale`, zero bias; returns the layer."""
    nn.init.kaiming_normal_(layer.weight, a=LEAK)
    with torch.no_grad():
        layer.weight.mul_(scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Context that disables autocast, for layers that need float32."""
    if x.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


# Magnitude-preserving layers (Karras et al. 2024, EDM2, section 2.3 and appendix B.4): their output does not depend
# on the length of their weights.


def unit(weight: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """`weight` with each output unit (first axis) normalised to the norm `gain`."""
    norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
    return weight * (gain / (norm + 1e-4))


def pixel_norm(x: Tensor) -> Tensor:
    """x (N, C, H, W) divided by its root mean square over the feature maps at each pixel (Karras et al. 2018)."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-4).to(x.dtype)


class UnitConv(nn.Conv2d):
    """A convolution with filters normalised to the norm `gain`, without bias.

    Inputs with mean square 1 give outputs with mean square gain^2, averaged over random filters.
    constant: an additional input map of ones replaces the bias (1x1 kernels). learned: the gain is a parameter.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int] = 1,
        gain: float = 1.0,
        *,
        padding: int = 0,
        groups: int = 1,
        constant: bool = False,
        learned: bool = False,
    ) -> None:
        super().__init__(before + constant, after, kernel, padding=padding, groups=groups, bias=False)
        nn.init.normal_(self.weight)
        self.constant = constant
        self.gain = nn.Parameter(torch.tensor(gain)) if learned else gain

    def forward(self, input: Tensor) -> Tensor:
        weight = unit(self.weight, self.gain)
        if self.constant:
            return F.conv2d(input, weight[:, :-1], weight[:, -1].flatten())
        return self._conv_forward(input, weight, None)


class UnitLinear(nn.Linear):
    """Like `UnitConv`, for vectors."""

    def __init__(
        self, before: int, after: int, gain: float = 1.0, *, constant: bool = False, learned: bool = False
    ) -> None:
        super().__init__(before + constant, after, bias=False)
        nn.init.normal_(self.weight)
        self.constant = constant
        self.gain = nn.Parameter(torch.tensor(gain)) if learned else gain

    def forward(self, input: Tensor) -> Tensor:
        weight = unit(self.weight, self.gain)
        return F.linear(input, weight[:, :-1], weight[:, -1]) if self.constant else F.linear(input, weight)


class ClassEmbedding(nn.Embedding):
    """labels: indices (N,), or weights of all classes (N, num_classes) for mixed classes -> (N, dim)."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight if input.is_floating_point() else super().forward(input)


class UnitEmbedding(ClassEmbedding):
    """An embedding with rows normalised to the norm `gain`."""

    def __init__(self, num: int, dim: int, gain: float = 1.0, *, learned: bool = False) -> None:
        super().__init__(num, dim)
        self.gain = nn.Parameter(torch.tensor(gain)) if learned else gain

    def forward(self, input: Tensor) -> Tensor:
        return unit(super().forward(input), self.gain)


def refuse_labels(config: ModelConfig) -> None:
    """Raises `ConfigError` if the configuration has labels."""
    if config.num_classes:
        raise ConfigError(
            f"--model {config.model}: this classic network does not support labels ({config.num_classes} classes); "
            "use --no-conditional, or --model residual"
        )
