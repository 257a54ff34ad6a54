"""evaluation/random_network.py: the same on every machine, any image, and distances in it that order what is worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.evaluation.distances import kid, kid_interval
from ganvas.evaluation.features import Features
from ganvas.evaluation.random_network import RandomNetwork, network_input, textures


@pytest.fixture(scope="module")
def digits() -> Pack:
    """1,797 real handwritten digits of 8x8 pixels."""
    return open_pack("digits")


@pytest.fixture(scope="module")
def features(digits: Pack) -> Features:
    return Features.load("random", device="cpu", pack=digits)


@pytest.fixture(scope="module")
def unscaled() -> Features:
    """Without a pack: scaled by textures."""
    return Features.load("random", device="cpu")


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def test_the_weights_are_the_same_on_every_machine() -> None:
    """Figures written down, of weights drawn by NumPy."""
    state = RandomNetwork().state_dict()
    assert state["convs.0.weight"][-1, 0, 0, :3].tolist() == pytest.approx(
        [-0.0553426, -0.1446881, 0.2132928], abs=1e-6
    )
    assert state["convs.3.weight"][5, 6, 1].tolist() == pytest.approx([0.0406813, 0.1251973, 0.1189559], abs=1e-6)
    assert not torch.equal(state["convs.0.weight"], RandomNetwork(seed=1).state_dict()["convs.0.weight"])


def test_each_feature_has_zero_mean_and_unit_deviation_on_the_calibration_pictures(
    digits: Pack, features: Features
) -> None:
    places = np.linspace(0, digits.num_training - 1, 500).astype(int)
    rows = np.sinh(features(digits.images[digits.training[places]]))
    deviation = rows.std(axis=0)
    assert np.abs(rows.mean(axis=0)).max() < 1e-3
    assert (np.abs(deviation - 1) < 0.01).mean() > 0.97  # the others see nothing in gray digits
    assert deviation.max() < 1.01


@pytest.mark.parametrize("shape", [(8, 8, 1), (33, 20, 3), (200, 100, 4), (800, 16, 1)])
def test_any_size_and_channels(shape: tuple[int, int, int], unscaled: Features) -> None:
    features = unscaled
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    rows = features(pixels)
    assert rows.shape == (3, features.num_features)
    assert np.isfinite(rows).all()
    if shape[2] == 1:
        np.testing.assert_array_equal(rows, features(pixels.repeat(3, axis=3)))


def test_pictures_are_resized_only_where_they_must_be() -> None:
    assert network_input(torch.zeros(1, 3, 17, 128)).shape[2:] == (17, 128)
    assert network_input(torch.zeros(1, 3, 8, 8)).shape[2:] == (16, 16)
    assert network_input(torch.zeros(1, 3, 400, 800)).shape[2:] == (64, 128)


def test_textures_have_amplitudes_that_fall_with_the_frequency() -> None:
    gray = textures(50).mean(dim=1)
    power = torch.fft.rfft2(gray).abs().square().mean(dim=0)[0]
    assert 2.5 < power[4] / power[8] < 6  # 1 / f in amplitude is 1 / f^2 in power: 4
    assert 2.5 < power[8] / power[16] < 6


def test_the_protocol_says_where_the_scale_comes_from(digits: Pack, features: Features, unscaled: Features) -> None:
    assert f"500 training images of the pack {digits.hash[:8]}" in features.protocol
    assert "1/f textures" in unscaled.protocol


def test_two_real_draws_are_at_no_distance_and_worse_pictures_further_away(digits: Pack, features: Features) -> None:
    order = np.random.default_rng(0).permutation(digits.num_images)
    real, other = features(digits.images[order[:300]]), digits.images[order[300:600]]
    assert digits.labels is not None
    labels = digits.labels[order[300:600]]
    assert kid_interval(real, features(other)).low <= 0 <= kid_interval(real, features(other)).high
    pictures = as_tensor(other)
    rng = torch.Generator().manual_seed(0)
    noisy = [(pictures + s * torch.randn(pictures.shape, generator=rng)).clamp(-1, 1) for s in (0.1, 0.2, 0.4)]
    ones, place = np.resize(np.flatnonzero(labels == 1), 300), np.arange(300)
    shares = [np.where(place < share * 300, ones, place) for share in (0.2, 0.4, 0.8)]
    softened = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    for worse in (
        [features(step) for step in noisy],
        [features((1 - part) * pictures + part * softened) for part in (0.3, 0.6, 1.0)],
        [features(other[picks]) for picks in shares],
    ):
        found = [kid(real, rows) for rows in worse]
        assert sorted(found) == found
        assert kid_interval(real, worse[1]).low > 0


def test_it_orders_corruptions_of_real_pictures(shared_data: Path) -> None:
    pack = open_pack(shared_data / "comic_faces", DataConfig(size="28", limit=600, labels="none"))
    features = Features.load("random", device="cpu", pack=pack)
    order = np.random.default_rng(0).permutation(pack.num_images)
    real, pictures = features(pack.images[order[:300]]), as_tensor(pack.images[order[300:]])
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(pictures.shape, generator=rng)
    rows = [features((pictures + s * noise).clamp(-1, 1)) for s in (0, 0.1, 0.2, 0.4)]
    intervals = [kid_interval(real, row) for row in rows]
    assert intervals[0].low <= 0 <= intervals[0].high
    assert intervals[0].value < intervals[1].value < intervals[2].value < intervals[3].value
    assert intervals[2].low > 0
