"""The run folder: all output of a training run, as plain files.

    config.json      requested options, chosen options and data; used to check whether a run can be resumed
    log.jsonl        one line per report
    samples/         grids from fixed latents, named by images seen
    checkpoints/     complete training state; the checksum is in the file name
    model/           the generator (see generator.py)
    best/            the generator with the best score so far
    averages/        snapshots for `ganvas average`, with --snapshots
    heldout.json     hashes of the held-out images, for `ganvas train --add`
    energy.json      energy of the training, with `--track energy`
    .lock            held by the process that writes, with its number

Only one process may write at a time, controlled by the lock file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import html
import io
import json
import os
import pickle
import re
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from ganvas.callbacks import Callback
from ganvas.data.packing.kept import Kept
from ganvas.errors import CheckpointError, ConfigError, RunError
from ganvas.image_files import as_html, save_png
from ganvas.records import log_lines, record_in
from ganvas.run_config import RunConfig, options_hash
from ganvas.system import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_CHECKPOINT = re.compile(r"(\d{12})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True, order=True)
class _Checkpoint:
    images_seen: int
    path: Path


class Run:
    """A run folder. Use as a context manager, which holds the lock."""

    def __init__(self, folder: str | Path, writes: bool = True) -> None:
        folder = Path(folder)
        self.folder, self.writes = folder, writes
        self.samples = folder / "samples"
        self.checkpoints = folder / "checkpoints"
        self.model = folder / "model"
        self.best = folder / "best"
        self.averages = folder / "averages"
        self.lock = filelock.FileLock(folder / ".lock")
        self.is_locked = False
        self.callbacks: list[Callback] = []
        self.is_new = not folder.exists()

    def __enter__(self) -> Run:
        """Creates the folder if needed and locks it. Raises RunError if another process is training in it.

        Without `writes` (all ranks except the first) nothing is created or locked.
        """
        if not self.writes:
            return self
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder} is a file: choose another folder for the run")
        for place in (self.folder, self.samples, self.checkpoints, self.model, self.best, *self.averages.glob("*")):
            files.sweep(place)
        if self.folder.is_dir() and not self.has_config() and any(p.name != ".lock" for p in self.folder.iterdir()):
            raise RunError(f"{self.folder} has other files and no run: choose a new or an empty folder for the run")
        with files.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.is_locked = files.acquire(self.lock, timeout=0)
            except filelock.Timeout:
                raise RunError(
                    f"another process is training in {self.folder}: wait for it, or choose another folder"
                ) from None
            if self.is_locked and fcntl is not None:
                self.sign_lock()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if self.writes and not self.has_config():  # no run was started: remove the folder
            with contextlib.suppress(OSError):
                Path(self.lock.lock_file).unlink(missing_ok=True)  # some versions of filelock delete it themselves
                if self.is_new:
                    self.folder.rmdir()

    def sign_lock(self) -> None:
        """Write the number of this process into the lock file, unless filelock has (where it cannot use `flock`)."""
        file = Path(self.lock.lock_file)
        if not file.read_bytes().startswith(f"{os.getpid()}\n".encode()):
            file.write_text(f"{os.getpid()}\n{files.HOST}\n")

    def trained_by(self) -> int | None:
        """The number of the process of this machine that trains here; None if there is none, or it is not known.

        It is known on Linux and macOS, for processes of the same user. The process holds the lock, so the number is not
        that of a later process: the system releases the lock of a process that ends.
        """
        if fcntl is None:
            return None
        with contextlib.suppress(OSError, ValueError, OverflowError), Path(self.lock.lock_file).open("rb") as file:
            process, host = file.read(100).decode().split()
            if host == files.HOST and int(process) > 0:
                os.kill(int(process), 0)  # OSError if it has ended, or is another user's
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(process)
        return None

    # -- config --

    def has_config(self) -> bool:
        return (self.folder / "config.json").is_file()

    def config(self, unchanged: bool = False) -> RunConfig:
        """Content of config.json. Raises RunError if it is missing or damaged.

        unchanged: for resuming; raises RunError also if an option is not the one that was written.
        """
        path = self.folder / "config.json"
        try:
            values = files.parse_json(path.read_bytes())
            config = RunConfig.from_dict(values, str(path))
        except FileNotFoundError:
            raise RunError(f"{self.folder} is not a run folder (it has no config.json)") from None
        except ValueError as error:
            raise RunError(f"{path} is damaged: restore it, or start a new run in another folder") from error
        except ConfigError as error:
            raise RunError(str(error)) from error
        if unchanged and config.checksum not in ("", options_hash(values)):
            raise RunError(
                f"{path} is damaged: its options do not match its checksum; restore it, or start a new run in another "
                "folder"
            )
        return config

    def write_config(self, config: RunConfig) -> None:
        files.write_json(self.folder / "config.json", config.to_dict())

    def rename(self, title: str) -> None:
        """Change the title of the run, which reports and model cards show; the folder keeps its name.

        An empty title makes it the name of the folder again.
        """
        config = self.config(unchanged=True)
        self.write_config(dataclasses.replace(config, name=title or self.folder.name, titled=bool(title)))

    # -- held-out images --

    def write_heldout(self, kept: Kept) -> None:
        files.write_json(self.folder / "heldout.json", kept.to_dict())

    def heldout(self) -> Kept | None:
        """The held-out images at the start of the run; None in runs of ganvas 0.1.0. Raises RunError if damaged."""
        path = self.folder / "heldout.json"
        try:
            return Kept.from_dict(files.parse_json(path.read_bytes()))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{path} is damaged: restore it, or start a new run in another folder") from error

    # -- log --

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to log.jsonl and informs the callbacks."""
        path = self.folder / "log.jsonl"
        with files.explained(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for callback in self.callbacks:
            callback.on_log(int(record["images"]), {name: one for name, one in record.items() if name != "images"})

    def add_grid(self, images_seen: int, pixels: np.ndarray, text: Mapping[str, str]) -> Path:
        """Writes a preview grid (H, W, C) with metadata `text`; informs the callbacks of a new one."""
        path = self.samples / f"{images_seen:012d}.png"
        self.samples.mkdir(exist_ok=True)
        is_new = not path.exists()  # at the end of a training, the last grid is drawn again
        save_png(path, pixels, text)
        for callback in self.callbacks if is_new else ():
            callback.on_preview(images_seen, path)
        return path

    @contextlib.contextmanager
    def informing(self, callbacks: list[Callback], images_seen: Callable[[], int]) -> Generator[None]:
        """Informs the callbacks of the training inside. images_seen: their number at the end."""
        with contextlib.ExitStack() as ends:  # every callback that started is ended, also after an error of another one
            for callback in callbacks:
                callback.on_start(self.folder, self.config().to_dict())
                ends.callback(lambda callback=callback: callback.on_end(images_seen()))
            self.callbacks = callbacks
            try:
                yield
            finally:
                self.callbacks = []

    # -- for notebooks --

    def __repr__(self) -> str:
        if not self.has_config():
            return f"Run({self.folder}, no training yet)"
        config = self.config()
        model, grids = config.model, self.grids()
        shape = f"{model.height}x{model.width}x{model.channels}"
        seen = f"{grids[-1][0]:,} images seen" if grids else "no preview yet"
        return f"Run({self.folder}, {model.model}, {shape}, {seen}, budget {config.budget})"

    def _repr_html_(self) -> str:
        """The newest preview grid."""
        grids = self.grids()
        return as_html(grids[-1][1].read_bytes(), repr(self)) if grids else html.escape(repr(self))

    def cut_log(self, images_seen: int) -> int:
        """Removes log lines and grids after `images_seen`, which a resumed run writes again, and damaged lines.

        Returns the number of damaged lines.
        """
        path = self.folder / "log.jsonl"
        damaged = 0
        if path.exists():
            lines = [(line, record_in(line)) for line in log_lines(self.folder)]
            damaged = sum(record is None for _, record in lines)
            kept = [line for line, record in lines if record is not None and record["images"] <= images_seen]
            files.write_atomically(path, lambda file: file.writelines(line + b"\n" for line in kept))
        for images, grid in self.grids():
            if images > images_seen:
                grid.unlink()
        return damaged

    def grids(self) -> list[tuple[int, Path]]:
        """(images seen, file) of every preview grid, in order."""
        named = (path for path in self.samples.glob("*.png") if re.fullmatch(r"[0-9]+", path.stem))
        return sorted((int(path.stem), path) for path in named)

    # -- checkpoints --

    def save_checkpoint(self, state: dict[str, Any], images_seen: int, keep: int) -> Path:
        """Writes a checkpoint with its checksum in the file name; keeps the newest `keep`."""
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

    def saved(self) -> list[_Checkpoint]:
        """Checkpoints by images seen, oldest first."""
        paths = (path for path in self.checkpoints.glob("*.pt") if _CHECKPOINT.fullmatch(path.name))
        return sorted(_Checkpoint(int(path.name[:12]), path) for path in paths)

    def load_checkpoint(
        self, say: Callable[[str], None], device: torch.device, repair: bool = True
    ) -> dict[str, Any] | None:
        """State of the newest undamaged checkpoint; None if there is none yet. Reports damaged checkpoints with `say`.

        repair: rename damaged ones. Raises CheckpointError if all are damaged, because a new start would overwrite a
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
                        f"{error}, and {self.folder} has no other good checkpoint: choose another --out"
                    ) from error
                say(f"{error}; using the previous one")
                continue
            for path in damaged if repair else ():
                path.rename(path.with_suffix(".damaged"))
            return state
        return None


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads one checkpoint. Raises CheckpointError if it does not match the checksum in its name.

    Only tensors and plain values are unpickled, so a forged checkpoint cannot run code.
    """
    match = _CHECKPOINT.fullmatch(path.name)
    if match is None or files.sha256(path)[:16] != match[2]:
        raise CheckpointError(f"the checkpoint {path.name} is damaged")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"the checkpoint {path.name} was not written by Ganvas") from error


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
