"""The studio's HTTP interface: images, kept lists, jobs, runs; who may ask and for how much."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import ganvas
import processes
from conftest import Command
from ganvas.errors import ConfigError
from ganvas.explore.recipes import Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.provenance import read_provenance
from ganvas.studio import access, slow_jobs

fastapi = pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")
schemathesis = pytest.importorskip("schemathesis", reason="needs pip install schemathesis")

from fastapi.testclient import TestClient  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

from ganvas import studio  # noqa: E402
from ganvas.studio import api, engine  # noqa: E402
from ganvas.studio.engine import Engine  # noqa: E402
from ganvas.studio.errors import BusyError  # noqa: E402
from ganvas.studio.model_folder import Shelf  # noqa: E402
from test_generator import fresh  # noqa: E402

HOME = "http://127.0.0.1"


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A folder of two runs, to write into."""
    for name in ("bars", "other"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(api.app(folder, device="cpu"), base_url=HOME) as opened:
        yield opened


@pytest.fixture
def rough_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold of copies comes from few real images, which is quick."""
    monkeypatch.setattr("ganvas.evaluation.copies.ENOUGH", 100)


def picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened)


def address(recipe: Any, model: str = "bars", **more: str) -> str:
    return f"/api/picture?{httpx.QueryParams({'model': model, 'recipe': json.dumps(recipe), **more})}"


def refused(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"] and "\n" not in answer.json()["error"]


# ---- images ----


def test_a_picture_is_the_recipe_s_and_says_where_it_comes_from(
    client: TestClient, folder: Path, tmp_path: Path
) -> None:
    recipe = {"seed": 7, "label": "standing", "truncation": 0.5, "towards": {"to": {"seed": 3}, "share": 0.25}}
    recipe["mix"] = {"with": {"seed": 4}, "depths": [0]}
    version = client.get("/api/model", params={"model": "bars"}).json()["version"]
    answer = client.get(address(recipe, version=version))
    generator = Generator.load(folder / "bars", "cpu")
    expected = to_pixels(generator.show(resolve(generator, [Recipe.from_dict(recipe)])))[0]
    assert np.abs(picture(answer.content).astype(int) - expected[:, :, 0]).max() <= 1
    (tmp_path / "one.png").write_bytes(answer.content)
    assert read_provenance(tmp_path / "one.png") == {"synthetic": True, "model": generator.hash, "recipe": recipe}
    assert "immutable" in answer.headers["cache-control"]
    again = client.get(address(recipe, version=version), headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert "immutable" not in client.get(address(recipe)).headers["cache-control"]
    saved = client.get(address(recipe, download="true")).headers["content-disposition"]
    assert saved == 'attachment; filename="seed7-standing-morph-mix.png"'


def test_lists_sheets_and_codes(client: TestClient) -> None:
    recipes = [{"seed": seed} for seed in range(5)]
    found = client.post("/api/pictures", json={"model": "bars", "recipes": recipes}).json()["pictures"]
    assert [picture(base64.b64decode(one["png"])).shape for one in found] == [(16, 16)] * 5
    assert client.get(found[3]["address"]).content == base64.b64decode(found[3]["png"])
    body = {"model": "bars", "recipes": recipes, "columns": 5}
    sheet = client.post("/api/pictures?form=sheet", json=body)
    assert picture(sheet.content).shape == (16 + 4, 5 * 18 + 2)
    # An image half way to another one, as a code of its own, stays the same.
    half = {"seed": 1, "towards": {"to": {"seed": 3}, "share": 0.5}}
    code = client.post("/api/code", json={"model": "bars", "recipe": half}).json()["recipe"]
    assert "code" in code and "towards" not in code
    pair = client.post("/api/pictures", json={"model": "bars", "recipes": [half, code]}).json()["pictures"]
    first, second = (picture(base64.b64decode(one["png"])).astype(int) for one in pair)
    assert np.abs(first - second).max() <= 1


@pytest.mark.parametrize(
    ("recipe", "status", "words"),
    [
        ({}, 400, "expected either a seed or a code"),
        ({"seed": 1, "code": [[0.0]]}, 400, "expected either a seed or a code"),
        ({"seed": 1, "label": "cat"}, 400, "label 'cat' does not exist: this model has lying, standing"),
        ({"seed": 1, "mix": {"with": {"seed": 2}, "depths": [50]}}, 400, "depths 50: this model has layers 0 to"),
        ({"seed": 1, "edits": {"smile": 1}}, 400, "direction 'smile' does not exist"),
        ({"code": [[0.0, 1.0]]}, 400, "from another model"),
        ({"seed": 1, "truncation": 2}, 400, "truncation"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 1, "paint": 2}, 400, "paint"),
        ({"code": [[1e30] * 8]}, 400, "code"),
    ],
)
def test_recipes_that_do_not_fit_are_refused_in_one_sentence(
    client: TestClient, recipe: dict[str, Any], status: int, words: str
) -> None:
    refused(client.get(address(recipe)), status, words)


def test_addresses_that_are_no_recipe(client: TestClient) -> None:
    refused(client.get("/api/picture?model=bars&recipe=seed5"), 400, "not JSON")
    refused(client.get("/api/picture?model=bars&recipe=" + "[" * 20_000), 400, "not JSON")
    refused(client.get("/api/picture?model=bars"), 422, "recipe")
    refused(client.get(address({"seed": 1}, version="0" * 32)), 409, "reload the page")
    refused(client.get("/api/nothing"), 404, "openapi.json")
    refused(client.get("/api/pictures"), 405, "openapi.json")
    nested: dict[str, Any] = {"seed": 1}
    for seed in range(30):
        nested = {"seed": seed, "towards": {"to": nested, "share": 0.5}}
    refused(client.post("/api/pictures", json={"model": "bars", "recipes": [nested]}), 400, "nests more than")
    wide = [{"seed": seed} for seed in range(65)]
    refused(client.post("/api/pictures", json={"model": "bars", "recipes": wide}), 422, "recipes")


def test_one_bad_recipe_does_not_spoil_the_pictures_of_others(folder: Path) -> None:
    drawing = Engine(Shelf(folder), "cpu")
    loaded = drawing.model("bars")
    good, bad = Recipe(1), Recipe(2, label="nobody")

    async def ask() -> list[Any]:
        asked = [drawing.pictures(loaded, [one]) for one in (good, bad, good)]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    drawing.close()
    assert first == third and isinstance(first[0], bytes)
    assert isinstance(second, ConfigError) and "nobody" in str(second)
    assert drawing.reserved == drawing.reserved_bytes == 0


# ---- many clients ----


def test_fifty_clients_are_served_in_order_with_bounded_memory_and_a_clear_busy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wants 8 images; 160 may wait: 20 are served in their order, the others told when to ask again."""
    monkeypatch.setattr(engine, "MOST_WAITING", 160)
    served: list[int] = []
    highest: list[int] = []
    sizes: list[int] = []
    opened = threading.Event()
    draw = engine.draw

    def slowly(jobs: Any) -> list[np.ndarray]:
        opened.wait(20)
        sizes.append(sum(len(job.recipes) for job in jobs))
        served.extend(job.recipes[0].seed // 100 for job in jobs)
        return draw(jobs)

    monkeypatch.setattr(engine, "draw", slowly)
    application = api.app(folder, device="cpu")
    made: list[Engine] = []
    monkeypatch.setattr(Engine, "submit", watched(Engine.submit, highest, made))

    async def client(web: httpx.AsyncClient, number: int) -> list[int]:
        recipes = [{"seed": 100 * number + i} for i in range(8)]
        statuses = []
        while not statuses or statuses[-1] == 503:
            answer = await web.post("/api/pictures", json={"model": "bars", "recipes": recipes})
            statuses.append(answer.status_code)
            if answer.status_code == 503:
                assert "busy" in answer.json()["error"] and int(answer.headers["retry-after"]) >= 1
                opened.set()
                await asyncio.sleep(0.05)
        assert len(answer.json()["pictures"]) == 8
        return statuses

    async def crowd() -> list[list[int]]:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url=HOME) as web:
            await web.get("/api/model", params={"model": "bars"})
            return await asyncio.gather(*(client(web, number) for number in range(50)))

    histories = asyncio.run(crowd())
    made[0].close()
    assert all(statuses[-1] == 200 and set(statuses[:-1]) <= {503} for statuses in histories)
    at_once = [number for number, statuses in enumerate(histories) if statuses == [200]]
    assert len(at_once) >= 20 and sum(len(statuses) > 1 for statuses in histories) >= 20
    places = [served.index(number) for number in at_once[:20]]
    assert places == sorted(places)  # first come, first served
    assert max(highest) <= 160 and max(sizes) <= engine.BATCH
    assert max(sizes) > 8  # requests that wait share a forward pass


def watched(submit: Any, highest: list[int], made: list[Engine]) -> Any:
    def wrapped(self: Engine, *arguments: Any, **more: Any) -> Any:
        highest.append(self.reserved)
        made.append(self)
        return submit(self, *arguments, **more)

    return wrapped


def test_the_cache_of_pictures_is_bounded_and_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Engine(Shelf(folder), "cpu")
    loaded = drawing.model("bars")
    one = asyncio.run(drawing.pictures(loaded, [Recipe(1)]))[0]
    monkeypatch.setattr(engine, "CACHE_BYTES", 10 * len(one))
    asyncio.run(drawing.pictures(loaded, [Recipe(seed) for seed in range(40)]))
    assert drawing.cached_bytes == sum(map(len, drawing.cache.values())) <= 10 * len(one)
    drawn = drawing.submit
    monkeypatch.setattr(drawing, "submit", lambda *_: pytest.fail("it was drawn already"))
    asyncio.run(drawing.pictures(loaded, [Recipe(39)]))
    monkeypatch.setattr(drawing, "submit", drawn)
    drawing.close()
    with pytest.raises(BusyError, match="closing"):
        drawing.submit(loaded, [Recipe(1)])


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


# ---- training images, uploads, directions ----


def test_the_nearest_training_picture_where_the_pack_is_at_hand(client: TestClient, folder: Path) -> None:
    body = {"model": "bars", "recipes": [{"seed": 1}]}
    told = wait_for(lambda: client.post("/api/nearest", json=body).json(), lambda one: one["state"] != "preparing")
    # 24 images are too few to tell: that is said; an image of the pack is shown only where there is one.
    assert told["state"] == "absent" and "held-out" in told["sentence"]
    refused(client.get("/api/training-picture?model=bars&index=0"), 404, "held-out")


def test_without_a_pack_it_says_how_to_give_one(folder: Path) -> None:
    shutil.move(folder / "bars" / "model", folder / "alone")
    with TestClient(api.app(folder / "alone", device="cpu"), base_url=HOME) as client:
        body = {"model": "alone", "recipes": [{"seed": 1}]}
        told = wait_for(lambda: client.post("/api/nearest", json=body).json(), lambda one: one["state"] != "preparing")
    assert told["state"] == "absent" and "--data" in told["sentence"]


@pytest.mark.usefixtures("rough_copies")
def test_the_nearest_of_real_digits(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tmp_path_factory.mktemp("digits") / "run"
    tiny = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 2, "device": "cpu", "limit": 400}
    ganvas.train("digits", run, images=32, quiet=True, **tiny)
    with TestClient(api.app(run, device="cpu"), base_url=HOME) as client:
        body = {"model": "run", "recipes": [{"seed": 1}, {"seed": 2}]}
        told = wait_for(lambda: client.post("/api/nearest", json=body).json(), lambda one: one["state"] != "preparing")
        assert told["state"] == "ready", told
        assert all(-1 <= one["correlation"] <= 1 and one["name"] for one in told["found"])
        real = client.get(f"/api/training-picture?model=run&index={told['found'][0]['index']}")
        assert picture(real.content).shape == (16, 16)
        refused(client.get("/api/training-picture?model=run&index=99999"), 404, "the last one is 399")


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("pack_of", lambda folder, generator, data, progress: progress("packing", 1, 0)),
        ("CopyFinder", lambda pack, progress: pack.images[[0]]),
        ("CopyFinder", lambda pack, progress: progress("searching", 1, 2)),
    ],
    ids=["packing", "reading", "searching"],
)
def test_the_studio_closes_while_it_reads_training_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: str, step: Any
) -> None:
    working = threading.Event()
    readers: list[threading.Thread] = []

    def endless(*arguments: Any) -> None:
        readers.append(threading.current_thread())
        while True:
            step(*arguments)
            working.set()

    monkeypatch.setattr(slow_jobs, part, endless)
    with TestClient(api.app(folder, device="cpu"), base_url=HOME) as client:
        client.post("/api/nearest", json={"model": "bars", "recipes": [{"seed": 1}]})
        assert working.wait(20)
    assert [thread.is_alive() for thread in readers] == [False]


def test_a_server_that_is_forced_to_end_closes_the_studio_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    for part in (slow_jobs.Workbench, slow_jobs.Training, Engine):
        close = part.close
        monkeypatch.setattr(part, "close", lambda self, close=close: [close(self), closed.append(type(self))])

    async def forced() -> None:
        messages: asyncio.Queue[Any] = asyncio.Queue()
        sent: asyncio.Queue[Any] = asyncio.Queue()
        messages.put_nowait({"type": "lifespan.startup"})
        application = api.app(folder, device="cpu")
        running = asyncio.ensure_future(application({"type": "lifespan", "state": {}}, messages.get, sent.put))
        assert (await sent.get())["type"] == "lifespan.startup.complete"
        running.cancel()  # uvicorn does this after a second Ctrl-C
        await asyncio.wait([running])

    asyncio.run(forced())
    assert closed == [slow_jobs.Workbench, slow_jobs.Training, Engine]


def test_waiting_requests_are_answered_at_the_end_even_if_one_was_cancelled(folder: Path) -> None:
    known, hold = Engine(Shelf(folder), "cpu"), threading.Event()
    loaded = known.model("bars")
    known.call(loaded, hold.wait)
    cancelled, other = known.call(loaded, int), known.call(loaded, int)
    assert cancelled.cancel()
    closing = threading.Thread(target=known.close)
    closing.start()
    wait_for(lambda: known.closed, bool)
    hold.set()
    with pytest.raises(BusyError, match="closing"):
        other.result(10)
    closing.join()


def test_the_model_in_use_stays_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_MODELS", 2)
    known = Engine(Shelf(folder), "cpu")
    try:
        first = known.model("bars")
        known.model("other")
        assert asyncio.run(known.ready("bars")) is first and list(known.models) == ["other", "bars"]
    finally:
        known.close()


@pytest.mark.usefixtures("rough_copies")
def test_no_copy_is_handed_out(tmp_path: Path) -> None:
    model = fresh().save(tmp_path / "model")
    ganvas.sample(model, tmp_path / "pictures", n=400, device="cpu")  # what it "was trained on": its own images
    data = str(tmp_path / "pictures")
    with TestClient(api.app(model, device="cpu", data=data, no_copies=True), base_url=HOME) as client:
        body = {"model": "model", "recipes": [{"seed": 1}]}
        wait_for(lambda: client.post("/api/nearest", json=body).json(), lambda one: one["state"] == "ready")
        recipes = [{"seed": seed} for seed in (*range(20), *range(9000, 9020))]
        answer = client.post("/api/archive", json={"model": "model", "recipes": recipes})
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            rows = list(csv.DictReader(io.StringIO(archive.read("manifest.csv").decode())))
        seeds = [int(row["seed"]) for row in rows]
        assert sum(seed >= 9000 for seed in seeds) >= 18 and sum(seed < 9000 for seed in seeds) <= 6
        copied = next(seed for seed in range(20) if seed not in seeds)
        for seed, status in ((copied, 409), (seeds[-1], 200)):
            where = f'/api/picture?model=model&download=true&recipe={{"seed":{seed}}}'
            assert client.get(where).status_code == status
    with TestClient(api.app(model, device="cpu", no_copies=True), base_url=HOME) as client:
        refused(client.post("/api/archive", json={"model": "model", "recipes": recipes}), 409, "--no-copies")


def wait_for(ask: Any, done: Any, seconds: float = 150) -> Any:
    end = time.monotonic() + seconds
    while not done(told := ask()):
        assert time.monotonic() < end, told
        time.sleep(0.05)
    return told


def png(height: int, width: int, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def claiming(content: bytes, width: int, height: int) -> bytes:
    """A PNG file whose header claims another size."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"<svg onload='alert(1)'/>", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "truncated"),
        (png(64, 64)[:60], "truncated"),
        (claiming(png(4, 4), 20_000, 20_000), "too large: 400,000,000"),
        (png(6400, 6400), "too large: 6400x6400"),
    ],
    ids=["empty", "svg", "broken", "cut", "bomb", "large"],
)
def test_refused_uploads(client: TestClient, content: bytes, words: str) -> None:
    answer = client.post("/api/projections?model=bars", content=content)
    assert answer.status_code == 400 and words.lower() in answer.json()["error"].lower(), answer.text


def test_uploads_are_limited_in_bytes_with_or_without_their_length(client: TestClient) -> None:
    large = b"\0" * (access.BODY_BYTES + 1)
    refused(client.post("/api/projections?model=bars", content=large), 413, "16,777,216 bytes")
    pieces = (large[start : start + 2**20] for start in range(0, len(large), 2**20))
    refused(client.post("/api/projections?model=bars", content=pieces), 413, "16,777,216 bytes")
    body = b'{"model": "bars", "recipes": [' + b" " * access.JSON_BYTES + b"]}"
    refused(client.post("/api/pictures", content=body, headers={"content-type": "application/json"}), 413, "bytes")
    halves = (body[: len(body) // 2], body[len(body) // 2 :])
    refused(client.post("/api/pictures", content=iter(halves)), 413, "4,194,304 bytes")
    json_type = {"content-type": "application/json"}
    refused(client.post("/api/pictures", content=b"[" * 9000, headers=json_type), 400, "JSON")
    refused(client.post("/api/pictures", content=b"{", headers=json_type), 422, "JSON")
    refused(client.get("/api/picture?model=bars&recipe=" + "1" * 40_000), 414, "POST /api/pictures")


def test_a_projection_runs_beside_the_pictures_and_can_be_stopped(client: TestClient) -> None:
    pytest.importorskip("ganvas.explore.projection")
    content = png(40, 30, "RGB")
    refused(client.post("/api/projections?model=bars&label=cat", content=content), 400, "'cat'")
    task = client.post("/api/projections?model=bars&steps=20", content=content).json()
    assert task["sentence"] == "cropped and resized from 30x40 to 16x16 and converted to gray"
    assert picture(client.get(f"/api/task/target?id={task['id']}").content).shape == (16, 16)
    done = wait_for(lambda: client.get(f"/api/task?id={task['id']}").json(), lambda one: one["state"] in "done failed")
    assert done["state"] == "done", done
    assert done["result"]["losses"][-1] <= done["result"]["losses"][0]
    assert client.get(address(done["result"]["recipe"])).status_code == 200
    long = client.post("/api/projections?model=bars&steps=2000", content=content).json()
    client.post(f"/api/task/stop?id={long['id']}")
    ended = wait_for(lambda: client.get(f"/api/task?id={long['id']}").json(), lambda one: one["state"] in "done failed")
    assert ended["state"] == "failed" and "by the user" in ended["sentence"]
    refused(client.get("/api/task?id=nothing"), 404, "does not exist")


def test_a_batch_holds_images_of_one_model() -> None:
    first, other = (engine.Job(SimpleNamespace(batch=4), [Recipe(seed=1)]) for _ in range(2))
    assert engine.fits(engine.Job(first.loaded, [Recipe(seed=2)] * 3), first, room=3)
    assert not engine.fits(other, first, room=3)
    assert not engine.fits(engine.Job(first.loaded, [Recipe(seed=2)] * 4), first, room=3)
    assert not engine.fits(engine.Job(first.loaded, [], action=print), first, room=3)


def test_what_was_used_longest_ago_is_forgotten_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        fresh().save(tmp_path / "models" / name)
    drawing = Engine(Shelf(tmp_path / "models"), "cpu")
    for name in "abcad":
        drawing.model(name)
    assert list(drawing.models) == ["c", "a", "d"] and len(drawing.models) == engine.MOST_MODELS
    monkeypatch.setattr(engine, "CACHE_BYTES", 30)
    for key in "abc":
        drawing.keep(key, b"0123456789")
    assert drawing.cached("a") is not None
    drawing.keep("d", b"0123456789")
    assert list(drawing.cache) == ["c", "a", "d"] and drawing.cached_bytes == 30
    drawing.close()


def test_slow_jobs_wait_in_a_short_queue(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    monkeypatch.setattr(slow_jobs, "finding_directions", lambda *_: lambda _: {"waited": going.wait(20)})
    for _ in range(slow_jobs.MOST_WAITING):
        assert client.post("/api/directions", json={"model": "bars"}).status_code == 202
    answer = client.post("/api/directions", json={"model": "bars"})
    refused(answer, 503, "slow jobs are waiting")
    assert int(answer.headers["retry-after"]) > 0
    going.set()


def test_looking_for_directions_ends_when_it_is_cancelled(trained: Path, tmp_path: Path) -> None:
    loaded: Any = SimpleNamespace(
        generator=Generator.load(trained), directions={}, place=SimpleNamespace(folder=tmp_path)
    )
    task = slow_jobs.Task("directions", cancelled=True)
    with pytest.raises(ConfigError, match="stopped"):
        slow_jobs.finding_directions(loaded, 2)(task)
    assert task.done > 0 and not list(tmp_path.iterdir())


def test_directions_are_found_saved_and_change_the_addresses(client: TestClient, folder: Path) -> None:
    before = client.get("/api/model?model=bars").json()
    task = client.post("/api/directions", json={"model": "bars", "num": 3}).json()
    done = wait_for(lambda: client.get(f"/api/task?id={task['id']}").json(), lambda one: one["state"] in "done failed")
    assert done["state"] == "done", done
    after = client.get("/api/model?model=bars").json()
    name = after["directions"][0]["name"]
    assert len(after["directions"]) == 3 and after["version"] != before["version"] and after["hash"] == before["hash"]
    refused(client.get(address({"seed": 1}, version=before["version"])), 409, "reload")
    plain, moved = (picture(client.get(address(one)).content) for one in ({"seed": 1}, {"seed": 1, "edits": {name: 3}}))
    assert (plain != moved).any()
    (folder / "bars" / "model" / "directions.json").write_text('{"ganvas": "directions"}')
    told = client.get("/api/model?model=bars").json()
    assert told["directions"] == [] and "directions.json" in told["sentence"]


# ---- trainings ----


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


# ---- who may ask ----


@pytest.mark.parametrize(
    "path",
    [
        "/static/../api.py",
        "/static/..%2fapi.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/../../../../etc/passwd",
        "/static//etc/passwd",
        "/api/run?run=../..",
        "/api/run?run=/etc",
        "/api/model?model=..%2f..",
        "/api/run/grid?run=bars/../other&images=48",
        "/api/run/film?run=bars&form=../config.json",
        "/api/picture?model=bars%00&recipe=%7B%22seed%22:1%7D",
    ],
)
def test_nothing_outside_is_read(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 422) and "error" in answer.json()


def test_links_that_lead_outside_are_not_followed(folder: Path, trained: Path, tmp_path: Path) -> None:
    (folder / "linked").symlink_to(trained)
    grids = folder / "bars" / "samples"
    (tmp_path / "secret.png").write_bytes(png(4, 4))
    (grids / "000000000099.png").symlink_to(tmp_path / "secret.png")
    (folder / "bars" / "training.gif").symlink_to(tmp_path / "secret.png")
    with TestClient(api.app(folder, device="cpu"), base_url=HOME) as client:
        assert [one["name"] for one in client.get("/api/places").json()["places"]] == ["bars", "other"]
        assert client.get("/api/run/grid?run=bars&images=99").status_code == 404
        assert client.get("/api/run/film?run=bars&form=gif").status_code == 404
        told = client.get("/api/run?run=bars").json()
        assert 99 not in told["grids"] and told["films"] == []


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "localhost:7860"}, True),
        ({"host": "[::1]:7860"}, True),
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example:7860"}, False),
        ({"host": ""}, False),
        ({"host": "[::"}, False),
        ({"origin": "http://127.0.0.1"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
    ],
)
def test_other_sites_cannot_ask(client: TestClient, headers: dict[str, str], allowed: bool) -> None:
    answer = client.get("/api/places", headers=headers)
    assert answer.status_code == (200 if allowed else 403), answer.text


def test_a_token_is_asked_of_everyone(folder: Path) -> None:
    token = "correct-horse-battery"
    application = api.app(folder, device="cpu", token=token)
    home = "http://some.host:7860"
    with TestClient(application, base_url=home, follow_redirects=False) as client:
        for path in ("/", "/api/places", "/static/studio.js", "/api/openapi.json"):
            refused(client.get(path), 401, "token")
        refused(client.get("/?token=wrong"), 401, "token")
        refused(client.get("/api/places", headers={"authorization": "Bearer wrong"}), 401, "token")
        refused(client.get("/api/places", headers={"cookie": b"ganvas-00000000=x; bad=\xff"}), 401, "token")
        assert client.get("/api/places", headers={"authorization": f"Bearer {token}"}).status_code == 200
        once = client.get(f"/?token={token}&x=1")
        assert once.status_code == 303 and once.headers["location"] == "./?x=1"
        assert "HttpOnly" in once.headers["set-cookie"] and "SameSite=Strict" in once.headers["set-cookie"]
        assert token not in once.headers["set-cookie"]
        assert client.get("/api/places").status_code == 200  # by the cookie
        for path in (
            "//evil.example/",
            "/%09/evil.example",
            "/%0d/evil.example",
            "/%5Cevil.example",
            "/x/..%2f/evil",
            "/a",
        ):
            location = client.get(f"{home}{path}?token={token}").headers["location"]
            assert re.fullmatch(r"\./[A-Za-z0-9.%-]*", location), location  # relative: it stays where it is


def test_every_answer_has_a_strict_policy_and_nothing_comes_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/api/places", "/api/nothing", "/static/studio.css", "/api"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    names = {path.name for path in Path(api.__file__).with_name("static").iterdir()}
    assert len(names) > 10
    for name in names:
        answer = client.get(f"/static/{name}")
        text, kind = answer.text, answer.headers["content-type"]
        assert answer.status_code == 200 and kind.startswith(("text/", "image/svg+xml")), name
        assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text, name
        for call in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert call not in text, (name, call)


# ---- the documentation ----


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("requests", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_the_interface_is_as_it_documents_itself(folder: Path, mode: GenerationMode, requests: int) -> None:
    """Requests made from the OpenAPI description, right or wrong ones: every answer is one that it documents."""
    application = api.app(folder, device="cpu", hosts=frozenset({"testserver"}))
    good = {"model": "bars", "run": "bars", "recipe": '{"seed": 3}', "images": 48}
    operations = schemathesis.openapi.from_asgi("/api/openapi.json", application).get_all_operations()
    known = [
        operation for operation in (found.ok() for found in operations) if mode.is_positive or takes_any(operation)
    ]
    assert len(known) > 15
    for operation in known:

        @settings(
            max_examples=requests,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if mode.is_positive:  # else no name would be that of a model
                for part in (case.query, case.body):
                    if isinstance(part, dict):
                        part.update(
                            {name: value for name, value in good.items() if isinstance(part.get(name), str | int)}
                        )
            # What is well formed need not fit the model: a class that it does not have, a code of another length.
            answer = case.call_and_validate(excluded_checks=[positive_data_acceptance, not_a_server_error])
            assert answer.status_code < 500 or (answer.status_code == 503 and answer.headers["retry-after"])

        ask()


def takes_any(operation: Any) -> bool:
    """Whether a request can be wrong at all."""
    return bool(operation.definition.raw.get("parameters") or operation.definition.raw.get("requestBody"))


# ---- the command ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "GANVAS_TOKEN"),
        ({"host": "0.0.0.0", "token": "short"}, "16 or more"),
        ({"host": "no.such.host.invalid"}, "GANVAS_TOKEN"),
        ({"port": 70000}, "--port 70000"),
        ({"host": "127.0.0.1", "port": 0, "folder": "missing", "train": False}, "does not exist"),
    ],
)
def test_what_cannot_be_served(folder: Path, options: dict[str, Any], words: str) -> None:
    place = folder / str(options.pop("folder", ""))
    with pytest.raises(ConfigError, match=words):
        studio.serve(place, browser=False, **options)


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANVAS_TOKEN", raising=False)
    assert studio.token_of(None) is None
    monkeypatch.setenv("GANVAS_TOKEN", "of-the-environment")
    assert studio.token_of(None) == "of-the-environment"
    (tmp_path / "token").write_text("correct-horse-battery\nanother line\n")
    assert studio.token_of(tmp_path / "token") == "correct-horse-battery"
    for name, content in (("empty", b""), ("binary", b"\xff\n")):
        (tmp_path / name).write_bytes(content)
    for name in ("missing", "empty", "binary"):
        with pytest.raises(ConfigError, match="--token-file"):
            studio.token_of(tmp_path / name)


# Proxies.


def test_behind_a_proxy_nothing_is_asked_of_the_root() -> None:
    static = Path(studio.__file__).parent / "static"
    found = [
        (path.name, match)
        for path in static.iterdir()
        if path.suffix in (".html", ".js", ".css")
        for match in re.findall(r"""["'`(]/(?:api|static)?[^/*]""", path.read_text())
        if path.suffix != ".js" or "/api" in match or "/static" in match
    ]
    assert found == []


def test_the_name_that_a_proxy_was_asked_by_is_no_other_site(folder: Path) -> None:
    token = "correct-horse-battery"
    own = {"authorization": f"Bearer {token}", "origin": "https://hub.example", "host": "127.0.0.1:7860"}
    with TestClient(api.app(folder, device="cpu", token=token)) as client:
        assert client.get("/api/places", headers={**own, "x-forwarded-host": "hub.example"}).status_code == 200
        refused(client.get("/api/places", headers=own), 403, "another site")
        refused(client.get("/api/places", headers={**own, "x-forwarded-host": "other.example"}), 403, "another site")


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


def test_without_the_extra_the_command_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ganvas_command: Command
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    answer = ganvas_command("studio", folder, "--no-browser")
    assert answer.code == 2 and "pip install 'ganvas[studio]'" in answer.err and answer.err.count("\n") == 1


def test_answers_are_sent_at_once() -> None:
    with studio.listen("127.0.0.1", 0) as listening:  # asyncio asks for this before it turns Nagle's delay off
        assert listening.proto == socket.IPPROTO_TCP


def test_a_port_in_use_and_an_empty_folder(folder: Path, tmp_path: Path, ganvas_command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = ganvas_command("studio", folder, "--port", port, "--no-browser")
        assert answer.code == 2 and f"port {port} is in use" in answer.err and answer.err.count("\n") == 1
    (tmp_path / "empty").mkdir()
    answer = ganvas_command("studio", tmp_path / "empty", "--port", 0, "--no-browser", "--no-train")
    assert answer.code == 2 and "has no run and no model" in answer.err


def test_the_command_prints_its_address_and_ctrl_c_ends_it(folder: Path, tmp_path: Path) -> None:
    """Also while it reads training images: a process that ends while a thread computes in torch is aborted."""
    out, errors = tmp_path / "out", tmp_path / "errors"
    words = ("studio", folder, "--port", 0, "--no-browser", "--no-train", "--device", "cpu")
    running = processes.start(*words, function=processes.endless_search, output=out, errors=errors)
    try:
        place = processes.first_line(out, running).split()[1]
        assert httpx.get(f"{place}api/places", timeout=60).status_code == 200
        assert httpx.get(f"{place}api/model?model=bars", timeout=60).status_code == 200
        asked = {"model": "bars", "recipes": [{"seed": 1}]}
        wait_for(
            lambda: httpx.post(f"{place}api/nearest", json=asked, timeout=60).json()["sentence"],
            lambda sentence: "1 of 2" in sentence,
        )
        os.kill(running.pid, signal.SIGINT)
        assert processes.ended(running) == 0
        assert errors.read_text() == "" and "closed" in out.read_text()
    finally:
        processes.kill(running)
