"""The light model: for 32 to 1024 pixels, with batch renormalisation, SiLU, and gates from the latent on every grid.

Like FastGAN (Liu et al. 2021) it has nearest upsampling, few feature maps on fine grids, and a latent input on every
grid. SiLU replaces gated linear units, at half the cost. Coarse grids, where an operation costs little, have a residual
block each, which completes the large structures. Normalising each image separately loses brightness and colours
(RESULTS.md). Labels act only through the gates, so that they cannot replace the latent.

Training of images above 64 pixels begins with images of 64 pixels, where a step costs little and the grids are those of
the starting weights: each finer grid then adds details to the enlarged smaller image (as in StyleGAN2: Karras et al.
2020). Above 160 pixels the last details come from a few feature maps, doubled by pixel shuffle (Shi et al. 2016), and
training computes them only in the windows that the discriminator sees.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import compact, contract, crops
from ganvas.models.architecture import Architecture, Defaults, Setting, modern_defaults
from ganvas.models.batch_norm import BatchNorm
from ganvas.models.crops import Window
from ganvas.models.layers import (
    LEAK,
    PATTERN_REACH,
    ClassEmbedding,
    cut,
    fixed_noise,
    full_precision,
    stages,
    without_pattern,
)

SMALL = 64  # shorter side of the images that the training of larger ones begins with
_COARSEST = 4  # maximum shorter side of the first grid
_WIDEST = 128  # maximum feature maps of a grid
_HIDDEN = 64  # hidden features of the gates
_TRUNK = 256  # maximum longer side of the small images that large ones are enlarged from
_NOISY = 32  # minimum shorter side of the grids with noise
_DEEP = 16  # maximum shorter side of the grids with a residual block
_LEAST_MAPS = 4  # minimum feature maps after the last doubling
_MARGIN = 2 + PATTERN_REACH // 2  # pixels of the small image beside a window that its details depend on
_STD = 0.02  # standard deviation of initial weights (Radford et al. 2015)
_OWN_STEP = 8  # its discriminator is that of compact, with half the base in multiples of this


class _Noise(nn.Module):
    """x -> strength * noise (1, C, H, W) in x's type, the same in every image; the learned strength starts at zero.

    The following layers turn it into grain and texture. Without it, networks with few maps draw hair and grain as
    regular dots (RESULTS.md).
    """

    fixed: Tensor

    def __init__(self, maps: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1, maps, 1, 1))
        self.register_buffer("fixed", fixed_noise(size, size[0]), persistent=False)

    def forward(self, x: Tensor, starts: Tensor | None = None) -> Tensor:
        """starts: (N, 2), the position of x (N, C, h, w) in the whole grid; default: x is the whole grid."""
        fixed = self.fixed
        if starts is not None:
            fixed = cut(fixed.expand(len(x), -1, -1, -1), starts, (x.shape[2], x.shape[3]))
        return (self.strength * fixed).to(x.dtype, memory_format=torch.channels_last)


class _Residual(nn.Module):
    """x + f(x), f: 3x3 convolution, batch renormalisation, gates, SiLU and a 1x1 convolution that starts at zero."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.norm = BatchNorm(maps)
        self.gate = nn.Linear(_HIDDEN, maps)
        self.out = nn.Conv2d(maps, maps, 1, bias=False)

    def start(self) -> None:
        """Initial weights that keep x as it is."""
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear")
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        gain = (1 + self.gate(hidden))[:, :, None, None].to(x.dtype)
        return x + self.out(F.silu(self.norm(self.conv(x)) * gain))


class _Stage(nn.Module):
    """Upsamples to `size`, then `num` times convolution, batch renormalisation, gates and SiLU.

    Fine grids have noise, coarse ones a residual block. Grids above `SMALL` are not always twice the size of the one
    before, and use bilinear interpolation.
    """

    def __init__(self, before: int, after: int, size: tuple[int, int], num: int, config: ModelConfig) -> None:
        super().__init__()
        self.size = size
        self.upsample = "nearest" if min(size) <= SMALL else "bilinear"
        self.noise = _Noise(after, size) if min(size) >= _NOISY else None
        self.convs = nn.ModuleList(
            nn.Conv2d(before if i == 0 else after, after, 3, padding=1, bias=False) for i in range(num)
        )
        self.norms = nn.ModuleList(BatchNorm(after) for _ in range(num))
        self.gate = nn.Linear(_HIDDEN, after)
        self.classes = ClassEmbedding(config.label_size, 2 * after) if config.label_size else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.1)
        self.residual = _Residual(after) if min(size) <= _DEEP else None

    def forward(self, x: Tensor, hidden: Tensor, labels: Tensor | None) -> Tensor:
        x = F.interpolate(x, size=self.size, mode=self.upsample)
        gain = 1 + self.gate(hidden)
        added = torch.zeros_like(gain)
        if self.classes is not None:
            class_gain, added = self.classes(labels).chunk(2, dim=1)
            gain = gain + class_gain
        gain, added = gain[:, :, None, None].to(x.dtype), added[:, :, None, None]
        if self.noise is not None:  # without classes `added` is zero, and one map for the batch is enough
            added = added + self.noise(x) if self.classes is not None else self.noise(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(torch.addcmul(added.to(x.dtype), norm(conv(x)), gain))
        return x if self.residual is None else self.residual(x, hidden)


class _Shuffle(nn.Module):
    """Doubles the grid by a convolution to 4 maps per output map and pixel shuffle; adds noise; then SiLU.

    size: of the doubled grid.

    The four maps of an output map start with equal weights, so that the first images have no checkerboard artefacts
    (Aitken et al. 2017).
    """

    def __init__(self, before: int, after: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.to_quarters = nn.Conv2d(before, 4 * after, 3, padding=1)
        self.noise = _Noise(after, size)

    def start(self) -> None:
        """Initial weights that keep the variance."""
        weight = torch.empty_like(self.to_quarters.weight.chunk(4)[0])
        nn.init.kaiming_normal_(weight)
        with torch.no_grad():
            self.to_quarters.weight.copy_(weight.repeat(4, 1, 1, 1))

    def forward(self, x: Tensor, starts: Tensor | None) -> Tensor:
        """starts: (N, 2), the position of the doubled x in its whole grid; None: x is the whole grid."""
        x = _shuffle_quarters(self.to_quarters(x))
        return F.silu(x + self.noise(x, starts))


def _shuffle_quarters(x: Tensor) -> Tensor:
    """(N, 4C, H, W) -> (N, C, 2H, 2W): the first C maps are the upper left pixels, the last C the lower right ones.

    Half the time of `F.pixel_shuffle` in channels-last format, because all maps of a pixel stay together.
    """
    num, maps, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(num, height, width, 2, 2, maps // 4).transpose(2, 3)
    return x.reshape(num, 2 * height, 2 * width, maps // 4).permute(0, 3, 1, 2)


def grids_of(height: int, width: int) -> tuple[list[tuple[int, int]], int]:
    """Grid sizes from coarse to fine for images of this size, and how many of the last ones are pixel shuffles.

    64x64 -> 4, 8, 16, 32, 64; 96x128 -> 4x5, ..., 64x85, 96x128; 800x800 -> 4, ..., 64, 113, 200, 400, 800. A pixel
    shuffle doubles the grid. Above `SMALL`, the other factors are equal and nearly 2.
    """
    size, shuffled = (height, width), list[tuple[int, int]]()
    while max(size) > (_TRUNK if shuffled else crops.LARGE):
        shuffled.insert(0, size)
        size = (-(-size[0] // 2), -(-size[1] // 2))
    factor = min(size) / SMALL
    num = max(1, round(math.log2(factor))) if factor > 1 else 0
    small = [
        (round(size[0] * scale), round(size[1] * scale)) for scale in (factor ** (i / num - 1) for i in range(num))
    ]
    grids = [*small, size, *shuffled]
    return [*stages(*grids[0], _COARSEST)[:-1], *grids], len(shuffled)


class Generator(contract.Generator):
    """z (N, z_dim) and labels (N,) -> images (N, C, H, W) in [-1, 1]."""

    mixes_images = True  # in the gradient of batch renormalisation
    moves_latents = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        grids, shuffled = grids_of(config.height, config.width)
        limit = config.widest or max(_WIDEST, config.base)
        trunk = grids[: len(grids) - shuffled]
        drawn = [i for i, grid in enumerate(trunk) if min(grid) >= SMALL] or [len(trunk) - 1]
        maps = [min(config.base * 2 ** max(0, drawn[0] - i), limit) for i in range(len(trunk))]
        few = [max(_LEAST_MAPS, config.base // 3) * 2**level for level in reversed(range(shuffled))]
        self.grid, self.maps = grids[0], maps[0]
        self.hidden = nn.Linear(config.z_dim, _HIDDEN)
        self.start = nn.Linear(config.z_dim, maps[0] * grids[0][0] * grids[0][1])
        self.norm = BatchNorm(maps[0])
        self.stages = nn.ModuleList(
            _Stage(before, after, grid, config.blocks, config)
            for (before, after), grid in zip(itertools.pairwise(maps), trunk[1:], strict=True)
        )
        height, width = trunk[-1]
        tail = [
            _Shuffle(before, after, (2**i * height, 2**i * width))
            for i, (before, after) in enumerate(itertools.pairwise(maps[-1:] + few), 1)
        ]
        self.tail = nn.ModuleList(tail)
        if config.discriminator != "own":  # a discriminator on pixels alone sees whole images only
            self.draws_windows = bool(tail)
            self.coarse_sizes = tuple(trunk[i] for i in drawn if tail or i < len(trunk) - 1)
        self.size = grids[-1]
        self.first = drawn[0]  # grid of the smallest images
        self.to_picture = nn.Conv2d(maps[self.first], config.channels, 3, padding=1)
        self.to_details = nn.ModuleList(
            nn.Conv2d(before, config.channels, 3, padding=1) for before in [maps[i] for i in drawn[1:]] + few[-1:]
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, _Residual | _Shuffle):
                layer.start()
        for layer in self.to_details:
            nn.init.zeros_(layer.get_parameter("weight"))

    @torch.no_grad()
    def move_latents(self, mean: Tensor, factor: Tensor) -> None:
        for layer in (self.hidden, self.start):
            layer.bias.add_(layer.weight @ mean)
            layer.weight.copy_(layer.weight @ factor)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return [self.norm, *self.stages, *self.tail]

    def forward(
        self, z: Tensor, labels: Tensor | None = None, windows: list[Window] | None = None
    ) -> Tensor | list[Tensor]:
        """windows: draw only the small images and these windows of the large ones, and return them in a list."""
        hidden = F.leaky_relu(self.hidden(z), LEAK)
        x = self.start(z).view(-1, *self.grid, self.maps).permute(0, 3, 1, 2)
        x = F.silu(self.norm(x))
        small = None
        for i in range(len(self.stages) + 1):
            if i:
                x = self.stages[i - 1](x, hidden, labels)
            size = (x.shape[2], x.shape[3])
            if i == self.first:
                small = _in_full(self.to_picture, x)
            elif small is not None:
                enlarged = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
                small = enlarged + _in_full(self.to_details[i - self.first - 1], x)
            if small is not None and size == self.coarse:
                return torch.tanh(small)
        assert small is not None
        if not self.tail:
            return torch.tanh(small)
        if windows is None:
            return torch.tanh(self.enlarged(x, small)[:, :, : self.size[0], : self.size[1]])
        return [torch.tanh(small), *(torch.tanh(self.window(x, small, window)) for window in windows)]

    def enlarged(self, x: Tensor, small: Tensor, starts: Tensor | None = None) -> Tensor:
        """`small` (N, C, h, w) enlarged, with details from its features x; both at `starts` (N, 2) of the grid."""
        for stage in self.tail:
            starts = None if starts is None else 2 * starts
            x = stage(x, starts)
        factor = 2 ** len(self.tail)
        detail = _in_full(self.to_details[-1], x)
        smooth = F.interpolate(small, scale_factor=factor, mode="bilinear", align_corners=False)
        return smooth + without_pattern(detail, factor)

    def window(self, x: Tensor, small: Tensor, window: Window) -> Tensor:
        """Pixels of the large image in a window, computed from the part of the grid that they depend on."""
        factor = 2 ** len(self.tail)
        least = [-(-(side + factor - 1) // factor) + 2 * _MARGIN for side in window.sides]
        size = (min(least[0], x.shape[2]), min(least[1], x.shape[3]))
        starts = torch.div(window.starts, factor, rounding_mode="floor") - _MARGIN
        starts = torch.stack([starts[:, i].clamp(0, x.shape[2 + i] - size[i]) for i in (0, 1)], dim=1)
        part = self.enlarged(cut(x, starts, size), cut(small, starts, size), starts)
        return cut(part, window.starts - factor * starts, window.sides)


def _in_full(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x) in the type of its weights, also where the rest uses narrow types."""
    with full_precision(x):
        return layer(x.to(layer.get_parameter("weight").dtype))


def build(config: ModelConfig) -> tuple[Generator, compact.Discriminator]:
    own_base = _OWN_STEP * math.ceil(config.base / (2 * _OWN_STEP))
    return Generator(config), compact.Discriminator(dataclasses.replace(config, base=own_base))


def defaults(setting: Setting) -> Defaults:
    shorter = min(setting.height, setting.width)
    usual = modern_defaults(setting)
    if shorter > SMALL:
        usual["warmup"] = (0.01, "of the budget; training begins with small images")
    return usual | {
        "discriminator": ("both", "pixels and pretrained features: better than either alone"),
        "base": (12 if setting.on_cpu else 32, "feature maps of the finest grid"),
        "widest": (0, "the architecture's own limit") if setting.on_cpu else (512, "feature maps of the finest grid"),
        "r1": compact.penalty(setting),
        "lr": (1e-3, "tuned for this network"),
        "lr_end": (0.01, "learning rate decays to a hundredth: better final images"),
    }


def _based_on(height: int) -> int:
    """Height of the images that training begins with."""
    return min(height, SMALL)


def preferred(setting: Setting) -> str | None:
    usual = setting.on_cpu and not setting.for_compact
    return "best image quality per minute at this size" if usual or not setting.small else None


ARCHITECTURE = Architecture(
    build,
    "default above 40 pixels, and on a CPU for colour images from 32 pixels; its discriminator uses pixels and "
    "features of a network trained on ImageNet (`--discriminator own`: pixels only)",
    defaults,
    preferred,
    _based_on,
)
