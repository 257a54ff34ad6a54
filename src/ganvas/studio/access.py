"""Access control and limits: hosts, tokens, requests from other sites, sizes, timeouts; security headers.

On the loopback address, the studio is open to all users of the machine. Pages of other sites could still send requests,
by a name that resolves to 127.0.0.1 (DNS rebinding) or by a form; the Host and Origin headers are checked against this.
On any other address a token is required.

Requests with slow bodies time out, and work for disconnected clients is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from ganvas.studio.errors import TooLargeError

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
Asgi = Callable[[_Message, _Receive, _Send], Awaitable[None]]

BODY_BYTES = 2**24  # most bytes of an upload, or of a piece of one
_UPLOADS = ("/api/projections", "/api/uploads/piece")
JSON_BYTES = 2**22  # most bytes of any other request
_URL_BYTES = 2**15
_DRAINED_BYTES = 2**28  # most bytes read from a refused body before the connection is closed
BODY_PAUSE, BODY_SECONDS = 10.0, 60.0  # timeouts for the next part of a body, and for the whole body

_LATE = "the request was not received in time: send it again"

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """ASGI middleware. token: required if given; otherwise only requests to names of this machine are served."""

    def __init__(self, inner: Asgi, token: str | None = None, hosts: frozenset[str] = frozenset()) -> None:
        self.inner = inner
        self.token = token
        self.hosts = hosts | {"localhost", "127.0.0.1", "::1"}
        digest = hashlib.sha256((token or "").encode(errors="surrogateescape")).hexdigest()
        self.cookie = f"ganvas-{digest[:8]}"  # studios on one machine share their cookies

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            return await self.inner(scope, receive, send)
        if scope["type"] != "http":
            return None
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        refused = self.refused(scope, headers)
        if refused is not None:
            return await _answer(send, *refused)
        given = self.given_once(scope)
        if given is not None:
            return await _answer(send, 303, "", given)
        limit = BODY_BYTES if scope["path"] in _UPLOADS else JSON_BYTES
        return await _Exchange(receive, send, limit).serve(self.inner, scope, headers)

    def refused(self, scope: _Message, headers: dict[str, str]) -> tuple[int, str] | None:
        """(status, sentence) if the request is refused, otherwise None."""
        host = _host_of(headers.get("host", ""))
        if self.token is None and host not in self.hosts:
            return 403, (
                f"{host[:80]!r} is not a name of this studio: open the address that it printed (localhost or 127.0.0.1)"
            )
        origin = headers.get("origin")
        # A proxy may use another name than its user. Pages cannot set this header without a preflight request.
        asked = {headers.get("host", "").lower(), headers.get("x-forwarded-host", "").partition(",")[0].strip().lower()}
        if origin is not None and _origin_host(origin) not in asked - {""}:
            return 403, "this request comes from a page of another site: open the studio itself"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"].startswith("/api"):
            return 403, "this request comes from a page of another site: open the studio itself"
        if len(scope.get("query_string", b"")) > _URL_BYTES:
            return 414, f"the URL has more than {_URL_BYTES:,} bytes: send the recipe with POST /api/pictures"
        if self.token is not None and not self.is_known(scope, headers):
            return 401, "the token is missing: open the address that the studio printed, or send a bearer token"
        return None

    def is_known(self, scope: _Message, headers: dict[str, str]) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        jar = SimpleCookie()
        try:
            jar.load(headers.get("cookie", ""))
        except CookieError:
            jar.clear()
        cookie = jar.get(self.cookie)
        offered = [bearer.strip()] if kind.lower() == "bearer" else []
        offered += [cookie.value] if cookie is not None else []
        offered += [value for key, value in _query_of(scope) if key == "token"]
        return any(self.is_token(one) for one in offered)

    def is_token(self, offered: str) -> bool:
        """Compare in constant time; cookies contain a hash of the token."""
        own = (self.token or "").encode(errors="surrogateescape")
        given = offered.encode(errors="surrogateescape")
        hashed = hashlib.sha256(own).hexdigest().encode()
        return hmac.compare_digest(given, own) | hmac.compare_digest(given, hashed)

    def given_once(self, scope: _Message) -> list[tuple[bytes, bytes]] | None:
        """Headers that store a token from the URL in a cookie and redirect to the URL without it.

        The redirect is relative, so that it cannot lead to another site and works behind a proxy. The cookie of the
        page has no path, so that the browser takes that of the address: behind a proxy such as JupyterHub's, the
        servers of other users at the same host do not get it.
        """
        query = _query_of(scope)
        if self.token is None or scope["method"] != "GET" or "token" not in dict(query):
            return None
        rest = urlencode([(key, value) for key, value in query if key != "token"])
        value = hashlib.sha256(self.token.encode(errors="surrogateescape")).hexdigest()
        place = f"./{quote(scope['path'].rpartition('/')[2], safe='')}{f'?{rest}' if rest else ''}".encode()
        wide = "; Path=/" if "/" in scope["path"].strip("/") else ""
        cookie = f"{self.cookie}={value}{wide}; HttpOnly; SameSite=Strict".encode()
        return [(b"location", place), (b"set-cookie", cookie)]


class _Exchange:
    """A request with a body of at most `limit` bytes, and its answer, which gets the security headers."""

    def __init__(self, receive: _Receive, send: _Send, limit: int) -> None:
        self.receive, self.send, self.limit = receive, send, limit
        self.seen, self.ends = 0, 0.0  # bytes of the body; when it must be complete
        self.is_complete = self.is_late = self.has_begun = self.is_answered = False
        self.first: _Message | None = None  # read before the work began
        self.gone = asyncio.Event()  # the client has disconnected
        self.work: asyncio.Future[None] | None = None
        self.watching: asyncio.Task[None] | None = None

    async def serve(self, inner: Asgi, scope: _Message, headers: dict[str, str]) -> None:
        too_large = f"the request has more than {self.limit:,} bytes: send less"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > self.limit:
            await _drained(self.receive)
            return await _answer(self.send, 413, too_large)
        if length == "0" and "transfer-encoding" not in headers:  # there is no body
            self.first = await self.message()
        self.work = asyncio.ensure_future(inner(scope, self.message, self.answer))
        try:
            with contextlib.suppress(TooLargeError):
                await self.work
        except asyncio.CancelledError:
            if not self.gone.is_set() and not self.has_begun:  # the server shuts down
                await _answer(self.send, 503, "the studio is closing", [(b"retry-after", b"5")])
        finally:
            if self.watching is not None:
                self.watching.cancel()
        if self.is_late:
            await _answer(self.send, 408, _LATE)
        elif self.seen > self.limit:
            if not self.is_complete:
                await _drained(self.receive)
            await _answer(self.send, 413, too_large)

    async def message(self) -> _Message:
        """The next part of the body. Raises TooLargeError if it is too large or late."""
        if self.first is not None:
            message, self.first = self.first, None
            return message
        if self.is_complete:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        now = asyncio.get_running_loop().time()
        self.ends = self.ends or now + BODY_SECONDS
        try:
            async with asyncio.timeout(min(BODY_PAUSE, self.ends - now)):
                message = await self.receive()
        except TimeoutError:
            self.is_late = True
            raise TooLargeError(_LATE) from None
        self.is_complete = not message.get("more_body")
        self.seen += len(message.get("body", b""))
        if self.seen > self.limit:
            raise TooLargeError("too large")
        if self.is_complete:
            self.watching = asyncio.create_task(self.watch())
        return message

    async def watch(self) -> None:
        """Cancel the work if the client disconnects."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        if not self.is_answered and self.work is not None:
            self.work.cancel()

    async def answer(self, message: _Message) -> None:
        if self.seen > self.limit or self.is_late:
            return  # the request is refused
        if message["type"] == "http.response.start":
            own = {key.lower() for key, _ in message["headers"]}
            added = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in own]
            message["headers"] = [*message["headers"], *added]
            self.has_begun = True
        self.is_answered = message["type"] == "http.response.body" and not message.get("more_body")
        await self.send(message)


async def _drained(receive: _Receive) -> None:
    """Read and discard the rest of a body, because clients read the answer only after sending."""
    seen = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            while seen < _DRAINED_BYTES:
                async with asyncio.timeout(BODY_PAUSE):
                    message = await receive()
                seen += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


async def _answer(send: _Send, status: int, sentence: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = json.dumps({"error": sentence}).encode() if sentence else b""
    common = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
    common += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    common += [(b"cache-control", b"no-store"), *(headers or [])]
    if status == 401:
        common.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        common.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": common})
    await send({"type": "http.response.body", "body": body})


def _query_of(scope: _Message) -> list[tuple[str, str]]:
    text = scope.get("query_string", b"").decode("latin-1")
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []


def _host_of(header: str) -> str:
    """The host name in a Host header, without port."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
