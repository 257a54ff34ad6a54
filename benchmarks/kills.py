"""Kills commands at random moments and repeats them: is anything lost, stale or left over?

    python benchmarks/kills.py --number 300 --json kills.json

Each trial starts a command, ends it with SIGKILL at a random time (a third of them a second time) and runs it again.
That call must succeed, or refuse because all was done before the kill. The folder must then have the same files as
after an undisturbed run, with the same content wherever two undisturbed runs agree (weights, images, packs). No
temporary file may be left, no process may still run, and the last weights of a training must have been evaluated.
Commands run in forks of this process, which has imported everything, so that kills hit the work and not the start.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common import machine, table, write_json
from forks import EVALUATE, TRAIN, complete, must, renew, start, write_digits
from ganvas.records import read_log

COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (*TRAIN, "--checkpoint-minutes", "0.002"),
    "pack": ("data", "pack", "data.zip", "packed", "--size", "32"),
    "sample": ("sample", "run", "--n", "60", "--out", "samples"),
    "classes": ("sample", "run", "--per-class", "6", "--out", "samples"),
    "zip": ("sample", "run", "--n", "60", "--out", "samples.zip"),
    "evaluate": EVALUATE,
    "export": ("export", "run", "--out", "onnx"),
    "folder": ("export", "run", "--out", "exported", "--to", "folder"),
    "publish": ("publish", "run", "published"),
    "directions": ("directions", "run", "--n", "3"),
    "video": ("video", "run", "--formats", "gif,webp"),
}
STATE = "state of the newest checkpoint"
FROM_NOTHING = ("train", "pack")  # commands that begin with the images alone
BY_TIME = ("run/best/", "run/model/")  # which weights are evaluated, and so which are best, depends on the speed
BY_SPEED = ("seconds", "best_score")  # counters of a training state of which the same is true
Content = dict[str, str]
"""A hash of every file, or its text, by its path."""


def kill(arguments: tuple[str, ...], folder: Path, after: float) -> tuple[bool, str]:
    """Kills a command after this many seconds. Returns whether it was still running, and what is wrong already."""
    process = start(arguments, folder)
    time.sleep(after)
    alive = not os.waitpid(process, os.WNOHANG)[0]
    if alive:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    for _ in range(400):
        try:
            os.killpg(process, 0)
        except ProcessLookupError:
            return alive, ""
        time.sleep(0.025)
    os.killpg(process, signal.SIGKILL)
    return alive, "processes of a killed command still run after 10 s"


def sha256(path: Path) -> str:
    """Of the content of a file; of a zip, of the names and contents in it, because it contains times."""
    digest = hashlib.sha256()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                digest.update(name.encode() + b"\0" + archive.read(name))
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def content(folder: Path) -> Content:
    """SHA-256 of every file below a folder, and of the training state in the newest checkpoint of its run."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(folder)): sha256(path) for path in files}
    config = folder / "run/config.json"
    if config.exists():  # the time at which the run started, in whole seconds, may agree by chance
        found["run/config.json"] = re.sub('"started": "[^"]*"', "", config.read_text())
    checkpoints = [path for path in files if path.parent.name == "checkpoints" and path.suffix == ".pt"]
    if checkpoints:
        state = torch.load(checkpoints[-1], weights_only=True)
        for name in BY_SPEED:
            state["counters"].pop(name)
        found[STATE] = hashlib.sha256("\n".join(values_of(state)).encode()).hexdigest()
    return found


def values_of(state: Any, name: str = "") -> Iterator[str]:
    """A line for every value in a training state, with the bits of tensors."""
    if isinstance(state, dict):
        for key in sorted(state, key=str):
            yield from values_of(state[key], f"{name}/{key}")
    elif isinstance(state, list | tuple):
        for i, one in enumerate(state):
            yield from values_of(one, f"{name}/{i}")
    elif isinstance(state, torch.Tensor):
        yield f"{name} {state.dtype} {tuple(state.shape)} {state.contiguous().numpy().tobytes().hex()}"
    else:
        yield f"{name} {state!r}"


def faults_of(folder: Path, expected: Content, stable: Content) -> str:
    """What is wrong with a folder after the repeated call, or ""."""
    now = content(folder)
    names, wanted = ({name for name in of if "/checkpoints/" not in name} for of in (now, expected))
    if left := sorted(names - wanted):
        return f"left over: {left[0]}"
    if missing := sorted(wanted - names):
        return f"missing: {missing[0]}"
    different = [name for name, sha in stable.items() if now[name] != sha]
    if different:
        return f"different: {different[0]}"
    log = list(read_log(folder / "run")) if (folder / "run").is_dir() else []
    scored = [line["images"] for line in log if "score" in line]
    if log and scored[-1:] != [log[-1]["images"]]:
        return "the last weights were not evaluated"
    return ""


def trials(name: str, number: int, base: Path, folder: Path, dice: random.Random, rows: list[dict[str, Any]]) -> None:
    """Kills one command `number` times. Adds a row of the table to `rows`; `faults` lists what went wrong."""
    arguments = COMMANDS[name]
    undisturbed, seconds = [], 0.0
    for _ in range(2):
        renew(base, folder)
        seconds = must(arguments, folder).seconds
        undisturbed.append(content(folder))
    first, second = undisturbed
    stable = {
        path: sha
        for path, sha in first.items()
        if second.get(path) == sha
        and not (name == "train" and path.startswith(BY_TIME))
        and "/checkpoints/" not in path
    }
    row = {"command": name, "kills": 0, "seconds": seconds, "compared": len(stable), "faults": list[dict[str, Any]]()}
    rows.append(row)
    while row["kills"] < number:
        renew(base, folder)
        moments = []
        for _ in range(2 if dice.random() < 1 / 3 else 1):
            moments.append(dice.uniform(0, 1.05 * seconds))
            alive, wrong = kill(arguments, folder, moments[-1])
            row["kills"] += 1
            if not alive or wrong:
                break
        if not wrong:
            ended = complete(arguments, folder)
            wrong = ended.fault or faults_of(folder, first, stable)
            if wrong and ended.code:
                wrong = ended.output.splitlines()[-1]
        if wrong:
            row["faults"].append(
                {"after": [round(moment, 3) for moment in moments], "seconds": seconds, "fault": wrong}
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300, help="kills over all commands")
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=list(COMMANDS), help="commands to kill")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--json", type=Path, help="where the figures go")
    asked = parser.parse_args()
    dice = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        fresh, base, folder = (Path(place) / name for name in ("fresh", "base", "work"))
        write_digits(fresh)
        renew(fresh, base)
        must(TRAIN, base)
        must(EVALUATE, base)
        rows: list[dict[str, Any]] = []
        with contextlib.suppress(KeyboardInterrupt):
            for i, name in enumerate(asked.only):
                share = asked.number * (i + 1) // len(asked.only) - asked.number * i // len(asked.only)
                if share:
                    trials(name, share, fresh if name in FROM_NOTHING else base, folder, dice, rows)
    table("Killed and repeated", [row | {"faults": len(row["faults"])} for row in rows])
    for row in rows:
        for fault in row["faults"]:
            print(f"{row['command']}: {fault['fault']} (killed after {fault['after']} of {fault['seconds']:.2f} s)")
    if asked.json:
        write_json(asked.json, {"machine": machine("torch", "numpy"), "seed": asked.seed, "rows": rows})
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
