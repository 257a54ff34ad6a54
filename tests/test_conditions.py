"""Conditions: columns of a table, from the table to packs, training, sampling, exports and the evaluation."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.utils.data import DataLoader

import ganvas
from architectures import MODERN
from conftest import TINY, Command
from ganvas.conditions import MOST_COMBINATIONS, Conditions
from ganvas.config import DataConfig, ModelConfig, TrainConfig
from ganvas.data.batches import Batches
from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack
from ganvas.data.reading.sources import open_source
from ganvas.datasets import SyntheticDataset
from ganvas.errors import CheckpointError, ConfigError, DataError, GanvasError
from ganvas.evaluation import condition_agreement
from ganvas.evaluation.condition_agreement import agreement
from ganvas.evaluation.evaluate import Evaluator
from ganvas.evaluation.samples import FromGenerator
from ganvas.explore.recipes import Favourites, Recipe, as_recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.model_file import ModelInfo, labels_in_turn
from ganvas.models import build
from ganvas.models.batch_norm import measure_statistics
from ganvas.models.pretrained import Head
from ganvas.options import Evaluate
from ganvas.share import export_web
from ganvas.share.export import export
from ganvas.studio.commands import of_recipes
from ganvas.studio.model_folder import Shelf
from ganvas.studio.run_status import rows_of_grids
from ganvas.system.device import choose_device
from ganvas.training.compiled import call_networks
from ganvas.training.loop import update
from ganvas.training.state import TrainState
from ganvas.training.step import accumulate_gradients, draw_inputs

COLOURS = ("black", "red", "white")
HEADER = ["image", "tone", "lying", "marks", "age", "always"]
NUM = 48


def row_of(i: int) -> list[str]:
    """The cells of image i: a category, yes/no, several labels, and a number."""
    marks = ("", "left", "right", "left|right")[i % 4]
    return [f"{i:02}.png", COLOURS[i % 3], ("yes", "no")[i % 2], marks, str(20 + i % 12), "same"]


def picture_of(row: list[str]) -> Image.Image:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, :8] = 100 + 70 * COLOURS.index(row[1])
    pixels = pixels.T if row[2] == "yes" else pixels
    for label, column in (("left", 0), ("right", 14)):
        pixels[:2, column : column + 2] = 255 if label in row[3] else 0
    return Image.fromarray(np.ascontiguousarray(pixels))


def write_table(path: Path, rows: list[list[str]], header: list[str] | None = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with table.csv of 48 images of 16x16 pixels."""
    folder = tmp_path_factory.mktemp("data") / "bars"
    folder.mkdir()
    rows = [row_of(i) for i in range(NUM)]
    for row in rows:
        picture_of(row).save(folder / row[0])
    write_table(folder / "table.csv", rows)
    return folder


ASKED = "table.csv:tone,lying,marks,age"


@pytest.fixture(scope="module")
def pack(images: Path) -> Pack:
    return open_pack(images, DataConfig(conditions=ASKED, size=16))


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for looking at only."""
    out = tmp_path_factory.mktemp("conditions") / "run"
    ganvas.train(images, out, conditions=ASKED, images=48, quiet=True, size=16, base=8, z_dim=8, batch=16, previews=2,
                 device="cpu")  # fmt: skip
    return out


@pytest.fixture
def gan(run: Path) -> Generator:
    return Generator.load(run, "cpu")


def schema_of(pack: Pack) -> Conditions:
    assert pack.schema is not None
    return pack.schema


# -- reading --


def test_kinds_are_detected_and_stated(images: Path, ganvas_command: Command) -> None:
    answer = ganvas_command("data", "check", images, "--conditions", "table.csv")
    words = "Conditions: tone (one of black, red, white), lying (yes or no), marks (any of left, right), age (number, "
    assert answer.code == 0 and words + "20 to 31)" in answer.out.replace("\n", " ")
    assert "The column always of table.csv is not used" in answer.out


def test_kinds_can_be_chosen(images: Path) -> None:
    pack = open_pack(images, DataConfig(conditions="table.csv:age=category,marks=yesno", size=16))
    age, marks = schema_of(pack).columns
    assert (age.kind, len(age.values), marks.kind) == ("category", 12, "yesno")
    assert pack.conditions is not None
    np.testing.assert_array_equal(pack.conditions[:4, -1], [0, 1, 1, 1])  # an empty cell is no


def test_the_vectors_of_a_pack_are_those_of_the_table(pack: Pack) -> None:
    ages = np.array([20 + i % 12 for i in range(NUM)])
    expected = [
        [*(float(row[1] == one) for one in COLOURS), float(row[2] == "yes"), float("left" in row[3]),
         float("right" in row[3]), (int(row[4]) - ages.mean()) / ages.std()]
        for row in map(row_of, range(NUM))
    ]  # fmt: skip
    assert pack.names == [f"{i:02}.png" for i in range(NUM)] and pack.conditions is not None
    np.testing.assert_allclose(pack.conditions, expected, rtol=1e-5)
    image, vector = pack[5]
    assert image.shape == (1, 16, 16) and torch.equal(vector, torch.from_numpy(pack.conditions[5]))
    held = open_pack(pack.record.request.path, DataConfig(labels="none", size=16)).heldout
    np.testing.assert_array_equal(pack.heldout, held)


def test_missing_values(images: Path, tmp_path: Path) -> None:
    """An empty category is none, no label is no label, and an image without a number or a line is left out."""
    rows = [row_of(i) for i in range(NUM - 1)]
    rows[0][1] = rows[1][4] = ""
    table = write_table(tmp_path / "table.csv", rows)
    source = open_source(images, DataConfig(conditions=f"{table}:tone,age"))
    assert {one.name: one.reason for one in source.rejected} == {
        "01.png": "has no number for age in table.csv",
        "47.png": "has no line in table.csv",
    }
    pack = open_pack(images, DataConfig(conditions=f"{table}:tone,age", size=16))
    assert schema_of(pack).columns[0].values == ("black", "none", "red", "white")
    assert schema_of(pack).cells(pack.conditions[0])["tone"] == "none"  # ty: ignore[not-subscriptable]


def test_celeba_lists(tmp_path: Path) -> None:
    for i in range(4):
        Image.new("L", (8, 8)).save(tmp_path / f"{i:06}.jpg")
    lines = ["4", "Smiling Male ", *(f"{i:06}.jpg  {1 if i % 2 else -1} {-1 if i < 2 else 1}" for i in range(4))]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(lines))
    source = open_source(tmp_path, DataConfig(conditions="list_attr_celeba.txt:Male,Smiling"))
    assert source.conditions is not None and set(source.conditions.kinds.values()) == {"yesno"}
    assert source.conditions.rows(["000001.jpg", "000002.jpg"]) == [("no", "yes"), ("yes", "no")]
    (tmp_path / "list_attr_celeba.txt").write_text("1\nSmiling Male\n000000.jpg 1 -1\n")
    with pytest.raises(DataError, match="has no column that differs between the images"):
        open_source(tmp_path, DataConfig(conditions="list_attr_celeba.txt"))


def test_real_tables(shared_data: Path) -> None:
    source = open_source(
        shared_data / "comic_faces" / "comic_faces_96_5000.zip", DataConfig(conditions="attributes.csv")
    )
    assert source.conditions is not None
    kinds = source.conditions.kinds
    assert (kinds["hairColor"], kinds["backgroundRotation"]) == ("category", "number") and "base" not in kinds
    faces = open_source(
        shared_data / "celeba" / "img_align_celeba_5000.zip",
        DataConfig(split="all", conditions="list_attr_celeba.txt"),
    )
    assert faces.conditions is not None and set(faces.conditions.kinds.values()) == {"yesno"}
    assert len(faces.conditions.kinds) == 40 and len(faces.items) == 5000


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("table.csv:hair", "no column 'hair'.*its columns are: tone"),
        ("table.csv:tone=number", "has 'black' in this column"),
        ("table.csv:tone=colour", "'colour' is not a kind"),
        ("table.csv:always", "same value for all images"),
        ("table.csv:tone,tone", "given twice"),
        ("other.csv:tone", "no such file"),
        ("table.png", "expected a table that ends in"),
        ("two.csv", "two labels"),
        ("bare.csv", "no header line"),
        ("empty.csv", "empty.csv names no file: expected lines with the name of an image, such as '00.png'"),
    ],
)
def test_what_cannot_be_read_is_refused(asked: str, words: str, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    rows = [row_of(i) for i in range(NUM)]
    write_table(folder / "two.csv", [*rows, [rows[0][0], "red", "no", "", "20", "same"]])
    write_table(folder / "bare.csv", rows, header=None)
    write_table(folder / "empty.csv", [])
    with pytest.raises(GanvasError, match=words):
        open_pack(folder, DataConfig(conditions=asked, size=16))


def test_too_many_values_and_arrays_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"101 different values .* at most 100"):
        Conditions.of({"name": "category"}, [(str(i),) for i in range(101)])
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(DataError, match="has arrays instead of image files"):
        open_source(tmp_path / "x.npz", DataConfig(conditions="table.csv"))
    with pytest.raises(ConfigError, match="give one of them"):
        DataConfig(labels="table.csv", conditions="table.csv")


def test_packs_without_conditions_are_unchanged(two_classes: Path) -> None:
    pack = open_pack(two_classes, DataConfig(size=16))
    assert "conditions" not in pack.record.request.to_dict()["config"]
    assert "conditions" not in json.loads((pack.folder / "pack.json").read_text())
    assert sorted(path.name for path in pack.folder.iterdir() if path.suffix == ".npy") == [
        "heldout.npy", "images.npy", "labels.npy"
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["value", "shape", "sum", "column"])
def test_damaged_packs_are_refused(damage: str, pack: Pack, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(pack.folder, folder)
    vectors = np.load(folder / "conditions.npy")
    if damage == "value":
        vectors[0, 3] = 1 - vectors[0, 3]
    elif damage == "shape":
        vectors = vectors[:, 1:]
    elif damage == "sum":
        vectors[0, :3] = 1
    else:
        text = (folder / "pack.json").read_text()
        (folder / "pack.json").write_text(text.replace('"kind": "category"', '"kind": "colour"'))
    np.save(folder / "conditions.npy", vectors)
    with pytest.raises(DataError, match="is damaged"):
        Pack.open(folder)


# -- combinations of the training images --


def test_only_shared_combinations_are_kept_if_most_are_shared() -> None:
    schema = Conditions.of({"a": "category"}, [("x",), ("y",), ("z",)])
    found = schema.with_combinations([("x",)] * 5 + [("y",)] * 2 + [("z",)])
    assert found.shared and set(found.combinations) == {("x",), ("y",)}
    numbers = [(str(i),) for i in range(1000)]
    coarse = Conditions.of({"a": "number"}, numbers).with_combinations(numbers)
    assert coarse.shared and len(coarse.combinations) == 10  # ten groups
    both = [(f"{i % 20}", f"{i % 19}") for i in range(380)]
    single = Conditions.of({"a": "category", "b": "category"}, both).with_combinations(both)
    assert (
        not single.shared
        and len(set(single.combinations)) == MOST_COMBINATIONS
        and "single training images" in single.stored()
    )


def test_labels_of_json_lists_are_those_of_joined_labels() -> None:
    rows = [('["a|b", "c", ""]',), ("a|b|c",), ('["c"]',), ("c",)]
    known = Conditions.of({"parts": "several"}, rows)
    assert known.columns[0].values == ("a", "b", "c")
    assert set(known.with_combinations(rows).combinations) == {("a|b|c",), ("c",)}
    assert (known.matrix(rows) == [[1, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 1]]).all()


def test_conditions_that_are_not_given_come_from_combinations_that_fit(pack: Pack) -> None:
    schema = schema_of(pack)
    known = {tuple(row) for row in schema.combinations}
    found = [schema.cells(vector) for vector in schema.vectors("tone=red,lying=no", range(20))]
    assert all(one["tone"] == "red" and one["lying"] == "no" and tuple(one.values()) in known for one in found)
    assert len({one["age"] for one in found}) > 1
    near = [float(schema.cells(vector)["marks"] == "left") for vector in schema.vectors({"age": 21}, range(20))]
    assert sum(near) == 20 or sum(near) < 20
    full = {"tone": "white", "lying": True, "marks": ["right", "left"], "age": 25}
    assert schema.text(schema.vectors(full, [3])[0]) == "tone=white,lying=yes,marks=left|right,age=25"
    never = schema.vectors({"tone": "red", "marks": "left", "lying": "yes"}, [0])  # in no image
    assert schema.cells(never[0])["marks"] == "left"


def test_a_number_takes_the_other_columns_of_close_images() -> None:
    rows = [("young", str(20 + i)) for i in range(10)] + [("old", str(70 + i)) for i in range(10)]
    schema = Conditions.of({"is": "category", "age": "number"}, rows).with_combinations(rows)
    for age, word in ((22, "young"), (78, "old"), (40, "young")):
        found = [schema.cells(vector) for vector in schema.vectors({"age": age}, range(8))]
        assert {one["is"] for one in found} == {word} and {one["age"] for one in found} == {str(age)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hair=red", "no condition 'hair': this model has tone"),
        ("tones=red", "did you mean 'tone'"),
        ("tone=blue", "tone=blue: expected one of black, red, white"),
        ("lying=maybe", "expected yes or no"),
        ("marks=up", "expected labels joined by"),
        ("age=99", "expected a number from 20 to 31"),
        ("age=x", "expected a number"),
        ("red", "expected column=value"),
        ("tone=red,tone=white", "given twice"),
        (3, "expected text or a dictionary"),
    ],
)
def test_wrong_conditions_are_refused(given, words: str, gan: Generator) -> None:
    with pytest.raises(ConfigError, match=words):
        gan.sample(1, conditions=given)


# -- networks --


@pytest.mark.parametrize("model", MODERN)
def test_all_modern_networks_take_vectors(model: str) -> None:
    """A one-hot vector is the class; other vectors change images and logits, and give gradients."""
    classes = ModelConfig(model, 32, 32, 1, 3, z_dim=8, base=16)
    vectors = dataclasses.replace(classes, num_classes=0, num_conditions=3)
    torch.manual_seed(0)
    networks = build(classes)
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    measure_statistics(networks[0], classes, labels_in_turn(classes, None))
    again = build(vectors)
    for network, other in zip(networks, again, strict=True):
        other.load_state_dict(network.state_dict())
        network.eval(), other.eval()
    z, pictures, labels = torch.randn(3, 8), torch.rand(3, 1, 32, 32), torch.arange(3)
    hot = torch.eye(3)
    torch.testing.assert_close(again[0](z, hot), networks[0](z, labels))
    torch.testing.assert_close(again[1](pictures, hot), networks[1](pictures, labels))
    wanted = torch.tensor([[0.5, 1.0, -2.0]] * 3, requires_grad=True)
    (again[1](again[0](z, wanted), wanted).sum()).backward()
    assert wanted.grad is not None and (wanted.grad != 0).all()


def test_heads_on_features_take_vectors() -> None:
    torch.manual_seed(0)
    head = Head(8, 8, 3)
    view = torch.randn(3, 8, 8, 8)
    torch.testing.assert_close(head(view, torch.eye(3)), head(view, torch.arange(3)))


def test_classic_networks_refuse_conditions(images: Path, tmp_path: Path, ganvas_command: Command) -> None:
    answer = ganvas_command("train", images, "--conditions", ASKED, "--model", "mlp", "--conditional", "--out",
                            tmp_path / "run", "--images", 32, *TINY)  # fmt: skip
    assert answer.code == 2 and "does not support conditions" in answer.err
    assert not (tmp_path / "run" / "config.json").exists()


# -- training --


def test_batches_carry_the_vectors_of_their_images(pack: Pack) -> None:
    whole = Batches(pack, 8, seed=3)
    halves = [Batches(pack, 8, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    for _ in range(7):
        shown, vectors = next(whole)
        parts = [next(half) for half in halves]
        assert vectors is not None and torch.equal(torch.cat([part[0] for part in parts]), shown)
        assert torch.equal(torch.cat([part[1] for part in parts]), vectors)  # ty: ignore[invalid-argument-type]
        for one, vector in zip(shown, vectors, strict=True):
            cells = schema_of(pack).cells(vector.numpy())
            row = ["", cells["tone"], cells["lying"], cells["marks"]]
            np.testing.assert_array_equal(to_pixels(one[None])[0, ..., 0], np.asarray(picture_of(row)))


def test_a_resumed_state_continues_bit_for_bit(pack: Pack) -> None:
    config = TrainConfig(batch=16, augment=0.3, z_dim=8, r1=0.1)
    model = ModelConfig("compact", 16, 16, 1, z_dim=8, base=8, num_conditions=7)

    def state() -> TrainState:
        return TrainState(model, config, Batches(pack, 16, seed=0), choose_device("cpu"))

    def step(state: TrainState) -> None:
        real, labels = next(state.batches)
        inputs = draw_inputs(real, labels, slice(0, 16), config, ("translation",), 0.3, state.noise)
        accumulate_gradients(call_networks(state, config, print), inputs, config, ("translation",), 16, True)
        update(state, config, "both", 1e-3)

    whole, first, second = state(), state(), state()
    for _ in range(4):
        step(whole)
    for _ in range(2):
        step(first)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        step(second)
    for one, other in zip(whole.generator.parameters(), second.generator.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_conditions_the_model_is_plain(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    ganvas.train(images, out, conditions=ASKED, conditional=False, images=16, quiet=True, size=16, base=8, z_dim=8,
                 batch=16, previews=1, device="cpu")  # fmt: skip
    plain = Generator.load(out, "cpu")
    assert plain.info.conditions is None and plain.sample(2).shape == (2, 1, 16, 16)
    with pytest.raises(ConfigError, match="trained without conditions"):
        plain.sample(1, conditions="tone=red")
    with safe_open(out / "model" / "generator.safetensors", "pt") as file:
        assert "conditions" not in file.metadata()["ganvas"]  # as written before there were any


# -- sampling --


def test_a_model_lists_and_follows_its_conditions(gan: Generator) -> None:
    assert gan.conditions == {
        "tone": ["black", "red", "white"], "lying": "yes or no", "marks": ["left", "right"], "age": (20.0, 31.0)
    }  # fmt: skip
    full = {"tone": "red", "lying": "no", "marks": "", "age": 22}
    images = gan.sample(3, seed=5, conditions=full)
    torch.testing.assert_close(gan.sample(1, seed=6, conditions="tone=red,lying=no,marks=,age=22"), images[1:2])
    assert not torch.equal(gan.sample(3, seed=5, conditions={**full, "tone": "white"}), images)
    each = gan.sample(2, seed=5, conditions=[full, "tone=white,lying=no,marks=,age=22"])
    torch.testing.assert_close(each[:1], images[:1])
    torch.testing.assert_close(gan.sample(2, seed=7), gan.sample(2, seed=7, conditions=gan.label_texts(None, [7, 8])))
    assert "4 conditions" in repr(gan)
    with pytest.raises(ConfigError, match=r"no classes; use conditions \(tone, lying, marks, age\)"):
        gan.sample(1, label="red")


def test_sampled_files_state_their_conditions(
    run: Path, gan: Generator, tmp_path: Path, ganvas_command: Command
) -> None:
    call = ("sample", run, "--out", tmp_path / "out", "--n", 3, "--conditions", "tone=red,age=22")
    assert ganvas_command(*call).code == 0
    rows = list(csv.DictReader((tmp_path / "out" / "manifest.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file"] for row in rows] == [f"seed{i:06}_tone-red-age-22.png" for i in range(3)]
    for i, row in enumerate(rows):
        assert row["label"].startswith("tone=red,lying=") and row["label"].endswith(",age=22")
        again = to_pixels(gan.sample(1, seed=i, conditions=row["label"]))[0, ..., 0]
        with Image.open(tmp_path / "out" / row["file"]) as written:
            np.testing.assert_array_equal(np.asarray(written), again)
    assert ganvas_command(*call).code == 0 and "tone=blue" in ganvas_command(*call[:-1], "tone=blue").err
    refused = ganvas_command("sample", run, "--out", tmp_path / "no", "--per-class", 2)
    assert refused.code == 2 and "use --conditions" in refused.err and not (tmp_path / "no").exists()


def test_recipes_favourites_and_videos(run: Path, gan: Generator, tmp_path: Path, ganvas_command: Command) -> None:
    kept = ganvas_command("favourites", run, tmp_path / "f.json", "--keep", 3, "--conditions", "tone=red")
    recipe = Favourites.read(tmp_path / "f.json", gan).recipes[0]
    assert kept.code == 0 and recipe == Recipe(3, label="tone=red")
    torch.testing.assert_close(gan.show(resolve(gan, [recipe])), gan.sample(1, 3, conditions="tone=red"))
    coded = as_recipe(resolve(gan, [recipe]), gan.classes, gan.info.conditions)
    assert coded.label == gan.label_texts("tone=red", [3])[0]
    torch.testing.assert_close(gan.show(resolve(gan, [coded])), gan.show(resolve(gan, [recipe])))
    half = Recipe(
        code=coded.code, label={"tone=red,lying=no,marks=,age=22": 0.5, "tone=white,lying=no,marks=,age=22": 0.5}
    )
    code = resolve(gan, [half])
    assert code.labels is not None and code.labels[0, 0, :4].tolist() == [0, 0.5, 0.5, 0]
    with pytest.raises(ConfigError, match="interpolated conditions cannot be saved as a code"):
        as_recipe(code, gan.classes, gan.info.conditions)
    both = ("--conditions", "tone=red;tone=white", "--seeds", 3)
    video = ganvas_command("interpolate", run, "--out", tmp_path / "m.gif", *both, "--frames", 4)
    with Image.open(tmp_path / "m.gif") as shown:
        assert video.code == 0 and shown.n_frames == 4  # ty: ignore[missing-attribute]


def test_synthetic_data_sets_have_vectors(run: Path) -> None:
    images, vectors = next(iter(DataLoader(SyntheticDataset(run, 4, conditions="tone=red"), batch_size=4)))
    assert images.shape == (4, 1, 16, 16) and vectors.shape == (4, 7) and (vectors[:, 1] == 1).all()


def test_damaged_models_are_refused(gan: Generator, tmp_path: Path) -> None:
    assert gan.info.conditions is not None
    text = gan.info.to_json()
    assert ModelInfo.from_json(text, Path("m")).conditions == gan.info.conditions
    for old, new in (('"combinations": [[', '"combinations": [["x"], ['), ('"kind": "number"', '"kind": "no"'),
                     ('"num_conditions": 7', '"num_conditions": 8'), ('"std": ', '"std": -')):  # fmt: skip
        assert old in text
        with pytest.raises(CheckpointError):
            ModelInfo.from_json(text.replace(old, new, 1), Path("m"))


# -- exports, card, studio, evaluation --


@pytest.mark.parametrize("model", ["compact", pytest.param("style", marks=pytest.mark.slow)])
def test_onnx_takes_the_vector_and_names_its_numbers(model: str, gan: Generator, tmp_path: Path) -> None:
    assert gan.info.conditions is not None
    config = dataclasses.replace(gan.info.config, model=model)
    torch.manual_seed(0)
    made = Generator(build(config)[0], dataclasses.replace(gan.info, config=config))
    made.save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "g.onnx")  # compares the images with those of PyTorch
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["z", "conditions", "truncation"]
    named = json.loads(session.get_modelmeta().custom_metadata_map["conditions"])
    assert [one.get("value", one["column"]) for one in named] == [*COLOURS, "lying", "left", "right", "age"]


def test_the_web_page_offers_the_combinations(gan: Generator) -> None:
    page = export_web.html_page(gan, "x", {"licence": "", "weights": "float32", "difference": {"max": 0.0}}, False)
    values = json.loads(page.partition('<script id="values" type="application/json">')[2].partition("</script>")[0])
    assert values["classes"] == gan.label_names and '<label for="class">Conditions</label>' in page
    np.testing.assert_allclose(values["vectors"][3], gan.labels_of(gan.label_names[3], [0])[0])


def test_card_and_studio_name_the_conditions(run: Path, gan: Generator) -> None:
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "any of left, right" in card and "attribute-conditional" in card
    loaded = type("Loaded", (), {"generator": gan, "place": type("Place", (), {"folder": "runs/x"})})
    command = of_recipes(loaded, [Recipe(1, label="tone=red"), Recipe(2, label="tone=red")])  # ty: ignore
    assert command.command == "ganvas sample runs/x --seeds 1-2 --conditions tone=red --out images"
    (place,) = Shelf(run).places().values()
    assert rows_of_grids(place) == gan.label_names[:8]
    assert len(gan.label_names) == len(set(gan.label_names)) > 8


def test_an_evaluation_asks_for_conditions_of_training_images(pack: Pack, gan: Generator) -> None:
    source = FromGenerator(gan, Evaluate("runs/x"))
    asked = source.conditions(pack, 200)
    assert asked is not None and pack.conditions is not None
    rows = {tuple(row) for row in pack.conditions[pack.training].tolist()}
    found = {tuple(row) for row in asked.tolist()}
    assert found == rows
    report = lambda *_: None  # noqa: E731
    made = source.pixels(pack, 3, asked[:3], report)
    torch.testing.assert_close(
        made[1], to_pixels(gan.sample(1, 1_000_001, conditions=gan.label_texts(asked[1:2], [1])))[0]
    )
    judge = Evaluator(source, pack, Evaluate("runs/x", n=24, features="random", device="cpu"), report)
    assert judge.expected(24)["Conditions"] > 0  # in the progress of the whole evaluation


def test_the_evaluation_says_whether_conditions_are_followed(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images with their own conditions agree; with those of other images they do not."""
    many = functools.partial(condition_agreement.steps_for)
    monkeypatch.setattr(condition_agreement, "steps_for", lambda *sizes: min(40, many(*sizes)))
    assert pack.conditions is not None
    tested = dataclasses.replace(pack, heldout=np.arange(24))
    picked = pack.training[:40]
    right = agreement(tested, np.asarray(pack.images[picked]), pack.conditions[picked], torch.device("cpu"))
    wrong = agreement(tested, np.asarray(pack.images[picked]), pack.conditions[picked[::-1] - 1], torch.device("cpu"))
    assert [row.name for row in right] == [f"Condition {name}" for name in ("tone", "lying", "marks", "age")]
    assert [row.better for row in right] == ["higher", "higher", "higher", "lower"]
    assert right[0].value > 0.9 and right[1].value > 0.9 and right[0].real > 0.9
    assert wrong[0].value < 0.7
    with pytest.raises(DataError, match="too few"):
        agreement(tested, np.asarray(pack.images[:5]), pack.conditions[:5], torch.device("cpu"))
