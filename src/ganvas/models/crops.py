"""A discriminator for large images whose cost does not depend on their size.

It sees the whole image at reduced size and one crop per scale: at full resolution, and above 320 pixels also at a
medium one. Crops of a real and a generated image that are compared have the same position. Each part is a complete
discriminator of images of about 128 pixels with its own heads (models/pretrained.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models.contract import Discriminator
from ganvas.models.layers import cut
from ganvas.models.pretrained import FeatureDiscriminator, Frozen, ViewDiscriminator

LARGE = 160  # maximum longer side of an image that is seen whole, in pixels
CROP = 128  # maximum side of a crop in pixels
_LEAST = 8  # minimum side of a part in pixels


class CropDiscriminator(ViewDiscriminator):
    """parts: of the whole image, then of the crop of each of `crop_scales`.

    Images of another size than `size` are seen by the first part only.
    """

    def __init__(self, size: tuple[int, int], scales: list[int], parts: list[FeatureDiscriminator]) -> None:
        super().__init__()
        self.size = size
        self.parts = nn.ModuleList(parts)
        self.crop_scales, self.num_crops = scales, len(scales)
        self.sizes = [part.size for part in parts]
        self.frozen = parts[0].frozen
        self.on_features = [on for part in parts for on in part.on_features]
        self.weights = [weight for part in parts for weight in part.weights]
        self.mixes_images = parts[0].mixes_images
        self.stochastic = parts[0].stochastic

    def windows(self, places: Tensor) -> list[Window]:
        scales = zip(self.crop_scales, self.sizes[1:], places.unbind(1), strict=True)
        return [window_at(self.size, scale, size, place) for scale, size, place in scales]

    def parts_of(self, images: Tensor, places: Tensor | None = None) -> list[Tensor]:
        if tuple(images.shape[2:]) != self.size:
            return self.reduced(images, [])
        if places is None:
            places = images.new_full((len(images), self.num_crops, 2), 0.5)
        return self.reduced(images, [cut(images, window.starts, window.sides) for window in self.windows(places)])

    def reduced(self, images: Tensor, crops: list[Tensor]) -> list[Tensor]:
        """The first part, which never enlarges, and the reduced crops."""
        size = (min(images.shape[2], self.sizes[0][0]), min(images.shape[3], self.sizes[0][1]))
        whole = F.interpolate(images, size=size, mode="area")
        scaled = zip(crops, self.crop_scales, strict=False)
        return [whole, *(x if scale == 1 else F.avg_pool2d(x, scale) for x, scale in scaled)]

    def views(self, parts: list[Tensor]) -> list[Tensor]:
        return [view for part, x in zip(self.each(), parts, strict=False) for view in part.views([x])]

    def logits_of(self, views: list[Tensor], labels: Tensor | None) -> Tensor:
        num = len(self.on_features) // len(self.parts)
        parts = zip(self.each(), range(0, len(views), num), strict=False)
        return torch.cat([part.logits_of(views[i : i + num], labels) for part, i in parts], dim=1)

    def calibrate(self, images: Tensor) -> None:
        places = torch.rand(len(images), self.num_crops, 2, generator=torch.Generator().manual_seed(0))
        for part, x in zip(self.each(), self.parts_of(images, places.to(images.device)), strict=True):
            part.calibrate(x)

    def described(self, images: Tensor) -> Tensor:
        (whole,) = self.reduced(images, [])
        return self.each()[0].described(whole)

    def each(self) -> list[FeatureDiscriminator]:
        return [part for part in self.parts if isinstance(part, FeatureDiscriminator)]


class Window(NamedTuple):
    """A rectangle in each of N images."""

    starts: Tensor
    """(N, 2): upper left pixel (row, column)."""
    sides: tuple[int, int]
    """Height and width in pixels."""


def window_at(image: tuple[int, int], scale: int, size: tuple[int, int], places: Tensor) -> Window:
    """Windows of `scale` times `size` pixels of images of (height, width), at `places` (N, 2) in [0, 1]."""
    sides = (scale * size[0], scale * size[1])
    free = (image[0] - sides[0], image[1] - sides[1])
    starts = [(places[:, axis] * (free[axis] + 1)).long().clamp(max=free[axis]) for axis in (0, 1)]
    return Window(torch.stack(starts, dim=1), sides)


def part_sizes(height: int, width: int) -> tuple[list[int], list[tuple[int, int]]]:
    """(scales of the crops, sizes of the parts): the whole image first, which is the only part of a small image.

    The whole image is halved until its longer side is at most `LARGE`. A crop of scale 2 is a window of twice the size
    of its part, reduced by 2.
    """
    halvings = max(0, math.ceil(math.log2(max(height, width) / LARGE)))
    scales = sorted({1, 2 ** (halvings // 2)}) if halvings else []
    scales = [scale for scale in scales if min(height, width) // scale >= _LEAST]
    whole = (max(_LEAST, -(-height // 2**halvings)), max(_LEAST, -(-width // 2**halvings)))
    return scales, [whole, *((min(CROP, height // scale), min(CROP, width // scale)) for scale in scales)]


def build_on_features(config: ModelConfig, own: Callable[[ModelConfig], Discriminator] | None) -> ViewDiscriminator:
    """own: builds a discriminator on pixels for a configuration; None: heads on features only."""
    scales, sizes = part_sizes(config.height, config.width)
    frozen = Frozen()
    parts = []
    for height, width in sizes:
        part = dataclasses.replace(config, height=height, width=width)
        parts.append(FeatureDiscriminator(part, own(part) if own is not None else None, frozen))
    return CropDiscriminator((config.height, config.width), scales, parts) if scales else parts[0]
