"""The studio's HTTP interface for images: recipes, many clients at once, bounded memory."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from ganvas.errors import ConfigError
from ganvas.explore.recipes import Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.provenance import read_provenance

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

from fastapi.testclient import TestClient

from ganvas.studio import api, engine
from ganvas.studio.engine import Engine
from ganvas.studio.errors import BusyError
from ganvas.studio.model_folder import Shelf
from studio_client import HOME, address, picture, refused
from test_generator import fresh

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
    monkeypatch.setattr(engine, "MOST_WAITING_IMAGES", 160)
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
    assert max(highest) <= 160 and max(sizes) <= engine.MOST_PER_PASS
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


def test_a_batch_holds_images_of_one_model() -> None:
    first, other = (engine.Job(SimpleNamespace(batch=4), [Recipe(seed=1)]) for _ in range(2))
    assert engine.fits_pass(engine.Job(first.loaded, [Recipe(seed=2)] * 3), first, room=3)
    assert not engine.fits_pass(other, first, room=3)
    assert not engine.fits_pass(engine.Job(first.loaded, [Recipe(seed=2)] * 4), first, room=3)
    assert not engine.fits_pass(engine.Job(first.loaded, [], action=print), first, room=3)


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
