"""The hook of a training: objects that are informed of every log line and every preview grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Callback:
    """Base class; override what you need. Called in the training process, on rank 0 only.

        class Printer(ganvas.Callback):
            def on_log(self, images_seen, values):
                print(images_seen, values.get("kid"))

        ganvas.train("images/", callbacks=[Printer()])

    An exception stops the training; the run can be resumed.
    """

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Before the first step, also of a resumed run. config: content of config.json (asked, train, model, data)."""

    def on_log(self, images_seen: int, values: Mapping[str, Any]) -> None:
        """After every line of log.jsonl: losses, gradient norms and speed; scores of an evaluation; warnings."""

    def on_preview(self, images_seen: int, path: Path) -> None:
        """After every preview grid, a PNG file."""

    def on_end(self, images_seen: int) -> None:
        """At the end of the session, also after an interruption or an error."""
