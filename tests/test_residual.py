"""The residual networks' two variants: widths and groups, what unit-norm weights promise, and every convention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.losses import gradient_norm_exact
from ganvas.models import build as build_any
from ganvas.models.layers import UnitConv, UnitEmbedding, UnitLinear, pixel_norm, unit
from ganvas.models.residual import Block, build, group, widths

CLASSES = 3
SIZES = [(28, 28), (45, 37), (64, 64), (100, 60)]

variants = pytest.mark.parametrize("magnitude", [False, True], ids=["fixup", "magnitude"])
conditions = pytest.mark.parametrize("num_classes", [0, CLASSES], ids=["plain", "labels"])
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


def config(size: tuple[int, int] = (28, 28), channels: int = 3, num_classes: int = 0, **more) -> ModelConfig:
    return ModelConfig("residual", *size, channels, num_classes, **{"z_dim": 8, "base": 16, "magnitude": True, **more})


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


@variants
def test_no_stage_is_wider_than_asked(magnitude):
    with torch.device("meta"):
        for network in build(config((64, 64), base=32, widest=96, magnitude=magnitude)):
            blocks = [module for module in network.modules() if isinstance(module, Block)]
            assert {block.contract.out_channels for block in blocks} == {32, 64, 96}


# What unit-norm weights promise.


def root_mean_square(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()


@pytest.mark.parametrize("size", [*SIZES[:3], (200, 120)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("blocks", [1, 3])
def test_magnitude_is_kept_through_the_depth(size, blocks):
    """At the start and with open branches: every stage of the generator at 1, the discriminator's as its input."""
    shape = config(size, num_classes=CLASSES, base=32, blocks=blocks)
    generator, discriminator = networks(shape)
    z, pictures, labels = inputs(shape, 6)
    pictures = pictures / root_mean_square(pictures)
    for alpha in (0.0, 1.0):
        kept: dict[str, list[float]] = {"G": [], "D": []}
        hooks = []
        for name, network in (("G", generator), ("D", discriminator)):
            for module in network.modules():
                if isinstance(module, Block):
                    nn.init.constant_(module.alpha, alpha)
                    record = lambda _, __, y, to=kept[name]: to.append(root_mean_square(y))  # noqa: E731
                    hooks.append(module.register_forward_hook(record))
        with torch.no_grad():
            generator(z, labels), discriminator(pictures, labels)
        for hook in hooks:
            hook.remove()
        assert all(0.75 < value < 1.3 for value in kept["G"]), kept["G"]
        assert all(0.5 < value < 1.5 for value in kept["D"]), kept["D"]  # its filter smooths the image on the way


@conditions
def test_length_of_weights_does_not_matter(num_classes):
    shape = config((45, 37), num_classes=num_classes)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, labels = inputs(shape, CLASSES)
    with torch.no_grad():
        before = generator(z, labels), discriminator(pictures, labels)
        for network in (generator, discriminator):
            for parameter in network.parameters():
                if parameter.ndim:
                    parameter.mul_(3)
        after = generator(z, labels), discriminator(pictures, labels)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_gradient_is_orthogonal_to_its_weight():
    """So a step of the optimiser turns a filter, and can only lengthen it."""
    shape = config(num_classes=CLASSES)
    generator, discriminator = networks(shape, trained=True)
    z, _, labels = inputs(shape, CLASSES)
    discriminator(generator(z, labels), labels).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            if parameter.ndim:
                weight, gradient = parameter.detach().flatten(1), parameter.grad.flatten(1)
                cosine = F.cosine_similarity(weight, gradient, dim=1, eps=1e-12)
                assert cosine.abs().max() < 1e-2, name


def test_only_gains_are_numbers_of_their_own():
    """No biases; the residual gains start at zero, where a block is the identity."""
    for network in networks(config(num_classes=CLASSES, blocks=2)):
        assert not [name for name, _ in network.named_parameters() if name.endswith("bias")]
        for block in (module for module in network.modules() if isinstance(module, Block)):
            assert block.alpha is not None and block.alpha.item() == 0
            x = torch.randn(2, block.contract.out_channels, 5, 5)
            assert torch.equal(block(x), x)
            nn.init.constant_(block.alpha, 100.0)  # the gain is at most 1: half the energy is the branch's
            branch = block.contract(F.leaky_relu(block.mix(F.leaky_relu(block.expand(x), 0.2)), 0.2))
            torch.testing.assert_close(block(x), (x + branch) / 2**0.5)


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_unit_layers_against_a_direct_formula(gain):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)

    conv = UnitConv(4, 6, 3, gain, padding=1, groups=2)
    filters = gain * conv.weight / conv.weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(conv(x), F.conv2d(x, filters, padding=1, groups=2), rtol=1e-3, atol=1e-4)

    with_ones = torch.cat([x, torch.ones(2, 1, 5, 5)], dim=1)
    constant = UnitConv(4, 6, 1, gain, constant=True, learned=True)
    filters = gain * constant.weight / constant.weight.square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(constant(x), F.conv2d(with_ones, filters), rtol=1e-3, atol=1e-4)

    linear = UnitLinear(4, 6, gain, constant=True)
    rows = gain * linear.weight / linear.weight.square().sum(dim=1, keepdim=True).sqrt()
    vectors = torch.cat([x[:, :, 0, 0], torch.ones(2, 1)], dim=1)
    torch.testing.assert_close(linear(x[:, :, 0, 0]), vectors @ rows.T, rtol=1e-3, atol=1e-4)

    embedding = UnitEmbedding(3, 50, gain)
    torch.testing.assert_close(embedding(torch.arange(3)).norm(dim=1), torch.full((3,), gain), rtol=1e-3, atol=1e-4)


def test_learned_gain_is_a_parameter():
    layer = UnitLinear(4, 2, 0.5, learned=True)
    assert dict(layer.named_parameters())["gain"].item() == 0.5
    layer(torch.randn(3, 4)).square().sum().backward()
    assert layer.gain.grad.abs() > 0
    assert [name for name, _ in UnitLinear(4, 2, 0.5).named_parameters()] == ["weight"]


def test_pixel_norm_looks_at_one_place_only():
    x = 7 * torch.randn(2, 8, 3, 4)
    y = pixel_norm(x)
    torch.testing.assert_close(y.square().mean(dim=1), torch.ones(2, 3, 4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pixel_norm(x[1:, :, 2:, 3:]), y[1:, :, 2:, 3:])
    assert pixel_norm(x.bfloat16()).dtype == torch.bfloat16


def test_unit_of_nothing_is_nothing():
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))


# The conventions of every network, for both variants.


@conditions
@variants
@pytest.mark.parametrize("channels", [1, 4])
@sizes
def test_shapes_ranges_and_second_derivatives(magnitude, size, channels, num_classes):
    shape = config(size, channels, num_classes, magnitude=magnitude)
    generator, discriminator = networks(shape)
    z, pictures, labels = inputs(shape, 3)
    fakes = generator(z, labels)
    assert fakes.shape == pictures.shape and fakes.dtype == torch.float32
    assert 0.05 < fakes.std() < 0.6 and (fakes.abs() > 0.99).float().mean() < 0.05
    assert fakes.std(dim=0).mean() > 1e-2  # the latent shows from the start
    logits = discriminator(pictures, labels)
    assert logits.shape == (3,) and logits.dtype == torch.float32 and logits.abs().max() < 6
    norm = gradient_norm_exact(discriminator, pictures, labels)
    assert norm.shape == (3,) and (norm > 1e-6).all() and (norm < 10).all()
    (norm.mean() + logits.mean() + discriminator(fakes, labels).mean()).backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@variants
def test_penalty_is_exact(magnitude):
    """The double backward agrees with a difference quotient, in float64."""
    shape = config((9, 8), 1, magnitude=magnitude)
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


@conditions
@variants
def test_every_weight_learns(magnitude, num_classes):
    shape = config((45, 37), 3, num_classes, blocks=2, magnitude=magnitude)
    generator, discriminator = networks(shape, trained=True)
    z, _, labels = inputs(shape, CLASSES)
    discriminator(generator(z, labels), labels).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@conditions
@variants
@sizes
def test_neighbours_and_batch_size_change_nothing(magnitude, size, num_classes):
    shape = config(size, 3, num_classes, magnitude=magnitude)
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


@variants
def test_evaluation_mode_is_the_same_function(magnitude):
    shape = config(magnitude=magnitude)
    for network, given in zip(networks(shape, trained=True), inputs(shape, 3), strict=False):
        with torch.no_grad():
            assert torch.equal(network.eval()(given), network.train()(given))


@variants
def test_labels_matter_to_both(magnitude):
    shape = config(num_classes=CLASSES, magnitude=magnitude)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, _ = inputs(shape, 1)
    every = torch.arange(CLASSES)
    with torch.no_grad():
        drawn = generator(z.expand(CLASSES, -1), every)
        logits = discriminator(pictures.expand(CLASSES, -1, -1, -1), every)
    assert min((drawn[i] - drawn[i - 1]).abs().mean() for i in range(CLASSES)) > 1e-2
    assert len({round(value, 4) for value in logits.tolist()}) == CLASSES


@conditions
@variants
def test_bfloat16_is_close(magnitude, num_classes):
    """Outputs stay float32, and the trunk is bfloat16 all through: a norm must not turn it back."""
    shape = config((32, 32), 3, num_classes, magnitude=magnitude)
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


@variants
@pytest.mark.parametrize("size", [(8, 8), (800, 800), (512, 1024), (17, 300)])
def test_extreme_sizes_on_the_meta_device(magnitude, size):
    with torch.device("meta"):
        generator, discriminator = build(config(size, 1, magnitude=magnitude))
        pictures = generator(torch.zeros(2, 8))
        assert pictures.shape == (2, 1, *size) and discriminator(pictures).shape == (2,)


@variants
def test_spectral_norm_has_something_to_divide(magnitude):
    """A branch that starts at zero has no singular value to divide by."""
    shape = config(magnitude=magnitude, spectral_norm=True)
    torch.manual_seed(0)
    _, discriminator = build_any(shape)
    assert discriminator(inputs(shape, 2)[1]).isfinite().all()
