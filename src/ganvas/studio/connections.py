"""Close idle connections after a timeout, and earlier if there are too many connections."""

from __future__ import annotations

from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # timeout for the head of a request
MOST_CONNECTIONS = (
    400  # connections; above, one is closed: of the address with most idle ones, that which is idle longest
)


class Patient(H11Protocol):
    """Protocol of uvicorn with a timeout for the head of a request, which uvicorn lacks."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.since: float | None = self.loop.time()
        """Time since when the server waits for the client; None while the client waits."""
        self.address = self.client[0] if self.client else ""
        self.timer = self.loop.call_later(HEAD_SECONDS, self.look)
        waiting = [one for one in self.connections if isinstance(one, Patient) and one.since is not None]
        if len(self.connections) > MOST_CONNECTIONS and waiting:
            num = Counter(one.address for one in waiting)
            longest = min(waiting, key=lambda one: (-num[one.address], one.since or 0.0))
            longest.transport.abort()
            self.connections.discard(longest)  # the event loop does this later, but more connections may arrive before

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.waits():
            self.since = None
        elif self.since is None:
            self.since = self.loop.time()

    def waits(self) -> bool:
        """Whether the server waits for the client to start or continue a request."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def look(self) -> None:
        """Close the connection if no request head arrives in time; the guard limits bodies."""
        waited = 0.0 if self.since is None else self.loop.time() - self.since
        if self.conn.their_state is h11.IDLE and waited >= HEAD_SECONDS:
            self.transport.abort()
        else:
            self.address = self.client[0] if self.client else ""
        self.timer = self.loop.call_later(HEAD_SECONDS / 4, self.look)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.since = self.loop.time() if self.waits() else None
