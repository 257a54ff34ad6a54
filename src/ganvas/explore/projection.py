"""Projection: the code whose image comes nearest to a given one, by optimisation from good starts.

Hundreds of sampled codes are compared with the image; the nearest ones are then improved together, by gradients, and
fewer and fewer of them. A code moves in units of the codes' own deviation and is drawn to their mean, so that it stays
where the generator has learnt to draw: near the sphere of latents, or the cloud of w. Only in the end each depth may go
its own way. (After image2stylegan, Abdal et al. 2019, and the projector of StyleGAN2, Karras et al. 2020, appendix D;
the whitened space after Zhu et al. 2020.)
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

from ganvas import codes, files
from ganvas.codes import Code
from ganvas.data.decode import Target, decode, probe
from ganvas.errors import ConfigError, PictureError
from ganvas.explore.recipes import Recipe, as_recipe, resolve
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.pictures import grid, save_png
from ganvas.provenance import provenance

Progress = Callable[[str, int, int], None]

CANDIDATES = 512  # sampled codes that are compared with the image, at least
EACH = 32  # of them for each class, at least
CALMED = 0.6  # truncation of every other candidate: nearer to the mean, where more images begin well
STARTS = 8  # codes that are improved together
PARTS = (0.4, 0.7)  # of the steps: after the first a quarter of the starts go on, after the second one, all rows free
COARSEST = 4  # shorter side of the pyramid's smallest image, at least
RATE, LAST_RATE = 0.1, 0.005  # Adam's step in deviations of the codes, at the start and at the end of each part
PRIOR = 0.002  # weight of the codes' mean square, in deviations, beside the distance
FREE_PRIOR = 0.02  # weight of the rows' mean square distance from their own mean
MOMENTS = 4096  # sampled w whose mean and deviation are taken
LEAST_SCALE = 0.05  # of the largest deviation of w: directions that vary less are moved as if they varied so much
LONGEST_FILE = 100_000_000  # bytes of a picture's file
SHOWN = 256  # pixels of the longer side of each image in the side by side, at least


@dataclass(frozen=True, eq=False)
class Projection:
    """What was found."""

    recipe: Recipe
    losses: list[float]
    """The distance of the nearest code, of the best candidate and after each step (see `distance`)."""
    target: np.ndarray
    """(H, W, C) the image as the model's size and depth have it."""
    picture: np.ndarray
    """(H, W, C) the generated one."""
    model: str
    """Hash of the generator's weights."""
    note: str = ""
    """What was done to the image to fit it to the model."""


def project(
    generator: Generator,
    picture: np.ndarray | Path,
    *,
    label: str | None = None,
    steps: int = 300,
    seed: int = 0,
    starts: int = STARTS,
    progress: Progress | None = None,
) -> Projection:
    """Finds the recipe of the image that is nearest to `image`: pixels (H, W, C) uint8 or uint16, or a file.

    A file is decoded under guard and cut and resized to the model's size (see `note`); pixels must have it.
    label: the class; default: whichever comes nearest. steps: of Adam, split over the parts; starts: codes improved
    together at first. The same seed gives the same result. Raises ConfigError for pixels of another size or channels,
    an unknown label or impossible numbers, PictureError for a file that cannot be read.
    """
    if steps < 1 or starts < 1:
        raise ConfigError(f"{steps} steps from {starts} starts: expected at least 1 of each")
    pixels, note = fitted(generator, picture)
    goal = scaled(pixels).to(generator.device)
    code = candidates(generator, label, seed, progress)
    apart = distances(generator, code, goal)
    order = torch.argsort(apart, stable=True)[:starts]
    losses = [float(apart[order[0]])]
    best, best_loss = code[order[:1]], losses[0]
    space = Space.of(generator, code[order], seed)
    point = space.enter(code[order]).requires_grad_()
    done = 0
    for part, end in enumerate([*(round(steps * share) for share in PARTS), steps]):
        free = part == len(PARTS) and space.styled
        num_steps = end - done
        if part:  # the nearer ones go on
            found = distances(generator, space.leave(point.detach()), goal)
            order = torch.argsort(found, stable=True)[: max(1, starts // 4) if part == 1 else 1]
            point, space = point.detach()[order], space.only(order)
            point = (point.repeat(1, generator.num_depths, 1) if free else point.clone()).requires_grad_()
        optimizer = torch.optim.Adam([point], lr=RATE, betas=(0.9, 0.99))
        for step in range(num_steps):
            optimizer.param_groups[0]["lr"] = rate(step / max(1, num_steps), part)
            moved = space.leave(point)
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                apart = distance(codes.decode(generator.network, moved), goal)
            nearest = int(apart.argmin())
            if (loss := float(apart[nearest].detach())) < best_loss:
                best, best_loss = detached(moved, nearest), loss
            losses.append(best_loss)
            optimizer.zero_grad()
            (apart.sum() + space.strain(point).sum()).backward()
            optimizer.step()
            done += 1
            if progress:
                progress("approaching the picture", done, steps)
    recipe = as_recipe(best, generator.classes)
    shown = to_pixels(generator.show(resolve(generator, [recipe])), generator.info.depth)[0]
    return Projection(recipe, losses, pixels, shown, generator.hash, note)


def detached(code: Code, index: int) -> Code:
    """(1) one of the codes, with values of its own."""
    labels = None if code.labels is None else code.labels[index : index + 1].clone()
    return Code(code.latents.detach()[index : index + 1].clone(), labels)


def rate(share: float, part: int) -> float:
    """Adam's step after `share` of a part: from its start down to the end along a cosine; later parts start lower."""
    first = RATE / 2**part
    return LAST_RATE + (first - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2


# -- the image --


def fitted(generator: Generator, picture: np.ndarray | Path) -> tuple[np.ndarray, str]:
    """The image (H, W, C) as the model's size, channels and depth have it, and what was done to it."""
    config, depth = generator.info.config, generator.info.depth
    wanted = (config.height, config.width, config.channels)
    if not isinstance(picture, np.ndarray):
        path = Path(picture)
        payload = content(path)
        try:
            found = probe(payload)
            pixels = decode(payload, Target(*wanted, depth, "crop", None))
        except PictureError as error:
            raise PictureError(f"{path}: {error}") from None
        notes = []
        if (found.height, found.width) != wanted[:2]:
            notes.append(f"cut and resized from {found.height}x{found.width} to {wanted[0]}x{wanted[1]} pixels")
        if wanted[2] == 1 and found.channels == 3:
            notes.append("turned gray")
        return pixels, " and ".join(notes)
    pixels = picture[:, :, None] if picture.ndim == 2 else picture
    if pixels.shape != wanted or pixels.dtype not in (np.uint8, np.uint16):
        form = "x".join(map(str, pixels.shape))
        raise ConfigError(
            f"an image of {form} ({pixels.dtype}) came, but this model makes {'x'.join(map(str, wanted))} (height, "
            "width, channels; uint8 or uint16): cut and resize it, or give the file"
        )
    if pixels.dtype == np.uint8 and depth == 16:
        pixels = pixels.astype(np.uint16) * 257
    elif pixels.dtype == np.uint16 and depth == 8:
        pixels = (pixels / 257).round().astype(np.uint8)
    return pixels, ""


def content(path: Path) -> bytes:
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise PictureError(f"{path} has more than {LONGEST_FILE / 1e6:.0f} MB: save the image smaller")
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path} cannot be read ({error.strerror}): give an image file") from None


def scaled(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 -> (1, C, H, W) in [-1, 1]."""
    top = np.iinfo(pixels.dtype).max
    return torch.from_numpy(pixels.astype(np.float32) / (top / 2) - 1).permute(2, 0, 1)[None].contiguous()


def distance(pictures: Tensor, goal: Tensor) -> Tensor:
    """(N,) mean absolute difference of images (N, C, H, W) in [-1, 1] to the goal (1, C, H, W), over a pyramid.

    The mean over the scales 1, 1/2, 1/4 ...: the coarse ones say where to go while fine details are not yet in place.
    """
    apart, scales = torch.zeros(len(pictures), device=pictures.device), 0
    difference = pictures - goal
    while True:
        apart = apart + difference.abs().mean(dim=(1, 2, 3))
        scales += 1
        if min(difference.shape[2:]) < 2 * COARSEST:
            return apart / scales
        difference = F.avg_pool2d(difference, 2, ceil_mode=True, count_include_pad=False)


@torch.no_grad()
def distances(generator: Generator, code: Code, goal: Tensor) -> Tensor:
    """(N,) on the CPU."""
    parts = [code[i : i + BATCH] for i in range(0, len(code), BATCH)]
    return torch.cat([distance(generator.show(part).to(goal), goal).cpu() for part in parts])


# -- the codes --


def candidates(generator: Generator, label: str | None, seed: int, progress: Progress | None) -> Code:
    """Sampled codes, and the mean: of the label, or of all classes in turn."""
    num_classes = generator.info.config.num_classes
    given = generator.label_indices(label, [0]) if label is not None else None
    num = max(CANDIDATES, EACH * num_classes if given is None else 0)
    rng = np.random.default_rng((seed, 1))
    z = torch.from_numpy(rng.standard_normal((num, generator.info.config.z_dim), np.float32))
    labels = None
    if num_classes:
        labels = given.expand(num) if given is not None else torch.arange(num) % num_classes
    if progress:
        progress("comparing sampled pictures", num, num)
    calm = generator.code(z[: num // 2], None if labels is None else labels[: num // 2], CALMED)
    whole = generator.code(z[num // 2 :], None if labels is None else labels[num // 2 :])
    return codes.stack([calm, whole])


@dataclass(frozen=True, eq=False)
class Space:
    """Codes in units of their own deviation: the point 0 is the mean, and the points of samples are about N(0, 1).

    Of latents these are the latents themselves; of styles, w rotated to its principal components and whitened.
    """

    styled: bool
    mean: Tensor
    """(N, 1, D)"""
    forth: Tensor
    """(D, D) point -> code, beside the mean."""
    back: Tensor
    rows: int
    labels: Tensor | None

    @classmethod
    def of(cls, generator: Generator, code: Code, seed: int) -> Space:
        """The space around these codes (N)."""
        size = generator.info.config.z_dim
        rows = code.latents.shape[1]
        eye = torch.eye(size, device=generator.device)
        mean = torch.zeros(len(code), 1, size, device=generator.device)
        if not codes.has_styles(generator.network):
            return cls(False, mean, eye, eye, rows, code.labels)
        num_classes = generator.info.config.num_classes
        rng = np.random.default_rng((seed, 2))
        z = torch.from_numpy(rng.standard_normal((MOMENTS, size), np.float32))
        labels = torch.arange(MOMENTS) % num_classes if num_classes else None
        w = generator.code(z, labels).latents[:, 0]
        if labels is None:
            mean = mean + w.mean(dim=0)
            apart = w - w.mean(dim=0)
        else:  # each code belongs to the class whose mean is nearest; the spread is that within the classes
            means = torch.stack([w[labels == k].mean(dim=0) for k in range(num_classes)])
            apart = w - means[labels.to(w.device)]
            mean = means[torch.cdist(code.latents[:, 0], means).argmin(dim=1)][:, None]
        values, vectors = torch.linalg.eigh((apart.T @ apart / len(apart)).double().cpu())
        scales = values.clamp_min(0).sqrt()
        scales = scales.clamp_min(LEAST_SCALE * float(scales.max())).clamp_min(1e-8)
        forth = (scales[:, None] * vectors.T).float().to(generator.device)
        back = (vectors / scales).float().to(generator.device)
        return cls(True, mean, forth, back, rows, None)

    def only(self, order: Tensor) -> Space:
        """The space of some of the codes."""
        labels = None if self.labels is None else self.labels[order]
        return Space(self.styled, self.mean[order], self.forth, self.back, self.rows, labels)

    def enter(self, code: Code) -> Tensor:
        """Points (N, 1, D) of codes with equal rows."""
        return (code.latents[:, :1] - self.mean) @ self.back

    def leave(self, point: Tensor) -> Code:
        """Codes of points (N, 1 or rows, D)."""
        latents = self.mean + point @ self.forth
        return Code(latents if latents.shape[1] == self.rows else latents.expand(-1, self.rows, -1), self.labels)

    def strain(self, point: Tensor) -> Tensor:
        """(N,) how unlikely a point is: its mean square where above that of samples, and how far the rows go apart."""
        middle = point.mean(dim=1)
        excess = F.relu(middle.square().mean(dim=1) - 1)
        return (
            PRIOR * middle.square().mean(dim=1)
            + excess.square()
            + FREE_PRIOR * (point - middle[:, None]).square().mean(dim=(1, 2))
        )


# -- files --


def save(projection: Projection, out: Path) -> list[Path]:
    """Writes projection.png (the image, and the generated one), losses.png and recipe.json into the folder `out`."""
    out = Path(out)
    with files.explained(out):
        out.mkdir(parents=True, exist_ok=True)
    paths = [out / "projection.png", out / "losses.png", out / "recipe.json"]
    text = provenance(projection.model, projection.recipe.to_dict())
    save_png(paths[0], side_by_side(projection), text)
    save_png(paths[1], curve(projection.losses))
    values: dict[str, Any] = {
        "ganvas": "projection",
        "model": projection.model,
        "recipe": projection.recipe.to_dict(),
        "note": projection.note,
        "losses": [float(f"{loss:.6g}") for loss in projection.losses],
    }
    files.write_json(paths[2], values)
    return paths


def side_by_side(projection: Projection) -> np.ndarray:
    """The image on the left, the generated one on the right, each pixel enlarged to a square."""
    pair = np.stack([projection.target, projection.picture])
    times = -(-SHOWN // max(pair.shape[1:3]))
    return grid(pair.repeat(times, axis=1).repeat(times, axis=2), columns=2, gap=4)


def curve(losses: list[float]) -> np.ndarray:
    """(H, W, 3) the losses as a line over the steps, from 0 up."""
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
    pen.text((left + 6, 4), "mean absolute difference over the scales, pixels from -1 to 1", fill="black")
    pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill="#1f5fbf", width=2)
    return np.asarray(sheet)
