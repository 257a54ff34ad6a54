"""A small convolutional classifier and its training, for class accuracy and the usefulness tests.

Images are reduced to at most 64 pixels along the longer side by `prepared`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.augment import augment, draw
from ganvas.data.packing.pack import Progress
from ganvas.evaluation.features import as_rgb
from ganvas.models import channels_last

Pixels = Tensor | np.ndarray
"""A tensor (N, C, H, W) in [-1, 1], or an array (N, H, W, C) of uint8 or uint16 as in a pack."""

_WORK_SIZE = 64  # longest side of the input in pixels
_READ = 100  # images prepared at a time
_COARSEST = 8  # longest side of the last grid
_WIDTHS = (16, 32, 64)  # feature maps of the stem and of the following stages; the last width is repeated
FEATURES = 128  # units of the hidden layer

TRAINING_BATCH = 100
_PEAK_RATE = 5e-3
SMOOTHING = 0.05  # label smoothing, which keeps logits and features bounded
LIGHT = ("translation",)
_CHANCE = 0.8  # probability of each operation for each image


class Classifier(nn.Module):
    """(N, C, H, W) in [-1, 1] -> features (N, 128) and logits (N, num_classes).

    Batch-normalised convolutions from half the size down to a small grid, then one hidden layer on all positions,
    because position matters in digits and scans.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        super().__init__()
        # Mean and deviation of the training images, so that dark 16-bit scans are handled like bright ones.
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))
        layers: list[nn.Module] = [*_conv(channels, _WIDTHS[0], 5, 2), *_conv(_WIDTHS[0], _WIDTHS[1], 3, 1)]
        maps, rows, columns = _WIDTHS[1], math.ceil(height / 2), math.ceil(width / 2)
        while max(rows, columns) > _COARSEST:
            layers += [*_conv(maps, _WIDTHS[2], 3, 2), *_conv(_WIDTHS[2], _WIDTHS[2], 3, 1)]
            maps, rows, columns = _WIDTHS[2], math.ceil(rows / 2), math.ceil(columns / 2)
        hidden = [nn.Linear(maps * rows * columns, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), *hidden)
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk((x - self.mean) / self.deviation)
        return features, self.head(features)


def _conv(num_in: int, num_out: int, kernel: int, stride: int) -> list[nn.Module]:
    layer = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(num_out), nn.ReLU()]


def prepared(images: Pixels, indices: np.ndarray, progress: Progress | None = None) -> Tensor:
    """Input of the classifier for the images at `indices`: (N, 1 or 3, h, w) float16 in [-1, 1], read in blocks."""
    channels, height, width = shape_of(images)
    height, width = work_size(height, width)
    ready = torch.empty(len(indices), colours(channels), height, width, dtype=torch.float16)
    for start in range(0, len(indices), _READ):
        block = images[indices[start : start + _READ]]
        if isinstance(block, np.ndarray):
            block = torch.from_numpy(block).permute(0, 3, 1, 2)
        ready[start : start + _READ] = look(as_rgb(block), colours(channels), height, width)
        if progress:
            progress("preparing images for the classifier", min(start + _READ, len(indices)), len(indices))
    return ready


def look(images: Tensor, channels: int, height: int, width: int) -> Tensor:
    """RGB (N, 3, H, W) in [-1, 1] -> (N, channels, height, width): gray is the mean, resized by antialiased bicubic."""
    if channels == 1:
        images = images.mean(dim=1, keepdim=True)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bicubic", antialias=True).clamp_(-1, 1)
    return images


def shape_of(images: Pixels) -> tuple[int, int, int]:
    """Channels, height and width."""
    _, *sides = images.shape
    return (sides[0], sides[1], sides[2]) if isinstance(images, Tensor) else (sides[2], sides[0], sides[1])


def colours(channels: int) -> int:
    """1 for gray, otherwise 3; transparent images are put over white."""
    return 1 if channels == 1 else 3


def work_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the input: those of the image, or reduced in proportion."""
    scale = min(1.0, _WORK_SIZE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _smoothed(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with smoothed labels."""
    return F.cross_entropy(outputs, labels, label_smoothing=SMOOTHING)


def train_classifier(
    pictures: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    steps: int,
    seed: int,
    policy: tuple[str, ...] = LIGHT,
    mirror: bool = False,
    softened: float = 0.0,
    device: torch.device | None = None,
    progress: Progress | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = _smoothed,
) -> Classifier:
    """Train a classifier on images (N, C, H, W), float of any precision in [-1, 1], with labels (N,) < num_classes.

    loss: of logits (n, num_classes) and labels; labels may have any form that it accepts.

    steps: gradient steps of at most 100 images, in shuffled epochs; fewer than 10 end before the learning rate has
    decayed. policy: operations of `ganvas.augment`. mirror: mirror half of the images. softened: share of the images
    that are blurred. Deterministic for the same arguments, machine and number of threads; the global random state is
    unchanged.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(*pictures.shape[1:], num_classes)
    mean, deviation = moments(pictures)
    network.mean, network.deviation = mean.clone(), deviation.clone()
    channels_last(network.to(device))
    optimizer = torch.optim.Adam(network.parameters(), _PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=max(steps, 10), pct_start=0.2)
    batch = min(TRAINING_BATCH, len(pictures))
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(pictures), generator=generator)
        picks, order = order[:batch], order[batch:]
        images, target = pictures[picks].float(), labels[picks]
        if mirror:
            images = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < 0.5, images.flip(3), images)
        if policy:
            # At the contrast of usual images, so that changes of brightness do not hide dark 16-bit scans.
            usual = (images - mean) / (2 * deviation)
            images = mean + 2 * deviation * augment(usual, draw(batch, policy, _CHANCE, generator), policy)
        if softened:
            wide = F.pad(images, (2, 2, 2, 2), mode="replicate")
            soft = F.avg_pool2d(F.avg_pool2d(wide, 3, 1), 3, 1)
            images = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < softened, soft, images)
        images = images.to(device, memory_format=torch.channels_last)
        value = loss(network(images)[1], target.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress("training the classifier", step + 1, steps)
    network.eval().requires_grad_(False)
    return network


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, C, 1, 1) over all images and pixels; constant channels get deviation 1."""
    sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for block in images.split(1000):
        wide = block.double()
        sums += torch.stack([wide.sum(dim=(0, 2, 3)), wide.square().sum(dim=(0, 2, 3))])
    mean, square = sums / (images.numel() / images.shape[1])
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    deviation[deviation < 1e-4] = 1
    return mean.float().view(1, -1, 1, 1), deviation.float().view(1, -1, 1, 1)


@torch.inference_mode()
def logits(network: Classifier, pictures: Tensor, batch: int = 250) -> Tensor:
    """(N, num_classes) float32, on the CPU, of images (N, C, H, W)."""
    device = network.head.weight.device
    parts = [network(block.to(device).float())[1].cpu() for block in pictures.split(batch)]
    return torch.cat(parts)
