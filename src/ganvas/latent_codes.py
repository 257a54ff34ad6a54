"""Latent codes: one latent per layer of a generator, in one format for all architectures, for style mixing.

A code has one row of numbers per layer (one layer per resolution, coarse to fine). In networks with a style space
(`mapping` and `synthesis`) row k is the style of layer k. Other networks have one input latent, row 0; row 1 + k is a
second latent whose image provides the style of layer k: the mean and deviation of each feature map (adaptive instance
normalisation: Huang and Belongie 2017, equation 8). If all rows are equal, no style is replaced.

Codes include truncation. They can be edited, averaged and interpolated row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ganvas.models.contract import Generator, StyledGenerator

_TINY = 1e-5  # avoids division by zero


@dataclass(frozen=True)
class Code:
    """latents (N, rows, D); labels (N, rows, K), class weights or conditions; None if the latents include them."""

    latents: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: Any) -> Code:
        return Code(self.latents[index], None if self.labels is None else self.labels[index])

    def to(self, device: torch.device) -> Code:
        return Code(self.latents.to(device), None if self.labels is None else self.labels.to(device))


def stack(codes: Sequence[Code]) -> Code:
    """Concatenate codes."""
    labels = [code.labels for code in codes if code.labels is not None]
    return Code(torch.cat([code.latents for code in codes]), torch.cat(labels) if labels else None)


def has_styles(network: Generator) -> TypeGuard[StyledGenerator]:
    """Whether the network has a style space w with one style per layer."""
    return isinstance(network, StyledGenerator)


def num_depths(network: Generator) -> int:
    return len(network.depths)


def encode(network: Generator, z: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Code:
    """Latents z (N, D) and labels (`Generator.labels_of`) -> codes with equal rows.

    truncation: 1 = full diversity, 0 = mean style of the class, or latent 0.
    """
    if has_styles(network):
        code = Code(network.mapping(z, labels)[:, None].expand(-1, num_depths(network), -1).clone())
    else:
        rows = 1 + num_depths(network)
        latents = z[:, None].expand(-1, rows, -1).clone()
        code = Code(latents, None if labels is None else labels[:, None].expand(-1, rows, -1).clone())
    return code if truncation == 1 else truncated(network, code, labels, truncation)


def truncated(network: Generator, code: Code, labels: Tensor | None, amount: float) -> Code:
    """Codes (N) of images with these labels, moved to their mean: 1 = unchanged, 0 = the mean. See `encode`."""
    if has_styles(network):
        return Code(torch.lerp(network.mean_w(labels)[:, None], code.latents, amount))
    return Code(code.latents * amount, code.labels)


def row_slice(network: Generator, depth: int) -> int:
    """The row that controls the layer `depth`."""
    return depth if has_styles(network) else 1 + depth


def mix(network: Generator, code: Code, other: Code, depths: Sequence[int]) -> Code:
    """`code` (N) with the layers `depths` of `other` (N)."""
    rows = [row_slice(network, depth) for depth in depths]
    latents, labels = code.latents.clone(), None if code.labels is None else code.labels.clone()
    latents[:, rows] = other.latents[:, rows]
    if labels is not None and other.labels is not None:
        labels[:, rows] = other.labels[:, rows]
    return Code(latents, labels)


def between(network: Generator, code: Code, other: Code, share: Tensor) -> Code:
    """Interpolate from `code` (share 0) to `other` (share 1), share (N,): styles linearly, latents spherically.

    Linear interpolation of latents gives short latents, which are rare in training (White 2016).
    """
    t = share[:, None, None].to(code.latents)
    way = torch.lerp if has_styles(network) else slerp
    labels = None if code.labels is None or other.labels is None else torch.lerp(code.labels, other.labels, t)
    return Code(way(code.latents, other.latents, t), labels)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation from a (..., D) to b, t (..., 1); lengths linearly (Shoemake 1985)."""
    long_a, long_b = (x.norm(dim=-1, keepdim=True).clamp_min(_TINY) for x in (a, b))
    cosine = ((a / long_a) * (b / long_b)).sum(dim=-1, keepdim=True).clamp(-1, 1)
    straight = torch.acos(cosine.detach()).sin() < 1e-3  # (nearly) equal or opposite directions: interpolate linearly
    angle = torch.acos(torch.where(straight, 0.0, cosine))  # the derivative at 1 and -1 is infinite
    sine = torch.sin(angle)
    on_circle = torch.sin((1 - t) * angle) / sine * (a / long_a) + torch.sin(t * angle) / sine * (b / long_b)
    return torch.where(straight, torch.lerp(a, b, t), on_circle * torch.lerp(long_a, long_b, t))


def decode(network: Generator, code: Code) -> Tensor:
    """Codes (N) -> images (N, C, H, W) in [-1, 1], differentiable in the code."""
    if has_styles(network):
        return network.synthesise(code.latents)
    lends = differs(code).any(dim=1)
    if not bool(lends.any()):
        return _plain(network, code, 0)
    if bool(lends.all()):
        return _with_lent(network, code)
    alone, lent = (~lends).nonzero().flatten(), lends.nonzero().flatten()
    images = torch.cat([_plain(network, code[alone], 0), _with_lent(network, code[lent])])
    return images[torch.cat([alone, lent]).argsort()]


def differs(code: Code) -> Tensor:
    """(N, rows - 1): which rows differ from the first row."""
    different = (code.latents[:, 1:] != code.latents[:, :1]).any(dim=2)
    if code.labels is not None:
        different = different | (code.labels[:, 1:] != code.labels[:, :1]).any(dim=2)
    return different


def _plain(network: Generator, code: Code, row: int) -> Tensor:
    return network(code.latents[:, row], None if code.labels is None else code.labels[:, row])


def _with_lent(network: Generator, code: Code) -> Tensor:
    """One pass over the images followed by the images that provide styles, which are transferred at each layer."""
    rows = [0]  # distinct rows, first the images themselves
    lender: dict[int, int] = {}  # layer -> index in `rows`
    lends = differs(code)
    for depth in lends.any(dim=0).nonzero().flatten().tolist():
        same = (place for place, row in enumerate(rows[1:], 1) if _equal(code, row, 1 + depth))
        lender[depth] = next(same, len(rows))
        if lender[depth] == len(rows):
            rows.append(1 + depth)

    def lend(depth: int) -> Any:
        def hook(_: nn.Module, __: object, features: Tensor) -> Tensor:
            parts = list(features.chunk(len(rows)))
            lent = as_other(parts[0], parts[lender[depth]])
            # Images without a new style at this layer stay unchanged, independent of others in the batch.
            parts[0] = torch.where(lends[:, depth].view(-1, *[1] * (lent.ndim - 1)), lent, parts[0])
            return torch.cat(parts)

        return hook

    modules = network.depths
    handles = [modules[depth].register_forward_hook(lend(depth)) for depth in lender]
    try:
        labels = None if code.labels is None else torch.cat([code.labels[:, row] for row in rows])
        return network(torch.cat([code.latents[:, row] for row in rows]), labels)[: len(code)]
    finally:
        for handle in handles:
            handle.remove()


def _equal(code: Code, row: int, other: int) -> bool:
    same = torch.equal(code.latents[:, row], code.latents[:, other])
    return same and (code.labels is None or torch.equal(code.labels[:, row], code.labels[:, other]))


def as_other(x: Tensor, other: Tensor) -> Tensor:
    """x (N, C, H, W) with the mean and deviation of each feature map of `other`.

    Features (N, C) of a perceptron have no spatial layout; they are averaged.
    """
    if x.ndim == 2:
        return (x + other) / 2
    (deviation, mean), (new_deviation, new_mean) = (
        ((y.var(dim=(2, 3), keepdim=True, correction=0) + _TINY).sqrt(), y.mean(dim=(2, 3), keepdim=True))
        for y in (x, other)
    )
    return (x - mean) / deviation * new_deviation + new_mean
