"""projection.py: a generated image is found again, a real one approached, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganvas import latent_codes
from ganvas.errors import ConfigError, PictureError
from ganvas.explore import projection
from ganvas.explore.recipes import Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import save_png
from ganvas.model_file import ModelInfo
from ganvas.models import MODELS
from ganvas.provenance import read_provenance
from test_codes import QUICK, of
from test_generator import CLASSES, fresh


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of pixels, 0 to 255."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize(
    ("name", "labelled"),
    [
        pytest.param(name, name in ("compact", "style"), marks=[] if name in QUICK else [pytest.mark.slow])
        for name in MODELS
    ],
)
def test_a_generated_picture_is_found_again_with_every_architecture(
    name: str, labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "LEAST_COMPARED", 64)
    gan = of(name, labelled)
    pixels = to_pixels(gan.sample(1, seed=77))[0]
    found = projection.project(gan, pixels, steps=80, starts=3)
    others = to_pixels(gan.sample(20, seed=100))
    nearest = min(apart(pixels, other) for other in others)
    assert apart(pixels, found.picture) < 0.6 * nearest
    assert len(found.losses) == 81 and (np.diff(found.losses) <= 0).all()
    assert found.losses[-1] < 0.6 * found.losses[0]
    assert np.array_equal(found.target, pixels) and found.model == gan.hash and found.note == ""
    # The recipe alone makes the image.
    recipe = Recipe.from_dict(json.loads(json.dumps(found.recipe.to_dict())))
    again = to_pixels(gan.show(resolve(gan, [recipe])))[0]
    assert np.abs(again.astype(int) - found.picture.astype(int)).max() <= 1
    if not latent_codes.has_styles(gan.network):  # as long as latents are
        assert found.recipe.code is not None and 0.2 < np.mean(np.square(found.recipe.code)) < 2


def test_the_same_seed_finds_the_same_and_leaves_the_random_state_alone() -> None:
    gan = fresh("style", CLASSES)
    pixels = to_pixels(gan.sample(1, seed=7))[0]
    state = torch.get_rng_state()
    first, second, other = (projection.project(gan, pixels, steps=10, seed=seed) for seed in (3, 3, 4))
    assert first.recipe == second.recipe and first.losses == second.losses
    assert other.recipe != first.recipe
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.grad is not None for parameter in gan.network.parameters())


@pytest.mark.parametrize("name", ["compact", "style"])
def test_the_class_is_found_or_given(name: str) -> None:
    gan = fresh(name, CLASSES)
    for parameter in gan.network.parameters():  # classes that differ
        if parameter.ndim and parameter.shape[0] == len(CLASSES):
            parameter.mul_(5)
    pixels = to_pixels(gan.sample(1, seed=7, label="right"))[0]
    free = projection.project(gan, pixels, steps=40)
    given = projection.project(gan, pixels, label="right", steps=40)
    wrong = projection.project(gan, pixels, label="left", steps=40)
    assert max(given.losses[-1], free.losses[-1]) < 0.5 * min(given.losses[0], free.losses[0])
    if name == "compact":  # w can reach any class
        assert max(given.losses[-1], free.losses[-1]) < wrong.losses[-1]
        assert free.recipe.label == {"right": 1.0} and wrong.recipe.label == {"left": 1.0}
    with pytest.raises(ConfigError, match="'up' does not exist"):
        projection.project(gan, pixels, label="up")


def test_of_each_class_some_images_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "LEAST_COMPARED", 4)
    monkeypatch.setattr(projection, "EACH", 2)
    gan = fresh(classes=CLASSES)
    assert len(projection.candidates(gan, None, 0, None)) == 2 * len(CLASSES) > 4
    assert len(projection.candidates(gan, CLASSES[0], 0, None)) == 4


def test_the_distance_sees_coarse_places_and_fine_pixels() -> None:
    goal = torch.zeros(1, 1, 16, 16)
    moved = torch.zeros(3, 1, 16, 16)
    moved[0, :, :, :8] = 0.5  # the left half
    moved[1] = torch.where(torch.arange(16) % 2 == 0, 0.25, -0.25)  # stripes that vanish at half the size
    found = projection.distance(moved, goal).tolist()
    assert found[0] == pytest.approx(0.25) and found[1] == pytest.approx(0.25 / 3) and found[2] == 0
    odd = projection.distance(torch.full((1, 1, 17, 5), 0.5), torch.zeros(1, 1, 17, 5))
    assert odd.item() == pytest.approx(0.5)


def test_points_of_sampled_styles_are_standard_normal_and_lead_back() -> None:
    gan = fresh("style", z_dim=16)
    code = gan.code(gan.latents(range(500)))
    space = projection.Space.of(gan, code, seed=0)
    points = space.enter(code)[:, 0]
    assert points.mean(dim=0).abs().max() < 0.2
    assert points.std(dim=0).median() == pytest.approx(1, abs=0.1) and points.std(dim=0).max() < 1.3
    torch.testing.assert_close(space.leave(space.enter(code)).latents, code.latents, rtol=0, atol=1e-3)


# Images from files.


@pytest.fixture(scope="module")
def gan() -> Generator:
    return fresh(channels=3)


def test_a_file_is_cut_and_resized_to_the_model(gan: Generator, tmp_path: Path) -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = (200, 100, 50)
    Image.fromarray(wide).save(tmp_path / "a.png")
    found = projection.project(gan, tmp_path / "a.png", steps=2)
    assert found.target.shape == (16, 16, 3) and found.target.std(axis=(0, 1)).max() < 8
    assert found.note == "cropped and resized from 32x64 to 16x16 pixels"
    exact = to_pixels(gan.sample(1))[0]
    save_png(tmp_path / "b.png", exact)
    found = projection.project(gan, tmp_path / "b.png", steps=2)
    assert np.array_equal(found.target, exact) and found.note == ""
    gray = projection.project(fresh(), tmp_path / "a.png", steps=1)
    assert gray.target.shape == (16, 16, 1) and gray.note.endswith("and converted to gray")


def test_files_that_are_no_pictures_are_named(gan: Generator, tmp_path: Path) -> None:
    for name, content in (("a.png", b""), ("b.png", b"\x89PNG\r\n\x1a\n broken"), ("c.txt", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError, match=name.replace(".", r"\.")):
            projection.project(gan, tmp_path / name)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(PictureError, match="cannot be read"):
            projection.project(gan, path)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((16, 16, 1), np.uint8),
        np.zeros((16, 17, 3), np.uint8),
        np.zeros((16, 16), np.uint8),
        np.zeros((16, 16, 3), np.float32),
    ],
)
def test_pixels_of_another_form_are_refused_by_both(gan: Generator, pixels: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"the image is 16x1.*, but this model generates 16x16x3"):
        projection.project(gan, pixels)


def test_impossible_numbers_are_refused(gan: Generator) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    for options in ({"steps": 0}, {"starts": 0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            projection.project(gan, pixels, **options)
    assert len(projection.project(gan, pixels, steps=1).losses) == 2


def test_depths_of_bits_are_converted() -> None:
    shallow = fresh()
    deep = Generator(shallow.network, ModelInfo(shallow.info.config, depth=16), "cpu")
    pixels = to_pixels(shallow.sample(1))[0]
    found = projection.project(deep, pixels, steps=1)
    assert found.target.dtype == found.picture.dtype == np.uint16
    assert np.array_equal(found.target, pixels.astype(np.uint16) * 257)
    back = projection.project(shallow, found.target, steps=1)
    assert back.target.dtype == np.uint8 and np.array_equal(back.target, pixels)


# What is written.


def test_a_projection_is_written_side_by_side_with_its_curve_and_recipe(gan: Generator, tmp_path: Path) -> None:
    calls: list[int] = []
    pixels = to_pixels(gan.sample(1, seed=5))[0]
    found = projection.project(gan, pixels, steps=12, progress=lambda _, done, __: calls.append(done))
    assert calls[-1] == 12
    paths = projection.save(found, tmp_path / "deep" / "out")
    assert [path.name for path in paths] == ["projection.png", "losses.png", "recipe.json"]
    with Image.open(paths[0]) as opened:
        sheet = np.asarray(opened)
    assert sheet.shape == (256 + 8, 2 * 260 + 4, 3)
    assert np.array_equal(sheet[4:260:16, 4:260:16], found.target)
    assert np.array_equal(sheet[4:260:16, 264:520:16], found.picture)
    told = read_provenance(paths[0])
    assert told is not None and told["model"] == gan.hash and told["recipe"] == found.recipe.to_dict()
    values = json.loads(paths[2].read_text())
    assert Recipe.from_dict(values["recipe"]) == found.recipe and len(values["losses"]) == 13
    with Image.open(paths[1]) as opened:
        curve = np.asarray(opened.convert("RGB"))
    line = (curve == (31, 95, 191)).all(axis=2)
    heights = [np.flatnonzero(line[:, x])[0] for x in (60, 600)]
    assert heights[0] < heights[1]  # the loss falls
