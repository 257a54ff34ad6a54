"""Errors of the studio, each with its own HTTP status."""

from __future__ import annotations

from ganvas.errors import GanvasError


class AbsentError(GanvasError):
    """The requested object does not exist (404)."""


class ConflictError(GanvasError):
    """The request conflicts with the current state: another model, a changed list (409)."""


class TooLargeError(GanvasError):
    """The request is too large (413)."""


class BusyError(GanvasError):
    """The studio is busy (503). seconds: time after which to retry."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class ForbiddenError(GanvasError):
    """The studio's owner does not allow this (403)."""
