"""ema.py: half-lives in images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ganvas.ema import EMA, half_life_at


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
    assert half_life_at(0, 10_000, 0.05) == 1.0
    assert half_life_at(1000, 10_000, 0.05) == 50
    assert half_life_at(200_000, 10_000, 0.05) == 10_000
    assert half_life_at(10**9, 10_000, 0.05) == 10_000
    lives = [half_life_at(seen, 10_000, 0.05) for seen in range(0, 400_000, 1000)]
    assert lives == sorted(lives)
