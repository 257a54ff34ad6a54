"""The studio's HTTP interface for runs: progress, grids, damaged and oddly named runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ganvas.generator import Generator

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

from fastapi.testclient import TestClient

from ganvas.studio import api
from studio_client import HOME, address, picture, refused


def test_runs_are_told_with_their_curves_and_grids(client: TestClient, folder: Path) -> None:
    log = folder / "bars" / "log.jsonl"
    event = {"images": 32, "health": "collapse", "words": "<b>all alike</b>", "action": "start again"}
    with log.open("a") as file:
        file.write(
            json.dumps(event) + "\n" + '{"images": 40, "loss": NaN, "d_real": Infinity}\n' + '{"images": 48, "lo'
        )
    runs = client.get("/api/runs").json()["runs"]
    assert [one["name"] for one in runs] == ["bars", "other"]
    shutil.rmtree(folder / "other")
    assert [one["name"] for one in client.get("/api/runs").json()["runs"]] == ["bars"]
    answer = client.get("/api/run?run=bars")
    told = answer.json()
    assert told["images"] == 48 and told["progress"] == 1 and told["grids"][-1] == 48
    assert told["health"][-1]["words"] == "<b>all alike</b>"
    assert len(told["reports"]["images"]) == len(told["reports"]["loss"])
    grid = client.get(f"/api/run/grid?run=bars&images={told['grids'][-1]}")
    assert grid.headers["content-type"] == "image/png" and picture(grid.content).ndim == 2
    refused(client.get("/api/run/grid?run=bars&images=7"), 404, "no preview grid at 7 images")
    refused(client.get("/api/run/film?run=bars"), 404, "ganvas video")
    Image.new("L", (8, 8)).save(folder / "bars" / "training.webp")
    assert client.get("/api/run?run=bars").json()["films"] == ["webp"]
    assert client.get("/api/run/film?run=bars").headers["content-type"] == "image/webp"
    answer = client.get("/api/run?run=bars")
    assert client.get("/api/run?run=bars", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_a_run_without_a_model_and_a_model_without_a_run(folder: Path) -> None:
    shutil.move(folder / "bars" / "model", folder / "alone")
    with TestClient(api.app(folder, device="cpu"), base_url=HOME) as client:
        places = {one["name"]: one for one in client.get("/api/places").json()["places"]}
        assert not places["bars"]["has_model"] and not places["alone"]["is_run"]
        refused(client.get("/api/model?model=bars"), 400, "has no model yet")
        refused(client.get("/api/run?run=alone"), 404, "without a training run")
        (folder / "bars" / "config.json").write_text("{")
        assert "damaged" in client.get("/api/run?run=bars").json()["sentence"]


def test_a_model_that_training_replaced_is_told_and_loaded_on_request(client: TestClient, folder: Path) -> None:
    first = client.get("/api/model?model=bars").json()
    generator = Generator.load(folder / "bars", "cpu")
    for parameter in generator.network.parameters():
        parameter.data.mul_(1.01)
    Generator(generator.network, generator.info).save(folder / "bars" / "model")
    told = client.get("/api/model?model=bars").json()
    assert told["newer"] and told["hash"] == first["hash"]
    assert client.get(address({"seed": 1}, version=first["version"])).status_code == 200
    fresh = client.get("/api/model?model=bars&anew=true").json()
    assert not fresh["newer"] and fresh["hash"] != first["hash"]
    refused(client.get(address({"seed": 1}, version=first["version"])), 409, "reload the page")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("samples/².png", b"x"),
        ("samples/" + "9" * 200 + ".png", b"x"),
        ("log.jsonl", b'{"images": 1' + b"0" * 4000 + b', "loss": 1}\n'),
        ("log.jsonl", b'{"images": {"value": 3}, "score": 1}\n{"images": {"value": 3}, "health": 1}\n'),
        ("log.jsonl", b"[" * 100_000),
        ("log.jsonl", b"\xff\n{}\n[]\n3\n"),
        ("log.jsonl", b'{"images": 1, "health": "\\ud800", "words": "\\ud800"}\n'),
        ("config.json", b'{"model": ' + b"[" * 100_000 + b"}"),
        (
            "config.json",
            b'{"model": {"a": [[[1]]]}, "train": {"minutes": 1e308}, "data": {"size": 1' + b"0" * 4000 + b"}}",
        ),
        ("config.json", b"\xff"),
        ("config.json", b"[]"),
    ],
)
def test_an_odd_run_leaves_the_others_be(file: str, content: bytes, client: TestClient, folder: Path) -> None:
    shutil.copytree(folder / "bars", folder / "odd")
    (folder / "odd" / file).write_bytes(content)
    told = client.get("/api/runs")
    assert told.status_code == 200 and {one["name"] for one in told.json()["runs"]} >= {"bars", "odd"}
    assert client.get("/api/run", params={"run": "odd"}).status_code == 200


def test_a_run_whose_name_is_no_text_can_be_shown(client: TestClient, folder: Path) -> None:
    try:
        shutil.copytree(folder / "bars", folder / os.fsdecode(b"o\xffdd"))
    except OSError:
        pytest.skip("this file system has only names that are text")
    name = "o\\udcffdd"
    assert {"bars", name} <= {one["name"] for one in client.get("/api/places").json()["places"]}
    assert {"bars", name} <= {one["name"] for one in client.get("/api/runs").json()["runs"]}
    assert client.get("/api/run", params={"run": name}).json()["name"] == name


def test_a_folder_named_like_a_grid_is_none(client: TestClient, folder: Path) -> None:
    (folder / "bars" / "samples" / "000000000005.png").mkdir()
    assert 5 not in client.get("/api/run?run=bars").json()["grids"]
    refused(client.get("/api/run/grid?run=bars&images=5"), 404, "no preview grid at 5")
