"""training/loop.py, clock.py and state.py in parts: when is saved, which weights are kept, time, memory, Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ganvas
from ganvas.config import DataConfig, ModelConfig, TrainConfig, TrainOptions
from ganvas.data import open_pack
from ganvas.data.batches import Batches
from ganvas.data.packing.pack import Pack
from ganvas.errors import TrainingError
from ganvas.records import Score, read_log, read_reports
from ganvas.run import Run
from ganvas.system.device import choose_device
from ganvas.training import loop
from ganvas.training.clock import Allowance, Clock, caught_signals
from ganvas.training.plan import plan
from ganvas.training.state import TrainState
from test_generator import fresh

SMALL: dict[str, Any] = {"size": 8, "batch": 16, "base": 8, "z_dim": 8, "device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (48, 8, 8), np.uint8))
    return path


# What is saved when, and which weights are kept.


@pytest.mark.parametrize(("minutes", "expected"), [(1e-9, [16, 32, 48, 64]), (60.0, [64])])
def test_checkpoints_are_saved_between_previews(
    minutes: float, expected: list[int], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = Run.save_checkpoint

    def counted(run: Run, state: dict[str, Any], images_seen: int, keep: int) -> None:
        saved.append(images_seen)
        save(run, state, images_seen, keep)

    monkeypatch.setattr(Run, "save_checkpoint", counted)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", -1.0)  # none at previews
    ganvas.train(pictures, tmp_path / "run", images=64, previews=1, checkpoint_minutes=minutes, **SMALL)
    assert sorted({*saved}) == expected


def test_the_best_weights_are_those_of_the_lowest_score_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "heldout_scores", lambda _: {})
    state: Any = SimpleNamespace(images_seen=0, best_score=float("inf"))
    average = fresh()
    with Run(tmp_path / "run") as run:
        for score, best in ((0.5, 1), (0.3, 2), (0.4, 2), (0.3, 2), (0.2, 5)):
            state.images_seen += 1
            told = loop.keep_best(state, average, run, lambda _, score=score: {"score": score})
            assert told == Score(state.images_seen, score)
            assert ganvas.Generator.load(run.best).info.images_seen == best
            assert state.best_score == {1: 0.5, 2: 0.3, 5: 0.2}[best]
        assert [record["score"] for record in read_log(run.folder)] == [0.5, 0.3, 0.4, 0.3, 0.2]


@pytest.mark.parametrize(
    ("last", "margin", "kept"),
    [(0.5, 0.1, 32), (0.5, 0.5, 64), (0.12, 0.0, 64), (0.05, 0.0, 64)],
    ids=["worse", "worse by chance", "hardly worse", "better"],
)
def test_the_model_has_the_last_weights_unless_they_are_clearly_worse_than_the_best(
    last: float, margin: float, kept: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scripted:
        """The scores at the two previews and at the end."""

        cost = 0.0

        def __init__(self, *_: object) -> None:
            self.scores = iter([0.3, 0.1, last, last])

        def __call__(self, _: object) -> dict[str, float]:
            alike = {"precision": 0.5, "diversity": 1.0, "checkerboard": 1.0}
            return {"score": next(self.scores), "margin": margin, **alike}

    monkeypatch.setattr("ganvas.verbs.TrainingScorer", Scripted)
    monkeypatch.setattr(loop, "EXAMINATION_SHARE", 1e9)
    ganvas.train(pictures, tmp_path / "run", images=64, previews=2, **SMALL)
    assert [record["images"] for record in read_log(tmp_path / "run") if "score" in record] == [16, 32, 64, 64]
    assert ganvas.Generator.load(tmp_path / "run").info.images_seen == kept


# Ranks.


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_adaptive_augmentation_follows_the_mean_of_all_ranks(
    sign: float, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "average_over_ranks", lambda own: torch.full_like(own, sign))
    ganvas.train(pictures, tmp_path / "run", images=32, previews=1, adaptive=True, augment=0.4, **SMALL)
    found = [record["augment"] for record in read_log(tmp_path / "run") if "augment" in record]
    assert all((value - 0.4) * sign > 0 for value in found) and found


def test_augmentation_begins_when_images_are_seen_again(pictures: Path, tmp_path: Path) -> None:
    ganvas.train(pictures, tmp_path / "run", images=256, previews=1, augment=0.4, augment_after=2.0, **SMALL)
    num_training = open_pack(pictures, DataConfig(size="8")).num_training
    reports = read_reports(tmp_path / "run")
    epochs = [report.images / num_training for report in reports]
    expected = [0.4 * min(1.0, max(0.0, epoch / 2 - 1)) for epoch in epochs]
    assert min(epochs) < 2 and max(epochs) > 4
    assert [report.augment for report in reports] == pytest.approx(expected)


# Time.


def test_a_resumed_budget_of_minutes_goes_on_where_it_ended() -> None:
    state: Any = SimpleNamespace(
        seconds=45.0, images_seen=900, total_images=1200, batches=SimpleNamespace(pack=SimpleNamespace(num_training=9))
    )
    clock = Clock(state, TrainConfig(minutes=1))
    assert 45 <= clock.seconds() < 55 and 0.75 <= clock.progress() < 0.9 and 5 < clock.seconds_left() <= 15
    assert clock.estimate()[0] == pytest.approx(1200, rel=0.2) and clock.estimate()[2] == 0
    state.seconds = 60.0
    assert Clock(state, TrainConfig(minutes=1)).estimate()[2] == 1


def test_time_is_kept_for_the_last_examination() -> None:
    assert Allowance(1e9).left()
    assert not Allowance(1e-9, needed=1.0).left()
    allowance = Allowance(share=0.5, needed=10.0)
    allowance.began -= 30  # half a minute ago: 15 seconds may be spent, 10 of which are needed later
    assert allowance.left()
    allowance.used = 4.0
    assert allowance.left()
    allowance.used = 6.0
    assert not allowance.left()


# Memory.


@pytest.mark.parametrize(
    ("model", "tried", "same"),
    [("compact", [24, 12, 6, 3, 1], [12, 6, 3, 1]), ("light", [24, 8, 4, 2], [8]), ("style", [24, 12, 6, 3, 2], [])],
)
def test_micro_batches_become_smaller_until_the_memory_suffices(
    model: str, tried: list[int], same: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to one image, or two where images share statistics; what this does to the result is said."""
    found: list[int] = []
    said: list[str] = []

    def full(_: object, __: object, ___: object, ____: object, micro_batch: int, *_____: object) -> None:
        found.append(micro_batch)
        assert len(found) < 9, "it never ends"
        raise MemoryError

    monkeypatch.setattr(loop, "accumulate_gradients", full)
    shape = ModelConfig(model, 16, 16, 1, 0, z_dim=8, base=8)
    network = torch.nn.Identity()
    state: Any = SimpleNamespace(
        micro_batch=24,
        penalty_micro_batch=24,
        model=shape,
        device=torch.device("cpu"),
        optimizers={},
        generator=network,
    )
    inputs: Any = SimpleNamespace(real=torch.zeros(24, 1))
    running: Any = SimpleNamespace(
        state=state,
        networks=None,
        workers=None,
        config=TrainConfig(),
        policy=(),
        display=SimpleNamespace(say=said.append),
    )
    with pytest.raises(TrainingError, match="too little memory even for the smallest micro-batch"):
        loop.Loop.gradients(running, inputs, "both", False, False)
    assert found == tried
    effects = dict.fromkeys(same, "same training result")
    changes = f"the result changes, because {model} computes statistics of each"
    assert said == [
        f"out of memory: continuing with micro-batches of {size} ({effects.get(size, changes)})" for size in tried[1:]
    ]


# Ctrl-C.


def test_the_first_ctrl_c_is_noted_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with caught_signals() as caught:
        assert caught.number == 0
        signal.raise_signal(signal.SIGINT)
        assert caught.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# The state.


@pytest.fixture
def opened() -> Iterator[Any]:
    """opened(options) -> a state of random images."""
    batches: list[Batches] = []

    def state(**options: Any) -> TrainState:
        images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 1), np.uint8)
        pack = Pack(
            Path("pack"), images, None, np.empty(0, np.int64), SimpleNamespace(kind="photo", mirror=False, classes=[])
        )
        device = choose_device("cpu")
        planned = plan(pack, TrainOptions(images=64, batch=8, base=8, z_dim=8, **options), device)
        batches.append(Batches(pack, 8, seed=0, device=device.torch_device))
        return TrainState(planned.model, planned.config, batches[-1], device)

    yield state
    for one in batches:
        one.close()


def test_a_resumed_run_has_its_power_averages(opened: Any) -> None:
    first, second = opened(snapshots=2), opened(snapshots=2)
    with torch.no_grad():
        for average in first.powers.averages:
            for parameter in average.parameters():
                parameter.add_(torch.randn_like(parameter))
    second.load_state_dict(first.state_dict())
    for one, other in zip(first.powers.averages, second.powers.averages, strict=True):
        state = other.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def test_a_run_from_before_running_statistics_gets_them(opened: Any) -> None:
    options = {"model": "light", "discriminator": "own"}
    state, known = opened(**options), opened(**options)
    known.measure_generator()
    saved = known.state_dict()
    saved["generator"] = {n: torch.zeros_like(t) if "running_mean" in n else t for n, t in saved["generator"].items()}
    state.load_state_dict(saved)
    assert state.generator.training
    for one, other in zip(known.generator.buffers(), state.generator.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_generator_mixes_as_many_styles_as_asked(share: float, opened: Any) -> None:
    assert opened(model="style", style_mixing=share).generator.style_mixing == share
