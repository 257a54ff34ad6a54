"""training/clock.py: the budget of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ganvas.config import TrainConfig
from ganvas.training import clock
from ganvas.training.clock import UNKNOWN, Clock


def test_the_part_of_the_images_seen_is_the_part_of_the_minutes_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the speed changes, and when a run goes on at another speed: schedules must not jump."""
    now = 1000.0
    monkeypatch.setattr(clock.time, "monotonic", lambda: now)
    pack = SimpleNamespace(num_training=10)
    state: Any = SimpleNamespace(seconds=0.0, images_seen=0, batches=SimpleNamespace(pack=pack))
    config = TrainConfig(minutes=10)
    running = Clock(state, config)
    assert running.estimate() == (UNKNOWN, 0, 0)
    parts = []
    for speed in [10] * 5 + [2] * 4:
        now += 60
        state.images_seen += 60 * speed
        running.count()
        parts.append(state.images_seen / running.estimate()[0])
    assert parts == pytest.approx([(i + 1) / 10 for i in range(9)])
    state.seconds = running.seconds()
    now += 5000
    resumed = Clock(state, config)
    assert state.images_seen / resumed.estimate()[0] == pytest.approx(0.9)
    now += 60
    assert resumed.estimate()[2] == 1


def test_the_time_left_is_known_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the step where the measurement of the speed starts again."""
    now = 1000.0
    monkeypatch.setattr(clock.time, "monotonic", lambda: now)
    state: Any = SimpleNamespace(
        seconds=0.0, images_seen=0, batches=SimpleNamespace(pack=SimpleNamespace(num_training=10))
    )
    running = Clock(state, TrainConfig(images=1600))
    for step in range(1, 2 * clock.PROBE_STEPS):
        now += 2
        state.images_seen += 16
        running.count()
        assert running.seconds_left() == pytest.approx(200 - 2 * step)
