"""A random convolutional network: features for images that differ from photographs, for which pretrained networks are
not suitable.

Random filters with a nonlinearity and pooling distinguish most textures and shapes (Jarrett et al. 2009, "What is the
best multi-stage architecture for object recognition?"; Ustyuzhaninov et al. 2017, "What does it take to generate
natural textures?"). Weights are drawn with NumPy, so they are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.data.packing.pack import Pack
from ganvas.evaluation.features import Features, as_rgb
from ganvas.model_file import tensor_hash

_SEED = 0
_MAPS = (16, 32, 64, 64)  # feature maps per scale; kernels of 5 x 5, then 3 x 3
_LAYOUT = 2  # 2 x 2 cells of means at the coarsest scale
_LARGEST = 128  # longer side in pixels; larger images are reduced
_SMALLEST = 16  # shorter side in pixels; smaller images are enlarged
_CALIBRATION = 500  # images for the scale of each feature
_BLOCK = 50  # calibration images at a time


class RandomNetwork(nn.Module):
    """RGB (N, 3, H, W) in [-1, 1] -> (N, num_features).

    Mean and deviation of each feature map at four scales (each half of the previous one), and means in 2 x 2 cells of
    the last scale. Features are standardised on calibration images; asinh then limits the influence of outliers.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, seed: int = _SEED) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.convs = nn.ModuleList()
        num_in = 3
        for maps in _MAPS:
            size = 5 if num_in == 3 else 3
            conv = nn.Conv2d(num_in, maps, size, padding=size // 2, padding_mode="reflect")
            weight = rng.standard_normal((maps, num_in, size, size), np.float32)
            # Filters with mean 0 detect differences; half of the first ones also respond to brightness and colour.
            differing = maps // 2 if num_in == 3 else maps
            weight[:differing] -= weight[:differing].mean(axis=(1, 2, 3), keepdims=True)
            conv.weight.data = torch.from_numpy(weight * math.sqrt(2 / (num_in * size**2)))
            assert conv.bias is not None
            conv.bias.data = torch.from_numpy(rng.standard_normal(maps, np.float32) * 0.1)
            self.convs.append(conv)
            num_in = maps
        self.num_features = 2 * sum(_MAPS) + _LAYOUT**2 * _MAPS[-1]
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("scale", torch.ones(self.num_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.asinh((self.raw(x) - self.mean) * self.scale)

    def raw(self, x: Tensor) -> Tensor:
        """(N, num_features) features before standardisation."""
        parts = []
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            mean = x.mean(dim=(2, 3))
            # Ten times as fast as torch.std_mean on a CPU.
            parts += [mean, (x - mean[:, :, None, None]).square_().mean(dim=(2, 3)).sqrt()]
            if i + 1 < len(self.convs):
                x = F.avg_pool2d(x, 2, ceil_mode=True)
        parts.append(F.adaptive_avg_pool2d(x, _LAYOUT).flatten(1))
        return torch.cat(parts, dim=1)

    @torch.inference_mode()
    def calibrate(self, blocks: Iterable[Tensor]) -> None:
        """Standardise each feature to mean 0 and variance 1 on these images (N, 3, H, W)."""
        deviation, mean = torch.std_mean(torch.cat([self.raw(block) for block in blocks]).double(), dim=0)
        self.mean.copy_(mean)
        self.scale.copy_(1 / deviation.clamp_min(1e-4))


def network_input(images: Tensor) -> Tensor:
    """Resize images that are too large to be fast or too small for four scales."""
    height, width = images.shape[2:]
    factor = min(1.0, _LARGEST / max(height, width))
    size = max(round(height * factor), _SMALLEST), max(round(width * factor), _SMALLEST)
    if size != (height, width):
        images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp_(-1, 1)
    return images


def textures(num: int = _CALIBRATION, side: int = 64) -> Tensor:
    """Noise (N, 3, side, side) with the 1/f amplitudes of natural images (Field 1987), random contrast and colour."""
    rng = np.random.default_rng(_SEED)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1 / side
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((num, 3, side, side))) / frequency)
    noise /= noise.std(axis=(1, 2, 3), keepdims=True)
    colour, contrast, brightness = rng.uniform([0, 0.1, -0.6], [1, 0.6, 0.6], (num, 3)).T[:, :, None, None, None]
    noise = colour * noise + (1 - colour) * noise.mean(axis=1, keepdims=True)
    return torch.from_numpy((contrast * noise + brightness).clip(-1, 1).astype(np.float32))


def load(name: str, device: torch.device, weights: Path | None, pack: Pack | None) -> Features:
    """The network as `Features`; with a pack, calibrated on its training images, which improves discrimination."""
    network = RandomNetwork().eval().requires_grad_(False)
    digest = tensor_hash(network.state_dict())
    if pack is None:
        network.calibrate(textures().split(_BLOCK))
        scale = "random 1/f textures"
    else:
        places = np.linspace(0, len(pack.training) - 1, min(_CALIBRATION, len(pack.training))).astype(int)
        blocks = np.array_split(pack.training[places], -(-len(places) // _BLOCK))
        pixels = (torch.from_numpy(pack.images[block]).permute(0, 3, 1, 2) for block in blocks)
        network.calibrate(network_input(as_rgb(block)) for block in pixels)
        scale = f"{len(places)} training images of the pack {pack.hash[:8]}"
    words = (
        f"input as it is ({_SMALLEST} to {_LARGEST} pixels, else by antialiased bicubic), [-1, 1], "
        f"each feature in units of its deviation on {scale}"
    )
    return Features(name, digest[:8], network.num_features, network, network_input, words, device)
