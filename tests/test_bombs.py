"""Hostile files: whatever lies in the place of images, one sentence comes out, in bounded memory."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import processes
from ganvas.data import open_pack
from ganvas.data.reading import archives
from ganvas.data.reading.archives import open_compressed
from ganvas.errors import DataError

ZEROS = bytes(2**24)
MEMORY = 1_500_000_000  # bytes of address space


def open_all(folder: str) -> None:
    """Prints what `open_pack` says of each bomb, in this process, which may take only `MEMORY` more bytes."""
    import resource

    import ganvas.data.packing
    import ganvas.data.reading.dicom  # noqa: F401

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY,) * 2)
    for place in sorted(Path(folder).iterdir()):
        try:
            open_pack(next(place.iterdir()), folder=place / "pack")
            said = ["nothing", ""]
        except DataError as error:
            said = ["DataError", str(error)]
        except BaseException as error:
            said = [type(error).__name__, str(error)]
        print(json.dumps([place.name, *said]), flush=True)


def idx(*shape: int) -> bytes:
    return struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape)


def tar_member(name: str, size: int, *zeros: bytes, pack: Callable[[bytes], bytes]) -> bytes:
    """A member of a compressed tar, written as streams that follow one another."""
    info = tarfile.TarInfo(name)
    info.size = size
    return pack(info.tobuf()) + b"".join(zeros)


def compressed_tar(pack: Callable[[bytes], bytes], name: str, num: int) -> bytes:
    zeros = pack(ZEROS)
    return b"".join(tar_member(name.format(i), 3 * len(ZEROS), *[zeros] * 3, pack=pack) for i in range(num)) + pack(
        bytes(1024)
    )


def with_dictionary(content: bytes) -> bytes:
    """An xz file that asks for a dictionary of 4 GiB."""
    packed = bytearray(lzma.compress(content))
    end = 12 + (packed[12] + 1) * 4 - 4
    packed[16] = 40
    packed[end : end + 4] = struct.pack("<I", zlib.crc32(packed[12:end]))
    return bytes(packed)


def zip_of_giants(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(40):
            archive.writestr(f"{i}.png", bytes(2**20))
            archive.filelist[i].file_size = 2**30


def lying_zip(path: Path, num: int, zip64: bool) -> None:
    """A zip of one file, listed `num` times, whose end states two; zip64: in a second end record, read by zipfile."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"")
    start = archive.start_dir
    content, entry = buffer.getvalue()[:start], buffer.getvalue()[start:-22]
    size = num * len(entry)
    end = struct.pack("<I4H2IH", 0x06054B50, 0, 0, 2, 2, *((0, 0) if zip64 else (size, start)), 0)
    if zip64:
        record = struct.pack("<IQ2H2I4Q", 0x06064B50, 44, 45, 45, 0, 0, 2, 2, size, start)
        end = record + struct.pack("<2IQI", 0x07064B50, 0, start + size, 1) + end
    path.write_bytes(content + entry * num + end)


def zip_in_zip(depth: int) -> bytes:
    content = ZEROS
    for _ in range(depth):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.zip", content)
        content = buffer.getvalue()
    return content


def npz_of_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (2**13, 2**7, 2**7)}
        )
        for _ in range(2**27 // len(ZEROS)):
            file.write(ZEROS)


def png(width: int, height: int, depth: int, colour: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(2**16))
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def jpeg_of_scans(num: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4096, 4096), np.uint8)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * num + content[-2:]


def nested(bottom: bytes, times: int) -> bytes:
    """A pickled tuple of twice a tuple of twice a tuple and so on; bottom: code that pushes the innermost value."""
    return bottom + pickle.BINPUT + b"\0" + (pickle.POP + b"h\0h\0\x86q\0") * times


def cifar(code: bytes) -> bytes:
    return b"\x80\x02" + code + b"."


def sparse_tar(path: Path, num: int, lines: bytes) -> None:
    """Members of a few bytes that say that they are a thousand million long (PAX 1.0)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for i in range(num):
            info = tarfile.TarInfo(f"{i}.png")
            info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**9)}
            info.size = len(lines)
            archive.addfile(info, io.BytesIO(lines))


def odd_pax(path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = headers
        archive.addfile(info)


def headers_without_end(path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    path.write_bytes((info.tobuf() + b"a".ljust(512, b"\0")) * 5000)


def oversized(path: Path) -> None:
    path.mkdir()
    for name in "ab":
        with (path / f"{name}.png").open("wb") as file:
            file.truncate(2**40)  # takes no space on the disk


@functools.cache
def long_text() -> bytes:
    """64 MiB of zeros, compressed."""
    return zlib.compress(bytes(2**26))


def png_with(kind: bytes, data: bytes) -> bytes:
    """A PNG of 8x8 pixels with a further chunk behind its header."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    content, chunk = buffer.getvalue(), kind + data
    added = struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + added + content[33:]


def header_only(name: str, size: int) -> bytes:
    """An image of a format of Pillow, whose header says that it is `size` pixels wide and high."""
    buffer = io.BytesIO()
    Image.new("L", (999, 999)).save(buffer, name)
    form = {"BMP": "<I", "GIF": "<H", "JPEG": ">H", "JPEG2000": ">I"}[name]
    real, false = (struct.pack(form, number) for number in (999, size))
    return buffer.getvalue().replace(real, false, 2)


def dicom(side: int) -> bytes:
    """A DICOM file of a few bytes, which says that it is `side` pixels wide and high."""

    def element(group: int, number: int, kind: bytes, value: bytes, length: int | None = None) -> bytes:
        size = len(value) if length is None else length
        return struct.pack("<2H", group, number) + kind + (
            struct.pack("<2xI", size) if kind == b"OW" else struct.pack("<H", size)
        ) + value  # fmt: skip

    syntax = element(2, 16, b"UI", b"1.2.840.10008.1.2.1\0")
    shape = [(2, 1), (16, side), (17, side), (256, 16), (257, 16), (258, 15), (259, 0)]
    numbers = [element(40, number, b"US", struct.pack("<H", value)) for number, value in shape]
    numbers.insert(1, element(40, 4, b"CS", b"MONOCHROME2 "))
    pixels = element(0x7FE0, 16, b"OW", bytes(99), 2**32 - 16)
    length = element(2, 0, b"UL", struct.pack("<I", len(syntax)))
    return bytes(128) + b"DICM" + length + syntax + b"".join(numbers) + pixels


def npy(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(header)) + header + bytes(999)


def in_folder(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path], object]:
    """The file and, of an image, a second one: of a single one nothing is looked at."""

    def write(path: Path) -> None:
        path.mkdir()
        for one in (name, f"b{name}") if "." in name else (name,):
            (path / one).write_bytes(content() if callable(content) else content)

    return write


def content(data: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data())


LONG_KEY = nested(b"K\1", 60)
IDX = "train-images-idx3-ubyte.gz"
BOMBS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "idx that says 20 GB": (IDX, content(lambda: gzip.compress(idx(25_000_000, 28, 28) + bytes(999))), "at most"),
    "idx that grows": (
        IDX,
        content(lambda: gzip.compress(idx(10**6, 25, 28)) + gzip.compress(ZEROS) * 42),
        "decompression bomb",
    ),
    "idx with more behind": (
        IDX,
        content(lambda: gzip.compress(idx(2, 8, 8)) + gzip.compress(ZEROS) * 999),
        "more than",
    ),
    "idx of single pixels": (
        IDX,
        content(lambda: gzip.compress(idx(6 * 10**6, 1, 1)) + gzip.compress(bytes(6 * 10**6))),
        "5,000,000",
    ),
    "gzip of csv": ("a.tar.gz", content(lambda: compressed_tar(gzip.compress, "{}.csv", 8)), "decompression bomb"),
    "gzip of images": ("a.tar.gz", content(lambda: compressed_tar(gzip.compress, "{}.png", 8)), "decompression bomb"),
    "bzip2": ("a.tar.bz2", content(lambda: compressed_tar(bz2.compress, "{}.png", 40)), "decompression bomb"),
    "xz": ("a.tar.xz", content(lambda: compressed_tar(lzma.compress, "{}.png", 40)), "decompression bomb"),
    "xz with a huge dictionary": ("a.tar.xz", content(lambda: with_dictionary(bytes(10240))), "Memory usage limit"),
    "zip of giants": ("a.zip", zip_of_giants, "decompression bomb"),
    "npz": ("a.npz", npz_of_zeros, "decompression bomb"),
    "npy of impossible size": ("a.npy", content(lambda: npy("(9999999, 999, 999, 3)")), "a.npy"),
    "npy of a long header": ("a.npy", content(lambda: npy("(" * 10**5 + ")" * 10**5)), "a.npy"),
    "zip of too many": ("a.zip", lambda path: lying_zip(path, archives.MAX_MEMBERS + 1, zip64=True), "unpack it"),
    "zip in a zip": ("a.zip", content(lambda: zip_in_zip(30)), "no images"),
    "csv of one line": ("a", in_folder("labels.csv", b"file,label\n" + b"a" * 2**26), "no images"),
    "png with a long text": (
        "a",
        in_folder("a.png", lambda: png_with(b"zTXt", b"a\0\0" + long_text())),
        "damaged PNG",
    ),
    "png with a long profile": (
        "a",
        in_folder("a.png", lambda: png_with(b"iCCP", b"a\0\0" + long_text())),
        "damaged PNG",
    ),
    "bmp of impossible size": ("a", in_folder("a.bmp", header_only("BMP", 10**6)), "too large"),
    "jpeg2000 of impossible size": ("a", in_folder("a.jp2", header_only("JPEG2000", 10**6)), "not supported"),
    "gif of impossible size": ("a", in_folder("a.gif", header_only("GIF", 65535)), "too large"),
    "jpeg of impossible size": ("a", in_folder("a.jpg", header_only("JPEG", 65000)), "too large"),
    "dicom of impossible size": ("a", in_folder("a.dcm", dicom(60_000)), "too large"),
    "png of 16 bits with transparency": ("a", in_folder("a.png", png(13_000, 13_000, 16, 6)), "too large"),
    "png of 16 bits": ("a", in_folder("a.png", png(13_000, 13_000, 16, 0)), "too large"),
    "jpeg of many passes": ("a", in_folder("a.jpg", jpeg_of_scans(30_000)), "scans"),
    "file of a terabyte": ("a", oversized, "too large"),
    "sparse": ("a.tar", lambda path: sparse_tar(path, 1000, b"0\n".ljust(512, b"\0")), "sparse"),
    "sparse without a map": ("a.tar", lambda path: sparse_tar(path, 1, b"9999999\n" + b"1" * 504), "broken"),
    "sparse with an odd map": ("a.tar", lambda path: odd_pax(path, {"GNU.sparse.map": "1,a"}), "broken"),
    "odd size": ("a.tar", lambda path: odd_pax(path, {"GNU.sparse.size": "9" * 5000}), "broken"),
    "headers without end": ("a.tar", headers_without_end, "broken"),
    "cifar keyed by nested tuples": (
        "a",
        in_folder("data_batch_1", cifar(b"}" + LONG_KEY + b"K\1s")),
        "keys are not text",
    ),
    "cifar keyed by many": (
        "a",
        in_folder("data_batch_1", cifar(b"}(" + LONG_KEY + b"K\1u")),
        "keys are not text",
    ),
    "cifar in a dictionary of old": (
        "a",
        in_folder("data_batch_1", cifar(b"(" + LONG_KEY + b"K\1d")),
        "keys are not text",
    ),
    "cifar in a set": ("a", in_folder("data_batch_1", cifar(b"\x8f(" + LONG_KEY + b"\x90")), "not a CIFAR batch"),
    "cifar in a frozen set": ("a", in_folder("data_batch_1", cifar(b"(" + LONG_KEY + b"\x91")), "not a CIFAR batch"),
    "cifar with a long type": (
        "a",
        in_folder("data_batch_1", cifar(b"cnumpy\ndtype\n" + LONG_KEY + b"\x85R")),
        "not a CIFAR batch",
    ),
    "cifar with a long memory": ("a", in_folder("data_batch_1", cifar(b"}r\xff\xff\xff\x7f")), "not a CIFAR batch"),
    "cifar with long bytes": ("a", in_folder("data_batch_1", cifar(b"\x8e" + b"\xff" * 7 + b"\x0f")), "not a CIFAR"),
}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What one process with little memory says of all of them."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (file, write, _) in BOMBS.items():
        (folder / name).mkdir()
        write(folder / name / file)
    said, errors = (tmp_path_factory.mktemp("said") / name for name in ("out", "err"))
    processes.ended(processes.start(folder, function=open_all, output=said, errors=errors), 200)
    found = {name: (kind, text) for name, kind, text in map(json.loads, said.read_text().splitlines())}
    return found | dict.fromkeys(BOMBS.keys() - found.keys(), ("the process ended", errors.read_text()))


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_file_is_one_sentence(name: str, sentences: dict[str, tuple[str, str]]) -> None:
    kind, text = sentences[name]
    assert kind == "DataError", text
    assert BOMBS[name][2] in text and "\n" not in text and len(text) < 600


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_compressed_streams_of_several_parts_come_whole(tmp_path: Path, ending: str) -> None:
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[ending]
    parts = [np.random.default_rng(i).bytes(200_000) for i in range(3)]
    padding = bytes(4) if ending == "xz" else b""
    (tmp_path / "a").write_bytes(b"".join(pack(part) + padding for part in parts))
    with open_compressed(tmp_path / "a") as file:
        assert file.read() == b"".join(parts)
    (tmp_path / "a").write_bytes(pack(parts[0])[:-20])
    with pytest.raises(EOFError), open_compressed(tmp_path / "a") as file:
        file.read()


@pytest.mark.parametrize("zip64", [False, True])
def test_the_files_of_a_zip_are_counted_not_believed(tmp_path: Path, zip64: bool) -> None:
    lying_zip(tmp_path / "a.zip", 20, zip64)
    assert len(zipfile.ZipFile(tmp_path / "a.zip").namelist()) == archives.num_listed(tmp_path / "a.zip") == 20


@pytest.mark.parametrize("form", ["zip", "zip64", "tar"])
def test_an_archive_of_too_many_files_is_refused(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{form[:3]}"
    if form == "zip64":
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    if form == "tar":
        with tarfile.open(path, "w") as tar:
            for i in range(20):
                tar.addfile(tarfile.TarInfo(f"{i}.png"))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(20):
                archive.writestr(f"{i}.png", b"")
        assert archives.num_listed(path) == 20
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    with pytest.raises(DataError, match="unpack it"):
        open_pack(path, folder=tmp_path / "pack")
