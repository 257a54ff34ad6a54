"""What the studio refuses, beside the errors of the rest of Ganvas; each has its HTTP status."""

from __future__ import annotations

from ganvas.errors import GanvasError


class AbsentError(GanvasError):
    """What was asked for is not here (404)."""


class ConflictError(GanvasError):
    """It does not fit what is here: another model, a list that has changed (409)."""


class TooLargeError(GanvasError):
    """A request with more bytes than allowed (413)."""


class BusyError(GanvasError):
    """Too much is waiting already (503). seconds: after which to ask again."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds
