"""Inception-v3 of December 2015, in which FID, KID and IS are defined: a plain and a fast implementation.

Szegedy et al. 2016, "Rethinking the Inception architecture", as in the TensorFlow graph used for FID by Heusel et al.
2017: average pooling excludes padding, the last block uses maximum pooling, and there are 1008 classes. The weights are
those of pytorch-fid, converted from that graph; torch-fidelity and torchmetrics use them too.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.data.download import File
from ganvas.data.packing.pack import Pack
from ganvas.errors import CheckpointError
from ganvas.evaluation import onnx_form
from ganvas.evaluation.features import Features, bicubic, fetch
from ganvas.system import files

_SIZE = 299
_NUM_FEATURES, _NUM_CLASSES = 2048, 1008
_NORM_EPS = 1e-3
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the published file; its first digits are part of the file name."""
INCEPTION_FILE = File(
    "pt_inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    INCEPTION_SHA256,
    95_628_359,
)


class _Layer(NamedTuple):
    """A convolution of a block: its input (None: input of the block), channels, kernel (height, width), stride."""

    name: str
    reads: str | None
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


def _chain(name: str, *steps: tuple[int, int, int, int]) -> tuple[_Layer, ...]:
    """Consecutive layers name_1, name_2, ...; steps: (channels, height, width, stride)."""
    return tuple(
        _Layer(f"{name}_{i + 1}", f"{name}_{i}" if i else None, channels, (height, width), stride)
        for i, (channels, height, width, stride) in enumerate(steps)
    )


def _block_35(pooled: int) -> tuple[_Layer, ...]:
    """A block of the 35 x 35 grid; `pooled`: channels after its pooling."""
    return (
        _Layer("branch1x1", None, 64),
        *_chain("branch5x5", (48, 1, 1, 1), (64, 5, 5, 1)),
        *_chain("branch3x3dbl", (64, 1, 1, 1), (96, 3, 3, 1), (96, 3, 3, 1)),
        _Layer("branch_pool", "pool", pooled),
    )


def _block_17(narrow: int) -> tuple[_Layer, ...]:
    """A block of the 17 x 17 grid, with 7 x 7 kernels split into 1 x 7 and 7 x 1 with `narrow` channels."""
    lying, standing = (narrow, 1, 7, 1), (narrow, 7, 1, 1)
    return (
        _Layer("branch1x1", None, 192),
        *_chain("branch7x7", (narrow, 1, 1, 1), lying, (192, 7, 1, 1)),
        *_chain("branch7x7dbl", (narrow, 1, 1, 1), standing, lying, standing, (192, 1, 7, 1)),
        _Layer("branch_pool", "pool", 192),
    )


def _block_8() -> tuple[_Layer, ...]:
    """A block of the 8 x 8 grid, with parallel 1 x 3 and 3 x 1 kernels."""
    return (
        _Layer("branch1x1", None, 320),
        _Layer("branch3x3_1", None, 384),
        _Layer("branch3x3_2a", "branch3x3_1", 384, (1, 3)),
        _Layer("branch3x3_2b", "branch3x3_1", 384, (3, 1)),
        *_chain("branch3x3dbl", (448, 1, 1, 1), (384, 3, 3, 1)),
        _Layer("branch3x3dbl_3a", "branch3x3dbl_2", 384, (1, 3)),
        _Layer("branch3x3dbl_3b", "branch3x3dbl_2", 384, (3, 1)),
        _Layer("branch_pool", "pool", 192),
    )


_Pooling = Literal["average", "maximum", "halve"]

_BLOCKS: tuple[tuple[str, _Pooling, tuple[_Layer, ...]], ...] = (
    ("Mixed_5b", "average", _block_35(32)),
    ("Mixed_5c", "average", _block_35(64)),
    ("Mixed_5d", "average", _block_35(64)),
    (
        "Mixed_6a",
        "halve",
        (
            _Layer("branch3x3", None, 384, (3, 3), 2),
            *_chain("branch3x3dbl", (64, 1, 1, 1), (96, 3, 3, 1), (96, 3, 3, 2)),
        ),
    ),
    ("Mixed_6b", "average", _block_17(128)),
    ("Mixed_6c", "average", _block_17(160)),
    ("Mixed_6d", "average", _block_17(160)),
    ("Mixed_6e", "average", _block_17(192)),
    (
        "Mixed_7a",
        "halve",
        (
            *_chain("branch3x3", (192, 1, 1, 1), (320, 3, 3, 2)),
            *_chain("branch7x7x3", (192, 1, 1, 1), (192, 1, 7, 1), (192, 7, 1, 1), (192, 3, 3, 2)),
        ),
    ),
    ("Mixed_7b", "average", _block_8()),
    ("Mixed_7c", "maximum", _block_8()),
)
"""Name, pooling and layers of each block. The output of a block is the concatenation of all layers without successor,
followed by the max-pooled input if the block halves the grid."""


class Inception(nn.Module):
    """RGB (N, 3, 299, 299), (pixel - 128) / 128 -> features (N, 2048) and logits (N, 1008).

    Plain reference implementation for tests of the fast one. Logits are without the bias of the last layer, as in the
    original code of the inception score (Salimans et al. 2016). Parameter names are those of the file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _ConvNorm(3, 32, (3, 3), stride=2, padding=0)
        self.Conv2d_2a_3x3 = _ConvNorm(32, 32, (3, 3), padding=0)
        self.Conv2d_2b_3x3 = _ConvNorm(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = _ConvNorm(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _ConvNorm(80, 192, (3, 3), padding=0)
        num = 192
        for name, pooling, layers in _BLOCKS:
            block = _Block(num, layers, pooling)
            self.add_module(name, block)
            num = block.num_out
        self.fc = nn.Linear(_NUM_FEATURES, _NUM_CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, _, _ in _BLOCKS:
            x = self.get_submodule(name)(x)
        features = x.mean(dim=(2, 3))
        return features, F.linear(features, self.fc.weight)


class _Block(nn.Module):
    """The branches of one entry of `_BLOCKS`."""

    def __init__(self, num_in: int, layers: tuple[_Layer, ...], pooling: _Pooling) -> None:
        super().__init__()
        self.layers, self.pooling = layers, pooling
        width: dict[str | None, int] = {None: num_in, "pool": num_in}
        for name, reads, channels, kernel, stride in layers:
            halves = stride == 2  # without padding
            self.add_module(name, _ConvNorm(width[reads], channels, kernel, stride, 0 if halves else None))
            width[name] = channels
        read = {layer.reads for layer in layers}
        self.ends = [layer.name for layer in layers if layer.name not in read]
        self.num_out = sum(width[name] for name in self.ends) + (num_in if pooling == "halve" else 0)

    def forward(self, x: Tensor) -> Tensor:
        maps: dict[str | None, Tensor] = {None: x, "pool": _pool(x, self.pooling)}
        for layer in self.layers:
            maps[layer.name] = self.layer(layer.name)(maps[layer.reads])
        ends = [maps[name] for name in self.ends]
        return torch.cat([*ends, maps["pool"]] if self.pooling == "halve" else ends, dim=1)

    def layer(self, name: str) -> _ConvNorm:
        part = self.get_submodule(name)
        assert isinstance(part, _ConvNorm)
        return part


def _pool(x: Tensor, pooling: _Pooling) -> Tensor:
    if pooling == "average":
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return F.max_pool2d(x, 3, 2) if pooling == "halve" else F.max_pool2d(x, 3, 1, 1)


class _ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU; default padding keeps the size."""

    def __init__(
        self, num_in: int, num_out: int, kernel: tuple[int, int], stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        keeping = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride, keeping if padding is None else padding, bias=False)
        self.bn = nn.BatchNorm2d(num_out, _NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


# ---- fast implementation ----


class FastInception(nn.Module):
    """The same function as `Inception`, except for rounding.

    Batch norm is folded into convolutions. merge: combine the 1x1 convolutions of the input of a block (slower in
    onnxruntime because of its memory layout). Average pooling is moved after its 1x1 convolution, where there are four
    to six times fewer channels; this is equivalent because both are linear and the pooling weights sum to 1 everywhere.
    """

    def __init__(self, plain: Inception, merge: bool = True) -> None:
        super().__init__()
        self.stem = nn.ModuleList(_folded([layer]) for layer in plain.children() if isinstance(layer, _ConvNorm))
        self.blocks = nn.ModuleList(_FastBlock(layer, merge) for layer in plain.children() if isinstance(layer, _Block))
        self.fc = nn.Linear(_NUM_FEATURES, _NUM_CLASSES, bias=False)
        self.fc.weight = plain.fc.weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for i, layer in enumerate(self.stem):
            x = F.relu(layer(x), inplace=True)
            if i in (2, 4):
                x = F.max_pool2d(x, 3, 2)
        for block in self.blocks:
            x = block(x)
        features = x.mean(dim=(2, 3))
        return features, self.fc(features)


class _FastBlock(nn.Module):
    """A block as groups of layers with one convolution each."""

    def __init__(self, plain: _Block, merge: bool) -> None:
        super().__init__()
        self.ends, self.pooling = plain.ends, plain.pooling
        reads_input = (None, "pool") if plain.pooling == "average" else (None,)
        heads = [layer for layer in plain.layers if layer.reads in reads_input and layer.kernel == (1, 1)]
        rest = [layer for layer in plain.layers if layer not in heads]
        self.groups = ([heads] if merge else [[layer] for layer in heads]) + [[layer] for layer in rest]
        self.convolutions = nn.ModuleList(_folded([plain.layer(one.name) for one in group]) for group in self.groups)

    def forward(self, x: Tensor) -> Tensor:
        average = self.pooling == "average"
        maps: dict[str | None, Tensor] = {None: x, "pool": x if average else _pool(x, self.pooling)}
        for group, convolution in zip(self.groups, self.convolutions, strict=True):
            y = convolution(maps[group[0].reads])
            parts = y.split([layer.channels for layer in group], dim=1) if len(group) > 1 else [y]
            for i, layer in enumerate(group):
                moved = average and layer.reads == "pool"
                maps[layer.name] = F.relu(_pool(parts[i], "average") if moved else parts[i])
        ends = [maps[name] for name in self.ends]
        return torch.cat([*ends, maps["pool"]] if self.pooling == "halve" else ends, dim=1)


def _folded(layers: list[_ConvNorm]) -> nn.Conv2d:
    """Combine convolutions of the same input and their batch norms into one convolution; computed in float64."""
    weights, biases = [], []
    for layer in layers:
        norm = {name: tensor.double() for name, tensor in layer.bn.state_dict().items()}
        scale = norm["weight"] / (norm["running_var"] + _NORM_EPS).sqrt()
        weights.append(layer.conv.weight.double() * scale[:, None, None, None])
        biases.append(norm["bias"] - norm["running_mean"] * scale)
    one, weight = copy.deepcopy(layers[0].conv), torch.cat(weights)
    one.out_channels = len(weight)
    one.weight = nn.Parameter(weight.float(), requires_grad=False)
    one.bias = nn.Parameter(torch.cat(biases).float(), requires_grad=False)
    return one


# ---- images ----


def original(images: Tensor) -> Tensor:
    """RGB (N, 3, H, W) in [-1, 1] -> (N, 3, 299, 299), as in the original graph of 2015.

    8-bit values, resized as in TensorFlow 1: bilinear, aligned at the corner of the first pixel, without antialiasing.
    Then (pixel - 128) / 128.
    """
    x = _eight_bit(images).contiguous()
    for dim in (3, 2):  # along the rows first, because the order affects rounding
        place = torch.arange(_SIZE, device=x.device) * torch.tensor(x.shape[dim] / _SIZE, device=x.device)
        low = place.long()
        high = (low + 1).clamp_max(x.shape[dim] - 1)
        first = x.index_select(dim, low)
        # first + (second - first) * share, in place (four times faster)
        x = x.index_select(dim, high).sub_(first).mul_((place - low).view(-1, *[1] * (3 - dim))).add_(first)
    return x.sub_(128).div_(128)


def clean(images: Tensor) -> Tensor:
    """RGB (N, 3, H, W) in [-1, 1] -> (N, 3, 299, 299): 8-bit values, antialiased bicubic, then (pixel - 128) / 128.

    Parmar et al. 2022, "On aliased resizing and surprising subtleties in GAN evaluation".
    """
    return bicubic(_SIZE)(_eight_bit(images) / 127.5 - 1).mul_(127.5 / 128).sub_(0.5 / 128)


def _eight_bit(images: Tensor) -> Tensor:
    """[-1, 1] -> integers in 0..255, as in an 8-bit file."""
    return (images.clamp(-1, 1) + 1).mul_(127.5).round_()


# ---- weights ----


def load(name: str, device: torch.device, weights: Path | None, pack: Pack | None) -> Features:
    """The fast network as `Features`, with weights from the file `weights`, or the published ones.

    A file with other weights is accepted; name and protocol then state it, because the results are not FID.
    """
    plain, digest = load_plain(weights)
    in_onnx = device.type == "cpu" and onnx_form.available()
    network: nn.Module = FastInception(plain, merge=not in_onnx).eval().requires_grad_(False)
    if in_onnx:
        network = onnx_form.of(network, (3, _SIZE, _SIZE))
    mode = name.removeprefix("inception-")
    prepare, resize = {
        "original": (original, "bilinear of TensorFlow 1"),
        "clean": (clean, "antialiased bicubic"),
    }[mode]
    official = digest == INCEPTION_SHA256
    words = f"rounded to 8 bit, input {_SIZE}x{_SIZE} by {resize}, aspect not kept, (x - 128) / 128"
    if not official:
        name, words = f"{name}-{digest[:8]}", f"{words}, NOT the published weights {INCEPTION_SHA256[:8]} of FID"
    return Features(name, digest[:8], _NUM_FEATURES, network, prepare, words, device, _NUM_CLASSES, official)


def load_plain(weights: Path | None = None) -> tuple[Inception, str]:
    """The plain network in eval mode and the SHA-256 of its file. Raises `CheckpointError` for other files."""
    path = weights or fetch(INCEPTION_FILE)
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist: expected the weights file of Inception, such as {INCEPTION_FILE.name}"
        )
    digest = files.sha256(path)
    if weights is None and digest != INCEPTION_SHA256:
        raise CheckpointError(
            f"{path} is damaged or of another network (hash {digest[:8]}, expected {INCEPTION_SHA256[:8]}): delete it, "
            f"then try again or save {INCEPTION_FILE.url} there"
        )
    network = Inception().eval().requires_grad_(False)
    try:
        # As a plain dict, PyTorch accepts older files without the batch counters.
        network.load_state_dict(dict(torch.load(path, map_location="cpu", weights_only=True)))
    except Exception as error:  # torch.load raises different errors for damaged files
        raise CheckpointError(
            f"{path} (hash {digest[:8]}) does not contain the weights of the Inception of FID: "
            f"expected the file from {INCEPTION_FILE.url} (hash {INCEPTION_SHA256[:8]})"
        ) from error
    return network, digest
