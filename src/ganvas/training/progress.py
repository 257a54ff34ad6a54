"""Output on the terminal: progress line and messages."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ganvas.errors import duration
from ganvas.records import TrainingReport

_PLAIN_SECONDS = 10.0  # seconds between two lines if the output is not a terminal


class Display:
    """Shows a live progress line; plain lines if the output is not a terminal; nothing with `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.live: Progress | None = None
        self.last_line = 0.0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the live line, so that further output appears below it."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def say(self, text: str) -> None:
        """Prints a message on its own line."""
        self.console.print(text, markup=False)

    def update(self, record: TrainingReport, progress: float) -> None:
        """Shows a report. progress: fraction of the budget used, 0 to 1."""
        self.show(progress, _describe(record))

    def packing(self, what: str, done: int, total: int) -> None:
        """Shows the progress of packing or a download. total: 0 if unknown; done: 0 too if nothing is counted."""
        counts = f" {done:,} of {total:,}" if total else f" {done:,}" if done else ""
        self.show(done / total if total else 0.0, what + counts)

    def overall(self, progress: float, step: str, facts: str) -> None:
        """Shows the progress of several steps as a whole, 0 to 1, with the current one."""
        self.show(progress, f"{step}: {facts}" if facts else step)

    def show(self, progress: float, words: str) -> None:
        """Updates the live line; if the output is not a terminal, prints a line every ten seconds."""
        if not self.console.is_terminal:
            if time.monotonic() - self.last_line > _PLAIN_SECONDS:
                self.last_line = time.monotonic()
                self.say(f"{progress:4.0%}  {words}")
            return
        if self.live is None:
            self.live = Progress(
                BarColumn(20),
                TaskProgressColumn(),
                TextColumn("{task.description}", markup=False),
                console=self.console,
            )
            self.live.start()
            self.live.add_task("", total=1.0)
        self.live.update(self.live.task_ids[0], completed=progress, description=words)

    def finish(self, images_seen: int, seconds: float) -> None:
        """Prints the images seen and the training time."""
        self.__exit__()
        self.say(f"{images_seen:,} images seen in {duration(seconds)}")


def _describe(record: TrainingReport) -> str:
    rate = record.images_per_second
    return (
        f"{_count(record.images)} images seen  {rate:,.{0 if rate >= 10 else 1}f}/s  {duration(record.eta)} left  "
        f"D(real) {record.d_real:+.2f}  D(fake) {record.d_fake:+.2f}  penalty {record.penalty:.2g}  "
        f"lr {record.lr:.1e}  EMA {_count(record.ema_half_life)}"
    )


def _count(images: float) -> str:
    """950, 12.3k, 4.56M."""
    if images < 1000:
        return f"{images:.0f}"
    return f"{images / 1e3:.1f}k" if images < 1e6 else f"{images / 1e6:.2f}M"
