"""Downloads that go on where they stopped and are checked before anybody sees them."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ganvas.data.pack import Progress
from ganvas.errors import DataError


@dataclass(frozen=True)
class File:
    """One file of a data set."""

    name: str
    url: str | None = None
    """None: only by hand, as the set's hint says."""
    checksum: str | None = None
    """In hexadecimal: SHA-256 as published, or as recorded here; MD5 where only that is; None where nothing is."""
    num_bytes: int | None = None


def download(file: File, target: Path, progress: Progress | None = None) -> None:
    """Download one file: into `target`.part, going on where an earlier try stopped, checked, then renamed.

    Raises `DataError` when what arrived is not what was published, OSError when the network fails.
    """
    assert file.url is not None
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    if not (file.num_bytes and have == file.num_bytes):
        _receive(file.url, part, have, file.name, progress)
    kind = "MD5" if len(file.checksum or "") == 32 else "SHA-256"
    with part.open("rb") as received:
        found = hashlib.file_digest(received, kind.replace("-", "").lower()).hexdigest()
    if file.checksum is not None and found != file.checksum:
        part.unlink()
        raise DataError(
            f"{file.name} from {file.url} has {kind} {found}, but {file.checksum} was expected: "
            f"what arrived was deleted; try again, or put the right file at {target}"
        )
    part.rename(target)


def _receive(url: str, part: Path, have: int, name: str, progress: Progress | None) -> None:
    """Append what is missing to `part`; starts over where the server cannot continue."""
    ask = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(ask, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing: the try before got it all
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
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes; the next try goes on from there")
