"""One training step: gradients of both networks for one batch, in micro-batches that change nothing but memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganvas.augment import POLICIES, Draw, augment
from ganvas.config import TrainConfig
from ganvas.losses import LOSSES, generator_scale, gradient_norm_exact, gradient_norm_finite

WARMUP_STEPS = 100  # at least, where a warm-up is asked for
START, START_STEPS = 0.1, 200  # part of the budget, and steps at least, that count as the start


@dataclass(frozen=True)
class Inputs:
    """What one step consumes on this rank: everything random is drawn before, so a step can be done again."""

    real: Tensor
    labels: Tensor | None
    z: Tensor
    draw: Draw
    direction: Tensor | None = None
    """Where a finite-difference penalty looks; of the shape of `real`."""

    def slice(self, start: int, stop: int) -> Inputs:
        labels, direction = (None if t is None else t[start:stop] for t in (self.labels, self.direction))
        return Inputs(self.real[start:stop], labels, self.z[start:stop], self.draw.slice(start, stop), direction)


@dataclass(frozen=True)
class Networks:
    """The two networks as they are called (compiled, where that pays), and the plain discriminator.

    Penalties need the plain one: a compiled network cannot be differentiated twice.
    """

    generator: Callable[..., Tensor]
    discriminator: Callable[..., Tensor]
    plain_discriminator: nn.Module


@dataclass
class Stats:
    """Means over the batch, kept on the device until somebody asks."""

    real: Tensor
    """D(x): the mean logit of real pictures."""
    fake: Tensor
    """D(G(z))."""
    loss: Tensor
    """The discriminator's adversarial loss."""
    r1: Tensor | None = None
    """Mean squared gradient norm at real pictures, at the last step with penalties."""
    r2: Tensor | None = None


def accumulate_gradients(
    networks: Networks,
    inputs: Inputs,
    config: TrainConfig,
    policy: tuple[str, ...],
    micro_batch: int,
    penalise: bool,
) -> Stats:
    """Adds this batch's gradients to both networks' `.grad`. The networks themselves are not changed."""
    num = len(inputs.real)
    plain = networks.plain_discriminator
    total: list[Stats] = []
    for start in range(0, num, micro_batch):
        part = inputs.slice(start, min(start + micro_batch, num))
        share = len(part.real) / num
        stats, real, fake = adversarial_gradients(networks, part, config, policy, share)
        if penalise:
            stats.r1 = penalty_gradients(plain, real, part, config, config.r1 or 0.0, share)
            stats.r2 = penalty_gradients(plain, fake, part, config, config.r2 or 0.0, share)
        total.append(stats)
    return mean_stats(total, [min(micro_batch, num - start) / num for start in range(0, num, micro_batch)])


def adversarial_gradients(
    networks: Networks,
    inputs: Inputs,
    config: TrainConfig,
    policy: tuple[str, ...],
    share: float,
) -> tuple[Stats, Tensor, Tensor]:
    """Both networks' adversarial gradients from one forward and one backward pass of the discriminator.

    The discriminator's gradient at every fake picture, rescaled (losses.generator_scale), is the generator's.
    Returns the stats and the augmented real and fake pictures (detached) for the penalties.
    """
    loss = LOSSES[config.loss]
    with autocast(inputs.real.device, config.precision):
        pictures = networks.generator(inputs.z, inputs.labels)
        fake = pictures.detach().requires_grad_()
        shown = torch.cat([augment(inputs.real, inputs.draw, policy), augment(fake, inputs.draw, policy)])
        labels = None if inputs.labels is None else inputs.labels.repeat(2)
        logits = networks.discriminator(shown, labels).float()
    real_logits, fake_logits = logits.chunk(2)
    d_loss = loss.discriminator(real_logits, fake_logits).mean()
    (d_loss * share).backward()
    assert fake.grad is not None
    scale = generator_scale(loss, real_logits, fake_logits)
    pictures.backward(fake.grad * scale[:, None, None, None].to(fake.grad.dtype))
    stats = Stats(real_logits.detach().mean(), fake_logits.detach().mean(), d_loss.detach())
    real_shown, fake_shown = shown.detach().chunk(2)
    return stats, real_shown, fake_shown


def penalty_gradients(
    discriminator: nn.Module,
    images: Tensor,
    inputs: Inputs,
    config: TrainConfig,
    gamma: float,
    share: float,
) -> Tensor:
    """Adds the gradient of gamma/2 E|grad D|^2, times the interval for the steps without; returns E|grad D|^2."""
    if gamma == 0:
        return images.new_zeros(())
    if inputs.direction is None:
        norm = gradient_norm_exact(discriminator, images, inputs.labels).mean()
    else:
        norm = gradient_norm_finite(discriminator, images, inputs.labels, inputs.direction).mean()
    (norm * (gamma / 2 * (config.penalty_interval or 1) * share)).backward()
    return norm.detach()


def autocast(device: torch.device, precision: str | None) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def mean_stats(parts: list[Stats], shares: list[float]) -> Stats:
    """Weighted by the micro-batches' shares; penalties that were not computed stay None."""
    means: dict[str, Any] = {}
    for field in dataclasses.fields(Stats):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is not None:
            means[field.name] = sum(value * share for value, share in zip(values, shares, strict=True))
    return Stats(**means)


def learning_rate(config: TrainConfig, images_seen: int, total_images: int) -> float:
    """Adam's rate: a linear rise over `warmup`, then lr, then from `decay_from` a linear fall to lr * lr_end.

    A short budget still rises over 100 steps where that is no more than a third of it: without a gentle start the
    discriminator may win at once, and the generator stays black.
    """
    assert config.lr is not None and config.lr_end is not None
    progress = min(1.0, images_seen / max(1, total_images))
    shortest = min(WARMUP_STEPS * (config.batch or 1) / max(1, total_images), 1 / 3) if config.warmup else 0.0
    warmup = max(config.warmup, shortest)
    rise = min(1.0, progress / warmup) if warmup else 1.0
    fall = max(0.0, progress - config.decay_from) / max(1e-9, 1 - config.decay_from)
    return config.lr * rise * (1 - (1 - config.lr_end) * fall)


def is_starting(config: TrainConfig, images_seen: int, total_images: int) -> bool:
    """True in the first tenth of the budget, and for 200 steps at least: a generator may then train more carefully."""
    return images_seen < max(START * total_images, START_STEPS * (config.batch or 1))


def policy_for(kind: str, config: TrainConfig) -> tuple[str, ...]:
    """The augmentations that training uses: those harmless for this kind of picture, or none."""
    return POLICIES[kind] if config.augment else ()
