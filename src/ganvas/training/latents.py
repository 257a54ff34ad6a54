"""Fits the latents of given weights to the training images, before the first step.

Given weights draw images of several kinds, each from its own region of the latents. Without the fit, thousands of
training images are spent on kinds that the data do not contain (RESULTS.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ganvas.data.batches import images_at, spaced
from ganvas.models.pretrained import ViewDiscriminator
from ganvas.system.device import agree
from ganvas.training.clock import total_images
from ganvas.training.state import TrainState
from ganvas.training.step import at_size

_ROUNDS = 3
_MOST, _LEAST = 1000, 50  # training images, and generated images of a round; fewer than `_LEAST` decide nothing
_SHARE = 0.03  # maximum fraction of the budget
_FASTER = 8  # images described in the time of one training image
_NEIGHBOURS = 3  # generated images that each training image selects
_HEAVIEST = 5  # maximum weight of a generated image; without it, a few that resemble everything would decide
_EPS = 1e-6
_SEED = 0
_BLOCK = 50  # images of a pass


@torch.no_grad()
def fit_latents(state: TrainState, say: Callable[[str], None]) -> None:
    """Changes the generator and its averages so that images of standard normal latents resemble the training images.

    In each round, each training image selects the most similar generated images, by features of the pretrained network.
    The next round draws latents from the normal distribution with the mean and covariance of the selected ones. If only
    few different images are selected, both change only in part.

    The time counts as training, and is at most 3% of the budget. Networks that do not support it are not changed.
    say: shows a line of text.
    """
    generator, device = state.generator, state.device
    if not (generator.moves_latents and isinstance(state.discriminator, ViewDiscriminator)):
        return
    began, z_dim = time.monotonic(), state.model.z_dim
    state.measure(generator)
    generator.coarse = next(iter(generator.coarse_sizes), None)
    if (num := _affordable(state)) >= _LEAST:
        say("  fitting the latents of these weights to the training images")
        real = _described_real(state, num)
        noise = torch.Generator().manual_seed(_SEED)
        mean, covariance = torch.zeros(z_dim), torch.eye(z_dim)
        for _ in range(_ROUNDS):
            z = mean + torch.randn(num, z_dim, generator=noise) @ torch.linalg.cholesky(covariance).T
            weights = _selected(real, _described_generated(state, z)).cpu()
            trust = 1 / (1 + z_dim * float(weights.square().sum()))  # from the effective number of selected images
            centred = z - weights @ z
            mean += trust * (weights @ z - mean)
            covariance += trust * ((weights[:, None] * centred).T @ centred - covariance)
        found = torch.cat([mean[None], torch.linalg.cholesky(covariance)])
        found = torch.tensor(agree(found.flatten().tolist()), device=device).view(1 + z_dim, z_dim).float()
        generator.move_latents(found[0], found[1:])
        for average in state.averages:
            average.load_state_dict(generator.state_dict())
    generator.coarse = None
    generator.train()
    state.seconds += time.monotonic() - began


def _affordable(state: TrainState) -> int:
    """Number of training images, and of generated images of a round."""
    total = total_images(state.config, state.batches.pack.num_training)
    if total is not None:
        passes = total * _SHARE * _FASTER
    else:
        began = time.monotonic()
        _described_real(state, _BLOCK)
        _described_generated(state, torch.zeros(_BLOCK, state.model.z_dim))
        seconds = (time.monotonic() - began) / (2 * _BLOCK)
        passes = (state.config.minutes or 0) * 60 * _SHARE / seconds
    return int(agree([min(_MOST, passes / (1 + _ROUNDS))])[0])


def _described_real(state: TrainState, num: int) -> Tensor:
    """Features (num, K) of training images at the size that the generator draws now; fewer if there are fewer."""
    pack, rows = state.batches.pack, []
    for indices in torch.from_numpy(spaced(pack.training, num)).split(_BLOCK):
        images = images_at(pack, indices.numpy()).to(state.device)
        rows.append(_describe(state, at_size(images, state.generator.coarse)))
    return torch.cat(rows)


def _described_generated(state: TrainState, z: Tensor) -> Tensor:
    """Features (N, K) of the images of latents (N, z_dim) on the CPU, with all labels in turn."""
    labels, rows = state.labels_in_turn, []
    for i in torch.arange(len(z)).split(_BLOCK):
        given = None if labels is None else labels[i % len(labels)].to(state.device)
        rows.append(_describe(state, state.generator(z[i].to(state.device), given)))
    return torch.cat(rows)


def _describe(state: TrainState, images: Tensor) -> Tensor:
    assert isinstance(state.discriminator, ViewDiscriminator)
    return state.discriminator.described(images)


def _selected(real: Tensor, generated: Tensor) -> Tensor:
    """Weights (N,) of generated images, sum 1, from how many real images each is among the nearest of."""
    scale = torch.cat([real, generated]).std(dim=0) + _EPS
    nearest = torch.cdist(real / scale, generated / scale).topk(_NEIGHBOURS, largest=False).indices
    counts = torch.bincount(nearest.flatten(), minlength=len(generated)).float().clamp(max=_HEAVIEST)
    return counts / counts.sum()
