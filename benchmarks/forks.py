"""Runs `ganvas` commands in forks of this process, which has imported everything that they need.

So a command takes a tenth of a second instead of some seconds, and may be killed, or meet a hostile file, alone.
Ctrl-C ends the benchmarks that use this early, with the figures of what was done until then.
"""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ganvas import cli
from ganvas.config import ModelConfig
from ganvas.data.reading.digits import digits
from ganvas.image_files import png_bytes
from ganvas.models.summary import summarise_config

HANGING = 900.0  # seconds; long, since other programs may use the processor
TINY = ("--size", "8", "--base", "8", "--z-dim", "8", "--batch", "16", "--device", "cpu")
TRAIN = ("train", "data.zip", "--out", "run", *TINY, "--images", "480", "--previews", "6", "--snapshots", "4")
EVALUATE = ("evaluate", "run", "--features", "random", "--n", "100", "--device", "cpu")
MEMORY_UNIT = 1024 if sys.platform != "darwin" else 1  # of ru_maxrss, in bytes
USED = [
    "data.packing.write",
    "evaluation.evaluate",
    "explore.directions",
    "explore.sampling",
    "share.publish",
    "training.loop",
]
for name in USED:  # imported here, so that the forks need not do it
    importlib.import_module(f"ganvas.{name}")
summarise_config(ModelConfig("compact", 8, 8, 1))  # the first network on the meta device imports parts of torch


@dataclass(frozen=True)
class Ended:
    """Exit code (negative: the signal that ended it; None: it hung), all output, seconds, processor seconds, and peak
    memory in bytes."""

    code: int | None
    output: str
    seconds: float
    processor: float
    memory: int

    @property
    def fault(self) -> str:
        """Why this is neither a success nor a refusal in one sentence, or ""."""
        lines = self.output.strip().splitlines()
        last = lines[-1] if lines else "no output"
        if self.code is None:
            return f"hangs for {self.seconds:.0f} s"
        if "Traceback" in self.output:
            return f"traceback: {last}"
        if self.code not in (0, 2):
            return f"exit code {self.code}: {last}"
        if self.code == 2 and not (last.startswith("ganvas: ") and len(last) < 1000):
            return f"no sentence: {last[:200]}"
        return ""


def start(arguments: tuple[str, ...], folder: Path, limit: int | None = None) -> int:
    """Process ID of a fork that runs a command in `folder`, in a process group of its own.

    Its output goes to output.txt beside the folder. limit: address space in bytes.
    """
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(folder.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os.environ["GANVAS_CACHE"] = str(folder / "cache")
        sys.argv = ["ganvas", *arguments]
        code = cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(process: int, folder: Path, most: float = HANGING) -> Ended:
    """Waits until a command ends; ends it with its children after `most` seconds."""
    began = time.monotonic()
    hangs = False
    try:
        while not (ended := os.wait4(process, os.WNOHANG))[0]:
            if not hangs and time.monotonic() - began > most:
                hangs = True
                os.killpg(process, signal.SIGKILL)
            time.sleep(0.002)
    except KeyboardInterrupt:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise
    output = (folder.parent / "output.txt").read_text(errors="replace")
    code = None if hangs else os.waitstatus_to_exitcode(ended[1])
    used = ended[2]
    return Ended(code, output, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * MEMORY_UNIT)


def complete(arguments: tuple[str, ...], folder: Path) -> Ended:
    return finish(start(arguments, folder), folder)


def must(arguments: tuple[str, ...], folder: Path) -> Ended:
    """Runs a command that has to succeed, else ends the benchmark."""
    ended = complete(arguments, folder)
    if ended.code != 0:
        raise SystemExit(f"ganvas {' '.join(arguments)} fails undisturbed:\n{ended.output}")
    return ended


def renew(base: Path, folder: Path) -> None:
    """Makes `folder` a fresh copy of `base`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)


def write_digits(folder: Path) -> None:
    """data.zip: 300 labelled digits of 32x32 pixels."""
    folder.mkdir()
    images, labels = digits().arrays()
    assert labels is not None
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for i in range(300):
            archive.writestr(f"{labels[i]}/{i:03}.png", png_bytes(images[i][..., None]))
