"""evaluation/training_score.py: the vitals of a generator, each of which answers to its fault."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.data import Pack, open_pack
from ganvas.evaluation.artefacts import checkerboard
from ganvas.evaluation.training_score import LEAST_JUDGED, TrainingScorer
from ganvas.generator import Generator
from ganvas.model_file import ModelInfo


class Shows(nn.Module):
    """A generator that shows given images, one after the other, whatever the latents."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.pictures, self.at = pictures, 0
        self.labels: list[int] = []

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        self.labels += [] if labels is None else labels.tolist()
        places = torch.arange(self.at, self.at + len(z)) % len(self.pictures)
        self.at += len(z)
        return self.pictures[places]


@pytest.fixture(scope="module")
def digits() -> Pack:
    return open_pack("digits")


@pytest.fixture
def judge(digits: Pack) -> TrainingScorer:
    return TrainingScorer(digits)


def tensor(pack: Pack, indices: np.ndarray) -> Tensor:
    return torch.from_numpy(pack.images[indices].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1


def shows(pictures: Tensor) -> Generator:
    config = ModelConfig("compact", *pictures.shape[2:], channels=pictures.shape[1], z_dim=8)
    return Generator(Shows(pictures), ModelInfo(config))


def test_other_real_pictures_are_found_good(judge: TrainingScorer, digits: Pack) -> None:
    vitals = judge(shows(tensor(digits, digits.heldout)))
    assert abs(vitals["score"]) < 2 * vitals["margin"]
    assert vitals["precision"] > 0.7 and vitals["recall"] > 0.7
    assert (
        0.85 < vitals["diversity"] < 1.15 and 0.8 < vitals["checkerboard"] < 1.25 and 0.8 < vitals["sharpness"] < 1.25
    )
    assert vitals["near"] < 0.06 and "change" not in vitals


def test_images_are_asked_for_with_the_labels_of_the_real_ones(digits: Pack) -> None:
    assert digits.labels is not None
    ones = dataclasses.replace(digits, labels=np.minimum(digits.labels, 1))  # nine of ten have label 1
    network = Shows(tensor(digits, digits.heldout))
    config = ModelConfig("compact", digits.height, digits.width, 1, len(digits.classes), z_dim=8)
    TrainingScorer(ones)(Generator(network, ModelInfo(config, digits.classes)))
    assert 0.85 < np.mean(network.labels) < 0.95


def test_each_fault_shows_in_its_vital(judge: TrainingScorer, digits: Pack) -> None:
    good = tensor(digits, digits.heldout)
    base = judge(shows(good))["score"]
    collapsed = judge(shows(good[:1]))
    assert collapsed["diversity"] < 0.01 and collapsed["score"] > base + 2 * collapsed["margin"]
    striped = good.clone()
    striped[..., ::2] += 0.3
    assert judge(shows(striped))["checkerboard"] > 3
    noisy = good + 0.3 * torch.randn(good.shape, generator=torch.Generator().manual_seed(0))
    assert judge(shows(noisy))["sharpness"] > 1.5
    copies = tensor(digits, digits.training[:256])
    assert judge(shows(copies))["near"] > 0.9


def test_the_change_since_the_last_look(judge: TrainingScorer, digits: Pack) -> None:
    good = tensor(digits, digits.heldout)
    judge(shows(good))
    assert judge(shows(good))["change"] == 0
    assert judge(shows(good + 0.2))["change"] == pytest.approx(0.1, rel=1e-4)


def test_a_checkerboard_too_faint_to_be_seen_does_not_count(judge: TrainingScorer, digits: Pack) -> None:
    """Blank images have no other power, so the least regularity would stand out of them without end."""
    faint = torch.zeros(64, *tensor(digits, digits.heldout[:1]).shape[1:])
    faint[..., ::2] += 1e-4
    assert checkerboard(faint)[2] > 1e3
    assert judge(shows(faint))["checkerboard"] < 1.1


def test_where_too_few_are_set_aside_training_pictures_say_what_is_near_by_chance(digits: Pack) -> None:
    few = dataclasses.replace(digits, heldout=digits.heldout[::5])
    judge = TrainingScorer(few)
    assert len(few.heldout) < LEAST_JUDGED
    assert judge(shows(tensor(few, few.training[:256])))["near"] > 0.9
    assert judge(shows(tensor(few, few.heldout)))["near"] < 0.1


def test_with_hardly_any_pictures_nothing_is_said_of_nearness(digits: Pack) -> None:
    tiny = dataclasses.replace(digits, images=digits.images[:45], labels=None, heldout=np.arange(5))
    assert "near" not in TrainingScorer(tiny)(shows(tensor(digits, digits.heldout)))
