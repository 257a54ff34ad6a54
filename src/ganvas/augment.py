"""Differentiable augmentation: what the discriminator sees of real and fake pictures alike.

DiffAugment (Zhao et al. 2020) with one rule of its own: the numbers are drawn once per pair and applied to the real
and the fake of that pair, so the relativistic difference never measures the augmentation. Which transformations
are harmless depends on what the pictures are: a mirrored X-ray shows a patient with the heart on the right.
All are differentiable twice with stock operators.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POLICIES: dict[str, tuple[str, ...]] = {
    "photo": ("translation", "cutout", "brightness", "contrast", "saturation"),
    "face": ("translation", "cutout", "brightness", "contrast", "saturation"),
    "comic": ("translation", "cutout", "brightness"),
    "xray": ("translation", "cutout", "brightness", "contrast"),
    "scan": ("translation", "cutout", "brightness", "contrast"),
    "digits": ("translation",),
    "text": ("translation",),
}
"""Transformations by kind of picture. Mirroring is not here: it enlarges the data set (see data/batches.py)."""

SHIFT = 1 / 8  # largest translation, of the side
HOLE = 1 / 2  # side of the cutout, of the side


@dataclass(frozen=True)
class Draw:
    """One set of random numbers per pair: the seven columns are uniform in [0, 1), `on` says what applies."""

    uniform: Tensor  # (N, 7)
    on: Tensor  # (N, 5) of 0 and 1, in the order of OPERATIONS

    def slice(self, start: int, stop: int) -> Draw:
        return Draw(self.uniform[start:stop], self.on[start:stop])


OPERATIONS = ("translation", "cutout", "brightness", "contrast", "saturation")


def draw(num: int, policy: tuple[str, ...], probability: float, generator: torch.Generator) -> Draw:
    """Numbers for `num` pairs; each operation of the policy applies to a pair with the given probability."""
    device = generator.device
    uniform = torch.rand(num, 7, generator=generator, device=device)
    chance = torch.rand(num, len(OPERATIONS), generator=generator, device=device)
    allowed = torch.tensor([name in policy for name in OPERATIONS], device=device)
    return Draw(uniform, ((chance < probability) & allowed).float())


def augment(images: Tensor, draw: Draw, policy: tuple[str, ...]) -> Tensor:
    """Applies a draw to pictures (N, C, H, W) in [-1, 1]; the same draw gives the same change."""
    uniform = draw.uniform.to(images.dtype)
    on = dict(zip(OPERATIONS, draw.on.to(images.dtype).unbind(1), strict=True))
    if "brightness" in policy:
        images = images + per_picture((uniform[:, 0] - 0.5) * on["brightness"])
    if "saturation" in policy and images.shape[1] == 3:
        factor = 1 + (2 * uniform[:, 1] - 1) * on["saturation"]  # 0 (gray) to 2
        gray = images.mean(dim=1, keepdim=True)
        images = gray + (images - gray) * per_picture(factor)
    if "contrast" in policy:
        factor = 1 + (uniform[:, 2] - 0.5) * on["contrast"]  # 0.5 to 1.5
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * per_picture(factor)
    if "translation" in policy:
        height, width = images.shape[2:]
        images = shift(images, offsets(uniform[:, 3], on["translation"], height), dim=2)
        images = shift(images, offsets(uniform[:, 4], on["translation"], width), dim=3)
    if "cutout" in policy:
        images = images * keep_mask(images, uniform[:, 5], uniform[:, 6], on["cutout"])
    return images


def per_picture(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def offsets(uniform: Tensor, on: Tensor, side: int) -> Tensor:
    """Whole pixels, uniform in [-side/8, side/8]; (N,) int64."""
    most = int(side * SHIFT + 0.5)
    return ((uniform * (2 * most + 1)).floor() - most).mul(on).long()


def shift(images: Tensor, offset: Tensor, dim: int) -> Tensor:
    """Moves each picture by its offset along `dim`; the border is repeated, so that no edge of another gray appears."""
    side = images.shape[dim]
    index = (torch.arange(side, device=images.device) + offset[:, None]).clamp(0, side - 1)  # (N, side)
    shape = [images.shape[0], 1, 1, 1]
    shape[dim] = side
    return images.gather(dim, index.view(shape).expand_as(images))


def keep_mask(images: Tensor, centre_y: Tensor, centre_x: Tensor, on: Tensor) -> Tensor:
    """(N, 1, H, W): 0 inside a square hole of half the side at a random place, 1 elsewhere."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    inside_y = (rows - (centre_y * height)[:, None]).abs() < height * HOLE / 2
    inside_x = (columns - (centre_x * width)[:, None]).abs() < width * HOLE / 2
    hole = (inside_y[:, :, None] & inside_x[:, None, :]).to(images.dtype)
    return (1 - hole * on[:, None, None]).unsqueeze(1)
