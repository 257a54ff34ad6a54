"""The data report finds what was planted, and what is known of real sets."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from conftest import Command
from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.checkup import check
from ganvas.data.image_statistics import bars, look
from ganvas.errors import DataError
from planted import compressed, landscapes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def planted(tmp_path) -> Path:
    """Two classes with a duplicate across them, blanks, a broken file, a colour image and a 16 bit one."""
    random = np.random.default_rng(0)
    folder = tmp_path / "source"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (20, 16), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    Image.open(folder / "cat" / "0.png").save(folder / "dog" / "copy.bmp")  # other bytes, equal pixels
    Image.new("L", (16, 20), 0).save(folder / "cat" / "black.png")
    speck = np.full((20, 16), 200, np.uint8)
    speck[3, 3] = 210
    Image.fromarray(speck).save(folder / "cat" / "speck.png")
    Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8)).save(folder / "dog" / "colour.png")
    deep = random.integers(0, 65536, (20, 16), np.uint16)
    Image.fromarray(deep).save(folder / "dog" / "deep.png")
    (folder / "dog" / "broken.png").write_text("hello")
    return folder


def test_finds_what_was_planted(planted):
    found = check(planted)
    assert found.num_images == 13 and found.form == "folder"
    assert found.sizes == {"20x16": 12, "9x12": 1}
    assert found.channels == {1: 12, 3: 1} and found.depths == {8: 12, 16: 1}
    assert found.classes == {"cat": 6, "dog": 7}
    assert [file.name for file in found.rejected] == ["dog/broken.png"]
    assert found.duplicates == [["cat/0.png", "dog/copy.bmp"]] and found.num_duplicates == 1
    assert found.blank == ["cat/black.png", "cat/speck.png"]
    assert any("labels are wrong" in note for note in found.notes)
    assert any("mixed" in note for note in found.notes)


def test_gray_images_in_files_with_colour_channels_are_counted(tmp_path):
    """Not the gray ones in gray files, nor those that have colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    for i, image in enumerate(pixels):
        stored = image[..., 0] if i < 3 else image[..., :1].repeat(3, axis=2) if i < 5 else image
        Image.fromarray(stored).save(tmp_path / f"{i}.png")
    found = check(tmp_path)
    assert found.channels == {1: 5, 3: 2}
    assert "2 images are gray although their files have colour channels." in found.notes


def test_one_image_is_not_called_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 1), np.uint8).repeat(3, 2)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    assert "Different classes in 1 group of identical images: some labels are wrong." in check(tmp_path).notes
    alone = check(tmp_path / "cat")
    assert alone.lines()[0].endswith(": 1 image")
    assert "1 image is gray although its file has colour channels." in alone.notes


def test_lines_and_json_tell_the_same(planted):
    found = check(planted)
    text = "\n".join(found.lines())
    for word in ("13 images", "dog/broken.png", "cat/0.png = dog/copy.bmp", "black.png", "16 bit 1", "note: "):
        assert word in text
    assert json.loads(found.to_json())["duplicates"] == found.duplicates
    assert json.loads(found.to_json())["num_duplicates"] == 1


def save(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.squeeze()).save(folder / name)
    return folder


def test_near_duplicates_of_other_sizes_and_across_classes(tmp_path):
    """An image once more as a JPEG, and one at three quarters of its size in another class."""
    pictures = {f"cat/{i:03}.png": picture for i, picture in enumerate(landscapes(100, 64))}
    smaller = Image.fromarray(pictures["cat/007.png"]).resize((48, 48), Image.Resampling.BICUBIC)
    pictures |= {"cat/again.png": compressed(pictures["cat/003.png"]), "dog/smaller.png": np.asarray(smaller)}
    pictures |= {"dog/equal.png": pictures["cat/050.png"], "dog/own.png": landscapes(1, 64, seed=1)[0]}
    found = check(save(tmp_path / "source", pictures))
    assert found.near == [["cat/003.png", "cat/again.png"], ["cat/007.png", "dog/smaller.png"]]
    assert found.num_near == 4
    assert found.duplicates == [["cat/050.png", "dog/equal.png"]]
    assert found.leaks == [
        ["cat/050.png (cat)", "dog/equal.png (dog)"],
        ["cat/007.png (cat)", "dog/smaller.png (dog)"],
    ]
    text = "\n".join(found.lines())
    assert "near duplicates: 4: cat/003.png ~ cat/again.png" in text and "--drop-duplicates" in text
    assert "cat/007.png (cat) ~ dog/smaller.png (dog)" in text
    assert json.loads(found.to_json())["leaks"] == found.leaks


def test_bars_and_outliers(tmp_path):
    pictures = {f"{i:03}.png": picture for i, picture in enumerate(landscapes(100, 48))}
    wide, framed = pictures["010.png"].copy(), pictures["020.png"].copy()
    wide[:6], wide[-6:] = 0, 0
    framed[:, :5], framed[:, -5:], framed[:5], framed[-5:] = 255, 255, 255, 255
    pictures |= {"010.png": wide, "020.png": framed}
    checker = (255 * (np.indices((48, 48)).sum(0) // 24 % 2)).astype(np.uint8)
    pictures["odd.png"] = np.stack([checker, 255 - checker, 0 * checker], axis=2)
    found = check(save(tmp_path / "source", pictures))
    assert found.bars == ["010.png", "020.png"]
    assert found.outliers[0] == "odd.png" and len(found.outliers) <= 4
    assert not found.near and not found.marks and not found.leaks


def test_bars_end_in_a_straight_edge():
    """The black around a digit is no letterbox; compression may soften the edge of one."""
    digit = np.zeros((28, 28, 1), np.uint8)
    digit[5:23, 10:18] = 250
    assert bars(digit) == (0, 0, 0, 0)
    boxed = landscapes(1, 40)[0]
    boxed[:10] = 3
    top, *rest = bars(compressed(boxed, 90))
    assert 0.2 <= top <= 0.25 and rest == [0, 0, 0]
    assert bars(np.full((20, 20, 3), 9, np.uint8)) == (0, 0, 0, 0)  # blank, which is said elsewhere
    for unevenness, share in ((8, 0.15), (15, 0)):  # 3% of the range is noise, 6% is content
        striped = np.random.default_rng(0).integers(180, 255, (40, 40, 1), np.uint8)
        striped[:6, ::2], striped[:6, 1::2] = 100 - unevenness, 100 + unevenness
        assert bars(striped) == (share, 0, 0, 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_two_uniform_areas_are_no_bars(tmp_path: Path, axis: int) -> None:
    flag = np.where(np.indices((40, 40))[axis] < 20, 100, 220).astype(np.uint8)[..., None]
    assert bars(flag) == (0, 0, 0, 0)
    found = check(save(tmp_path, {f"{i}.png": flag[..., 0] // (i + 1) for i in range(3)}))
    assert found.num_images == 3 and not found.bars


def test_marks_are_told_with_their_place(tmp_path):
    font, rng = ImageFont.load_default(22), np.random.default_rng(0)
    pictures = {}
    for i, picture in enumerate(landscapes(60, 128, 1)):
        canvas = Image.fromarray(gaussian_filter(picture[..., 0] // 2, 3))
        if i < 30:
            left, top = rng.integers(5, 20, 2).tolist()
            ImageDraw.Draw(canvas).text((128 - 20 - left, top), "R", 250, font)
        pictures[f"{i:03}.png"] = np.asarray(canvas)
    found = check(save(tmp_path / "source", pictures))
    (mark,) = found.marks
    assert 0.4 <= mark.share <= 0.5 and mark.bright and set(mark.names) <= {f"{i:03}.png" for i in range(30)}
    assert any("mostly upper right" in line for line in found.lines())
    assert any("--mask-marks" in note for note in found.notes)


def test_subset_is_checked_alone(planted):
    found = check(planted, DataConfig(classes=("dog",)))
    assert found.classes == {"dog": 7} and not found.blank


def test_a_pack_is_checked_too(planted):
    pack = open_pack(planted, DataConfig(channels="gray"))
    found = check(pack.folder)
    assert found.form == "pack" and found.num_images == 13 and list(found.classes) == ["cat", "dog"]
    assert found.rejected == pack.record.rejected and "cat/black.png" in found.blank


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(DataError):
        check(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("num", [600, 4000])
def test_what_is_known_of_mednist(num, shared_data):
    config = DataConfig(classes=("AbdomenCT", "HeadCT"), limit=None if num == 4000 else 2 * num)
    found = check(shared_data / "mednist" / "MedNIST_24000.tar.gz", config)
    assert found.classes.keys() == set(config.classes) and found.sizes == {"64x64": 2 * num}
    assert all(count == pytest.approx(num, rel=0.0 if num == 4000 else 0.1) for count in found.classes.values())
    doubled = sum(len(group) - 1 for group in found.duplicates if "AbdomenCT" in group[0])
    assert num < 4000 or 40 <= doubled <= 80  # about 1%
    assert len(found.blank) > num / 400 and all("HeadCT" in name for name in found.blank)
    assert found.near and not found.leaks  # neighbouring slices, none of them in two classes


@pytest.mark.parametrize(("frames", "colour"), [(False, False), (False, True), (True, False)])
def test_marks_of_one_scene_are_none_and_those_of_colour_images_are_looked_at_first(
    frames: bool, colour: bool, tmp_path: Path
) -> None:
    """frames: the letter is in one image, of which there are ten that are nearly the same."""
    font = ImageFont.load_default(22)
    pictures = [gaussian_filter(one[..., 0] // 2, 3) for one in landscapes(100, 128, 1)]
    for i in range(10):
        canvas = Image.fromarray(pictures[0 if frames else i])
        ImageDraw.Draw(canvas).text((12, 12), "R", 250, font)
        if frames:
            pictures.append(np.clip(np.asarray(canvas) * (1 - 0.01 * i), 0, 255).astype(np.uint8))
        else:
            pictures[i] = np.asarray(canvas)
    if colour:
        pictures = [np.stack([one, one // 2, one // 3], axis=2) for one in pictures]
    found = check(save(tmp_path / "source", {f"{i:03}.png": one for i, one in enumerate(pictures)}))
    assert bool(found.marks) == (not frames)
    assert any("pack with --mask-marks" in note for note in found.notes) == (not frames and not colour)
    assert any("Look at the burned-in marks first" in note for note in found.notes) == colour


def test_colour_images_of_16_bits_are_noted(tmp_path: Path, ganvas_command: Command) -> None:
    """Pillow reads only 8 of them."""
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(3):
        rows = np.random.default_rng(i).integers(0, 2**16, (10, 12, 3)).astype(">u2")
        body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        chunks = ((b"IHDR", struct.pack(">IIBBBBB", 12, 10, 16, 2, 0, 0, 0)), (b"IDAT", body), (b"IEND", b""))
        content = b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        (folder / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        Image.fromarray((rows >> 8).astype(np.uint8)).save(folder / f"plain-{i}.png")
    sentence = "3 images have 16 bits per channel and colour or transparency: they are read with 8 bits."
    assert sentence in ganvas_command("data", "check", folder).out
    packed = ganvas_command("data", "pack", folder, tmp_path / "pack")
    assert packed.code == 0 and sentence in packed.out + packed.err


def test_images_that_differ_by_two_exchanged_pixels_are_not_identical() -> None:
    """Their means and deviations are equal: only the checksum of the pixels differs."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    exchanged = pixels.copy()
    exchanged[0, :2] = pixels[0, 1::-1]
    files = [io.BytesIO() for _ in range(3)]
    for file, image in zip(files, (pixels, exchanged, pixels), strict=True):
        Image.fromarray(image).save(file, "PNG")
    first, other, again = (look(file.getvalue()) for file in files)
    assert first.digest == again.digest != other.digest
