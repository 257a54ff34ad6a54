"""training/autotune.py: how the cores share the work is measured, checked and said."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from ganvas.config import TrainConfig, TrainOptions
from ganvas.data import Pack, open_pack
from ganvas.data.batches import Batches
from ganvas.errors import ConfigError
from ganvas.system.device import Device, choose_device
from ganvas.training import autotune, compiled
from ganvas.training.autotune import choose_workers, most_workers
from ganvas.training.compiled import call_networks
from ganvas.training.plan import plan
from ganvas.training.state import TrainState
from ganvas.training.workers import Networks


@pytest.fixture(scope="module")
def pack() -> Pack:
    return open_pack("digits")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def opened(pack: Pack, **options: Any) -> tuple[TrainState, Networks, TrainConfig]:
    device: Device = choose_device("cpu")
    asked = TrainOptions(**({"minutes": 10, "model": "light", "base": 8, "widest": 16, "batch": 16} | options))
    planned = plan(pack, asked, device)
    batches = Batches(pack, planned.config.batch or 1, seed=0, device=device.torch_device)
    state = TrainState(planned.model, planned.config, batches, device)
    return state, call_networks(state, planned.config, print), planned.config


def told(pack: Pack, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], differ: float = 0.0, **options: Any):
    """(state, what was said) with these times of a step for each number of workers."""
    state, networks, config = opened(pack, **options)

    def timed(_: Any, __: Any, ___: Any, ____: Any, num: int) -> tuple[float, torch.Tensor]:
        return seconds[num], torch.tensor([1.0, 1.0 + differ * (num > 1)])

    monkeypatch.setattr(autotune, "timed", timed)
    said: list[str] = []
    choose_workers(state, networks, config, pack.kind, said.append)
    state.batches.close()
    return state, said


def test_the_faster_way_is_taken_and_said(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    state, said = told(pack, monkeypatch, {1: 0.4, 2: 0.2})
    assert state.workers == 2
    assert "80 images/s measured, with 2 threads that share the batch, so about 48,000 images in 10 minutes" in said[0]
    state, said = told(pack, monkeypatch, {1: 0.2, 2: 0.4})
    assert state.workers == 1 and "threads that share" not in said[0]


def test_the_median_of_several_turns_counts(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lucky turn of a noisy machine decides nothing; slow steps and short budgets have one turn."""
    turns = {1: [0.4, 0.1, 0.4], 2: [0.2, 0.2, 0.2]}
    calls: list[int] = []

    def timed(_: Any, __: Any, ___: Any, ____: Any, num: int) -> tuple[float, torch.Tensor]:
        calls.append(num)
        return turns[num][calls.count(num) - 1], torch.ones(2)

    monkeypatch.setattr(autotune, "timed", timed)
    for minutes, expected in ((10, [1, 2] * 3), (2, [1, 2])):
        calls.clear()
        state, networks, config = opened(pack, minutes=minutes)
        choose_workers(state, networks, config, pack.kind, [].append)
        state.batches.close()
        assert calls == expected and state.workers == 2


def test_a_way_with_other_gradients_is_not_taken(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(pack, monkeypatch, {1: 0.4, 2: 0.2}, differ=0.1)[0].workers == 1


def test_a_budget_that_is_too_small_is_named(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = told(pack, monkeypatch, {1: 4.0, 2: 4.0}, discriminator="both")
    assert "fewer than 10,000 images rarely give recognisable results: use --minutes 42 or a smaller --size" in said[1]
    _, said = told(pack, monkeypatch, {1: 4.0, 2: 4.0}, discriminator="own")
    assert len(said) == 1


def test_short_and_counted_budgets_are_not_measured(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    for budget in ({"minutes": 0.5}, {"minutes": None, "images": 64}):
        state, said = told(pack, monkeypatch, {}, **budget)
        assert state.workers == 1 and said == []


def test_more_workers_than_can_share_a_batch_are_refused(pack: Pack) -> None:
    state, networks, config = opened(pack)
    state.batches.close()
    with pytest.raises(ConfigError, match="--workers 3: expected at most 2 for a batch of 16 here"):
        choose_workers(state, networks, dataclasses.replace(config, workers=3), pack.kind, print)


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 2), ({"batch": 8}, 1), ({"model": "compact", "batch": 6}, 2), ({"model": "style", "size": None}, 1)],
)
def test_who_can_share_a_batch(pack: Pack, options: dict[str, Any], most: int) -> None:
    """Whole groups of batch norm for each worker; no random numbers of the network's own."""
    options = {key: value for key, value in options.items() if value is not None}
    state, _, config = opened(pack, **options)
    state.batches.close()
    assert most_workers(state, config) == most


def test_compiled_networks_are_tried_in_each_phase_before_the_budget_begins(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phase that comes later would be compiled in the time of the budget, and might fail there."""
    seen: list[tuple[bool, tuple[int, int] | None, int]] = []

    def accumulated(networks: Networks, inputs: Any, *_: Any) -> None:
        seen.append((networks.plain_generator.starting, networks.plain_generator.coarse, inputs.real.shape[2]))

    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(compiled, "accumulate_gradients", accumulated)
    state, _, config = opened(pack, model="compact", compile=True, images=64, minutes=None)
    assert seen == [(True, None, 32), (False, None, 32)]
    seen.clear()
    state.generator.coarse_sizes = ((8, 8), (16, 16))
    call_networks(state, config, print)
    state.batches.close()
    assert seen == [(True, (8, 8), 8), (False, (8, 8), 8), (False, (16, 16), 16), (False, None, 32)]
    assert not state.generator.starting and not state.generator.coarse


def test_both_ways_are_really_timed(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are also the same if one way is so slow that its passes are not repeated."""
    state, networks, config = opened(pack)
    found = {}
    for num, slow in ((1, 1e9), (2, 0.0)):
        monkeypatch.setattr(autotune, "SLOW", slow)
        found[num] = autotune.timed(state, networks, config, pack.kind, num)
    state.batches.close()
    assert all(0 < seconds < 60 for seconds, _ in found.values())
    assert (found[1][1] - found[2][1]).norm() < autotune.AGREEMENT * found[1][1].norm()
    assert all(p.grad is None for p in state.generator.parameters())
