"""What is special in the compact network: the gradient that never vanishes, and the smoothing against checkerboards."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ganvas.config import ModelConfig
from ganvas.models import build, compact
from ganvas.models.compact import LeakyTanh, smooth


def test_leaky_tanh_has_the_values_of_tanh_and_a_gradient_everywhere() -> None:
    x = torch.tensor([-9.0, -1.0, 0.0, 0.5, 9.0], dtype=torch.float64, requires_grad=True)
    y = LeakyTanh.apply(x)
    assert torch.equal(y, torch.tanh(x))
    y.sum().backward()
    torch.testing.assert_close(x.grad, 1 - 0.9 * torch.tanh(x).square())
    assert x.grad.min() > 0.09


def test_smoothing_removes_the_checkerboard_and_keeps_flat_pictures() -> None:
    checkerboard = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    for towards_end in (False, True):
        inner = smooth(checkerboard, towards_end)[..., 1:-1, 1:-1]
        assert torch.equal(inner, torch.zeros_like(inner))
        assert torch.equal(smooth(torch.full((1, 2, 5, 7), 0.25), towards_end), torch.full((1, 2, 5, 7), 0.25))


@pytest.mark.parametrize("side", [64, 128])
def test_smoothing_alternates_so_that_the_picture_is_not_shifted(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    directions = []
    monkeypatch.setattr(compact, "smooth", lambda x, towards_end: directions.append(towards_end) or x)
    generator, _ = build(ModelConfig("compact", side, side, 1, z_dim=8, base=8))
    generator(torch.zeros(1, 8))
    assert len(directions) >= 2 and all(one != other for one, other in pairwise(directions))


def test_sampling_and_training_give_the_same_pictures() -> None:
    torch.manual_seed(0)
    generator, _ = build(ModelConfig("compact", 28, 28, 1, 10, base=16, blocks=2))
    z, labels = torch.randn(4, 64), torch.arange(4)
    trained = generator(z, labels)
    with torch.no_grad():
        assert torch.equal(generator(z, labels), trained)
