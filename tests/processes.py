"""Processes that start at once: copies of one that has already imported PyTorch.

A process that is started by its command line imports PyTorch, which takes seconds. These are children of one server
process per test session, so that only the server imports it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ganvas.cli import main

FAST = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
CONTEXT: Any = multiprocessing.get_context("forkserver" if FAST else "spawn")
if FAST:
    CONTEXT.set_forkserver_preload(["torch._dynamo", "ganvas.verbs", "ganvas.training.loop"])


def command(*arguments: str) -> None:
    """The command line `ganvas ARGUMENTS`."""
    sys.argv = ["ganvas", *arguments]
    sys.exit(main())


def endless_search(*arguments: str) -> None:
    """The command line, with a search for copies that never ends."""

    from ganvas.studio import slow_jobs

    def endless(_: Any, progress: Callable[[str, int, int], None]) -> None:
        while True:
            progress("searching", 1, 2)
            for _ in range(100):
                torch.ones(64, 64) @ torch.ones(64, 64)

    slow_jobs.CopyFinder = endless  # ty: ignore[invalid-assignment]
    command(*arguments)


def other_source(source: str, code: str, *arguments: str) -> None:
    """Runs `code` with the package below `source` instead of this one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ganvas"]:
        del sys.modules[name]
    sys.path.insert(0, source)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})


def start(
    *arguments: object,
    function: Callable[..., None] = command,
    output: str | Path = os.devnull,
    errors: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Any:
    """A multiprocessing.Process that runs `function`; the command line `ganvas ARGUMENTS` by default.

    output: file, pipe or terminal for what it prints. errors: another one for stderr. environment: variables beside
    those of this process. folder: where it runs.
    """
    variables = dict(os.environ) | dict(environment or {})
    places = (str(output), str(output if errors is None else errors))
    words = [*map(str, arguments)]
    process = CONTEXT.Process(target=_run, args=(function, words, places, variables, str(folder or Path.cwd())))
    process.start()
    return process


def _run(
    function: Callable[..., None], words: list[str], places: tuple[str, str], variables: dict[str, str], folder: str
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    for descriptor, place in enumerate(places, start=1):
        opened = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOCTTY", 0), 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", closefd=False) for descriptor in (1, 2))
    function(*words)


def ended(process: Any, seconds: float = 120) -> int | None:
    """The exit code once the process has ended; -N after signal N, None if it goes on for longer than `seconds`."""
    process.join(seconds)
    return process.exitcode


def kill(process: Any) -> None:
    process.kill()
    process.join()


def first_line(output: Path, process: Any, seconds: float = 120) -> str:
    """What the process prints first."""
    end = time.monotonic() + seconds
    while not (output.exists() and "\n" in output.read_text()):
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.05)
    return output.read_text().partition("\n")[0]
