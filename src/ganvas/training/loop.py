"""The training loop: one function in paragraphs.

From the command to `optimizer.step()`: cli.train -> verbs.train -> loop.train.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ganvas import device as ranks
from ganvas.config import TrainConfig
from ganvas.device import agree, average_gradients, average_over_ranks, is_out_of_memory
from ganvas.ema import half_life_at
from ganvas.errors import TrainingError
from ganvas.generator import Generator, ModelInfo
from ganvas.losses import clip_weights
from ganvas.run import Run
from ganvas.training.card import write_model
from ganvas.training.clock import Allowance, Clock, caught_signals
from ganvas.training.preview import Preview
from ganvas.training.progress import Display
from ganvas.training.rules import traits_of
from ganvas.training.snapshots import Snapshots
from ganvas.training.state import TrainState
from ganvas.training.step import (
    PATH_INTERVAL,
    Inputs,
    Networks,
    Side,
    Stats,
    accumulate_gradients,
    draw_inputs,
    is_starting,
    learning_rate,
    policy_for,
)

DISPLAY_SECONDS = 0.5
LOG_SECONDS = 2.0
CHECKPOINT_SHARE = 0.02  # part of the time that checkpoints at previews may take
SCORE_SHARE = 0.02  # part of the time that scores may take
WORSE = 1.25  # the best checkpoint's weights are kept as the model when the last ones score worse by this factor

Evaluate = Callable[[Generator], float]
"""A quick score of a generator, lower is better; handed in, since training does not judge."""


@dataclass(frozen=True)
class Outcome:
    """How a session of training ended. signal: the number of the signal that ended it early, else 0."""

    images_seen: int
    seconds: float
    signal: int = 0


def train(
    state: TrainState,
    networks: Networks,
    config: TrainConfig,
    info: ModelInfo,
    run: Run,
    display: Display,
    evaluate: Evaluate | None = None,
    writes: bool = True,
) -> Outcome:
    """Trains `state` until its budget ends or a signal comes; writes log, grids, checkpoints and the model into `run`.

    config: complete (training/plan.py has filled every field). Every rank calls this; only rank 0 writes, if any.
    """
    batch, interval = config.batch or 0, config.penalty_interval or 1
    policy = policy_for(info.kind, config)
    place = slice(state.batches.start, state.batches.stop)  # this rank's part of every global batch
    joint = config.update == "joint"
    rounds = 1 if joint else config.n_critic or 1  # of the discriminator in a step
    writes = writes and ranks.rank() == 0
    average = Generator(state.ema.average, info, state.device)
    preview = Preview(average, run, config)
    snapshots = Snapshots(run, config)
    clock = Clock(state, config)
    last_log = last_display = time.monotonic()
    saving, scoring = Allowance(CHECKPOINT_SHARE), Allowance(SCORE_SHARE)

    with caught_signals() as caught:
        while True:
            # Agree on time and signals: every rank leaves at the same step.
            total, seconds, finished, interrupted = agree([*clock.estimate(), float(caught.number)])
            state.total_images, state.seconds = int(total), seconds
            if finished or interrupted:
                break

            # The discriminator's rounds: draw all that is random, compute gradients, update (jointly: both networks).
            rate = learning_rate(config, state.images_seen, state.total_images)
            starting = is_starting(config, state.images_seen, state.total_images)
            state.generator.starting = starting  # ty: ignore[invalid-assignment]
            penalise, paths = state.step % interval == 0, state.step % PATH_INTERVAL == 0
            for _ in range(rounds):
                real, labels = next(state.batches)
                labels = labels if average.classes else None
                inputs = draw_inputs(real, labels, place, config, policy, state.augment.value, state.noise, penalise)
                side: Side = "both" if joint else "discriminator"
                stats = gradients(state, networks, inputs, config, policy, display, side, penalise, paths)
                update(state, config, side, rate)

            # The generator's turn, on the last round's latents.
            if not joint:
                gradients(state, networks, inputs, config, policy, display, "generator", False, paths)
                update(state, config, "generator", rate)
            if config.adaptive:
                state.augment.update(average_over_ranks(stats.sign), batch * rounds, state.total_images)

            # The moving averages.
            state.step += 1
            state.images_seen += batch * rounds
            half_life = half_life_at(state.images_seen, config.ema or 0.0, config.ema_ramp)
            state.ema.update(state.generator, batch * rounds, half_life)
            if state.powers is not None:
                state.powers.update(state.generator, batch * rounds, state.images_seen)
            clock.count()
            if not writes:
                continue

            # Show and log the numbers.
            now = time.monotonic()
            drawing = preview.due(clock.progress())
            if drawing or now - last_display > DISPLAY_SECONDS:
                record = report(state, stats, clock, rate, half_life)
                check_finite(record, run)
                display.update(record, clock.progress())
                last_display = now
                if drawing or now - last_log > LOG_SECONDS:
                    run.log(record)
                    last_log = now

            # Draw the grid, score the moving average, and save everything from time to time.
            if state.powers is not None and snapshots.due(clock.progress()):
                snapshots.write(state.powers, average, state.images_seen, clock.progress())
            if drawing:
                preview.draw(state.images_seen, clock.progress())
                if evaluate is not None and scoring.left():
                    with scoring.spent():
                        keep_best(state, average, run, evaluate)
            if (drawing and saving.left()) or saving.idle() > 60 * config.checkpoint_minutes:
                with saving.spent():
                    state.seconds = clock.seconds()
                    run.save_checkpoint(state.state_dict(), state.images_seen, config.keep)
                    write_model(average, run, state.images_seen)

    # Leave everything on disk: the checkpoint to go on from, the last grid, the model.
    if writes:
        run.save_checkpoint(state.state_dict(), state.images_seen, config.keep)
        write_model(average, run, state.images_seen)
        if not interrupted:
            preview.draw(state.images_seen, 1.0)
            if evaluate is not None and keep_best(state, average, run, evaluate) > WORSE * state.best_score:
                display.say("the pictures were better earlier: model/ holds the best weights, not the last")
                restore_best(run)
        display.finish(state.images_seen, state.seconds)
    state.batches.close()
    return Outcome(state.images_seen, state.seconds, int(interrupted))


def gradients(
    state: TrainState,
    networks: Networks,
    inputs: Inputs,
    config: TrainConfig,
    policy: tuple[str, ...],
    display: Display,
    side: Side,
    penalise: bool,
    paths: bool,
) -> Stats:
    """One pass's gradients; when the memory does not suffice, again in smaller micro-batches from now on."""
    while True:
        try:
            return accumulate_gradients(networks, inputs, config, policy, state.micro_batch, penalise, side, paths)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            least = 2 if traits_of(state.model).batch_statistics else 1
            if state.micro_batch <= least:
                raise TrainingError(
                    f"{state.device} has too little memory for so small a batch: "
                    "use a smaller --size, --base or --blocks"
                ) from error
        for optimizer in state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        if state.device.type == "cuda":
            torch.cuda.empty_cache()
        state.micro_batch = max(least, min(state.micro_batch, len(inputs.real)) // 2)
        display.say(f"out of memory: going on with micro-batches of {state.micro_batch}, the same mathematics")


def update(state: TrainState, config: TrainConfig, side: Side, rate: float) -> None:
    """Averages the gradients of one network or both over the ranks, and takes a step. rate: the generator's."""
    names = ("generator", "discriminator") if side == "both" else (side,)
    for name in names:
        average_gradients(getattr(state, name).parameters())
    for name in names:
        optimizer = state.optimizers[name]
        factor = (config.lr_d or 0.0) / (config.lr or 1.0) if name == "discriminator" else 1.0
        optimizer.param_groups[0]["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if config.path_length and side != "discriminator":
        mean: Any = state.generator.path_mean
        mean.copy_(average_over_ranks(mean))
    if config.clip and side != "generator":
        clip_weights(state.discriminator, config.clip)


def keep_best(state: TrainState, average: Generator, run: Run, evaluate: Evaluate) -> float:
    """Scores the moving average, logs it, and keeps its weights in best/ when no earlier score was lower."""
    score = evaluate(average)
    run.log({"images": state.images_seen, "score": score})
    if score < state.best_score:
        state.best_score = score
        average.save(run.best)
    return score


def restore_best(run: Run) -> None:
    best = Generator.load(run.best, device="cpu")
    write_model(best, run, best.info.images_seen)


def report(state: TrainState, stats: Stats, clock: Clock, rate: float, half_life: float) -> dict[str, float]:
    """The numbers of one log line; reading them waits for the device."""
    record = {
        "images": state.images_seen,
        "seconds": round(clock.seconds(), 2),
        "images_per_second": round(clock.rate(), 1),
        "eta": round(clock.seconds_left(), 1),
        "d_real": stats.real.item(),
        "d_fake": stats.fake.item(),
        "loss": stats.loss.item(),
        "lr": rate,
        "ema_half_life": round(half_life),
    }
    if stats.r1 is not None and stats.r2 is not None and stats.gp is not None:
        clock.penalty = stats.r1.item() + stats.r2.item() + stats.gp.item()
    return record | {"penalty": clock.penalty, "augment": state.augment.value.item(), "sign": stats.sign.item()}


def check_finite(record: dict[str, float], run: Run) -> None:
    if not all(math.isfinite(record[name]) for name in ("d_real", "d_fake", "loss")):
        saved = run.saved()
        good = (
            f"the newest good checkpoint has {saved[-1].images_seen:,} images" if saved else "no checkpoint was saved"
        )
        raise TrainingError(
            f"training diverged at {record['images']:,} images (a loss is not finite); {good}: "
            "start a new run with half the --lr or twice the --r1"
        )
