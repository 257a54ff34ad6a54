"""A discriminator on the features of a frozen network trained on ImageNet (Projected GAN: Sauer et al. 2021).

The frozen EfficientNet-lite0 gives features of five layers. _Fixed random convolutions mix them, across channels and
from coarse to fine, so that the discriminator cannot rely on a few of them. Each of the five mixed views has a small
head that outputs logits. Only the heads have trainable weights, and penalties only use the heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.features.efficientnet import NAME, fold, load_efficientnet_lite0, only_shapes
from ganvas.models import contract
from ganvas.models.layers import LEAK, LINEAR, ClassEmbedding, full_precision, scaled_init

_TAPS = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}
"""Blocks of EfficientNet-lite0 whose outputs are used, and their channels: grids of 1/2, 1/4, 1/8, 1/16, 1/32 side.

Projected GAN begins at 1/4 of 256 pixels. At 64 pixels, eyes and hair need the finer grid.
"""
_FINEST = 2  # pixels of the image per place of the finest grid, in each direction
_CROSS = (16, 32, 64, 128, 256)  # channels of each level after the first mixing layer
VIEWS = (16, 32, 32, 64, 128)  # channels after the second mixing layer
NUM_VIEWS = len(VIEWS)
MOST = 128  # maximum feature maps of a head
_WIDER = 4  # maximum feature maps of a head, relative to those of its view
_COARSEST = 4  # a head halves its view until the shorter side is at most this
_DEEPEST = 64  # heads for larger images than this are not deeper, but have more logits; shorter side in pixels
_SMALLEST = 32  # minimum input side of the frozen network in pixels; smaller images are enlarged
CALIBRATION = 64  # real images used to scale the views
_DETAIL_MAPS = 16  # feature maps of the head on details
DETAIL_WEIGHT = 10.0  # weight of its gradient in the generator's


class Frozen(nn.Module):
    """RGB (N, 3, H, W) in [-1, 1] -> outputs of the blocks `_TAPS`. Its weights are neither parameters nor saved."""

    def __init__(self) -> None:
        super().__init__()
        meta = torch.empty(0).device.type == "meta"  # only shapes are needed
        network = only_shapes() if meta else fold(load_efficientnet_lite0())
        network.requires_grad_(False).to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        network.blocks = nn.Sequential(*list(network.blocks)[: max(_TAPS) + 1])
        self.network = (network,)  # in a tuple, so that it is not a submodule

    def _apply(self, fn: Any, recurse: bool = True) -> Frozen:
        self.network[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        network = self.network[0]
        x = network.stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for i, block in enumerate(network.blocks):
            x = block(x)
            if i in _TAPS:
                maps.append(x)
        return tuple(maps)

    def multiply_adds(self, output: tuple[Tensor, ...]) -> int:
        """Multiply-adds for one image, in proportion to the 400 M at 224 pixels (Tan and Le 2019)."""
        return round(400e6 * output[0][0, 0].numel() / (224 / _FINEST) ** 2)

    def activations(self, output: tuple[Tensor, ...]) -> int:
        """Numbers stored for the backward pass of one image: 134 per pixel, summed over the layers."""
        return 134 * _FINEST**2 * output[0][0, 0].numel()


class _Fixed(nn.Module):
    """A convolution with fixed random weights: saved, but not parameters."""

    weight: Tensor

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        weight = torch.empty(after, before, kernel, kernel)
        nn.init.kaiming_normal_(weight, a=1.0)
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)


class Head(nn.Module):
    """A view (N, M, h, w) and labels (N,) -> logits (N,); conditional by projection (Miyato and Koyama 2018).

    side: shorter side of the view that the layers are made for. Of larger views the logit is a mean over parts.
    """

    def __init__(self, maps: int, side: int, label_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        most = min(_WIDER * maps, MOST)
        while side > _COARSEST:
            after = min(2 * maps, most)
            layers += [scaled_init(nn.Conv2d(maps, after, 4, 2, 1)), nn.LeakyReLU(LEAK)]
            maps, side = after, side // 2
        if not layers:
            layers = [scaled_init(nn.Conv2d(maps, maps, 3, padding=1)), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers)
        self.logit = scaled_init(nn.Conv2d(maps, 1, 3, padding=1), LINEAR)
        self.classes = ClassEmbedding(label_size, maps) if label_size else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=maps**-0.5)

    def forward(self, view: Tensor, labels: Tensor | None) -> Tensor:
        x = self.layers(view)
        logits = self.logit(x).mean(dim=(1, 2, 3))
        if self.classes is not None:
            logits = logits + (x.mean(dim=(2, 3)) * self.classes(labels)).sum(dim=1)
        return logits


class DetailHead(nn.Module):
    """Images (N, C, H, W) -> logits (N,), from the differences between the pixels of blocks of 2x2.

    Gradients through the strided layers of the frozen network cannot remove dots and lines with a period of two pixels.
    This head sees nothing else, and patches of 10 pixels only, so that it does not disturb the larger structures.
    """

    differences: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).view(3, 1, 2, 2)  # Haar wavelets
        self.register_buffer("differences", signs.repeat(channels, 1, 1, 1), persistent=False)
        self.layers = nn.Sequential(
            scaled_init(nn.Conv2d(3 * channels, _DETAIL_MAPS, 3, padding=1)),
            nn.LeakyReLU(LEAK),
            nn.AvgPool2d(2),
            scaled_init(nn.Conv2d(_DETAIL_MAPS, 2 * _DETAIL_MAPS, 3, padding=1)),
            nn.LeakyReLU(LEAK),
            scaled_init(nn.Conv2d(2 * _DETAIL_MAPS, 1, 1), LINEAR),
        )

    def forward(self, images: Tensor) -> Tensor:
        details = F.conv2d(images, self.differences, stride=2, groups=images.shape[1])
        return self.layers(details).mean(dim=(1, 2, 3))


class ViewDiscriminator(contract.Discriminator):
    """Images (N, C, H, W) in [-1, 1] and labels (N,) -> logits (N,), the sum over its heads.

    Training uses its three steps: `parts_of` computes the images that it sees, which are then augmented; `views` the
    inputs of the heads; and `logits_of` a logit (N, heads) per view.

    frozen: the pretrained network. on_features: whether each head has features as its view, and not pixels.
    weights: of each head in the generator's loss. num_crops: crops per image whose positions `parts_of` expects.
    """

    frozen: Frozen
    on_features: list[bool]
    weights: list[float]
    num_crops = 0

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.logits_of(self.views(self.parts_of(images)), labels).sum(dim=1)

    def parts_of(self, images: Tensor, places: Tensor | None = None) -> list[Tensor]:
        """Images that the discriminator sees: the images (N, C, H, W), perhaps reduced, and crops of them.

        places: (N, num_crops, 2) in [0, 1], the position of each crop in the image; default: the centre.
        """
        return [images]

    def views(self, parts: list[Tensor]) -> list[Tensor]:
        """Input of each head for these images: tensors (N, M, h, w)."""
        raise NotImplementedError

    def logits_of(self, views: list[Tensor], labels: Tensor | None) -> Tensor:
        """Logits (N, heads) float32 of views; each depends only on its own view."""
        raise NotImplementedError

    def calibrate(self, images: Tensor) -> None:
        """Scales the views to standard deviation 1 on these real images; without it the heads saturate (RESULTS.md)."""
        raise NotImplementedError

    def described(self, images: Tensor) -> Tensor:
        """(N, K): mean and standard deviation of each feature map of the frozen network, without augmentation."""
        raise NotImplementedError


class FeatureDiscriminator(ViewDiscriminator):
    """Heads on five views of the whole image.

    own: a discriminator on pixels, as the first head; the second one is then a `DetailHead`. Their view is the image.
    """

    scales: Tensor

    def __init__(self, config: ModelConfig, own: contract.Discriminator | None, frozen: Frozen) -> None:
        super().__init__()
        self.own = own
        self.detail = None
        on_pixels = list[float]()
        if own is not None:
            self.detail = DetailHead(config.channels)
            on_pixels = [1.0, DETAIL_WEIGHT]
            self.mixes_images, self.stochastic = own.mixes_images, own.stochastic
        self.frozen = frozen
        self.size = (config.height, config.width)
        self.on_features = [False] * len(on_pixels) + [True] * len(VIEWS)
        self.weights = on_pixels + [1.0] * len(VIEWS)
        # Transparent images are used twice, over black and over white.
        self.grounds = 2 if config.channels == 4 else 1
        self.cross = nn.ModuleList(
            _Fixed(before, after, 1) for before, after in zip(_TAPS.values(), _CROSS, strict=True)
        )
        self.down = nn.ModuleList(_Fixed(coarse, fine, 1) for coarse, fine in zip(VIEWS[1:], _CROSS[:-1], strict=True))
        self.mix = nn.ModuleList(_Fixed(before, after, 3) for before, after in zip(_CROSS, VIEWS, strict=True))
        self.register_buffer("scales", torch.ones(len(VIEWS)))
        side = min(*_seen_size(config.height, config.width), _DEEPEST)
        self.heads = nn.ModuleList(
            Head(self.grounds * maps, -(-side // (_FINEST * 2**level)), config.label_size)
            for level, maps in enumerate(VIEWS)
        )

    def views(self, parts: list[Tensor]) -> list[Tensor]:
        (images,) = parts
        mixed = self.seen(images)
        if self.own is None:
            return mixed
        small = tuple(images.shape[2:]) != self.size  # in a coarse phase; its own discriminator has one size
        return [F.interpolate(images, size=self.size, mode="bilinear") if small else images, images, *mixed]

    def logits_of(self, views: list[Tensor], labels: Tensor | None) -> Tensor:
        logits = []
        if self.own is not None:
            logits.append(self.own(views[0], labels).float())
        with full_precision(views[0]):
            if self.detail is not None:
                logits.append(self.detail(views[1].float()))
            views = views[len(logits) :]
            logits += [head(view.float(), labels) for head, view in zip(self.heads, views, strict=True)]
        return torch.stack(logits, dim=1)

    def seen(self, images: Tensor) -> list[Tensor]:
        """The mixed features of each level, fine to coarse, with mean square about 1."""
        levels = [mix(x) for mix, x in zip(self.cross, self.frozen(self.rgb(images)), strict=True)]
        views: list[Tensor] = []
        for i in reversed(range(len(levels))):
            x = levels[i]
            if views:
                x = x + F.interpolate(self.down[i](views[0]), size=x.shape[2:], mode="nearest")
            views.insert(0, self.mix[i](x))
        if self.grounds == 2:
            views = [torch.cat(view.chunk(2), dim=1) for view in views]
        return [view / scale for view, scale in zip(views, self.scales, strict=True)]

    def rgb(self, images: Tensor) -> Tensor:
        """Input of the frozen network: (N, 3, H, W), or (2N, 3, H, W) of transparent images."""
        rgb = _over_grounds(images) if self.grounds == 2 else images.expand(-1, 3, -1, -1)
        size = _seen_size(*rgb.shape[2:])
        return rgb if size == tuple(rgb.shape[2:]) else F.interpolate(rgb, size=size, mode="bilinear")

    @torch.no_grad()
    def described(self, images: Tensor) -> Tensor:
        maps = [x.flatten(2) for x in self.frozen(self.rgb(images))]
        rows = [moment for x in maps for moment in (x.mean(dim=2), x.std(dim=2, correction=0))]
        return torch.cat([part for row in rows for part in row.chunk(self.grounds)], dim=1)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        self.scales.fill_(1)
        parts = [self.seen(part) for part in images.split(16)]
        for i, scale in enumerate(self.scales):
            scale.copy_(torch.cat([part[i] for part in parts]).std())


def pretrained_network(config: ModelConfig) -> str | None:
    """Name of the pretrained network used in training this model; its features must not be used for evaluation."""
    return None if config.discriminator == "own" else NAME


def _seen_size(height: int, width: int) -> tuple[int, int]:
    """Input size of the frozen network: the image size, at least 32 pixels per side."""
    return max(_SMALLEST, height), max(_SMALLEST, width)


def _over_grounds(images: Tensor) -> Tensor:
    """Transparent images (N, 4, H, W) over black and over white: RGB (2N, 3, H, W)."""
    opacity = (images[:, 3:] + 1) / 2
    opaque = images[:, :3] * opacity
    return torch.cat([opaque - (1 - opacity), opaque + (1 - opacity)])
