"""Exceptions for user errors.

    GanvasError
    +-- ConfigError        invalid option or combination of options
    +-- DataError          unreadable or unusable source of images
    |   +-- PictureError   one image that cannot be decoded (the others are still used)
    +-- RunError           run folder that is locked, finished, or of another run
    |   +-- CheckpointError    damaged or foreign checkpoint or model file
    +-- TrainingError      training cannot continue (not finite, out of memory at one image)
    +-- MissingExtraError  optional package not installed; the message has the command

Each message is one sentence: what was received, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class GanvasError(Exception):
    """Base of all errors that a user can fix. The command line prints it in one line and exits with code 2.

    Not a ValueError, because tyro would catch and wrap that while it builds the configurations.
    """


class ConfigError(GanvasError):
    """Invalid option or combination of options."""


class DataError(GanvasError):
    """Unreadable or unusable source of images."""


class PictureError(DataError):
    """One image that cannot be decoded. The message is only the reason, without the name."""


class RunError(GanvasError):
    """Run folder that is locked, finished, or of another data set or configuration."""


class CheckpointError(RunError):
    """Damaged checkpoint or model file, or one not written by Ganvas."""


class TrainingError(GanvasError):
    """Training cannot continue. The message names the newest good checkpoint."""


class MissingExtraError(GanvasError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'ganvas[{extra}]'")


def some(names: Sequence[str], most: int = 8) -> str:
    """Names as text, shortened to the first `most`: "a, b, c and 2,997 others"."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} others" if rest > 1 else "".join(f", {n}" for n in names[most:]))


def amount(num: int, one: str, many: str = "") -> str:
    """ "1 image" or "2,000 images". many: the words for other numbers than 1; default: `one` with an s."""
    return f"{num:,} {one if num == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


def did_you_mean(name: str, known: list[str]) -> str:
    """ ", did you mean ...?" with the most similar known name, or ""; for error messages."""
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""
