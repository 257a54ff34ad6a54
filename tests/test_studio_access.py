"""Who may ask the studio for what: paths, other sites, tokens, proxies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

from fastapi.testclient import TestClient

from ganvas import studio
from ganvas.studio import api
from studio_client import HOME, png, refused

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
