"""Register images with possible originals: mirroring, shift, crop, rotation, tone, colour and sharpness.

An image is explained by its target with least squares: the target, its Laplacian and its square (contrast, sharpness,
tone), in colour also its chroma, the same turned by 90 degrees and times the luminance (saturation, hue). All weights
may be negative, so the negative of an image is explained as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SHIFTS = np.linspace(-0.1, 0.1, 7)  # fractions of the side
_CROPS = ((0.95, 0.02, 3), (0.9, 0.04, 3), (0.86, 0.06, 5))  # cropped fraction, largest offset, positions per side
_CLOSE_CROPS = ((0.82, 0.08, 5), (0.76, 0.12, 6), (0.71, 0.145, 7))  # not also mirrored
_ANGLES = np.radians([-10, -7, -3.5, 3.5, 7, 10])  # not also mirrored
_FURTHEST, _CLOSEST, _STEEPEST = 0.16, 0.66, 0.21  # largest offset, smallest crop, largest angle of a registration
_STEP = 0.12  # largest change in one round
_STRIP = 0.31  # fraction of the width that may come from another image: a quarter, and a margin for the blur
IDENTITY = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])


class _Differences(NamedTuple):
    """What targets do not explain of images; columns: the whole image, without its left quarter, without its right."""

    inside: Tensor
    """(N, 3) squared difference in the deciding directions."""
    outside: Tensor
    """(N, 3) squared difference in other directions."""
    whole: Tensor
    """(N, 3) energy of the image."""


def versions() -> Tensor:
    """(V, 5) moves as `_moved` takes them, the first one the identity."""
    moves = [(y, x, 1.0, 0.0) for y in _SHIFTS for x in _SHIFTS] + _crops(_CROPS)
    moves.sort(key=lambda move: abs(move[0]) + abs(move[1]) + 1 - move[2])
    single = _crops(_CLOSE_CROPS) + [(0.0, 0.0, 1.0, angle) for angle in _ANGLES]
    every = [(0.0, *move) for move in moves + single] + [(1.0, *move) for move in moves]
    return torch.tensor(every, dtype=torch.float32)


def _crops(crops: tuple[tuple[float, float, int], ...]) -> list[tuple[float, ...]]:
    places = [(kept, np.linspace(-off, off, num)) for kept, off, num in crops]
    return [(y, x, kept, 0.0) for kept, offsets in places for y in offsets for x in offsets]


def registered(images: Tensor, targets: Tensor, moves: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Register images (N, C, S, S) with their targets; return (unexplained variance (N,), 0 to 1, and moves (N, 5)).

    The moves are undone and the images explained by their targets in the area that both show. Each round solves for
    tone and move together in first order (Lucas & Kanade; Baker & Matthews 2004). The registration starts without a
    move where this explains the image better, also if a quarter at the left or right is left out.
    """
    tones, side = _tones(targets), targets.shape[-1]
    num = tones.shape[1]
    columns = torch.cat([tones, _slopes(targets)], dim=1)
    still = torch.cat([tones, images.flatten(1)[:, None]], dim=1)
    parts = _parts(still, torch.ones_like(still[:, 0]), side)
    best = torch.stack([_solved(_products(*part, side))[0] for part in parts]).amin(dim=0)
    best_moves = IDENTITY.expand(len(moves), -1)
    for done in range(rounds + 1):
        values, mask = _shown(images, moves, columns)
        products = _products(values, mask, side)
        ends = [*range(num), -1]
        left, _ = _solved(products[:, ends][:, :, ends])
        better = left < best
        best, best_moves = torch.where(better, left, best), torch.where(better[:, None], moves, best_moves)
        if done < rounds:
            _, solution = _solved(products)
            contrast = torch.where(solution[:, :1] < 0, -1, 1) * solution[:, :1].abs().clamp_min(0.05)
            moves = _changed(moves, (solution[:, num:] / contrast).clamp(-_STEP, _STEP))
    return best, best_moves


def _changed(moves: Tensor, steps: Tensor) -> Tensor:
    """Moves (N, 5) after steps (N, 4): y, x, growth, rotation in the frame of the target."""
    mirrored, places, scale, angle = moves[:, :1], moves[:, 1:3], moves[:, 3:4], moves[:, 4:]
    grown = (scale * (1 + steps[:, 2:3])).clamp(_CLOSEST, 1.0)
    places = (places + steps[:, :2] / 2) * (grown / scale)
    angle = (angle + steps[:, 3:]).clamp(-_STEEPEST, _STEEPEST)
    return torch.cat([mirrored, places.clamp(-_FURTHEST, _FURTHEST), grown, angle], dim=1)


def registration_errors(images: Tensor, targets: Tensor, moves: Tensor, directions: Tensor) -> _Differences:
    """Squared differences of moved images (N, C, S, S) from their targets, in these directions and outside them."""
    side = targets.shape[-1]
    sums = []
    for values, mask in _parts(*_shown(images, moves, _tones(targets)), side):
        rest, whole = _rest(values, mask, side)
        inside = ((rest @ directions) ** 2).sum(dim=1)
        sums.append((inside, ((rest**2).sum(dim=1) - inside).clamp_min(0), whole))
    return _Differences(*(torch.stack(part, dim=1) for part in zip(*sums, strict=True)))


def explained_by_two(images: Tensor, targets: Tensor, moves: Tensor, others: Tensor) -> Tensor:
    """(N, K): unexplained part of images (N, C, S, S) by a target and another of K images (N, K, C, S, S)."""
    values, mask = _shown(images, moves, torch.cat([_tones(targets), others.flatten(2)], dim=1))
    num, side = others.shape[1], targets.shape[-1]
    products = _products(values, mask, side)
    tones = [*range(products.shape[1] - 1 - num)]
    parts = [[*tones, len(tones) + k, -1] for k in range(num)]
    return torch.stack([_solved(products[:, part][:, :, part])[0] for part in parts], dim=1)


def _rest(values: Tensor, mask: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The last of the masked columns (N, K + 1, D) without what the others explain (N, D), and its energy (N,)."""
    values = _centred(values, mask, side)
    products = values @ values.transpose(1, 2)
    _, weights = _solved(products)
    return values[:, -1] - (weights[:, :, None] * values[:, :-1]).sum(dim=1), products[:, -1, -1].clamp_min(1e-3)


def _parts(values: Tensor, mask: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """Masked columns (N, K, D) with their mask (N, D): all, without the left quarter, without the right quarter."""
    parts = [(values, mask)]
    for cut in _cuts(side):
        keep = _without(cut, side).flatten()
        keep = keep.repeat(mask.shape[1] // keep.numel())
        parts.append((values * keep, mask * keep))
    return parts


def _cuts(side: int) -> tuple[slice, slice]:
    """Columns at the left and at the right that may come from another image."""
    return slice(None, round(_STRIP * side)), slice(-round(_STRIP * side), None)


def _without(cut: slice, side: int) -> Tensor:
    """(S, S): 0 in these columns, otherwise 1."""
    keep = torch.ones((side, side))
    keep[:, cut] = 0
    return keep


# ---- least squares ----


def _tones(targets: Tensor) -> Tensor:
    """(N, 3 or 6, D): columns that model changes of tone, sharpness and colour, see the module.

    The first channel is the luminance; others are chroma.
    """
    luminance = torch.zeros_like(targets)
    luminance[:, :1] = targets[:, :1]
    wide = F.pad(targets, (1, 1, 1, 1), mode="replicate")
    rows = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    blurred = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
    columns = [luminance, blurred - targets, luminance**2]
    if targets.shape[1] == 3:
        none, first, second = torch.zeros_like(targets[:, 0]), targets[:, 1], targets[:, 2]
        chroma = targets - luminance
        columns += [chroma, torch.stack([none, -second, first], dim=1), chroma * targets[:, :1]]
    return torch.stack(columns, dim=1).flatten(2)


def _slopes(targets: Tensor) -> Tensor:
    """(N, 4, D): derivatives of the luminance for moves down, right, towards the centre (in half sides), and turns."""
    wide, side = F.pad(targets[:, :1], (1, 1, 1, 1), mode="replicate"), targets.shape[-1]
    y = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) * (side / 4)
    x = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) * (side / 4)
    places = (torch.arange(side) + 0.5) / side * 2 - 1
    columns = torch.stack([y, x, places[:, None] * y + places * x, places * y - places[:, None] * x], dim=1)
    return F.pad(columns.flatten(2), (0, (targets.shape[1] - 1) * side * side))


def _shown(images: Tensor, moves: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """(columns followed by the moved images (N, K + 1, D), 0 outside the visible area; its mask (N, D))."""
    moved, inside = _moved(images, moves)
    mask = inside.flatten(1).repeat(1, images.shape[1])
    return torch.cat([columns, moved.flatten(1)[:, None]], dim=1) * mask[:, None], mask


def _centred(values: Tensor, mask: Tensor, side: int) -> Tensor:
    """Masked columns (N, K, D) without the means of their luminance."""
    size = side * side
    means = values[:, :, :size].sum(dim=2, keepdim=True) / mask[:, None, :size].sum(dim=2, keepdim=True)
    return torch.cat([(values[:, :, :size] - means) * mask[:, None, :size], values[:, :, size:]], dim=2)


def _products(values: Tensor, mask: Tensor, side: int) -> Tensor:
    """Products (N, K, K) of masked columns (N, K, D), each without the mean of its luminance."""
    size = side * side
    sums = values[:, :, :size].sum(dim=2)
    counts = mask[:, :size].sum(dim=1)[:, None, None]
    return values @ values.transpose(1, 2) - sums[:, :, None] * sums[:, None] / counts


def _solved(products: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of the last column by the others, from their products (N, K + 1, K + 1).

    Returns (unexplained fraction (N,), weights (N, K)).
    """
    normal, right = products[:, :-1, :-1], products[:, :-1, -1]
    ridge = 1e-4 * normal.diagonal(dim1=1, dim2=2) + 1e-3
    weights = torch.linalg.solve(normal + torch.diag_embed(ridge), right)
    left = 1 - (weights * right).sum(dim=1) / products[:, -1, -1].clamp_min(1e-3)
    return left.clamp(0, 1), weights


# ---- moves ----


def moving(moves: Tensor, directions: Tensor) -> Tensor:
    """(S * S, (V + 2) * num): apply each of V moves to a thumbnail of one channel, then project it on directions.

    directions: (S * S, num). The last two do not move it, but leave out the left and the right quarter. Missing pixels
    are replaced by the mean of the others.
    """
    size = len(directions)
    side = round(size**0.5)
    pixels = torch.eye(size).view(1, size, side, side)  # as channels: they share the computation of each move
    shown = [_moved(pixels, move[None]) for move in moves]
    shown += [(pixels, _without(cut, side)) for cut in _cuts(side)]
    maps = []
    for moved, inside in shown:
        mask = inside.reshape(1, size)
        moved = moved.reshape(size, size) * mask
        maps.append((moved - moved.sum(dim=1, keepdim=True) / mask.sum() * mask) @ directions)
    return torch.stack(maps, dim=1).flatten(1)


def _moved(images: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Undo moves of images: (N, C, S, S), and the mask of their visible area (N, S, S).

    moves (N, 5): 1 if mirrored (applied first); y and x of the centre as fractions of the side; fraction of the side
    that is visible; angle in radians.
    """
    mirrored, y, x, scale, angle = moves[:, :, None, None].unbind(dim=1)
    height, width = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in images.shape[2:])
    down, right = (height[:, None] - 2 * y) / scale, (width - 2 * x) / scale
    cosine, sine = angle.cos(), angle.sin()
    rows = cosine * down - sine * right
    columns = (1 - 2 * mirrored) * (cosine * right + sine * down)
    inside = ((rows.abs() <= 1) & (columns.abs() <= 1)).float()
    return F.grid_sample(
        images, torch.stack([columns, rows], dim=3), padding_mode="border", align_corners=False
    ), inside


def areas(moves: Tensor, side: int) -> Tensor:
    """(V + 2, side * side): 1 where each of V moves, and the images without a quarter of `moving`, show the target."""
    shown = _moved(torch.ones((len(moves), 1, side, side)), moves)[1]
    return torch.cat([shown, torch.stack([_without(cut, side) for cut in _cuts(side)])]).flatten(1)


def move_in_words(move: list[float]) -> str:
    """A move, "" for none: "mirrored, shifted"."""
    mirrored, y, x, scale, angle = move
    cropped, shifted = scale < 0.97, max(abs(y), abs(x)) > 0.02
    names = {"mirrored": mirrored > 0, "cropped": cropped, "rotated": abs(angle) > 0.03}
    return ", ".join([name for name, done in names.items() if done] + ["shifted"] * (shifted and not cropped))
