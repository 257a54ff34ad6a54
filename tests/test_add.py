"""`ganvas train --add`: a run continues on more images, and its held-out images stay held out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ganvas
from conftest import TINY, Command
from ganvas.data.packing.pack import Pack
from ganvas.evaluation.samples import pack_of
from ganvas.generator import Generator


def blobs(number: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 5), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC))


def add(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    for number in numbers:
        Image.fromarray(blobs(number)).save(folder / f"{number:03}.png")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images "data" and a run on them, "run"."""
    place = tmp_path_factory.mktemp("grown")
    add(place / "data", range(40, 100))
    options = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 2, "device": "cpu"}
    ganvas.train(place / "data", place / "run", images=32, quiet=True, **options)
    return place


@pytest.fixture
def place(before: Path, tmp_path: Path) -> Path:
    shutil.copytree(before, tmp_path / "place")
    record = json.loads((tmp_path / "place" / "run" / "config.json").read_text())
    record["data"]["source"] = str(tmp_path / "place" / "data")
    (tmp_path / "place" / "run" / "config.json").write_text(json.dumps(record))
    return tmp_path / "place"


def record_of(place: Path) -> dict:
    return json.loads((place / "run" / "config.json").read_text())


def heldout_names(place: Path) -> set[str]:
    pack = Pack.open(record_of(place)["data"]["pack"])
    return {pack.names[i] for i in pack.heldout}


def test_a_run_continues_on_more_images(place: Path, ganvas_command: Command) -> None:
    first, held = record_of(place)["data"], heldout_names(place)
    assert len(held) == 6
    add(place / "data", range(30))  # names before those of the others: every index changes
    twin = blobs(int(min(held)[:3])).astype(int)
    Image.fromarray(np.uint8((twin + 2).clip(0, 255))).save(place / "data" / "twin.png")
    call = ("train", place / "data", "--out", place / "run", "--images", 64, *TINY)
    refused = ganvas_command(*call)
    assert refused.code == 2 and "continue with --add if images were added" in refused.err
    assert record_of(place)["data"] == first
    answer = ganvas_command(*call, "--add")
    assert answer.code == 0, answer.err
    assert "continuing on 91 images instead of 60: not bit-exact" in answer.err
    assert "(6 of 6 were found), and 1 near duplicate of them, too" in answer.err
    record = record_of(place)
    assert heldout_names(place) == held | {"twin.png"}
    (step,) = record["data"]["grown"]
    assert step["images_seen"] == 32
    assert step["from"] == {name: first[name] for name in ("hash", "fingerprint", "num_images", "num_heldout")}
    assert step["to"] == {name: record["data"][name] for name in step["from"]} and step["to"]["num_images"] == 91
    assert step["to"]["fingerprint"] != step["from"]["fingerprint"]
    # From here on the run has these images: resumed without the option, by the folder of the run, and evaluated.
    again = ganvas_command("train", place / "data", "--out", place / "run", "--images", 80, *TINY)
    assert again.code == 0 and "resuming from 64" in again.err and "not bit-exact" not in again.err, again.err
    assert ganvas_command("train", place / "run", "--images", 96).code == 0
    shutil.rmtree(record["data"]["pack"])
    pack = pack_of(place / "run", Generator.load(place / "run"), None, None)
    assert pack.hash == record["data"]["hash"] and {pack.names[i] for i in pack.heldout} == heldout_names(place)


def test_renamed_images_stay_held_out(place: Path, ganvas_command: Command) -> None:
    held = heldout_names(place)
    for name in held:
        (place / "data" / name).rename(place / "data" / f"renamed-{name}")
    add(place / "data", range(5))
    answer = ganvas_command("train", place / "run", "--images", 48, "--add")
    assert answer.code == 0, answer.err
    assert heldout_names(place) == {f"renamed-{name}" for name in held}


def test_what_cannot_be_added(place: Path, ganvas_command: Command) -> None:
    pack = place / "pack"
    add(place / "data", range(30))
    assert ganvas_command("data", "pack", place / "data", pack, "--size", 16).code == 0
    config = (place / "run" / "config.json").read_bytes()

    def refused(*arguments: object) -> str:
        answer = ganvas_command("train", *arguments, "--images", 64, *TINY[2:], "--add")
        assert answer.code == 2 and answer.err.splitlines()[-1].startswith("ganvas: "), answer.err
        assert (place / "run" / "config.json").read_bytes() == config
        return answer.err

    assert "this pack trains on" in refused(pack, "--out", place / "run")
    assert "give the same --size" in refused(place / "data", "--out", place / "run", "--size", 32)
    assert "has none: omit --add" in refused(place / "data", "--out", place / "new", "--size", 16)
    assert not (place / "new").exists()
    (place / "run" / "heldout.json").write_text('{"names": ["../x"], "pixels": []}')
    assert "heldout.json is damaged" in refused(place / "data", "--out", place / "run", "--size", 16)


def test_other_classes_or_conditions_are_refused(tmp_path: Path, ganvas_command: Command) -> None:
    """Also if only a name changed: the numbers that the networks get would mean something else."""
    for name, numbers in (("cats", range(12)), ("dogs", range(12, 24))):
        add(tmp_path / "data" / name, numbers)
    names = sorted(path.name for path in (tmp_path / "data").rglob("*.png"))
    table = tmp_path / "table.csv"
    table.write_text("file,fur\n" + "".join(f"{name},{['red', 'white'][i % 2]}\n" for i, name in enumerate(names)))
    asked = {"classes": [], "conditions": ["--conditions", f"{table}:fur"]}
    for name, options in asked.items():
        answer = ganvas_command("train", tmp_path / "data", "--out", tmp_path / name, "--images", 16, *TINY, *options)
        assert answer.code == 0, answer.err
    (tmp_path / "data" / "dogs").rename(tmp_path / "data" / "wolves")
    table.write_text(table.read_text().replace("white", "black"))
    for name, options in asked.items():
        answer = ganvas_command(
            "train", tmp_path / "data", "--out", tmp_path / name, "--images", 32, *TINY, *options, "--add"
        )
        assert answer.code == 2 and "has other classes or conditions" in answer.err, answer.err
        assert ("dogs, wolves" if name == "classes" else "(fur)") in answer.err


def test_a_run_of_an_older_version(place: Path, ganvas_command: Command) -> None:
    """Its held-out images are those of its pack, if that is still there."""
    held = heldout_names(place)
    (place / "run" / "heldout.json").unlink()
    record = record_of(place)
    for name in ("levels", "fingerprint"):
        del record["data"][name]
    (place / "run" / "config.json").write_text(json.dumps(record))
    add(place / "data", range(3))
    moved = place / "pack"
    shutil.move(record["data"]["pack"], moved)
    call = ("train", place / "data", "--out", place / "run", "--images", 48, *TINY, "--add")
    answer = ganvas_command(*call)
    assert answer.code == 2 and f"start a new run from it with --from {place / 'run'}" in answer.err
    shutil.move(moved, record["data"]["pack"])
    answer = ganvas_command(*call)
    assert answer.code == 0, answer.err
    assert heldout_names(place) == held and (place / "run" / "heldout.json").is_file()
