"""Time and interruptions of one training session."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass

from ganvas.config import TrainConfig
from ganvas.training.state import TrainState

PROBE_STEPS = 5  # first steps, excluded from the speed: caches warm up and kernels are selected
UNKNOWN = 2**62  # images in the budget before the first step, so that schedules are at their start


class Clock:
    """Converts the budget to images. With `--minutes`, the estimate of how many images fit follows the speed, so that
    the part of the images seen is the part of the time used."""

    def __init__(self, state: TrainState, config: TrainConfig) -> None:
        self.state = state
        self.budget_seconds = None if config.minutes is None else config.minutes * 60
        self.budget_images = total_images(config, state.batches.pack.num_training)
        self.began = time.monotonic() - state.seconds
        self.steps = 0
        self.first = self.mark = (self.seconds(), state.images_seen)  # start of the speed measurement

    def seconds(self) -> float:
        """Training time over all sessions."""
        return time.monotonic() - self.began

    def count(self) -> None:
        """Counts a finished step."""
        self.steps += 1
        if self.steps == PROBE_STEPS:
            self.mark = (self.seconds(), self.state.images_seen)

    def rate(self) -> float:
        """Images per second after the first steps, including the time for grids and checkpoints."""
        seconds, images = self.mark if self.state.images_seen > self.mark[1] else self.first
        return (self.state.images_seen - images) / max(1e-9, self.seconds() - seconds)

    def estimate(self) -> tuple[float, float, float]:
        """(images in the budget, seconds so far, 1.0 if the budget is used up else 0.0)."""
        seconds, seen = self.seconds(), self.state.images_seen
        if self.budget_seconds is None:
            assert self.budget_images is not None
            return self.budget_images, seconds, float(seen >= self.budget_images)
        # Proportional to time, since the speed changes after a coarse phase, and when a run is resumed.
        total = seen * self.budget_seconds / max(1e-9, seconds) if seen else UNKNOWN
        return total, seconds, float(seconds >= self.budget_seconds)

    def progress(self, images: int | None = None, seconds: float | None = None) -> float:
        """Fraction of the budget used, 0 to 1: now, or at the given number of images and seconds."""
        if self.budget_seconds is not None:
            return min(1.0, (self.seconds() if seconds is None else seconds) / self.budget_seconds)
        assert self.budget_images is not None
        return min(1.0, (self.state.images_seen if images is None else images) / self.budget_images)

    def seconds_left(self) -> float:
        if self.budget_seconds is not None:
            return max(0.0, self.budget_seconds - self.seconds())
        assert self.budget_images is not None
        return max(0.0, self.budget_images - self.state.images_seen) / max(1e-9, self.rate())


def total_images(config: TrainConfig, num_images: int) -> int | None:
    """The budget in images; None if it is given in minutes."""
    if config.images is not None:
        return config.images
    if config.epochs is not None:
        return max(1, round(config.epochs * num_images))
    return None


class Allowance:
    """Limits a side task to a fraction of the time: `if allowance.left(): with allowance.spent(): ...`.

    share: that fraction. needed: seconds that must remain for it.
    """

    def __init__(self, share: float, needed: float = 0.0) -> None:
        self.share, self.needed, self.began, self.used = share, needed, time.monotonic(), 0.0
        self.last = self.began  # time of the last run of the task

    def left(self) -> bool:
        return self.used + self.needed <= self.share * (time.monotonic() - self.began)

    @contextlib.contextmanager
    def spent(self) -> Generator[None]:
        began = time.monotonic()
        yield
        self.last = time.monotonic()
        self.used += self.last - began

    def idle(self) -> float:
        """Seconds since the task last ran."""
        return time.monotonic() - self.last


@dataclass
class Caught:
    number: int = 0


@contextlib.contextmanager
def caught_signals() -> Generator[Caught]:
    """Records SIGINT, SIGTERM and SIGHUP (terminal closed) for the loop; a second SIGINT interrupts immediately.

    SIGHUP stays ignored if it was ignored before, as with `nohup`.
    """
    caught = Caught()
    before = {}
    terminals = [place for place in (1, 2) if os.isatty(place)]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    stopping = (signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGBREAK", None)]))  # Windows only

    def note(number: int, _: object) -> None:
        caught.number = number
        if number == hangup and terminals:  # writing to them would fail now
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for place in terminals:
                os.dup2(nowhere, place)
            os.close(nowhere)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with contextlib.suppress(ValueError):  # not the main thread: leave signals to the caller
        for number in stopping:
            before[number] = signal.signal(number, note)
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            before[hangup] = signal.signal(hangup, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
