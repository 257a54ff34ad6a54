"""The studio's HTTP interface for films, prints, comparisons and titles: what the page makes without a terminal."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Command
from ganvas.errors import ConfigError
from ganvas.explore.recipes import Recipe, resolve
from ganvas.film import CODECS
from ganvas.generator import Generator, to_pixels
from ganvas.model_file import WEIGHTS
from ganvas.provenance import read_provenance
from ganvas.results import EVALUATION_FORMAT
from ganvas.system import files

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")
from fastapi.testclient import TestClient

from ganvas.studio import api, commands, slow_jobs
from studio_client import HOME

SEEDS = [{"seed": 4}, {"seed": 5}]


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A folder with a run, to write into."""
    shutil.copytree(trained, tmp_path / "runs" / "bars")
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(api.app(folder, device="cpu", train=True), base_url=HOME) as opened:
        yield opened


def ended(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    """The job that this request started, at its end."""
    answer = client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    task = answer.json()
    end = time.monotonic() + 100
    while task["state"] in ("waiting", "working"):
        assert time.monotonic() < end
        time.sleep(0.02)
        task = client.get("/api/task", params={"id": task["id"]}).json()
    return task


def made(client: TestClient, path: str, place: Path, **body: Any) -> Path:
    """The file that this request makes."""
    task = ended(client, path, **body)
    assert task["state"] == "done", task["sentence"]
    answer = client.get("/api/task/file", params={"id": task["id"], "download": True})
    assert answer.headers["content-type"] == task["result"]["type"] and len(answer.content) == task["result"]["bytes"]
    assert task["result"]["name"] in answer.headers["content-disposition"]
    found = place / task["result"]["name"]
    found.write_bytes(answer.content)
    return found


def refused(client: TestClient, path: str, words: str, **body: Any) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 404, 409) and words in answer.json()["error"], answer.text


def frames(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        return [np.asarray(film.convert("RGBA")) for place in range(film.n_frames) if film.seek(place) is None]  # ty: ignore[missing-attribute]


# ---- films ----


def test_a_film_of_images_has_the_size_the_frames_and_the_filter_that_were_asked_for(
    client: TestClient, tmp_path: Path, folder: Path
) -> None:
    more = {"form": "gif", "size": "96x64", "seconds": 0.5, "fps": 16, "easing": "linear", "filter": "nearest"}
    film = made(client, "/api/films", tmp_path, model="bars", recipes=SEEDS, loop=False, background="#ff0000", **more)
    found = frames(film)
    assert len(found) == 8 and found[0].shape == (64, 96, 4)
    assert (found[0][:, 0, :3] == [255, 0, 0]).all()  # the background beside the square image
    generator = Generator.load(folder / "bars", "cpu")
    first, last = to_pixels(generator.show(resolve(generator, [Recipe(4), Recipe(5)])))[..., 0]
    for shown, expected in ((found[0], first), (found[-1], last)):
        assert np.abs(shown[2::4, 18:-16:4, 0].astype(int) - expected).max() <= 3  # the middle of each square


@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_films_of_a_training(client: TestClient, tmp_path: Path, form: str) -> None:
    av = pytest.importorskip("av", reason="needs pip install 'ganvas[video]'")
    film = made(client, "/api/run/films", tmp_path, run="bars", form=form, size="64x80", seconds=3, background="white")
    with av.open(str(film)) as opened:
        stream = opened.streams.video[0]
        assert (stream.width, stream.height) == (64, 80) and form in CODECS
        assert sum(1 for _ in opened.decode(video=0)) * stream.average_rate**-1 == pytest.approx(3, abs=0.1)


def test_a_film_can_be_cancelled_and_leaves_no_file(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganvas.explore.morph.BATCH", 1)
    body = {"model": "bars", "recipes": SEEDS, "form": "gif", "size": "64x64", "seconds": 400, "fps": 24}
    task = client.post("/api/films", json=body).json()
    while not client.get("/api/task", params={"id": task["id"]}).json()["done"]:
        time.sleep(0.01)
    client.post("/api/task/stop", params={"id": task["id"]})
    while (now := client.get("/api/task", params={"id": task["id"]}).json())["state"] == "working":
        time.sleep(0.01)
    assert now["state"] == "failed" and now["sentence"] == "stopped by the user" and now["total"] == 9600
    assert client.get("/api/task/file", params={"id": task["id"]}).status_code == 404


def test_a_failed_job_leaves_no_file() -> None:
    def work(task: slow_jobs.Task) -> dict:
        bench.place_for(task, "some.zip").write_bytes(b"incomplete")
        raise ConfigError("no")

    bench = slow_jobs.Workbench()
    try:
        task = bench.begin(slow_jobs.Task("print"), work)
        while task.state != "failed":
            time.sleep(0.001)
        assert bench.folder is not None and list(Path(bench.folder.name).iterdir()) == []
    finally:
        bench.close()


def test_what_no_film_can_be_is_refused_before_the_start(client: TestClient) -> None:
    body = {"model": "bars", "recipes": SEEDS, "form": "gif"}
    refused(client, "/api/films", "expected width x height", **body, size="1080")
    refused(client, "/api/films", "needs even numbers", model="bars", recipes=SEEDS, form="mp4", size="641x480")
    refused(client, "/api/films", "too many for GIF", **body, size="1920x1080", seconds=60)
    refused(client, "/api/films", "choose a shorter video", **body, seconds=3000, fps=30)
    refused(client, "/api/films", "up to 50 for GIF", **body, fps=60)
    refused(client, "/api/films", "expected a colour", **body, background="no colour")
    refused(client, "/api/films", "layers 0 to", model="bars", recipes=[{"seed": 1}, {"seed": 1, "mix": FAR}])
    refused(client, "/api/run/films", "no run or model 'nothing'", run="nothing")


FAR = {"with": {"seed": 2}, "depths": [40]}


def test_frames_that_are_copies_are_left_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = slow_jobs.Neighbours("ready")
    monkeypatch.setattr(slow_jobs.Training, "of", lambda self, loaded, begin=True: ready)
    monkeypatch.setattr(slow_jobs, "copies", lambda known, pixels: np.arange(len(pixels)) % 2 == 1)
    with TestClient(api.app(folder, device="cpu", no_copies=True), base_url=HOME) as client:
        more = {"form": "gif", "size": "64x64", "seconds": 0.5, "fps": 16}
        recipes = [{"seed": seed} for seed in range(4)]
        film = made(client, "/api/films", tmp_path, model="bars", recipes=recipes, **more)
    assert len(frames(film)) == 4  # of 8


# ---- prints ----


def test_a_print_is_enlarged_by_the_filter_and_has_its_resolution(client: TestClient, tmp_path: Path) -> None:
    body = {"model": "bars", "recipes": [{"seed": 3}], "enlarge": 5, "dpi": 150}
    pixelated = made(client, "/api/prints", tmp_path, **body, format="tiff", filter="nearest")
    with Image.open(pixelated) as image:
        assert image.size == (80, 80) and image.info["dpi"] == (150, 150)
        squares = np.asarray(image).reshape(16, 5, 16, 5)
    assert (squares == squares[:, :1, :, :1]).all()
    smooth = made(client, "/api/prints", tmp_path, **body, format="png")
    with Image.open(smooth) as image:
        assert (np.asarray(image).reshape(16, 5, 16, 5) != squares).any()
    found = read_provenance(smooth)
    assert found is not None and found["recipe"] == {"seed": 3} and smooth.name == "seed3-standing.png"
    refused(client, "/api/prints", "reduce it", **body | {"enlarge": 64, "recipes": [{"seed": 1}] * 400}, columns=20)


def test_several_prints_are_a_zip_file_or_a_grid(client: TestClient, tmp_path: Path) -> None:
    body = {"model": "bars", "recipes": [{"seed": seed} for seed in range(6)], "enlarge": 2, "format": "jpg"}
    with zipfile.ZipFile(made(client, "/api/prints", tmp_path, **body)) as packed:
        rows = list(csv.DictReader(io.StringIO(packed.read("manifest.csv").decode())))
        assert [row["label"] for row in rows] == ["lying", "standing"] * 3
        with Image.open(io.BytesIO(packed.read(rows[5]["file"]))) as image:
            assert image.size == (32, 32) and image.format == "JPEG" and image.info["dpi"] == (300, 300)
    with Image.open(made(client, "/api/prints", tmp_path, **body, columns=3)) as grid:
        assert grid.size == (3 * 34 + 2, 2 * 34 + 2)


# ---- commands ----


def test_the_command_of_a_film_or_print_makes_the_same(
    client: TestClient, tmp_path: Path, folder: Path, ganvas_command: Command
) -> None:
    mixed = [{"seed": 4}, {"seed": 5, "mix": {"with": {"seed": 2}, "depths": [0]}}]
    more = {"form": "gif", "size": "64x64", "seconds": 0.5, "fps": 8, "filter": "nearest", "loop": False}
    for recipes in (SEEDS, mixed):
        body = {"model": "bars", "recipes": recipes, **more}
        film = made(client, "/api/films", tmp_path, **body)
        words = shlex.split(client.post("/api/films/command", json=body).json()["command"])
        out = tmp_path / f"own-{words[-1]}"
        answer = ganvas_command(*words[1:-1], out, "--device", "cpu")
        assert answer.code == 0, answer.err
        assert all((a == b).all() for a, b in zip(frames(film), frames(out), strict=True))
    assert "--seeds" not in words and list(folder.glob("bars/recipes-*.json"))
    body = {"model": "bars", "recipes": [{"seed": 3}], "enlarge": 3, "format": "png", "filter": "bicubic", "dpi": 72}
    same = made(client, "/api/prints", tmp_path, **body)
    words = shlex.split(client.post("/api/prints/command", json=body).json()["command"])
    answer = ganvas_command(*words[1:-1], tmp_path / "prints", "--device", "cpu")
    assert answer.code == 0, answer.err
    (own,) = (tmp_path / "prints").glob("*.png")
    with Image.open(own) as one, Image.open(same) as other:
        assert (np.asarray(one) == np.asarray(other)).all() and one.info["dpi"] == other.info["dpi"]
    line = client.post("/api/run/films/command", json={"run": "bars", "form": "mp4", "seconds": 5}).json()["command"]
    assert line.startswith("ganvas video ") and line.endswith("--out bars-training.mp4 --filter lanczos --seconds 5")


def test_commands_pass_every_text_on_in_both_shells() -> None:
    texts = ["runs/mine", "0-9,42", "two words", "it's", 'a "b" it\'s $x', "$(x)", "`x`", "a;b", "#1", "~", "@x", "{1}"]
    found = commands.line(texts)
    assert shlex.split(found.command) == texts
    assert found.powershell == found.command.replace("'\"'\"'", "''")
    assert (
        commands.line(["it's", "0-9,42"]).command == "\"it's\" '0-9,42'" == commands.line(["it's", "0-9,42"]).powershell
    )


# ---- classes on grids ----


def test_the_classes_of_the_rows_of_the_previews_are_told(client: TestClient, folder: Path) -> None:
    assert client.get("/api/run", params={"run": "bars"}).json()["rows"] == ["lying", "standing"]
    (folder / "bars" / "model" / "config.json").write_text("{")
    (folder / "bars" / "log.jsonl").touch()
    assert client.get("/api/run", params={"run": "bars"}).json()["rows"] == []


# ---- favourites and titles ----


def kept(client: TestClient, path: str = "", **values: Any) -> list[tuple[int, str]]:
    """Seeds and titles of the favourites after a change."""
    answer = client.post(f"/api/favourites{path}", json={"model": "bars", **values})
    assert answer.status_code == 200, answer.text
    return [(one["recipe"]["seed"], one["title"]) for one in answer.json()["pictures"]]


def undone(client: TestClient) -> list[int]:
    answer = client.post("/api/favourites/undo", params={"model": "bars"})
    assert answer.status_code == 200, answer.text
    return [one["recipe"]["seed"] for one in answer.json()["pictures"]]


def test_favourites_are_renamed_and_moved_and_each_change_can_be_undone(client: TestClient, folder: Path) -> None:
    for seed in (1, 2, 3):
        kept(client, recipe={"seed": seed})
    assert kept(client, recipe={"seed": 2}, title="the best") == [(1, ""), (2, "the best"), (3, "")]
    assert kept(client, "/move", recipe={"seed": 2}, place=0) == [(2, "the best"), (1, ""), (3, "")]
    assert kept(client, "/move", recipe={"seed": 2}, place=99) == [(1, ""), (3, ""), (2, "the best")]
    assert kept(client, "/remove", recipe={"seed": 3}) == [(1, ""), (2, "the best")]
    assert kept(client, "/remove", recipe={"seed": 3}) == [(1, ""), (2, "the best")]  # no change, nothing to undo
    assert client.get("/api/favourites?model=bars").json()["undo"] == "remove"
    assert undone(client) == [1, 3, 2]
    assert undone(client) == [2, 1, 3] and undone(client) == [1, 2, 3]
    assert kept(client, recipe={"seed": 4})[1] == (2, "the best")
    assert undone(client) == [1, 2, 3] and undone(client) == [1, 2, 3]  # an added one, then the name
    refused(client, "/api/favourites/move", "not in the list", model="bars", recipe={"seed": 9}, place=0)
    file = folder / "bars" / "favourites.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 7'))
    answer = client.post("/api/favourites/undo", params={"model": "bars"})
    assert answer.status_code == 409 and "changed by another program" in answer.json()["error"]
    assert client.get("/api/favourites?model=bars").json()["undo"] == ""


def test_the_title_of_a_run_is_changed_and_the_run_can_still_be_resumed(
    client: TestClient, folder: Path, ganvas_command: Command
) -> None:
    assert client.post("/api/run/title", json={"run": "bars", "title": "Blue bars"}).json()["title"] == "Blue bars"
    assert client.get("/api/runs").json()["runs"][0]["title"] == "Blue bars"
    assert client.get("/api/places").json()["places"][0]["title"] == "Blue bars"
    answer = ganvas_command("train", folder / "bars", "--device", "cpu")
    assert answer.code == 0 and "is finished" in answer.err + answer.out
    assert client.post("/api/run/title", json={"run": "bars", "title": " "}).json()["title"] == "bars"
    with TestClient(api.app(folder, device="cpu"), base_url=HOME) as guest:
        assert guest.post("/api/run/title", json={"run": "bars", "title": "no"}).status_code == 403


# ---- comparison ----


def evaluate_by_hand(run: Path, kid: tuple[float, float, float], data: str = "d") -> None:
    """An evaluation with one measure: its value and interval."""
    value, low, high = kid
    row = {"key": "kid", "name": "KID", "better": "lower", "value": value, "low": low, "high": high, "real": 0.0}
    model = {"weights": files.sha256(run / "model" / WEIGHTS)[:8]}
    (run / "evaluation").mkdir(exist_ok=True)
    Image.new("L", (20, 20)).save(run / "evaluation" / "generated.png")
    content = {
        "format": EVALUATION_FORMAT,
        "model": model,
        "data": {"hash": data, "classes": ["lying", "standing"]},
        "protocol": {"num_real": 24},
        "measures": [row],
        "grids": {"generated": "evaluation/generated.png", "per_class": True, "note": "uncurated"},
    }
    (run / "evaluation.json").write_text(json.dumps(content))


def test_runs_are_compared_by_their_evaluations(client: TestClient, folder: Path, trained: Path) -> None:
    for name in ("second", "third"):
        shutil.copytree(trained, folder / name)
    evaluate_by_hand(folder / "bars", (0.5, 0.4, 0.6))
    evaluate_by_hand(folder / "second", (0.2, 0.1, 0.3))
    client.post("/api/run/title", json={"run": "bars", "title": "First"})
    told = client.get("/api/comparison", params={"run": ["bars", "second", "third"]}).json()
    assert told["names"] == ["First", "second", "third"]
    kid = told["rows"][0]
    assert kid["name"] == "KID" and kid["better"] == "lower is better"
    assert [one["best"] for one in kid["cells"]] == [False, True, False] and kid["cells"][2]["value"] == "–"
    assert kid["cells"][0]["interval"] == "0.40 to 0.60"
    assert any("No evaluation yet" in one for one in told["caveats"])
    assert [one["rows"] for one in told["grids"]] == [["lying", "standing"]] * 3
    for one in told["grids"]:
        assert client.get(one["address"]).headers["content-type"] == "image/png"
    assert "samples?" in told["grids"][0]["address"] and "grid?" in told["grids"][2]["address"]
    evaluate_by_hand(folder / "second", (0.2, 0.1, 0.3), data="other")
    told = client.get("/api/comparison", params={"run": ["bars", "second"]}).json()
    assert any("different data" in one for one in told["caveats"])
    assert client.get("/api/comparison", params={"run": ["bars"]}).status_code == 422
    assert client.get("/api/comparison", params={"run": ["bars"] * 7}).status_code == 422
    (folder / "second" / "evaluation.json").write_text("{")
    answer = client.get("/api/comparison", params={"run": ["bars", "second"]})
    assert answer.status_code == 400 and "is damaged" in answer.json()["error"]
