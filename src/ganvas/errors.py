"""What can go wrong, as the user sees it.

    GanvasError
    +-- ConfigError        an option or a combination of options that cannot work
    +-- DataError          a source of images that cannot be read or used
    |   +-- PictureError   one image that cannot be decoded (the rest goes on)
    +-- RunError           a run folder that is locked, finished, or belongs to something else
    |   +-- CheckpointError    a checkpoint or model file that is damaged or not ours
    +-- TrainingError      training cannot go on (not finite, out of memory at one image)
    +-- MissingExtraError  an optional part is not installed; the message says the command

Every message is one sentence that says what was received, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class GanvasError(Exception):
    """Base of all errors that a user can mend; the command line prints it in one line and exits with 2.

    Not a ValueError, which the command-line library would catch and wrap while it builds the configurations.
    """


class ConfigError(GanvasError):
    """An option, or a combination of options, that cannot work."""


class DataError(GanvasError):
    """A source of images that cannot be read or used."""


class PictureError(DataError):
    """One image that cannot be decoded; the message is the reason alone, without the name."""


class RunError(GanvasError):
    """A run folder that is locked, finished, or belongs to another data set or configuration."""


class CheckpointError(RunError):
    """A checkpoint or a model file that is damaged, or not one of ours."""


class TrainingError(GanvasError):
    """Training cannot go on; the message names the newest good checkpoint."""


class MissingExtraError(GanvasError):
    """An optional part is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'ganvas[{extra}]'")


def some(names: Sequence[str], most: int = 8) -> str:
    """The names in a sentence, the first of them where there are many: "a, b, c and 2,997 others"."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} others" if rest > 1 else "".join(f", {n}" for n in names[most:]))
