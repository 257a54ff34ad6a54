"""The studio's connections: clients that are slow, gone or many do not keep others waiting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

import uvicorn

from ganvas import studio
from ganvas.studio import access, connections
from studio_client import wait_for


def served(application: access.Asgi, messages: list[Any], path: str = "/api/projections", **headers: str) -> list[Any]:
    """What is sent to a client whose messages come one by one: a message, or the seconds until the next one."""
    sent: list[Any] = []
    pending = list(messages)

    async def receive() -> Any:
        while pending and isinstance(pending[0], float):
            await asyncio.sleep(pending.pop(0))
        return pending.pop(0) if pending else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers_of = [
        (key.replace("_", "-").encode(), value.encode()) for key, value in {"host": "localhost", **headers}.items()
    ]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers_of}
    asyncio.run(asyncio.wait_for(application(scope, receive, send), 20))
    return sent


def part(content: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


async def reads(_: Any, receive: Any, send: Any) -> None:
    """An application that answers with the length of the body."""
    content = b""
    while (message := await receive())["type"] == "http.request":
        content += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(content)).encode()})


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([part(b"abc"), 30.0], 408),  # stops in the middle
        ([30.0], 408),  # never begins
        ([*[part(b"x"), 0.05] * 40], 408),  # a drop now and then
        ([part(b"abc"), 0.05, part(b"de", more=False)], 200),
    ],
)
def test_a_body_that_does_not_come_is_not_waited_for(
    messages: list[Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "BODY_PAUSE", 0.5)
    monkeypatch.setattr(access, "BODY_SECONDS", 1.0)
    sent = served(access.Guard(reads), messages, content_length="5")
    assert sent[0]["status"] == status
    assert sent[1]["body"] == b"5" if status == 200 else b"error" in sent[1]["body"]


@pytest.mark.parametrize("length", ["0", "3"])
def test_work_ends_with_its_client(length: str) -> None:
    ended: list[str] = []

    async def works(_: Any, receive: Any, send: Any) -> None:
        if length != "0":
            await receive()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    messages = [part(b"x" * int(length), more=False), 0.1, {"type": "http.disconnect"}]
    assert served(access.Guard(works), messages, content_length=length) == [] and ended == ["cancelled"]


@pytest.mark.parametrize("started", [False, True])
def test_work_that_is_cut_by_the_end_of_the_server_leaves_no_traceback(started: bool) -> None:
    async def ends(scope: Any, receive: Any, send: Any) -> None:
        server = asyncio.current_task()
        assert server is not None

        async def works(_: Any, receive: Any, send: Any) -> None:
            if started:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            server.cancel()
            await asyncio.sleep(1000)

        await access.Guard(works)(scope, receive, send)

    sent = served(ends, [part(b"", more=False)])
    assert [one.get("status") for one in sent] == ([200] if started else [503, None])


def test_what_is_left_to_do_behind_an_answer_is_done() -> None:
    done: list[str] = []

    async def works(_: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b""  # once, however it was looked for
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"})
        await asyncio.sleep(0.2)
        done.append("file closed")

    served(access.Guard(works), [part(b"", more=False), 0.05, {"type": "http.disconnect"}])
    assert done == ["file closed"]


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server for few connections; its application answers with the length of the body."""
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    config = uvicorn.Config(
        access.Guard(reads), http=connections.Patient, limit_concurrency=30, log_level="error", lifespan="off"
    )
    server = uvicorn.Server(config)
    with studio.listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        wait_for(lambda: server.started, bool)
        yield bound.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTT", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab"]
)
def test_slow_clients_lock_nobody_out(start: bytes, listening: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", listening)))
            slow.sendall(start)
        assert httpx.get(f"http://localhost:{listening}/").text == "0"


def test_an_address_with_many_connections_closes_none_of_others(listening: int) -> None:
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(socket.create_connection(("127.0.0.1", listening), timeout=20))
        try:
            for _ in range(60):
                place = ("127.0.0.1", listening)
                stack.enter_context(socket.create_connection(place, source_address=("127.0.0.2", 0)))
        except OSError:
            pytest.skip("this machine has only one loopback address")
        assert httpx.get(f"http://localhost:{listening}/").text == "0"  # after all of them
        good.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert good.recv(100).startswith(b"HTTP/1.1 200")


def test_the_head_of_a_request_is_not_waited_for(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with httpx.Client(base_url=f"http://localhost:{listening}") as good:
        for start in (b"", b"GET / HTTP/1.1\r\nHost:"):
            with socket.create_connection(("127.0.0.1", listening), timeout=20) as slow:
                slow.sendall(start)
                with contextlib.suppress(ConnectionResetError):
                    assert slow.recv(100) == b""
        assert good.get("/").text == good.get("/").text == "0"
