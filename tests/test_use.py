"""The verbs that use a trained generator, by the command line: interpolate, mix, directions, project, favourites."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Command
from ganvas import verbs
from ganvas.generator import Generator, to_pixels
from ganvas.provenance import read_provenance
from test_generator import fresh


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run's model that a test may write beside."""
    shutil.copytree(trained / "model", tmp_path / "run" / "model")
    return tmp_path / "run"


def fine(command: Command, *arguments: object) -> list[str]:
    answer = command(*arguments, "--device", "cpu")
    assert answer.code == 0, answer.err
    return answer.out.splitlines()


def refused(command: Command, *arguments: object) -> str:
    answer = command(*arguments, "--device", "cpu")
    assert answer.code == 2 and answer.out == "" and answer.err.count("\n") == 1, answer
    return answer.err


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")).astype(int)


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_a_film_through_seeds_begins_with_the_first(
    ganvas_command: Command, run: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / "deep" / f"morph.{ending}"
    options = ("--seeds", "4,9,2", "--labels", "lying", "--frames", 12, "--enlarge", 1)
    fine(ganvas_command, "interpolate", run, *options, "--out", out)
    with Image.open(out) as film:
        assert film.size == (16, 16) and getattr(film, "n_frames", 1) == 12
        first = np.asarray(film.convert("L")).astype(int)
    expected = to_pixels(Generator.load(run, "cpu").sample(1, 4, "lying"))[0, :, :, 0]
    assert np.abs(first - expected).mean() < (2 if ending == "gif" else 12)  # WebP's images are lossy


def cells_of(sheet: np.ndarray, rows: int, columns: int, side: int) -> list[list[np.ndarray]]:
    """The images of `side` pixels on a sheet with captions: enlarged to 128 pixels, at the lower right."""
    top, left = sheet.shape[0] - rows * 132, sheet.shape[1] - columns * 132
    assert top > 30 and left > 30  # captions
    step = 128 // side
    body = sheet[top:, left:]
    return [[body[132 * y :, 132 * x :][:128:step, :128:step] for x in range(columns)] for y in range(rows)]


def test_a_mixture_stands_below_its_lender_and_can_be_made_again(
    ganvas_command: Command, run: Path, tmp_path: Path
) -> None:
    fine(ganvas_command, "mix", run, "--seeds", "3,8,9", "--depths", "all", "--out", tmp_path / "mix.png")
    cells = cells_of(pixels(tmp_path / "mix.png"), 2, 3, 16)
    generator = Generator.load(run, "cpu")
    for cell, seed in ((cells[0][1], 8), (cells[0][2], 9), (cells[1][0], 3)):
        assert np.abs(cell - to_pixels(generator.sample(1, seed))[0, :, :, 0]).max() <= 1
    assert cells[0][0].min() == 255
    assert np.abs(cells[1][1] - cells[1][0]).mean() > 1
    out = tmp_path / "again"
    fine(ganvas_command, "favourites", run, tmp_path / "mix.json", "--out", out)
    assert np.abs(pixels(out / "favourite0001.png") - cells[1][2]).max() <= 1


def test_directions_are_saved_and_a_favourite_carries_its_own(
    ganvas_command: Command, run: Path, tmp_path: Path
) -> None:
    lines = fine(ganvas_command, "directions", run, "--n", 3)
    assert [line.split()[0] for line in lines] == ["pc1", "pc2", "pc3"]
    assert (run / "model" / "directions.json").is_file()
    assert len(list((run / "model" / "directions").glob("*.png"))) == 3
    fine(ganvas_command, "directions", run, "--n", 2, "--method", "weights")
    known = json.loads((run / "model" / "directions.json").read_text())["directions"]
    assert len(known) == 5  # those from before stay


def test_a_generated_picture_is_found_again(ganvas_command: Command, run: Path, tmp_path: Path) -> None:
    fine(ganvas_command, "sample", run, "--seeds", "5", "--label", "standing", "--out", tmp_path / "one")
    (picture,) = (tmp_path / "one").glob("*.png")
    out = tmp_path / "found"
    fine(ganvas_command, "project", run, picture, "--label", "standing", "--steps", 60, "--out", out)
    fine(ganvas_command, "favourites", run, out / "favourites.json", "--out", tmp_path / "again")
    again, target = pixels(tmp_path / "again" / "favourite0000.png"), pixels(picture)
    other = to_pixels(Generator.load(run, "cpu").sample(1, 6, "standing"))[0, :, :, 0]
    assert np.abs(again - target).mean() < 0.5 * np.abs(other - target).mean()


def test_favourites_are_kept_and_made_again_in_full(ganvas_command: Command, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "lists" / "kept.json"
    fine(ganvas_command, "favourites", run, file, "--keep", "3,7", "--label", "lying", "--truncation", 0.5)
    before = file.read_bytes()
    fine(ganvas_command, "favourites", run, file, "--keep", "7,3,7", "--label", "lying", "--truncation", 0.5)
    assert file.read_bytes() == before  # they are kept already
    fine(ganvas_command, "favourites", run, file, "--keep", "11", "--out", tmp_path / "out", "--format", "tiff")
    paths = sorted((tmp_path / "out").iterdir())
    assert [read_provenance(path)["recipe"] for path in paths] == [  # ty: ignore[not-subscriptable]
        {"seed": 3, "label": "lying", "truncation": 0.5},
        {"seed": 7, "label": "lying", "truncation": 0.5},
        {"seed": 11},
    ]
    film = tmp_path / "kept.gif"
    fine(ganvas_command, "interpolate", run, "--favourites", file, "--frames", 6, "--out", film)
    assert film.is_file()


def test_what_cannot_be_is_one_sentence(ganvas_command: Command, run: Path, tmp_path: Path) -> None:
    other = fresh("residual").save(tmp_path / "other")
    fine(ganvas_command, "favourites", run, tmp_path / "kept.json", "--keep", "3")
    (tmp_path / "broken.json").write_text('{"ganvas": "favourites"')
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out.gif"
    for arguments, words in [
        (("favourites", other, tmp_path / "kept.json", "--out", out), "belongs to the model"),
        (("favourites", run, tmp_path / "broken.json", "--out", out), "damaged or not a favourites file"),
        (("favourites", run, tmp_path / "none.json", "--out", out), "does not exist"),
        (("favourites", run, tmp_path / "new.json", "--keep", "3", "--label", "up"), "lying, standing"),
        (("interpolate", run, "--seeds", "3", "--out", out), "at least two images"),
        (("interpolate", run, "--seeds", "3;4", "--out", out), "numbers and ranges"),
        (("interpolate", run, "--labels", "lying,up", "--out", out), "label 'up' does not exist"),
        (("interpolate", run, "--seeds", "1-3", "--labels", "lying,standing", "--out", out), "one of either"),
        (("interpolate", run, "--out", tmp_path / "film.avi"), "written as .gif, .webp, .mp4, .webm or .mov"),
        (("mix", run, "--seeds", "1,2", "--depths", "9", "--out", out), "coarse, middle, fine"),
        (("mix", run, "--seeds", "1", "--out", out), "at least two --seeds"),
        (("directions", run, "--depth", "77"), "depth 77"),
        (("directions", run, "--method", "labels"), "needs --data"),
        (("project", run, tmp_path / "broken.png", "--out", tmp_path / "p"), "broken.png"),
        (("project", run, tmp_path / "none.png", "--out", tmp_path / "p"), "none.png"),
    ]:
        assert words in refused(ganvas_command, *arguments)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("few_moves")
def test_a_generator_that_copies_is_not_exported(
    ganvas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "GATE_SAMPLES", 60)
    model = fresh().save(tmp_path / "model")
    for name, seeds in (("own", "1000000-1000239"), ("others", "0-239")):
        fine(ganvas_command, "sample", model, "--seeds", seeds, "--out", tmp_path / name)
    gate = ("export", model, "--to", "folder", "--no-copies", "--data")
    answer = ganvas_command(*gate, tmp_path / "own", "--out", tmp_path / "a")
    assert answer.code == 2 and "not exported, because" in answer.err and not (tmp_path / "a").exists()
    answer = ganvas_command(*gate, tmp_path / "others", "--out", tmp_path / "b")
    assert answer.code == 0 and "no sign of copying" in answer.err and (tmp_path / "b").is_dir()
