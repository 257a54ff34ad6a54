"""One training step: gradients of one batch, in micro-batches that only affect memory use.

joint: both networks are updated from one pass of the discriminator, with the weights before the step.
alternating: the discriminator is updated first, then the generator from a new pass through it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.augment import POLICIES, Draw, augment, draw, overfitting_sign
from ganvas.config import TrainConfig
from ganvas.losses import (
    LOSSES,
    Loss,
    generator_scale,
    gradient_penalty,
    view_gradient_norms,
)
from ganvas.models import (
    contract,
    generated_parts,
    generator_weights,
    heads_on_features,
    logits_of,
    parts_of,
    views_of,
)
from ganvas.models.layers import jitter
from ganvas.models.pretrained import NUM_VIEWS, ViewDiscriminator
from ganvas.training.workers import Networks, Workers

_WARMUP_STEPS = 100  # minimum steps of a warm-up
_START, START_STEPS = 0.1, 200  # start phase: fraction of the budget, and minimum number of steps
_COARSE_SHARE = 0.25  # fraction of the budget up to the end of a phase that smaller images take
_COARSE_IMAGES, _MOST_COARSE = 2_500, 0.5  # minimum images of each smaller size; maximum fraction of the budget for it
PATH_INTERVAL = 4  # steps between path-length regularisations (Karras et al. 2020)
_PATH_SHARE = 2  # it uses one of this many images, because it needs a double backward pass of the generator

Side = Literal["both", "discriminator", "generator"]
"""Networks whose gradients a pass computes."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one pass on this rank. All random numbers are drawn before, so a pass can be repeated."""

    real: Tensor
    labels: Tensor | None
    z: Tensor
    draw: Draw
    uniform: Tensor | None = None
    """(N, 3) in [0, 1): position of the gradient penalty between real and fake, and noise of the two targets."""
    features_penalty: Tensor | None = None
    """(parts,): current weights of the penalties of heads on features, for each part of the image."""
    places: Tensor | None = None
    """(N, crops, 2) in [0, 1): positions of the crops that a discriminator of large images sees."""

    def slice(self, start: int, stop: int) -> Inputs:
        labels, uniform, places = (
            None if t is None else t[start:stop] for t in (self.labels, self.uniform, self.places)
        )
        draw = self.draw.slice(start, stop)
        return Inputs(self.real[start:stop], labels, self.z[start:stop], draw, uniform, self.features_penalty, places)


@dataclass
class Stats:
    """Means over the batch, as tensors on the device."""

    real: Tensor
    """D(x): the mean logit of real images."""
    fake: Tensor
    """D(G(z))."""
    loss: Tensor
    """Adversarial loss of the discriminator, mean over its heads."""
    sign: Tensor
    """Overfitting measure of the discriminator, -1 to 1 (augment.overfitting_sign)."""
    lead: Tensor
    """(parts,): mean of tanh((D(x) - D(G(z))) / 2) over the heads on features of each part, -1 to 1."""
    r1: Tensor | None = None
    """Mean squared gradient norm at real images, at the last step with penalties."""
    r2: Tensor | None = None
    gp: Tensor | None = None
    """Mean of (gradient norm - 1)^2 between real and generated images."""


def draw_inputs(
    real: Tensor, labels: Tensor | None, place: slice, config: TrainConfig, policy: tuple[str, ...],
    probability: float | Tensor, noise: torch.Generator, features_penalty: Tensor | None = None, crops: int = 0,
) -> Inputs:  # fmt: skip
    """Draws all random numbers of a pass for the global batch and returns this rank's part `place`.

    crops: crops per image (models.crops_of).
    """
    batch, device = config.batch or 1, real.device
    z = torch.randn(batch, config.z_dim or 1, generator=noise, device=device)[place]
    numbers = draw(batch, policy, probability, noise).slice(place.start, place.stop)
    uniform = None
    if config.gradient_penalty or config.label_noise:
        uniform = torch.rand(batch, 3, generator=noise, device=device)[place]
    places = torch.rand(batch, crops, 2, generator=noise, device=device)[place] if crops else None
    return Inputs(real, labels, z, numbers, uniform, features_penalty, places)


def accumulate_gradients(
    networks: Networks,
    inputs: Inputs,
    config: TrainConfig,
    policy: tuple[str, ...],
    micro_batch: int,
    penalise: bool,
    side: Side = "both",
    measure_paths: bool = False,
    workers: Workers | None = None,
) -> Stats:
    """Adds the gradients of this batch to the `.grad` of the networks of `side`. Weights are not changed.

    penalise: include the discriminator's penalties. measure_paths: include the path-length regularisation.
    workers: threads that share the batch.
    """
    num = len(inputs.real)
    compute = {"both": _joint_gradients, "discriminator": _discriminator_gradients, "generator": _generator_gradients}
    if workers is not None:
        micro_batch = min(micro_batch, workers.part(num))

    def part_gradients(networks: Networks, start: int) -> Stats:
        part = inputs.slice(start, min(start + micro_batch, num))
        share = len(part.real) / num
        stats, real, fake = compute[side](networks, part, config, policy, share)
        if penalise and side != "generator":
            _penalty_gradients(stats, networks.plain_discriminator, real, fake, part, config, share)
        if measure_paths and config.path_length and side != "discriminator":
            path_gradients(networks.plain_generator, part, config.path_length * share)
        return stats

    starts = range(0, num, micro_batch)
    if workers is None:
        total = [part_gradients(networks, start) for start in starts]
    else:
        total = workers.run(part_gradients, starts)
    return _mean_stats(total, [min(micro_batch, num - start) / num for start in starts])


_Views = list[Tensor]
"""Inputs of the discriminator's heads for N images (models.views_of)."""


def _joint_gradients(
    networks: Networks, inputs: Inputs, config: TrainConfig, policy: tuple[str, ...], share: float
) -> tuple[Stats, _Views, _Views]:
    """Adversarial gradients of both networks from one forward pass of the discriminator.

    The generator's gradient is the discriminator's gradient at each fake view, rescaled (losses.generator_scale).
    Losses whose gradient may vanish there need a second backward pass, to the fake views only. Each head has its own
    view and is rescaled by its own logits.
    Returns the stats and the detached views of the augmented real and fake images, for the penalties.
    """
    loss = LOSSES[config.loss or ""]
    with _autocast(inputs.real.device, config.precision):
        generated = _fake_parts(networks, inputs)
        fake = [part.detach().requires_grad_() for part in generated]
        with torch.no_grad():
            real_views = _views(networks, _real_parts(networks, inputs), inputs, policy)
        fake_views = _views(networks, fake, inputs, policy)
        leaves = [view.detach().requires_grad_() for view in fake_views]
        shown = [torch.cat(pair) for pair in zip(real_views, leaves, strict=True)]
        labels = None if inputs.labels is None else torch.cat([inputs.labels, inputs.labels])
        logits = logits_of(networks.discriminator, shown, labels).float()
    real_logits, fake_logits = logits.chunk(2)
    d_loss = _discriminator_loss(loss, real_logits, fake_logits, inputs, config)
    if loss.rescales and not config.label_noise:
        (d_loss * share).backward()
        scales = generator_scale(loss, real_logits, fake_logits).unbind(1)
        weights = generator_weights(networks.plain_discriminator, len(leaves))
        to_views = []
        for leaf, scale, weight in zip(leaves, scales, weights, strict=True):
            assert leaf.grad is not None
            to_views.append(leaf.grad * _per_image(weight * scale).to(leaf))
    else:
        fake_side = fake_logits.detach().requires_grad_()
        g_loss = _generator_loss(networks, loss, real_logits.detach(), fake_side) * share
        (to_logits,) = torch.autograd.grad(g_loss, fake_side)
        to_views = [*torch.autograd.grad(fake_logits, leaves, to_logits, retain_graph=True)]
        (d_loss * share).backward(inputs=[*networks.plain_discriminator.parameters()])
    torch.autograd.backward(fake_views, to_views)
    torch.autograd.backward(generated, [part.grad for part in fake])
    return _stats_of(networks, loss, real_logits, fake_logits, d_loss), real_views, [leaf.detach() for leaf in leaves]


def _real_parts(networks: Networks, inputs: Inputs) -> list[Tensor]:
    """What the discriminator sees of the real images."""
    return parts_of(networks.plain_discriminator, inputs.real, inputs.places)


def _fake_parts(networks: Networks, inputs: Inputs) -> list[Tensor]:
    """What the discriminator sees of the generated images."""
    return generated_parts(networks.generator, networks.plain_discriminator, inputs.z, inputs.labels, inputs.places)


def _views(networks: Networks, parts: list[Tensor], inputs: Inputs, policy: tuple[str, ...]) -> _Views:
    """Views of the augmented parts."""
    parts = [augment(part, inputs.draw, policy) for part in parts]
    if isinstance(networks.plain_discriminator, ViewDiscriminator):
        parts = [jitter(part, inputs.draw.jitter) for part in parts]
    return views_of(networks.plain_discriminator, parts)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _discriminator_gradients(
    networks: Networks, inputs: Inputs, config: TrainConfig, policy: tuple[str, ...], share: float
) -> tuple[Stats, _Views, _Views]:
    """Adversarial gradient of the discriminator. Real and fake images pass separately (own batch statistics)."""
    loss = LOSSES[config.loss or ""]
    with _autocast(inputs.real.device, config.precision):
        with torch.no_grad():
            parts = _fake_parts(networks, inputs), _real_parts(networks, inputs)
            fake_views, real_views = (_views(networks, part, inputs, policy) for part in parts)
        real_logits = logits_of(networks.discriminator, real_views, inputs.labels).float()
        fake_logits = logits_of(networks.discriminator, fake_views, inputs.labels).float()
    d_loss = _discriminator_loss(loss, real_logits, fake_logits, inputs, config)
    (d_loss * share).backward()
    return _stats_of(networks, loss, real_logits, fake_logits, d_loss), real_views, fake_views


def _generator_gradients(
    networks: Networks, inputs: Inputs, config: TrainConfig, policy: tuple[str, ...], share: float
) -> tuple[Stats, _Views, _Views]:
    """Adversarial gradient of the generator through a fixed discriminator."""
    loss = LOSSES[config.loss or ""]
    with _frozen(networks.plain_discriminator), _autocast(inputs.real.device, config.precision):
        fake_views = _views(networks, _fake_parts(networks, inputs), inputs, policy)
        fake_logits = logits_of(networks.discriminator, fake_views, inputs.labels).float()
        real_logits = fake_logits.detach()
        if loss.relativistic:
            with torch.no_grad():
                real_views = _views(networks, _real_parts(networks, inputs), inputs, policy)
                real_logits = logits_of(networks.discriminator, real_views, inputs.labels).float()
        g_loss = _generator_loss(networks, loss, real_logits, fake_logits)
        (g_loss * share).backward()
    return _stats_of(networks, loss, real_logits, fake_logits, g_loss), [], []


def _generator_loss(networks: Networks, loss: Loss, real: Tensor, fake: Tensor) -> Tensor:
    """Mean over the pairs of logits (N, heads), weighted sum over heads (models.generator_weights)."""
    heads = loss.generator(real, fake).mean(dim=0).unbind()
    weights = generator_weights(networks.plain_discriminator, len(heads))
    return torch.stack([weight * head for weight, head in zip(weights, heads, strict=True)]).sum()


def _discriminator_loss(loss: Loss, real: Tensor, fake: Tensor, inputs: Inputs, config: TrainConfig) -> Tensor:
    """Mean over the pairs of logits (N, heads), summed over heads; with noisy targets if configured."""
    if not config.label_noise:
        return loss.discriminator(real, fake).mean(dim=0).sum()
    assert inputs.uniform is not None
    real_target = 1 - config.label_noise * inputs.uniform[:, 1:2]
    fake_target = -config.label_noise * inputs.uniform[:, 2:3]
    return loss.discriminator(real, fake, real_target, fake_target).mean(dim=0).sum()


def _penalty_gradients(
    stats: Stats, discriminator: nn.Module, real: _Views, fake: _Views, inputs: Inputs, config: TrainConfig,
    share: float,
) -> None:  # fmt: skip
    """Adds the gradients of all penalties, weighted by the penalty interval, and stores their values in `stats`.

    gamma/2 E|grad D|^2 at real (R1) and fake views (R2); lambda E(|grad D| - 1)^2 between real and fake images.
    """
    labels, often = inputs.labels, (config.penalty_interval or 1) * share
    stats.r1, stats.r2, stats.gp = (real[0].new_zeros(()) for _ in range(3))
    for name, gamma, views in (("r1", config.r1 or 0.0, real), ("r2", config.r2 or 0.0, fake)):
        if not (gamma or config.r1_features):
            continue
        norms = view_gradient_norms(lambda v, y: logits_of(discriminator, v, y), views, labels)
        norm = torch.stack([norm.mean() for norm in norms])
        weights = [norm.new_full((), gamma)] * len(norm)
        if inputs.features_penalty is not None:
            for i, head in enumerate(heads_on_features(discriminator, len(norm))):
                weights[head] = inputs.features_penalty[i // NUM_VIEWS].to(norm)
        (norm @ torch.stack(weights) * (often / 2)).backward()
        setattr(stats, name, norm.sum().detach())
    if config.gradient_penalty:
        assert inputs.uniform is not None
        value = gradient_penalty(discriminator, real[0], fake[0], labels, inputs.uniform[:, 0]).mean()
        (value * (config.gradient_penalty * often)).backward()
        stats.gp = value.detach()


def path_gradients(generator: contract.Generator, inputs: Inputs, weight: float) -> None:
    """Adds the gradient of the path-length regularisation (models/style.py), weighted by its interval."""
    num = max(1, len(inputs.z) // _PATH_SHARE)
    labels = None if inputs.labels is None else inputs.labels[:num]
    assert isinstance(generator, contract.StyledGenerator)
    (generator.path_length_penalty(inputs.z[:num], labels) * (weight * PATH_INTERVAL)).backward()


def _stats_of(networks: Networks, loss: Loss, real: Tensor, fake: Tensor, value: Tensor) -> Stats:
    real, fake = real.detach(), fake.detach()
    sign = overfitting_sign(real, fake, relativistic=not loss.zero)
    lead = torch.tanh((real - fake) / 2).mean(dim=0)
    heads = heads_on_features(networks.plain_discriminator, len(lead))
    # A list as index would be copied to a GPU, which waits for it.
    seen = torch.stack([lead[head] for head in heads]).view(-1, NUM_VIEWS).mean(dim=1) if heads else lead.mean()[None]
    return Stats(real.mean(), fake.mean(), value.detach() / real.shape[1], sign, seen)


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Generator[None]:
    """Disables gradients of this network's weights inside the context, to save time."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _autocast(device: torch.device, precision: str | None) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _mean_stats(parts: list[Stats], shares: list[float]) -> Stats:
    """Mean weighted by the size of the micro-batches. Penalties that were not computed stay None."""
    means: dict[str, Any] = {}
    for field in dataclasses.fields(Stats):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is not None:
            means[field.name] = sum(value * share for value, share in zip(values, shares, strict=True))
    return Stats(**means)


def learning_rate(config: TrainConfig, images_seen: int, total_images: int) -> float:
    """Learning rate of the generator: linear rise over `warmup`, then lr, from `decay_from` decay to lr * lr_end.

    The warm-up takes at least 100 steps, but at most a third of a short budget: without it the discriminator may become
    too strong at once and generated images stay black.
    """
    assert config.lr is not None and config.lr_end is not None
    assert config.warmup is not None and config.decay_from is not None
    progress = min(1.0, images_seen / max(1, total_images))
    shortest = min(_WARMUP_STEPS * (config.batch or 1) / max(1, total_images), 1 / 3) if config.warmup else 0.0
    warmup = max(config.warmup, shortest)
    rise = min(1.0, progress / warmup) if warmup else 1.0
    fall = max(0.0, progress - config.decay_from) / max(1e-9, 1 - config.decay_from)
    return config.lr * rise * (1 - (1 - config.lr_end) * fall)


def is_starting(config: TrainConfig, images_seen: int, total_images: int) -> bool:
    """True in the first tenth of the budget and for at least 200 steps. Some generators train more carefully then."""
    return images_seen < max(_START * total_images, START_STEPS * (config.batch or 1))


def phases(generator: contract.Generator, total_images: float = math.inf) -> list[tuple[tuple[int, int] | None, float]]:
    """(size of the images, fraction of the budget) of each phase of the training; None: whole images.

    Whole images take three quarters of the budget, those of the next smaller size three quarters of the rest, and so
    on. Of a short budget each smaller size takes `_COARSE_IMAGES`, but all of them at most half. A step of small images
    costs little, so that the structure of the image is learned from several times as many images in the same time
    (Karras et al. 2018, "Progressive growing").
    """
    sizes = generator.coarse_sizes
    ends = [0.0]
    for i in range(1, len(sizes) + 1):
        least = i * min(_COARSE_IMAGES / total_images, _MOST_COARSE / len(sizes))
        ends.append(max(_COARSE_SHARE ** (len(sizes) + 1 - i), least))
    return [(size, end - begin) for size, begin, end in zip([*sizes, None], ends, [*ends[1:], 1.0], strict=True)]


def coarse_size(generator: contract.Generator, images_seen: int, total_images: int) -> tuple[int, int] | None:
    """Size of the images of the current phase; None: whole images."""
    end = 0.0
    for size, share in phases(generator, total_images):
        end += share
        if images_seen < end * total_images:
            return size
    return None


def at_size(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Real images (N, C, H, W) at the size that the generator draws in this phase."""
    return images if size is None else F.interpolate(images, size=size, mode="area")


def augmentations_for(kind: str, config: TrainConfig) -> tuple[str, ...]:
    """Augmentations for training: those that are safe for this kind of image, or none."""
    return POLICIES[kind] if config.augment or config.adaptive else ()
