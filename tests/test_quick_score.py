"""judge/quick.py: a score that is near 0 for equal sets and grows with every fault of a generator."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.config import ModelConfig
from ganvas.data.pack import Pack, open_pack
from ganvas.generator import Generator, ModelInfo
from ganvas.judge.quick import patches, quick_score, sliced_wasserstein
from ganvas.models import build


@pytest.fixture(scope="module")
def digits() -> Pack:
    return open_pack("digits")


@pytest.fixture(scope="module")
def halves(digits: Pack) -> tuple[Tensor, Tensor]:
    """Two sets of 256 different digits (256, 1, 32, 32) in [-1, 1]."""
    order = np.random.default_rng(1).permutation(digits.num_images)[:512]
    pictures = torch.from_numpy(digits.images[np.sort(order)].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    pictures = pictures[torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    return pictures[:256], pictures[256:]


def test_the_same_pictures_score_nearly_nothing(halves: tuple[Tensor, Tensor]) -> None:
    first, second = halves
    floor = sliced_wasserstein(first, second)
    assert 0 < floor < 0.1
    shuffled = first[torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    assert sliced_wasserstein(first, shuffled) < 0.1  # the order does not count, only which patches are drawn


def blurred(pictures: Tensor, amount: int) -> Tensor:
    for _ in range(amount):
        pictures = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    return pictures


def noisy(pictures: Tensor, amount: float) -> Tensor:
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return (pictures + amount * noise).clamp(-1, 1)


def collapsed(pictures: Tensor, keep: int) -> Tensor:
    """Only the first `keep` pictures, again and again."""
    return pictures[torch.arange(len(pictures)) % keep]


@pytest.mark.parametrize(
    ("fault", "amounts"),
    [(blurred, (1, 3, 8)), (noisy, (0.2, 0.4, 0.8)), (collapsed, (8, 1)), (torch.add, (0.1, 0.3, 0.6))],
    ids=["blur", "noise", "collapse", "brightness"],
)
def test_score_grows_with_the_fault(halves: tuple[Tensor, Tensor], fault, amounts: tuple) -> None:
    real, fake = halves
    scores = [sliced_wasserstein(real, fake), *(sliced_wasserstein(real, fault(fake, amount)) for amount in amounts)]
    assert scores == sorted(scores), scores
    assert scores[-1] > 2 * scores[0], scores


def test_score_is_the_same_each_time_and_small_sets_will_do(halves: tuple[Tensor, Tensor]) -> None:
    first, second = halves
    assert sliced_wasserstein(first, second) == sliced_wasserstein(first, second)
    assert sliced_wasserstein(first[:40], second[:40]) < 0.3


def test_patches_are_pieces_of_the_pictures() -> None:
    pictures = torch.arange(2 * 3 * 9 * 8.0).view(2, 3, 9, 8)
    rows = patches(pictures, torch.Generator().manual_seed(0)).view(2, -1, 3, 7, 7)
    assert rows.shape[1] == 16
    for picture, found in zip(pictures, rows, strict=True):
        every = {
            tuple(p.flatten().tolist()) for y in range(3) for x in range(2) for p in [picture[:, y : y + 7, x : x + 7]]
        }
        assert {tuple(one.flatten().tolist()) for one in found} <= every


def generator_for(pack: Pack, classes: list[str]) -> Generator:
    torch.manual_seed(0)
    config = ModelConfig("compact", pack.height, pack.width, pack.channels, len(classes), z_dim=8, base=8)
    return Generator(build(config)[0], ModelInfo(config, classes, depth=pack.depth), "cpu")


@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "plain"])
def test_quick_score_of_a_generator_against_a_pack(digits: Pack, labelled: bool) -> None:
    generator = generator_for(digits, digits.classes if labelled else [])
    score = quick_score(digits)
    first = score(generator)
    assert first == score(generator) and 0.1 < first < 10


def test_quick_score_of_few_large_and_16_bit_pictures(digits: Pack) -> None:
    images = digits.images[:5].astype(np.uint16) * 257
    few = dataclasses.replace(digits, images=images, labels=None)
    assert few.depth == 16
    assert 0.1 < quick_score(few)(generator_for(few, [])) < 10


def test_quick_score_asks_for_the_labels_of_the_pictures(digits: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that draws the asked class perfectly is as good as another half of the data."""
    generator = generator_for(digits, digits.classes)
    by_class = [np.flatnonzero(digits.labels == i) for i in range(10)]

    def perfect(num: int, seed: int, label: list[int]) -> Tensor:
        chosen = [by_class[one][-1 - i % 100] for i, one in enumerate(label)]
        return torch.from_numpy(digits.images[chosen].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1

    monkeypatch.setattr(generator, "sample", perfect)
    assert quick_score(digits)(generator) < 0.1
