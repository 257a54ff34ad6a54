"""The studio's page in a real browser: explore, keep, mix, morph, take along, watch; hostile names, a phone."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ganvas
from ganvas.errors import TrainingError
from ganvas.provenance import read_provenance
from ganvas.training import loop

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
from studio_pages import CHROMIUM, PATIENCE, opened, serving, until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

EVIL = "<img src=x onerror=window.hit=1>"
WATCHED, HURRY = threading.Event(), threading.Event()
"""Events until which the training waits at half and at three quarters of its steps."""
STEPS = 48


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A training that has begun and goes on as far as the tests let it; while it waits it needs no processor."""
    folder = tmp_path_factory.mktemp("studio") / "runs"
    update, over, taken = loop.update, threading.Event(), itertools.count()
    gates = {STEPS // 2: WATCHED, 3 * STEPS // 4: HURRY}
    for gate in gates.values():
        gate.clear()

    def waiting(*arguments: Any) -> None:
        if threading.current_thread() is thread:
            if (gate := gates.get(next(taken))) is not None:
                gate.wait()
            if over.is_set():
                raise TrainingError("the tests are over")
        update(*arguments)

    def train() -> None:
        options = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 12, "device": "cpu"}
        with contextlib.suppress(TrainingError):
            ganvas.train("digits", folder / "live", quiet=True, limit=300, images=16 * STEPS, **options)

    thread = threading.Thread(target=train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", waiting)
        thread.start()
        yield folder
        for event in (over, *gates.values()):
            event.set()
        thread.join(60)


@pytest.fixture(scope="module")
def runs(training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run, and of a finished one whose class is named like an attack."""
    data = tmp_path_factory.mktemp("named") / "data"
    rng = np.random.default_rng(0)
    for name, level in ((EVIL, 60), ("plain", 200)):
        (data / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(level - 40, level + 40, (16, 16), np.uint8)).save(data / name / f"{i}.png")
    tiny = {"size": 32, "base": 8, "z_dim": 8, "batch": 16, "previews": 3, "device": "cpu"}
    ganvas.train(data, training / "done", images=96, quiet=True, **tiny)
    with (training / "done" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"images": 96, "health": "collapse", "words": EVIL, "action": EVIL}) + "\n")
    return training


@pytest.fixture(scope="module")
def studio(runs: Path) -> Iterator[str]:
    """The address of a studio of those runs."""
    from ganvas.studio.api import app

    with serving(app(runs, device="cpu")) as address:
        yield address


@pytest.fixture
def page(browser: Any, studio: str) -> Iterator[Any]:
    """A page of 1280 by 860 pixels; nothing may go wrong in it, and nothing be asked elsewhere."""
    with opened(browser, studio, viewport={"width": 1280, "height": 860}) as found:
        yield found


def explore(page: Any, model: str = "done") -> None:
    page.goto(f"/#explore?model={model}")
    page.wait_for_selector(".tile img[src]")
    drawn(page)


DRAWN = "[...document.querySelectorAll('.frames img:first-child')].every((one) => one.complete && one.naturalWidth)"
LARGE = "document.querySelector('#panel .large')"
WORDS = "document.querySelector('.words').textContent"


def drawn(page: Any) -> None:
    """Waits until every image that the page shows has been drawn."""
    until(page, DRAWN)


def panel(page: Any) -> str:
    """The large picture's address, once it has come."""
    until(page, f"{LARGE}.complete && {LARGE}.naturalWidth > 0")
    return page.get_attribute("#panel .large", "src")


def changed(page: Any, before: str) -> None:
    """Waits until the large image is another one."""
    until(page, f"{LARGE}.getAttribute('src') !== given", before)


def pixels(page: Any, selector: str) -> np.ndarray:
    """The pixels of an image of the page, (H, W) of the red channel."""
    values = page.eval_on_selector(
        selector,
        """(image) => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            return [...context.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 0);
        }""",
    )
    return np.array(values)


def kept(runs: Path) -> list[Any]:
    file = runs / "done" / "favourites.json"
    return [one["recipe"] for one in json.loads(file.read_text())["pictures"]] if file.exists() else []


def test_watching_a_training_that_goes_on(page: Any, runs: Path) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not (runs / "live" / "log.jsonl").exists():  # it has just been started
        assert time.monotonic() < end
        time.sleep(0.1)
    page.goto("/#watch?run=live")
    page.wait_for_selector(".charts svg")
    assert page.locator(".head .pill").inner_text() == "training"
    progress = page.evaluate("document.querySelector('.head progress').value")
    grids = page.evaluate("Number(document.querySelector('.film input[type=range]').max)")
    assert progress < 0.75
    WATCHED.set()
    until(page, "document.querySelector('.head progress').value > given", progress)
    until(page, "Number(document.querySelector('.film input[type=range]').max) > given", grids)
    assert "left" in page.locator(".facts").inner_text()


def test_the_gallery_scrolls_on_and_on(page: Any) -> None:
    explore(page)
    highest = "Math.max(...[...document.querySelectorAll('.tile')].map((one) => Number(one.dataset.index)))"
    first = page.evaluate(highest)
    for _ in range(6):
        page.mouse.wheel(0, 3000)
        page.wait_for_timeout(60)
    until(page, f"{highest} > {first} + 150")
    drawn(page)
    assert page.locator(".tile").count() < 150  # what has left the screen is gone
    shown = page.evaluate("[...document.querySelectorAll('.tile')].map((one) => Number(one.dataset.index))")
    assert shown == sorted(shown)  # in order, for those who hear the page


def test_a_class_named_like_an_attack_is_only_text(page: Any, runs: Path) -> None:
    explore(page)
    page.get_by_role("radio", name=EVIL, exact=True).check(force=True)
    until(page, "document.querySelector('.tile .caption').textContent === 'seed 0'")
    assert EVIL in page.locator(".tile .pick").first.get_attribute("aria-label")
    assert page.locator("img[src=x]").count() == 0
    assert "label=%3Cimg" in page.url  # the view is in the address
    page.reload()
    page.wait_for_selector(".tile img[src]")
    assert page.get_by_role("radio", name=EVIL, exact=True).is_checked()
    page.goto("/#watch?run=done")
    assert page.locator(".health .bad strong").inner_text() == EVIL
    assert page.locator("img[src=x]").count() == 0


def test_truncation_gathers_the_pictures_around_the_mean(page: Any) -> None:
    explore(page)
    two = [0, page.locator("input[name=class]").count() - 1]  # of the same class: they take turns
    spread = [pixels(page, f".tile[data-index='{index}'] img") for index in two]
    page.locator("#truncation").fill("0")
    until(page, "document.querySelector('.tile .pick').getAttribute('aria-label').includes('truncation 0')")
    drawn(page)
    gathered = [pixels(page, f".tile[data-index='{index}'] img") for index in two]
    assert (spread[0] != spread[1]).any() and (gathered[0] == gathered[1]).all()
    assert "truncation=0" in page.url


def test_the_sliders_are_those_of_the_server(page: Any) -> None:
    def changed(route: Any) -> None:
        answer = route.fetch()
        told = answer.json()
        told["sliders"][0] |= {"title": "Typical", "high": 0.5, "ends": ["", "half"]}
        route.fulfill(response=answer, json=told)

    page.route("**/api/model?*", changed)
    page.goto("/#explore?model=done&truncation=0.4")
    page.wait_for_selector(".tile img[src]")
    drawn(page)
    assert "truncation 0.4" in page.locator(".tile .pick").first.get_attribute("aria-label")
    slider = page.locator("#truncation")
    assert slider.get_attribute("aria-label") == "Typical" and slider.input_value() == "0.4"
    slider.fill("0.5")
    assert slider.get_attribute("aria-valuetext") == "0.5, half"
    assert page.locator(".panel .slider input").first.get_attribute("aria-label") == "Typical"
    assert page.locator(".panel .slider input").first.get_attribute("max") == "0.5"


def test_what_is_kept_by_click_or_key_is_kept_after_a_reload(page: Any, runs: Path) -> None:
    explore(page)
    page.locator(".tile").nth(2).hover()
    page.locator(".tile .heart").nth(2).click()
    page.wait_for_selector(".tile.kept[data-index='2']")
    page.locator(".tile .pick").nth(2).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("k")
    until(page, "document.querySelectorAll('.strip img').length === 2")
    assert kept(runs) == [{"seed": 2}, {"seed": 3}]
    assert page.locator("#said").get_attribute("aria-live") == "polite"
    page.reload()
    until(page, "document.querySelectorAll('.strip img').length === 2")
    assert page.locator(".tile.kept").count() == 2
    page.locator(".tile .pick").nth(3).focus()
    page.keyboard.press("k")  # lets it go again
    until(page, "document.querySelectorAll('.strip img').length === 1")
    assert kept(runs) == [{"seed": 2}]


def test_mixing_by_keys_and_at_chosen_depths(page: Any, runs: Path) -> None:
    explore(page)
    page.locator(".tile .pick").nth(0).focus()
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("m")
    page.wait_for_selector("#panel .depths")
    page.get_by_role("button", name="coarse").click()
    until(page, f"{WORDS}.includes('layers 0 from (seed 1')")
    before = panel(page)
    page.get_by_label("1", exact=True).check(force=True)
    changed(page, before)
    page.locator("#panel-keep").click()
    until(page, "document.querySelector('#panel-keep').textContent.includes('♥ Favourite')")
    assert kept(runs)[-1] == {"seed": 0, "mix": {"with": {"seed": 1}, "depths": [0, 1]}}


def test_the_morph_slider_goes_from_one_picture_to_the_other(page: Any) -> None:
    explore(page)
    page.locator(".tile .pick").nth(4).focus()
    page.keyboard.press("o")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("o")
    ends = [pixels(page, f".tile[data-index='{index}'] img") for index in (4, 6)]
    for share, other in ((0, ends[0]), (1, ends[1])):
        page.locator("#morph").fill(str(share))
        until(page, f"{WORDS}.includes('{share * 100}% towards')")
        until(page, f"decodeURIComponent({LARGE}.src).includes('\"share\":{share}}}')")
        panel(page)
        assert np.abs(pixels(page, "#panel .large") - other).max() <= 2
    page.locator("#morph").fill("0.5")
    panel(page)
    page.click("#morph-film")
    page.click("#film-command")
    until(page, "navigator.clipboard.readText().then((text) => text.startsWith('ganvas interpolate'))")


def test_variations_directions_and_projection(page: Any, tmp_path: Path) -> None:
    explore(page)
    page.locator(".tile .pick").nth(1).focus()
    page.keyboard.press("v")
    page.wait_for_selector("#back")
    drawn(page)
    own_picture, other = (pixels(page, f".tile[data-index='{index}'] img") for index in (0, 1))
    assert np.abs(own_picture - other).mean() > 0
    page.keyboard.press("Escape")
    page.wait_for_selector("#truncation")
    page.locator("#find-directions").click()
    sliders = page.locator(".direction input")
    sliders.first.wait_for()
    before = panel(page)
    sliders.first.fill("3")
    changed(page, before)
    assert "+3" in page.locator(".words").inner_text()
    Image.new("RGB", (30, 40), (90, 160, 40)).save(tmp_path / "mine.png")
    page.locator("#upload").set_input_files(tmp_path / "mine.png")
    page.get_by_role("button", name="Open", exact=True).click()
    until(page, f"{WORDS}.startsWith('projected')")
    panel(page)
    (tmp_path / "no.png").write_bytes(b"<svg/>")
    page.locator("#upload").set_input_files(tmp_path / "no.png")
    page.wait_for_selector("#projection .error")
    page.get_by_role("button", name="Close", exact=True).last.click()


def test_taking_pictures_along(page: Any, runs: Path, tmp_path: Path) -> None:
    explore(page)
    page.locator(".tile .pick").nth(7).click()
    with page.expect_download() as loading:
        page.keyboard.press("d")
    loading.value.save_as(tmp_path / "one.png")
    assert read_provenance(tmp_path / "one.png")["recipe"] == {"seed": 7}  # ty: ignore[not-subscriptable]
    assert loading.value.suggested_filename.endswith(".png")
    page.keyboard.press("k")
    page.wait_for_selector(".tile.kept[data-index='7']")
    with page.expect_download() as loading:
        page.locator("#kept-zip").click()
    loading.value.save_as(tmp_path / "kept.zip")
    with zipfile.ZipFile(tmp_path / "kept.zip") as packed:
        names = packed.namelist()
        assert "manifest.csv" in names and len([name for name in names if name.endswith(".png")]) == len(kept(runs))
    with page.expect_download() as loading:
        page.locator("#kept-manifest").click()
    loading.value.save_as(tmp_path / "manifest.json")
    assert json.loads((tmp_path / "manifest.json").read_text())["pictures"][-1]["recipe"] == kept(runs)[-1]
    page.locator("#screen-command").click()
    until(page, "navigator.clipboard.readText().then((text) => text.startsWith('ganvas sample'))")
    assert re.search(r"--seeds 0-\d+ --out", page.evaluate("navigator.clipboard.readText()"))


def test_it_can_be_used_by_keyboard_and_ear(page: Any) -> None:
    explore(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(".tile .pick").first.focus()
    moves = [("ArrowDown", None), ("ArrowUp", 0), ("ArrowRight", 1), ("End", 1), ("Home", 0), ("ArrowLeft", 0)]
    for key, index in moves:
        page.keyboard.press(key)
        found = int(page.evaluate("document.activeElement.closest('.tile').dataset.index"))
        assert found == index or (index is None and found > 0)
    assert page.locator(".tile .pick[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "panel-keep"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "pick"
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select, a, textarea")].filter((one) => one.checkVisibility())
            .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
            .map((one) => one.outerHTML)"""
    )
    assert unnamed == [], unnamed
    assert page.locator("img:not([alt])").count() == 0


def test_a_phone_in_the_dark_has_no_sideways_scroll(browser: Any, studio: str) -> None:
    phone = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    with opened(browser, studio, **phone) as page:
        explore(page)
        assert page.locator(".tile").nth(1).bounding_box()["x"] > 150  # two in a row
        assert page.locator("#panel").is_hidden()
        page.locator(".tile .heart").first.tap()
        page.wait_for_selector(".tile.kept[data-index='0']")
        page.locator(".tile .pick").nth(2).tap()
        page.wait_for_selector("#panel .large")
        box = page.locator("#panel").bounding_box()
        assert box["x"] >= 0 and box["width"] <= 390
        red = page.evaluate("getComputedStyle(document.documentElement).backgroundColor").split("(")[1].split(",")[0]
        assert int(red) < 60
        narrow(page)
        page.get_by_role("button", name="Close").first.tap()
        page.get_by_role("button", name="More controls").tap()
        narrow(page)
        page.goto("/#watch?run=done")
        page.wait_for_selector(".charts svg")
        narrow(page)


def narrow(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_two_runs_are_compared(page: Any, runs: Path) -> None:
    while not (runs / "live" / "log.jsonl").exists():  # it may have just been started
        time.sleep(0.2)
    page.goto("/#watch?run=done")
    page.wait_for_selector(".charts svg")
    page.locator("#compare").select_option("live")
    until(page, "document.querySelectorAll('.films .film').length === 2")
    page.wait_for_selector("table th:has-text('data source')")
    assert page.locator(".line.dashed").count() > 0 and "Images seen" in page.inner_text(".measures")
    assert "with=live" in page.url


def test_a_finished_training_can_be_played_and_explored(page: Any) -> None:
    WATCHED.set()  # already set, unless this test runs without the others
    HURRY.set()
    page.goto("/#watch?run=live")
    page.wait_for_selector(".head .pill.finished")
    until(page, "document.querySelector('.film .grid').naturalWidth > 0")
    assert page.locator(".health li").count() >= 1
    grids = int(page.locator(".film input[type=range]").get_attribute("max"))
    assert grids >= 5
    page.locator(".film input[type=range]").fill("0")
    until(page, "document.querySelector('.film input[type=range]').value === '0'")
    page.get_by_role("button", name="Play", exact=True).click()
    until(page, f"document.querySelector('.film input[type=range]').value === '{grids}'")
    page.get_by_role("button", name="Explore model").click()
    page.wait_for_selector(".tile img[src]")
    assert page.locator("#model").input_value() == "live"
