"""Progress of a whole evaluation, with the time left, from the progress of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from ganvas.data.packing.pack import Progress
from ganvas.errors import duration

Overall = Callable[[float, str, str], None]
"""Called with the fraction of the evaluation that is done (0 to 1), the current step, and its counts and the time
left as text."""

SECONDS = {  # expected for 1,000 images of 64 pixels on one core; only the proportions matter
    "sampling": 2.0, "features": 13.0, "random features": 1.4, "classes": 5.0, "copies": 16.0, "artefacts": 1.0,
    "marks": 1.0,
}  # fmt: skip
CLASSIFIER, AREAS, USEFULNESS, GRIDS = 15.0, 8.0, 600.0, 0.5  # the same for any number of images
_KNOWN_AFTER = 3.0  # seconds before which the time left is not estimated


class WholeProgress:
    """Combines the progress of the parts of an evaluation, weighted by their expected seconds.

    Without `overall`, `report` gets the progress of each step separately.
    """

    def __init__(self, report: Progress, overall: Overall | None) -> None:
        self.report, self.overall = report, overall
        self.began = time.monotonic()
        self.parts: dict[str, float] = {}
        self.part, self.steps = "", 1
        self.finished, self.current = 0, ("", 0)  # finished steps of the part; name and count of the current one

    def plan(self, parts: dict[str, float]) -> None:
        """Sets the parts, in order, and their expected seconds."""
        self.parts = parts

    def begin(self, part: str, steps: int = 1) -> None:
        """Starts a part that has this number of counted steps."""
        self.part, self.steps = part, steps
        self.finished, self.current = 0, ("", 0)

    def step(self, what: str, done: int, total: int) -> None:
        """Takes the progress of a step of the current part; total: 0 if nothing is counted."""
        if self.overall is None:
            self.report(what, done, total)
            return
        name, last = self.current
        if name and (what != name or done < last):  # another step, or the same for other images
            self.finished += 1
        self.current = (what, done) if total else ("", 0)
        fraction = self.fraction(min(1.0, (self.finished + (done / total if total else 0.0)) / self.steps))
        facts = [f"{done:,} of {total:,}"] if total else []
        elapsed = time.monotonic() - self.began
        if elapsed > _KNOWN_AFTER and fraction > 0:
            facts.append(f"about {duration(elapsed * (1 - fraction) / fraction)} left in total")
        self.overall(fraction, what, ", ".join(facts))

    def fraction(self, of_part: float) -> float:
        """Fraction of the evaluation that is done, 0 to 1. of_part: that of the current part."""
        names, total = [*self.parts], sum(self.parts.values())
        if self.part not in names or total == 0:
            return 0.0
        before = sum(self.parts[name] for name in names[: names.index(self.part)])
        return (before + of_part * self.parts[self.part]) / total
