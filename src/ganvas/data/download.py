"""Resumable downloads, verified by checksum."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ganvas.data.packing.pack import Progress
from ganvas.errors import DataError


@dataclass(frozen=True)
class File:
    """One file of a data set."""

    name: str
    url: str | None = None
    """None: manual download only (see the hint of the data set)."""
    checksum: str | None = None
    """Hexadecimal SHA-256, or MD5 if only that is published; None if unknown."""
    num_bytes: int | None = None


def download(file: File, target: Path, progress: Progress | None = None) -> None:
    """Downloads one file to `target`.part, resuming an earlier attempt, verifies it, then renames it.

    Raises `DataError` if the checksum is wrong, OSError if the network fails.
    """
    assert file.url is not None
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    if not (file.num_bytes and have == file.num_bytes):
        _receive(file.url, part, have, file.name, progress)
    kind = "MD5" if len(file.checksum or "") == 32 else "SHA-256"
    with part.open("rb") as received:
        checksum = hashlib.file_digest(received, kind.replace("-", "").lower()).hexdigest()
    if file.checksum is not None and checksum != file.checksum:
        part.unlink()
        raise DataError(
            f"{file.name} from {file.url} has {kind} {checksum}, but {file.checksum} was expected: "
            f"the download was deleted; try again, or put the correct file at {target}"
        )
    part.rename(target)


def _receive(url: str, part: Path, have: int, name: str, progress: Progress | None) -> None:
    """Appends the missing bytes to `part`; starts over if the server does not support resuming."""
    ask = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(ask, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the file is already complete
            error.close()
            return
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        done = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else 0
        while block := answer.read(2**18):
            file.write(block)
            done += len(block)
            if progress:
                progress(f"downloading {name}", done, total)
    if total and done < total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes; the next attempt resumes there")
