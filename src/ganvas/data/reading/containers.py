"""Containers of image files: the folder; archives.py has the others.

Each lists its files with printable names, reports rejected files with reasons, and reads contents in one pass.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ganvas.data.reading.video import is_video
from ganvas.errors import PictureError, some
from ganvas.image_formats import IMAGE_FORMATS

PICTURES = (*(ending for form in IMAGE_FORMATS.values() for ending in form.endings), ".dcm", ".dicom")

MAX_FILE_BYTES = 2**30
"""Larger files are rejected unread: no image within headers.MAX_PIXELS is this large."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    name: str
    """Unique in the source, "/" between folders, printable."""
    label: str | None
    """Class name; None if the source has no labels."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An unusable file and the reason."""

    name: str
    reason: str
    option: str = ""
    """Advice for the user, e.g. "--labels none uses all"; empty if there is none."""


def by_reason(rejected: Iterable[Rejection]) -> str:
    """Number of rejected files per reason, most frequent first, with examples and advice."""
    groups: dict[tuple[str, str], list[str]] = {}
    for rejection in rejected:
        groups.setdefault((rejection.reason, rejection.option), []).append(rejection.name)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    parts = []
    for (reason, option), names in ordered:
        then = f"; {option}" if option else ""
        one = len(names) == 1
        parts.append(f"{names[0]} ({reason}{then})" if one else f"{len(names):,} x {reason} ({some(names, 2)}{then})")
    return some(parts, 5)


class Container(Protocol):
    """A collection of files. Names are printable and unique; hidden files are not listed."""

    form: str
    path: Path
    names: list[str]
    rejected: list[Rejection]

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | Path | PictureError]]:
        """The contents of the named files, in the order of `self.names`, in one pass; of a video in a folder its path,
        because it may be larger than the memory."""
        ...

    def starts(self, names: Iterable[str], num_bytes: int) -> Iterator[tuple[str, bytes]]:
        """The first bytes of the named files, in that order; empty for unreadable files."""
        ...


class Folder:
    """All files below a folder. Links to folders are followed, each real folder once."""

    form = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected: list[Rejection] = []
        self._files: dict[str, str] = {}  # printable name -> path on disk
        seen = {_identity(path.stat())}
        links = self._walk([(os.fspath(path), "")], seen)
        # Links are followed last, so that a folder is listed under its own name.
        while links:
            location, name = links.pop(0)
            if (identity := _identity(Path(location).stat())) in seen:
                self.rejected.append(Rejection(name, "symbolic link to a folder that is already listed"))
            else:
                seen.add(identity)
                links += self._walk([(location, name + "/")], seen)
        self._files = dict(sorted(self._files.items()))
        self.names = list(self._files)

    def _walk(self, pending: list[tuple[str, str]], seen: set[tuple[int, int]]) -> list[tuple[str, str]]:
        """Lists files below the pending (location, name prefix) folders; returns links to folders without following."""
        links = []
        while pending:
            location, prefix = pending.pop()
            try:
                entries = sorted(os.scandir(location), key=lambda entry: entry.name)
            except OSError as error:
                self.rejected.append(Rejection(prefix.rstrip("/") or ".", f"folder cannot be read: {error.strerror}"))
                continue
            if prefix and _made_by_ganvas(location, {entry.name for entry in entries}):
                self.rejected.append(Rejection(prefix.rstrip("/"), "folder written by Ganvas, not used as data"))
                continue
            for entry in entries:
                name = prefix + printable(entry.name)
                if hidden(name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    seen.add(_identity(entry.stat()))
                    pending.append((entry.path, name + "/"))
                elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112 (Path.is_dir may raise)
                    links.append((entry.path, name))
                else:
                    self._add(entry, name)
        return links

    def _add(self, entry: os.DirEntry[str], name: str) -> None:
        try:
            regular = entry.is_file()
        except OSError:  # circular link
            regular = False
        if regular:
            self._files[name] = entry.path
        elif is_picture(name):
            reason = "broken symbolic link" if entry.is_symlink() else "not a regular file"
            self.rejected.append(Rejection(name, reason))

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | Path | PictureError]]:
        wanted = set(names)
        for name in self.names:
            if name in wanted:
                try:
                    location = self._files[name]
                    yield name, Path(location) if is_video(name) else _read_whole(location)
                except PictureError as error:
                    yield name, error
                except OSError as error:
                    yield name, PictureError(f"cannot be read: {error.strerror}")

    def starts(self, names: Iterable[str], num_bytes: int) -> Iterator[tuple[str, bytes]]:
        wanted = set(names)
        for name in self.names:
            if name in wanted:
                try:
                    with Path(self._files[name]).open("rb") as file:
                        yield name, file.read(num_bytes)
                except OSError:
                    yield name, b""

    def locations(self) -> dict[str, str]:
        """Printable name -> path on disk, for `fingerprint_of`."""
        return self._files


class Single(Folder):
    """A single file, treated as a folder with one file."""

    form = "file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = []
        self._files = {printable(path.name): os.fspath(path)}
        self.names = list(self._files)


def _read_whole(path: str | Path) -> bytes:
    """Content of a file. Raises `PictureError` for files larger than any image."""
    with open(path, "rb") as file:  # noqa: PTH123 (a Path takes longer to make than a small file to read)
        size = os.fstat(file.fileno()).st_size
        if size <= MAX_FILE_BYTES:
            content = file.read(size + 1)  # a larger number would reserve that much memory for every file
            if len(content) > size:  # the size is unknown, or the file has grown
                content += file.read(MAX_FILE_BYTES + 1 - len(content))
            if len(content) <= MAX_FILE_BYTES:
                return content
    raise PictureError(f"too large: more than {MAX_FILE_BYTES:,} bytes")


_OWN_FILES = {
    "generator.safetensors": b"",
    "heldout.npy": b"",
    "config.json": b'"ganvas": "',
    "recipe.json": b'"ganvas": "',
    ".ganvas-publish.json": b'"ganvas": "',
    "manifest.csv": b"file,seed,label,truncation,model",
}
"""Files of runs, models, packs, projections and samples -> first bytes of those written by Ganvas."""


def _made_by_ganvas(folder: str, names: Collection[str]) -> bool:
    """Whether a folder inside the data is a run, a pack, a model or samples, whose images are not data."""
    for name in _OWN_FILES.keys() & set(names):
        try:
            with Path(folder, name).open("rb") as file:
                if _OWN_FILES[name] in file.read(512):
                    return True
        except OSError:
            continue
    return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def printable(name: str) -> str:
    """The file name with invalid UTF-8 bytes and control characters as backslash escapes."""
    if name.isprintable():
        return name
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def hidden(name: str) -> bool:
    """Hidden and system files. ".." is not hidden; `member_refusal` rejects it with a reason."""
    parts = name.split("/")
    if parts[-1].lower() in ("thumbs.db", "desktop.ini"):
        return True
    if not name.startswith(".") and "/." not in name and "__MACOSX" not in name:
        return False  # nearly all names
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in parts)


def is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)
