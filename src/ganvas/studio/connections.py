"""Connections that hold a place and ask nothing: they are closed after a while, and at once where places are short."""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # that the head of a request may take
MOST = 400  # connections; beyond, the one that has kept the studio waiting for longest makes room


class Patient(H11Protocol):
    """uvicorn's protocol with an end to its patience: uvicorn itself waits for the head of a request for ever."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.since: float | None = self.loop.time()
        """When it began to wait for its client; None while the client waits."""
        self.timer = self.loop.call_later(HEAD_SECONDS, self.look)
        waiting = [one for one in self.connections if isinstance(one, Patient) and one.since is not None]
        if len(self.connections) > MOST and waiting:
            longest = min(waiting, key=lambda one: one.since or 0.0)
            longest.transport.abort()
            self.connections.discard(longest)  # the loop does so later: others may come in the same moment

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.waits():
            self.since = None
        elif self.since is None:
            self.since = self.loop.time()

    def waits(self) -> bool:
        """Whether it is the client's turn: to begin a request, or to go on with one."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def look(self) -> None:
        """Closes the connection where the head of a request does not come; who sends a body is the guard's concern."""
        waited = 0.0 if self.since is None else self.loop.time() - self.since
        if self.conn.their_state is h11.IDLE and waited >= HEAD_SECONDS:
            self.transport.abort()
        else:
            self.timer = self.loop.call_later(HEAD_SECONDS / 4, self.look)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.since = self.loop.time() if self.waits() else None
