"""small_classifier.py and classifier.py: the classifier of a pack's own labels, its cache, its use as features."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.errors import ConfigError, DataError
from ganvas.evaluation import classifier
from ganvas.evaluation.classifier import classifier_for, spread_over_classes, steps_for
from ganvas.evaluation.features import Features
from ganvas.evaluation.small_classifier import FEATURES, Classifier, logits, prepared, train_classifier, work_size


def bars(
    num: int, height: int = 16, width: int = 20, channels: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images (N, H, W, C) uint8 of a bar that lies (0), stands (1), or a square (2), and their labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (num, height, width, channels), np.uint8)
    labels = np.arange(num) % 3
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(1, height - 6), rng.integers(1, width - 6)
        lying, standing = (slice(y, y + 2), slice(None)), (slice(None), slice(x, x + 2))
        rows, columns = (lying, standing, (slice(y, y + 5), slice(x, x + 5)))[label]
        image[rows, columns] = 200
    return images, labels


def packed(folder: Path, images: np.ndarray, labels: np.ndarray, holdout: float, levels: str | None = None) -> Pack:
    np.savez(folder / "set.npz", images=images, labels=labels)
    return open_pack(folder / "set.npz", DataConfig(holdout=holdout, levels=levels), folder=folder / "pack")


def labels_of(pack: Pack) -> np.ndarray:
    assert pack.labels is not None
    return pack.labels


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return packed(tmp_path_factory.mktemp("bars"), *bars(120), holdout=0.25)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "LEAST_STEPS", 40)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """For tests in which it does not matter what the classifier learns."""
    monkeypatch.setattr(classifier, "LEAST_STEPS", 4)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))


# ---- what it learns ----


def test_it_learns_the_classes_of_a_pack_and_says_how_well(pack: Pack) -> None:
    seen = []
    classifier = classifier_for(pack, "cpu", lambda what, done, total: seen.append((what, done, total)))
    assert classifier.classes == pack.classes
    assert classifier.num_trained == pack.num_training
    assert classifier.num_tested == len(pack.heldout) > 20
    assert classifier.confusion.sum(axis=1).tolist() == np.bincount(labels_of(pack)[pack.heldout]).tolist()
    assert classifier.accuracy.value > 0.9
    assert 0.7 < classifier.accuracy.low <= classifier.accuracy.value <= classifier.accuracy.high <= 1
    assert seen[-1][0] == "training the classifier"
    assert seen[-1][1] == seen[-1][2]


def test_the_confusions_are_of_held_out_pictures_only(pack: Pack) -> None:
    """Labels of the held-out part turned on: all its images are then taken for other classes."""
    turned = labels_of(pack).copy()
    turned[pack.heldout] = (turned[pack.heldout] + 1) % 3
    classifier = classifier_for(dataclasses.replace(pack, labels=turned), "cpu")
    assert classifier.accuracy.value < 0.1
    assert np.trace(np.roll(classifier.confusion, 1, axis=1)) > 0.9 * classifier.num_tested


@pytest.mark.usefixtures("few_steps")
def test_a_pack_without_held_out_pictures_is_tested_on_a_tenth_that_is_not_trained_on(tmp_path: Path) -> None:
    pack = packed(tmp_path, *bars(90), holdout=0.0)
    classifier = classifier_for(pack, "cpu")
    assert (classifier.num_trained, classifier.num_tested) == (81, 9)


def test_dark_pictures_of_16_bit_are_learnt_as_well(tmp_path: Path) -> None:
    images, labels = bars(120)
    pack = packed(tmp_path, images.astype(np.uint16) * 4, labels, holdout=0.25, levels="0-65535")
    assert pack.depth == 16
    assert pack.images.max() < 65536 / 50
    assert classifier_for(pack, "cpu").accuracy.value > 0.9


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 40), (1, 8, 64), (3, 8, 8)])
def test_any_size_and_number_of_channels(shape: tuple[int, int, int]) -> None:
    features, answers = Classifier(*shape, 7).eval()(torch.zeros(2, *shape))
    assert features.shape == (2, FEATURES)
    assert answers.shape == (2, 7)


def test_the_same_seed_gives_the_same_network_and_leaves_the_random_state_alone() -> None:
    images, labels = bars(60)
    pictures, labels = prepared(images, np.arange(60)), torch.from_numpy(labels)
    before = torch.random.get_rng_state()
    runs = [train_classifier(pictures, labels, 3, steps=8, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["head.weight"], runs[2]["head.weight"])


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_any_number_of_steps_trains(steps: int) -> None:
    images, labels = bars(60)
    pictures, labels = prepared(images, np.arange(60)), torch.from_numpy(labels)
    untrained, trained = (train_classifier(pictures, labels, 3, steps=num, seed=0) for num in (0, steps))
    assert torch.isfinite(trained.head.weight).all() and not torch.equal(untrained.head.weight, trained.head.weight)


@pytest.mark.parametrize("mirror", [False, True])
def test_images_are_mirrored_only_where_that_is_asked_for(mirror: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network is shown, not what it learns from it: that depends on the processor's rounding."""
    pictures = torch.full((100, 1, 8, 8), -1.0)
    pictures[:, :, :, :3] = 1  # bright on the left
    shown: list[torch.Tensor] = []
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, x: (shown.append(x.clone()), forward(self, x))[1])
    train_classifier(pictures, torch.arange(100) % 2, 2, steps=10, seed=0, policy=(), mirror=mirror)
    on_the_right = (torch.cat(shown)[:, 0, :, 5:] == 1).all(dim=(1, 2)).float().mean()
    assert 0.4 < on_the_right < 0.6 if mirror else on_the_right == 0


# ---- how images are prepared ----


def test_large_pictures_are_reduced_in_proportion_and_small_ones_left_alone() -> None:
    assert work_size(28, 28) == (28, 28)
    assert work_size(800, 400) == (64, 32)
    assert work_size(100, 4000) == (2, 64)
    images, _ = bars(3, 96, 128)
    reduced = [Image.fromarray(image[:, :, 0]).resize((64, 48), Image.Resampling.BICUBIC) for image in images]
    ready = prepared(images, np.array([2, 0]))
    assert ready.shape == (2, 1, 48, 64)
    expected = np.stack([np.asarray(reduced[2]), np.asarray(reduced[0])])  # rounded between the two passes, too
    np.testing.assert_allclose((ready[:, 0].float() + 1) * 127.5, expected, atol=2.0)


def test_arrays_and_tensors_of_the_same_pictures_are_prepared_alike() -> None:
    images, _ = bars(4, channels=3)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    order = np.array([3, 1])
    assert torch.equal(prepared(images, order), prepared(tensor, order))
    clear = np.concatenate([images, np.zeros_like(images[..., :1])], axis=3)
    assert torch.equal(prepared(clear, order), torch.ones(2, 3, 16, 20, dtype=torch.float16))


def test_too_many_pictures_are_drawn_evenly_from_the_classes() -> None:
    labels = np.array([0] * 100 + [1] * 3 + [2] * 20)
    chosen = spread_over_classes(labels, 23)
    assert np.bincount(labels[chosen]).tolist() == [10, 3, 10]
    assert (np.diff(chosen) > 0).all()
    assert spread_over_classes(labels, 1000).tolist() == list(range(123))


def test_the_budget_is_four_epochs_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert steps_for(60_000, 28, 28) == 2400
    assert steps_for(10_000, 28, 28) == 400
    assert steps_for(60, 28, 28) == 200
    assert 400 < steps_for(1_000_000, 64, 64) < 500


# ---- the cache ----


@pytest.mark.usefixtures("few_steps")
def test_the_second_time_it_comes_from_the_cache(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    first = classifier_for(pack, "cpu")
    monkeypatch.setattr(classifier, "train_classifier", None)
    again = classifier_for(pack, "cpu")
    assert again.hash == first.hash
    assert (again.confusion == first.confusion).all()
    assert again.num_trained == first.num_trained
    pictures = prepared(pack.images, pack.heldout)
    assert torch.equal(logits(again.network, pictures), logits(first.network, pictures))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("damage", ["cut", "one byte"])
def test_a_damaged_file_in_the_cache_is_made_anew(damage: str, pack: Pack) -> None:
    first = classifier_for(pack, "cpu")
    path = classifier.place_of(pack)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:1000]
    else:
        content[-100] ^= 64
    path.write_bytes(content)
    again = classifier_for(pack, "cpu")
    assert again.hash == first.hash
    assert path.read_bytes() != content


def test_other_pictures_have_another_place(pack: Pack, tmp_path: Path) -> None:
    other = packed(tmp_path, *bars(120, seed=1), holdout=0.25)
    assert classifier.place_of(other) != classifier.place_of(pack)


# ---- as features ----


@pytest.mark.usefixtures("few_steps")
def test_its_features_and_logits_are_the_networks_on_any_kind_of_picture(pack: Pack) -> None:
    features = Features.load("classifier", device="cpu", pack=pack)
    rows, answers = features.both(pack.images[pack.heldout])
    assert rows.shape == (len(pack.heldout), features.num_features) == (len(pack.heldout), FEATURES)
    assert answers.shape == (len(pack.heldout), features.num_logits) == (len(pack.heldout), 3)
    classifier = classifier_for(pack, "cpu")
    hits = answers.argmax(axis=1) == labels_of(pack)[pack.heldout]
    assert hits.mean() == classifier.accuracy.value
    generated = torch.from_numpy(pack.images[pack.heldout]).permute(0, 3, 1, 2).float() / 127.5 - 1
    np.testing.assert_allclose(features(generated), rows, atol=1e-4)
    for word in (classifier.hash[:8], "16x20", "3 classes", f"{classifier.num_trained} images"):
        assert word in features.protocol


# ---- what cannot be ----


def test_a_pack_without_labels_or_with_one_class_is_refused(pack: Pack) -> None:
    with pytest.raises(DataError, match="no labels"):
        classifier_for(dataclasses.replace(pack, labels=None))
    one = dataclasses.replace(pack.record, classes=["one"])
    with pytest.raises(DataError, match="a single class"):
        classifier_for(dataclasses.replace(pack, labels=np.zeros_like(pack.labels), record=one))
    with pytest.raises(ConfigError, match="give the pack"):
        Features.load("classifier", device="cpu")


def test_a_class_without_training_pictures_is_named(pack: Pack) -> None:
    without = dataclasses.replace(pack, heldout=np.flatnonzero(pack.labels == 1))
    with pytest.raises(DataError, match=f"class {pack.classes[1]!r} .* has no images"):
        classifier_for(without)
