"""evaluation/evaluate.py and `ganvas evaluate`, `ganvas report`: a run is judged, and what cannot be is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ganvas
from conftest import Command
from ganvas.config import DataConfig
from ganvas.errors import ConfigError
from ganvas.evaluation.evaluate import evaluate
from ganvas.evaluation.samples import images_of
from ganvas.options import Evaluate
from ganvas.run import Run

pytestmark = pytest.mark.usefixtures("short_classifiers")

TINY = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 2, "device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 260 labelled digits of 16x16 pixels."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    pack = ganvas.open_pack("digits", DataConfig(size="16", limit=260))
    np.savez(path, images=pack.images[..., 0], labels=pack.labels)
    return path


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged") / "run"
    ganvas.train(digits, folder, images=64, **TINY)
    return folder


def test_a_run_is_judged_with_intervals_and_protocol(run: Path, ganvas_command: Command) -> None:
    answer = ganvas_command("evaluate", run, "--n", 60, "--features", "random", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "↓ KID (random)" in answer.out and "95% intervals" in answer.out and "ganvas report" in answer.out
    content = json.loads((run / "evaluation.json").read_text())
    measures = {row["key"]: row for row in content["measures"]}
    wanted = {
        "kid",
        "kid_heldout",
        "kid_second",
        "frechet",
        "precision",
        "recall",
        "density",
        "coverage",
        "alpha_precision",
        "beta_recall",
        "mind",
        "vendi",
    }
    assert wanted | {"accuracy_asked"} == set(measures)
    for row in measures.values():
        assert row["low"] <= row["value"] <= row["high"] and row["meaning"].endswith(".") and row["protocol"]
    assert "60 generated (seed 1000000, truncation 1, EMA weights)" in measures["kid"]["protocol"]
    assert measures["kid"]["value"] > 10 * abs(measures["kid"]["real"])  # 64 images make no digits
    assert content["data"]["num_heldout"] == 26 and content["protocol"]["split"] == "training"
    assert [row["name"] for row in content["classes"]["rows"]] == [str(i) for i in range(10)]
    assert content["copies"]["rate"]["low"] < 0.05 and len(content["copies"]["closest"]) == 12
    assert content["real_or_fake"]["accuracy"]["value"] > 0.8
    assert content["usefulness"] is None  # not asked for
    assert any(finding["severity"] != "ok" for finding in content["artefacts"]["findings"])
    shown = [content["grids"]["real"], content["grids"]["generated"], content["copies"]["closest"][0]["file"]]
    assert all((run / path).is_file() for path in shown)
    assert ganvas_command("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "KID (random)" in page and len(page) < 10e6


def test_a_run_whose_pack_is_gone_packs_again_and_every_step_is_reported(
    run: Path, digits: Path, ganvas_command: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    record = json.loads((copy / "config.json").read_text())
    assert images_of(Run(copy).config().data) == record["data"]["pack"]
    record["data"]["pack"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(record))
    assert images_of(Run(copy).config().data) == record["data"]["source"]
    steps: dict[str, tuple[int, int]] = {}
    asked = Evaluate(copy, n=24, features="random", device="cpu")
    found = evaluate(asked, progress=lambda what, done, total: steps.update({what: (done, total)}))
    assert all(done <= total for done, total in steps.values() if total)
    names = [*steps]
    later = names[names.index("sampling") + 1 :]
    assert steps["features of the samples (random)"] == (24, 24)
    for step in ("computing the measures", "evaluating the classes", "searching for artefacts", "saving the grids"):
        assert step in later

    # A model without its run needs its images, and gives the same measures: nothing is left to chance.
    shutil.copytree(run / "model", tmp_path / "model")
    answer = ganvas_command("evaluate", tmp_path / "model")
    assert answer.code == 2 and "give its training images with --data" in answer.err
    answer = ganvas_command("evaluate", tmp_path / "model", "--data", digits, "--n", 24, "--features", "random")
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "model" / "evaluation.json").read_text())["measures"] == found.to_dict()["measures"]


def test_what_cannot_be_judged_is_one_sentence(run: Path, ganvas_command: Command, tmp_path: Path) -> None:
    other = ganvas.open_pack("digits", DataConfig(size="8"))
    for arguments, words in (
        ((run, "--n", 3), "--n 3: an evaluation needs at least 24 images"),
        ((run, "--features", "vgg"), "there is no feature network 'vgg'"),
        ((run, "--weights", tmp_path / "none.pth", "--features", "inception-clean"), "none.pth"),
        ((tmp_path / "nothing",), "does not exist"),
        ((run / "model", "--data", other.folder), "give its training images"),
    ):
        answer = ganvas_command("evaluate", *arguments)
        assert answer.code == 2 and words in answer.err and answer.err.count("\n") <= 2, (arguments, answer.err)
    (tmp_path / "empty").mkdir()
    assert ganvas_command("report", tmp_path / "empty").code == 2


def test_copies_are_left_out_of_samples(
    run: Path, ganvas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ganvas.evaluation.copies.CopyFinder.is_copy", lambda self, pictures: np.arange(len(pictures)) == 1
    )
    answer = ganvas_command("sample", run, "--n", 4, "--no-copies", "--out", tmp_path / "out")
    assert answer.code == 0 and "3 images" in answer.out and "1 of 4" in answer.err
    assert {path.stem[:10] for path in (tmp_path / "out").glob("*.png")} == {"seed000000", "seed000002", "seed000003"}


def noise(num: int, equal: bool = False) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (num, 16, 16), np.uint8)
    return images[:1].repeat(num, axis=0) if equal else images


@pytest.mark.parametrize(("num", "equal", "held"), [(40, False, 4), (60, True, 0), (219, False, 21)])
def test_few_pictures_are_judged_and_what_they_do_not_allow_is_said(
    num: int, equal: bool, held: int, tmp_path: Path, ganvas_command: Command
) -> None:
    np.save(tmp_path / "few.npy", noise(num, equal))
    ganvas.train(tmp_path / "few.npy", tmp_path / "run", images=32, **TINY)
    with pytest.raises(ConfigError, match="--usefulness needs classes"):
        ganvas.evaluate(tmp_path / "run", n=24, features="random", usefulness=True, device="cpu", quiet=True)
    assert not (tmp_path / "run" / "evaluation").exists()  # it was refused at once
    answer = ganvas_command("evaluate", tmp_path / "run", "--n", 24, "--features", "random", "--device", "cpu")
    assert answer.code == 0, answer.err
    content = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"kid", "kid_second", "frechet", "precision", "vendi"} <= {row["key"] for row in content["measures"]}
    assert content["data"]["num_heldout"] == held and content["artefacts"] and content["real_or_fake"]
    with Image.open(tmp_path / "run" / content["grids"]["generated"]) as grid:
        assert grid.size == (6 * 18 + 2, 4 * 18 + 2)
    assert (content["copies"] is None) == (held < 20)
    if held < 20:
        said = f"Copies: {held or 'no'} images were held out, 20 are needed"
        assert any(said in sentence for sentence in content["left_out"]) and f"not evaluated: {said}" in answer.out
    assert ganvas_command("report", tmp_path / "run").code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("Not evaluated.</strong> Copies: " in page) == (held < 20) and "real None" not in page


@pytest.mark.parametrize("counts", [[60, 30, 10, 1, 1, 1, 1, 1], [2] * 30])
def test_rare_classes_do_not_take_the_evaluation_along(counts: list[int], tmp_path: Path) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    np.savez(tmp_path / "tail.npz", images=noise(len(labels)), labels=labels)
    ganvas.train(tmp_path / "tail.npz", tmp_path / "run", images=32, **TINY)
    content = ganvas.evaluate(tmp_path / "run", n=24, features="random", usefulness=True, device="cpu", quiet=True)
    assert content.usefulness is None and any(said.startswith("Usefulness: class ") for said in content.left_out)
    assert content.classes and content.classes.modes.of == len(counts)
    assert np.isfinite(content.classes.modes.divergence.value)


@pytest.mark.parametrize(
    ("num", "equal", "words"),
    [
        (3, False, "3 images are too few to learn from"),
        (30, False, "With no held-out images, copies cannot be distinguished"),
        (60, True, "0 of 6 images were held out: the others have near duplicates"),
    ],
)
def test_few_pictures_are_named_before_the_training(num: int, equal: bool, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", noise(num, equal))
    assert any(words in note for note in ganvas.open_pack(tmp_path / "few.npy").notes)
