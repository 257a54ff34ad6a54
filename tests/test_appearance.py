"""evaluation/appearance.py: functions of a batch, by hand."""

from __future__ import annotations

import pytest
import torch

from ganvas.evaluation.appearance import fine_lines, laplacian


def test_the_laplacian_is_flat_on_ramps_and_has_the_variance_of_noise() -> None:
    """Of white noise: 1 for each of four neighbours and 16 for the middle."""
    ramp = torch.arange(48.0) + 3 * torch.arange(64.0)[:, None]
    noise = torch.randn((64, 48), generator=torch.Generator().manual_seed(0))
    assert laplacian(torch.stack([ramp, noise])).tolist() == pytest.approx([0, 20], abs=1.5)


@pytest.mark.parametrize("axis", [1, 2])
def test_lines_have_the_power_of_their_frequency(axis: int) -> None:
    """A wave of period 4 along the axis, on sides that are no multiples of 8."""
    wave = torch.cos(torch.pi / 2 * torch.arange(43.0))
    power = fine_lines((wave if axis == 2 else wave[:, None]).expand(1, 43, 43), axis)[0]
    assert power.shape == (21,) and power.argmax() == 10
    assert power[10].item() == pytest.approx(20**2, rel=1e-4) and power.sum() - power[10] < 1e-4
