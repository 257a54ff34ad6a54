"""The training loop.

Call path of the command: cli.train -> verbs.train -> loop.train.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ganvas.config import TrainConfig
from ganvas.ema import half_life_at
from ganvas.errors import TrainingError
from ganvas.generator import Generator
from ganvas.model_file import ModelInfo
from ganvas.models import crops_of
from ganvas.records import Report, Score, line_of, read_log, read_reports, typed
from ganvas.run import Run
from ganvas.system import device as ranks
from ganvas.system.device import agree, average_gradients, average_over_ranks, is_out_of_memory
from ganvas.training.autotune import choose_workers
from ganvas.training.card import write_model
from ganvas.training.clock import Allowance, Clock, caught_signals
from ganvas.training.health import Event, Watch, heldout_scores
from ganvas.training.preview import PixelVariety, Preview
from ganvas.training.progress import Display
from ganvas.training.rules import traits_of
from ganvas.training.snapshots import Snapshots
from ganvas.training.state import TrainState
from ganvas.training.step import (
    PATH_INTERVAL,
    Inputs,
    Side,
    Stats,
    accumulate_gradients,
    at_size,
    augmentations_for,
    draw_inputs,
    is_coarse,
    is_starting,
    learning_rate,
)
from ganvas.training.workers import Networks, Workers

DISPLAY_SECONDS = 0.5
LOG_SECONDS = 2.0
CHECKPOINT_SHARE = 0.02  # maximum fraction of the time for checkpoints at previews
EXAMINATION_SHARE = 0.05  # maximum fraction of the time for evaluations of the moving average
WORSE = 1.25  # keep the best weights as the model if the last ones score worse by this factor, beyond chance
ROLLBACKS = 3  # maximum number of returns to the newest good checkpoint after divergence
FAR = 1e6  # larger logits count as infinite


class Examine(Protocol):
    """Evaluates a generator during training and returns its scores.

    Scores: score (lower is better), margin (half of its 95% interval), diversity, lattice, change, near, and further
    values for the log (evaluation/training_score.py).
    """

    cost: float
    """Approximate seconds per evaluation."""

    def __call__(self, generator: Generator) -> dict[str, float]: ...


@dataclass(frozen=True)
class Outcome:
    """Result of a training session. signal: number of the signal that stopped it early, else 0."""

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
    examine: Examine | None = None,
    trial: bool = False,
) -> Outcome:
    """Trains `state` until the budget ends or a signal arrives; writes log, grids, checkpoints and model to `run`.

    config: complete (all fields filled by training/plan.py). trial: writes nothing, and stops at the end of the budget
    even if training has diverged. Every rank calls this function; only rank 0 writes.
    """
    batch, interval = config.batch, config.penalty_interval
    policy = augmentations_for(info.kind, config)
    place = slice(state.batches.start, state.batches.stop)  # this rank's part of each global batch
    joint = config.update == "joint"
    rounds = 1 if joint else config.n_critic  # discriminator updates per step
    writes = not trial and ranks.rank() == 0
    average = Generator(state.ema.average, info, state.device)
    preview = Preview(average, run, config)
    measure = PixelVariety(state.batches.pack, average.classes)
    snapshots = Snapshots(run, config)
    clock = Clock(state, config)
    watch = Watch(config, typed(read_log(run.folder)), state.restarts)
    began = state.images_seen
    go_on_drawing(preview, run, state, clock)
    last_log = last_display = time.monotonic()
    saving = Allowance(CHECKPOINT_SHARE)
    examining = Allowance(EXAMINATION_SHARE, 2 * examine.cost if examine is not None else 0.0)  # includes the final one
    choose_workers(state, networks, config, info.kind, display.say)
    workers = Workers(networks, state.workers) if state.workers > 1 else None
    diverged = flat = False
    penalised: Stats | None = None  # of the last step with penalties

    with caught_signals() as caught:
        while True:
            # All ranks agree on time, signals and divergence, so that they stop or roll back at the same step.
            total, seconds, finished, interrupted, lost, hopeless = agree(
                [*clock.estimate(), float(caught.number), float(diverged), float(flat)]
            )
            state.total_images, state.seconds = int(total), seconds
            if hopeless and not finished:
                state.start_again()
                watch.start_again()
                flat = False
            if lost:
                roll_back(state, run, display)
                clock, diverged = Clock(state, config), False
                watch = Watch(config, typed(read_log(run.folder)), state.restarts)  # the log was cut at the checkpoint
                go_on_drawing(preview, run, state, clock)
                continue
            if finished or interrupted:
                break

            # Discriminator updates (joint: both networks): draw random numbers, compute gradients, update.
            rate = learning_rate(config, state.images_seen, state.total_images) * 0.5 ** (
                state.rollbacks + state.restarts
            )
            state.generator.starting = is_starting(config, state.images_seen, state.total_images)
            state.generator.coarse = is_coarse(state.generator, state.images_seen, state.total_images)
            penalise, paths = state.step % interval == 0, state.step % PATH_INTERVAL == 0
            ranks.seed_step(config.seed, state.step)
            for _ in range(rounds):
                real, labels = next(state.batches)
                real = at_size(real, state.generator)
                labels = labels if info.config.label_size else None
                inputs = draw_inputs(
                    real, labels, place, config, policy, state.augment.value, state.noise,
                    state.features_penalty.value, crops_of(state.discriminator),
                )  # fmt: skip
                side: Side = "both" if joint else "discriminator"
                stats = gradients(state, networks, workers, inputs, config, policy, display, side, penalise, paths)
                penalised = stats if penalise else penalised
                update(state, config, side, rate)

            # Generator update, with the latents of the last discriminator update.
            if not joint:
                gradients(state, networks, workers, inputs, config, policy, display, "generator", False, paths)
                update(state, config, "generator", rate)
            if config.adaptive:
                state.augment.update(average_over_ranks(stats.sign), batch * rounds, state.total_images)
            if state.features_penalty.adapts:
                state.features_penalty.update(average_over_ranks(stats.lead))

            # Moving averages.
            state.step += 1
            state.images_seen += batch * rounds
            half_life = half_life_at(state.images_seen, config.ema)
            state.ema.update(state.generator, batch * rounds, half_life)
            if state.powers is not None:
                state.powers.update(state.generator, batch * rounds, state.images_seen)
            clock.count()
            if not writes:
                continue

            # Progress line and log.
            now = time.monotonic()
            drawing = preview.due(clock.progress())
            if drawing or now - last_display > DISPLAY_SECONDS:
                record = report(state, stats, penalised, clock, rate, half_life)
                diverged = is_lost(state, record)
                if diverged:
                    continue
                display.update(record, clock.progress())
                tell(watch.see(record), state, run, display)
                last_display = now
                if drawing or now - last_log > LOG_SECONDS:
                    run.log(line_of(record))
                    last_log = now

            # Preview grid, evaluation of the moving average, checkpoint.
            saves = (drawing and saving.left()) or saving.idle() > 60 * config.checkpoint_minutes
            if drawing or saves or (state.powers is not None and snapshots.due(clock.progress())):
                state.measure_averages()
            if state.powers is not None and snapshots.due(clock.progress()):
                snapshots.write(state.powers, average, state.images_seen, clock.progress())
            if drawing:
                shown = measure(preview.draw(state.images_seen, clock.progress()), preview.classes, state.images_seen)
                events = list[Event]()
                if shown is not None:
                    run.log(line_of(shown))
                    events = watch.preview(shown, clock.progress())
                tell(events, state, run, display)
                flat = any(event.name == "flat" for event in events) and watch.may_start_again(clock.progress())
                if examine is not None and examining.left():
                    with examining.spent():
                        vitals = keep_best(state, average, run, examine)
                    tell(watch.examine(vitals, clock.progress()), state, run, display)
            if saves:
                if not drawing and not are_finite(state):
                    diverged = True
                    continue
                with saving.spent():
                    state.seconds = clock.seconds()
                    run.save_checkpoint(state.state_dict(), state.images_seen, config.keep)
                    write_model(average, run, state.images_seen)

        # Write the final checkpoint, grid and model; signals are delayed until this is done. If the
        # process is killed before the last line of the log, the next call repeats it (session.is_complete).
        if not trial and not are_finite(state):
            roll_back(state, run, display)
        state.measure_averages()
        if workers is not None:
            workers.close()
        if writes:
            if state.images_seen != began or not run.saved():
                run.save_checkpoint(state.state_dict(), state.images_seen, config.keep)
            write_model(average, run, state.images_seen)
            if not interrupted:
                preview.draw(state.images_seen, 1.0)
                if examine is not None:
                    vitals = keep_best(state, average, run, examine)
                    tell(watch.examine(vitals, 1.0), state, run, display)
                    if vitals.score > max(WORSE * state.best_score, state.best_score + (vitals.margin or 0.0)):
                        display.say("earlier weights scored better: model/ contains the best weights, not the last")
                        restore_best(run)
                run.log({"images": state.images_seen, "finished": True})
            display.finish(state.images_seen, state.seconds)
    state.batches.close()
    return Outcome(state.images_seen, state.seconds, int(interrupted))


def gradients(
    state: TrainState,
    networks: Networks,
    workers: Workers | None,
    inputs: Inputs,
    config: TrainConfig,
    policy: tuple[str, ...],
    display: Display,
    side: Side,
    penalise: bool,
    paths: bool,
) -> Stats:
    """Gradients of one pass. If memory runs out, repeats it with smaller micro-batches and keeps that size."""
    while True:
        try:
            return accumulate_gradients(
                networks, inputs, config, policy, state.micro_batch, penalise, side, paths, workers
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            least = 2 if traits_of(state.model).batch_statistics else 1
            if state.micro_batch <= least:
                raise TrainingError(
                    f"{state.device} has too little memory even for the smallest micro-batch: "
                    "use a smaller --size, --base or --blocks"
                ) from error
        for optimizer in state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        if state.device.type == "cuda":
            torch.cuda.empty_cache()
        state.micro_batch = max(least, min(state.micro_batch, len(inputs.real)) // 2)
        display.say(f"out of memory: continuing with micro-batches of {state.micro_batch} (same training result)")


def update(state: TrainState, config: TrainConfig, side: Side, rate: float) -> None:
    """Averages gradients over the ranks and takes an optimiser step. rate: learning rate of the generator."""
    names = ("generator", "discriminator") if side == "both" else (side,)
    for name in names:
        average_gradients(getattr(state, name).parameters())
    for name in names:
        optimizer = state.optimizers[name]
        factor = config.lr_d / config.lr if name == "discriminator" else 1.0
        optimizer.param_groups[0]["lr"] = rate * factor
        state.gradient_norms[name] = torch.nn.utils.get_total_norm(
            [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if config.path_length and side != "discriminator":
        mean: Any = state.generator.path_mean
        mean.copy_(average_over_ranks(mean))


def keep_best(state: TrainState, average: Generator, run: Run, examine: Examine) -> Score:
    """Evaluates the moving average, logs the scores, and saves the weights to best/ if the score is the lowest so far
    or best/ is missing."""
    vitals = Score(images=state.images_seen, **examine(average), **heldout_scores(state))
    run.log(line_of(vitals))
    if vitals.score < state.best_score or not run.best.exists():
        state.best_score = vitals.score
        average.info = dataclasses.replace(average.info, images_seen=state.images_seen)
        average.save(run.best)
    return vitals


def go_on_drawing(preview: Preview, run: Run, state: TrainState, clock: Clock) -> None:
    """After resuming or a rollback: continues with the grid after the newest existing one."""
    preview.drawn = -1
    if grids := run.grids():
        images = grids[-1][0]
        times = [one.seconds for one in read_reports(run.folder) if one.images <= images]
        preview.due(clock.progress(images, times[-1] if times and images < state.images_seen else state.seconds))


def restore_best(run: Run) -> None:
    best = Generator.load(run.best, device="cpu")
    write_model(best, run, best.info.images_seen)


def report(
    state: TrainState, stats: Stats, penalised: Stats | None, clock: Clock, rate: float, half_life: float
) -> Report:
    """The numbers of one log line. Synchronises with the device.

    stats: of the last step. penalised: of the last step with penalties; None if there was none in this session.
    """
    penalties = (penalised.r1, penalised.r2, penalised.gp) if penalised is not None else ()
    heads = state.features_penalty
    return Report(
        images=state.images_seen,
        seconds=round(clock.seconds(), 2),
        images_per_second=round(clock.rate(), 1),
        eta=round(clock.seconds_left(), 1),
        d_real=stats.real.item(),
        d_fake=stats.fake.item(),
        loss=stats.loss.item(),
        lr=rate,
        ema_half_life=round(half_life),
        g_norm=state.gradient_norms["generator"].item(),
        d_norm=state.gradient_norms["discriminator"].item(),
        penalty=sum((value.item() for value in penalties if value is not None), 0.0),
        augment=state.augment.value.item(),
        sign=stats.sign.item(),
        r1_features=heads.value.mean().item() if heads.adapts else None,
        lead=heads.lead.mean().item() if heads.adapts else None,
    )


def tell(events: list[Event], state: TrainState, run: Run, display: Display) -> None:
    """Prints and logs warnings."""
    for event in events:
        display.say(f"warning: {event}")
        run.log(line_of(event.at(state.images_seen)))


def is_lost(state: TrainState, record: Report) -> bool:
    """True if logits, loss or weights are not finite, or logits are beyond `FAR`."""
    logits = (record.d_real, record.d_fake)
    return not (all(abs(logit) < FAR for logit in logits) and math.isfinite(record.loss) and are_finite(state))


def are_finite(state: TrainState) -> bool:
    """Whether all weights of both networks and of the average are finite."""
    tensors = [p for net in (state.generator, state.discriminator, state.ema.average) for p in net.parameters()]
    return bool(torch.nn.utils.get_total_norm(tensors).isfinite())


def roll_back(state: TrainState, run: Run, display: Display) -> None:
    """Restores the newest good checkpoint and halves the learning rate; prints and logs a warning.

    Raises `TrainingError` after `ROLLBACKS` rollbacks, or without a checkpoint.
    """
    at, seconds, rollbacks = state.images_seen, state.seconds, state.rollbacks + 1
    saved = run.load_checkpoint(display.say, state.device, repair=ranks.rank() == 0) if rollbacks <= ROLLBACKS else None
    if saved is None:
        kept = run.saved()
        good = f"the newest good checkpoint has {kept[-1].images_seen:,} images" if kept else "no checkpoint was saved"
        raise TrainingError(
            f"training diverged at {at:,} images{f' after {ROLLBACKS} rollbacks' if rollbacks > ROLLBACKS else ''}; "
            f"{good}: start a new run with half the --lr or twice the --r1"
        )
    state.load_state_dict(saved)
    state.seconds, state.rollbacks = seconds, rollbacks
    event = Event(
        "diverged",
        f"training diverged at {at:,} images",
        f"continuing from {state.images_seen:,} images with half the learning rate ({rollbacks} of {ROLLBACKS} times); "
        "for a new run, use half the --lr or twice the --r1",
    )
    if ranks.rank() == 0:
        run.cut_log(state.images_seen)
        tell([event], state, run, display)
