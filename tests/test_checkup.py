"""The data report finds what was planted, and what is known of real sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.checkup import check
from ganvas.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def planted(tmp_path) -> Path:
    """Two classes with a duplicate across them, blanks, a broken file, a colour picture and a 16 bit one."""
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
    assert [file["name"] for file in found.rejected] == ["dog/broken.png"]
    assert found.duplicates == [["cat/0.png", "dog/copy.bmp"]] and found.num_duplicates == 1
    assert found.blank == ["cat/black.png", "cat/speck.png"]
    assert any("labels are wrong" in note for note in found.notes)
    assert any("mixed" in note for note in found.notes)


def test_lines_and_json_tell_the_same(planted):
    found = check(planted)
    text = "\n".join(found.lines())
    for word in ("13 pictures", "dog/broken.png", "cat/0.png = dog/copy.bmp", "black.png", "16 bit 1", "note: "):
        assert word in text
    assert json.loads(found.to_json())["duplicates"] == found.duplicates
    assert json.loads(found.to_json())["num_duplicates"] == 1


def test_subset_is_checked_alone(planted):
    found = check(planted, DataConfig(classes=("dog",)))
    assert found.classes == {"dog": 7} and not found.blank


def test_a_pack_is_checked_too(planted):
    pack = open_pack(planted, DataConfig(channels="gray"))
    found = check(pack.folder)
    assert found.form == "pack" and found.num_images == 13 and list(found.classes) == ["cat", "dog"]
    assert found.rejected == pack.info["rejected"] and "cat/black.png" in found.blank


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(DataError):
        check(tmp_path / "nowhere")


def test_what_is_known_of_mednist(shared_data):
    found = check(shared_data / "mednist" / "MedNIST_24000.tar.gz", DataConfig(classes=("AbdomenCT", "HeadCT")))
    assert found.classes == {"AbdomenCT": 4000, "HeadCT": 4000} and found.sizes == {"64x64": 8000}
    doubled = sum(len(group) - 1 for group in found.duplicates if "AbdomenCT" in group[0])
    assert 40 <= doubled <= 80  # about 1%
    assert len(found.blank) > 20 and all("HeadCT" in name for name in found.blank)
