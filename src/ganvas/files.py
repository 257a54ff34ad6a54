"""Files that are whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import platformdirs

from ganvas.errors import GanvasError

SET_CACHE = "set the variable GANVAS_CACHE to a folder that can be written"
UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.ENODEV})
"""What network file systems answer where they cannot lock, sync or map a file."""
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # several machines may share a disk
TEMPORARY = re.compile(rf"\..+\.{HOST}-(\d+)\.tmp", re.DOTALL)
_swept: set[Path] = set()  # by this process, before it first writes there


def write_atomically(path: Path, write: Callable[[BinaryIO], object], sync: bool = True) -> None:
    """Calls `write` with an open file; `path` then holds all of it, or what it held before.

    sync: also after a power cut. Without it a file is written many times faster, and may be empty after one.
    """
    if path.parent not in _swept:
        _swept.add(path.parent)
        sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")
    try:
        with explained(path):
            with temporary.open("wb") as file:
                write(file)
                if sync:
                    file.flush()
                    sync_to_disk(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync_to_disk(handle: int) -> None:
    """`os.fsync`, where the file system can: some network places cannot sync folders, or anything."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (*UNSUPPORTED, errno.EBADF):
            raise


def acquire(lock: filelock.BaseFileLock, timeout: float = -1.0) -> bool:
    """Locks, and answers True; False on a file system without locks, where nobody can be kept out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock's, which then takes the file itself for the lock
        try:
            lock.acquire(timeout=timeout)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return False
    return True


def no_locks(folder: Path) -> str:
    """What is said where `acquire` answered False."""
    return f"{folder} is on a file system without locks: take care that no other process writes there"


def load_array(path: Path) -> np.ndarray:
    """An .npy file, mapped into memory to be read; where a file system cannot map files, as an array in memory."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return np.load(path, allow_pickle=False)


def cache_dir() -> Path:
    """Where packs and downloads are kept: $GANVAS_CACHE, else the user's cache folder."""
    if place := os.environ.get("GANVAS_CACHE"):
        return Path(place)
    with contextlib.suppress(RuntimeError):  # there is no home folder
        if (found := Path(platformdirs.user_cache_dir("ganvas"))).is_absolute():
            return found
    raise GanvasError(f"there is no home folder for packs and downloads: {SET_CACHE}")


def another_place(path: Path) -> str:
    """The advice for a place that cannot be written."""
    with contextlib.suppress(GanvasError):
        if path.is_relative_to(cache_dir()):
            return SET_CACHE
    return "choose another place"


def sweep(folder: Path) -> None:
    """Deletes what killed processes of this machine left of files that they were writing into `folder`."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = TEMPORARY.fullmatch(path.name)
            if match is not None and not is_alive(int(match[1])):
                path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether a process of this number is running here; True where that cannot be known."""
    if os.name == "nt":  # there is no harmless signal
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """UTF-8; what a file name brings that is no text becomes a backslash escape, which JSON reads back as it was."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, with ValueError also for what nests too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def inside(folder: Path, name: object) -> Path | None:
    """The place below `folder` that a name from a file means; None for no text, and for what lies outside."""
    if not isinstance(name, str):
        return None
    try:
        path = folder / name
        return path if path.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, ValueError):
        return None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explained(path: Path) -> Generator[None]:
    """Turns a full disk, or a place that is forbidden or impossible, into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise GanvasError(
                f"no space left while writing {path}: free some, then run the same command again"
            ) from error
        raise GanvasError(f"{path} cannot be written ({error.strerror}): {another_place(path)}") from error
