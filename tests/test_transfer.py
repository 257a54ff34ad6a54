"""Starting from another run: what is taken over, what is adapted, what is refused; and the other ways to begin."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ganvas
from conftest import Command
from ganvas.config import DataConfig, ModelConfig, TrainConfig, TrainOptions
from ganvas.data import open_pack
from ganvas.data.batches import Batches
from ganvas.errors import CheckpointError, ConfigError, RunError
from ganvas.models import build
from ganvas.records import read_log
from ganvas.run import Run, read_checkpoint
from ganvas.system.device import choose_device
from ganvas.system.files import write_json
from ganvas.training.plan import plan
from ganvas.training.snapshots import WIDTHS, Snapshots
from ganvas.training.state import TrainState
from ganvas.training.transfer import Origin, fit, open_origin, take_over

SMALL = {"size": 16, "base": 8, "z_dim": 8, "batch": 8, "previews": 1, "device": "cpu", "quiet": True}


def newest(folder: Path) -> dict:
    return read_checkpoint(Run(folder).saved()[-1].path)


@pytest.fixture(scope="module")
def colour(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bars of `two_classes` as 32x32 colour images."""
    folder = tmp_path_factory.mktemp("colour")
    for path in two_classes.rglob("*.png"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        with Image.open(path) as image:
            Image.merge("RGB", [image.resize((32, 32)), image.resize((32, 32)), Image.new("L", (32, 32))]).save(
                folder / path.parent.name / path.name
            )
    return folder


def state_for(source: Path, **options: object) -> TrainState:
    size = str(options.pop("size", 16))
    pack = open_pack(source, DataConfig(size=size))
    device = choose_device("cpu")
    planned = plan(pack, TrainOptions(images=8, batch=8, device="cpu", **options), device)  # ty: ignore
    return TrainState(planned.model, planned.config, Batches(pack, 8), device)


# Tensors.


@pytest.mark.parametrize(("places", "before", "after"), [(1, 1, 3), (4, 1, 3), (1, 3, 1), (4, 3, 1)])
def test_channels_of_the_last_layer_give_the_same_gray(places: int, before: int, after: int) -> None:
    theirs, mine = torch.randn(before * places, 5, 3, 3), torch.zeros(after * places, 5, 3, 3)
    fitted = fit(theirs, mine, (before, after))
    assert fitted is not None and fitted.shape == mine.shape
    first, second = (t.unflatten(0, (n, places)).mean(0) for t, n in ((theirs, before), (fitted, after)))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(("places", "before", "after"), [(1, 1, 3), (4, 1, 3), (1, 3, 1), (4, 3, 1)])
def test_channels_of_the_first_layer_see_a_gray_picture_alike(places: int, before: int, after: int) -> None:
    theirs, mine = torch.randn(6, before * places, 3, 3), torch.zeros(6, after * places, 3, 3)
    fitted = fit(theirs, mine, (before, after))
    assert fitted is not None and fitted.shape == mine.shape
    picture = torch.randn(1, 1, places, 8, 8)
    seen = [
        torch.conv2d(picture.expand(1, n, places, 8, 8).flatten(1, 2), weight)
        for n, weight in ((before, theirs), (after, fitted))
    ]
    torch.testing.assert_close(*seen)


def test_grids_are_resampled_and_everything_else_is_left() -> None:
    flat = fit(torch.full((5, 4, 4), 2.0), torch.zeros(5, 7, 6), (1, 1))
    assert flat is not None and flat.shape == (5, 7, 6)
    torch.testing.assert_close(flat, torch.full_like(flat, 2.0))
    weight = fit(torch.full((5, 1, 4, 4), 2.0), torch.zeros(5, 1, 8, 8), (1, 1))
    assert weight is not None and weight.sum().item() == pytest.approx(5 * 16 * 2)
    assert fit(torch.zeros(4, 3), torch.zeros(4, 3, 1), (1, 1)) is None
    assert fit(torch.zeros(4, 3), torch.zeros(5, 3), (1, 1)) is None
    assert fit(torch.zeros(4, 3, 3, 3), torch.zeros(5, 6, 3, 3), (1, 3)) is None


@pytest.mark.parametrize("model", ["compact", "residual"])
def test_the_same_network_is_taken_over_whole(model: str, two_classes: Path) -> None:
    state = state_for(two_classes, model=model, base=16, z_dim=8)
    torch.manual_seed(9)
    generator, discriminator = build(state.model)
    origin = Origin(Path("run"), state.model, generator.state_dict(), discriminator.state_dict())
    lines = take_over(state, origin)
    for mine, theirs in ((state.generator, generator), (state.discriminator, discriminator)):
        assert all(torch.equal(tensor, mine.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    assert all(torch.equal(t, state.ema.average.state_dict()[name]) for name, t in generator.state_dict().items())
    assert all("copied" in line and "adapted" not in line and "new weights" not in line for line in lines)


@pytest.mark.parametrize("model", ["compact", "residual"])
def test_gray_to_colour_and_small_to_large_keeps_what_it_can(model: str, colour: Path) -> None:
    state = state_for(colour, model=model, base=16, z_dim=8, size=64)
    small = ModelConfig(model, 32, 32, 1, state.model.num_classes, 8, 32, 0, state.model.blocks)
    torch.manual_seed(9)
    generator, discriminator = build(small)
    lines = take_over(state, Origin(Path("run"), small, generator.state_dict(), discriminator.state_dict()))
    assert all("copied" in line and "start from new weights" in line for line in lines)
    coarse = {"compact": "stages.0.up.weight", "residual": "blocks.1.0.expand.weight"}[model]
    assert torch.equal(state.generator.state_dict()[coarse], generator.state_dict()[coarse])
    # The discriminator's stages are counted from the fine end: what was the finest is now the second finest.
    if model == "residual":
        before, after = (f"blocks.{i}.0.expand.weight" for i in (2, 3))
        assert torch.equal(state.discriminator.state_dict()[after], discriminator.state_dict()[before])


def test_gray_to_colour_of_one_size_keeps_everything(colour: Path) -> None:
    state = state_for(colour, model="compact", base=16, z_dim=8, size=32)
    gray = dataclasses.replace(state.model, channels=1)
    generator, discriminator = build(gray)
    lines = take_over(state, Origin(Path("run"), gray, generator.state_dict(), discriminator.state_dict()))
    assert all("adapted" in line and "anew" not in line for line in lines)
    z, labels = torch.randn(2, 8), torch.tensor([0, 1])
    drawn = state.generator(z, labels)
    torch.testing.assert_close(drawn, generator(z, labels).expand(-1, 3, -1, -1))
    torch.testing.assert_close(state.discriminator(drawn, labels), discriminator(drawn[:, :1], labels))


@pytest.mark.parametrize(
    ("model", "before", "after", "base"),
    [
        ("compact", 32, 64, 8),
        ("light", 32, 64, 8),
        ("light", 64, 128, 16),
        ("light", 64, 800, 16),
        ("light", 48, 96, 16),
    ],
)
def test_the_widths_of_coarse_grids_match(model: str, before: int, after: int, base: int) -> None:
    config = ModelConfig(model, before, before, 3, z_dim=8, base=16)
    assert Origin(Path("run"), config, {}, None).options(after)["base"] == base


# Runs.


def test_a_run_begins_where_another_ended_and_records_it(
    two_classes: Path, trained: Path, tmp_path: Path, ganvas_command: Command
) -> None:
    out = tmp_path / "run"
    command = ["train", two_classes, "--size", 16, "--from", trained, "--out", out, "--images", 16, "--lr", 1e-9]
    command += ["--batch", 16, "--previews", 1, "--device", "cpu", "--ema", 0]
    answer = ganvas_command(*command)
    assert answer.code == 0, answer.err
    assert "same as in the start run" in answer.err and "copied" in answer.err
    before, after = newest(trained)["ema"], newest(out)["generator"]
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
    assert json.loads((out / "config.json").read_text())["start"] == str(trained.resolve())
    assert "finished" in ganvas_command(*command).err  # the same command again resumes


def test_from_a_model_folder_the_discriminator_starts_anew(
    two_classes: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = {**SMALL, "quiet": False}
    ganvas.train(two_classes, tmp_path / "run", images=16, start_from=trained / "model", **options)
    assert "discriminator: not in" in capsys.readouterr().err


def test_what_cannot_be_started_from_is_refused_in_a_sentence(two_classes: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'compact' network and this run is 'residual'"):
        ganvas.train(two_classes, tmp_path / "a", images=16, start_from=trained, model="residual", **SMALL)
    with pytest.raises(ConfigError, match="almost no tensor of its generator fits"):
        ganvas.train(two_classes, tmp_path / "b", images=16, start_from=trained, **(SMALL | {"base": 40, "z_dim": 5}))
    with pytest.raises(CheckpointError, match="does not exist"):
        ganvas.train(two_classes, tmp_path / "c", images=16, start_from=tmp_path / "nowhere", **SMALL)
    with pytest.raises(RunError, match="started from new weights"):
        ganvas.train(two_classes, trained, images=48, start_from=tmp_path, **(SMALL | {"batch": 16, "previews": 2}))
    assert open_origin(trained).model.model == "compact"


# The gamma probe.


@pytest.mark.parametrize(
    ("model", "state"),
    [
        ({"base": 10**9}, None),
        ({"blocks": 10**6}, None),
        ({"height": "16"}, None),
        ({}, []),
        ({}, {"ema": 3, "discriminator": {}}),
        ({}, {"ema": {}}),
        ({}, {"ema": {"norm.gain": "text"}, "discriminator": {}}),
    ],
)
def test_a_crafted_run_is_refused_in_a_sentence(model: dict, state: object, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "crafted")
    run = Run(tmp_path / "crafted")
    config = run.config().to_dict()
    config["model"] |= model
    write_json(run.folder / "config.json", config)
    if state is not None:
        run.save_checkpoint(state, 10**6, 1)  # ty: ignore[invalid-argument-type]
    with pytest.raises(RunError, match="crafted"):
        open_origin(run.folder)


def test_probe_tries_three_weights_and_says_which_was_best(
    two_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    ganvas.train(two_classes, out, images=320, probe_gamma=True, **(SMALL | {"quiet": False}))
    said = capsys.readouterr().err
    record = json.loads((out / "config.json").read_text())
    gammas = [0.005, 0.05, 0.5]
    assert all(f"probe: r1 {gamma:g} scores" in said for gamma in gammas)
    assert record["train"]["r1"] in gammas and record["train"]["r2"] == record["train"]["r1"]
    assert record["reasons"]["r1"].startswith("probed: 0.005 scores")
    scores = [float(part.split()[-1]) for part in record["reasons"]["r1"].removeprefix("probed: ").split(",")]
    assert record["train"]["r1"] == gammas[int(np.argmin(scores))]
    assert newest(out)["counters"]["images_seen"] == 320


# Averages of any width.


def test_average_of_another_width_is_a_model(two_classes: Path, tmp_path: Path, ganvas_command: Command) -> None:
    run, out = tmp_path / "run", tmp_path / "wide"
    ganvas.train(two_classes, run, images=160, snapshots=5, **SMALL)
    assert len(list((run / "averages").iterdir())) == 10
    answer = ganvas_command("average", run, "--width", 0.2, "--out", out)
    assert answer.code == 0, answer.err
    wide, kept = ganvas.Generator.load(out), ganvas.Generator.load(run)
    assert wide.sample(2).shape == (2, 1, 16, 16) and not torch.equal(wide.sample(2), kept.sample(2))
    stored = ganvas.Generator.load(run / "averages" / "000000000160-0.1")
    ganvas_command("average", run, "--width", 0.1, "--out", tmp_path / "same")
    torch.testing.assert_close(ganvas.Generator.load(tmp_path / "same").sample(2), stored.sample(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("pairs", "due"), [(0, True), (1, True), (2, False), (3, False)])
@pytest.mark.parametrize("interrupted", [False, True])
def test_snapshots_that_were_due_when_a_run_stopped_are_written_after_it(
    tmp_path: Path, pairs: int, interrupted: bool, due: bool
) -> None:
    for i in range(pairs):
        for width in WIDTHS:
            stored_average(tmp_path, i, width)
    if interrupted:
        stored_average(tmp_path, pairs, WIDTHS[0])
    snapshots = Snapshots(Run(tmp_path), TrainConfig(snapshots=4))
    assert snapshots.due(0.6) is due
    assert len(list(tmp_path.glob("averages/*/config.json"))) == pairs * len(WIDTHS)


def stored_average(run: Path, images: int, width: float) -> None:
    folder = run / "averages" / f"{images:012d}-{width:g}"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()


def test_average_without_snapshots_or_of_no_width_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--snapshots"):
        ganvas.average(trained, out=tmp_path / "out", width=0.1)
    with pytest.raises(ConfigError, match=r"--width 0\.5: expected a number from 0\.01"):
        ganvas.average(trained, out=tmp_path / "out", width=0.5)
    assert not (tmp_path / "out").exists()


def test_adaptive_augmentation_moves_and_is_logged(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganvas.training.state.TARGET", 0.0)
    ganvas.train(two_classes, tmp_path / "run", images=320, adaptive=True, **SMALL)
    values = [record["augment"] for record in read_log(tmp_path / "run") if "augment" in record]
    assert values[0] < values[-1] <= 0.8
