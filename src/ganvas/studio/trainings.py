"""Trainings that were started from the page: each is a `ganvas train` process of its own, one at a time.

A training does not depend on the page: it goes on when the page is closed or reloaded. When the studio ends, it stops
the training as Ctrl-C does (checkpoint and model are saved); it can be resumed later. If the studio is killed, the
training goes on, and the next studio finds it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganvas.errors import ConfigError
from ganvas.model_file import WEIGHTS
from ganvas.run import Run
from ganvas.studio.errors import AbsentError, ConflictError
from ganvas.studio.uploads import check_part
from ganvas.system import files

_MOST_KEPT = 20  # ended trainings that are remembered
_LAST = 4000  # bytes of the output that are searched for its last line
_CLOSING = 120.0  # longest time, in seconds, that the studio waits for a training to save its state
_TAKEN = frozenset({"uploads"})  # names that the studio uses itself


def own_group(windows: bool) -> tuple[dict[str, Any], int]:
    """Options of Popen that keep the studio's Ctrl-C away from a training, and the signal that stops the training.

    A process group on Windows ignores Ctrl-C, and gets Ctrl-Break as SIGBREAK, which `training.clock` catches.
    """
    if windows:
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP")}, getattr(signal, "CTRL_BREAK_EVENT")  # noqa: B009
    return {"start_new_session": True}, signal.SIGINT


OWN_GROUP, STOP = own_group(os.name == "nt")


class _OtherProcess:
    """A training process that another studio or a user has started, with the methods of Popen that are used here."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number = run, number
        self.returncode: Any = None  # a number after the end, as of Popen

    def poll(self) -> int | None:
        if self.returncode is None and self.run.trained_by() != self.number:
            self.returncode = 0  # unknown; the files of the run show how far it came
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.number, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@dataclass(eq=False)
class Started:
    """A training process. output: file of what it prints. began, ended: in seconds since 1970; None while it runs."""

    name: str
    folder: Path
    process: subprocess.Popen[Any] | _OtherProcess
    output: Path
    began: float = field(default_factory=time.time)
    stopping: bool = False
    cut_off: bool = False
    """Whether it was ended without the chance to save, because it could not be signalled."""
    ended: float | None = None
    said: str = ""
    """The last line of the output, at the end."""

    def is_running(self) -> bool:
        if self.ended is None and self.process.poll() is not None:
            self.said = self.last_line()
            self.ended = time.time()
        return self.ended is None

    @property
    def state(self) -> str:
        """starting (no run folder yet), training, stopping, finished, stopped, or failed."""
        if self.is_running():
            return "stopping" if self.stopping else "training" if self.has_begun() else "starting"
        code = self.process.returncode
        if code == 0 and not (self.stopping and isinstance(self.process, _OtherProcess)):
            return "finished"
        return "stopped" if self.stopping or code > 128 else "failed"

    def has_begun(self) -> bool:
        return Run(self.folder, writes=False).has_config() and (self.folder / "samples").is_dir()

    @property
    def sentence(self) -> str:
        """What the user should know: what it is doing, or why it failed."""
        match self.state:
            case "starting":
                return self.last_line() or "the training is starting: this takes up to a minute"
            case "stopping":
                return "the state and the model are being saved"
            case "stopped" if not self.has_begun():
                return "stopped before the first step, so nothing was saved"
            case "stopped" if self.cut_off:
                return (
                    "the training could not be asked to save its state, so it was ended: resume it from its last "
                    "checkpoint"
                )
            case "failed":
                code = self.process.returncode
                if code < 0:
                    return (
                        f"the training was ended by the system (signal {-code}), often because memory ran out: resume "
                        "it, or train with smaller images"
                    )
                return self.said.removeprefix("ganvas: ") or f"the training failed (exit code {code})"
        return ""

    def last_line(self) -> str:
        with contextlib.suppress(OSError):  # deleted at the end of the studio
            lines = self.output.read_bytes()[-_LAST:].decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[:600]
        return ""


def _is_unused(folder: Path) -> bool:
    """Whether a folder has nothing but the lock of a run that was cancelled before its first step."""
    return folder.is_dir() and all(path.name == ".lock" for path in folder.iterdir())


class Trainings:
    """The trainings of one studio, in subfolders of `root`; one runs at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: list[Started] = []
        self.outputs: tempfile.TemporaryDirectory | None = None
        self.lock = threading.Lock()

    def find_running(self, runs: Iterable[tuple[str, Path]]) -> None:
        """Remember the running trainings among runs (name, folder): they can be stopped, and go on after the studio."""
        for name, folder in runs:
            run = Run(folder, writes=False)
            number = run.trained_by()
            if number is not None:
                self.known.append(Started(name, folder, _OtherProcess(run, number), Path(os.devnull)))

    def obstacle(self) -> str:
        """Why no new run can be written here, as a sentence; "" if it can."""
        if Run(self.root, writes=False).has_config() or (self.root / WEIGHTS).is_file():
            return f"{self.root.name} is one run or model: for new trainings, start the studio with the folder above it"
        return ""

    def check_new(self, name: str) -> Path:
        """The folder of a new run. Raises ConfigError for an unusable name, ConflictError for one in use."""
        if not name.strip():
            raise ConfigError("the training has no name: enter one, such as my-images")
        check_part(name)
        if name.lower() in _TAKEN:
            raise ConflictError(f"the name {name!r} is used by the studio itself: choose another name")
        if obstacle := self.obstacle():
            raise ConflictError(obstacle)
        folder = self.root / name
        if folder.exists() and not _is_unused(folder):
            raise ConflictError(f"{name!r} already exists: choose another name, or open that run and resume it")
        return folder

    def start(self, name: str, words: Sequence[str]) -> Started:
        """Start the command `ganvas train` with these words. Raises ConflictError while another training runs."""
        return self.launch(name, self.check_new(name), words)

    def resume(self, name: str, folder: Path, words: Sequence[str]) -> Started:
        """Resume the run in `folder`. name: that the page shows."""
        return self.launch(name, folder, words)

    def launch(self, name: str, folder: Path, words: Sequence[str]) -> Started:
        with self.lock:
            running = self.running()
            if running is not None:
                raise ConflictError(
                    f"{running.name} is being trained, and this machine trains one run at a time: stop it first, or "
                    "wait until it is finished"
                )
            with files.explained(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
            self.outputs = self.outputs or tempfile.TemporaryDirectory(prefix="ganvas-studio-")
            output = Path(self.outputs.name) / f"{secrets.token_hex(8)}.txt"
            environment = {key: value for key, value in os.environ.items() if key != "GANVAS_TOKEN"}
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "ganvas", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    **OWN_GROUP,
                )
            started = Started(name, folder, process, output)
            self.known = [*(one for one in self.known if one.folder != folder), started][-_MOST_KEPT:]
            return started

    def running(self) -> Started | None:
        return next((one for one in self.known if one.is_running()), None)

    def find(self, name: str) -> Started:
        started = next((one for one in self.known if one.name == name), None)
        if started is None:
            raise AbsentError(f"{name!r} was not started from this studio: stop it where it was started, with Ctrl-C")
        return started

    def stop(self, name: str) -> Started:
        """Stop a training as Ctrl-C does: it saves its checkpoint and model, and ends. No effect if it has ended.

        A training that cannot be signalled is ended without saving; its `sentence` says so.
        """
        started = self.find(name)
        with self.lock:
            if started.is_running() and not started.stopping:  # a second signal would interrupt the saving
                started.stopping = True
                try:
                    started.process.send_signal(STOP)
                except OSError:  # Windows: a studio without a console cannot send Ctrl-Break
                    started.cut_off = True
                    started.process.terminate()
        return started

    def process_of(self, folder: Path) -> str:
        """training or stopping for a run that is trained from here; ended if nothing was written since; else ""."""
        started = next((one for one in self.known if one.folder == folder), None)
        if started is None:
            return ""
        if started.is_running():
            return "stopping" if started.stopping else "training"
        log = folder / "log.jsonl"
        changed = log.stat().st_mtime if log.is_file() else 0.0
        return "ended" if changed <= (started.ended or 0.0) else ""

    def close(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Stop the running training if it was started here, and wait until it has saved its state."""
        running = self.running()
        if running is not None and isinstance(running.process, subprocess.Popen):
            say(f"stopping {running.name}: its state and model are being saved; resume it on the page later")
            self.stop(running.name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(_CLOSING)
            running.is_running()  # takes over the end
        if self.outputs is not None:
            self.outputs.cleanup()
