"""Fits the latents of a generator to the training images: of given weights before the first step, and once later.

Given weights draw images of several kinds, each from its own region of the latents. Without the fit, thousands of
training images are spent on kinds that the data do not contain. Halfway through training, some regions still give
images with errors; training goes on with the latents of the other regions (RESULTS.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ganvas.data.batches import images_at, spaced
from ganvas.models.contract import Generator
from ganvas.models.pretrained import ViewDiscriminator
from ganvas.system.device import agree
from ganvas.training.clock import total_images
from ganvas.training.state import TrainState
from ganvas.training.step import at_size

_AGAIN = 0.5  # fraction of the budget after which the latents are fitted again
_DIVERSE = 0.85  # minimum diversity before and after that, relative to real images, because the fit reduces it
_ROUNDS = 3
_MOST, _LEAST = 1000, 50  # training images, and generated images of a round; fewer than `_LEAST` decide nothing
_SHARE = 0.03  # maximum fraction of the budget
_FASTER = 8  # images described in the time of one training image
_NEIGHBOURS = 3  # generated images that each training image selects
_HEAVIEST = 5  # maximum weight of a generated image; without it, a few that resemble everything would decide
_EPS = 1e-6
_SEED = 0
_BLOCK = 50  # images of a pass


def fit_latents(state: TrainState, say: Callable[[str], None]) -> None:
    """Changes given weights so that images of standard normal latents resemble the training images.

    In each round, each training image selects the most similar generated images, by features of the pretrained network.
    The next round draws latents from the normal distribution with the mean and covariance of the selected ones. If only
    few different images are selected, both change only in part.

    The time counts as training, and is at most 3% of the budget. Networks that do not support it are not changed.
    say: shows a line of text.
    """
    began = time.monotonic()
    _fit(state, state.generator, next(iter(state.generator.coarse_sizes), None), 0.0, say)
    state.seconds += time.monotonic() - began


def fit_latents_again(state: TrainState, say: Callable[[str], None]) -> None:
    """The same after half of the budget, with the averaged weights, as long as their images stay diverse.

    Not with labels: it would reduce the diversity within a class (RESULTS.md, CIFAR-10).
    """
    if state.fitted_again or state.images_seen < _AGAIN * state.total_images:
        return
    state.fitted_again = 1
    if state.labels_in_turn is not None:
        return
    average = state.ema.average
    _fit(state, average, average.coarse_sizes[-1] if average.draws_windows else None, _DIVERSE, say)


@torch.no_grad()
def _fit(
    state: TrainState, generator: Generator, size: tuple[int, int] | None, diverse: float, say: Callable[[str], None]
) -> None:
    """Fits the latents of `generator`, and changes the trained generator and all averages in the same way.

    size: of the images that it draws; None: whole ones. diverse: minimum variance of their features, relative to that
    of real images; a round after which it is lower does not count.
    """
    if not (generator.moves_latents and isinstance(state.discriminator, ViewDiscriminator)):
        return
    training, z_dim = generator.training, state.model.z_dim
    state.measure(generator)
    generator.coarse = size
    if (num := _affordable(state, generator)) >= _LEAST:
        say("fitting the latents to the training images")
        mean, covariance = _fitted(state, generator, num, diverse)
        found = torch.cat([mean[None], torch.linalg.cholesky(covariance)])
        found = torch.tensor(agree(found.flatten().tolist()), device=state.device).view(1 + z_dim, z_dim).float()
        for network in (state.generator, *state.averages):
            network.move_latents(found[0], found[1:])
    generator.coarse = None
    generator.train(training)


def _fitted(state: TrainState, generator: Generator, num: int, diverse: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the latents after the last round that counts. num: as from `_affordable`."""
    real, z_dim = _described_real(state, num), state.model.z_dim
    noise = torch.Generator().manual_seed(_SEED)
    mean, covariance = kept = torch.zeros(z_dim), torch.eye(z_dim)
    for i in range(_ROUNDS + 1):
        if i == _ROUNDS and not diverse:
            return mean, covariance
        z = mean + torch.randn(num, z_dim, generator=noise) @ torch.linalg.cholesky(covariance).T
        generated = _described_generated(state, generator, z)
        if _diversity(real, generated) < diverse:
            break
        kept = mean, covariance
        weights = _selected(real, generated).cpu()
        trust = 1 / (1 + z_dim * float(weights.square().sum()))  # from the effective number of selected images
        centred = z - weights @ z
        mean = mean + trust * (weights @ z - mean)
        covariance = covariance + trust * ((weights[:, None] * centred).T @ centred - covariance)
    return kept


def _affordable(state: TrainState, generator: Generator) -> int:
    """Number of training images, and of generated images of a round."""
    total = total_images(state.config, state.batches.pack.num_training)
    if total is not None:
        passes = total * _SHARE * _FASTER
    else:
        began = time.monotonic()
        _described_real(state, _BLOCK)
        _described_generated(state, generator, torch.zeros(_BLOCK, state.model.z_dim))
        seconds = (time.monotonic() - began) / (2 * _BLOCK)
        passes = (state.config.minutes or 0) * 60 * _SHARE / seconds
    return int(agree([min(_MOST, passes / (2 + _ROUNDS))])[0])


def _described_real(state: TrainState, num: int) -> Tensor:
    """Features (num, K) of training images; fewer if there are fewer."""
    pack, rows = state.batches.pack, []
    for indices in torch.from_numpy(spaced(pack.training, num)).split(_BLOCK):
        rows.append(_described(state, images_at(pack, indices.numpy()).to(state.device)))
    return torch.cat(rows)


def _described_generated(state: TrainState, generator: Generator, z: Tensor) -> Tensor:
    """Features (N, K) of the images of latents (N, z_dim) on the CPU, with all labels in turn."""
    labels, rows = state.labels_in_turn, []
    for i in torch.arange(len(z)).split(_BLOCK):
        given = None if labels is None else labels[i % len(labels)].to(state.device)
        rows.append(_described(state, generator(z[i].to(state.device), given)))
    return torch.cat(rows)


def _described(state: TrainState, images: Tensor) -> Tensor:
    """Features (N, K) of images, at the size that training begins with."""
    assert isinstance(state.discriminator, ViewDiscriminator)
    return state.discriminator.described(at_size(images, next(iter(state.generator.coarse_sizes), None)))


def _selected(real: Tensor, generated: Tensor) -> Tensor:
    """Weights (N,) of generated images, sum 1, from how many real images each is among the nearest of."""
    scale = _scale(real, generated)
    nearest = torch.cdist(real / scale, generated / scale).topk(_NEIGHBOURS, largest=False).indices
    counts = torch.bincount(nearest.flatten(), minlength=len(generated)).float().clamp(max=_HEAVIEST)
    return counts / counts.sum()


def _diversity(real: Tensor, generated: Tensor) -> float:
    """Variance of the features of generated images, relative to that of real images."""
    scale = _scale(real, generated)
    return float((generated / scale).var(dim=0).mean() / (real / scale).var(dim=0).mean())


def _scale(real: Tensor, generated: Tensor) -> Tensor:
    """(K,): the standard deviation of each feature, to divide by."""
    return torch.cat([real, generated]).std(dim=0) + _EPS
