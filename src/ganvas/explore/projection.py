"""Projection: find the latent whose image is closest to a given image, by optimisation.

Hundreds of sampled latents are compared with the image. The closest ones are optimised together by gradient descent,
and their number is reduced in steps. Latents are whitened and regularised towards their mean, so that they stay within
the distribution of the generator. Only in the last part each layer gets its own latent. (After Image2StyleGAN, Abdal et
al. 2019, and the projector of StyleGAN2, Karras et al. 2020, appendix D; whitening after Zhu et al. 2020.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ganvas import latent_codes
from ganvas.data.reading.decode import decode, probe
from ganvas.data.reading.target import Target
from ganvas.errors import ConfigError, PictureError
from ganvas.explore.recipes import Recipe, as_recipe, resolve
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.image_files import grid, save_png
from ganvas.latent_codes import Code
from ganvas.provenance import provenance
from ganvas.system import files

_Progress = Callable[[str, int, int], None]

LEAST_COMPARED = 512  # fewest sampled latents that are compared with the image
EACH = 32  # fewest of them per class
_CALMED = 0.6  # truncation of half of the candidates
_STARTS = 8  # latents that are optimised together
_PARTS = (0.4, 0.7)  # fractions of the steps: then a quarter of the starts continue; then one, with free layers
_COARSEST = 4  # smallest side in pixels of the coarsest pyramid level
_RATE, _LAST_RATE = 0.1, 0.005  # learning rate of Adam at the start and at the end of each part, in deviations
_PRIOR = 0.002  # weight of the mean square of the whitened latents
_FREE_PRIOR = 0.02  # weight of the mean square distance of the rows from their mean
_MOMENTS = 4096  # samples of w for its mean and covariance
_LEAST_SCALE = 0.05  # smallest scale of a direction of w, relative to the largest deviation
_LONGEST_FILE = 100_000_000  # most bytes of an image file
_SHOWN = 256  # smallest longer side in pixels of each image in projection.png


@dataclass(frozen=True, eq=False)
class Projection:
    """Result of a projection."""

    recipe: Recipe
    losses: list[float]
    """Smallest distance so far: of the candidates, then after each step (see `distance`)."""
    target: np.ndarray
    """(H, W, C) the given image in the size and bit depth of the model."""
    picture: np.ndarray
    """(H, W, C) the generated image."""
    model: str
    """Hash of the weights of the generator."""
    note: str = ""
    """Changes made to the given image to fit the model."""


def project(
    generator: Generator,
    picture: np.ndarray | Path,
    *,
    label: str | None = None,
    steps: int = 300,
    seed: int = 0,
    starts: int = _STARTS,
    progress: _Progress | None = None,
) -> Projection:
    """Find the recipe of the generated image that is closest to `picture`: pixels (H, W, C) uint8 or uint16, or a file.

    Files are cropped and resized to the size of the model (see `note`); pixels must have that size.
    label: the class or conditions; default: the closest. steps: optimisation steps (Adam). starts: latents optimised
    together at first. The same seed gives the same result. Raises ConfigError for pixels of another size or channels,
    an unknown label or invalid numbers, PictureError for an unreadable file.
    """
    if steps < 1 or starts < 1:
        raise ConfigError(f"{steps} steps from {starts} starts: expected at least 1 of each")
    pixels, note = _fitted(generator, picture)
    goal = _scaled(pixels).to(generator.device)
    code = candidates(generator, label, seed, progress)
    apart = _distances(generator, code, goal)
    order = torch.argsort(apart, stable=True)[:starts]
    losses = [float(apart[order[0]])]
    best, best_loss = code[order[:1]], losses[0]
    space = Space.of(generator, code[order], seed)
    point = space.enter(code[order]).requires_grad_()
    done = 0
    for part, end in enumerate([*(round(steps * share) for share in _PARTS), steps]):
        free = part == len(_PARTS) and space.styled
        num_steps = end - done
        if part:  # continue with the closest latents
            to_goal = _distances(generator, space.leave(point.detach()), goal)
            order = torch.argsort(to_goal, stable=True)[: max(1, starts // 4) if part == 1 else 1]
            point, space = point.detach()[order], space.only(order)
            point = (point.repeat(1, generator.num_depths, 1) if free else point.clone()).requires_grad_()
        optimizer = torch.optim.Adam([point], lr=_RATE, betas=(0.9, 0.99))
        for step in range(num_steps):
            optimizer.param_groups[0]["lr"] = _rate(step / max(1, num_steps), part)
            moved = space.leave(point)
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                apart = distance(latent_codes.decode(generator.network, moved), goal)
            nearest = int(apart.argmin())
            if (loss := float(apart[nearest].detach())) < best_loss:
                best, best_loss = _detached(moved, nearest), loss
            losses.append(best_loss)
            optimizer.zero_grad()
            (apart.sum() + space.strain(point).sum()).backward()
            optimizer.step()
            done += 1
            if progress:
                progress("optimising the latent", done, steps)
    recipe = as_recipe(best, generator.classes, generator.info.conditions)
    shown = to_pixels(generator.show(resolve(generator, [recipe])), generator.info.depth)[0]
    return Projection(recipe, losses, pixels, shown, generator.hash, note)


def _detached(code: Code, index: int) -> Code:
    """A copy of one latent code, shape (1)."""
    labels = None if code.labels is None else code.labels[index : index + 1].clone()
    return Code(code.latents.detach()[index : index + 1].clone(), labels)


def _rate(share: float, part: int) -> float:
    """Learning rate after the fraction `share` of a part: cosine decay; later parts start lower."""
    first = _RATE / 2**part
    return _LAST_RATE + (first - _LAST_RATE) * (1 + math.cos(math.pi * share)) / 2


# -- the image --


def _fitted(generator: Generator, picture: np.ndarray | Path) -> tuple[np.ndarray, str]:
    """The image (H, W, C) in the size, channels and bit depth of the model, and the changes made to it."""
    config, depth = generator.info.config, generator.info.depth
    wanted = (config.height, config.width, config.channels)
    if not isinstance(picture, np.ndarray):
        path = Path(picture)
        payload = _content(path)
        try:
            header = probe(payload)
            pixels = decode(payload, Target(*wanted, depth, "crop", None))
        except PictureError as error:
            raise PictureError(f"{path}: {error}") from None
        notes = []
        if (header.height, header.width) != wanted[:2]:
            notes.append(f"cropped and resized from {header.height}x{header.width} to {wanted[0]}x{wanted[1]} pixels")
        if wanted[2] == 1 and header.channels == 3:
            notes.append("converted to gray")
        return pixels, " and ".join(notes)
    pixels = picture[:, :, None] if picture.ndim == 2 else picture
    if pixels.shape != wanted or pixels.dtype not in (np.uint8, np.uint16):
        form = "x".join(map(str, pixels.shape))
        raise ConfigError(
            f"the image is {form} ({pixels.dtype}), but this model generates {'x'.join(map(str, wanted))} (height, "
            "width, channels; uint8 or uint16): crop and resize it, or give the file"
        )
    if pixels.dtype == np.uint8 and depth == 16:
        pixels = pixels.astype(np.uint16) * 257
    elif pixels.dtype == np.uint16 and depth == 8:
        pixels = (pixels / 257).round().astype(np.uint8)
    return pixels, ""


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise PictureError(f"{path} is larger than {_LONGEST_FILE / 1e6:.0f} MB: use a smaller file")
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path} cannot be read ({error.strerror}): give an image file") from None


def _scaled(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 -> (1, C, H, W) in [-1, 1]."""
    top = np.iinfo(pixels.dtype).max
    return torch.from_numpy(pixels.astype(np.float32) / (top / 2) - 1).permute(2, 0, 1)[None].contiguous()


def distance(images: Tensor, goal: Tensor) -> Tensor:
    """(N,) mean absolute difference between images (N, C, H, W) in [-1, 1] and the goal (1, C, H, W).

    Mean over a pyramid with scales 1, 1/2, 1/4 ...; coarse scales guide the optimisation before details match.
    """
    apart, scales = torch.zeros(len(images), device=images.device), 0
    difference = images - goal
    while True:
        apart = apart + difference.abs().mean(dim=(1, 2, 3))
        scales += 1
        if min(difference.shape[2:]) < 2 * _COARSEST:
            return apart / scales
        difference = F.avg_pool2d(difference, 2, ceil_mode=True, count_include_pad=False)


@torch.no_grad()
def _distances(generator: Generator, code: Code, goal: Tensor) -> Tensor:
    """`distance` of the images of latent codes: (N,) on the CPU."""
    parts = [code[i : i + BATCH] for i in range(0, len(code), BATCH)]
    return torch.cat([distance(generator.show(part).to(goal), goal).cpu() for part in parts])


# -- latents --


def candidates(generator: Generator, label: str | None, seed: int, progress: _Progress | None) -> Code:
    """Sampled latent codes of the label, or of all labels in turn; half of them truncated."""
    num_classes = generator.info.config.num_classes
    num = max(LEAST_COMPARED, EACH * num_classes if label is None else 0)
    rng = np.random.default_rng((seed, 1))
    z = torch.from_numpy(rng.standard_normal((num, generator.info.config.z_dim), np.float32))
    labels = generator.labels_of(label, range(num))
    if progress:
        progress("comparing sampled images", num, num)
    calm = generator.code(z[: num // 2], None if labels is None else labels[: num // 2], _CALMED)
    whole = generator.code(z[num // 2 :], None if labels is None else labels[num // 2 :])
    return latent_codes.stack([calm, whole])


@dataclass(frozen=True, eq=False)
class Space:
    """Whitened latents: point 0 is the mean, and samples are about N(0, 1).

    Without a style space these are the latents z; otherwise w, rotated to its principal components and whitened.
    """

    styled: bool
    mean: Tensor
    """(N, 1, D)"""
    forth: Tensor
    """(D, D) point -> latent minus the mean."""
    back: Tensor
    rows: int
    labels: Tensor | None

    @classmethod
    def of(cls, generator: Generator, code: Code, seed: int) -> Space:
        """The space around these latent codes (N)."""
        size = generator.info.config.z_dim
        rows = code.latents.shape[1]
        eye = torch.eye(size, device=generator.device)
        mean = torch.zeros(len(code), 1, size, device=generator.device)
        if not latent_codes.has_styles(generator.network):
            return cls(False, mean, eye, eye, rows, code.labels)
        num_classes = generator.info.config.num_classes
        rng = np.random.default_rng((seed, 2))
        z = torch.from_numpy(rng.standard_normal((_MOMENTS, size), np.float32))
        labels = generator.labels_of(None, range(_MOMENTS))
        w = generator.code(z, labels).latents[:, 0]
        if labels is None or labels.is_floating_point():
            mean = mean + w.mean(dim=0)
            apart = w - w.mean(dim=0)
        else:  # mean: of the nearest class; covariance: within the classes
            means = torch.stack([w[labels == k].mean(dim=0) for k in range(num_classes)])
            apart = w - means[labels.to(w.device)]
            mean = means[torch.cdist(code.latents[:, 0], means).argmin(dim=1)][:, None]
        values, vectors = torch.linalg.eigh((apart.T @ apart / len(apart)).double().cpu())
        scales = values.clamp_min(0).sqrt()
        scales = scales.clamp_min(_LEAST_SCALE * float(scales.max())).clamp_min(1e-8)
        forth = (scales[:, None] * vectors.T).float().to(generator.device)
        back = (vectors / scales).float().to(generator.device)
        return cls(True, mean, forth, back, rows, None)

    def only(self, order: Tensor) -> Space:
        """The space of a selection of the latent codes."""
        labels = None if self.labels is None else self.labels[order]
        return Space(self.styled, self.mean[order], self.forth, self.back, self.rows, labels)

    def enter(self, code: Code) -> Tensor:
        """Points (N, 1, D) of latent codes with equal rows."""
        return (code.latents[:, :1] - self.mean) @ self.back

    def leave(self, point: Tensor) -> Code:
        """Latent codes of points (N, 1 or rows, D)."""
        latents = self.mean + point @ self.forth
        return Code(latents if latents.shape[1] == self.rows else latents.expand(-1, self.rows, -1), self.labels)

    def strain(self, point: Tensor) -> Tensor:
        """(N,) penalty: mean square of the point (more if above that of samples), and distance between the rows."""
        middle = point.mean(dim=1)
        excess = F.relu(middle.square().mean(dim=1) - 1)
        return (
            _PRIOR * middle.square().mean(dim=1)
            + excess.square()
            + _FREE_PRIOR * (point - middle[:, None]).square().mean(dim=(1, 2))
        )


# -- files --


def save(projection: Projection, out: Path) -> list[Path]:
    """Write projection.png (given and generated image), losses.png and recipe.json to the folder `out`."""
    out = Path(out)
    with files.explained(out):
        out.mkdir(parents=True, exist_ok=True)
    paths = [out / "projection.png", out / "losses.png", out / "recipe.json"]
    text = provenance(projection.model, projection.recipe.to_dict())
    save_png(paths[0], _side_by_side(projection), text)
    save_png(paths[1], _curve(projection.losses))
    values: dict[str, Any] = {
        "ganvas": "projection",
        "model": projection.model,
        "recipe": projection.recipe.to_dict(),
        "note": projection.note,
        "losses": [float(f"{loss:.6g}") for loss in projection.losses],
    }
    files.write_json(paths[2], values)
    return paths


def _side_by_side(projection: Projection) -> np.ndarray:
    """The given image (left) and the generated image (right), enlarged by an integer factor."""
    pair = np.stack([projection.target, projection.picture])
    times = -(-_SHOWN // max(pair.shape[1:3]))
    return grid(pair.repeat(times, axis=1).repeat(times, axis=2), columns=2, gap=4)


def _curve(losses: list[float]) -> np.ndarray:
    """(H, W, 3) line chart of the losses over the steps."""
    width, height, left, bottom = 640, 320, 56, 30
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    top = max(losses) * 1.05 or 1.0
    x = np.linspace(left, width - 12, len(losses)) if len(losses) > 1 else np.array([left])
    y = height - bottom - np.array(losses) / top * (height - bottom - 12)
    for share in (0.0, 0.5, 1.0):
        level = height - bottom - share * (height - bottom - 12)
        pen.line([(left, level), (width - 12, level)], fill="#cccccc")
        pen.text((8, level - 6), f"{share * top:.3f}", fill="black")
    pen.text((left, height - 20), "0", fill="black")
    pen.text((width - 110, height - 20), f"{len(losses) - 1} steps", fill="black")
    pen.text((left + 6, 4), "mean absolute difference over all scales, pixels from -1 to 1", fill="black")
    pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill="#1f5fbf", width=2)
    return np.asarray(sheet)
