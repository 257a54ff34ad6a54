"""The run folder: all that a training run leaves behind, as plain files.

    config.json      what was asked, what was chosen, and on which data: decides whether a run may be resumed
    log.jsonl        one line per report
    samples/         grids from fixed latents, named by images seen
    checkpoints/     everything that training needs to go on; the name carries the checksum
    model/           the generator (see generator.py)
    best/            the generator of the best score so far
    averages/        snapshots for `ganvas average`, where asked for

One process at a time may write: a lock file says who.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch

from ganvas import files
from ganvas.errors import CheckpointError, RunError

PARTS = ("data", "model", "asked", "train")  # of config.json, without which a run cannot go on
CHECKPOINT = re.compile(r"(\d{12})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True, order=True)
class Checkpoint:
    images_seen: int
    path: Path


class Run:
    """An opened run folder. Use as a context manager: the lock is held inside."""

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self.samples = folder / "samples"
        self.checkpoints = folder / "checkpoints"
        self.model = folder / "model"
        self.best = folder / "best"
        self.averages = folder / "averages"
        self.lock = filelock.FileLock(folder / ".lock")
        self.is_new = not folder.exists()

    def __enter__(self) -> Run:
        """Makes the folder if need be and locks it; raises RunError when another process is training in it.

        Without `writes` (every rank but the first) nothing is made or locked.
        """
        if not self.writes:
            return self
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder} is a file: choose another folder for the run")
        if self.folder.is_dir() and not self.has_config() and any(p.name != ".lock" for p in self.folder.iterdir()):
            raise RunError(f"{self.folder} holds other files and no run: choose a new or an empty folder for the run")
        with files.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire(timeout=0)
            except filelock.Timeout:
                raise RunError(
                    f"another process is training in {self.folder}: wait for it, or choose another folder"
                ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if self.writes and not self.has_config():  # nothing came of it: leave nothing behind
            with contextlib.suppress(OSError):
                Path(self.lock.lock_file).unlink()
                if self.is_new:
                    self.folder.rmdir()

    # -- what it is --

    def has_config(self) -> bool:
        return (self.folder / "config.json").is_file()

    def config(self) -> dict[str, Any]:
        """The content of config.json; RunError when it is missing or unreadable."""
        path = self.folder / "config.json"
        damaged = f"{path} is damaged: restore it, or start a new run in another folder"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.folder} is not a run folder (it has no config.json)") from None
        except ValueError as error:
            raise RunError(damaged) from error
        if not (isinstance(config, dict) and all(isinstance(config.get(part), dict) for part in PARTS)):
            raise RunError(damaged)
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        files.write_json(self.folder / "config.json", config)

    # -- log --

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to log.jsonl."""
        path = self.folder / "log.jsonl"
        with files.explained(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def cut_log(self, images_seen: int) -> None:
        """Drops log lines and grids after `images_seen`: a resumed run writes them again."""
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if said_by(line, images_seen)]
            files.write_text(path, "".join(line + "\n" for line in lines))
        for images, grid in self.grids():
            if images > images_seen:
                grid.unlink()

    def grids(self) -> list[tuple[int, Path]]:
        """(images seen, file) of every preview grid, in order."""
        found = [(int(path.stem), path) for path in self.samples.glob("*.png") if re.fullmatch(r"[0-9]+", path.stem)]
        return sorted(found)

    # -- checkpoints --

    def save_checkpoint(self, state: dict[str, Any], images_seen: int, keep: int) -> Path:
        """Writes a checkpoint whose name carries its checksum; keeps the newest `keep`."""
        with files.explained(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self.checkpoints / f"{images_seen:012d}-{digest}.pt"
        files.write_atomically(path, lambda file: file.write(content))
        for checkpoint in self.saved()[:-keep]:
            checkpoint.path.unlink()
        return path

    def saved(self) -> list[Checkpoint]:
        """Checkpoints by images seen, oldest first."""
        paths = (path for path in self.checkpoints.glob("*.pt") if CHECKPOINT.fullmatch(path.name))
        return sorted(Checkpoint(int(path.name[:12]), path) for path in paths)

    def load_checkpoint(
        self, say: Callable[[str], None], device: torch.device, repair: bool = True
    ) -> dict[str, Any] | None:
        """The newest undamaged checkpoint's state, None before the first one; says which damaged ones were passed over.

        repair: rename the damaged ones. Raises CheckpointError when all are damaged: to begin anew would overwrite a
        model that may be good.
        """
        damaged: list[Path] = []
        for checkpoint in reversed(self.saved()):
            try:
                state = read_checkpoint(checkpoint.path, device)
            except CheckpointError as error:
                damaged.append(checkpoint.path)
                if len(damaged) == len(self.saved()):
                    raise CheckpointError(
                        f"{error}, and {self.folder} has no other that is good: choose another --out"
                    ) from error
                say(f"{error}; going back to the one before")
                continue
            for path in damaged if repair else ():
                path.rename(path.with_suffix(".damaged"))
            return state
        return None


def said_by(line: str, images_seen: int) -> bool:
    try:
        return json.loads(line)["images"] <= images_seen
    except (ValueError, KeyError):
        return False  # a line cut short by a crash


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads one checkpoint; raises CheckpointError when its bytes do not match the checksum in its name.

    Nothing but tensors and plain values is ever unpickled, so a forged checkpoint runs no code.
    """
    match = CHECKPOINT.fullmatch(path.name)
    if match is None or files.sha256(path)[:16] != match[2]:
        raise CheckpointError(f"the checkpoint {path.name} is damaged")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"the checkpoint {path.name} is not one of Ganvas") from error


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a run's log.jsonl, in order."""
    path = folder / "log.jsonl"
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
