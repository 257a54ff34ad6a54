"""Floating point, 32 bit and negative pixels: one range for all images of a set, never one per image."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig, parse_levels
from ganvas.data import open_pack
from ganvas.data.checkup import check
from ganvas.data.reading.decode import decode, pages, probe
from ganvas.data.reading.target import Target
from ganvas.errors import DataError, PictureError

SIZE = 12


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def tiff(values: np.ndarray, *, zipped: bool = False, tile: int = 0, planar: bool = False, **tags: int) -> bytes:
    """A TIFF file of an array (H, W) or (H, W, C), or of several in a list, written by hand."""
    values = values[:, :, None] if values.ndim == 2 else values
    height, width, samples = values.shape
    planes = [values[:, :, c : c + 1] for c in range(samples)] if planar else [values]
    blocks = []
    for plane in planes:
        rows, columns = (tile, tile) if tile else (5, width)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                block = plane[top : top + rows, left : left + columns]
                if tile:
                    block = np.pad(block, [(0, tile - block.shape[0]), (0, tile - block.shape[1]), (0, 0)])
                blocks.append(zlib.compress(block.tobytes()) if zipped else block.tobytes())
    order = ">" if values.dtype.byteorder == ">" else "<"
    bits, kind = 8 * values.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    offsets, place = [], 8
    for block in blocks:
        offsets.append(place)
        place += len(block)
    held = {256: [width], 257: [height], 258: [bits] * samples, 259: [8 if zipped else 1]}
    held |= {262: [2 if samples == 3 else 1], 277: [samples], 284: [2 if planar else 1], 339: [kind] * samples}
    sizes = [len(block) for block in blocks]
    held |= {322: [tile], 323: [tile], 324: offsets, 325: sizes} if tile else {273: offsets, 278: [5], 279: sizes}
    held |= {int(name.removeprefix("tag")): [value] for name, value in tags.items()}
    extra, entries = b"", b""
    start = place + 2 + 12 * len(held) + 4
    for tag, numbers in sorted(held.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, extra = struct.pack(f"{order}I", start + len(extra)), extra + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", place)
    return head + b"".join(blocks) + struct.pack(f"{order}H", len(held)) + entries + struct.pack("xxxx") + extra


def folder_of(place: Path, payloads: list[bytes]) -> Path:
    place.mkdir()
    for number, payload in enumerate(payloads):
        (place / f"{number}.tif").write_bytes(payload)
    return place


def scaled(payload: bytes | np.ndarray, low: float, high: float, channels: int = 1) -> np.ndarray:
    info = probe(payload)
    return decode(payload, Target(info.height, info.width, channels, 16, "crop", None, wide=(low, high)))


TYPES = ("<f2", "<f4", "<f8", ">f4", ">f8", "<i2", "<i4", ">u4", "<u4", "<i8")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", ["plain", "zip", "tiles", "planes"])
def test_all_types_are_read_exactly(dtype, form):
    samples = 3 if form == "planes" else 1
    values = (noise(SIZE, SIZE + 2, samples) * 2000 - (0 if "u" in dtype else 1000)).astype(dtype)
    options = {"plain": {}, "zip": {"zipped": True}, "tiles": {"tile": 8, "zipped": True}, "planes": {"planar": True}}
    payload = tiff(values, **options[form])
    info = probe(payload)
    assert (info.height, info.width, info.channels, info.depth, info.wide) == (SIZE, SIZE + 2, samples, 16, True)
    wanted = np.rint((values.astype(np.float64) + 1000) / 3000 * 65535).astype(np.float32)
    np.testing.assert_allclose(scaled(payload, -1000, 2000, samples), wanted, atol=1)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_files_of_another_program(compression, predictor):
    """libtiff writes the file; its own reader, in Pillow, gives the values to compare with."""
    values = (noise(SIZE, SIZE) * 100 - 20).astype(np.float32 if predictor != 2 else np.int32)
    content = io.BytesIO()
    tags = {317: predictor} if compression in ("tiff_lzw", "tiff_adobe_deflate") else {}
    Image.fromarray(values).save(content, "TIFF", compression=compression, tiffinfo=tags)
    with Image.open(io.BytesIO(content.getvalue())) as image:
        np.testing.assert_array_equal(np.asarray(image), values)
    wanted = np.rint((values.astype(np.float64) + 20) / 100 * 65535)
    np.testing.assert_allclose(scaled(content.getvalue(), -20, 80)[:, :, 0], wanted, atol=1)


@pytest.mark.parametrize("form", ["tif", "npy", "npz"])
def test_one_range_for_the_whole_set(form, tmp_path):
    """Three images of which each has a tenth of the range of the next: per-image scaling would make them alike."""
    sets = [(noise(SIZE, SIZE, seed=i) * 10**i - 1).astype(np.float32) for i in range(3)]
    place = tmp_path / "set"
    if form == "tif":
        folder_of(place, [tiff(values) for values in sets])
    elif form == "npy":
        place.mkdir()
        for number, values in enumerate(sets):
            np.save(place / f"{number}.npy", values)
    else:
        place = tmp_path / "set.npz"
        np.savez(place, images=np.stack(sets))
    low, high = min(map(np.min, sets)), max(map(np.max, sets))
    pack = open_pack(place)
    assert (pack.depth, pack.channels, pack.kind, pack.record.levels) == (16, 1, "scan", [low, high])
    wanted = np.rint((np.stack(sets)[..., None] - low) / (high - low) * 65535)
    np.testing.assert_allclose(pack.images, wanted, atol=1)
    for said in (pack.notes, check(place).notes):
        start = f"Floating point pixels from {low:,g} to {high:,g}: all images are scaled equally"
        assert any(note.startswith(start) for note in said)
    chosen = open_pack(place, DataConfig(levels="-1-49"))
    assert chosen.images.max() == 65535 and not any("scaled equally" in note for note in chosen.notes)
    np.testing.assert_allclose(chosen.images[0], np.rint((sets[0][..., None] + 1) / 50 * 65535), atol=1)
    assert not any("scaled equally" in note for note in check(place, DataConfig(levels="-1-49")).notes)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (noise(SIZE, SIZE) * 0.9, [0, 1]),
        (noise(SIZE, SIZE) * 1.8 - 0.9, [-1, 1]),
        (noise(SIZE, SIZE) * 250, [0, 255]),
        ((noise(SIZE, SIZE) * 3000).astype(np.int32), [0, 4095]),
        ((noise(SIZE, SIZE) * 60000).astype(np.uint32), [0, 65535]),
        ((noise(SIZE, SIZE) * 0.999 * 2**20).astype(np.int32), [0, 2**20 - 1]),
    ],
)
def test_usual_ranges(values, levels, tmp_path):
    assert open_pack(folder_of(tmp_path / "set", [tiff(values), tiff(values[::-1].copy())])).record.levels == levels


def test_a_high_range_gets_a_suggestion_that_works(tmp_path):
    """An HDR set: nearly all values are low, a few lights are bright."""
    lights = []
    for i in range(3):
        values = noise(64, 64, seed=i).astype(np.float32)
        values[5, 5] = 4e4
        lights.append(tiff(values))
    place = folder_of(tmp_path / "hdr", lights)
    (note,) = [note for note in check(place).notes if "scaled equally" in note]
    assert note in open_pack(place).notes
    levels = note.rpartition("--levels=")[2].split()[0]
    low, high = parse_levels(levels)
    assert low < 0.01 and 0.99 < high <= 1
    assert open_pack(place, DataConfig(levels=levels)).images.std() > 15000 > 1000 > open_pack(place).images.std()


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, -3.4e38])
def test_missing_values_are_refused(missing, tmp_path):
    values = noise(SIZE, SIZE).astype(np.float32)
    bad = values.copy()
    bad[3, 3] = missing
    place = folder_of(tmp_path / "set", [tiff(values), tiff(bad), tiff(values[::-1].copy())])
    pack = open_pack(place)
    assert pack.names == ["0.tif", "2.tif"] and pack.record.levels == [0, 1]
    (rejected,) = pack.record.rejected
    assert "NaN or infinite" in rejected.reason or "missing pixels" in rejected.reason
    assert check(place).rejected == [rejected]


def test_check_compares_within_the_range_of_the_set(tmp_path):
    """An image that is blank within the range of the set, and one that is exactly another one times two."""
    values = noise(SIZE, SIZE).astype(np.float32) * 2500 - 25
    sets = [values * 2, values, values[::-1] * 2, values * 1e-6]
    found = check(folder_of(tmp_path / "set", [tiff(one.astype(np.float32)) for one in sets]))
    assert found.blank == ["3.tif"] and found.duplicates == [] and found.depths == {16: 4}


def test_pages(tmp_path):
    values = [(noise(SIZE, SIZE, seed=i) * 10**i).astype(np.float32) for i in range(3)]
    content = io.BytesIO()
    images = [Image.fromarray(one) for one in values]
    images[0].save(content, "TIFF", save_all=True, append_images=images[1:])
    assert probe(content.getvalue()).pages == 3
    for page, wanted in zip(pages(content.getvalue(), [0, 2]), (values[0], values[2]), strict=True):
        np.testing.assert_array_equal(page[:, :, 0], wanted)
    place = folder_of(tmp_path / "set", [content.getvalue()])
    pack = open_pack(place, DataConfig(frames="all"))
    np.testing.assert_allclose(pack.images[1, :, :, 0], np.rint(values[1] / pack.record.levels[1] * 65535), atol=1)


def test_orientation_and_colour():
    values = noise(SIZE, SIZE + 4, 3).astype(np.float32)
    payload = tiff(values, tag274=6)
    assert (probe(payload).height, probe(payload).width) == (SIZE + 4, SIZE)
    turned = np.rint(np.rot90(values, -1) * 65535)
    np.testing.assert_allclose(scaled(payload, 0, 1, 3), turned, atol=1)


HOSTILE = {
    "truncated": lambda: tiff(noise(SIZE, SIZE).astype("<f8"))[:600],
    "huge": lambda: tiff(noise(SIZE, SIZE).astype("<f8"), tag256=2**31 - 1, tag257=2**31 - 1),
    "a wide strip": lambda: tiff(noise(SIZE, SIZE).astype("<f8"), tile=8, tag322=2**31 - 1),
    "five channels": lambda: tiff(noise(SIZE, SIZE, 5).astype("<f8")),
    "unknown predictor": lambda: tiff(noise(SIZE, SIZE).astype("<f8"), tag317=9),
    "unknown compression": lambda: tiff(noise(SIZE, SIZE).astype("<f8"), tag259=34712),
    "damaged zip": lambda: tiff(noise(SIZE, SIZE).astype("<f8"), tag259=8),
    "empty": lambda: tiff(noise(SIZE, SIZE).astype("<f8"), tag256=0),
}


@pytest.mark.parametrize("form", HOSTILE)
def test_files_that_cannot_be_read(form):
    with pytest.raises(PictureError):
        decode(HOSTILE[form](), Target(8, 8, 1, 16, "crop", None))


def test_arrays_of_other_things(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 8, 8), complex))
    with pytest.raises(DataError, match="of complex128; expected images x height x width"):
        open_pack(tmp_path / "x.npy")
