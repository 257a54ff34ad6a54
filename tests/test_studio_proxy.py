"""The studio behind a real reverse proxy that adds a path, as jupyter-server-proxy of JupyterHub and Colab's do."""

from __future__ import annotations

import http.server
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

from ganvas.studio.api import app
from studio_pages import CHROMIUM, PATIENCE, serving

PREFIX = "/user/me/proxy/7860"
TOKEN = "correct-horse-battery"
HOP = {"connection", "keep-alive", "transfer-encoding", "trailer", "upgrade", "content-length", "content-encoding"}


@dataclass
class Proxy:
    """address: of the proxy, without the prefix. outside: paths that were asked of it outside the prefix."""

    address: str
    outside: list[str] = field(default_factory=list)

    @property
    def studio(self) -> str:
        return f"{self.address}{PREFIX}/"


@pytest.fixture
def proxy(trained: Path, tmp_path: Path) -> Iterator[Proxy]:
    """A studio of a copy of a run, with a token, and a server that forwards the paths below PREFIX to it."""
    folder = shutil.copytree(trained, tmp_path / trained.name)
    application = app(folder, device="cpu", token=TOKEN)
    with serving(application, log_level="error") as address, httpx.Client(timeout=120) as client:
        inner = address.rstrip("/")

        class Handler(http.server.BaseHTTPRequestHandler):
            def forward(self) -> None:
                if self.path == "/elsewhere.html":  # a page of the notebook, with a link to the studio
                    return self.answer(200, f'<a href="{found.studio}?token={TOKEN}">open the studio</a>'.encode())
                if not self.path.startswith(f"{PREFIX}/"):
                    found.outside.append(self.path)
                    return self.answer(404, b"")
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                forwarded = {**headers, "X-Forwarded-Prefix": PREFIX, "X-Forwarded-Context": PREFIX}
                given = client.request(
                    self.command, inner + self.path.removeprefix(PREFIX), headers=forwarded, content=body
                )
                self.answer(given.status_code, given.content, given.headers.multi_items())

            def answer(self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None) -> None:
                self.send_response(status)
                for name, value in headers or [("content-type", "text/html")]:
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = forward

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        found = Proxy(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()
        server.server_close()


def test_the_token_opens_the_page_below_the_prefix_and_nowhere_else(proxy: Proxy) -> None:
    with httpx.Client(follow_redirects=True) as client:
        assert client.get(proxy.studio).status_code == 401
        page = client.get(proxy.studio, params={"token": TOKEN})
        assert page.status_code == 200 and str(page.url) == proxy.studio  # without the token
        for name in re.findall(r'(?:src|href)="([^"#:]+)"', page.text):
            assert client.get(httpx.URL(proxy.studio).join(name)).status_code == 200, name
        own = {"origin": proxy.address}
        assert client.get(f"{proxy.studio}api/places", headers=own).status_code == 200
        assert client.get(f"{proxy.studio}api/places", headers={"origin": "https://other.example"}).status_code == 403
        (cookie,) = client.cookies.jar
        assert cookie.path == PREFIX  # other users' servers on the same host do not get it
    assert proxy.outside == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_images_and_keeps_one_through_the_proxy(proxy: Proxy, trained: Path) -> None:
    """Opened by a link on a page of another site, as in a notebook of Colab."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: install the extra dev")
    wrong: list[str] = []

    def answered(answer: Any) -> None:
        if answer.status >= 400 and not answer.url.endswith("favicon.ico"):
            wrong.append(f"{answer.status} {answer.url}")

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(PATIENCE)
        page.on("response", answered)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(proxy.address.replace("127.0.0.1", "localhost") + "/elsewhere.html")
        page.get_by_role("link", name="open the studio").click()
        page.wait_for_selector("h1", state="attached")
        page.goto(f"{proxy.studio}#explore?model={trained.name}")
        page.wait_for_selector(".tile img[src]")
        end = time.monotonic() + PATIENCE / 1000
        while page.evaluate("[...document.images].filter((one) => one.naturalWidth > 0).length") < 4:
            assert time.monotonic() < end, wrong
            page.wait_for_timeout(40)
        with page.expect_response(lambda answer: "/api/favourites" in answer.url and answer.request.method != "GET"):
            page.locator(".tile").first.focus()
            page.keyboard.press("k")
        assert page.url.startswith(proxy.studio) and TOKEN not in page.url
        browser.close()
    assert wrong == [] and [path for path in proxy.outside if path != "/favicon.ico"] == []
