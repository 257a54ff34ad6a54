"""directions.py: ways through the codes that change one thing, and the file that keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.errors import ConfigError, DataError
from ganvas.explore import directions
from ganvas.explore.recipes import Direction, Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import save_png
from test_codes import cases, of
from test_generator import fresh
from test_use import cells_of


def vectors(found: list[Direction]) -> np.ndarray:
    return np.array([one.vector for one in found])


# Without labels.


@cases
def test_every_architecture_has_directions_that_change_its_pictures(name: str, labelled: bool) -> None:
    gan = of(name, labelled)
    for found in (directions.principal(gan, 3, samples=128), directions.from_weights(gan, 3)):
        assert vectors(found).shape == (3, 8) and len({one.name for one in found}) == 3
        assert all("%" in one.source for one in found)
        strip = directions.strip(gan, found[0], [1, 2], (-2, 0, 2), truncation=0.8)
        for row, cells in enumerate(cells_of(strip, 2, 3, 32)):
            left, middle, right = (cell.astype(int) for cell in cells)
            plain = to_pixels(gan.sample(1, 1 + row, truncation=0.8))[0]
            assert np.abs(middle - plain).max() <= 1
            assert min(np.abs(left - middle).max(), np.abs(right - middle).max()) > 1


@cases
def test_directions_are_the_same_again_and_leave_the_random_state_alone(name: str, labelled: bool) -> None:
    gan = of(name, labelled)
    state = torch.get_rng_state()
    first = directions.principal(gan, 3, samples=40, seed=4)
    torch.manual_seed(9)
    np.testing.assert_allclose(vectors(directions.principal(gan, 3, samples=40, seed=4)), vectors(first), atol=1e-4)
    torch.set_rng_state(state)
    directions.principal(gan, 3, samples=40)
    directions.from_weights(gan, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_directions_of_styles_are_the_principal_components_of_w() -> None:
    gan = of("style")
    from sklearn.decomposition import PCA

    found = directions.principal(gan, 4, samples=1000, seed=2)
    z = torch.from_numpy(np.random.default_rng(2).standard_normal((1000, 8), np.float32))
    peer = PCA(4, svd_solver="full").fit(gan.code(z).latents[:, 0].numpy())
    for one, axis, variance in zip(found, peer.components_, peer.explained_variance_, strict=True):
        vector = np.array(one.vector)
        assert abs(vector @ axis) / np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
        assert np.linalg.norm(vector) == pytest.approx(variance**0.5, rel=5e-3)  # one standard deviation
        assert vector[np.abs(vector).argmax()] > 0
    assert [one.name for one in found] == ["pc1", "pc2", "pc3", "pc4"] and found[0].depths is None
    assert directions.principal(gan, 1, samples=100, depth=2)[0].depths == (2,)


def test_components_equal_a_full_decomposition() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 40), np.float32)) * 1.2 ** torch.arange(40)
    values, found = directions.components(x, 5, seed=3)
    _, expected, axes = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(values, expected[:5], rtol=0.02, atol=0)
    assert ((found * axes[:5]).sum(dim=1).abs() > 0.9).all()
    torch.testing.assert_close(found @ found.T, torch.eye(5), rtol=0, atol=1e-4)


def test_directions_of_latents_lead_along_the_features_components() -> None:
    """Where one latent number moves the features most, the first component is that number's."""
    gan = fresh("compact")
    gan.network.start.weight[:, 2] *= 4
    first, second = directions.principal(gan, 2, samples=1000, depth=0)
    assert np.linalg.norm(first.vector) == pytest.approx(1, abs=1e-4)
    assert first.vector[2] > 0.9 > 0.5 > abs(second.vector[2])
    assert float(first.source.split("%")[0]) > float(second.source.split("%")[0])


def test_directions_of_weights_are_singular_vectors_of_the_first_layer() -> None:
    gan = of("compact", labelled=True)
    weight = gan.network.start.weight
    found = vectors(directions.from_weights(gan, 3))
    _, _, expected = np.linalg.svd(weight.numpy(), full_matrices=False)
    assert np.abs((found * expected[:3]).sum(axis=1)) == pytest.approx(1, abs=1e-3)
    styled = of("style")
    layers = [one.conv.affine for one in styled.network.synthesis.layers]
    layers += [one.affine for one in styled.network.synthesis.to_picture]
    stacked = np.concatenate([layer.weight.numpy() * layer.scale for layer in layers])
    _, _, expected = np.linalg.svd(stacked, full_matrices=False)
    found = vectors(directions.from_weights(styled, 3))
    cosine = (found * expected[:3]).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert np.abs(cosine) == pytest.approx(1, abs=1e-3)


def test_the_class_is_no_direction() -> None:
    """What differs from class to class alone is left out: the classes' means coincide in what is decomposed."""
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(90) % 3
    centred = directions.centred(x + 100 * labels[:, None], labels)
    for k in range(3):
        torch.testing.assert_close(centred[labels == k].mean(dim=0), torch.zeros(5), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "0 directions: the latents of this model have 8 numbers"),
        ({"num": 9}, "9 directions: the latents of this model have 8 numbers"),
        ({"num": 2, "depth": 9}, "depth 9: this model has layers 0 to 3"),
    ],
)
def test_impossible_numbers_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        directions.principal(of("style"), **options)


# With labels.


@pytest.fixture(scope="module", params=["compact", pytest.param("style", marks=pytest.mark.slow)])
def bright(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Pack]:
    """A generator, and images of its own in two classes: darker and brighter than their median."""
    folder = tmp_path_factory.mktemp(request.param)
    gan = fresh(request.param)
    pixels = to_pixels(gan.sample(240, seed=10_000))
    level = pixels.mean(axis=(1, 2, 3))
    for i, picture in enumerate(pixels):
        place = folder / ("light" if level[i] > np.median(level) else "dark")
        place.mkdir(exist_ok=True)
        save_png(place / f"{i:03}.png", picture)
    return gan, open_pack(folder, DataConfig(size="16x16", kind="scan", holdout=0.0))


def test_a_direction_from_labels_does_what_it_says(
    bright: tuple[Generator, Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    gan, pack = bright
    monkeypatch.setattr("ganvas.evaluation.classifier.LEAST_STEPS", 60)  # dark and bright are easily distinguished
    calls: list[tuple[str, int, int]] = []
    (found,) = directions.supervised(gan, pack, samples=400, progress=lambda *x: calls.append(x))
    assert found.name == "light"  # of two classes the second alone
    assert int(found.source.split("balanced accuracy ")[1].split("%")[0]) >= 75
    before, after = (int(part.split("%")[0]) for part in found.source.split("goes from ")[1].split(" to "))
    assert after > before + 40
    recipes = [Recipe(seed=seed, edits={"light": amount}) for amount in (-2, -1, 0, 1, 2) for seed in range(40)]
    levels = gan.show(resolve(gan, recipes, {"light": found})).view(5, 40, -1).mean(dim=2)
    assert (levels.mean(dim=1).diff() > 0).all()
    assert levels[4].mean() - levels[0].mean() > levels[2].std()
    assert any(what == "classifying generated images" and done == total == 400 for what, done, total in calls)
    # One deviation of the codes: as long as they vary along it.
    latents = gan.code(gan.latents(range(1000))).latents[:, 0].numpy()
    axis = np.array(found.vector)
    assert np.linalg.norm(axis) == pytest.approx((latents @ axis / np.linalg.norm(axis)).std(), rel=0.3)
    (other,) = directions.supervised(gan, pack, label="dark", samples=400)
    assert np.dot(other.vector, found.vector) < -0.9 * np.linalg.norm(axis) ** 2


def test_labels_that_cannot_have_a_direction_are_refused(bright: tuple[Generator, Pack], two_classes: Path) -> None:
    gan, pack = bright
    with pytest.raises(ConfigError, match=r"label 'smile' does not exist: the images have dark, light"):
        directions.supervised(gan, pack, label="smile")
    with pytest.raises(ConfigError, match="takes the class as its input"):
        directions.supervised(fresh("compact", ["dark", "light"]), pack)
    with pytest.raises(ConfigError, match="too one-sided for a direction"):
        directions.supervised(gan, pack, label="dark", samples=30)
    with pytest.raises(DataError, match="no labels"):
        directions.supervised(gan, open_pack(two_classes / "lying", DataConfig(size="16x16")))


def test_the_axis_of_a_linear_rule_is_found_among_correlated_codes() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((1500, 20)) * np.linspace(0.2, 3, 20))
    rule = torch.from_numpy(rng.standard_normal(20))
    odds = x @ rule + 0.1 * torch.from_numpy(rng.standard_normal(1500)) - 2.0
    vector, accuracy = directions.axis(x, odds)
    expected = x.T.cov() @ rule
    cosine = vector @ expected / vector.norm() / expected.norm()
    assert cosine > 0.99 and accuracy > 0.9
    assert (vector @ rule) == pytest.approx(float((x @ rule).std()), rel=0.1)  # one deviation of what it changes
    _, chance = directions.axis(x, odds[torch.randperm(1500, generator=torch.Generator().manual_seed(0))])
    assert 0.3 < chance < 0.7


# The file.


def test_directions_are_kept_beside_the_model(tmp_path: Path) -> None:
    gan = fresh()
    gan.save(tmp_path / "run" / "model")
    assert directions.read(tmp_path / "run", gan) == {}
    first = directions.principal(gan, 2, samples=100)
    path = directions.save(tmp_path / "run", first, gan)
    assert path == tmp_path / "run" / "model" / "directions.json"
    smile = Direction("左 smile", tuple([0.5] * 8), (0,), "made up")
    changed = Direction("pc1", tuple([1.0] * 8))
    directions.save(tmp_path / "run" / "model", {"smile": smile, "pc1": changed}, gan)
    assert directions.read(tmp_path / "run", gan) == {"pc1": changed, "pc2": first[1], "左 smile": smile}


def test_directions_of_other_weights_are_refused_and_then_replaced(tmp_path: Path) -> None:
    gan, other = fresh(), fresh(base=16)
    gan.save(tmp_path)
    directions.save(tmp_path, directions.from_weights(gan, 2), gan)
    with pytest.raises(ConfigError, match=f"belongs to the model {gan.hash[:12]}, not to {other.hash[:12]}"):
        directions.read(tmp_path, other)
    directions.save(tmp_path, directions.from_weights(other, 1), other)
    assert set(directions.read(tmp_path, other)) == {"weights1"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"\xff", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[]", "not a directions file"),
        (b'{"ganvas": "directions", "format": 7}', "format 7"),
        ({"directions": [1]}, "is damaged"),
        ({"directions": {"a": {"vector": ["x"]}}}, "is damaged"),
        ({"directions": {"a": {"vector": [1.0], "depths": [-1]}}}, "is damaged"),
        ({}, "is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: object, message: str) -> None:
    gan = fresh()
    gan.save(tmp_path)
    if isinstance(content, dict):
        content = json.dumps({"ganvas": "directions", "format": 1, "model": gan.hash} | content).encode()
    assert isinstance(content, bytes)
    (tmp_path / "directions.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"directions\.json.*{message}"):
        directions.read(tmp_path, gan)
