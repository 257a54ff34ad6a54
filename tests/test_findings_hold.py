"""What an evaluation concludes: from real images nothing bad, from each planted fault its finding."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

from ganvas.config import DataConfig, ModelConfig
from ganvas.data import Pack, open_pack
from ganvas.errors import ConfigError, DataError
from ganvas.evaluation.artefacts import examine
from ganvas.evaluation.copies import CopyFinder
from ganvas.evaluation.evaluate import DEFAULT_FEATURES, Evaluator
from ganvas.evaluation.features import Features
from ganvas.evaluation.measures import Measures, feature_map, unlike
from ganvas.evaluation.registration import versions
from ganvas.evaluation.samples import FromGenerator
from ganvas.generator import Generator, to_pixels
from ganvas.model_file import ModelInfo
from ganvas.models import build
from ganvas.options import Evaluate
from ganvas.reporting.page import copy_facts
from ganvas.results import ClassResults, CopyResults, Measure
from planted import landscapes

SIDE = 32


class Drawn(FromGenerator):
    """A generator that gives these images (M, H, W, C)."""

    def __init__(self, pack: Pack, images: np.ndarray, asked: Evaluate) -> None:
        self.given = images
        config = ModelConfig("mlp", pack.height, pack.width, pack.channels, z_dim=8, base=8)
        super().__init__(Generator(build(config)[0], ModelInfo(config)), asked)

    def pixels(self, pack: Pack, num: int, labels: np.ndarray | None, report: Any) -> np.ndarray:
        return self.given


class Given(Evaluator):
    """The evaluation of a generator that gives these images (M, H, W, C)."""

    def __init__(self, pack: Pack, images: np.ndarray, **options: Any) -> None:
        asked = Evaluate("", **({"features": "random", "n": len(images), "device": "cpu"} | options))
        super().__init__(Drawn(pack, images, asked), pack, asked, lambda what, done, total: None)

    def network(self, name: str) -> Features:
        return super().network("random" if name == DEFAULT_FEATURES else name)  # quicker


def packed(images: np.ndarray, folder: Path) -> Pack:
    np.save(folder / "images.npy", images)
    return open_pack(folder / "images.npy")


def measured(judged: Evaluator) -> dict[str, Measure]:
    """The rows of the measures by name."""
    return {row.key: row for row in judged.measures()}


def results(judged: Evaluator) -> ClassResults:
    return (judged.classes() or (ClassResults(), None))[0]


@pytest.mark.parametrize("num", [90, 300])
def test_a_perfect_generator_is_as_good_as_real_images(num: int, tmp_path: Path) -> None:
    """Most measures depend on the numbers of images: values for real images come from as many."""
    images = landscapes(2 * num, SIDE, 1)
    rows = measured(Given(packed(images[:num], tmp_path), images[num:]))
    for key in ("frechet", "recall", "density", "coverage", "mind", "vendi"):
        if rows[key].real is not None:
            assert rows[key].low <= rows[key].real <= rows[key].high, rows[key]
    assert (rows["coverage"].real is None) == (num < 100)  # too few for two sets of real images


def test_the_map_keeps_distances_in_a_plane_and_leaves_the_random_state_alone() -> None:
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(10, 2)))[0].T
    real, fake = (rng.normal(0, (4, 1), (num, 2)) for num in (99, 50))
    state = torch.get_rng_state()
    found = feature_map(*((part @ plane + 7).astype(np.float32) for part in (real, fake)))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found.real) == len(found.generated) == 50 and found.explained == pytest.approx(1)
    points, known = (
        np.array(found.real + found.generated),
        np.concatenate([real[::2], fake]),
    )  # all along the real ones
    distances, expected = (np.linalg.norm(rows[:, None] - rows, axis=2) for rows in (points, known))
    np.testing.assert_allclose(distances / distances.max(), expected / expected.max(), atol=2e-3)
    assert np.abs(points).max() == 1 and points[:, 0].var() > 5 * points[:, 1].var()


def in_network(real: np.ndarray, floor: np.ndarray, fake: np.ndarray) -> dict[str, Measure]:
    """The rows for features (N, D) of some network, by name."""
    network: Any = SimpleNamespace(name="network", protocol="")
    measures = Measures(network, "", "training", len(real), len(fake))
    return {row.key: row for row in measures.rows(real, floor, fake, np.empty((len(fake), 0)), force=False)}


def test_what_all_images_share_is_not_diversity() -> None:
    """Features of faces have most of their length in common; one face with small changes is not as diverse."""
    rng = np.random.default_rng(0)
    real, floor = 5 + rng.normal(size=(2, 100, 32)).astype(np.float32)
    fake = real[:1] + 0.3 * rng.normal(size=(100, 32)).astype(np.float32)
    vendi = in_network(real, floor, fake)["vendi"]
    assert vendi.high < 0.2 * vendi.real


@pytest.mark.parametrize(("num", "enough"), [(60, True), (45, False)])
def test_a_frechet_distance_whose_interval_holds_the_true_one_comes_first(num: int, enough: bool) -> None:
    sets = np.random.default_rng(0).normal(size=(3, num, 32)).astype(np.float32)
    rows = in_network(*sets)
    assert rows["frechet"].low > 0  # of equal distributions
    assert next(key for key in rows if key.startswith("frechet")) == ("frechet_infinity" if enough else "frechet")
    assert not enough or rows["frechet_infinity"].low < 0 < rows["frechet_infinity"].high


def clipped(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def compressed(image: np.ndarray) -> np.ndarray:
    """With the losses of JPEG at quality 20."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "JPEG", quality=20)
    return np.asarray(Image.open(buffer))[..., None]


FAULTS = {
    "real": lambda images: images,
    "blurred": lambda images: clipped(gaussian_filter(images.astype(float), (0, 1, 1, 0))),
    "flat": lambda images: np.broadcast_to(images[:, :1, :1], images.shape),
    "speckled": lambda images: clipped(images + np.random.default_rng(0).normal(0, 10, images.shape)),
    "checkerboard": lambda images: clipped(images + 8.0 * (np.indices(images.shape[1:3]).sum(axis=0) % 2)[..., None]),
    "faint checkerboard": lambda images: clipped(
        images + 4.0 - 8 * (np.indices(images.shape[1:3]).sum(axis=0) % 2)[..., None]
    ),
    "compressed": lambda images: np.stack([compressed(image) for image in images]),
    "noise": lambda images: np.random.default_rng(0).integers(0, 256, images.shape, np.uint8),
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pack, np.ndarray]:
    """A pack of 300 handwritten digits, and 100 others."""
    every = open_pack("digits")
    images = np.asarray(every.images[np.random.default_rng(0).permutation(len(every.images))[:400]])
    return packed(images[:300], tmp_path_factory.mktemp("digits")), images[300:]


@pytest.fixture(scope="module")
def finder(digits: tuple[Pack, np.ndarray]) -> CopyFinder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ganvas.evaluation.copies.ENOUGH_TO_CALIBRATE", 60)  # a rough threshold
        patch.setattr("ganvas.evaluation.copies.versions", lambda: versions()[:40])  # no image is moved
        return CopyFinder(digits[0])


@pytest.mark.parametrize(("name", "like"), [("real", True), ("blurred", True), ("flat", False), ("noise", False)])
def test_that_images_unlike_the_data_are_no_copies_means_nothing(
    name: str, like: bool, digits: tuple[Pack, np.ndarray], finder: CopyFinder
) -> None:
    images = FAULTS[name](digits[1][:40])
    judged = Given(digits[0], images)
    judged.measures()
    copies = finder.judge(images, judged.unlike)
    assert copies.meaningful == like and not copies.caught
    assert name != "flat" or not finder.is_copy(images).any()
    assert ("no sign of copying" in copies.sentence) == like
    assert ("not meaningful: these images do not resemble the data" in copies.sentence) == (not like)
    facts = copy_facts(CopyResults(meaningful=copies.meaningful, authenticity=copies.authenticity))
    assert bool(facts) == like


class Details(nn.Module):
    """Means of areas of 8 pixels, and the deviation of differences of pixels, which counts more than all of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shades = x.mean(dim=1)
        fine = (shades[:, 1:, 1:] - shades[:, :-1, :-1]).std(dim=(1, 2))
        return torch.cat([F.avg_pool2d(shades, 8).flatten(1), 40 * fine[:, None]], dim=1)


@pytest.mark.parametrize(("name", "nothing"), [("real", False), ("noisy", False), ("noise", True), ("others", True)])
def test_images_that_only_noise_separates_from_the_data_resemble_it(name: str, nothing: bool, tmp_path: Path) -> None:
    """Features that see the noise of all images do not after a blur; of other contents they still do."""
    cpu = torch.device("cpu")
    features = Features("details", "0" * 8, 17, Details(), lambda images: images, "", cpu)
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(200, SIDE, SIDE, 1)), (0, 4, 4, 0))
    real, others = np.split(clipped(100 + 300 * smooth), [120])
    images = {
        "real": others,
        "noisy": clipped(others + rng.normal(0, 8, others.shape)),
        "noise": rng.integers(0, 256, others.shape, np.uint8),
        "others": others + np.uint8(70),
    }[name]
    judged = Given(packed(real, tmp_path), images)
    judged.networks["random"] = features
    assert unlike(features(judged.pack.images[judged.measured]), features(images)) == (name != "real")
    assert judged.resembles_nothing() == nothing


def test_blank_images_in_colour_are_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their score is."""
    monkeypatch.setattr("ganvas.evaluation.copies.ENOUGH_TO_CALIBRATE", 0)
    monkeypatch.setattr("ganvas.evaluation.copies.versions", lambda: versions()[:10])
    images = landscapes(210, SIDE, 3)
    finder = CopyFinder(packed(images, tmp_path))
    finder.threshold = 9.0
    tones = np.array([[200, 60, 40], [40, 160, 90], [90, 120, 220]], np.uint8)
    blank = np.broadcast_to(tones[:, None, None], (3, SIDE, SIDE, 3))
    assert not finder.is_copy(blank).any() and finder.is_copy(images[finder.training[:3]]).all()


@pytest.fixture
def labelled(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Handwritten digits with their labels, a third held out. Their classifier is trained once, in few steps."""
    monkeypatch.setattr("ganvas.evaluation.classifier.LEAST_STEPS", 60)
    every = open_pack("digits")
    assert every.labels is not None
    folder = tmp_path_factory.mktemp("labelled")
    np.savez(folder / "images.npz", images=every.images[:600], labels=every.labels[:600])
    return open_pack(folder / "images.npz", DataConfig(holdout=0.33))


@pytest.mark.parametrize(
    ("name", "missing", "words"),
    [
        ("real", [], "No class is clearly missing."),
        ("brighter", [], "No class is clearly missing."),
        ("without 3", ["3"], "Class missing or rare among the generated images: 3 ("),
        ("negative", [], "Classes cannot be evaluated: the generated images do not resemble the data."),
    ],
)
def test_classes_that_are_missing_are_named_and_no_others(
    name: str, missing: list[str], words: str, labelled: Pack
) -> None:
    assert labelled.labels is not None
    chosen = labelled.heldout
    if name == "without 3":
        others = chosen[labelled.labels[chosen] != 3]
        chosen = np.append(others[:149], chosen[labelled.labels[chosen] == 3][:1])
    images = np.asarray(labelled.images[chosen])
    images = {"brighter": clipped(images + 40.0), "negative": 255 - images}.get(name, images)
    judged = Given(labelled, images)
    found = results(judged)
    judged.unlike = True
    assert results(judged).missing == []  # of images unlike the data
    assert found.missing == missing and found.sentence.startswith(words)
    three = found.rows[3]
    assert three.generated_low <= three.generated_share <= three.generated_high


def test_enough_held_out_images_are_the_reference(
    digits: tuple[Pack, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganvas.evaluation.evaluate.ENOUGH_HELD_OUT", 30)
    judged = Given(digits[0], digits[1][:60])
    rows = measured(judged)
    assert judged.protocol().split == "held-out"
    assert judged.measured.tolist() == np.sort(digits[0].heldout).tolist()
    assert judged.others is not None and not set(judged.others) & set(digits[0].heldout)
    assert "kid_training" in rows and "kid_heldout" not in rows
    assert "30 real (held-out), 60 generated" in rows["kid"].protocol


def test_an_impossible_evaluation_is_refused_before_the_samples_are_made(
    digits: tuple[Pack, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = []
    monkeypatch.setattr(Drawn, "pixels", lambda self, *given: sampled.append(given))
    with pytest.raises(ConfigError, match="no feature network 'vgg'"):
        Given(*digits, features="vgg")
    monkeypatch.setattr("ganvas.evaluation.features.Features.load", lambda name, *args, **options: None)
    with pytest.raises(DataError, match="needs 2048 of each"):
        Given(*digits, features="inception-clean")
    assert not sampled


def test_the_time_of_a_third_network_is_expected(
    digits: tuple[Pack, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether images resemble the data is always judged by efficientnet-lite0."""
    monkeypatch.setattr(Features, "load", lambda name, *args, **options: SimpleNamespace(name=name))
    two, three = (Given(*digits, features=name).expected(100) for name in (DEFAULT_FEATURES, "dinov2"))
    assert three["Measures"] == two["Measures"] and three["Second network"] > 2 * two["Second network"]


def test_samples_are_truncated_as_the_protocol_says(digits: tuple[Pack, np.ndarray]) -> None:
    given = [Given(*digits, n=24, truncation=truncation) for truncation in (0.5, 1.0)]
    images = [FromGenerator.pixels(one.source, one.pack, 24, None, one.report) for one in given]
    for one, found in zip(given, images, strict=True):
        assert one.protocol().truncation == one.options.truncation
        expected = one.source.generator.sample(24, seed=one.options.seed, truncation=one.options.truncation)  # ty: ignore[missing-attribute]
        np.testing.assert_array_equal(found, to_pixels(expected))
    assert (images[0] != images[1]).any()


def test_a_checkerboard_that_edges_hide_in_the_spectrum_is_found() -> None:
    rng = np.random.default_rng(0)
    images = np.full((120, SIDE, SIDE, 1), 30, np.uint8)
    for image in images:
        for top, left, height, width in rng.integers(1, 16, (20, 4)):
            image[top : top + height, left : left + width] = rng.integers(20, 240)
    chequered = clipped(images[60:] + 8.0 * (np.indices((SIDE, SIDE)).sum(axis=0) % 2)[..., None] - 4)
    for fake, severity in ((images[60:], "ok"), (chequered, "bad")):
        found = examine(images[:60], fake)
        judged = {one.what: one for one in found.findings}
        assert judged["checkerboard"].severity == severity and judged["noise"].severity == "ok"
        assert max(row.worse.value for row in found.checkerboard) < 3  # the spectrum alone would not call it severe
    assert "an amplitude of 1.5% of the range" in judged["checkerboard"].sentence
    assert judged["sharpness"].sentence.startswith("Sharpness cannot be judged because of the checkerboard")


def test_blocks_of_compression_are_found() -> None:
    images = landscapes(120, SIDE, 1)
    real, others = images[:60], images[60:]
    seam = np.concatenate([others[:, :, :24], others[::-1, :, 24:]], axis=2)  # is at the border of a block
    for fake, severity in (
        (others, "ok"),
        (seam, "ok"),
        (np.stack([compressed(image) for image in others]), "bad"),
    ):
        judged = {one.what: one.severity for one in examine(real, fake).findings}
        assert judged["blocks"] == severity and judged["checkerboard"] == "ok"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("real", {}),
        ("speckled", {"noise": "bad", "checkerboard": "ok"}),
        ("checkerboard", {"checkerboard": "bad", "noise": "ok"}),
        ("faint checkerboard", {"checkerboard": "bad", "noise": "ok"}),
        ("blurred", {"noise": "ok", "checkerboard": "ok", "blocks": "ok"}),
        ("compressed", {"blocks": "bad", "noise": "ok", "checkerboard": "ok"}),
    ],
)
def test_patterns_that_strokes_hide_from_the_mean_are_found(
    name: str, found: dict[str, str], digits: tuple[Pack, np.ndarray]
) -> None:
    """Strokes have more power than faint noise everywhere in the spectrum; flat areas show it."""
    judged = examine(digits[0].images[digits[0].training[:100]], FAULTS[name](digits[1]))
    severities = {one.what: one.severity for one in judged.findings}
    assert found.items() <= severities.items()
    assert found or set(severities.values()) == {"ok"}
    sharp = any(one.sentence.startswith("As sharp as real images") for one in judged.findings)
    assert sharp == (name == "real")
