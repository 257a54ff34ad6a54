"""The hook of a training, and the trackers that use it: TensorBoard for real, the others with fakes."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ganvas
from conftest import TINY, Command
from ganvas.errors import MissingExtraError
from ganvas.run import Run
from ganvas.training.tracking import TRACKERS

SMALL = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 2, "device": "cpu", "quiet": True}


class Recorder(ganvas.Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple] = []

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.events.append(("start", folder, config["train"]["batch"]))

    def on_log(self, images_seen: int, values: Mapping[str, Any]) -> None:
        self.events.append(("log", images_seen, dict(values)))

    def on_preview(self, images_seen: int, path: Path) -> None:
        assert path.is_file()
        self.events.append(("preview", images_seen, path.name))

    def on_end(self, images_seen: int) -> None:
        self.events.append(("end", images_seen))


def test_callbacks_see_the_log_the_previews_and_the_end(two_classes: Path, tmp_path: Path) -> None:
    seen = Recorder()
    ganvas.train(two_classes, tmp_path / "run", images=32, callbacks=[seen], **SMALL)
    assert seen.events[0] == ("start", tmp_path / "run", 16) and seen.events[-1] == ("end", 32)
    logged = [event for event in seen.events if event[0] == "log"]
    assert any("d_real" in values for *_, values in logged) and any("score" in values for *_, values in logged)
    previews = [event for event in seen.events if event[0] == "preview"]
    assert [(images, name) for _, images, name in previews] == [
        (images, path.name) for images, path in Run(tmp_path / "run").grids()
    ]


def test_an_error_of_a_callback_stops_the_training_and_the_others_end(two_classes: Path, tmp_path: Path) -> None:
    class Broken(ganvas.Callback):
        def on_preview(self, images_seen: int, path: Path) -> None:
            raise ZeroDivisionError

    seen = Recorder()
    with pytest.raises(ZeroDivisionError):
        ganvas.train(two_classes, tmp_path / "run", images=32, callbacks=[Broken(), seen], **SMALL)
    assert seen.events[-1][0] == "end"
    assert ganvas.train(two_classes, tmp_path / "run", images=32, **SMALL).images_seen == 32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_measures_images_and_options(
    ganvas_command: Command, two_classes: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    answer = ganvas_command("train", two_classes, "--out", run, "--images", 32, "--track", "tensorboard", *TINY)
    assert answer.code == 0, answer.err
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"d_real", "d_fake", "loss", "penalty", "lr", "score", "variety"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["preview"]
    assert {event.step for event in events.Images("preview")} == {images for images, _ in Run(run).grids()}
    options = EventAccumulator(str(run / "tensorboard" / "options")).Reload()
    content = str(options.summary_metadata["_hparams_/session_start_info"])
    assert "train/lr" in content and "model/base" in content and "last/score" in options.Tags()["scalars"]


class Fake(types.ModuleType):
    """A library that notes its calls; every call returns the library itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple, dict]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            return self

        return call


@pytest.mark.parametrize(
    ("name", "first", "image", "last"),
    [("wandb", "init", "Image", "finish"), ("mlflow", "start_run", "log_artifact", "end_run")],
)
def test_other_trackers_get_options_numbers_and_images(
    name: str, first: str, image: str, last: str, two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    ganvas.train(two_classes, tmp_path / "run", images=32, track=(name,), **SMALL)
    names = [called for called, *_ in fake.calls]
    assert names[0] == first and names[-1] == last
    assert names.count(image) == len(Run(tmp_path / "run").grids())
    told = str(fake.calls)
    assert "'train/lr'" in told and "'model/base': 8" in told and "d_real" in told and "'score'" in told


def test_runs_of_one_folder_name_are_different_runs_of_a_tracker(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"data": {}, "model": {}, "train": {}}
    starts = ("2026-11-29T10:00:00+0000", "2026-11-29T10:00:00+0000", "2026-11-29T11:00:00+0000")
    fake = Fake("wandb")
    for started in starts:
        TRACKERS["wandb"](fake, tmp_path).on_start(tmp_path, empty | {"started": started})
    first, resumed, other = (options["id"] for _, _, options in fake.calls)
    assert first == resumed != other


@pytest.mark.parametrize(("name", "extra"), [("wandb", "wandb"), ("tensorboard", "track"), ("energy", "energy")])
def test_a_tracker_that_is_missing_is_named_before_the_training(
    name: str, extra: str, two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"tensorboard": "torch.utils.tensorboard", "energy": "codecarbon"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    package = module.rpartition(".")[2]
    with pytest.raises(MissingExtraError, match=rf"--track {name} needs the package '{package}': .*\[{extra}\]"):
        ganvas.train(two_classes, tmp_path / "run", images=16, track=(name,), **SMALL)
    assert not (tmp_path / "run").exists()


def test_the_energy_of_all_sessions_is_in_the_card(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "final_emissions_data", types.SimpleNamespace(energy_consumed=0.25), raising=False)
    fake = Fake("codecarbon")
    monkeypatch.setitem(sys.modules, "codecarbon", fake)
    card = tmp_path / "run" / "model" / "README.md"
    for images, energy in ((16, 0.25), (32, 0.5)):
        ganvas.train(two_classes, tmp_path / "run", images=images, track=("energy",), **SMALL)
        assert json.loads((tmp_path / "run" / "energy.json").read_text()) == {"kwh": energy}
        assert f"{energy} kWh" in card.read_text()
    assert [name for name, *_ in fake.calls] == ["OfflineEmissionsTracker", "start", "stop"] * 2
    (tmp_path / "run" / "energy.json").write_text("[")
    ganvas.train(two_classes, tmp_path / "run", images=48, **SMALL)
    assert "not recorded" in card.read_text()
