"""Common parts of the networks: stage sizes for any height and width, resampling, initialisation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError

_NOISE_SEED = 1  # seed of noise that is part of an architecture
_JITTER = 4  # number of positions of an image in each direction, for `jitter`
PATTERN_REACH = 5  # repetitions of a pattern that `without_pattern` averages over, per direction
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
    # 1, 3, 3, 1, computed on the device: a tensor from a list would wait for a copy in every call.
    taps = (4 - (2 * torch.arange(4, device=x.device, dtype=x.dtype) - 3).abs()) / 8
    kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4)
    x = F.pad(x, (1, 1 + width % 2, 1, 1 + height % 2), mode="replicate")
    return F.conv2d(x, kernel, stride=2, groups=channels)


def cut(images: Tensor, starts: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows of (height, width) pixels with the upper left pixels `starts` (N, 2): (N, C, *size)."""
    for axis in (0, 1):
        index = starts[:, axis, None] + torch.arange(size[axis], device=images.device)
        index = index[:, None, :, None] if axis == 0 else index[:, None, None, :]
        shape = list(images.shape)
        shape[2 + axis] = size[axis]
        images = images.gather(2 + axis, index.expand(shape))
    return images


def jitter(images: Tensor, positions: Tensor) -> Tensor:
    """Moves images (N, C, H, W) by whole pixels, -2 to 1 in each direction, reflected at the border.

    positions: (N, 2) in [0, 1). Convolutions with a stride do not use all pixels equally, so their gradients have
    checkerboard artefacts (Odena et al. 2016) at the same place in every image. Generators learn them, as rows of dots
    at edges (RESULTS.md). At random positions they cancel out.
    """
    starts = (positions * _JITTER).long().clamp(max=_JITTER - 1)
    before, after = _JITTER // 2, _JITTER - 1 - _JITTER // 2
    padded = F.pad(images, (before, after, before, after), mode="reflect")
    return cut(padded, starts, (images.shape[2], images.shape[3]))


def without_pattern(x: Tensor, period: int, reach: int = PATTERN_REACH) -> Tensor:
    """Images (N, C, H, W) without patterns that repeat every `period` pixels, such as checkerboard artefacts.

    The pixels at each of the period x period positions of a repeating pattern get the same local mean, over
    reach x reach repetitions. So a notch filter removes only the frequencies k / period; edges and grain remain.
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (0, -width % period, 0, -height % period), mode="replicate")
    cells = F.pixel_unshuffle(padded, period)  # (N, C * period^2, H / period, W / period)
    means = F.avg_pool2d(cells, reach, 1, reach // 2, count_include_pad=False).unflatten(1, (x.shape[1], period**2))
    pattern = F.pixel_shuffle((means - means.mean(dim=2, keepdim=True)).flatten(1, 2), period)
    return x - pattern[:, :, :height, :width]


def scaled_init(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> nn.Conv2d | nn.Linear:
    """He-normal weights for the leaky ReLU times `scale`, zero bias; returns the layer."""
    nn.init.kaiming_normal_(layer.weight, a=LEAK)
    with torch.no_grad():
        layer.weight.mul_(scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def fixed_noise(size: tuple[int, int], index: int) -> Tensor:
    """(1, 1, H, W) standard normal numbers that belong to an architecture: the same in every process.

    index: of the layer. `torch.tensor` keeps the numbers where networks are built without memory (generator.outline).
    """
    return torch.tensor(np.random.default_rng((_NOISE_SEED, index)).standard_normal((1, 1, *size), np.float32))


class _NoInitialisation(TorchFunctionMode):
    """Leaves out the functions of torch.nn.init."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextlib.contextmanager
def without_memory() -> Generator[None]:
    """Networks built in this context have shapes and no memory (meta device), and draw no random numbers.

    Random initialisation on the meta device would also import the compiler of torch, which takes over a second.
    """
    with torch.device("meta"), _NoInitialisation():
        yield


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Context that disables autocast, for layers that need float32."""
    if x.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class ClassEmbedding(nn.Embedding):
    """labels: indices (N,), or weights of all classes or vectors of conditions (N, label_size) -> (N, dim)."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight if input.is_floating_point() else super().forward(input)


def refuse_labels(config: ModelConfig) -> None:
    """Raises `ConfigError` if the configuration has labels or conditions."""
    if config.num_conditions:
        raise ConfigError(
            f"--model {config.model}: this classic network does not support conditions; use --no-conditional, or "
            "--model residual"
        )
    if config.num_classes:
        raise ConfigError(
            f"--model {config.model}: this classic network does not support labels ({config.num_classes} classes); "
            "use --no-conditional, or --model residual"
        )
