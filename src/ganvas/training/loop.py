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
from ganvas.models.batch_norm import follow_statistics, forget_statistics
from ganvas.records import Score, TrainingReport, line_of, read_log, read_reports, typed
from ganvas.run import Run
from ganvas.system import device as ranks
from ganvas.system.device import agree, average_gradients, average_over_ranks, is_out_of_memory
from ganvas.training.autotune import choose_workers
from ganvas.training.card import write_training_model
from ganvas.training.clock import Allowance, Caught, Clock, caught_signals
from ganvas.training.health import Event, Watch, heldout_scores
from ganvas.training.latents import fit_latents_again
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
    coarse_size,
    draw_inputs,
    is_starting,
    learning_rate,
)
from ganvas.training.workers import Networks, Workers

DISPLAY_SECONDS = 0.5
LOG_SECONDS = 2.0
CHECKPOINT_SHARE = 0.02  # maximum fraction of the time for checkpoints at previews
EXAMINATION_SHARE = 0.05  # maximum fraction of the time for evaluations of the moving average
_WORSE = 1.25  # keep the best weights as the model if the last ones score worse by this factor, beyond chance
_ROLLBACKS = 3  # maximum number of returns to the newest good checkpoint after divergence
_FAR = 1e6  # larger logits count as infinite


class Examine(Protocol):
    """Evaluates a generator during training and returns its scores.

    Scores: score (lower is better), margin (half of its 95% interval), diversity, checkerboard, change, near, and
    further values for the log (evaluation/training_score.py).
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
    loop = Loop(state, networks, config, info, run, display, examine, trial)
    with caught_signals() as caught:
        while loop.goes_on(caught):
            stats = loop.step()
            if loop.writes:
                loop.record(stats)
        loop.finish()
    return Outcome(state.images_seen, state.seconds, int(loop.interrupted))


class Loop:
    """What a training needs beside `TrainState`: budget, preview, warnings, and what was written when."""

    def __init__(
        self,
        state: TrainState,
        networks: Networks,
        config: TrainConfig,
        info: ModelInfo,
        run: Run,
        display: Display,
        examine: Examine | None,
        trial: bool,
    ) -> None:
        self.state, self.networks, self.config, self.info = state, networks, config, info
        self.run, self.display, self.examine, self.trial = run, display, examine, trial
        self.augmentations = augmentations_for(info.kind, config)
        self.writes = not trial and ranks.rank() == 0
        self.average = Generator(state.ema.average, info, state.device)
        self.preview = Preview(self.average, run, config)
        self.measure = PixelVariety(state.batches.pack, self.average.classes)
        self.snapshots = Snapshots(run, config)
        self.began = state.images_seen
        self.interrupted = 0.0  # number of the signal
        self.rate = 0.0  # learning rate of the generator in the last step
        self.penalised: Stats | None = None  # of the last step with penalties
        if not state.images_seen:
            state.measure_generator()
        self.start_clock()
        self.logged = self.displayed = time.monotonic()
        self.saving = Allowance(CHECKPOINT_SHARE)
        # Includes the final evaluation.
        self.examining = Allowance(EXAMINATION_SHARE, 2 * examine.cost if examine is not None else 0.0)
        choose_workers(state, networks, config, info.kind, display.say)
        self.workers = Workers(networks, state.workers) if state.workers > 1 else None

    def start_clock(self) -> None:
        """Starts budget, warnings and preview from the log and the counters of `state`."""
        self.clock = Clock(self.state, self.config)
        self.watch = Watch(self.config, typed(read_log(self.run.folder)), self.state.restarts)
        self.diverged = self.flat = False
        _go_on_drawing(self.preview, self.run, self.state, self.clock)

    def goes_on(self, caught: Caught) -> bool:
        """Whether to take another step; restarts or rolls back before it if necessary.

        All ranks agree on time, signals and divergence, so that they stop or roll back at the same step.
        """
        state = self.state
        while True:
            total, seconds, finished, self.interrupted, lost, hopeless = agree(
                [*self.clock.estimate(), float(caught.number), float(self.diverged), float(self.flat)]
            )
            state.total_images, state.seconds = int(total), seconds
            if hopeless and not finished:
                state.start_again()
                self.watch.start_again()
                self.flat = False
            if not lost:
                return not (finished or self.interrupted)
            _roll_back(state, self.run, self.display)
            self.start_clock()  # the log was cut at the checkpoint

    def step(self) -> Stats:
        """Updates both networks once (the discriminator `n_critic` times), and the moving averages."""
        state, config = self.state, self.config
        fit_latents_again(state, self.display.say)
        state.generator.starting = is_starting(config, state.images_seen, state.total_images)
        state.generator.coarse = coarse_size(state.generator, state.images_seen, state.total_images)
        penalise, paths = state.step % config.penalty_interval == 0, state.step % PATH_INTERVAL == 0
        ranks.seed_step(config.seed, state.step)
        # Rollbacks and restarts halve the learning rate.
        self.rate = learning_rate(config, state.images_seen, state.total_images)
        self.rate *= 0.5 ** (state.rollbacks + state.restarts)
        joint = config.update == "joint"
        side: Side = "both" if joint else "discriminator"
        rounds = 1 if joint else config.n_critic
        for _ in range(rounds):
            inputs = self.draw()
            stats = self.gradients(inputs, side, penalise, paths)
            update(state, config, side, self.rate)
        if penalise:
            self.penalised = stats
        if not joint:  # with the latents of the last update of the discriminator
            self.gradients(inputs, "generator", False, paths)
            update(state, config, "generator", self.rate)

        num = config.batch * rounds
        if config.adaptive:
            state.augment.update(average_over_ranks(stats.sign), num, state.total_images)
        if state.features_penalty.adapts:
            state.features_penalty.update(average_over_ranks(stats.lead))
        state.step += 1
        state.images_seen += num
        state.ema.update(state.generator, num, half_life_at(state.images_seen, config.ema))
        if state.powers is not None:
            state.powers.update(state.generator, num, state.images_seen)
        self.clock.count()
        return stats

    @property
    def policy(self) -> tuple[str, ...]:
        """Augmentations in use now."""
        return self.augmentations if self.state.augmentation_share else ()

    def draw(self) -> Inputs:
        """The next batch and all random numbers of a pass."""
        state = self.state
        place = slice(state.batches.start, state.batches.stop)  # this rank's part of each global batch
        real, labels = next(state.batches)
        real = at_size(real, state.generator.coarse)
        labels = labels if self.info.config.label_size else None
        return draw_inputs(
            real, labels, place, self.config, self.policy, state.augmentation, state.noise,
            state.features_penalty.value, crops_of(state.discriminator),
        )  # fmt: skip

    def gradients(self, inputs: Inputs, side: Side, penalise: bool, paths: bool) -> Stats:
        """Gradients of one pass. If memory runs out, repeats it with smaller micro-batches and keeps that size.

        Penalties need more memory, so that passes with them have a size of their own.
        """
        state, large = self.state, penalise or bool(paths and self.config.path_length)
        copies = self.workers.generators if self.workers is not None else []
        while True:
            size = state.penalty_micro_batch if large else state.micro_batch
            forget_statistics([state.generator, *copies])
            try:
                stats = accumulate_gradients(
                    self.networks,
                    inputs,
                    self.config,
                    self.policy,
                    size,
                    penalise,
                    side,
                    paths,
                    self.workers,
                )
                if side != "discriminator":
                    follow_statistics(state.generator, copies)
                return stats
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                traits = traits_of(state.model)
                if size <= traits.least:
                    raise TrainingError(
                        f"{state.device} has too little memory even for the smallest micro-batch: "
                        "use a smaller --size, --base or --blocks"
                    ) from error
            for optimizer in state.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            if state.device.type == "cuda":
                torch.cuda.empty_cache()
            size = traits.smaller(min(size, len(inputs.real)))
            state.penalty_micro_batch = min(size, state.penalty_micro_batch)
            if not large:
                state.micro_batch = size
            effect = "same training result"
            if not traits.same_result(size):
                effect = f"the result changes, because {state.model.model} computes statistics of each"
            where = " in steps with penalties" if large else ""
            self.display.say(f"out of memory: continuing with micro-batches of {size}{where} ({effect})")

    def record(self, stats: Stats) -> None:
        """After a step: the progress line and the log, and if they are due, the preview, scores and a checkpoint."""
        drawing = self.preview.due(self.clock.progress())
        self.report(stats, drawing)
        if self.diverged:
            return
        saves = (drawing and self.saving.left()) or self.saving.idle() > 60 * self.config.checkpoint_minutes
        powers = self.state.powers if self.snapshots.due(self.clock.progress()) else None
        if drawing or saves or powers is not None:
            self.state.measure_averages()
        if powers is not None:
            self.snapshots.write(powers, self.average, self.state.images_seen, self.clock.progress())
        if drawing:
            self.show()
        if saves:
            if not drawing and not are_finite(self.state):
                self.diverged = True
                return
            with self.saving.spent():
                self.state.seconds = self.clock.seconds()
                self.save()

    def report(self, stats: Stats, drawing: bool) -> None:
        """Updates the progress line twice a second and the log every two seconds; notices divergence."""
        now = time.monotonic()
        if not drawing and now - self.displayed <= DISPLAY_SECONDS:
            return
        record = report_of(self.state, stats, self.penalised, self.clock, self.rate, self.config)
        self.diverged = _is_lost(self.state, record)
        if self.diverged:
            return
        self.display.update(record, self.clock.progress())
        self.tell(self.watch.see(record))
        self.displayed = now
        if drawing or now - self.logged > LOG_SECONDS:
            self.run.log(line_of(record))
            self.logged = now

    def show(self) -> None:
        """Draws the preview grid, measures its variety and, if there is time, evaluates the moving average."""
        progress, seen = self.clock.progress(), self.state.images_seen
        variety = self.measure(self.preview.draw(seen, progress), self.preview.classes, seen)
        events = list[Event]()
        if variety is not None:
            self.run.log(line_of(variety))
            events = self.watch.preview(variety, self.clock.progress())
        self.tell(events)
        self.flat = any(event.name == "flat" for event in events) and self.watch.may_start_again(self.clock.progress())
        # Enlarged small images score well in some networks, so that scores of different phases cannot be compared.
        whole = self.state.generator.coarse is None
        if self.examine is not None and whole and self.examining.left():
            with self.examining.spent():
                score = keep_best(self.state, self.average, self.run, self.examine)
            self.tell(self.watch.examine(score, self.clock.progress()))

    def save(self) -> None:
        """Writes a checkpoint and the model."""
        self.run.save_checkpoint(self.state.state_dict(), self.state.images_seen, self.config.keep)
        write_training_model(self.average, self.run, self.state.images_seen)

    def finish(self) -> None:
        """Writes the final checkpoint, grid and model; signals are delayed until this is done.

        If the process is killed before the last line of the log, the next call repeats this (session.is_complete).
        """
        state, run = self.state, self.run
        if not self.trial and not are_finite(state):
            _roll_back(state, run, self.display)
        state.measure_averages()
        if self.workers is not None:
            self.workers.close()
        if self.writes:
            if state.images_seen != self.began or not run.saved():
                run.save_checkpoint(state.state_dict(), state.images_seen, self.config.keep)
            write_training_model(self.average, run, state.images_seen)
            if not self.interrupted:
                self.complete()
            self.display.finish(state.images_seen, state.seconds)
        state.batches.close()

    def complete(self) -> None:
        """The last grid, the last evaluation and the choice of the model's weights, at the end of the budget."""
        state = self.state
        self.preview.draw(state.images_seen, 1.0)
        if self.examine is not None:
            score = keep_best(state, self.average, self.run, self.examine)
            self.tell(self.watch.examine(score, 1.0))
            if score.score > max(_WORSE * state.best_score, state.best_score + (score.margin or 0.0)):
                self.display.say("earlier weights scored better: model/ contains the best weights, not the last")
                _restore_best(self.run)
        self.run.log({"images": state.images_seen, "finished": True})

    def tell(self, events: list[Event]) -> None:
        _tell(events, self.state, self.run, self.display)


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


def _go_on_drawing(preview: Preview, run: Run, state: TrainState, clock: Clock) -> None:
    """After resuming or a rollback: continues with the grid after the newest existing one."""
    preview.drawn = -1
    if grids := run.grids():
        images = grids[-1][0]
        times = [one.seconds for one in read_reports(run.folder) if one.images <= images]
        preview.due(clock.progress(images, times[-1] if times and images < state.images_seen else state.seconds))


def _restore_best(run: Run) -> None:
    best = Generator.load(run.best, device="cpu")
    write_training_model(best, run, best.info.images_seen)


def report_of(
    state: TrainState, stats: Stats, penalised: Stats | None, clock: Clock, rate: float, config: TrainConfig
) -> TrainingReport:
    """The numbers of one log line. Synchronises with the device.

    stats: of the last step. penalised: of the last step with penalties; None if there was none in this session.
    """
    penalties = (penalised.r1, penalised.r2, penalised.gp) if penalised is not None else ()
    heads = state.features_penalty
    return TrainingReport(
        images=state.images_seen,
        seconds=round(clock.seconds(), 2),
        images_per_second=round(clock.rate(), 1),
        eta=round(clock.seconds_left(), 1),
        d_real=stats.real.item(),
        d_fake=stats.fake.item(),
        loss=stats.loss.item(),
        lr=rate,
        ema_half_life=round(half_life_at(state.images_seen, config.ema)),
        g_norm=state.gradient_norms["generator"].item(),
        d_norm=state.gradient_norms["discriminator"].item(),
        penalty=sum((value.item() for value in penalties if value is not None), 0.0),
        augment=state.augmentation.item(),
        sign=stats.sign.item(),
        r1_features=heads.value.mean().item() if heads.adapts else None,
        lead=heads.lead.mean().item() if heads.adapts else None,
    )


def _tell(events: list[Event], state: TrainState, run: Run, display: Display) -> None:
    """Prints and logs warnings."""
    for event in events:
        display.say(f"warning: {event}")
        run.log(line_of(event.at(state.images_seen)))


def _is_lost(state: TrainState, record: TrainingReport) -> bool:
    """True if logits, loss or weights are not finite, or logits are beyond `_FAR`."""
    logits = (record.d_real, record.d_fake)
    return not (all(abs(logit) < _FAR for logit in logits) and math.isfinite(record.loss) and are_finite(state))


def are_finite(state: TrainState) -> bool:
    """Whether all weights of both networks and of the average are finite."""
    tensors = [p for net in (state.generator, state.discriminator, state.ema.average) for p in net.parameters()]
    return bool(torch.nn.utils.get_total_norm(tensors).isfinite())


def _roll_back(state: TrainState, run: Run, display: Display) -> None:
    """Restores the newest good checkpoint and halves the learning rate; prints and logs a warning.

    Raises `TrainingError` after `_ROLLBACKS` rollbacks, or without a checkpoint.
    """
    at, seconds, rollbacks = state.images_seen, state.seconds, state.rollbacks + 1
    saved = (
        run.load_checkpoint(display.say, state.device, repair=ranks.rank() == 0) if rollbacks <= _ROLLBACKS else None
    )
    if saved is None:
        kept = run.saved()
        good = f"the newest good checkpoint has {kept[-1].images_seen:,} images" if kept else "no checkpoint was saved"
        raise TrainingError(
            f"training diverged at {at:,} images{f' after {_ROLLBACKS} rollbacks' if rollbacks > _ROLLBACKS else ''}; "
            f"{good}: start a new run with half the --lr or twice the --r1"
        )
    state.load_state_dict(saved)
    state.seconds, state.rollbacks = seconds, rollbacks
    event = Event(
        "diverged",
        f"training diverged at {at:,} images",
        f"continuing from {state.images_seen:,} images with half the learning rate ({rollbacks} of {_ROLLBACKS} times)"
        "; for a new run, use half the --lr or twice the --r1",
    )
    if ranks.rank() == 0:
        run.cut_log(state.images_seen)
        _tell([event], state, run, display)
