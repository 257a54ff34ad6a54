"""Adversarial terms and gradient penalties: plain functions on logits and images.

Every adversarial term maps two logit vectors (N,) to a loss per pair (N,). Inputs are logits; do not apply a sigmoid.
Penalties map a discriminator and images (N, C, H, W) to a value per image (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_Discriminate = Callable[[Tensor, Tensor | None], Tensor]
"""(images, labels) -> logits (N,)."""


@dataclass(frozen=True)
class Loss:
    """Losses of discriminator and generator; each takes (real logits, fake logits) and returns a loss per pair (N,).

    rescales: the discriminator's gradient at a fake image never vanishes, so it can be rescaled to the
    generator's (`generator_scale`). relativistic: depends only on differences of logits; the generator's loss needs the
    real logits. zero: a logit above 0 means real. targets: the discriminator's loss also takes the two targets
    (for label noise).
    """

    discriminator: Callable[..., Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    formulas: tuple[str, str]
    """Both losses as text, for the tests: r = D(x), f = D(G(z)), s the sigmoid, and log, exp, max."""
    rescales: bool = False
    relativistic: bool = False
    zero: bool = True
    targets: bool = False


_LogitTarget = float | Tensor


def _bce_discriminator(
    real: Tensor, fake: Tensor, real_target: _LogitTarget = 1.0, fake_target: _LogitTarget = 0.0
) -> Tensor:
    """-log s(D(x)) - log(1 - s(D(G(z)))), s the sigmoid (Goodfellow et al. 2014, equation 1), from logits.

    targets: 1 and 0, or numbers (N,) near them (label noise).
    """
    return cross_entropy(real, real_target) + cross_entropy(fake, fake_target)


def cross_entropy(logits: Tensor, target: _LogitTarget) -> Tensor:
    """-t log s(l) - (1 - t) log(1 - s(l)) = softplus(l) - t l."""
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits) + target, reduction="none")


def _bce_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(D(G(z))): the non-saturating form (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake)


def _least_squares_discriminator(
    real: Tensor, fake: Tensor, real_target: _LogitTarget = 1.0, fake_target: _LogitTarget = 0.0
) -> Tensor:
    """((D(x) - 1)^2 + D(G(z))^2) / 2 (Mao et al. 2017, equation 9)."""
    return ((real - real_target).square() + (fake - fake_target).square()) / 2


def _least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """(D(G(z)) - 1)^2 / 2."""
    return (fake - 1).square() / 2


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim and Ye 2017)."""
    return F.relu(1 - real) + F.relu(1 + fake)


def _wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x) (Arjovsky et al. 2017); needs a Lipschitz-constrained discriminator."""
    return fake - real


def _minus_logit(real: Tensor, fake: Tensor) -> Tensor:
    """-D(G(z)): the generator's side of the hinge and Wasserstein losses."""
    return -fake


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-(D(x) - D(G(z)))): each real image should get a higher logit than its fake.

    Relativistic pairing GAN (Jolicoeur-Martineau 2018; Huang et al. 2024, R3GAN, equation 2 with
    f(t) = -log(1 + exp(-t))).
    """
    return F.softplus(fake - real)


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-(D(G(z)) - D(x))): the discriminator's term with real and fake exchanged."""
    return F.softplus(real - fake)


LOSSES: dict[str, Loss] = {
    "relativistic": Loss(
        relativistic_discriminator,
        relativistic_generator,
        ("-log(s(r - f))", "-log(s(f - r))"),
        rescales=True,
        relativistic=True,
        zero=False,
    ),
    "bce": Loss(
        _bce_discriminator,
        _bce_generator,
        ("-log(s(r)) - log(1 - s(f))", "-log(s(f))"),
        rescales=True,
        targets=True,
    ),
    "least-squares": Loss(
        _least_squares_discriminator,
        _least_squares_generator,
        ("((r - 1)**2 + f**2) / 2", "(f - 1)**2 / 2"),
        zero=False,
        targets=True,
    ),
    "hinge": Loss(_hinge_discriminator, _minus_logit, ("max(1 - r, 0) + max(1 + f, 0)", "-f")),
    "wasserstein": Loss(_wasserstein_discriminator, _minus_logit, ("f - r", "-f"), rescales=True, zero=False),
}


def generator_scale(loss: Loss, real: Tensor, fake: Tensor) -> Tensor:
    """Factors (N,) that convert the discriminator's gradient at each fake image to the generator's.

    With logits l = D(G(z)), both networks' losses reach the image through the same dl/dG(z) as long as no
    operation of D mixes images. Their gradients there differ only by (dL_G/dl) / (dL_D/dl), so one backward pass
    serves both. For the relativistic pair the factor is -exp(D(x) - D(G(z))), for BCE -exp(-D(G(z))).
    The exponent is limited to +-40, where float32 still resolves the discriminator's gradient.
    """
    real = real.detach()
    fake = fake.detach()
    fake = real + (fake - real).clamp(-40, 40) if loss.relativistic else fake.clamp(-40, 40)
    with torch.enable_grad():
        fake.requires_grad_()
        (to_generator,) = torch.autograd.grad(loss.generator(real, fake).sum(), fake)
        (to_discriminator,) = torch.autograd.grad(loss.discriminator(real, fake).sum(), fake)
    return to_generator / to_discriminator


def gradient_norm_exact(discriminator: _Discriminate, images: Tensor, labels: Tensor | None) -> Tensor:
    """|grad_x D(x)|^2 per image (N,) by double backward: R1 on real images, R2 on fakes (Mescheder et al. 2018)."""
    images = images.detach().requires_grad_()
    logits = discriminator(images, labels)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def view_gradient_norms(
    logits_of: Callable[[list[Tensor], Tensor | None], Tensor], views: list[Tensor], labels: Tensor | None
) -> list[Tensor]:
    """|grad of each head's logit at its own view|^2 per image, [(N,)] by double backward.

    judge: views -> logits (N, heads), each of its own view only. R1 and R2 of a discriminator on features are
    computed at its views, not at pixels, because the frozen network is not trained.
    """
    views = [view.detach().requires_grad_() for view in views]
    gradients = torch.autograd.grad(logits_of(views, labels).sum(), views, create_graph=True)
    return [gradient.square().sum(dim=(1, 2, 3)) for gradient in gradients]


def gradient_penalty(
    discriminator: _Discriminate, real: Tensor, fake: Tensor, labels: Tensor | None, mix: Tensor
) -> Tensor:
    """(|grad D| - 1)^2 per image (N,) at a point between each real image and its fake (Gulrajani et al. 2017, WGAN-GP).

    mix: (N,) uniform in [0, 1): weight of the real image in the interpolation.
    """
    share = mix[:, None, None, None]
    between = share * real.detach() + (1 - share) * fake.detach()
    norm = (gradient_norm_exact(discriminator, between, labels) + 1e-12).sqrt()  # avoids the infinite derivative at 0
    return (norm - 1).square()
