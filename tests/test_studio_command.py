"""The command `ganvas studio`: what cannot be served, the token, Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import processes
from conftest import Command
from ganvas.errors import ConfigError

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")


from ganvas import studio
from studio_client import wait_for


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
