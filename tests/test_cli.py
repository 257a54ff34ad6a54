"""Every command, from the command line, on tiny real data; and the same from Python in three lines."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ganvas
from conftest import TINY, Answer, Command
from ganvas.run import Run


def fine(answer: Answer) -> Answer:
    assert answer.code == 0, answer.err
    assert "Traceback" not in answer.err
    return answer


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# Help, and what is imported when.


@pytest.mark.parametrize(
    "command", [[], ["train"], ["sample"], ["video"], ["data"], ["data", "check"], ["data", "pack"], ["doctor"]]
)
def test_help(ganvas_command: Command, command: list[str]) -> None:
    answer = fine(ganvas_command(*command, "--help"))
    assert " ".join(["usage: ganvas", *command]) in answer.out and not answer.err
    assert "{None}" not in answer.out and "data-options" not in answer.out


def test_every_option_of_train_has_its_help(ganvas_command: Command) -> None:
    answer = fine(ganvas_command("train", "--help"))
    for option in ("--minutes", "--size", "--labels", "--dry-run", "--out", "--data", "--lr", "--no-compile"):
        assert option in answer.out
    assert "Train for this many minutes" in answer.out and "Image size in pixels" in answer.out


@pytest.mark.parametrize("code", ["import ganvas", "import ganvas.cli", "import ganvas; ganvas.DataConfig(size='64')"])
def test_torch_waits_until_it_is_needed(code: str) -> None:
    check = f"{code}\nimport sys\nassert not {{'torch', 'numpy', 'PIL', 'sklearn'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_data_commands_do_not_import_torch(two_classes: Path, tmp_path: Path) -> None:
    code = ["import sys", "from ganvas.cli import main"]
    for words in (["list"], ["check", str(two_classes)], ["pack", str(two_classes), str(tmp_path / "pack")]):
        code += [f"sys.argv[1:] = ['data', *{words!r}]", "assert not main() and 'torch' not in sys.modules"]
    subprocess.run([sys.executable, "-c", "\n".join(code)], check=True)


def test_the_installed_command_and_the_module_answer() -> None:
    for command in ([Path(sys.executable).with_name("ganvas")], [sys.executable, "-m", "ganvas"]):
        answer = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
        assert "Train GANs on your own images." in answer.stdout and not answer.stderr


# train


def test_train_on_class_folders_then_sample_and_film(
    ganvas_command: Command, two_classes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "mine"
    answer = fine(ganvas_command("train", two_classes, "--out", run, "--images", 64, *TINY))
    assert "24 images of 16x16x1 in 2 classes" in answer.err and "given" in answer.err
    assert f"model  {run / 'model'}" in answer.out and f"ganvas sample {run}" in answer.out
    assert Path(answer.out.splitlines()[0].split(maxsplit=1)[1]).is_file()  # the grid

    answer = fine(ganvas_command("train", two_classes, "--out", run, "--images", 64, *TINY))
    assert "is finished (64 images)" in answer.err

    out = tmp_path / "samples"
    answer = fine(ganvas_command("sample", run, "--n", 5, "--seed", 3, "--label", "standing", "--out", out))
    assert answer.out == f"5 images and manifest.csv in {out}\n"

    answer = fine(ganvas_command("video", run))
    films = [Path(line) for line in answer.out.splitlines()]
    assert {"training.gif", "training.webp"} <= {film.name for film in films} and all(
        film.parent == run for film in films
    )


def test_train_on_mnist_by_name(ganvas_command: Command, shared_data: Path, tmp_path: Path) -> None:
    options = ("--data", shared_data / "mnist", "--images", 32, "--base", 8, "--previews", 2, "--limit", 1000)
    answer = fine(ganvas_command("train", "mnist", "--out", tmp_path / "run", *options))
    assert "1,000 images of 28x28x1 in 10 classes, 100 of them held out, kind digits" in answer.err
    card = (tmp_path / "run/model/README.md").read_text()
    assert "CC BY-SA 3.0" in card and "LeCun" in card and "synthetic" in card
    assert ganvas.Generator.load(tmp_path / "run").classes == [str(i) for i in range(10)]


def test_train_on_digits_goes_to_runs(ganvas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fine(ganvas_command("train", "digits", "--images", 32, *TINY))
    assert Run(tmp_path / "runs" / "digits").saved()


def test_dry_run_shows_the_plan_and_writes_no_run(
    ganvas_command: Command, two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = fine(ganvas_command("train", two_classes, "--dry-run", "--lr", 0.001))
    for part in ("2 classes: labels improve quality", "given", "multiply-adds", "Conv2d", "memory"):
        assert part in answer.err
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_run_plans_with_its_images_and_options(ganvas_command: Command, trained: Path) -> None:
    answer = fine(ganvas_command("train", trained, "--dry-run", "--lr", 0.001))
    for row in (r"24 images of 16x16x1 in 2 classes", r"z_dim +8 +given", r"lr +0\.001 +given", r"batch +16 +given"):
        assert re.search(row, answer.err), answer.err


def test_flags_without_values(ganvas_command: Command, two_classes: Path, tmp_path: Path) -> None:
    answer = fine(ganvas_command("train", two_classes, "--dry-run", "--no-conditional", "--no-compile"))
    assert "2 classes: faster" not in answer.err


# sample


def test_samples_and_their_manifest(ganvas_command: Command, trained: Path, tmp_path: Path) -> None:
    fine(ganvas_command("sample", trained, "--n", 4, "--seed", 10, "--out", tmp_path))
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["label"]) for row in rows] == [
        ("10", "lying"), ("11", "standing"), ("12", "lying"), ("13", "standing"),
    ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.csv", *(row["file"] for row in rows)}
    assert pixels(tmp_path / rows[0]["file"]).shape == (16, 16)


def test_the_same_seed_is_the_same_picture_from_run_folder_and_file(
    ganvas_command: Command, trained: Path, tmp_path: Path
) -> None:
    sources = [trained, trained / "model", trained / "model" / "generator.safetensors"]
    for i, source in enumerate(sources):
        fine(
            ganvas_command("sample", source, "--n", 3 - i, "--seed", i, "--label", "lying", "--out", tmp_path / str(i))
        )
    same = [pixels(tmp_path / str(i) / "seed000002_lying.png") for i in range(3)]
    assert (same[0] == same[1]).all() and (same[0] == same[2]).all()


@pytest.mark.parametrize("name", ["grid.png", "grid"])
def test_one_grid(ganvas_command: Command, trained: Path, tmp_path: Path, name: str) -> None:
    answer = fine(ganvas_command("sample", trained, "--n", 6, "--grid", "--truncation", 0.5, "--out", tmp_path / name))
    assert answer.out.strip() == str(tmp_path / "grid.png")
    assert pixels(tmp_path / "grid.png").shape == (2 * 18 + 2, 3 * 18 + 2)


def test_sixteen_bits_come_out_as_sixteen_bits(ganvas_command: Command, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (20, 16, 16), np.uint16)
    np.savez(tmp_path / "deep.npz", images=images)
    fine(ganvas_command("train", tmp_path / "deep.npz", "--out", tmp_path / "run", "--images", 32, *TINY))
    fine(ganvas_command("sample", tmp_path / "run", "--n", 2, "--out", tmp_path / "out"))
    drawn = pixels(tmp_path / "out" / "seed000000.png")
    assert drawn.dtype == np.uint16 and (drawn % 257 != 0).any()
    with Image.open(tmp_path / "out" / "seed000000.png") as image:
        assert image.mode == "I;16"


# video


def test_films_keep_their_size_limit_and_hold_the_last_frame(
    ganvas_command: Command, trained: Path, tmp_path: Path
) -> None:
    answer = fine(ganvas_command("video", trained, "--out", tmp_path, "--max-mb", 0.1, "--formats", "gif,webp"))
    assert answer.out.split() == [str(tmp_path / "training.gif"), str(tmp_path / "training.webp")]
    assert (tmp_path / "training.gif").stat().st_size <= 100_000
    with Image.open(tmp_path / "training.webp") as film:
        assert film.n_frames == len(Run(trained).grids())  # ty: ignore[missing-attribute]
        film.seek(film.n_frames - 1)  # ty: ignore[missing-attribute]
        film.load()
        assert film.info["duration"] > 2000


# data


def test_data_check_prints_and_saves(ganvas_command: Command, two_classes: Path, tmp_path: Path) -> None:
    answer = fine(ganvas_command("data", "check", two_classes, "--save", tmp_path / "report.json"))
    assert "24 images" in answer.out and "lying 12, standing 12" in answer.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["num_images"] == 24 and report["classes"] == {"lying": 12, "standing": 12}


def test_data_pack_then_train_from_the_pack(ganvas_command: Command, two_classes: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    answer = fine(ganvas_command("data", "pack", two_classes, pack, "--size", "12x20"))
    assert f"24 images of 12x20x1 in {pack}" in answer.out
    assert {path.name for path in pack.iterdir()} == {
        "images.npy",
        "labels.npy",
        "heldout.npy",
        "names.txt",
        "pack.json",
        "checked.json",
    }
    fine(ganvas_command("train", pack, "--out", tmp_path / "run", "--images", 32, *TINY[2:]))
    assert ganvas.Generator.load(tmp_path / "run").sample(1).shape == (1, 1, 12, 20)


def test_data_list(ganvas_command: Command) -> None:
    answer = fine(ganvas_command("data", "list"))
    names = [line.split()[0] for line in answer.out.splitlines()]
    assert {"digits", "mnist", "celeba", "mednist", "face2comics"} <= set(names)


def test_real_zip_of_palette_pictures(ganvas_command: Command, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "comic_faces" / "comic_faces_96_5000.zip"
    options = ("--limit", 40, "--labels", "attributes.csv:backgroundType", "--out", tmp_path / "run")
    answer = fine(ganvas_command("train", source, *options, "--images", 32, *TINY))
    assert "40 images of 16x16x3" in answer.err and "40 of 5000 images were chosen at random with seed 0" in answer.err


# doctor


def test_doctor(ganvas_command: Command) -> None:
    answer = fine(ganvas_command("doctor"))
    for part in (
        f"ganvas {ganvas.__version__}",
        "torch ",
        "device: ",
        "because",
        "precision: ",
        os.environ["GANVAS_CACHE"],
    ):
        assert part in answer.out


# Python


def test_three_lines_of_python(two_classes: Path, tmp_path: Path) -> None:
    run = ganvas.train(two_classes, out=tmp_path / "run", images=32, size=16, base=8, batch=16, quiet=True)
    gan = ganvas.Generator.load(run.folder)
    pictures = gan.sample(3, seed=0, label="lying")
    assert pictures.shape == (3, 1, 16, 16) and pictures.abs().max() <= 1


def test_an_archive_is_read_in_place(ganvas_command: Command, two_classes: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bars.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(two_classes.rglob("*.png")):
            file.write(path, path.relative_to(two_classes))
    fine(ganvas_command("train", archive, "--out", tmp_path / "run", "--images", 32, *TINY))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars.zip", "run"]
