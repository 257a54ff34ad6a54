"""Containers of image files: zip and tar archives, and decompression with limits.

Archives are not unpacked to disk; compressed tars are only read forwards.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ganvas.data.reading.containers import MAX_FILE_BYTES, Rejection, hidden, printable
from ganvas.errors import DataError, PictureError

_MAX_HELD_BYTES = 2**28  # total size of file contents that a tar keeps in memory; CIFAR needs 186 MB
MAX_MEMBERS = 500_000
"""Maximum number of files in an archive; longer lists read faster from a folder."""
_MAX_NAME = 1000  # characters; names are kept in memory
_PLAIN_BYTES, _MAX_RATIO = 2**26, 200
"""Data that decompress to more than this many bytes and more than this ratio count as a decompression bomb."""
_XZ_MEMORY = 2**28  # memory limit of the decoder, in bytes; the highest level of xz needs 65 MiB


# Exceptions for damaged members of a zip and for unsupported compression methods.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError),
    *(RuntimeError, NotImplementedError, MemoryError),
)


class Zip:
    """A zip archive, read in place."""

    form = "zip"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected: list[Rejection] = []
        self._members: dict[str, zipfile.ZipInfo] = {}
        with broken_archive(path):
            _refuse_many(path, num_listed(path))
        with broken_archive(path), zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = _member_name(member.filename.replace("\\", "/"))
                if member.is_dir() or hidden(name):
                    continue
                if reason := self._refusal(name, member):
                    self.rejected.append(Rejection(name[:_MAX_NAME], reason))
                else:
                    self._members[name] = member
        self._members = dict(sorted(self._members.items()))
        self.names = list(self._members)

    def _refusal(self, name: str, member: zipfile.ZipInfo) -> str | None:
        if member.flag_bits & 1:
            return "encrypted: unpack the archive with its password first"
        if stat.S_ISLNK(member.external_attr >> 16):
            return "a link, not a file"
        if is_bomb(member.file_size, member.compress_size):
            return f"decompression bomb: {member.compress_size:,} bytes that expand to {member.file_size:,}"
        return _member_refusal(name, member.file_size, self._members)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | PictureError]]:
        wanted = set(names)
        with broken_archive(self.path), zipfile.ZipFile(self.path) as archive:
            for name, member in self._members.items():
                if name in wanted:
                    yield name, self._content(archive, member)

    def _content(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | PictureError:
        try:
            return archive.read(member)
        except NotImplementedError:
            return PictureError("compressed with an unsupported method")
        except _UNREADABLE:
            return PictureError("damaged in the archive")

    def starts(self, names: Iterable[str], num_bytes: int) -> Iterator[tuple[str, bytes]]:
        wanted = set(names)
        with broken_archive(self.path), zipfile.ZipFile(self.path) as archive:
            for name, member in self._members.items():
                if name in wanted:
                    try:
                        with archive.open(member) as file:
                            yield name, file.read(num_bytes)
                    except _UNREADABLE:
                        yield name, b""


class Tar:
    """A tar archive, plain or compressed. Read only forwards, from the first file to the last."""

    form = "tar"

    def __init__(self, path: Path, hold: Callable[[str], bool] = lambda name: False) -> None:
        """hold: selects small files whose content the first pass keeps; they identify the data set."""
        self.path = path
        self.rejected: list[Rejection] = []
        self._members: dict[str, str] = {}  # name in the archive -> printable name
        self._held: dict[str, bytes] = {}
        with broken_archive(path):
            self._list(hold)
        self.names = list(self._members.values())

    def _list(self, hold: Callable[[str], bool]) -> None:
        names: set[str] = set()
        held = 0
        for num, (archive, member) in enumerate(self._pass()):
            _refuse_many(self.path, num)
            name = _member_name(member.name)
            if member.isdir() or hidden(name):
                continue
            reason = None if member.isreg() else "a link or device, not a file"
            if member.issparse():  # a few bytes may expand to any number of zeros
                reason = "a sparse file: pack the archive again without --sparse"
            if reason := reason or _member_refusal(name, member.size, names):
                self.rejected.append(Rejection(name[:_MAX_NAME], reason))
            else:
                names.add(name)
                self._members[member.name] = name
                if hold(name) and held + member.size <= _MAX_HELD_BYTES:
                    held += member.size
                    self._held[name] = _content(archive, member)

    def _pass(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with (
            open_compressed(self.path) as plain,
            tarfile.open(fileobj=plain, mode="r|", bufsize=2**16, tarinfo=_StrictInfo) as archive,
        ):
            while (member := archive.next()) is not None:
                archive.members.clear()  # ty: ignore[missing-attribute]  # otherwise all members stay in memory
                yield archive, member
            if archive.fileobj.tell() < archive.offset:
                raise tarfile.ReadError("unexpected end of data")
            while plain.read(2**16):  # read to the end, so that gzip verifies its checksum
                pass

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | PictureError]]:
        return self.starts(names, -1)

    def starts(self, names: Iterable[str], num_bytes: int) -> Iterator[tuple[str, bytes]]:
        wanted = set(names)
        if wanted <= self._held.keys():
            yield from ((name, self._held[name]) for name in self.names if name in wanted)
            return
        with broken_archive(self.path):
            for archive, member in self._pass():
                name = self._members.get(member.name)
                if name in wanted and member.isreg():
                    wanted.discard(name)
                    yield name, _content(archive, member, num_bytes)
                if not wanted:
                    break


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, num_bytes: int = -1) -> bytes:
    file = archive.extractfile(member)
    return file.read(num_bytes) if file else b""


class _StrictInfo(tarfile.TarInfo):
    """Raises an error for a damaged header, which tarfile treats as the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError:
            if any(buf):
                raise tarfile.ReadError("damaged header") from None
            raise  # zeros or no bytes: end of the archive


@contextmanager
def broken_archive(path: Path) -> Generator[None]:
    """Converts the exceptions of damaged archives to `DataError`."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        NotImplementedError,
        # Raised by tarfile for invalid numbers and for endlessly nested headers.
        ValueError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is broken or incomplete ({reason}): copy or download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): copy or download it again") from None


def open_compressed(path: Path) -> BinaryIO | io.BufferedReader:
    """Opens a file for reading and decompresses gzip, bzip2 or xz, detected by the first bytes.

    Raises `DataError` during reading if it is a decompression bomb.
    """
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return io.BufferedReader(_Bounded(path, gzip.open(path)))
    if magic.startswith(b"BZh"):
        return io.BufferedReader(_Bounded(path, bz2.open(path)))
    if magic.startswith(b"\xfd7zXZ"):
        return io.BufferedReader(_Bounded(path, _Xz(path)))
    return path.open("rb")


class _Bounded(io.RawIOBase):
    """A decompressed stream that raises `DataError` for a decompression bomb."""

    def __init__(self, path: Path, plain: BinaryIO | gzip.GzipFile | bz2.BZ2File | _Xz) -> None:
        self.path, self.plain = path, plain
        self.size, self.grown = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.plain.read(min(len(buffer), 2**20))  # a larger read would allocate as much memory again
        buffer[: len(content)] = content
        self.grown += len(content)
        if is_bomb(self.grown, self.size):
            raise DataError(
                f"{self.path} is a decompression bomb: its {self.size:,} bytes expand to more than {self.grown:,}; "
                "unpack it yourself if you trust it"
            )
        return len(content)

    def close(self) -> None:
        self.plain.close()
        super().close()


class _Xz:
    """Like lzma.open, with a memory limit."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def read(self, num_bytes: int) -> bytes:
        while True:
            given = self.file.read(2**16) if self.decoder.needs_input or self.decoder.eof else b""
            if self.decoder.eof:  # another stream may follow after zeros
                given = (self.decoder.unused_data + given).lstrip(b"\0")
                if not given:
                    return b""
                self.decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            elif self.decoder.needs_input and not given:
                raise EOFError("it ends before the end of its stream")
            if content := self.decoder.decompress(given, num_bytes):
                return content

    def close(self) -> None:
        self.file.close()


def is_bomb(grown: int, compressed: int) -> bool:
    """Whether the sizes indicate a decompression bomb."""
    return grown > _PLAIN_BYTES and grown > _MAX_RATIO * compressed


def num_listed(path: Path) -> int:
    """Number of files listed in the directory of a zip; counting stops above MAX_MEMBERS.

    The entries are counted, because the number that the archive states may be false, and zipfile lists all of them.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 100))
        tail = file.read()
        plain = len(tail) - 22  # as in zipfile: the end record is without a comment, or else the last that is found
        is_plain = tail[plain : plain + 4] == b"PK\5\6" and tail[-2:] == b"\0\0"
        at = plain if is_plain else tail.rfind(b"PK\5\6")
        if not 0 <= at <= plain:
            return 0  # zipfile reports the error
        num_bytes, end = struct.unpack_from("<I", tail, at + 12)[0], at
        if at >= 76 and tail[at - 20 : at - 16] == b"PK\6\7" and tail[at - 76 : at - 72] == b"PK\6\6":
            num_bytes, end = struct.unpack_from("<Q", tail, at - 76 + 40)[0], at - 76
        start = size - len(tail) + end - num_bytes
        if start < 0:
            return 0  # likewise
        if num_bytes > _MAX_HELD_BYTES:
            return num_bytes // 46  # at most
        file.seek(start)
        num = place = 0
        directory = file.read(num_bytes)
    while directory[place : place + 4] == b"PK\1\2" and num <= MAX_MEMBERS and place + 46 <= num_bytes:
        num += 1
        place += 46 + sum(struct.unpack_from("<3H", directory, place + 28))
    return num


def _refuse_many(path: Path, num: int) -> None:
    if num > MAX_MEMBERS:
        raise DataError(f"{path} has more than {MAX_MEMBERS:,} files: unpack it and use the folder")


def _member_refusal(name: str, size: int, taken: Collection[str]) -> str | None:
    """Reason why a member of an archive is rejected, or None. taken: names of earlier members."""
    if len(name) > _MAX_NAME:
        return f"a name of more than {_MAX_NAME:,} characters"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "unsafe name: an absolute path"
    if ".." in name.split("/"):
        return "unsafe name: points outside the archive"
    if size > MAX_FILE_BYTES:
        return f"too large: {size:,} bytes"
    if name in taken:
        return "the archive has two files with this name"
    return None


def _member_name(name: str) -> str:
    """Printable name of a member, without a leading "./"."""
    return printable(re.sub(r"^(\./+)+", "", name))
