"""generator.py: loading from anywhere, seeds that mean the same image everywhere, pixels, and files not to trust."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from architectures import CLASSIC, MODERN
from ganvas.config import ModelConfig
from ganvas.errors import CheckpointError, ConfigError
from ganvas.generator import AHEAD, BATCH, Generator, to_pixels
from ganvas.model_file import (
    MODEL_FORMAT,
    MOST_WEIGHT_BYTES,
    WEIGHTS,
    ModelInfo,
    checksum,
    in_order,
    labels_in_turn,
    tensor_hash,
)
from ganvas.models import build
from ganvas.models.batch_norm import measure_statistics

CLASSES = ["left", "right", "7"]
SAME = 1e-4  # what "the same picture" means, in the range from -1 to 1


def fresh(model: str = "compact", classes: list[str] | None = None, **options: int) -> Generator:
    """An untrained generator of 16x16 gray images."""
    torch.manual_seed(0)
    sizes = {"height": 16, "width": 16, "channels": 1, "z_dim": 8, "base": 8} | options
    config = ModelConfig(model, num_classes=len(classes or []), **sizes)
    network, _ = build(config)
    with torch.no_grad():  # the zeros of the initialisation hide what they are multiplied with
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    measure_statistics(network, config, labels_in_turn(config, None))
    return Generator(network, ModelInfo(config, classes or []), "cpu")


@pytest.fixture(scope="module")
def labelled() -> Generator:
    return fresh(classes=CLASSES)


@pytest.fixture
def model(labelled: Generator, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return labelled.save(tmp_path / "model", card="# A card\n")


def rewritten(file: Path, **changes: object) -> None:
    """Changes fields of the configuration inside the weights file and leaves the weights alone."""
    with safetensors.safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
    values = json.loads(metadata["ganvas"])
    values["config"] |= changes.pop("config", {})
    metadata["ganvas"] = json.dumps(values | changes)
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, metadata)


# Saving and loading.


def test_however_many_images_keep_their_latents_and_labels(
    labelled: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beyond those whose latents are drawn together."""
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def render(_: Generator, z: torch.Tensor, labels: torch.Tensor, truncation: float) -> torch.Tensor:
        asked.append((z, labels))
        return z

    monkeypatch.setattr(Generator, "render", render)
    seeds = range(5, 5 + 2 * AHEAD * BATCH + 3)
    for label, expected in ((None, torch.tensor(seeds) % 3), (["7"] * len(seeds), torch.full((len(seeds),), 2))):
        asked.clear()
        assert len(torch.cat(list(labelled.batches(seeds, label)))) == len(seeds)
        z, labels = (torch.cat(parts) for parts in zip(*asked, strict=True))
        assert torch.equal(labels, expected) and torch.equal(z, labelled.latents(seeds))


def test_run_model_folder_and_file_give_the_same_generator(trained: Path) -> None:
    expected = Generator.load(trained, device="cpu").sample(4, seed=3)
    assert expected.shape == (4, 1, 16, 16) and expected.dtype == torch.float32
    assert expected.abs().max() <= 1
    for place in (trained / "model", trained / "model" / WEIGHTS, str(trained)):
        assert torch.equal(Generator.load(place, device="cpu").sample(4, seed=3), expected)


@pytest.mark.parametrize("name", MODERN)
def test_saved_and_loaded_generator_draws_identical_pictures(name: str, tmp_path: Path) -> None:
    before = fresh(name, CLASSES, height=20, width=28, channels=3)
    after = Generator.load(before.save(tmp_path / "deep" / "model"), device="cpu")
    assert after.info == before.info and after.classes == CLASSES
    assert torch.equal(after.sample(5, seed=9), before.sample(5, seed=9))


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_generators_come_back(name: str, tmp_path: Path) -> None:
    before = fresh(name, height=32, width=32, channels=3)
    after = Generator.load(before.save(tmp_path), device="cpu")
    assert torch.equal(after.sample(2), before.sample(2))


def test_model_folder_holds_weights_configuration_and_card(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == {WEIGHTS, "config.json", "README.md"}
    config = json.loads((model / "config.json").read_text())
    assert config["classes"] == CLASSES and config["config"]["height"] == 16 and config["format"] == MODEL_FORMAT


def test_a_copied_file_alone_is_enough(model: Path, labelled: Generator, tmp_path: Path) -> None:
    copy = shutil.copy(model / WEIGHTS, tmp_path / "my model.safetensors")
    assert torch.equal(Generator.load(copy, device="cpu").sample(2), labelled.sample(2))


# Seeds.


@pytest.mark.parametrize("name", MODERN)
@pytest.mark.parametrize("classes", [None, CLASSES], ids=["plain", "labels"])
def test_a_seed_gives_the_same_picture_at_any_batch_size(name: str, classes: list[str] | None) -> None:
    gan = fresh(name, classes, height=20, width=12)
    together = gan.sample(67, seed=5)  # 64 and a rest
    assert together.std() > 0.1
    for num, seed in ((1, 5), (1, 71), (3, 40), (13, 58), (64, 8)):
        torch.testing.assert_close(gan.sample(num, seed), together[seed - 5 : seed - 5 + num], rtol=0, atol=SAME)


def test_picture_i_of_seed_s_is_the_first_of_seed_s_plus_i(trained: Path) -> None:
    gan = Generator.load(trained, device="cpu")
    pictures = gan.sample(6, seed=100)
    for i in range(6):
        torch.testing.assert_close(gan.sample(1, seed=100 + i)[0], pictures[i], rtol=0, atol=SAME)
    assert len({picture.numpy().tobytes() for picture in pictures}) == 6


def test_a_fresh_process_draws_and_saves_the_same(trained: Path, model: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy, ganvas\n"
        "pictures = ganvas.Generator.load(sys.argv[1], device='cpu').sample(5, seed=7)\n"
        "assert 'ganvas.training' not in sys.modules and 'ganvas.data' not in sys.modules\n"
        "assert 'sympy' not in sys.modules  # of the compiler of torch, which takes over a second\n"
        "numpy.save('there.npy', pictures.numpy())\n"
        "ganvas.Generator.load(sys.argv[2], device='cpu').save('there')"
    )
    subprocess.run([sys.executable, "-c", code, trained, model], check=True, cwd=tmp_path)
    assert (tmp_path / "there" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    here = Generator.load(trained, device="cpu").sample(5, seed=7).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "there.npy"), here, rtol=0, atol=SAME)


def test_latents_are_standard_normal_and_independent_of_torch_seeds(labelled: Generator) -> None:
    torch.manual_seed(1)
    first = labelled.latents(range(2000))
    torch.manual_seed(2)
    assert torch.equal(first, labelled.latents(range(2000)))
    assert abs(first.mean()) < 0.03 and abs(first.std() - 1) < 0.03


def test_sampling_leaves_the_random_state_and_gradients_alone(labelled: Generator) -> None:
    before = torch.get_rng_state()
    assert not labelled.sample(2).requires_grad
    assert torch.equal(torch.get_rng_state(), before)


# Truncation and labels.


def test_truncation_0_gives_one_picture_per_class(labelled: Generator) -> None:
    pictures = labelled.sample(9, seed=4, truncation=0.0)
    for i in range(9):
        torch.testing.assert_close(pictures[i], pictures[i % 3], rtol=0, atol=SAME)
    assert (pictures[0] - pictures[1]).abs().max() > 0.01
    assert labelled.sample(9, label="left", truncation=0.5).std(dim=0).mean() > 0


@pytest.mark.parametrize("truncation", [-0.1, 1.5, float("nan")])
def test_truncation_outside_0_to_1_is_refused(labelled: Generator, truncation: float) -> None:
    with pytest.raises(ConfigError, match=r"truncation .*from 0"):
        labelled.sample(1, truncation=truncation)


def test_labels_by_name_index_list_and_default(labelled: Generator) -> None:
    by_name = labelled.sample(4, label="right")
    assert torch.equal(labelled.sample(4, label=1), by_name)
    assert torch.equal(labelled.sample(4, label=["right", 1, "right", 1]), by_name)
    assert labelled.label_indices(None, range(5, 9)).tolist() == [2, 0, 1, 2]  # seed modulo classes
    assert torch.equal(labelled.sample(4, seed=5), labelled.sample(4, seed=5, label=[2, 0, 1, 2]))
    assert labelled.label_index("7") == 2 and labelled.label_index(2) == 2


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("up", "'up' does not exist.*left, right, 7"),
        (3, "3 does not exist.*left, right, 7"),
        (-1, "-1 does not exist"),
        (["left", "right"], "2 labels for 4 images"),
    ],
)
def test_labels_that_cannot_be_are_refused(labelled: Generator, label: str | int | list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        labelled.sample(4, label=label)


def test_unconditional_model_has_no_labels() -> None:
    gan = fresh()
    assert gan.classes == [] and gan.label_indices(None, range(3)) is None
    assert gan.sample(3).shape == (3, 1, 16, 16)
    with pytest.raises(ConfigError, match="trained without labels"):
        gan.sample(3, label="left")


def test_counts_and_seeds_below_their_least_are_refused(labelled: Generator) -> None:
    with pytest.raises(ConfigError, match="0 images"):
        labelled.sample(0)
    with pytest.raises(ConfigError, match="at least 0"):
        labelled.sample(1, seed=-1)


# Pixels.


@pytest.mark.parametrize(("depth", "dtype", "top"), [(8, np.uint8, 255), (16, np.uint16, 65535)])
def test_pixel_scale_is_exact(depth: int, dtype: type, top: int) -> None:
    values = torch.tensor([-2.0, -1.0, -1 + 2 / top, 1 - 2 / top, 1.0, 2.0])
    pixels = to_pixels(values.view(1, 1, 2, 3), depth)
    assert pixels.dtype == dtype and pixels.shape == (1, 2, 3, 1)
    assert pixels.flatten().tolist() == [0, 0, 1, top - 1, top, top]


@pytest.mark.parametrize("depth", [8, 16])
def test_every_pixel_value_survives_the_way_to_the_network_and_back(depth: int) -> None:
    top = 2**depth - 1
    values = np.arange(top + 1, dtype=np.float32)
    images = torch.from_numpy(values / (top / 2) - 1).view(1, 1, 1, -1)
    assert np.array_equal(to_pixels(images, depth).flatten(), values)


# What is not to be trusted.


def test_tampered_weights_are_refused(model: Path) -> None:
    content = bytearray((model / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (model / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        Generator.load(model, device="cpu")


@pytest.mark.parametrize("keep", [0, 5, 200, -100])
def test_cut_file_is_refused(model: Path, keep: int) -> None:
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        Generator.load(model, device="cpu")


def test_other_format_is_named(model: Path) -> None:
    rewritten(model / WEIGHTS, format=MODEL_FORMAT + 1)
    with pytest.raises(
        CheckpointError, match=f"format {MODEL_FORMAT + 1}; this version of Ganvas reads {MODEL_FORMAT}"
    ):
        Generator.load(model, device="cpu")


@pytest.mark.parametrize("changes", [{"model": "residual"}, {"height": 32, "width": 32}, {"num_classes": 0}])
def test_weights_of_another_network_are_refused(model: Path, changes: dict) -> None:
    rewritten(model / WEIGHTS, config=changes)
    with pytest.raises(CheckpointError, match="does not contain the weights"):
        Generator.load(model, device="cpu")


HUGE_NUMBER = "9" * 10_000


def text_with(gan: Generator, **changes: object) -> str:
    """The configuration of a model's file with other fields, those of the network among them."""
    values = json.loads(gan.info.to_json())
    for name, value in changes.items():
        (values["config"] if name in values["config"] else values)[name] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        *(({name: value}, None) for name in ("height", "z_dim", "base", "widest", "blocks", "num_classes")
          for value in (10**9, -1, 0.5, True, None, "8", [8])),
        *(({name: value}, None) for name, value in (
            ("model", "unknown"), ("model", 3), ("model", "dcgan"), ("magnitude", True), ("discriminator", "x" * 10**6),
            ("depth", 10**9), ("depth", 0), ("kind", "<b>"), ("kind", {}), ("classes", "abc"), ("classes", [1, 2, 3]),
            ("classes", ["only one"]), ("images_seen", -1), ("images_seen", 1e308), ("data_hash", 7), ("config", []),
            ("config", None), ("surplus", 1), ("format", [[]]), ("format", "x" * 10**6),
        )),
        ({"height": 4096, "width": 4096, "blocks": 16}, None),
        ({"model": "style", "width": 4096, "base": 8192, "z_dim": 65_536, "widest": 65_536}, None),
        ({}, "[" * 100_000 + "]" * 100_000),
        ({}, '{"format": ' + HUGE_NUMBER + "}"),
        ({}, '{"format": 1, "config": {"height": ' + HUGE_NUMBER + "}}"),
        ({}, "null"), ({}, "3"), ({}, '"text"'), ({}, ""), ({}, "NaN"),
    ],
)  # fmt: skip
def test_no_configuration_of_a_crafted_file_gets_past_the_loader(
    changes: dict, text: str | None, labelled: Generator, tmp_path: Path
) -> None:
    crafted(tmp_path / WEIGHTS, labelled, text if text is not None else text_with(labelled, **changes))
    with pytest.raises(CheckpointError) as refused:
        Generator.load(tmp_path, device="cpu")
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def crafted(file: Path, model: Generator, text: str, **changes: torch.Tensor) -> None:
    """A model file whose checksum is right, whatever is in it."""
    tensors = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()} | changes
    metadata = {"ganvas": text, "sha256": checksum(tensor_hash(tensors), text)}
    safetensors.torch.save_file(tensors, file, metadata)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((8,), torch.nan), "not finite"),
        (torch.full((8,), torch.inf), "not finite"),
        (torch.zeros(8, dtype=torch.float64), "wrong type"),
        (torch.zeros(8, dtype=torch.complex64), "wrong type"),
        (torch.zeros(8, dtype=torch.bool), "wrong type"),
        (torch.zeros(0), "wrong shape"),
        (torch.zeros([1] * 60), "wrong shape"),
    ],
)
def test_weights_that_no_training_gives_are_refused(
    value: torch.Tensor, message: str, labelled: Generator, tmp_path: Path
) -> None:
    name = "norm.bias"
    assert labelled.network.state_dict()[name].shape == labelled.network.state_dict()["norm.gain"].shape
    value = value.repeat(len(labelled.network.state_dict()[name]) // 8) if value.shape == (8,) else value
    try:
        crafted(tmp_path / WEIGHTS, labelled, labelled.info.to_json(), **{name: value})
    except KeyError:
        assert value.is_complex()
        pytest.skip("this version of safetensors has no complex numbers")
    with pytest.raises(CheckpointError, match=message):
        Generator.load(tmp_path, device="cpu")


def test_a_network_much_larger_than_its_file_is_never_built(tmp_path: Path) -> None:
    """The discriminator that belongs to this tiny file has 17 thousand million weights."""
    model = fresh("style", base=8, blocks=1)
    text = text_with(model, width=4096, base=8192, widest=8192)
    crafted(tmp_path / WEIGHTS, model, text)
    before = torch.random.get_rng_state()
    with pytest.raises(CheckpointError, match="does not contain the weights"):
        Generator.load(tmp_path, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_changed_configuration_is_damage(model: Path) -> None:
    rewritten(model / WEIGHTS, classes=["right", "left", "7"])
    with pytest.raises(CheckpointError, match="damaged"):
        Generator.load(model, device="cpu")


def test_files_from_before_the_configuration_was_in_the_checksum_are_read(model: Path, labelled: Generator) -> None:
    tensors = safetensors.torch.load_file(model / WEIGHTS)
    metadata = {"ganvas": labelled.info.to_json(), "sha256": tensor_hash(tensors)}
    safetensors.torch.save_file(tensors, model / WEIGHTS, metadata)
    assert Generator.load(model, device="cpu").hash == labelled.hash


def test_an_oversized_file_is_refused_by_its_size(model: Path) -> None:
    with (model / WEIGHTS).open("r+b") as file:
        file.truncate(MOST_WEIGHT_BYTES + 1)  # takes no space on the disk
    with pytest.raises(CheckpointError, match="bytes"):
        Generator.load(model, device="cpu")


def test_the_bytes_of_a_file_have_a_fixed_order(model: Path) -> None:
    """So that equal weights give the same bytes in every process."""
    content = (model / WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(reversed(header["__metadata__"].items()))
    turned = json.dumps(dict(reversed(header.items())), ensure_ascii=False).encode()
    turned = len(turned).to_bytes(8, "little") + turned + content[8 + size :]
    assert in_order(turned) == content == in_order(content) != turned


def test_safetensors_of_another_program_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="no readable Ganvas configuration"):
        Generator.load(tmp_path, device="cpu")


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_a_pickle_is_named_and_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "plain").mkdir()
    (tmp_path / "torch").mkdir()
    (tmp_path / "plain" / WEIGHTS).write_bytes(pickle.dumps(Bomb(mark)))
    torch.save(Bomb(mark), tmp_path / "torch" / WEIGHTS)
    for name in ("plain", "torch"):
        with pytest.raises(CheckpointError, match="is a Python pickle"):
            Generator.load(tmp_path / name, device="cpu")
    assert not mark.exists()
    pickle.loads((tmp_path / "plain" / WEIGHTS).read_bytes())
    assert mark.exists()  # the bomb would have gone off


def test_a_name_that_safetensors_cannot_open_is_said(model: Path) -> None:
    try:
        odd = model.rename(os.fsdecode(os.fsencode(model) + b"\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(CheckpointError, match="not valid UTF-8: rename"):
        Generator.load(odd, device="cpu")


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        Generator.load(tmp_path / "nowhere", device="cpu")
    with pytest.raises(CheckpointError, match=f"contains no {WEIGHTS}"):
        Generator.load(tmp_path, device="cpu")


def test_checksum_covers_names_shapes_and_values() -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(0)}
    first = tensor_hash(tensors)
    assert tensor_hash(dict(reversed(tensors.items()))) == first
    for other in (
        {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0)},
        {"c": torch.arange(6.0), "b": torch.zeros(0)},
        {"a": torch.arange(6.0).flip(0), "b": torch.zeros(0)},
    ):
        assert tensor_hash(other) != first


def test_information_survives_json() -> None:
    info = dataclasses.replace(fresh(classes=["ä", "左"]).info, depth=16, kind="scan", images_seen=12, data_hash="ab")
    assert ModelInfo.from_json(info.to_json(), Path("here")) == info


@pytest.mark.parametrize("name", ["classes", "data_hash"])
def test_text_that_no_file_can_hold_is_refused(name: str, tmp_path: Path) -> None:
    info = ModelInfo(ModelConfig("compact", 16, 16, 1, num_classes=1), classes=["a"])
    damaged = json.dumps(info.to_dict() | {name: ["\ud800"] if name == "classes" else "\ud800"})
    with pytest.raises(CheckpointError, match="no readable Ganvas configuration"):
        ModelInfo.from_json(damaged, tmp_path)
    assert ModelInfo.from_json(info.to_json(), tmp_path) == info
