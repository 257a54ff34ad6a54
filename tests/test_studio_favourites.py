"""The studio's HTTP interface for favourites, ZIP files and copied commands."""

from __future__ import annotations

import csv
import io
import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Command
from ganvas.generator import Generator
from ganvas.provenance import read_provenance

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

from fastapi.testclient import TestClient

from studio_client import address, picture, refused

# ---- kept images ----


def test_kept_pictures_are_on_the_disk_at_once_and_the_command_line_makes_them_again(
    client: TestClient, folder: Path, tmp_path: Path, ganvas_command: Command
) -> None:
    recipe = {"seed": 9, "label": {"lying": 0.5, "standing": 0.5}, "mix": {"with": {"seed": 2}, "depths": [0]}}
    for one in (recipe, {"seed": 3}, recipe):
        told = client.post("/api/favourites", json={"model": "bars", "recipe": one, "title": "a bar"})
        assert told.status_code == 200, told.text
    file = folder / "bars" / "favourites.json"
    assert [one["recipe"] for one in json.loads(file.read_text())["pictures"]] == [recipe, {"seed": 3}]
    assert not list(folder.rglob("*.tmp"))
    line = client.post("/api/command", json={"model": "bars", "list": "favourites"}).json()["command"]
    made = run_line(line, tmp_path, ganvas_command)
    shown = picture(client.get(address(recipe)).content)
    assert np.abs(pixels(made[0]).astype(int) - shown).max() <= 1
    client.post("/api/favourites/remove", json={"model": "bars", "recipe": recipe})
    assert [one["recipe"] for one in client.get("/api/favourites?model=bars").json()["pictures"]] == [{"seed": 3}]


def run_line(line: str, place: Path, ganvas_command: Command) -> list[Path]:
    """Runs a command that the studio gave, in this process, and returns the images that it made."""
    words = shlex.split(line)
    assert len(line) < 300
    words[-1] = str(place / words[-1])
    answer = ganvas_command(*words[1:])
    assert answer.code == 0, answer.err
    return sorted(Path(words[-1]).glob("*.png"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


@pytest.mark.parametrize(
    "recipes",
    [
        [{"seed": 4}, {"seed": 5}, {"seed": 9}],
        [{"seed": 4, "label": "lying", "truncation": 0.5}],
        [{"seed": 4, "towards": {"to": {"seed": 8, "label": "lying"}, "share": 0.3}}, {"seed": 1}],
    ],
)
def test_the_copied_command_makes_what_is_on_the_screen(
    client: TestClient, tmp_path: Path, ganvas_command: Command, recipes: list[Any]
) -> None:
    line = client.post("/api/command", json={"model": "bars", "recipes": recipes}).json()["command"]
    made = run_line(line, tmp_path, ganvas_command)
    assert len(made) == len(recipes)
    for path, recipe in zip(made, recipes, strict=True):
        assert np.abs(pixels(path).astype(int) - picture(client.get(address(recipe)).content)).max() <= 1


def test_favourites_of_another_model_are_named_and_set_aside(client: TestClient, folder: Path) -> None:
    file = folder / "bars" / "favourites.json"
    old = {"ganvas": "favourites", "format": 1, "model": "f" * 64, "directions": {}, "pictures": []}
    file.write_text(json.dumps(old))
    refused(client.get("/api/favourites?model=bars"), 409, "belongs to the model ffffffffffff, not to")
    keep = {"model": "bars", "recipe": {"seed": 1}}
    refused(client.post("/api/favourites", json=keep), 409, "belongs to the model ffffffffffff")
    assert json.loads(file.read_text()) == old
    assert client.post("/api/favourites/aside?model=bars").json() == {"file": "favourites.aside-1.json"}
    assert client.post("/api/favourites", json=keep).status_code == 200
    assert json.loads((folder / "bars" / "favourites.aside-1.json").read_text()) == old
    file.write_text("{")
    refused(client.get("/api/favourites?model=bars"), 409, "damaged")
    refused(client.post("/api/favourites/aside?model=bars&list=none"), 404, "nothing to rename")


def test_several_lists_and_their_names(client: TestClient, folder: Path) -> None:
    keep = {"model": "bars", "recipe": {"seed": 1}, "list": "best-ones"}
    assert client.post("/api/favourites", json=keep).json()["lists"] == ["favourites", "best-ones"]
    assert (folder / "bars" / "favourites-best-ones.json").is_file()
    for name in ("../x", "a/b", "..", "A", "", "a" * 40 + "/", "a\\b", "%2e"):
        answer = client.post("/api/favourites", json={**keep, "list": name})
        assert answer.status_code in (400, 422), name
    inside = {path.name for path in (folder / "bars").iterdir()}
    assert {name for name in inside if "favourites" in name} == {"favourites-best-ones.json"}
    refused(client.post("/api/favourites", json={**keep, "recipe": {"seed": 1, "label": "cat"}}), 400, "'cat'")


def test_a_place_that_cannot_be_written_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    refused(client.post("/api/favourites", json={"model": "bars", "recipe": {"seed": 1}}), 400, "no space left")
    monkeypatch.undo()
    assert client.get("/api/favourites?model=bars").json()["pictures"] == []


# ---- files to take along ----


def test_the_zip_has_pictures_a_manifest_and_what_makes_them_again(
    client: TestClient, folder: Path, tmp_path: Path
) -> None:
    recipes = [{"seed": seed, "label": "lying"} for seed in range(70)] + [{"seed": 1, "edits": {}}]
    answer = client.post("/api/archive", json={"model": "bars", "recipes": recipes})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as opened:
        assert opened.testzip() is None
        rows = list(csv.DictReader(io.StringIO(opened.read("manifest.csv").decode())))
        assert [int(row["seed"]) for row in rows] == [*range(70), 1]
        opened.extract(rows[5]["file"], tmp_path)
        kept = json.loads(opened.read("favourites.json"))
    assert read_provenance(tmp_path / rows[5]["file"])["recipe"] == recipes[5]  # ty: ignore[not-subscriptable]
    assert [one["recipe"] for one in kept["pictures"]][:70] == recipes[:70]
    assert rows[0]["model"] == kept["model"] == Generator.load(folder / "bars", "cpu").hash
