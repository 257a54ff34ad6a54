"""The residual networks: widths and groups, open branches, bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.losses import gradient_norm_exact
from ganvas.models import build as build_any
from ganvas.models.residual import Block, build, group, widths

CLASSES = 3


def config(size: tuple[int, int] = (28, 28), channels: int = 3, num_classes: int = 0, **more) -> ModelConfig:
    return ModelConfig("residual", *size, channels, num_classes, **{"z_dim": 8, "base": 16, **more})


def networks(config: ModelConfig, seed: int = 0, trained: bool = False) -> tuple[nn.Module, nn.Module]:
    """trained: weights away from their start, where the branches are shut and hide what lies in them."""
    torch.manual_seed(seed)
    pair = build(config)
    if trained:
        with torch.no_grad():
            for parameter in [*pair[0].parameters(), *pair[1].parameters()]:
                parameter.add_((0.5 if parameter.ndim == 0 else 0.05) * torch.randn_like(parameter))
    return pair


def inputs(config: ModelConfig, num: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """(z, images of large areas and soft edges as real ones are, labels)."""
    noise = torch.Generator().manual_seed(1)
    z = torch.randn(num, config.z_dim, generator=noise)
    coarse = torch.randn(num, config.channels, config.height // 8, config.width // 8, generator=noise)
    coarse += torch.randn(num, config.channels, 1, 1, generator=noise)
    pictures = (F.interpolate(coarse, (config.height, config.width), mode="bicubic") / 2).clamp(-1, 1)
    return z, pictures, torch.arange(num) % CLASSES if config.num_classes else None


# How wide, and in what groups.


@pytest.mark.parametrize(
    ("base", "widest", "expected"),
    [
        (32, 0, [256, 256, 128, 64, 32]),  # eight times the base
        (32, 256, [256, 256, 128, 64, 32]),
        (192, 768, [768, 768, 768, 384, 192]),
        (384, 1000, [992, 992, 992, 768, 384]),  # `widest` is never passed: rounded down
        (20, 0, [256, 256, 128, 64, 32]),  # the base is rounded up
        (64, 32, [32, 32, 32, 32, 32]),
        (16, 10, [16, 16, 16, 16, 16]),  # no less than one group
    ],
)
def test_widths(base, widest, expected):
    assert widths(config(base=base, widest=widest), 5) == expected


@pytest.mark.parametrize(
    ("maps", "expected"),
    [(16, 16), (32, 16), (64, 16), (80, 16), (96, 32), (128, 32), (192, 64), (208, 32), (768, 64), (1024, 64)],
)
def test_groups_grow_with_the_width(maps, expected):
    assert group(maps) == expected
    with torch.device("meta"):
        mix = Block(maps, config(), 1).mix
    assert mix.in_channels == 2 * maps and mix.in_channels // mix.groups == expected


def test_any_width_has_whole_groups():
    assert all(2 * maps % group(maps) == 0 for maps in range(16, 2049, 16))


def test_no_stage_is_wider_than_asked():
    with torch.device("meta"):
        for network in build(config((64, 64), base=32, widest=96)):
            blocks = [module for module in network.modules() if isinstance(module, Block)]
            assert {block.contract.out_channels for block in blocks} == {32, 64, 96}


# Beyond the conventions that tests/test_models.py tests of every network.


def test_penalty_is_exact():
    """The double backward agrees with a difference quotient, in float64."""
    shape = config((9, 8), 1)
    discriminator = networks(shape, trained=True)[1].double()
    pictures = torch.rand(1, 1, 9, 8, dtype=torch.float64)
    weight = dict(discriminator.named_parameters())["blocks.0.0.mix.weight"]

    def penalty() -> Tensor:
        return gradient_norm_exact(discriminator, pictures, None).sum()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    step = 1e-3 * gradient
    with torch.no_grad():
        weight.add_(step)
    above = penalty().item()
    with torch.no_grad():
        weight.sub_(2 * step)
    below = penalty().item()
    assert (above - below) / 2 == pytest.approx((gradient * step).sum().item(), rel=1e-3)
    assert gradient.abs().max() > 0


def test_neighbours_and_batch_size_change_nothing_with_open_branches():
    shape = config((45, 37), 3, CLASSES)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, labels = inputs(shape, 4)
    with torch.no_grad():
        for network, given in ((generator, z), (discriminator, pictures)):
            whole = network(given, labels)
            for i in (0, 3):
                alone = network(given[i : i + 1], None if labels is None else labels[i : i + 1])
                torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-4, atol=1e-5)
            changed = given.clone()
            changed[1] = -given[1]
            after = network(changed, labels)
            torch.testing.assert_close(after[[0, 2, 3]], whole[[0, 2, 3]], rtol=0, atol=1e-5)
            assert not torch.allclose(after[1], whole[1], atol=1e-4)


def test_bfloat16_is_close():
    """Outputs stay float32, and the trunk is bfloat16 all through: a norm must not turn it back."""
    shape = config((32, 32), 3, CLASSES)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, labels = inputs(shape, 8)
    types = set()
    for network in (generator, discriminator):
        for stage in [*network.blocks][1:]:
            stage.register_forward_pre_hook(lambda _, given: types.add(given[0].dtype))

    def outputs(enabled: bool) -> tuple[Tensor, Tensor, Tensor]:
        given = pictures.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            fakes, logits = generator(z, labels), discriminator(given, labels)
        (gradient,) = torch.autograd.grad(logits.float().sum(), given)
        return fakes.detach(), logits.detach(), gradient

    halves = outputs(True)
    assert types == {torch.bfloat16}
    for half, full in zip(halves, outputs(False), strict=True):
        assert half.dtype == torch.float32 and half.isfinite().all()
        assert (half - full).norm() < 0.1 * full.norm()


def test_spectral_norm_has_something_to_divide():
    """A branch that starts at zero has no singular value to divide by."""
    shape = config(spectral_norm=True)
    torch.manual_seed(0)
    _, discriminator = build_any(shape)
    assert discriminator(inputs(shape, 2)[1]).isfinite().all()
