"""What the tests of the studio's page in a browser share."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 150_000  # milliseconds: the machine may be busy
SIZES = [{"width": 1440, "height": 900}, {"width": 1280, "height": 800}, {"width": 390, "height": 844}]
NAMELESS = """[...document.querySelectorAll("button, a, input, select, summary, progress, img, nav, dialog")]
    .filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.closest("label")
        && !one.getAttribute("aria-label") && !one.getAttribute("aria-labelledby") && one.getAttribute("alt") === null)
    .map((one) => one.outerHTML.slice(0, 200))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@contextlib.contextmanager
def serving(application: Any, log_level: str = "warning") -> Iterator[str]:
    """The address of a server of a studio, in a thread of this process."""
    import uvicorn

    from ganvas.studio import listen

    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(application, log_level=log_level, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(150)


@contextlib.contextmanager
def opened(browser: Any, studio: str, **options: Any) -> Iterator[Any]:
    """A page in which nothing goes wrong; only a bad upload may be refused."""
    context = browser.new_context(base_url=studio, permissions=["clipboard-read", "clipboard-write"], **options)
    context.set_default_timeout(PATIENCE)
    found = context.new_page()
    wrong: list[str] = []

    def answered(answer: Any) -> None:
        if answer.status >= 400 and "/api/projections" not in answer.url:
            wrong.append(f"{answer.status} {answer.url}")

    def said(message: Any) -> None:
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)  # the status above reports what fails to load

    found.on("response", answered)
    found.on("console", said)
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("request", lambda request: None if own(request.url, studio) else wrong.append(request.url))
    yield found
    wrong += ["an attack ran"] if found.evaluate("window.hit") else []
    context.close()
    assert wrong == [], wrong


def own(url: str, studio: str) -> bool:
    return url.startswith((studio, "data:", "blob:"))


def until(page: Any, condition: str, argument: Any = None) -> None:
    """Waits until a JavaScript condition holds; asked from here, as the page's policy forbids code from texts."""
    end, pause = time.monotonic() + PATIENCE / 1000, 20.0
    while not page.evaluate(f"(given) => {condition}", argument):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(pause)
        pause = min(1.5 * pause, 200.0)


def fits(page: Any) -> None:
    """Every control has a name, there is one main heading, and nothing is wider than the screen, at all sizes."""
    assert page.evaluate(NAMELESS) == []
    assert page.locator("h1:visible").count() == 1
    for size in SIZES:
        page.set_viewport_size(size)
        assert page.evaluate(WIDER) <= 0, size
    page.set_viewport_size(SIZES[0])
