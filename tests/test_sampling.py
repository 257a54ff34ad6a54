"""explore/sampling.py: folders and archives of images, their manifest, and going on after an interruption."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ganvas
from ganvas.errors import ConfigError, GanvasError
from ganvas.explore import sampling
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.provenance import read_provenance
from ganvas.system import files
from test_generator import fresh

CLASSES = ["left", "right: a/b", "7"]


@pytest.fixture(scope="module")
def generator() -> Generator:
    return fresh(classes=CLASSES)


@pytest.fixture(scope="module")
def model(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generator.save(tmp_path_factory.mktemp("sampling") / "model")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("classes", "label"), [(CLASSES, None), (CLASSES, "7"), ([], None)])
def test_pictures_hold_what_the_manifest_says(classes: list[str], label: str | None, tmp_path: Path) -> None:
    generator = fresh(classes=classes)
    options = {"seeds": "7-9,2", "label": label, "truncation": 0.5, "device": "cpu"}
    paths = ganvas.sample(generator.save(tmp_path / "model"), tmp_path / "out", **options)
    found = rows(tmp_path / "out")
    seeds = [int(row["seed"]) for row in found]
    assert seeds == [7, 8, 9, 2]
    asked = [label or classes[seed % 3] if classes else None for seed in seeds]
    assert [row["label"] for row in found] == [one or "" for one in asked]
    for path, row, name in zip(paths, found, asked, strict=True):
        assert path.name == row["file"] and row["truncation"] == "0.5" and row["model"] == generator.hash[:12]
        expected = to_pixels(generator.sample(1, int(row["seed"]), name, 0.5))[0, :, :, 0]
        assert np.abs(np.asarray(Image.open(path)).astype(int) - expected).max() <= 1
        assert read_provenance(path) == {
            "synthetic": True,
            "model": generator.hash,
            "recipe": {"seed": int(row["seed"]), "truncation": 0.5} | ({"label": name} if name else {}),
        }


@pytest.mark.parametrize(
    "classes",
    [
        ["Atelectasis|Cardiomegaly|Consolidation|Edema", "Atelectasis|Cardiomegaly|Consolidation|Effusion"],
        ["grade_1", "grade-1", "grade 1", "grade-1-2"],
        ["Cat", "cat"],
        ["caf\u00e9", "cafe\u0301"],  # one name for macOS
    ],
)
def test_labels_that_would_share_a_file_are_told_apart(classes: list[str], tmp_path: Path) -> None:
    model = fresh(classes=classes).save(tmp_path / "model")
    out = tmp_path / "out"
    for label in classes:
        (path,) = ganvas.sample(model, out, n=1, label=label, device="cpu")
        assert read_provenance(path)["recipe"]["label"] == label
    assert [row["label"] for row in rows(out)] == classes
    assert len({path.name.casefold() for path in out.glob("*.png")}) == len(classes)


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, "left"),
        ({"enlarge": 2}, "left_x2"),
        ({"enlarge": 3, "filter": "nearest", "dpi": 300}, "_x3-nearest_300dpi"),
    ],
)
def test_enlarged_images_have_names_of_their_own(options: dict, ending: str, model: Path, tmp_path: Path) -> None:
    (path,) = ganvas.sample(model, tmp_path, seeds="0", label="left", device="cpu", **options)
    assert path.stem.endswith(ending)
    with Image.open(path) as image:
        assert image.width == 16 * options.get("enlarge", 1)


def test_a_row_of_another_label_is_not_taken_for_the_one_asked_for(model: Path, tmp_path: Path) -> None:
    ganvas.sample(model, tmp_path, seeds="0", label="left", device="cpu")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",left,", ",7,"))  # as a version with fewer names wrote it
    ganvas.sample(model, tmp_path, seeds="0", label="left", device="cpu")
    assert [row["label"] for row in rows(tmp_path)] == ["left"]


def test_folders_of_classes_are_no_devices_of_windows() -> None:
    folders = sampling.class_folders(["con", "NUL.x", "com1", "console", "con-"])
    assert folders == ["con-", "NUL.x-", "com1-", "console", "con--2"]


def test_classes_get_equally_many_pictures_in_folders_that_train_again(model: Path, tmp_path: Path) -> None:
    ganvas.sample(model, tmp_path / "set", per_class=5, seed=100, device="cpu")
    assert sorted(path.name for path in (tmp_path / "set").iterdir() if path.is_dir()) == ["7", "left", "right- a-b"]
    assert all(len(list((tmp_path / "set" / name).iterdir())) == 5 for name in ("7", "left", "right- a-b"))
    found = rows(tmp_path / "set")
    assert sorted(int(row["seed"]) for row in found) == list(range(100, 115))
    assert {row["label"] for row in found} == set(CLASSES)


def test_class_folders_never_meet() -> None:
    names = sampling.class_folders(["a/b", "a-b", "A-B", "..", "", "<img onerror>", "x" * 200, "x" * 201])
    assert len({name.lower() for name in names}) == 8
    assert not any(set(name) & set('<>:"/\\|?*') or name.strip(" .") in ("", "..") for name in names)


def test_an_archive_holds_the_same_and_leaves_no_folder(model: Path, tmp_path: Path) -> None:
    (path,) = ganvas.sample(model, tmp_path / "set.zip", per_class=2, device="cpu")
    ganvas.sample(model, tmp_path / "set", per_class=2, device="cpu")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "set" / name).read_bytes()
    assert len(archive.namelist()) == 7
    assert sorted(one.name for one in tmp_path.iterdir()) == ["set", "set.zip"]


def test_a_full_disk_loses_nothing_and_the_same_call_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num = 2 * BATCH + 10
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ganvas.sample(model, whole, n=num, device="cpu")
    write, written = files.write_atomically, []

    def until_full(path: Path, content: object, sync: bool = True) -> None:
        if len(written) == BATCH + 30:
            with files.explained(path):
                raise OSError(28, "No space left on device")
        written.append(path)
        write(path, content, sync)  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(files, "write_atomically", until_full)
    with pytest.raises(GanvasError, match="no space left"):
        ganvas.sample(model, broken, n=num, device="cpu")
    monkeypatch.undo()
    assert len(rows(broken)) == BATCH  # a batch at a time
    with (broken / "manifest.csv").open("a") as file:
        file.write("seed000064_left.png,64")  # a line cut short
    before = {path.name: path.stat().st_mtime_ns for path in broken.glob("*.png")}
    ganvas.sample(model, broken, n=num, device="cpu")
    assert all((broken / row["file"]).stat().st_mtime_ns == before[row["file"]] for row in rows(broken)[:BATCH])
    for path in whole.iterdir():
        assert path.read_bytes() == (broken / path.name).read_bytes()
    assert len(list(broken.iterdir())) == num + 1


def test_a_second_call_adds_to_the_folder(model: Path, tmp_path: Path) -> None:
    ganvas.sample(model, tmp_path, n=3, device="cpu")
    (tmp_path / "seed000001_right--a-b.png").unlink()
    (tmp_path / "seed000002_7.png").write_bytes(b"")  # as a power cut leaves it
    ganvas.sample(model, tmp_path, n=5, device="cpu")
    assert sorted(int(row["seed"]) for row in rows(tmp_path)) == [0, 1, 2, 3, 4]
    assert all((tmp_path / row["file"]).stat().st_size for row in rows(tmp_path))


@pytest.mark.parametrize(
    "spoilt",
    [b"\xff\xfe", b"a,b", b'"', b"\0", b",,,,,", b"../up.png,0,left,1,0123456789ab,", b"a.png,1,left,x,0123456789ab,"],
)
def test_a_damaged_line_of_the_manifest_is_left_out(
    model: Path, tmp_path: Path, spoilt: bytes, capsys: pytest.CaptureFixture
) -> None:
    ganvas.sample(model, tmp_path, n=3, device="cpu")
    manifest = tmp_path / "manifest.csv"
    whole = manifest.read_bytes()
    head, first, *rest = whole.splitlines(keepends=True)
    manifest.write_bytes(head + spoilt + first[len(spoilt) :].rstrip() + b"\r\n" + b"".join(rest))
    capsys.readouterr()
    ganvas.sample(model, tmp_path, n=3, device="cpu")
    assert sorted(manifest.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert "manifest.csv had 1 damaged line: removed" in capsys.readouterr().err


def test_a_manifest_that_was_cut_in_its_first_line_is_made_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"file,see")
    ganvas.sample(model, tmp_path, n=2, device="cpu")
    assert [row["seed"] for row in rows(tmp_path)] == ["0", "1"]
    assert "damaged" not in capsys.readouterr().err


def test_pictures_of_two_models_are_kept_apart(model: Path, tmp_path: Path) -> None:
    other = fresh("residual", CLASSES).save(tmp_path / "other")
    ganvas.sample(model, tmp_path / "out", n=2, device="cpu")
    with pytest.raises(ConfigError, match="choose another --out"):
        ganvas.sample(other, tmp_path / "out", n=2, device="cpu")


def test_what_a_gate_leaves_out_is_in_the_manifest_and_not_made_again(generator: Generator, tmp_path: Path) -> None:
    planned = sampling.plan(generator, range(10))
    calls: list[int] = []

    def gate(pixels: np.ndarray) -> np.ndarray:
        calls.append(len(pixels))
        return np.arange(len(pixels)) % 2 == 0

    written = sampling.write(generator, tmp_path, planned, gate=gate)
    assert (len(written.paths), written.left_out, written.known) == (5, 5, 0)
    assert len(list(tmp_path.glob("*.png"))) == 5
    assert [row["note"] != "" for row in rows(tmp_path)] == [True, False] * 5
    again = sampling.write(generator, tmp_path, planned, gate=gate)
    assert (again.paths, again.known, calls) == (written.paths, 10, [10])
    with pytest.raises(ConfigError, match="take other seeds"):
        sampling.write(generator, tmp_path / "all", planned, gate=lambda pixels: np.ones(len(pixels), bool))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": "1-"}, "numbers and ranges"),
        ({"seeds": "9-3"}, "numbers and ranges"),
        ({"n": 0}, "--n 0: expected 1 or more"),
        ({"label": "up"}, "left, right"),
        ({"per_class": 0}, "1 or more"),
        ({"per_class": 2, "label": "left"}, "remove --seeds and --label"),
        ({"truncation": 1.5}, "from 0"),
    ],
)
def test_what_cannot_be_drawn_is_said_and_writes_nothing(
    options: dict, words: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        ganvas.sample(model, tmp_path / "out", device="cpu", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["set", "set.zip"])
def test_two_samplers_do_not_write_into_one_folder(
    out: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = sampling.write_into

    def meanwhile(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "write_into", inside)
            with pytest.raises(ConfigError, match="another process writes"):
                ganvas.sample(model, tmp_path / out, n=2, device="cpu")
        return inside(*arguments)

    monkeypatch.setattr(sampling, "write_into", meanwhile)
    ganvas.sample(model, tmp_path / out, n=3, device="cpu")
    monkeypatch.undo()
    ganvas.sample(model, tmp_path / out, n=3, device="cpu")
    assert not list(tmp_path.rglob("*.lock")) and not list(tmp_path.rglob(".lock"))
    if out == "set":
        assert len(rows(tmp_path / out)) == 3
