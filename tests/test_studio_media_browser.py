"""The studio's page in a real browser: films and prints to preview and download, favourites, comparison, titles."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

from studio_pages import CHROMIUM, SIZES, fits, opened, serving, until

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.slow,
]


@pytest.fixture
def home(tmp_path: Path, trained: Path) -> Iterator[str]:
    """The address of a studio of two runs."""
    from ganvas.studio.api import app

    for name in ("bars", "other"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    with serving(app(tmp_path / "runs", device="cpu", train=True)) as address:
        yield address


def test_a_film_and_a_print_without_a_terminal(browser: Any, home: str, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs pip install 'ganvas[video]'")
    with opened(browser, home, viewport=SIZES[0]) as page:
        page.goto("/#explore?model=bars")
        page.wait_for_selector(".tile img[src]")
        fits(page)
        page.click("#screen-film")
        page.get_by_role("radio", name="Other …").check(force=True)
        page.fill("#film-width", "96")
        page.fill("#film-height", "64")
        page.fill("#film-seconds", "1")
        page.get_by_role("radio", name="WebM").check(force=True)
        page.click("#film-start")
        page.wait_for_selector(".made video")
        until(page, "document.querySelector('.made video').videoWidth === 96")  # it can be seen here
        with page.expect_download() as loading:
            page.get_by_role("link", name="Download WEBM").click()
        assert loading.value.suggested_filename == "bars.webm"
        page.fill("#film-seconds", "600")
        page.click("#film-start")
        page.get_by_role("button", name="Cancel").click()
        until(page, "document.querySelector('.made').textContent === 'Cancelled.'")
        page.get_by_role("button", name="Close", exact=True).last.click()
        page.locator(".tile .pick").nth(3).click()
        page.click("#panel-save")
        page.fill("#print-enlarge", "4")
        assert "64 x 64 pixels: 0.5 x 0.5 cm" in page.inner_text("#print-facts")
        page.click("#print-start")
        with page.expect_download() as loading:
            page.get_by_role("link", name="Download PNG").click()
        loading.value.save_as(tmp_path / "one.png")
        with Image.open(tmp_path / "one.png") as image:
            assert image.size == (64, 64)


def test_the_second_image_of_a_mix_is_chosen_by_two_taps(browser: Any, home: str) -> None:
    phone = {"viewport": SIZES[2], "has_touch": True, "is_mobile": True}
    with opened(browser, home, **phone) as page:
        page.goto("/#explore?model=bars")
        page.wait_for_selector(".tile img[src]")
        page.locator(".tile .pick").nth(2).tap()
        page.get_by_role("radio", name="Mix").dispatch_event("click")
        page.wait_for_selector(".asks")
        page.locator(".tile .pick").nth(3).tap()
        page.wait_for_selector("#panel .depths")
        assert "from (seed 3" in page.inner_text("#panel .words")
    with opened(browser, home, viewport=SIZES[0]) as page:
        page.goto("/#explore?model=bars")
        page.wait_for_selector(".tile img[src]")
        page.get_by_role("radio", name="Mix").check(force=True)
        page.locator(".tile .pick").nth(3).click()
        page.wait_for_selector("#panel .depths")
        for selector in (".depths", "#panel-keep", "#panel-save"):
            box = page.locator(selector).bounding_box()
            assert box["y"] + box["height"] < SIZES[0]["height"] - page.locator("#tray").bounding_box()["height"]


def test_favourites_are_named_reordered_and_undone_by_mouse_and_keys(browser: Any, home: str) -> None:
    names = "[...document.querySelectorAll('.strip button')].map((one) => one.getAttribute('aria-label'))"
    order = f"{names}.map((one) => one.split(': ')[1])"
    with opened(browser, home, viewport=SIZES[1]) as page:
        page.goto("/#explore?model=bars")
        page.wait_for_selector(".tile img[src]")
        for place in (1, 2, 3):
            page.locator(".tile .pick").nth(place).focus()
            page.keyboard.press("k")
            until(page, f"document.querySelectorAll('.strip button').length === {place}")
        page.locator(".strip button").nth(2).click()
        page.fill("#panel-name", "the best")
        page.keyboard.press("Enter")
        until(page, f"{order}[2] === 'the best'")
        page.locator(".strip button").nth(2).focus()
        page.keyboard.press("Alt+ArrowLeft")
        until(page, f"{order}[1] === 'the best'")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Favourite 2 of 3: the best"
        page.locator(".strip li").nth(1).drag_to(page.locator(".strip li").nth(0), target_position={"x": 5, "y": 20})
        until(page, f"{order}[0] === 'the best'")
        page.click("#kept-undo")
        until(page, f"{order}[1] === 'the best'")
        page.locator("#explore h1").click()
        page.keyboard.press("Control+z")
        until(page, f"{order}[2] === 'the best'")
        fits(page)


def test_runs_get_titles_and_are_compared(browser: Any, home: str) -> None:
    with opened(browser, home, viewport=SIZES[0]) as page:
        page.goto("/#watch?run=bars")
        page.click("#rename")
        page.fill("#run-title", "Bars, first try")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('.runs').textContent.includes('Bars, first try')")
        page.select_option("#compare", "other")
        page.wait_for_selector(".measures")
        assert "Bars, first try" in page.inner_text(".measures thead")
        assert page.locator(".film .rows li").all_inner_texts() == ["lying", "standing"] * 2
        fits(page)
        page.get_by_role("button", name="Do not compare with other").click()
        until(page, "!document.querySelector('.measures')")
