"""Atomic file writes (temporary file, sync, rename), locks, and the cache folder."""

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

_SET_CACHE = "set the environment variable GANVAS_CACHE to a writable folder"
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.ENODEV})
"""Errors of network file systems that cannot lock, sync or map files."""
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # machines may share a disk
_TEMPORARY = re.compile(rf"\..+\.{HOST}-(\d+)\.tmp", re.DOTALL)
_swept: set[Path] = set()  # folders already cleaned by this process


def write_atomically(path: Path, write: Callable[[BinaryIO], object], sync: bool = True) -> None:
    """Calls `write` with an open file. Afterwards `path` has the complete new content, or is unchanged.

    sync: make this safe against power failure. Without it writing is many times faster.
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
    """`os.fsync`, ignored on file systems that do not support it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (*_UNSUPPORTED, errno.EBADF):
            raise


def acquire(lock: filelock.BaseFileLock, timeout: float = -1.0) -> bool:
    """Acquires the lock and returns True; returns False on file systems without locks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warning of filelock about a fallback
        try:
            lock.acquire(timeout=timeout)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return False
    return True


def no_locks(folder: Path) -> str:
    """Message for the case that `acquire` returns False."""
    return f"{folder} is on a file system without locks: make sure that no other process writes there"


def load_array(path: Path) -> np.ndarray:
    """Opens an .npy file memory-mapped and read-only; loads it to memory if the file system cannot map files.

    Raises ValueError if it is damaged.
    """
    try:
        try:
            return np.lib.format.open_memmap(path, mode="r")
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # a damaged header can make numpy raise almost anything
        raise ValueError(f"{path.name} has a damaged header") from error


def cache_dir() -> Path:
    """Folder of packs and downloads: $GANVAS_CACHE, else the user's cache folder."""
    if place := os.environ.get("GANVAS_CACHE"):
        return Path(place)
    with contextlib.suppress(RuntimeError):  # no home folder
        if (folder := Path(platformdirs.user_cache_dir("ganvas"))).is_absolute():
            return folder
    raise GanvasError(f"no home folder found for packs and downloads: {_SET_CACHE}")


def another_place(path: Path) -> str:
    """Advice for a location that cannot be written."""
    with contextlib.suppress(GanvasError):
        if path.is_relative_to(cache_dir()):
            return _SET_CACHE
    return "choose another folder"


def sweep(folder: Path) -> None:
    """Deletes temporary files in `folder` left by killed processes of this machine."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match is not None and not _is_alive(int(match[1])):
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether a process with this ID is running on this machine; True if unknown."""
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
    """Writes UTF-8. Invalid characters of file names become backslash escapes, which JSON can read."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, lambda file: file.write(json_bytes(value)))


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def parse_json(text: str | bytes) -> Any:
    """`json.loads` that raises ValueError also for too deep nesting."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def inside(folder: Path, name: object) -> Path | None:
    """Path below `folder` for a name read from a file; None if it is not text or points outside."""
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
    """Converts OSError for a full disk or an unwritable location to GanvasError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise GanvasError(
                f"no space left on the disk while writing {path}: free some space, then run the same command again"
            ) from error
        raise GanvasError(f"{path} cannot be written ({error.strerror}): {another_place(path)}") from error
