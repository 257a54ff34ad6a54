"""The style model: StyleGAN2's mapping and modulated convolutions (Karras et al. 2020), for any height and width.

A mapping network converts the latent to w, which scales the feature maps of every convolution, so that each stage can
be controlled separately. Truncation, style mixing and path lengths use the space of w. Plain PyTorch: instead of one
kernel per image, the input and output of one ordinary convolution for the whole batch are scaled, which is the same
function.

Differences from the paper: grids are doubled by bilinear interpolation instead of transposed convolutions, which works
for any size; the to-image convolution of a stage uses the w of its last layer; the output is tanh.
StyleGAN2 has no final nonlinearity and clamps images for display. Here every image must be in [-1, 1], and a clamp
would stop all gradients, including those of path lengths, at pixels outside that range.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import contract
from ganvas.models.architecture import Architecture, Defaults, Setting, batch_for, modern_defaults
from ganvas.models.layers import (
    LEAK,
    LINEAR,
    ClassEmbedding,
    downsample,
    fixed_noise,
    full_precision,
    stages,
    upsample,
)

_COARSEST = 7  # maximum shorter side of the start grid
_WIDEST = 512  # default maximum of feature maps
_MAPPING_LAYERS = 4  # StyleGAN2 has 8; fewer were better for small images in ADA (Karras et al. 2020b, 2 for CIFAR-10)
_MAPPING_LR = 0.01  # learning rate relative to the other layers (Karras et al. 2019)
NOISE_LR = 0.1  # relative learning rate; with 1, short trainings on MNIST showed only speckle
_START_CONTRAST = 0.25  # approximate contrast of the first images, far from saturation of tanh
_GROUP = 4  # images per group of the mini-batch deviation
_PATH_DECAY = 0.01  # weight of the newest value in the running mean of path lengths
_MEAN_LATENTS, _MEAN_SEED = 4096, 0  # number and seed of the latents for the mean w
_FEW_LATENTS = 128  # the same for a vector of conditions, whose mean is not stored
_TINY = 1e-8

_GAIN = 1 / LINEAR  # gain before a leaky ReLU that keeps the mean square at 1


class EqualLinear(nn.Linear):
    """Linear layer with equalised learning rate (Karras et al. 2018): N(0, 1) weights, scaled by gain / sqrt(fan-in).

    With an optimiser that normalises its steps, such as Adam, all layers then learn equally fast.
    lr: factor on the learning rate of this layer. bias: initial bias.
    """

    def __init__(self, before: int, after: int, gain: float = 1.0, lr: float = 1.0, bias: float = 0.0) -> None:
        super().__init__(before, after)
        self.gain, self.scale, self.lr = gain, gain * lr / math.sqrt(before), lr
        nn.init.normal_(self.weight, std=1 / lr)
        nn.init.constant_(self.bias, bias / lr)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.scale, self.bias * self.lr)


class EqualConv2d(nn.Conv2d):
    """Convolution with equalised learning rate and odd kernel. init: standard deviation of the initial weights."""

    def __init__(
        self, before: int, after: int, kernel: int, gain: float = 1.0, bias: bool = True, init: float = 1.0
    ) -> None:
        super().__init__(before, after, kernel, padding=kernel // 2, bias=bias)
        self.gain, self.scale = gain, gain / math.sqrt(before * kernel**2)
        nn.init.normal_(self.weight, std=init)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.scaled(), self.bias)

    def scaled(self) -> Tensor:
        return self.weight * self.scale


class ModulatedConv2d(nn.Module):
    """x (N, before, H, W), w (N, D) -> (N, after, H, W): a convolution with weights s_i W_oi, s an affine map of w.

    gain: standard deviation of the output for uncorrelated input of variance 1, by dividing each output map by
    sqrt(sum_i (s_i W_oi)^2) (demodulation; Karras et al. 2020, equations 1 to 3).
    """

    def __init__(self, before: int, after: int, kernel: int, w_dim: int, gain: float = 1.0) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, before, bias=1.0)
        self.conv = EqualConv2d(before, after, kernel, bias=False)
        self.gain = gain

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with full_precision(w):
            style = self.affine(w)
            power = self.conv.scaled().square().sum(dim=(2, 3))  # after, before
            restore = self.gain * (style.square() @ power.T + _TINY).rsqrt()
        y = self.conv(x * style[:, :, None, None].to(x.dtype))
        return y * restore[:, :, None, None].to(y.dtype)


class _Noise(nn.Module):
    """Adds a random number per pixel to all feature maps, times a learned strength.

    In training mode the numbers are new; in evaluation mode they are fixed, so that a seed gives one image. They are
    generated from their own seed and not stored in the weights file.
    """

    fixed: Tensor

    def __init__(self, size: tuple[int, int], index: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("fixed", fixed_noise(size, index), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x[:, :1]) if self.training else self.fixed.to(x.dtype)
        return x + noise * (NOISE_LR * self.strength).to(x.dtype)


class _Layer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU. index: index of the layer in the network."""

    def __init__(self, before: int, after: int, w_dim: int, size: tuple[int, int], index: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(before, after, 3, w_dim, _GAIN)
        self.noise = _Noise(size, index)
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = self.noise(self.conv(x, w))
        return F.leaky_relu(y + self.bias[:, None, None].to(y.dtype), LEAK)


class _ToPicture(nn.Module):
    """x (N, before, H, W), w (N, D) -> (N, C, H, W) float32: modulated, not demodulated."""

    def __init__(self, before: int, channels: int, w_dim: int, init: float) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, before, bias=1.0)
        self.conv = EqualConv2d(before, channels, 1, init=init)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with full_precision(x):
            style = self.affine(w)
            return self.conv(x.to(style.dtype) * style[:, :, None, None])


class _Mapping(nn.Module):
    """z (N, D) and labels (N,) -> w (N, D). z and label embedding are normalised: only directions count."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.z_dim
        self.embed = ClassEmbedding(config.label_size, width) if config.label_size else None
        first = 2 * width if config.label_size else width
        self.layers = nn.ModuleList(
            EqualLinear(first if i == 0 else width, width, _GAIN, _MAPPING_LR) for i in range(_MAPPING_LAYERS)
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        with full_precision(z):
            x = _normalise(z)
            if self.embed is not None:
                assert labels is not None
                x = torch.cat([x, _normalise(self.embed(labels))], dim=1)
            for layer in self.layers:
                x = F.leaky_relu(layer(x), LEAK)
            return x


def _normalise(x: Tensor) -> Tensor:
    """Rows (N, D) scaled to a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + _TINY).rsqrt()


class _Synthesis(nn.Module):
    """w (N, D), or one per layer (N, num_layers, D) -> images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.sizes = stages(config.height, config.width, _COARSEST)
        maps = widths(config, len(self.sizes))
        self.blocks, w_dim = config.blocks, config.z_dim
        self.start = nn.Parameter(torch.randn(1, maps[0], *self.sizes[0]))
        self.layers = nn.ModuleList()
        self.to_picture = nn.ModuleList()
        contrast = _START_CONTRAST / math.sqrt(len(maps))
        before = maps[0]
        for after, size in zip(maps, self.sizes, strict=True):
            for _ in range(config.blocks):
                self.layers.append(_Layer(before, after, w_dim, size, len(self.layers)))
                before = after
            self.to_picture.append(_ToPicture(after, config.channels, w_dim, contrast))

    def forward(self, w: Tensor) -> Tensor:
        if w.ndim == 2:
            w = w[:, None].expand(-1, len(self.layers), -1)
        styles = w.unbind(1)
        x = self.start.expand(w.shape[0], -1, -1, -1)  # `len` would fix the batch in an exported graph
        picture: Tensor | None = None
        for stage, (size, to_picture) in enumerate(zip(self.sizes, self.to_picture, strict=True)):
            if stage:
                x = upsample(x, size)
            for index in range(stage * self.blocks, (stage + 1) * self.blocks):
                x = self.layers[index](x, styles[index])
            own = to_picture(x, styles[index])
            picture = own if picture is None else upsample(picture, size) + own
        assert picture is not None
        return torch.tanh(picture)


class Generator(contract.StyledGenerator):
    """z (N, z_dim) and labels (N,) -> images (N, C, H, W) in [-1, 1].

    style_mixing: probability, in training mode, that the later stages of an image use a second random latent (Karras et
    al. 2019, section 3.1); set by the training loop. path_mean: running mean of the path lengths, 0 before the first.
    """

    stochastic = True
    path_mean: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.z_dim, self.has_conditions = config.z_dim, config.num_conditions > 0
        self.mapping = _Mapping(config)
        self.synthesis = _Synthesis(config)
        self.num_layers = len(self.synthesis.layers)
        self.register_buffer("path_mean", torch.zeros(()))
        self._means: dict[int, Tensor] = {}  # mean w by class, for the mapping weights identified by `_means_of`
        self._means_of: list[tuple[int, int]] = []

    @property
    def depths(self) -> list[nn.Module]:
        """The last layer of each grid, whose outputs are the features, coarse to fine."""
        blocks = self.synthesis.blocks
        return list(self.synthesis.layers[blocks - 1 :: blocks])

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        w = self.mapping(z, labels)
        if self.training and self.style_mixing:
            other = self.mapping(torch.randn_like(z), labels)
            w = cross_over(w, other, self.crossovers(len(z), z.device), self.synthesis.blocks, self.num_layers)
        return self.synthesis(w)

    def synthesise(self, styles: Tensor) -> Tensor:
        return self.synthesis(styles.repeat_interleave(self.synthesis.blocks, dim=1) if styles.ndim == 3 else styles)

    @property
    def affine(self) -> list[nn.Linear]:
        layers = [layer.conv for layer in self.synthesis.layers if isinstance(layer, _Layer)]
        images = [layer for layer in self.synthesis.to_picture if isinstance(layer, _ToPicture)]
        return [layer.affine for layer in [*layers, *images]]

    def crossovers(self, num: int, device: torch.device) -> Tensor:
        """(num,) first stage of each image that uses its second latent; the number of stages means never."""
        never = len(self.synthesis.sizes)
        stage = torch.randint(1, never, (num,), device=device)
        return torch.where(torch.rand(num, device=device) < self.style_mixing, stage, never)

    def mean_w(self, labels: Tensor | None = None) -> Tensor:
        """(N, D) mean w of each label's class, (1, D) without labels, over 4,096 fixed latents.

        labels: indices (N,), or weights of all classes (N, num_classes) for a weighted mean of the class means, or
        vectors of conditions (N, num_conditions), for which fewer latents are used each time.

        Computed on first use, and again after the weights have changed.
        """
        if self.has_conditions:
            assert labels is not None
            return self.mean_of_conditions(labels)
        versions = [(parameter._version, parameter.data_ptr()) for parameter in self.mapping.parameters()]
        if versions != self._means_of:
            self._means, self._means_of = {}, versions
        weighted = labels is not None and labels.is_floating_point()
        classes = [0] if labels is None else list(range(labels.shape[1])) if weighted else labels.tolist()
        with torch.inference_mode(False), torch.no_grad():  # cached tensors must also be usable in training
            for index in set(classes) - self._means.keys():
                self._means[index] = self.measured_mean(None if labels is None else index)
        means = torch.stack([self._means[index] for index in classes])
        return labels @ means if weighted else means

    def mean_of_conditions(self, vectors: Tensor) -> Tensor:
        """(N, D), as a part of exported graphs."""
        z = torch.from_numpy(np.random.default_rng(_MEAN_SEED).standard_normal((_FEW_LATENTS, self.z_dim), np.float32))
        many = z.to(vectors.device)[None].expand(vectors.shape[0], -1, -1).flatten(0, 1)
        w = self.mapping(many, vectors[:, None].expand(-1, _FEW_LATENTS, -1).flatten(0, 1))
        return w.unflatten(0, (-1, _FEW_LATENTS)).mean(dim=1)

    def measured_mean(self, label: int | None) -> Tensor:
        """(D,)"""
        device = self.path_mean.device
        latents = np.random.default_rng(_MEAN_SEED).standard_normal((_MEAN_LATENTS, self.z_dim), np.float32)
        labels = None if label is None else torch.full((_MEAN_LATENTS,), label, device=device)
        return self.mapping(torch.from_numpy(latents).to(device), labels).mean(dim=0)

    def truncated(self, z: Tensor, labels: Tensor | None, truncation: float) -> Tensor:
        """Images of mean + truncation (w - mean): 1 is the same as `forward`, 0 the mean image of the class.

        The truncation trick (Karras et al. 2019, appendix B), with the mean of each class.
        """
        return self.synthesis(torch.lerp(self.mean_w(labels), self.mapping(z, labels), truncation))

    def path_lengths(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """|J_w^T y| (N,): change of the images with w, for random images y; differentiable in all weights."""
        w = self.mapping(z, labels)
        images = self.synthesis(w)
        return lengths(images, w, torch.randn_like(images))

    def path_length_penalty(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """E (|J_w^T y| - a)^2 (Karras et al. 2020, equation 4); updates a, the running mean of the lengths.

        a starts at the first mean, because a start at 0 would push the lengths to 0 for the first hundred penalties.
        """
        length = self.path_lengths(z, labels)
        with torch.no_grad():
            now = length.mean()
            self.path_mean.copy_(torch.where(self.path_mean == 0, now, self.path_mean.lerp(now, _PATH_DECAY)))
        return (length - self.path_mean.clone()).square().mean()


def cross_over(w: Tensor, other: Tensor, crossovers: Tensor, blocks: int, num_layers: int) -> Tensor:
    """(N, num_layers, D): w (N, D) in the stages before `crossovers` (N,), `other` (N, D) from there on."""
    stage = torch.arange(num_layers, device=w.device) // blocks
    return torch.where((stage >= crossovers[:, None])[:, :, None], other[:, None], w[:, None])


def lengths(images: Tensor, w: Tensor, direction: Tensor) -> Tensor:
    """|J_w^T y| (N,) with y = direction / sqrt(H W), which makes the length independent of the image size."""
    height, width = images.shape[2:]
    moved = (images * direction).sum() / math.sqrt(height * width)
    (gradient,) = torch.autograd.grad(moved, w, create_graph=True)
    return gradient.square().sum(dim=1).sqrt()


def widths(config: ModelConfig, num_stages: int) -> list[int]:
    """Feature maps from coarse to fine: doubling towards the coarse end, up to the widest."""
    widest = config.widest or _WIDEST
    return [min(widest, config.base * 2**level) for level in reversed(range(num_stages))]


class _Down(nn.Module):
    """A residual stage: `num_blocks` convolutions on its grid, one on half of it, and a 1x1 shortcut."""

    def __init__(self, before: int, after: int, num_blocks: int) -> None:
        super().__init__()
        self.same = nn.ModuleList(EqualConv2d(before, before, 3, _GAIN) for _ in range(num_blocks))
        # Two terms with variance 1/2 each.
        self.change = EqualConv2d(before, after, 3, _GAIN * 0.5**0.5)
        self.shortcut = EqualConv2d(before, after, 1, 0.5**0.5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.same:
            y = F.leaky_relu(conv(y), LEAK)
        return self.shortcut(downsample(x)) + F.leaky_relu(self.change(downsample(y)), LEAK)


class Discriminator(contract.Discriminator):
    """Images (N, C, H, W) in [-1, 1] and labels (N,) -> logits (N,); conditional by projection (Miyato 2018).

    In training mode it gets the standard deviation within groups of images, so it can detect a generator without
    diversity. In evaluation mode each image is its own group.
    """

    mixes_images = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = stages(config.height, config.width, _COARSEST)
        maps = widths(config, len(sizes))[::-1]
        self.from_picture = EqualConv2d(config.channels, maps[0], 1, _GAIN)
        self.stages = nn.Sequential(*(_Down(*pair, config.blocks) for pair in itertools.pairwise(maps)))
        self.last = EqualConv2d(maps[-1] + 1, maps[-1], 3, _GAIN)
        self.gather = EqualLinear(maps[-1] * math.prod(sizes[0]), maps[-1], _GAIN)
        self.head = EqualLinear(maps[-1], 1)
        self.classes = ClassEmbedding(config.label_size, maps[-1]) if config.label_size else None
        if config.spectral_norm:  # equalised scaling in addition would make the signal vanish
            for layer in self.modules():
                if isinstance(layer, EqualLinear | EqualConv2d):
                    layer.scale = layer.gain

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stages[:-1](F.leaky_relu(self.from_picture(images), LEAK))
        with full_precision(x):  # also the coarsest stage: it is cheap, and penalties need precise gradients
            x = self.stages[-1:](x.to(self.head.weight.dtype))
            spread = deviation(x, _GROUP if self.training else 1)
            x = torch.cat([x, spread[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)
            x = F.leaky_relu(self.last(x), LEAK)
            x = F.leaky_relu(self.gather(x.flatten(1)), LEAK)
            logits = self.head(x).squeeze(1)
            if self.classes is not None:
                logits = logits + (x * self.classes(labels)).sum(dim=1) / math.sqrt(x.shape[1])
        return logits


def deviation(x: Tensor, group: int) -> Tensor:
    """(N,) standard deviation over each image's group, averaged over maps and pixels (Karras et al. 2018, section 3).

    Images i, i + M, i + 2M ... are a group; M is the smallest number of groups with at most `group` images each.
    """
    num = len(x)
    member = torch.arange(num, device=x.device) % -(-num // group)
    together = (member[:, None] == member).to(x.dtype)
    average = together / together.sum(dim=1)
    flat = x.flatten(1)
    variance = average @ (flat - average @ flat).square()
    return (variance + _TINY).sqrt().mean(dim=1)


def build(config: ModelConfig) -> tuple[Generator, Discriminator]:
    return Generator(config), Discriminator(config)


def defaults(setting: Setting) -> Defaults:
    big = setting.side > 32  # smaller images need no regularisation of the style space
    batch = setting.batch or batch_for(setting.side, setting.on_cpu)
    base = 16 if setting.on_cpu or setting.longer >= 256 else 64
    return modern_defaults(setting) | {
        "z_dim": (256, "for z and w"),
        "base": (base, f"feature maps at {setting.longer} pixels"),
        "blocks": (1 if setting.on_cpu else 2, "per stage"),
        "loss": ("bce", "non-saturating, as in StyleGAN2"),
        "r1": (
            max(0.02, 0.0002 * setting.side**2 / batch),
            "0.0002 x pixels / batch, at least 0.02 (StyleGAN2-ADA)",
        ),
        "r2": (0.0, "off, as in StyleGAN2"),
        "penalty_interval": (16, "every 16th step, as in StyleGAN2"),
        "path_length": (2.0, "smoother latent space (StyleGAN2)") if big else (0.0, "off"),
        "style_mixing": (0.9, "separates coarse and fine styles (StyleGAN2)") if big else (0.0, "off"),
        "lr": (2e-3, "untuned default"),
    }


ARCHITECTURE = Architecture(build, "has a style space for editing", defaults)
