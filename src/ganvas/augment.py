"""Differentiable augmentation of the real and fake images shown to the discriminator.

DiffAugment (Zhao et al. 2020) and the geometric and colour transformations of ADA (Karras et al. 2020a), with one
difference: random numbers are drawn once per pair and applied to its real and fake image, so the relativistic loss does
not measure the augmentation. Which transformations are safe depends on the type of the images: a slightly rotated
X-ray is still realistic, a comic with another hue is not.

Augmentations do not leak into the samples as long as each operation has a probability of at most 0.8 and real and fake
images are treated equally: then only the true distribution matches under all augmentations
(tests/test_augment.py checks this on a toy set).

All operations are affine in the images and twice differentiable. All geometric changes are one bilinear resampling.
The image is reflected at its border: there is no black border, and gradients go to a few mirrored pixels instead of
accumulating in one, as with a repeated border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_DRAWN = ("translation", "scale", "stretch", "rotation10", "cutout", "brightness")  # colours are part of the style

POLICIES: dict[str, tuple[str, ...]] = {
    "photo": (
        "translation", "scale", "stretch", "rotation15", "cutout", "brightness", "contrast", "saturation", "hue",
    ),
    "face": ("translation", "scale", "stretch", "rotation10", "cutout", "brightness", "contrast", "saturation"),
    "comic": _DRAWN,
    "drawing": _DRAWN,
    "xray": ("translation", "scale", "rotation5", "cutout", "brightness", "contrast"),
    "scan": ("translation", "scale", "rotation5", "cutout", "brightness", "contrast"),
    "digits": ("translation", "scale"),
    "text": ("translation", "scale"),
}  # fmt: skip
"""Transformations by kind of image.

Mirroring is not included: where it is safe it enlarges the data set (data/batches.py), so a second flip has no effect;
elsewhere it must not be used.
"""

OPERATIONS = (
    "translation", "scale", "stretch", "rotation5", "rotation10", "rotation15",
    "cutout", "brightness", "contrast", "saturation", "hue",
)  # fmt: skip

SHIFT = 1 / 8  # maximum translation, relative to the side; in whole pixels, to avoid blur
_SCALE = 1.25  # maximum enlargement; the minimum is 1 / SCALE, to limit aliasing
_STRETCH = 1.1  # maximum enlargement of one side; the other shrinks by the same factor
DEGREES = {"rotation5": 5.0, "rotation10": 10.0, "rotation15": 15.0}  # maximum angle in either direction
HOLE = 1 / 2  # side of the cutout, relative to the image side
HUE = math.pi / 3  # maximum hue rotation: from red to yellow or to magenta

PLACE = ("translation", "scale", "stretch", *DEGREES)
NUMBERS = (
    "brightness", "saturation", "contrast", "hue", "shift_y", "shift_x", "scale", "stretch", "rotation",
    "hole_y", "hole_x", "jitter_y", "jitter_x",
)  # fmt: skip

_Columns = dict[str, Tensor]
"""One number (N,) per image by name."""


@dataclass(frozen=True)
class Draw:
    """One set of random numbers per pair."""

    uniform: Tensor  # (N, len(NUMBERS)), uniform in [0, 1)
    on: Tensor  # (N, len(OPERATIONS)) of 0 and 1: which operations apply, in the order of OPERATIONS

    @property
    def jitter(self) -> Tensor:
        """(N, 2) in [0, 1): position of the image for `models.layers.jitter`."""
        return self.uniform[:, -2:]

    def slice(self, start: int, stop: int) -> Draw:
        return Draw(self.uniform[start:stop], self.on[start:stop])


def draw(num: int, policy: tuple[str, ...], probability: float | Tensor, generator: torch.Generator) -> Draw:
    """Random numbers for `num` pairs; each operation of the policy is applied to a pair with the given probability.

    probability: 0 to 1, or a tensor () on the generator's device (no synchronisation).
    """
    device = generator.device
    uniform = torch.rand(num, len(NUMBERS), generator=generator, device=device)
    chance = torch.rand(num, len(OPERATIONS), generator=generator, device=device)
    on = (chance < probability).float()
    for column, name in enumerate(OPERATIONS):
        if name not in policy:
            on[:, column] = 0
    return Draw(uniform, on)


def augment(images: Tensor, draw: Draw, policy: tuple[str, ...]) -> Tensor:
    """Applies a draw to images (N, C, H, W) in [-1, 1]; the same draw gives the same result.

    An image without any active operation is returned unchanged. The result has the type of `images`; narrow types are
    computed in float32.
    """
    wide = torch.promote_types(images.dtype, torch.float32)
    numbers = dict(zip(NUMBERS, draw.uniform.to(wide).unbind(1), strict=True))
    on = dict(zip(OPERATIONS, draw.on.to(wide).unbind(1), strict=True))
    on = {name: on[name] for name in OPERATIONS if name in policy}
    changed = images.to(wide)
    if changed.shape[1] == 4:  # do not change transparency
        changed = torch.cat([_recolour(changed[:, :3], numbers, on), changed[:, 3:]], dim=1)
    else:
        changed = _recolour(changed, numbers, on)
    if any(name in on for name in PLACE):
        changed = _move(changed, numbers, on)
    if "cutout" in on:
        changed = changed * _keep_mask(changed, numbers, on["cutout"])
    return changed.to(images.dtype)


def _per_picture(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


# Colour. Changes are added to the image, so that an inactive operation changes nothing.


def _recolour(images: Tensor, numbers: _Columns, on: _Columns) -> Tensor:
    """Brightness +-0.5, saturation 0 to 2, hue +-60 degrees, contrast 0.5 to 1.5; (N, C, H, W)."""
    if "brightness" in on:
        images = images + _per_picture((numbers["brightness"] - 0.5) * on["brightness"])
    if images.shape[1] == 3 and ("saturation" in on or "hue" in on):
        images = _turn(images, numbers, on)
    if "contrast" in on:
        change = (numbers["contrast"] - 0.5) * on["contrast"]
        images = images + (images - images.mean(dim=(1, 2, 3), keepdim=True)) * _per_picture(change)
    return images


def _turn(images: Tensor, numbers: _Columns, on: _Columns) -> Tensor:
    """Hue and saturation of (N, 3, H, W): rotates the colour part about the gray axis and scales it.

    Rodrigues' rotation of v perpendicular to the axis k: v cos + (k x v) sin. The channel mean is unchanged.
    """
    colour = images - images.mean(dim=1, keepdim=True)
    saturation = 1 + (2 * numbers["saturation"] - 1) * on["saturation"] if "saturation" in on else images.new_ones(())
    if "hue" not in on:
        return images + colour * _per_picture(saturation - 1)
    angle = (2 * numbers["hue"] - 1) * HUE * on["hue"]
    sideways = colour.roll(1, dims=1) - colour.roll(2, dims=1)  # sqrt(3) k x v
    along, across = saturation * angle.cos() - 1, saturation * angle.sin() / math.sqrt(3)
    return images + colour * _per_picture(along) + sideways * _per_picture(across)


# Geometry.


def _move(images: Tensor, numbers: _Columns, on: _Columns) -> Tensor:
    """Translation, scale, stretch and rotation in one resampling; other images are unchanged."""
    moved = _per_picture(torch.stack([on[name] for name in PLACE if name in on]).amax(0) > 0)
    return torch.where(moved, resample(images, *_sources(images, numbers, on)), images)


def _sources(images: Tensor, numbers: _Columns, on: _Columns) -> tuple[Tensor, Tensor]:
    """Source row and column (N, H, W) of each pixel; transformations are about the image centre."""
    height, width = images.shape[2:]
    none = torch.zeros_like(numbers["scale"])
    size = _SCALE ** ((2 * numbers["scale"] - 1) * on.get("scale", none))
    wide = _STRETCH ** ((2 * numbers["stretch"] - 1) * on.get("stretch", none))
    degrees = (2 * numbers["rotation"] - 1) * sum((DEGREES[name] * on.get(name, none) for name in DEGREES), none)
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    shift_y = _offsets(numbers["shift_y"], height) * on.get("translation", none)
    shift_x = _offsets(numbers["shift_x"], width) * on.get("translation", none)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = (torch.arange(height, device=images.device) - middle_y)[None, :, None]
    x = (torch.arange(width, device=images.device) - middle_x)[None, None, :]

    def along(values: Tensor) -> Tensor:
        return values[:, None, None]

    row = along(cos * wide / size) * y - along(sin * wide / size) * x + along(middle_y + shift_y)
    column = along(sin / (wide * size)) * y + along(cos / (wide * size)) * x + along(middle_x + shift_x)
    return row, column


def _offsets(uniform: Tensor, side: int) -> Tensor:
    """Whole pixels, uniform in [-side/8, side/8]; (N,)."""
    most = int(side * SHIFT + 0.5)
    return (uniform * (2 * most + 1)).floor() - most


def resample(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Images (N, C, H, W) sampled at positions (N, H, W), bilinear, reflected at the border; twice differentiable.

    On one CPU core PyTorch's sampler takes a third to a half of the time of `resample_by_gather`. Matrix products for
    rows and columns are as fast at 64 pixels, but cannot rotate. MPS has no derivative of the sampler.
    """
    if images.device.type == "mps":
        return resample_by_gather(images, row, column)
    height, width = images.shape[2:]
    return _Sample.apply(images, torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1))


class _Sample(torch.autograd.Function):
    """F.grid_sample of images at fixed positions.

    PyTorch 2.11 cannot differentiate it twice. It is linear in the images, so its derivative is its transpose, whose
    derivative is again this function (idea: Karras et al. 2020a).
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        images, grid = inputs
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(*gradients, *ctx.saved_tensors, ctx.shape), None


class _Spread(torch.autograd.Function):
    """Transpose of `_Sample`: distributes every pixel to its four source pixels."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        gradient, grid, shape = inputs
        ctx.save_for_backward(grid)
        bilinear, reflection, align_corners = 0, 2, False
        like = gradient.new_empty(1).expand(shape)  # only its shape is used
        return torch.ops.aten.grid_sampler_2d_backward(
            gradient, like, grid, bilinear, reflection, align_corners, [True, False]
        )[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(*gradients, *ctx.saved_tensors), None, None


def resample_by_gather(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Reference for `resample`, with operations available on every device."""
    num, channels, height, width = images.shape
    pixels = images.flatten(2)
    top, left = row.floor(), column.floor()
    rows, columns = [_reflect(top + i, height) for i in (0, 1)], [_reflect(left + i, width) for i in (0, 1)]

    def tap(i: int, j: int) -> Tensor:
        index = (rows[i] * width + columns[j]).view(num, 1, -1)
        return pixels.gather(2, index.expand(-1, channels, -1)).view_as(images)

    down, right = (row - top)[:, None], (column - left)[:, None]
    upper = tap(0, 0) * (1 - right) + tap(0, 1) * right
    lower = tap(1, 0) * (1 - right) + tap(1, 1) * right
    return upper * (1 - down) + lower * down


def _reflect(place: Tensor, side: int) -> Tensor:
    """... 1 0 | 0 1 ... side-1 | side-1 ...: indices (int64) inside the image for any integers."""
    place = place.long().remainder(2 * side)
    return torch.minimum(place, 2 * side - 1 - place)


# Cutout.


def _keep_mask(images: Tensor, numbers: _Columns, on: Tensor) -> Tensor:
    """(N, 1, H, W): 0 inside a square hole of half the image side at a random position, 1 elsewhere."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    inside_y = (rows - (numbers["hole_y"] * height)[:, None]).abs() < height * HOLE / 2
    inside_x = (columns - (numbers["hole_x"] * width)[:, None]).abs() < width * HOLE / 2
    hole = (inside_y[:, :, None] & inside_x[:, None, :]).to(images.dtype)
    return (1 - hole * on[:, None, None]).unsqueeze(1)


# Probability.

MOST_PROBABLE = 0.8
"""Maximum probability; with more, augmentations leak into the generated images (Karras et al.
2020a, figure 5)."""


_RAMP_IMAGES = 500_000  # images for a change of the probability from 0 to 1 in the paper; in short budgets:
_RAMP_SHARE, _RAMP_STEPS = 1 / 4, 200  # fraction of the budget, and minimum number of steps
TARGET = 0.6  # mean sign at which the probability stays as it is


class AdaptiveProbability:
    """Probability of the augmentations, raised while the discriminator overfits.

    Adaptive discriminator augmentation (Karras et al. 2020a, section 3). `value` is a tensor () on the device;
    updates do not synchronise. All ranks must pass the same sign, the mean over all of them.

    start: initial probability. target: target value of the mean sign (`overfitting_sign`).
    """

    def __init__(self, start: float, target: float = TARGET, device: torch.device | str = "cpu") -> None:
        self.value = torch.tensor(min(start, MOST_PROBABLE), dtype=torch.float32, device=device)
        self.target = target

    def update(self, real_sign: Tensor, images: int, total_images: int) -> None:
        """Raises the probability if the mean sign is above the target, else lowers it; within 0 and MOST.

        images: images seen since the last update. total_images: the budget, which sets the speed.
        """
        ramp = min(_RAMP_IMAGES, max(_RAMP_SHARE * total_images, _RAMP_STEPS * images))
        direction = (real_sign.detach() - self.target).sign()
        self.value = (self.value + direction * (images / ramp)).clamp(0, MOST_PROBABLE)

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.value = state["value"].to(self.value)


def overfitting_sign(real_logits: Tensor, fake_logits: Tensor, relativistic: bool) -> Tensor:
    """How well the discriminator distinguishes its training images from fakes: 0 not at all, 1 always; a tensor ().

    E[sign(D(x))] for losses where a logit above 0 means real (Karras et al. 2020a, equation 1). A relativistic loss
    depends only on differences, so a constant, even one per class, may be added to its logits. So logits are measured
    from the middle of its pair, (D(x) + D(G(z))) / 2, which gives E[sign(D(x) - D(G(z)))]. Unlike the middle of two
    batch means, this is a mean over pairs, independent of micro-batches, ranks and classes.
    0.6 means that four of five pairs are ranked correctly. For normal logits of equal width this needs a distance of
    1.2 standard deviations, and 1.7 without a relativistic loss: at equal distance, 0.6 there is 0.77 here.
    """
    return torch.sign(real_logits - fake_logits if relativistic else real_logits).mean()
