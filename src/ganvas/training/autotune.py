"""Chooses how CPU threads share the work, from a measurement at the start of training."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch

from ganvas.config import TrainConfig
from ganvas.data.batches import images_at, spaced
from ganvas.errors import ConfigError
from ganvas.model_file import labels_in_turn
from ganvas.models import crops_of
from ganvas.models.batch_norm import GROUP
from ganvas.system.device import world_size
from ganvas.training.state import TrainState
from ganvas.training.step import accumulate_gradients, at_size, augmentations_for, draw_inputs, phases
from ganvas.training.workers import Networks, Workers

LEAST_MINUTES = 1.0  # minimum budget for a measurement
_ROUNDS = 3  # timed passes per turn; the median counts, since the speed of a shared machine varies
_TURNS, _TURNS_MINUTES = 3, 5.0  # turns per candidate, alternating; minimum budget for more than one turn
RECOGNISABLE = 10_000  # images seen for recognisable results with discriminators on features (RESULTS.md)
SLOW = 3.0  # seconds; slower passes are timed only once
_OVERHEAD = 1.1  # factor for updates, averages, previews and checkpoints
AGREEMENT = 1e-3  # maximum relative difference between the gradients of the candidates


def choose_workers(
    state: TrainState, networks: Networks, config: TrainConfig, kind: str, say: Callable[[str], None]
) -> float | None:
    """Sets `state.workers`, once per run, and prints how many images fit in the budget on this machine.

    Returns the measured speed in images per second, None if nothing was measured.

    Uses the requested number, or the faster of two ways: threads that share each operation, or threads that share the
    batch. Without a budget of at least a minute nothing is measured. Raises `ConfigError` for more workers than can
    share a batch.
    """
    num = most_workers(state, config)
    if config.workers is not None and config.workers > num:
        raise ConfigError(f"--workers {config.workers}: expected at most {num} for a batch of {config.batch} here")
    state.workers = config.workers or min(state.workers, num)  # a resumed run may be on another machine
    measures = (config.minutes or 0.0) >= LEAST_MINUTES and state.images_seen == 0
    if not measures:
        state.workers = state.workers or 1
        return None
    candidates = [state.workers] if state.workers else sorted({1, num})
    turns: dict[int, list[float]] = {candidate: [] for candidate in candidates}
    gradients: dict[int, torch.Tensor] = {}
    for candidate in candidates * (_TURNS if (config.minutes or 0.0) >= _TURNS_MINUTES else 1):
        if turns[candidate] and turns[candidate][-1] > SLOW:
            continue
        taken, gradients[candidate] = timed(state, networks, config, kind, candidate)
        turns[candidate].append(taken)
    seconds = {candidate: statistics.median(timings) for candidate, timings in turns.items()}
    first = candidates[0]
    agreeing = [
        n for n in candidates if (gradients[n] - gradients[first]).norm() <= AGREEMENT * gradients[first].norm()
    ]
    state.workers = min(agreeing, key=lambda n: seconds[n])
    rate = config.batch / seconds[state.workers]
    *coarse, (_, share) = phases(state.generator)
    rate *= share
    for state.generator.coarse, share in coarse:
        rate += share * config.batch / timed(state, networks, config, kind, state.workers)[0]
    state.generator.coarse = None
    for sentence in _expectation(config, state, rate):
        say(f"  {sentence}")
    return rate


def _expectation(config: TrainConfig, state: TrainState, rate: float) -> list[str]:
    """How many images fit in a budget in minutes at this speed, and advice if that is too few."""
    minutes, pack = config.minutes or 0.0, state.batches.pack
    images = rate * 60 * minutes
    threads = f"with {state.workers} threads that share the batch, " if state.workers > 1 else ""
    sentences = [
        f"{rate:,.{0 if rate >= 10 else 1}f} images/s measured, {threads}"
        f"so about {images:,.0f} images in {minutes:g} minutes "
        f"({images / pack.num_training:,.1f} passes over {pack.num_training:,} images)"
    ]
    least = least_images(config)
    if images < least:
        sentences.append(
            f"fewer than {least:,} images rarely give recognisable results: use --minutes "
            f"{math.ceil(least / rate / 60)} or a smaller --size"
        )
    return sentences


def least_images(config: TrainConfig) -> int:
    """Images seen below which results are rarely recognisable; 0 if unknown."""
    return RECOGNISABLE if config.discriminator != "own" else 0


def most_workers(state: TrainState, config: TrainConfig) -> int:
    """Maximum number of threads that can share a batch with the same result.

    1 for networks that draw random numbers or mix images. Each thread needs whole groups of batch renormalisation.
    """
    networks = (state.generator, state.discriminator)
    alone = any(network.stochastic for network in networks) or state.discriminator.mixes_images
    local = config.batch // world_size()
    if state.device.type != "cpu" or alone or config.spectral_norm or config.compile:
        return 1
    group = GROUP if state.generator.mixes_images else 1
    return max(
        num
        for num in range(1, torch.get_num_threads() + 1)
        if (local % num == 0 and (local // num) % group == 0) or num == 1
    )


def timed(
    state: TrainState, networks: Networks, config: TrainConfig, kind: str, num: int
) -> tuple[float, torch.Tensor]:
    """(seconds per training step including penalties, gradients of both networks as one vector)."""
    policy, batch, pack = augmentations_for(kind, config), config.batch, state.batches.pack
    place = slice(state.batches.start, state.batches.stop)
    images = images_at(pack, spaced(pack.training, batch)).to(state.device)
    images = at_size(images.repeat(math.ceil(batch / len(images)), 1, 1, 1)[place], state.generator.coarse)
    asked = labels_in_turn(state.model, pack.schema)
    if asked is not None:
        asked = asked.to(state.device)[torch.arange(batch, device=state.device)[place] % len(asked)]
    workers = Workers(networks, num) if num > 1 else None
    times: dict[bool, list[float]] = {False: [], True: []}
    flat = torch.empty(0)
    weight, crops = state.features_penalty.value, crops_of(state.discriminator)
    try:
        for penalise in [False] * (1 + _ROUNDS) + [True] * 2:
            if times[penalise] and times[penalise][-1] > SLOW:
                continue
            # The same numbers in each pass, because slow passes are not repeated and the last gradients are compared.
            noise = torch.Generator(state.device).manual_seed(0)
            inputs = draw_inputs(images, asked, place, config, policy, state.augment.value, noise, weight, crops)
            began = time.perf_counter()
            accumulate_gradients(networks, inputs, config, policy, state.micro_batch, penalise, workers=workers)
            times[penalise].append(time.perf_counter() - began)
            parameters = [*state.generator.parameters(), *state.discriminator.parameters()]
            flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            for optimizer in state.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
    finally:
        if workers is not None:
            workers.close()
    # The first pass of each kind allocates memory; it counts only where there is no other.
    plain, penalised = (statistics.median(timings[1:] or timings) for timings in times.values())
    return _OVERHEAD * (plain + max(0.0, penalised - plain) / config.penalty_interval), flat
