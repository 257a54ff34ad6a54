"""The studio's page without a terminal, in a real browser: upload, check-up, plan, start, preview, stop, report."""

from __future__ import annotations

import base64
import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

from studio_pages import CHROMIUM, SIZES, fits, opened, serving, until

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.slow,
]


@pytest.fixture
def home(tmp_path: Path, two_classes: Path, trained: Path) -> Iterator[str]:
    """The address of a studio of a model, which may read the folder of `two_classes`."""
    from ganvas.studio.api import app

    shutil.copytree(trained / "model", tmp_path / "runs" / "other")
    with serving(app(tmp_path / "runs", device="cpu", train=True, images=[two_classes.parent])) as address:
        yield address


def test_from_images_to_a_preview_and_a_report(
    browser: Any, home: str, two_classes: Path, tmp_path: Path, short_classifiers: None
) -> None:
    with opened(browser, home, viewport=SIZES[0]) as page:
        page.goto("/#train")
        page.wait_for_selector("#choose-folder")
        fits(page)
        page.set_input_files("#folder", two_classes)
        page.wait_for_selector(".report .count")
        assert page.inner_text(".report .count") == "24 images (folder)"
        assert "lying 12, standing 12" in page.inner_text(".report .about")
        page.wait_for_selector("#start")
        page.select_option("#size", "16")
        until(page, "document.querySelector('.planned .about')?.textContent.includes('16x16 pixels, gray')")
        page.wait_for_selector("#start:not([disabled])")
        before = page.inner_text(".bought")
        assert "passes over the 24 training images" in before
        page.focus("#minutes")
        page.keyboard.press("ArrowRight")
        assert "15 min" in page.inner_text(".time") and page.inner_text(".bought") != before
        page.wait_for_selector("#start:not([disabled])")
        page.fill("#run-name", "My bars")
        fits(page)
        page.reload()  # the choices are part of the address
        page.wait_for_selector("#start:not([disabled])")
        assert page.input_value("#size") == "16" and page.input_value("#run-name") == "My bars"
        page.click("#start")
        page.wait_for_selector(".run h1")
        assert page.inner_text(".run h1").startswith("My bars")
        until(page, "document.querySelector('.film img')?.naturalWidth > 0")  # the first preview
        fits(page)
        page.wait_for_selector("#explore-model")
        page.click("#stop")
        page.wait_for_selector("#resume")
        assert (tmp_path / "runs" / "My bars" / "model").is_dir()
        page.click("#evaluate")
        page.wait_for_selector("#open-report")
        with page.context.expect_page() as report:
            page.click("#open-report")
        assert report.value.inner_text("h1") == "My bars"


def test_a_dropped_zip_a_folder_and_the_images_of_a_model(browser: Any, home: str, two_classes: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(two_classes.rglob("*.png")):
            archive.write(path, path.relative_to(two_classes))
    with opened(browser, home, viewport=SIZES[0]) as page:
        page.goto("/#train")
        page.wait_for_selector(".drop")
        page.evaluate(
            """(content) => {
                const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], "bars.zip", { type: "application/zip" }));
                document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
            }""",
            base64.b64encode(packed.getvalue()).decode(),
        )
        page.wait_for_selector(".report .count")
        assert page.inner_text(".report .count") == "24 images (zip)"
        page.click("#other-images")
        page.get_by_role("radio", name="Folder on the server").check()
        page.get_by_role("button", name=str(two_classes.parent)).click()
        page.get_by_role("button", name=two_classes.name).click()
        page.get_by_role("button", name="lying").click()
        until(page, "document.querySelector('#use-folder + .hint')?.textContent === '12 images'")
        page.click("#use-folder")
        page.wait_for_selector(".report .count")
        assert page.inner_text(".report .count") == "12 images (folder)"
        page.click("#to-watch")
        page.get_by_role("button", name="other").click()
        page.wait_for_selector(".run h1")
        fits(page)
        page.fill("#path", str(two_classes))
        page.keyboard.press("Enter")
        page.click("#use-folder")
        page.wait_for_selector(".evaluated .working")
        page.get_by_role("button", name="Cancel").click()
        until(page, "document.querySelector('.evaluated')?.textContent.includes('Stopped by the user')")
