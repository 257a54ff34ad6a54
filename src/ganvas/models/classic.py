"""The convolutional networks of the reference projects, layer by layer: xray, tf-mnist, celeba, cifar10 (Keras) and
mnist-upsample (PyTorch).

The Keras networks differ only in a table (`_Design`). They share details of Keras: 'same' padding with the additional
pixel at the end, Glorot-uniform weights (Glorot & Bengio 2010) with zero biases, batch normalisation with the epsilon
and momentum of Keras. Parameter counts match the projects (tests/test_classic.py); for generators with batch norm the
count includes trainable parameters only, not running means and variances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.errors import ConfigError
from ganvas.models import contract, mlp
from ganvas.models.architecture import Architecture, classic
from ganvas.models.layers import LEAK, full_precision, refuse_labels

_NORM = (1e-3, 0.01)  # epsilon and momentum of batch normalisation; Keras calls this momentum 0.99

_Stage = tuple[int, int, int]
"""Feature maps, kernel side and stride of one convolution."""


@dataclass(frozen=True)
class _Design:
    """Layers of the networks of a Keras project."""

    shrink: int
    """Image side divided by the side of the start grid."""
    start: int
    """Feature maps of the start grid."""
    up: tuple[_Stage, ...]
    """Transposed convolutions of the generator, each with a leaky ReLU."""
    last: tuple[int, int]
    """Kernel side and stride of the output layer; a plain convolution if the stride is 1."""
    down: tuple[_Stage, ...]
    """Convolutions of the discriminator, each with a leaky ReLU."""
    slope: float
    """Slope of the leaky ReLU for negative inputs."""
    dropout: float = 0.0
    """Dropout after each convolution of the discriminator."""
    last_dropout: float = 0.0
    """Dropout before the last layer of the discriminator."""
    norm: bool = False
    """Whether the generator has batch normalisation before each leaky ReLU, and no biases."""
    start_active: bool = True
    """Whether a leaky ReLU follows the dense layer of the generator."""
    unit_range: bool = False
    """Whether the project uses images in [0, 1] from a sigmoid; inputs and outputs are converted."""


_XRAY = _Design(
    shrink=32,
    start=512,
    up=((512, 3, 1), (256, 3, 1), (128, 5, 2), (64, 5, 2), (32, 7, 2), (16, 9, 2)),
    last=(11, 2),
    down=((16, 11, 2), (32, 9, 2), (64, 7, 2), (128, 5, 2), (256, 3, 2), (512, 1, 1)),
    slope=0.3,
    dropout=0.3,
    norm=True,
)
_TF_MNIST = _Design(
    shrink=4,
    start=256,
    up=((128, 5, 1), (64, 5, 2)),
    last=(5, 2),
    down=((64, 5, 2), (128, 5, 2)),
    slope=0.3,
    dropout=0.3,
    norm=True,
)
_CELEBA = _Design(
    shrink=8,
    start=128,
    up=((128, 4, 2), (256, 4, 2), (512, 4, 2)),
    last=(5, 1),
    down=((64, 4, 2), (128, 4, 2), (128, 4, 2)),
    slope=0.2,
    last_dropout=0.2,
    start_active=False,
    unit_range=True,
)
_CIFAR10 = _Design(
    shrink=8,
    start=256,
    up=((128, 4, 2), (128, 4, 2), (128, 4, 2)),
    last=(3, 1),
    down=((64, 3, 1), (128, 3, 2), (128, 3, 2), (256, 3, 2)),
    slope=0.2,
    last_dropout=0.4,
)


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `side` pixels for an output of ceil(side / stride); an odd one is at the end."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class SameConv(nn.Conv2d):
    """Keras' Conv2D with padding 'same': (N, before, H, W) -> (N, after, ceil(H / stride), ceil(W / stride))."""

    def forward(self, input: Tensor) -> Tensor:
        top, bottom = _same_padding(input.shape[2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(input.shape[3], self.kernel_size[1], self.stride[1])
        if (top, left) != (bottom, right):  # the convolution pads the symmetric part
            input = F.pad(input, (0, right - left, 0, bottom - top))
        return F.conv2d(input, self.weight, self.bias, self.stride, (top, left))


class SameConvTranspose(nn.ConvTranspose2d):
    """Keras' Conv2DTranspose with padding 'same': (N, before, H, W) -> (N, after, H * stride, W * stride).

    The adjoint of `SameConv`: of the kernel - stride additional rows, half (rounded down) is removed at the beginning.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        padding = [(kernel - stride) // 2 for kernel, stride in zip(self.kernel_size, self.stride, strict=True)]
        height, width = (side * stride for side, stride in zip(input.shape[2:], self.stride, strict=True))
        x = F.conv_transpose2d(input, self.weight, self.bias, self.stride, padding)
        return x[:, :, :height, :width]


class DenseNorm(nn.BatchNorm1d):
    """Batch normalisation of Keras for the features (N, F) of a dense layer.

    Keras stores the biased variance of the batch, PyTorch n / (n - 1) times as much. For feature maps the difference is
    negligible, but here n is the batch size: with 8 images the features would be 6% smaller in evaluation mode.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, *_NORM)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            variance, mean = torch.var_mean(input.to(self.running_var.dtype), dim=0, correction=0)
            self.running_mean.lerp_(mean, _NORM[1])
            self.running_var.lerp_(variance, _NORM[1])
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


def _glorot_init(layer: nn.Module) -> None:
    """Glorot-uniform weights, zero bias."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Generator(contract.Generator):
    """z (N, z_dim) -> images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: ModelConfig, design: _Design) -> None:
        super().__init__()
        self.mixes_images = design.norm
        # 2 sigmoid(x) - 1 = tanh(x / 2)
        self.steepness = 0.5 if design.unit_range else 1.0
        bias = not design.norm
        grid = (design.start, config.height // design.shrink, config.width // design.shrink)
        layers: list[nn.Module] = [nn.Linear(config.z_dim, math.prod(grid), bias=bias)]
        if design.norm:
            layers.append(DenseNorm(math.prod(grid)))
        if design.start_active:
            layers.append(nn.LeakyReLU(design.slope))
        layers.append(nn.Unflatten(1, grid))
        before = design.start
        for maps, kernel, stride in design.up:
            layers.append(SameConvTranspose(before, maps, kernel, stride, bias=bias))
            if design.norm:
                layers.append(nn.BatchNorm2d(maps, *_NORM))
            layers.append(nn.LeakyReLU(design.slope))
            before = maps
        self.layers = nn.Sequential(*layers)
        last = SameConv if design.last[1] == 1 else SameConvTranspose
        self.to_picture = last(before, config.channels, *design.last, bias=bias)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return [layer for layer in self.layers if isinstance(layer, nn.LeakyReLU)]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.layers(z)
        with full_precision(x):
            return torch.tanh(self.to_picture(x.to(self.to_picture.weight.dtype)) * self.steepness)


class Discriminator(contract.Discriminator):
    """Images (N, C, H, W) in [-1, 1] -> logits (N,)."""

    stochastic = True  # dropout

    def __init__(self, config: ModelConfig, design: _Design) -> None:
        super().__init__()
        self.unit_range = design.unit_range
        layers: list[nn.Module] = []
        before, height, width = config.channels, config.height, config.width
        for maps, kernel, stride in design.down:
            layers += [SameConv(before, maps, kernel, stride), nn.LeakyReLU(design.slope)]
            if design.dropout:
                layers.append(nn.Dropout(design.dropout))
            before, height, width = maps, height // stride, width // stride
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(design.last_dropout)
        self.head = nn.Linear(before * height * width, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.dropout(self.layers((images + 1) / 2 if self.unit_range else images).flatten(1))
        with full_precision(x):
            return self.head(x.to(self.head.weight.dtype)).squeeze(1)


class _UpsamplingGenerator(contract.Generator):
    """mnist-upsample: z (N, z_dim) -> images (N, C, H, W) in [-1, 1], with nearest-neighbour upsampling.

    Batch normalisation per feature map; initialisation: PyTorch's default.
    """

    mixes_images = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        grid = (128, config.height // 4, config.width // 4)
        layers: list[nn.Module] = [nn.Linear(config.z_dim, math.prod(grid)), nn.Unflatten(1, grid), nn.BatchNorm2d(128)]
        for before, after in ((128, 128), (128, 64)):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
            layers += [nn.BatchNorm2d(after), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers)
        self.to_picture = nn.Conv2d(64, config.channels, 3, padding=1)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return [layer for layer in self.layers if isinstance(layer, nn.LeakyReLU)]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.layers(z)
        with full_precision(x):
            return torch.tanh(self.to_picture(x.to(self.to_picture.weight.dtype)))


def _require_multiple(config: ModelConfig, multiple: int) -> None:
    """Raises `ConfigError` for labels, and for sides that are not multiples of `multiple` pixels."""
    refuse_labels(config)
    if config.height % multiple or config.width % multiple:
        near = (max(multiple, multiple * round(side / multiple)) for side in (config.height, config.width))
        raise ConfigError(
            f"--model {config.model}: the size is {config.height}x{config.width}, but both sides must be multiples "
            f"of {multiple} pixels; use another --size, such as {'x'.join(map(str, near))}"
        )


def _build_keras(config: ModelConfig, design: _Design) -> tuple[Generator, Discriminator]:
    _require_multiple(config, design.shrink)
    generator, discriminator = Generator(config, design), Discriminator(config, design)
    generator.apply(_glorot_init)
    discriminator.apply(_glorot_init)
    return generator, discriminator


def _build_mnist_upsample(config: ModelConfig) -> tuple[_UpsamplingGenerator, mlp.Discriminator]:
    _require_multiple(config, 4)
    return _UpsamplingGenerator(config), mlp.Discriminator(config, hidden=(512, 256))


def _keras(design: _Design, about: str) -> Architecture:
    return classic(lambda config: _build_keras(config, design), about)


XRAY_ARCHITECTURE = _keras(_XRAY, "networks of the chest X-ray project")
TF_MNIST_ARCHITECTURE = _keras(_TF_MNIST, "networks of the Keras MNIST project")
MNIST_UPSAMPLE_ARCHITECTURE = classic(_build_mnist_upsample, "networks of the PyTorch MNIST project")
CELEBA_ARCHITECTURE = _keras(_CELEBA, "networks of the CelebA project")
CIFAR10_ARCHITECTURE = _keras(_CIFAR10, "networks of the CIFAR-10 project")
