"""`ganvas` in a process of its own, which starts at once: a copy of one that has already imported PyTorch.

A process that is started by its command line imports PyTorch for seconds. These are children of one server process
per test session, so that only the server imports it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganvas.cli import main

FAST = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
CONTEXT: Any = multiprocessing.get_context("forkserver" if FAST else "spawn")
if FAST:
    CONTEXT.set_forkserver_preload(
        ["torch._dynamo", "ganvas.verbs", "ganvas.training.loop", "ganvas.evaluation.evaluate"]
    )


def run(arguments: list[str], environment: dict[str, str], output: str | None) -> None:
    """The command, in the new process."""
    os.environ.clear()
    os.environ.update(environment)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    if output is not None:
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOCTTY", 0), 0o600)
        for descriptor in (1, 2):
            os.dup2(opened, descriptor)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", closefd=False) for descriptor in (1, 2))
    sys.argv = ["ganvas", *arguments]
    sys.exit(main())


def start(*arguments: object, output: str | Path | None = None, environment: Mapping[str, str] | None = None) -> Any:
    """The command line `ganvas ARGUMENTS` as a multiprocessing.Process; end it with `end`.

    output: file or terminal for what it prints. environment: variables beside those of this process.
    """
    everything = dict(os.environ) | dict(environment or {})
    process = CONTEXT.Process(
        target=run, args=([*map(str, arguments)], everything, None if output is None else str(output))
    )
    process.start()
    return process


def ended(process: Any, seconds: float = 60) -> int | None:
    """The exit code once the process has ended; -N after signal N, None if it goes on for longer than `seconds`."""
    process.join(seconds)
    return process.exitcode


def kill(process: Any) -> None:
    process.kill()
    process.join()
