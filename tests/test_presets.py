"""Classic presets, objectives and architectures from the command line: each trains and resumes, or says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ganvas
from conftest import Answer, Command
from ganvas.presets import PRESETS
from ganvas.run import Run, read_checkpoint

FAST = ("--images", 4, "--batch", 4, "--previews", 1, "--device", "cpu")


@pytest.fixture
def train(ganvas_command: Command, two_classes: Path, tmp_path: Path):
    """Trains on the two classes of bars in a new run folder."""

    def call(*options: object, fails: bool = False) -> Answer:
        answer = ganvas_command("train", two_classes, "--out", tmp_path / "run", *options)
        assert (answer.code == 2) if fails else (answer.code == 0), answer.err
        assert "Traceback" not in answer.err
        return answer

    return call


def record(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "run" / "config.json").read_text())


@pytest.mark.parametrize(
    ("preset", "size", "shape"),
    [
        ("mlp64", 16, (16, 16, 3)),
        ("tf-mnist", None, (28, 28, 1)),
        ("mnist-upsample", None, (28, 28, 1)),
        ("cifar10", None, (32, 32, 3)),
        ("celeba", 16, (16, 16, 3)),
        ("xray800", 32, (32, 32, 1)),
        ("dcgan", 20, (20, 20, 1)),
    ],
)
def test_every_preset_trains_by_one_command(train, tmp_path: Path, preset: str, size: int | None, shape) -> None:
    answer = train("--preset", preset, *FAST, *(("--size", size) if size else ()))
    assert f"preset {preset}" in answer.err
    found = record(tmp_path)
    model = found["model"]
    assert (model["height"], model["width"], model["channels"]) == shape and model["num_classes"] == 0
    options = PRESETS[preset].options | {"batch": 4}
    assert options.items() <= found["train"].items()
    generator = ganvas.Generator.load(tmp_path / "run")
    assert generator.sample(2).shape == (2, shape[2], *shape[:2])
    state = read_checkpoint(Run(tmp_path / "run").saved()[-1].path)
    for name, tensor in state["generator"].items():  # no average of the weights
        assert torch.equal(state["ema"][name], tensor), name


def test_a_finished_preset_is_left_alone(train) -> None:
    options = ("--preset", "mlp64", "--size", 16, *FAST)
    train(*options)
    assert "finished" in train(*options).err


def test_presets_define_their_pictures_and_say_so(train) -> None:
    err = train("--preset", "cifar10", "--dry-run", *FAST).err
    assert "preset cifar10 (transposed convolutions without normalisation, 32x32 colour): images of size 32" in err
    assert "channels color" in err
    assert (
        "pictures of"
        not in train("--preset", "dcgan", "--size", 16, "--dry-run", *FAST).err.splitlines()[0].split(":")[-1]
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--preset", "xray800", "--size", 100), "--model xray: the size is 100x100, but both sides must be multiples"),
        (("--preset", "tf-mnist", "--size", 30), "--model tf-mnist: the size is 30x30"),
        (("--preset", "dcgan", "--size", 12), "each side needs at least 16"),
        (("--preset", "cifar10", "--conditional"), "does not support labels"),
        (("--preset", "poem"), "--preset poem: expected one of mlp64"),
        (("--loss", "poem"), "--loss poem: expected one of relativistic"),
        (("--loss", "wasserstein", "--gradient-penalty", 0), "needs a Lipschitz constraint"),
        (("--loss", "hinge", "--label-noise", 0.1), "does not work with --loss hinge"),
        (("--model", "residual", "--update", "joint", "--n-critic", 2), "needs --update alternating"),
        (("--augment", 0.95), "above 0.8"),
        (("--lr-d", -1), "--lr-d -1: expected a number above 0"),
        (("--size", 4), "each side must be between 8"),
    ],
)
def test_what_cannot_work_is_one_sentence(train, tmp_path: Path, options: tuple, sentence: str) -> None:
    answer = train(*options, *FAST, fails=True)
    lines = [line for line in answer.err.splitlines() if line.startswith("ganvas: ")]
    assert len(lines) == 1 and sentence in lines[0], answer.err
    assert not (tmp_path / "run").exists()


def test_unlikely_settings_are_warned_about_and_run(train) -> None:
    answer = train("--preset", "tf-mnist", "--lr", 1e-5, *FAST)
    assert "warning: a learning rate of 1e-05 is too low for Adam" in answer.err


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "style"),
        ("--model", "residual", "--loss", "bce", "--label-noise", 0.05),
        ("--loss", "wasserstein", "--optimizer", "rmsprop", "--lr", 5e-5, "--n-critic", 2),
        ("--loss", "hinge", "--spectral-norm", "--optimizer", "adamw", "--lr-d", 1e-3),
        ("--loss", "least-squares", "--optimizer", "sgd", "--momentum", 0.9),
        ("--loss", "relativistic", "--adaptive"),
        ("--penalty-interval", 1),
        ("--preset", "dcgan", "--micro-batch", 4),
    ],
    ids=lambda options: " ".join(map(str, options[:4])),
)
def test_architectures_and_objectives_train_and_resume_exactly(
    train, two_classes: Path, tmp_path: Path, options: tuple
) -> None:
    """Stopped after half of the images and taken up again: the same as at one go, to the last bit."""
    budget = ("--batch", 8, "--previews", 1, "--device", "cpu", "--warmup", 0, "--decay-from", 1)
    budget += ("--size", 16 if "dcgan" in options else 8, "--base", 8, "--widest", 16)
    whole = tmp_path / "whole"
    train(*options, *budget, "--images", 32)
    (tmp_path / "run").rename(whole)
    train(*options, *budget, "--images", 16)
    train(*options, *budget, "--images", 32)
    states = [read_checkpoint(Run(folder).saved()[-1].path) for folder in (whole, tmp_path / "run")]
    for part in ("generator", "discriminator", "ema"):
        for name, tensor in states[0][part].items():
            assert torch.equal(states[1][part][name], tensor), (part, name)
    assert (
        ganvas.Generator.load(tmp_path / "run")
        .sample(2, label="lying" if "dcgan" not in options else None)
        .isfinite()
        .all()
    )


def test_sixteen_bit_pictures_come_out_with_sixteen_bits(ganvas_command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "films").mkdir()
    for i in range(6):
        pixels = rng.integers(0, 2**16, (16, 16)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "films" / f"{i}.png")
    assert ganvas_command("train", tmp_path / "films", "--out", tmp_path / "run", *FAST, "--base", 8).code == 0
    for form in ("png", "tiff"):
        out = tmp_path / form
        answer = ganvas_command("sample", tmp_path / "run", "--n", 2, "--out", out, "--format", form)
        assert answer.code == 0, answer.err
        with Image.open(out / f"seed000000.{form}") as image:
            pixels = np.asarray(image)
        assert pixels.dtype == np.uint16 and len(np.unique(pixels % 256)) > 20
    grid = tmp_path / "grid.tiff"
    ganvas_command("sample", tmp_path / "run", "--n", 4, "--grid", "--out", grid)
    with Image.open(grid) as image:
        assert image.mode.startswith("I;16")
