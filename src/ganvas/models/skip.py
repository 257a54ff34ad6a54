"""The skip model: for few large images, after FastGAN (Liu et al. 2021), 30 to 2,000 images of 256 to 1024 pixels.

Generator: one gated convolution per grid, and skip-layer excitation: coarse features of the whole image scale each
feature map of a grid 16 times finer. So gradients have a short path from the fine grids to the latent, and no stage
needs many maps at full resolution.

Discriminator: shallow on the fine grids, residual on the coarse ones, with a logit per coarse patch. For real images,
small decoders reconstruct the image from its features, so that the features must describe the image and it cannot just
memorise the few real images. Reconstruction loss: L1 and multi-scale SSIM, without a pretrained network.

Differences from the paper: normalisation per image instead of batch norm, so that no operation mixes images;
bilinear resampling in the generator and binomial in the discriminator, to avoid checkerboard artefacts; grids
of any size; no second, smaller output for the discriminator.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models.layers import LEAK, LINEAR, ClassEmbedding, downsample, full_precision, scaled_init, stages, upsample
from ganvas.models.style import Noise

COARSEST, COARSEST_SEEN = 4, 7  # maximum shorter side of the generator's first, discriminator's last grid
WIDEST, MOST = 12, 512  # maximum feature maps of a stage: relative to the finest one, and absolute
JUMP = 4  # grids between gating and gated features: a factor of 16
FINEST_REBUILT = 128  # maximum shorter side of a reconstructed image
GROUP = 16  # approximate number of feature maps normalised together
START_CONTRAST = 0.8  # initial scale of the last convolution: images start with a standard deviation of about 0.3


def widths(config: ModelConfig, num_stages: int) -> list[int]:
    """Feature maps from coarse to fine: doubling towards the coarse end, up to a limit."""
    limit = config.widest or min(WIDEST * config.base, MOST)
    return [min(config.base * 2**level, limit) for level in reversed(range(num_stages))]


def picture_norm(maps: int) -> nn.GroupNorm:
    """Normalises groups of about 16 feature maps over all pixels of one image (group norm: Wu and He 2018).

    Normalising each pixel separately, as in `compact`, was tried for 250 steps on chest X-rays of 64 pixels: it filled
    faint regions with cells and hard edges. So did dividing by the length only.
    """
    return nn.GroupNorm(math.gcd(maps, max(1, maps // GROUP)), maps)


class Gated(nn.Module):
    """3x3 convolution to twice the maps, norm, optional noise, and one half gates the other (GLU).

    Gated linear unit: Dauphin et al. 2017.
    """

    def __init__(self, before: int, after: int, noise: Noise | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, 2 * after, 3, padding=1, bias=False)
        self.norm = picture_norm(2 * after)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.glu(x if self.noise is None else self.noise(x), dim=1)


class Excitation(nn.Module):
    """Scales the maps of fine features (N, after, H, W) by numbers in (0, 1) from coarse features (N, before, h, w).

    Skip-layer excitation (Liu et al. 2021, equation 1). grid: kernel size of the first convolution, to which the coarse
    features are reduced; the coarsest grid of the generator.
    """

    def __init__(self, before: int, after: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.gather = nn.Conv2d(before, after, grid)
        self.weigh = nn.Conv2d(after, after, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        while coarse.shape[2] > self.gather.kernel_size[0]:
            coarse = downsample(coarse)
        return fine * torch.sigmoid(self.weigh(F.leaky_relu(self.gather(coarse), LEAK)))


class Generator(nn.Module):
    """z (N, z_dim) and labels (N,) -> images (N, C, H, W) in [-1, 1]."""

    stochastic = True  # the noise

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.sizes = stages(config.height, config.width, COARSEST)
        maps = widths(config, len(self.sizes))
        height, width = self.sizes[0]
        self.classes = ClassEmbedding(config.num_classes, config.z_dim) if config.num_classes else None
        self.maps = maps[0]
        self.start = nn.Linear(config.z_dim * (2 if config.num_classes else 1), 2 * self.maps * height * width)
        self.norm = picture_norm(2 * self.maps)
        self.stages = nn.ModuleList()
        for i, (before, after) in enumerate(itertools.pairwise(maps)):
            noises = [Noise(self.sizes[i + 1], i * config.blocks + j) for j in range(config.blocks)]
            layers = [Gated(before if j == 0 else after, after, noise) for j, noise in enumerate(noises)]
            self.stages.append(nn.Sequential(*layers))
        self.jump = min(JUMP, len(self.sizes) - 1)
        self.gates = nn.ModuleList(
            Excitation(maps[i], maps[i + self.jump], self.sizes[0]) for i in range(len(maps) - self.jump)
        )
        self.to_picture = nn.Conv2d(maps[-1], config.channels, 3, padding=1)
        scaled_init(self.to_picture, START_CONTRAST)

    @property
    def depths(self) -> list[nn.Module]:
        """Modules whose outputs are the features, coarse to fine."""
        return list(self.stages)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.classes is not None:
            z = torch.cat([z, self.classes(labels)], dim=1)
        x = self.start(z).view(-1, *self.sizes[0], 2 * self.maps).permute(0, 3, 1, 2)
        features = [F.glu(self.norm(x), dim=1)]  # of all grids, coarse to fine
        for size, stage in zip(self.sizes[1:], self.stages, strict=True):
            x = stage(upsample(features[-1], size))
            source = len(features) - self.jump
            features.append(self.gates[source](features[source], x) if source >= 0 else x)
        with full_precision(x):
            return torch.tanh(self.to_picture(features[-1].to(self.to_picture.weight.dtype)))


class Branch(nn.Module):
    """x + W2 (*) leaky(W1 (*) x), then leaky; W2 starts near zero (similar to Fixup: Zhang et al. 2019).

    num: residual branches in the network; with two layers each, W1 starts at num^(-1/2) of the He scale.
    change: a 1x1 convolution in the shortcut if the number of maps changes.
    """

    def __init__(self, before: int, after: int, num: int) -> None:
        super().__init__()
        self.change = None if before == after else nn.Conv2d(before, after, 1, bias=False)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        if self.change is not None:
            scaled_init(self.change)
        scaled_init(self.first, num**-0.5)
        scaled_init(self.second, 0.1)  # Fixup uses 0, which spectral normalisation cannot divide by

    def forward(self, x: Tensor) -> Tensor:
        direct = x if self.change is None else self.change(x)
        return F.leaky_relu(direct + self.second(F.leaky_relu(self.first(x), LEAK)), LEAK)


class Decoder(nn.Module):
    """Features (N, before, h, w) -> images (N, C, H, W) in [-1, 1], via grids of the given sizes."""

    def __init__(self, before: int, sizes: list[tuple[int, int]], config: ModelConfig) -> None:
        super().__init__()
        maps = [before, *(max(config.base, 4 * config.base // 2**i) for i in range(len(sizes)))]
        self.sizes = sizes
        self.layers = nn.ModuleList(itertools.starmap(Gated, itertools.pairwise(maps)))
        self.to_picture = nn.Conv2d(maps[-1], config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for size, layer in zip(self.sizes, self.layers, strict=True):
            x = layer(upsample(x, size))
        with full_precision(x):
            return torch.tanh(self.to_picture(x.to(self.to_picture.weight.dtype)))


class Discriminator(nn.Module):
    """Images (N, C, H, W) in [-1, 1] and labels (N,) -> logits (N,); conditional by projection (Miyato 2018).

    The decoders reconstruct the image from the second coarsest grid (8x8 to 13x13), reduced to 128 pixels or less, and
    its centre, at the next finer resolution, from the next finer grid. The centre depends neither on the image nor on
    its position in the batch, so micro-batches do not change the result. Features are the same function at every
    position, so training them at the centre is sufficient.
    """

    self_supervised = ("decoders",)
    """Parameters trained only by the reconstruction loss."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = stages(config.height, config.width, COARSEST_SEEN)
        maps = widths(config, len(sizes))
        num = (len(maps) - 1) * config.blocks
        self.from_picture = scaled_init(nn.Conv2d(config.channels, maps[-1], 3, padding=1))
        self.stages = nn.ModuleList()  # fine to coarse
        for before, after in itertools.pairwise(reversed(maps)):
            rest = [Branch(after, after, num) for _ in range(config.blocks - 1)]
            self.stages.append(nn.Sequential(Branch(before, after, num), *rest))
        self.hidden = scaled_init(nn.Conv2d(maps[0], maps[0], 3, padding=1))
        self.head = scaled_init(nn.Conv2d(maps[0], 1, 1), LINEAR)
        self.classes = nn.Embedding(config.num_classes, maps[0]) if config.num_classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=maps[0] ** -0.5)

        # Grids are counted from the coarsest.
        finest = len(sizes) - 1
        self.whole = 1 if finest >= 3 else 0
        self.part = self.whole + 1
        self.rebuilt = max(i for i, size in enumerate(sizes) if min(size) <= FINEST_REBUILT)
        self.rebuilt_part = min(self.rebuilt + 1, finest)
        inner = [side - side // 2 for side in sizes[self.part]]
        growing = [(inner[0] << i, inner[1] << i) for i in range(1, self.rebuilt_part - self.part + 1)]
        self.decoders = nn.ModuleList(
            (
                Decoder(maps[self.whole], sizes[self.whole + 1 : self.rebuilt + 1], config),
                Decoder(maps[self.part], growing, config),
            )
        )

    def forward(
        self, images: Tensor, labels: Tensor | None = None, reconstruct: int = 0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """With `reconstruct` = n, also returns the errors (n,) of the decoders for the first n images, about 0 to 2."""
        features = self.features(images)
        with full_precision(images):
            x = F.leaky_relu(self.hidden(features[0].to(self.hidden.weight.dtype)), LEAK)
            logits = self.head(x).mean(dim=(1, 2, 3))
            if self.classes is not None:
                logits = logits + (x.mean(dim=(2, 3)) * self.classes(labels)).sum(dim=1)
        if not reconstruct:
            return logits
        return logits, self.errors(images[:reconstruct].detach(), [x[:reconstruct] for x in features])

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of all grids, coarse to fine."""
        features = [F.leaky_relu(self.from_picture(images), LEAK)]
        for stage in self.stages:
            features.insert(0, stage(downsample(features[0])))
        return features

    def errors(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """(N,) reconstruction errors of these images from these features (coarse to fine)."""
        halved = [images.float()]
        while len(halved) < len(features):
            halved.insert(0, downsample(halved[0]))
        whole, part = self.decoders
        source, target = middle(features[self.part], halved[self.rebuilt_part])
        loss = rebuilding_loss(whole(features[self.whole]), halved[self.rebuilt])
        return (loss + rebuilding_loss(part(source), target)) / 2


def middle(features: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The central quarter of features (N, M, h, w), and the same part of images (N, C, H, W) on a finer grid.

    A cell of the features covers a square of pixels, counted from the upper left.
    """
    height, width = features.shape[2:]
    top, left, tall, wide = height // 4, width // 4, height - height // 2, width - width // 2
    scale = 1
    while scale * height < images.shape[2]:
        scale *= 2
    part = images[:, :, scale * top : scale * (top + tall), scale * left : scale * (left + wide)]
    return features[:, :, top : top + tall, left : left + wide], part


def rebuilding_loss(rebuilt: Tensor, images: Tensor) -> Tensor:
    """(N,): mean absolute difference plus 1 - multi-scale SSIM (after Zhao et al. 2017)."""
    with full_precision(images):
        return (rebuilt - images).abs().mean(dim=(1, 2, 3)) + 1 - multi_scale_ssim(rebuilt, images)


SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # fine to coarse (Wang et al. 2003, section 3.2)
WINDOW, SIGMA = 11, 1.5  # pixels of the Gaussian window (Wang et al. 2004)
C1, C2 = 0.01**2, 0.03**2
FLOOR = 0.05  # minimum similarity per scale: powers have no gradient below 0 and an infinite one just above


def multi_scale_ssim(first: Tensor, second: Tensor) -> Tensor:
    """(N,) structural similarity of images (N, C, H, W) in [-1, 1]: 1 if equal (Wang et al. 2003, equation 7).

    Up to five scales, as many as are at least as large as the window; their weights sum to 1. For images from 8 pixels:
    in small images the window is the shorter side. Each scale counts with at least 0.05.
    """
    first, second = (first + 1) / 2, (second + 1) / 2
    shorter = min(first.shape[2:])
    window = min(WINDOW, shorter)
    num = 1
    while num < len(SCALE_WEIGHTS) and shorter >> num >= WINDOW:
        num += 1
    similarity = first.new_ones(len(first))
    for scale, weight in enumerate(SCALE_WEIGHTS[:num]):
        luminance, structure = ssim_terms(first, second, window)
        value = luminance * structure if scale == num - 1 else structure
        power = weight / sum(SCALE_WEIGHTS[:num])
        similarity = similarity * value.mean(dim=(1, 2, 3)).clamp(min=FLOOR) ** power
        if scale < num - 1:
            first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
    return similarity


def ssim_terms(first: Tensor, second: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Maps of luminance and of contrast times structure, for images in [0, 1] (Wang et al. 2004, equations 6 and 13).

    Means, variances and the covariance are computed in a Gaussian window at every position where it fits.
    """
    num, channels = first.shape[:2]
    place = torch.arange(window, device=first.device, dtype=first.dtype) - (window - 1) / 2
    taps = torch.softmax(-place.square() / (2 * SIGMA**2), dim=0).expand(channels, 1, 1, -1)
    maps = torch.cat([first, second, first * first, second * second, first * second])
    means = F.conv2d(F.conv2d(maps, taps, groups=channels), taps.transpose(2, 3), groups=channels)
    a, b, aa, bb, ab = means.split(num)
    luminance = (2 * a * b + C1) / (a * a + b * b + C1)
    structure = (2 * (ab - a * b) + C2) / (aa - a * a + bb - b * b + C2)
    return luminance, structure


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    return Generator(config), Discriminator(config)
