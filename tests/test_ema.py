"""ema.py: half-lives in images, and averages of any width afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ganvas.ema import EMA, WIDTHS, PowerAverages, combination, exponent, half_life_at, overlap


def network(value: float) -> nn.Module:
    layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    layers.register_buffer("count", torch.tensor([value]))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(value)
    return layers


@pytest.mark.parametrize("batch", [1, 10, 250, 1000])
def test_after_one_half_life_half_of_the_old_is_left(batch):
    ema, now = EMA(network(1.0)), network(0.0)
    for _ in range(1000 // batch):
        ema.update(now, batch, half_life=1000)
    for parameter in ema.average.parameters():
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 0.5), rtol=1e-4, atol=0)


def test_average_follows_the_formula():
    ema, expected = EMA(network(0.0)), 0.0
    for value in (1.0, -2.0, 5.0):
        ema.update(network(value), batch=32, half_life=64)
        keep = 0.5 ** (32 / 64)
        expected = keep * expected + (1 - keep) * value
    assert ema.average[0].weight.flatten().tolist() == pytest.approx([expected] * 6)


def test_average_is_a_frozen_copy_with_the_newest_buffers():
    source = network(1.0)
    ema = EMA(source)
    ema.update(network(3.0), batch=1, half_life=1e9)
    assert ema.average.count.item() == 3.0
    assert not ema.average.training and source.training
    assert not any(parameter.requires_grad for parameter in ema.average.parameters())
    assert all(parameter.requires_grad and (parameter == 1).all() for parameter in source.parameters())


def test_half_life_ramps_up_to_its_longest():
    assert half_life_at(0, 10_000) == 1.0
    assert half_life_at(1000, 10_000) == 200
    assert half_life_at(50_000, 10_000) == 10_000
    assert half_life_at(10**9, 10_000) == 10_000
    lives = [half_life_at(seen, 10_000) for seen in range(0, 400_000, 1000)]
    assert lives == sorted(lives)


# Averages for afterwards.


def test_exponents_are_those_of_the_published_widths():
    assert exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize("width", [0.03, 0.1, 0.25])
def test_width_is_the_standard_deviation_of_the_memory(width):
    times = (np.arange(100_000) + 0.5) / 100_000
    density = (exponent(width) + 1) * times ** exponent(width)
    mean = (times * density).mean()
    assert ((times - mean) ** 2 * density).mean() ** 0.5 == pytest.approx(width, rel=1e-3)


def test_overlap_is_the_integral_of_the_product():
    times = (np.arange(200_000) + 0.5) / 200_000 * 8
    first, second = (np.where(times < end, (g + 1) * times**g / end ** (g + 1), 0) for end, g in ((5, 3), (8, 6)))
    assert overlap(5, 3, 8, 6) == pytest.approx((first * second).mean() * 8, rel=1e-4)


def weights_of(network: nn.Module) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).double().numpy()


@pytest.mark.parametrize("width", [0.05, 0.07, 0.1, 0.15])
def test_any_width_is_reconstructed_from_the_stored_two(width):
    """Weights that wander: the combination of snapshots agrees with the average that was never kept."""
    torch.manual_seed(0)
    network, steps = nn.Linear(3, 2), 400
    powers, wanted = PowerAverages(network), np.zeros(8)
    stored, kept = [], []
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        powers.update(network, 16, 16 * step)
        keep = (1 - 1 / step) ** (exponent(width) + 1)
        wanted = keep * wanted + (1 - keep) * weights_of(network)
        if step % 25 == 0:
            for one, average in zip(WIDTHS, powers.averages, strict=True):
                stored.append((16.0 * step, one))
                kept.append(weights_of(average))
    rebuilt = combination(stored, width) @ np.stack(kept)
    spread = np.abs(weights_of(network) - wanted).max()
    assert np.abs(rebuilt - wanted).max() < 0.05 * spread


def test_no_half_life_is_no_average():
    network = nn.Linear(3, 2)
    ema = EMA(network)
    with torch.no_grad():
        network.weight.add_(1)
    ema.update(network, 16, half_life_at(1000, 0.0))
    assert torch.equal(ema.average.weight, network.weight)
