"""Adversarial terms and gradient penalties: plain functions on logits and pictures.

Every adversarial term maps two logit vectors (N,) to a loss per pair (N,). Penalties map a discriminator and
pictures (N, C, H, W) to the squared gradient norm per picture (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Discriminate = Callable[[Tensor, Tensor | None], Tensor]
"""(pictures, labels) -> logits (N,)."""


@dataclass(frozen=True)
class Loss:
    """The two sides of a game; each takes (real logits, fake logits) and returns a loss per pair (N,)."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-(D(x) - D(G(z)))): each real picture should look more real than its fake.

    Relativistic pairing GAN (Jolicoeur-Martineau 2018; Huang et al. 2024, R3GAN, equation 2 with
    f(t) = -log(1 + exp(-t))).
    """
    return F.softplus(fake - real)


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-(D(G(z)) - D(x))): the mirror image of the discriminator's term."""
    return F.softplus(real - fake)


LOSSES: dict[str, Loss] = {"relativistic": Loss(relativistic_discriminator, relativistic_generator)}


def generator_scale(loss: Loss, real: Tensor, fake: Tensor) -> Tensor:
    """How the discriminator's gradient at each fake picture becomes the generator's: (N,) factors.

    With logits l = D(G(z)), both networks' losses reach the picture through the same dl/dG(z) as long as no
    operation of D mixes pictures. Their gradients there differ only by (dL_G/dl) / (dL_D/dl), so one backward pass
    serves both. For the relativistic pair the factor is -exp(D(x) - D(G(z))).
    The exponent is kept within +-40, where float32 still resolves the discriminator's gradient.
    """
    real = real.detach()
    fake = fake.detach()
    fake = real + (fake - real).clamp(-40, 40)
    with torch.enable_grad():
        fake.requires_grad_()
        (to_generator,) = torch.autograd.grad(loss.generator(real, fake).sum(), fake)
        (to_discriminator,) = torch.autograd.grad(loss.discriminator(real, fake).sum(), fake)
    return to_generator / to_discriminator


def gradient_norm_exact(discriminator: Discriminate, images: Tensor, labels: Tensor | None) -> Tensor:
    """|grad_x D(x)|^2 per picture (N,) by double backward: R1 on real pictures, R2 on fakes (Mescheder et al. 2018)."""
    images = images.detach().requires_grad_()
    logits = discriminator(images, labels)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def gradient_norm_finite(
    discriminator: Discriminate,
    images: Tensor,
    labels: Tensor | None,
    direction: Tensor,
    step: float = 0.01,
) -> Tensor:
    """An unbiased estimate (as step -> 0) of |grad_x D(x)|^2 per picture (N,) without double backward.

    (D(x + s n) - D(x - s n)) / 2s along a standard normal direction n has the mean square |grad|^2. The central
    difference halves nothing but its error is O(s^2). For devices and compilers without double backward.

    step: standard deviation s of the probe, in units of the [-1, 1] range.
    direction: n, of the shape of `images`.
    """
    images = images.detach()
    there = discriminator(images + step * direction, labels)
    back = discriminator(images - step * direction, labels)
    return ((there - back) / (2 * step)).square()
