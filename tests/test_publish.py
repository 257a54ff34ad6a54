"""A published folder: complete, within limits, its own and no other, without an image that may not be shown."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganvas import models
from ganvas.config import ModelConfig
from ganvas.errors import ConfigError, GanvasError, RunError
from ganvas.generator import Generator
from ganvas.image_files import grid, save_png
from ganvas.model_file import WEIGHTS, ModelInfo
from ganvas.provenance import read_provenance
from ganvas.share import publish
from ganvas.system import files
from test_card import EVIL, Page, judged
from test_report import change_config, judge

ALWAYS = {"README.md", "training.gif", "samples.png", "samples-truncated.png", "model/config.json", "model/README.md",
          f"model/{WEIGHTS}", publish.PUBLISH_MARK}  # fmt: skip
REAL = {"real.png", "generated.png", "closest.png"}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a real run that was never judged."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    return folder


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in names(out)}


def text_of(out: Path) -> str:
    return (out / "README.md").read_text(encoding="utf-8")


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


# -- complete --


def test_a_run_that_was_not_judged(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert publish.publish(run, out) == out / "README.md"
    assert names(out) == ALWAYS
    text = text_of(out)
    assert "Uncurated: all seeds from 0 to 19" in text
    assert "One row per class: lying, standing." in text
    assert "synthetic" in text and "Not evaluated" in text and "No real images are shown" in text
    assert "pip install ganvas\nganvas sample model --n 16 --out samples" in text
    assert str(run.parent) not in text


def test_what_was_measured_is_told_with_intervals(run: Path, tmp_path: Path) -> None:
    judged(run)
    publish.publish(run, tmp_path / "out")
    assert names(tmp_path / "out") == ALWAYS | {"evaluation.json"}
    text = text_of(tmp_path / "out")
    assert "| KID ↓ | 0.1235 | 0.1195 to 0.1275 | −0.0012 | biased: few |" in text
    assert "1 of 20 is a copy." in text


def test_an_evaluation_of_other_weights_is_not_told(run: Path, tmp_path: Path) -> None:
    judge(run)
    publish.publish(run, tmp_path / "out", data_licence="CC BY 4.0")
    assert names(tmp_path / "out") == ALWAYS
    assert "these weights were not evaluated" in text_of(tmp_path / "out")


def test_every_link_leads_to_a_file_of_the_folder(run: Path, tmp_path: Path) -> None:
    judged(run)
    out = tmp_path / "out"
    publish.publish(run, out, data_licence="CC BY 4.0")
    found = links(text_of(out))
    assert {"training.gif", "samples.png", "samples-truncated.png", "real.png", "model/README.md"} <= set(found)
    assert all((out / one).is_file() for one in found)
    assert set(found) | {"README.md", publish.PUBLISH_MARK} == names(out)


def test_the_model_loads_and_makes_the_samples(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish.publish(run, out)
    here, there = Generator.load(run, "cpu"), Generator.load(out / "model", "cpu")
    assert here.hash == there.hash and torch.equal(here.sample(2), there.sample(2))
    found = read_provenance(out / "samples.png")
    assert found is not None and found["model"] == here.hash and found["recipe"]["truncation"] == 1


def test_samples_are_the_first_seeds(run: Path, tmp_path: Path) -> None:
    """Cell (row, column) of the grid is the seed row * columns + column of the row's class."""
    out = tmp_path / "out"
    publish.publish(run, out)
    generator = Generator.load(run, "cpu")
    shape = publish.layout(16, 16, 2)
    number = shape.columns + 1  # the second image of the second class
    expected = ((generator.sample(1, number, label="standing")[0, 0].clamp(-1, 1) + 1) * 127.5).round().numpy()
    with Image.open(out / "samples.png") as opened:
        shown = np.asarray(opened)
    times = shown.shape[1] // (shape.columns * 18 + 2)
    cell = shown[::times, ::times][18 + 2 : 18 + 18, 18 + 2 : 18 + 18]
    assert np.abs(cell - expected).max() <= 1


def test_a_run_without_grids_has_no_film(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "samples")
    publish.publish(run, tmp_path / "out")
    assert names(tmp_path / "out") == ALWAYS - {"training.gif"}
    assert "training.gif" not in text_of(tmp_path / "out")


# -- within the limits --


def test_no_file_is_larger_than_hosts_take(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):  # a film of noise: 2 MB at its full size
        sheet = rng.integers(0, 256, (490, 490, 1), np.uint8)
        save_png(run / "samples" / f"{i:012d}.png", sheet)
    judged(run)
    save_png(run / "evaluation" / "real.png", grid(rng.integers(0, 256, (36, 180, 180, 1), np.uint8)))
    publish.publish(run, tmp_path / "out", data_licence="MIT", max_mb=1)
    sizes = {name: len(content) for name, content in contents(tmp_path / "out").items()}
    assert {"training.gif", "real.png"} <= sizes.keys() and max(sizes.values()) <= 1e6
    assert sizes["training.gif"] > 5e5  # the room is used


def test_larger_weights_stay_out_and_the_readme_says_how_to_get_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "LEAST_MB", 0.5)
    config = ModelConfig(model="compact", height=16, width=16, channels=1, num_classes=2, z_dim=8, base=256)
    network, _ = models.build(config)
    Generator(network, ModelInfo(config, ["lying", "standing"])).save(run / "model")
    size = (run / "model" / WEIGHTS).stat().st_size
    assert 5e5 < size < 1e6
    out = tmp_path / "out"
    publish.publish(run, out, max_mb=0.5)
    assert names(out) == ALWAYS - {f"model/{WEIGHTS}"}
    text = text_of(out)
    assert "ganvas hub push RUN owner/name" in text and "git lfs track" in text
    allowed = int(re.search(r"--max-mb (\d+)", text)[1])  # ty: ignore
    publish.publish(run, out, max_mb=allowed)
    assert names(out) == ALWAYS


@pytest.mark.parametrize("limit", [0.5, 0, -1, float("nan"), float("inf")])
def test_a_limit_that_leaves_no_room(run: Path, tmp_path: Path, limit: float) -> None:
    with pytest.raises(ConfigError, match="max-mb"):
        publish.publish(run, tmp_path / "out", max_mb=limit)
    assert not (tmp_path / "out").exists()


# -- real images --


def test_real_pictures_are_shown_where_the_licence_lets_everybody(run: Path, tmp_path: Path) -> None:
    judged(run)
    change_config(run, licence="CC BY 4.0", attribution="A. Photographer")
    publish.publish(run, tmp_path / "out")
    assert names(tmp_path / "out") == ALWAYS | REAL | {"evaluation.json"}
    assert "Real: images of the training data, scaled; CC BY 4.0, A. Photographer." in text_of(tmp_path / "out")
    assert read_provenance(tmp_path / "out" / "real.png") is None  # it is not synthetic


@pytest.mark.parametrize(
    "licence", [None, "none stated", "CC BY-NC 4.0", "CC BY-ND 4.0", "no redistribution, MIT for the code"]
)
def test_no_real_picture_is_shown_otherwise(run: Path, tmp_path: Path, licence: str | None) -> None:
    judged(run)
    change_config(run, licence=licence)
    out = tmp_path / "out"
    publish.publish(run, out)
    assert names(out) == ALWAYS | {"evaluation.json"}
    assert "No real images are shown: the licence of the training data" in text_of(out)


def test_no_name_of_a_training_picture_is_published(run: Path, tmp_path: Path) -> None:
    content = judged(run)
    secret = "Doe_Jane_1970"
    for row in content["copies"]["closest"]:
        row["training"] = f"{secret}.png"
    (run / "evaluation.json").write_text(json.dumps(content))
    publish.publish(run, tmp_path / "out", data_licence="MIT")
    assert not [name for name, one in contents(tmp_path / "out").items() if secret.encode() in one]


def test_a_picture_outside_of_the_run_is_not_published(run: Path, tmp_path: Path) -> None:
    save_png(tmp_path / "private.png", np.zeros((16, 16, 1), np.uint8))
    content = judged(run)
    content["grids"]["real"] = "../private.png"
    (run / "evaluation.json").write_text(json.dumps(content))
    publish.publish(run, tmp_path / "out", data_licence="MIT")
    assert "real.png" not in names(tmp_path / "out")


def test_a_licence_that_contradicts_the_catalogue_is_refused(run: Path, tmp_path: Path) -> None:
    change_config(run, licence="non-commercial research only, no redistribution")
    with pytest.raises(ConfigError, match="the catalogue lists"):
        publish.publish(run, tmp_path / "out", data_licence="MIT")
    assert not (tmp_path / "out").exists()


# -- its own folder --


def test_the_same_call_again_changes_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish.publish(run, out)
    before = contents(out)
    publish.publish(run, out)
    assert contents(out) == before


def test_a_later_call_refreshes_and_takes_away_what_is_no_more(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judged(run)
    publish.publish(run, out, data_licence="CC BY 4.0")
    assert names(out) >= REAL
    publish.publish(run, out)
    assert names(out) == ALWAYS | {"evaluation.json"}


def test_files_of_others_stay(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".git").mkdir(parents=True)
    (out / ".git" / "HEAD").write_text("ref")
    publish.publish(run, out)  # a new repository is as good as an empty folder
    (out / "LICENSE").write_text("mine")
    publish.publish(run, out)
    assert names(out) == ALWAYS | {"LICENSE", ".git/HEAD"}


def test_a_folder_of_other_files_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="other files"):
        publish.publish(run, out)
    assert contents(out) == {"README.md": b"mine"}
    with pytest.raises(ConfigError, match="is a file"):
        publish.publish(run, out / "README.md")


def test_a_file_that_was_changed_by_hand_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish.publish(run, out)
    (out / "README.md").write_text("my own words")
    with pytest.raises(ConfigError, match=r"README\.md was changed"):
        publish.publish(run, out)
    assert text_of(out) == "my own words"
    (out / "README.md").unlink()
    publish.publish(run, out)
    assert names(out) == ALWAYS


def test_a_forged_mark_deletes_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    precious = tmp_path / "precious.txt"
    precious.write_text("x")
    digest = files.sha256(precious)
    files.write_json(out / publish.PUBLISH_MARK, {"files": {"../precious.txt": [digest], str(precious): [digest]}})
    publish.publish(run, out)
    assert precious.read_text() == "x"


@pytest.mark.parametrize("mark", ["{", "[]", '{"files": []}', "{}", "[" * 100_000])
def test_a_damaged_mark_is_named(run: Path, tmp_path: Path, mark: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / publish.PUBLISH_MARK).write_text(mark)
    with pytest.raises(ConfigError, match="damaged"):
        publish.publish(run, out)


def test_a_call_that_was_cut_short_is_taken_up(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    publish.publish(run, out)
    judged(run)
    genuine, written = files.write_atomically, []

    def full(path: Path, write: Any) -> None:
        if len(written) == 5:
            raise GanvasError("no space left")
        written.append(path)
        genuine(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", full)
        with pytest.raises(GanvasError, match="no space"):
            publish.publish(run, out, data_licence="MIT")
    publish.publish(run, out, data_licence="MIT")
    assert names(out) == ALWAYS | REAL | {"evaluation.json"}


def test_a_call_that_was_killed_before_its_mark_is_taken_up(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the folder is there then, and a part of the mark, written by a process that is gone."""
    out = tmp_path / "out"

    def killed(path: Path, write: Any) -> None:
        raise GanvasError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", killed)
        with pytest.raises(GanvasError, match="killed"):
            publish.publish(run, out)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (out / f".{publish.PUBLISH_MARK}.{files.HOST}-{gone.pid}.tmp").write_text("{")
    publish.publish(run, out)
    publish.publish(run, tmp_path / "undisturbed")
    assert names(out) == names(tmp_path / "undisturbed") and not list(out.glob(".*.tmp"))


# -- bad input --


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GanvasError, match="does not exist"):
        publish.publish(tmp_path / "nowhere", tmp_path / "out")
    shutil.copytree(run / "model", tmp_path / "alone")
    with pytest.raises(RunError, match="is not a run"):
        publish.publish(tmp_path / "alone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_name_becomes_markup(run: Path, tmp_path: Path) -> None:
    judged(run, classes=(EVIL, "standing"))
    generator = Generator.load(run, "cpu")
    generator.info = dataclasses.replace(generator.info, classes=[EVIL, "b"])
    generator.save(run / "model")
    config = json.loads((run / "config.json").read_text())
    config["name"] = config["device"] = EVIL
    config["data"] |= {"source": EVIL, "licence": EVIL, "attribution": EVIL}
    (run / "config.json").write_text(json.dumps(config))
    judged_again = json.loads((run / "evaluation.json").read_text())
    judged_again["model"]["weights"] = files.sha256(run / "model" / WEIGHTS)[:8]
    (run / "evaluation.json").write_text(json.dumps(judged_again))
    out = tmp_path / "out"
    publish.publish(run, out)
    page = Page(text_of(out))
    assert not {"script", "iframe", "del", "s"} & set(page.tags)
    assert {value for name, value in page.attributes if name in ("src", "href")} <= names(out)
    assert {name for name, _ in page.attributes} <= {"src", "href", "alt", "class"}
    assert page.text.count(EVIL) >= 6
