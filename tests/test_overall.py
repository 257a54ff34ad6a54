"""overall.py: the progress of a whole evaluation rises from 0 to 1, with the time that is left."""

from __future__ import annotations

import pytest

from ganvas.evaluation import overall
from ganvas.evaluation.overall import WholeProgress


def test_the_parts_count_by_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(overall.time, "monotonic", lambda: clock[0])
    seen: list[tuple[float, str, str]] = []
    whole = WholeProgress(lambda *_: pytest.fail("not each step"), lambda *given: seen.append(given))
    whole.plan({"first": 20.0, "none": 0.0, "second": 60.0})
    whole.begin("first")
    whole.step("drawing", 5, 10)
    clock[0] = 110.0
    whole.step("drawing", 10, 10)
    whole.begin("none")
    whole.step("nothing", 0, 0)
    whole.begin("second", steps=2)
    whole.step("reading", 1000, 2000)
    clock[0] = 1110.0
    whole.step("searching", 1, 2)
    whole.step("searching", 1, 2)  # no other step
    whole.step("searching", 0, 2)  # of other images, more than expected
    assert [round(fraction, 4) for fraction, _, _ in seen] == [0.125, 0.25, 0.25, 0.4375, 0.8125, 0.8125, 1]
    assert seen[0][1:] == ("drawing", "5 of 10")  # too early for an estimate
    assert seen[1][1:] == ("drawing", "10 of 10, about 30 s left in total")
    assert seen[2][1:] == ("nothing", "about 30 s left in total")
    assert seen[3][2].startswith("1,000 of 2,000, about 13 s")
    assert seen[4][2] == "1 of 2, about 3 min 53 s left in total"


def test_without_it_each_step_is_reported() -> None:
    seen = []
    whole = WholeProgress(lambda *given: seen.append(given), None)
    whole.begin("first")
    whole.step("drawing", 5, 10)
    assert seen == [("drawing", 5, 10)]
