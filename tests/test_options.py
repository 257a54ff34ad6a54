"""The options of the commands are those of the functions: names, bounds, files of options, --json, --quiet, help."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ganvas
from conftest import TINY, Command
from ganvas import cli, config, presets
from ganvas.config import DataConfig, TrainConfig, TrainOptions
from ganvas.errors import ConfigError
from ganvas.fields import choices, hints_of, meanings, owners
from ganvas.losses import LOSSES
from ganvas.models import MODELS
from ganvas.options import Train
from ganvas.run import Run
from ganvas.run_config import RunConfig

SMALL = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 2, "device": "cpu", "quiet": True}


# One place for the options


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_and_function_have_the_same_options_with_a_meaning(name: str) -> None:
    command = cli.COMMANDS[name]
    assert set(hints_of(command.options)) == set(meanings(command.options))
    module, _, function = command.function.rpartition(".")
    found = getattr(__import__(f"ganvas.{module}", fromlist=[function]), function)
    assert list(inspect.signature(found).parameters) == list(inspect.signature(command.options).parameters)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("sample run --n 4 --grid --label a", {"source": "run", "n": 4, "grid": True, "label": "a"}),
        ("mix run --seeds 3,8 --out m.png", {"source": "run", "seeds": "3,8", "out": "m.png"}),
        ("report one two", {"runs": ["one", "two"]}),
        ("train x --from y --no-conditional --classes a b", {"start_from": "y", "conditional": False}),
        ("train x --start-from y --size 64 --track tensorboard", {"size": "64", "track": ("tensorboard",)}),
        ("interpolate run --no-loop --fps 12", {"loop": False, "fps": 12}),
        ("project run face.png --steps 9", {"image": "face.png", "steps": 9}),
    ],
)
def test_a_command_line_is_a_call(words: str, asked: dict) -> None:
    _, found, as_json = cli.parse(words.split())
    assert {name: getattr(found, name) for name in asked} == asked and not as_json


def test_names_in_the_help_are_those_of_the_registries() -> None:
    """They are read from the source where torch is not imported, and from the registry where it is."""
    code = "from ganvas.config import LossName, ModelName; from ganvas.fields import choices; import sys"
    code += "; print(*choices(ModelName), *choices(LossName)); assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    added_by_tests = ("exponential", "tiny", "copy")
    assert said.split() == [name for name in [*MODELS, *LOSSES] if name not in added_by_tests]
    assert choices(config.ModelName) == (*MODELS,)
    for preset in presets.PRESETS.values():
        TrainOptions(**preset.options)


def test_a_complete_configuration_has_no_open_choice() -> None:
    """Only the budget and what the session decides itself may be None."""
    empty = {name for name, value in vars(TrainConfig()).items() if value is None}
    assert empty == {"minutes", "images", "epochs", "preset", "model_size", "device", "micro_batch", "workers"}
    assert set(hints_of(TrainConfig)) == set(hints_of(TrainOptions))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minuets": 3}, "unknown option minuets, did you mean 'minutes'"),
        ({"lr": 0}, "--lr 0: expected a number above 0"),
        ({"beta1": 1.5}, "--beta1 1.5: expected a number from 0 to 1"),
        ({"batch": "many"}, "--batch many: expected a number above 0"),
        ({"optimizer": "adm"}, "--optimizer adm: expected one of adam, adamw, rmsprop, sgd, did you mean 'adam'"),
        ({"track": ("tensorbord",)}, "--track tensorbord: expected one of tensorboard"),
        ({"holdout": 0.7}, "--holdout 0.7: expected a number from 0 to 0.5"),
        ({"preset": "poet"}, "--preset poet: expected one of mlp64"),
    ],
)
def test_wrong_options_in_python_are_one_sentence(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ganvas.train("digits", tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())


def test_help_is_in_groups_and_shows_no_none(ganvas_command: Command) -> None:
    out = ganvas_command("train", "--help").out
    places = [out.index(f" {word} ") for word in ("options", "image options", "training options", "expert options")]
    assert places == sorted(places)
    assert out.index("--minutes") < places[3] < out.index("--beta1")
    for name in cli.COMMANDS:
        text = ganvas_command(*name.split(), "--help").out
        assert "None" not in text and "--no-no-" not in text and "--no-grid" not in text, name


# Files of options


def test_a_file_of_options_is_written_edited_and_used(
    ganvas_command: Command, two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ganvas_command("init", "--source", two_classes, "--out", "run.toml").out == "run.toml\n"
    text = Path("run.toml").read_text()
    assert tomllib.loads(text) == {"source": str(two_classes), "minutes": 10}
    names = set(re.findall(r"^(?:# )?(\w+) = ", text, re.M))
    assert names == set(hints_of(Train)) - {"config", "dry_run", "quiet", "callbacks"}
    everything = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M))  # every line is TOML
    assert everything["features_lead"] == 0.4

    options = [f"{name} = {json.dumps(value)}" for name, value in SMALL.items() if name != "quiet"]
    Path("run.toml").write_text(
        "\n".join([f'source = "{two_classes}"', 'classes = ["lying"]', "images = 16", *options])
    )
    answer = ganvas_command("train", "--config", "run.toml", "--out", "one", "--images", 32)
    assert answer.code == 0 and "12 images of 16x16x1" in answer.err, answer.err
    assert Run(Path("one")).config().asked.images == 32  # the command line wins

    assert cli.parse(["train", "--config=run.toml", "--minutes", "3"])[1].budget == "3 minutes"  # not two budgets

    again = ganvas.train(config="one/config.json", out="two", seed=3, quiet=True)  # ty: ignore[missing-argument]
    assert again.images_seen == 32
    first, second = (Run(Path(name)).config() for name in ("one", "two"))
    assert second.asked == dataclasses.replace(first.asked, seed=3) and second.data.hash == first.data.hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("minuets = 3", "unknown option 'minuets', did you mean 'minutes'"),
        ("minutes = 'ten'", "minutes = 'ten' has the wrong type"),
        ("minutes = ", "is not a valid TOML file"),
        ("lr = -1", "--lr -1: expected a number above 0"),
        ("dry_run = true", "unknown option 'dry_run'"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_of_options_is_one_sentence(
    ganvas_command: Command, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_text(content)
    answer = ganvas_command("train", "digits", "--config", path)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err
    with pytest.raises(ConfigError, match=re.escape(message)):
        ganvas.train("digits", config=path)


def test_an_existing_file_is_kept(ganvas_command: Command, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("mine")
    assert "exists" in ganvas_command("init", "--out", tmp_path / "run.toml").err
    assert (tmp_path / "run.toml").read_text() == "mine"


def test_runs_of_earlier_versions_still_open(trained: Path) -> None:
    """Their config.json has options that are gone, null for later ones, and tensorboard instead of track."""
    path = trained / "config.json"
    record = json.loads(path.read_text())
    old = record["train"] | {"ema_ramp": 0.2, "tensorboard": True, "lr_d": None}
    for part, names in ((old, ("track", "features_lead")), (record["data"], ("fingerprint", "levels", "labels"))):
        for name in names:
            del part[name]
    found = RunConfig.from_dict(record | {"train": old}, "config.json")
    assert found.train.track == ("tensorboard",) and found.train.features_lead == 0.4 and found.train.batch == 16
    assert found.data.levels == [] and found.data.options == Run(trained).config().data.options
    with pytest.raises(ConfigError, match=r"config\.json is damaged: batch is 'x'"):
        RunConfig.from_dict(record | {"train": {**record["train"], "batch": "x"}}, "config.json")


def test_what_is_written_about_a_run_is_what_is_read(trained: Path) -> None:
    path = trained / "config.json"
    assert Run(trained).config().to_dict() == json.loads(path.read_text())


# The command line itself


def test_version_and_unknown_commands(ganvas_command: Command) -> None:
    assert ganvas_command("--version").out == f"ganvas {ganvas.__version__}\n"
    for words, message in ((["trian", "x"], "'train'"), (["data", "chek"], "'data check'"), (["hub"], "hub push")):
        answer = ganvas_command(*words)
        assert answer.code == 2 and message in answer.err and "ganvas --help" in answer.err.replace("COMMAND ", "")
    assert "--minutes" in ganvas_command("train", "x", "--minuets", 3).err  # tyro's suggestion


def test_json_and_quiet(ganvas_command: Command, trained: Path, two_classes: Path, tmp_path: Path) -> None:
    def value(*words: object) -> typing.Any:
        answer = ganvas_command(*words, "--json", "--quiet")
        assert answer.code == 0 and not answer.err, answer.err
        return json.loads(answer.out)

    assert value("sample", trained, "--n", 2, "--out", tmp_path / "s") == [
        str(tmp_path / "s" / f"seed00000{i}_{name}.png") for i, name in enumerate(("lying", "standing"))
    ]
    found = value("train", two_classes, "--out", tmp_path / "run", "--images", 16, *TINY)
    assert found["folder"] == str(tmp_path / "run") and found["images_seen"] == 16 and found["signal"] == 0
    assert value("data", "check", two_classes)["num_images"] == 24
    assert value("data", "list")["digits"] and value("doctor")[0].startswith("ganvas ")


def test_completion_scripts_know_commands_and_options(ganvas_command: Command) -> None:
    script = ganvas_command("--tyro-print-completion", "bash").out
    assert "interpolate" in script and "--truncation" in script and "--beta1" in script


# Images that anything made


def test_a_folder_of_images_is_evaluated_against_another(
    ganvas_command: Command, tmp_path: Path, short_classifiers: None
) -> None:
    rng = np.random.default_rng(0)
    for folder, level in (("real", 128), ("made", 128), ("dark", 30)):
        for i in range(60):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = rng.normal(level, 30, (5, 5)).clip(0, 255).astype(np.uint8)  # enlarged to 8x8, the smallest size
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    words = ("--against", tmp_path / "real", "--features", "random", "--device", "cpu")
    answer = ganvas_command("evaluate", tmp_path / "made", *words)
    assert answer.code == 0 and "KID" in answer.out and "60 generated images" in answer.out, answer.err
    made = json.loads((tmp_path / "made-evaluation" / "evaluation.json").read_text())
    assert (tmp_path / "made-evaluation" / made["grids"]["generated"]).is_file()
    assert len(list((tmp_path / "made").iterdir())) == 60  # nothing is written beside the images
    options = {"against": tmp_path / "real", "features": "random", "device": "cpu", "quiet": True}
    dark = ganvas.evaluate(tmp_path / "dark", out=tmp_path / "result", n=30, **options)
    assert dark.measure("kid").value > 10 * abs(ganvas.Evaluation.from_dict(made).measure("kid").value)
    assert "KID" in repr(dark) and "<table>" in dark._repr_html_()
    for wrong, message in (({"n": 99}, "only 60 generated images"), ({"data": "x"}, "--data works with a run")):
        with pytest.raises(ConfigError, match=message):
            ganvas.evaluate(tmp_path / "made", **options, **wrong)
    with pytest.raises(ConfigError, match="--size works with --against only"):
        ganvas.evaluate(tmp_path / "made", size=64)


@pytest.mark.usefixtures("short_classifiers")
def test_generated_classes_are_compared_where_their_names_agree(tmp_path: Path, two_classes: Path) -> None:
    import shutil

    for place in ("real", "made"):
        for copy in range(3):
            for path in two_classes.rglob("*.png"):
                target = tmp_path / place / path.parent.name / f"{copy}{path.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    options = {"features": "random", "device": "cpu", "quiet": True}
    found = ganvas.evaluate(tmp_path / "made", against=tmp_path / "real", **options)
    assert found.grids.per_class and found.classes.agreement is not None
    assert found.model.model == "images" and found.protocol.seed is None


def test_importing_the_options_needs_no_torch() -> None:
    code = "import ganvas.options, ganvas.cli, sys; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_of_the_data_are_not_those_of_experts() -> None:
    assert owners(Train)["size"] is DataConfig and owners(Train)["lr"] is TrainOptions
    assert {field.name for field in dataclasses.fields(DataConfig)} <= set(hints_of(Train))
