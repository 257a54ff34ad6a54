"""Images that the page uploads: one archive, or image files with the names of their folders, sent in pieces.

Only files with the ending of an image or an archive are accepted, so an upload cannot look like a run or a model.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ganvas.data.reading.containers import PICTURES
from ganvas.data.reading.sources import ARCHIVES
from ganvas.errors import ConfigError, amount
from ganvas.studio.errors import AbsentError, BusyError, ConflictError, TooLargeError
from ganvas.system import files

_MOST_FILES, _MOST_BYTES = 100_000, 2**36  # per upload
RESERVE = 2**30  # bytes that stay free on the disk
_MOST_OPEN = 8  # unfinished uploads
_DEEP, _LONGEST = 4, 120  # folders in a name; characters of each part
_UNUSABLE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(eq=False)
class _Upload:
    """Files that arrive. sizes: bytes received of each file."""

    folder: Path
    num_files: int
    num_bytes: int
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    sizes: dict[str, int] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Uploads:
    """Uploads into subfolders of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[str, _Upload] = {}
        self.lock = threading.Lock()

    def close(self) -> None:
        """Delete what is not finished."""
        for upload in list(self.open.values()):
            self.remove(upload.id)

    def begin(self, name: str, num_files: int, num_bytes: int) -> _Upload:
        """Start an upload into a new folder. Raises TooLargeError if the disk has too little space."""
        check_part(name)
        if num_files > _MOST_FILES or num_bytes > _MOST_BYTES:
            raise TooLargeError(
                f"the upload has {num_files:,} files and {num_bytes:,} bytes: send at most {_MOST_FILES:,} and "
                f"{_MOST_BYTES:,}, or copy them to this machine and choose the folder"
            )
        with self.lock:
            if len(self.open) >= _MOST_OPEN:
                raise BusyError(f"{_MOST_OPEN} uploads are not finished: finish or cancel one of them", 10)
            with files.explained(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(self.folder).free
                if num_bytes + RESERVE > free:
                    raise TooLargeError(f"the upload has {num_bytes:,} bytes and the disk only {free:,} free")
                folder = _free_name(self.folder, name)
                folder.mkdir()
            upload = _Upload(folder, num_files, num_bytes)
            self.open[upload.id] = upload
        return upload

    def write(self, identity: str, name: str, start: int, content: bytes, last: bool) -> int:
        """Append a piece to a file; `last` completes it. Returns the bytes received of this file.

        Raises ConflictError if `start` is not the number of bytes received so far, which an interrupted client
        can ask for with an empty piece.
        """
        upload = self.find(identity)
        path = upload.folder / _checked_name(name)
        with upload.lock:
            self.find(identity)  # it may have been cancelled in the meantime
            have = upload.sizes.get(name, 0)
            if name in upload.complete or start != have:
                raise ConflictError(f"{name}: {have:,} bytes have been received, and this piece starts at {start:,}")
            if name not in upload.sizes and len(upload.sizes) >= upload.num_files:
                raise TooLargeError(f"the upload has more than the {upload.num_files:,} files that it announced")
            if sum(upload.sizes.values()) + len(content) > upload.num_bytes:
                raise TooLargeError(f"the upload has more than the {upload.num_bytes:,} bytes that it announced")
            partial = path.with_name(f".{path.name}.part")
            with files.explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("ab" if have else "wb") as file:
                    file.truncate(have)
                    file.write(content)
                upload.sizes[name] = have + len(content)
                if last:
                    partial.replace(path)
                    upload.complete.add(name)
        return upload.sizes[name]

    def finish(self, identity: str) -> Path:
        """The source of the training: the archive, or the folder. Raises ConflictError if files are incomplete."""
        upload = self.find(identity)
        with upload.lock:
            missing = upload.num_files - len(upload.complete)
            if missing or not upload.complete:
                raise ConflictError(f"this upload lacks {amount(missing, 'file')}: send the rest, or cancel it")
            archives = [name for name in upload.complete if name.lower().endswith(ARCHIVES)]
            if archives and len(upload.complete) > 1:
                raise ConfigError("the upload has an archive and other files: send one archive, or image files only")
        with self.lock:
            self.open.pop(identity, None)
        return upload.folder / archives[0] if archives else upload.folder

    def remove(self, identity: str) -> None:
        """Cancel an upload and delete its files."""
        upload = self.find(identity)
        with self.lock:
            self.open.pop(identity, None)
        with upload.lock:
            shutil.rmtree(upload.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # if it is empty

    def find(self, identity: str) -> _Upload:
        upload = self.open.get(identity)
        if upload is None:
            raise AbsentError(f"upload {identity!r} does not exist or is finished: start it again")
        return upload


def _checked_name(name: str) -> Path:
    """A file name with its folders, such as cats/1.png. Raises ConfigError if it is not one."""
    parts = name.split("/")
    for part in parts:
        check_part(part)
    if len(parts) > _DEEP:
        raise ConfigError(f"{name[:200]!r}: the file is in more than {_DEEP - 1} folders")
    if not name.lower().endswith((*PICTURES, *ARCHIVES)):
        raise ConfigError(f"{name[:200]!r} is neither an image nor an archive: expected {', '.join(PICTURES)} or .zip")
    return Path(*parts)


def check_part(part: str) -> None:
    """Raises ConfigError for a name that some system cannot use as that of a file or folder."""
    odd = _UNUSABLE.search(part) or _WINDOWS.fullmatch(part) or not part.isprintable() or part != part.strip()
    if not part or len(part) > _LONGEST or odd or part.startswith(".") or part.endswith(".") or "/" in part:
        raise ConfigError(
            f"the name {part[:200]!r}: expected 1 to {_LONGEST} letters, digits, spaces, dots, - and _, with a letter "
            "or digit first"
        )


def _free_name(folder: Path, name: str) -> Path:
    """A path in the folder that does not exist: the name, else name-2, name-3 ..."""
    number = 2
    path = folder / name
    while path.exists():
        path, number = folder / f"{name}-{number}", number + 1
    return path
