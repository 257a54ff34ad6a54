"""What is special in the style network: modulated convolutions, the space of w, noise, path lengths, deviation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.config import ModelConfig
from ganvas.ema import EMA
from ganvas.losses import gradient_norm_exact
from ganvas.models import build, style
from ganvas.models.style import Discriminator, Generator, ModulatedConv2d, cross_over, deviation, lengths

CLASSES = 3

conditions = pytest.mark.parametrize("num_classes", [0, CLASSES], ids=["plain", "labels"])


def config(num_classes: int = 0, size: tuple[int, int] = (28, 28), channels: int = 1, **more: int) -> ModelConfig:
    return ModelConfig("style", *size, channels, num_classes, **{"z_dim": 8, "base": 8, **more})


def networks(config: ModelConfig, seed: int = 0) -> tuple[Generator, Discriminator]:
    """In training mode, with noise that shows."""
    torch.manual_seed(seed)
    generator, discriminator = style.build(config)
    with torch.no_grad():
        for layer in generator.synthesis.layers:
            layer.noise.strength.fill_(0.3 / style.NOISE_LR)
    return generator, discriminator


def latents(config: ModelConfig, num: int) -> tuple[Tensor, Tensor | None]:
    z = torch.randn(num, config.z_dim, generator=torch.Generator().manual_seed(7))
    return z, torch.arange(num) % CLASSES if config.num_classes else None


# Modulated convolutions.


@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_convolution_is_a_kernel_of_its_own_for_each_picture(kernel):
    torch.manual_seed(0)
    layer = ModulatedConv2d(5, 7, kernel, w_dim=4, gain=1.5).double()
    x, w = torch.randn(3, 5, 6, 9, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    rows = []
    for picture, one in zip(x, w, strict=True):
        scale = layer.affine.weight @ one / math.sqrt(4) + layer.affine.bias
        weight = layer.conv.weight / math.sqrt(5 * kernel**2) * scale[None, :, None, None]
        weight = 1.5 * weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        rows.append(F.conv2d(picture[None], weight, padding=kernel // 2))
    torch.testing.assert_close(layer(x, w), torch.cat(rows))


def test_demodulation_gives_every_map_unit_variance_whatever_the_style():
    torch.manual_seed(0)
    layer = ModulatedConv2d(16, 6, 3, w_dim=4)
    x, w = torch.randn(4, 16, 80, 80), torch.tensor([0.1, 1.0, 10.0, -30.0])[:, None] * torch.randn(4, 4)
    variance = layer(x, w)[:, :, 1:-1, 1:-1].var(dim=(2, 3))
    assert variance.shape == (4, 6) and (variance - 1).abs().max() < 0.15


def test_demodulation_is_computed_in_float32_under_autocast():
    torch.manual_seed(0)
    layer = ModulatedConv2d(16, 6, 1, w_dim=4)
    w = 300 * torch.randn(2, 4)
    x = torch.eye(16)[None, :, :, None].expand(2, -1, -1, -1)  # shows the weights themselves
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, w)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float().square().sum(dim=(2, 3)), torch.ones(2, 6), rtol=0, atol=0.01)


def test_equalised_layers_start_at_unit_variance_and_learn_at_their_own_rate():
    """A step of 1 in all weights changes the output as much in wide layers as in narrow ones, times lr."""
    torch.manual_seed(0)
    for width in (16, 256):
        layer = style.EqualLinear(width, 200, lr=0.01)
        x = torch.randn(400, width)
        with torch.no_grad():
            assert layer(x).std() == pytest.approx(1, abs=0.05)
            before = layer(x)
            layer.weight += 1
            layer.bias += 1
            moved = layer(x) - before
        expected = 0.01 * (x.sum(dim=1, keepdim=True) / math.sqrt(width) + 1)
        torch.testing.assert_close(moved, expected.expand(-1, 200), rtol=0, atol=1e-4)


# The space of w.


@conditions
def test_pictures_are_the_synthesis_of_w(num_classes):
    shape = config(num_classes, blocks=2)
    generator = networks(shape)[0].eval()
    z, labels = latents(shape, 4)
    w = generator.mapping(z, labels)
    assert w.shape == (4, 8) and generator.num_layers == 2 * 3  # 7, 14, 28
    expected = generator(z, labels)
    torch.testing.assert_close(generator.synthesis(w), expected, rtol=0, atol=0)
    torch.testing.assert_close(generator.synthesis(w[:, None].expand(-1, 6, -1)), expected, rtol=0, atol=0)


def test_only_the_direction_of_z_counts():
    generator, _ = networks(config())
    z, _ = latents(config(), 4)
    torch.testing.assert_close(generator.mapping(5 * z), generator.mapping(z))
    assert not torch.allclose(generator.mapping(-z), generator.mapping(z))


@conditions
def test_truncation_at_its_ends(num_classes):
    shape = config(num_classes)
    generator = networks(shape)[0].eval()
    z, labels = latents(shape, 6)
    with torch.no_grad():
        full, none = (generator.truncated(z, labels, truncation) for truncation in (1.0, 0.0))
        assert torch.equal(full, generator(z, labels))
        assert torch.equal(none, generator.synthesis(generator.mean_w(labels).expand(6, -1)))
        half = generator.synthesis((generator.mean_w(labels) + generator.mapping(z, labels)) / 2)
        torch.testing.assert_close(generator.truncated(z, labels, 0.5), half)
    same_class = [0, 3] if num_classes else range(6)
    for i in same_class:  # some processors round the last rows of a batch otherwise
        torch.testing.assert_close(none[i], none[0], rtol=0, atol=1e-5)
    if num_classes:
        assert not torch.allclose(none[0], none[1], atol=1e-3) and not torch.allclose(none[1], none[2], atol=1e-3)


@conditions
def test_mean_w_is_the_mean_of_w_and_the_same_again(num_classes):
    shape = config(num_classes)
    generator, _ = networks(shape)
    label = torch.tensor([2]) if num_classes else None
    many = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(1))
    w = generator.mapping(many, None if label is None else label.expand(20_000)).detach()
    assert ((generator.mean_w(label) - w.mean(dim=0)).abs() < 0.1 * w.std(dim=0)).all()
    assert torch.equal(generator.mean_w(label), networks(shape)[0].mean_w(label))
    assert not any("mean" in name and name != "path_mean" for name in generator.state_dict())


@conditions
def test_mean_w_follows_the_weights(num_classes):
    """However they change: by an optimiser, by a moving average, by loading."""
    shape = config(num_classes)
    generator, _ = networks(shape)
    other, _ = networks(shape, seed=1)
    label = torch.tensor([1]) if num_classes else None
    with torch.inference_mode():
        generator.mean_w(label)
    ema = EMA(generator)
    before = ema.average.mean_w(label)
    optimiser = torch.optim.Adam(generator.parameters(), lr=0.1)
    generator(*latents(shape, 2)).sum().backward()
    optimiser.step()
    stepped = generator.mean_w(label)
    assert not torch.equal(stepped, before)
    ema.update(generator, batch=1, half_life=1.0)
    assert not torch.equal(ema.average.mean_w(label), before)
    generator.load_state_dict(other.state_dict())
    assert torch.equal(generator.mean_w(label), other.mean_w(label))


def test_a_mean_that_was_taken_in_inference_serves_in_training():
    generator, _ = networks(config())
    z, _ = latents(config(), 2)
    with torch.inference_mode():
        generator.truncated(z, None, 0.5)
    generator.truncated(z, None, 0.5).sum().backward()
    assert generator.synthesis.start.grad is not None


# Style mixing and noise: in training mode only.


def test_mixing_changes_only_the_layers_after_the_crossover():
    w, other = torch.zeros(3, 2), torch.ones(3, 2)
    mixed = cross_over(w, other, torch.tensor([1, 2, 3]), blocks=2, num_layers=6)
    assert mixed[:, :, 0].tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0] * 6]
    assert torch.equal(mixed[:, :, 0], mixed[:, :, 1])


def test_mixed_pictures_keep_what_the_first_latent_drew():
    generator = networks(config(blocks=2))[0].eval()
    w, other = (generator.mapping(torch.randn(1, 8, generator=torch.Generator().manual_seed(i))) for i in (0, 1))
    seen: list[Tensor] = []
    for layer in generator.synthesis.layers:
        layer.register_forward_hook(lambda module, given, output: seen.append(output))
    generator.synthesis(w)
    generator.synthesis(cross_over(w, other, torch.tensor([1]), 2, 6))
    alike = [torch.equal(*pair) for pair in zip(seen[:6], seen[6:], strict=True)]
    assert alike == [True, True, False, False, False, False]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_crossovers_are_drawn_with_the_probability(probability):
    generator, _ = networks(config())
    generator.style_mixing = probability
    counts = torch.bincount(generator.crossovers(4000, torch.device("cpu")), minlength=4) / 4000
    expected = torch.tensor([0, probability / 2, probability / 2, 1 - probability])  # stage 0 is never another's
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.03)


def test_mixing_in_training_mode_only():
    generator, _ = networks(config())
    with torch.no_grad():
        for layer in generator.synthesis.layers:
            layer.noise.strength.zero_()
        z, _ = latents(config(), 8)
        plain = generator(z)
        generator.style_mixing = 1.0
        mixed = generator(z)
        assert all(not torch.allclose(mixed[i], plain[i], atol=1e-3) for i in range(8))
        assert torch.equal(generator.eval()(z), plain)


def test_noise_is_new_in_training_and_fixed_in_evaluation():
    generator, _ = networks(config(), seed=0)
    z, _ = latents(config(), 2)
    assert generator.stochastic
    with torch.no_grad():
        assert not torch.equal(generator(z), generator(z))
        generator.eval()
        assert torch.equal(generator(z), generator(z))
        torch.testing.assert_close(generator(z)[1:], generator(z[1:]), rtol=0, atol=1e-6)
        # It does show, and another network of the same weights makes the same.
        again = style.build(config())[0].eval()
        again.load_state_dict(generator.state_dict())
        assert torch.equal(again(z), generator(z))
        for layer in again.synthesis.layers:
            layer.noise.strength.zero_()
        assert not torch.allclose(again(z), generator(z), atol=1e-2)


def test_noise_differs_between_places_and_layers_and_not_between_maps():
    layers = networks(config(blocks=2))[0].synthesis.layers
    assert not torch.equal(layers[4].noise.fixed, layers[5].noise.fixed)
    for training in (True, False):
        added = layers[5].train(training).noise(torch.zeros(2, 3, 28, 28)).detach()
        assert torch.equal(added[:, 0], added[:, 2]) and added.std() == pytest.approx(0.3, abs=0.03)
        assert torch.equal(added[0], added[1]) != training


# Path lengths.


def test_path_length_of_a_linear_map_is_the_norm_of_its_transpose_times_y():
    torch.manual_seed(0)
    matrix = torch.randn(5, 2 * 3 * 4, dtype=torch.float64)
    w = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(6, 2, 3, 4, dtype=torch.float64)
    found = lengths((w @ matrix).view(6, 2, 3, 4), w, y)
    expected = (y.flatten(1) @ matrix.T).norm(dim=1) / math.sqrt(3 * 4)
    torch.testing.assert_close(found, expected)


@conditions
def test_path_lengths_agree_with_the_jacobian(num_classes):
    shape = config(num_classes, size=(8, 9), z_dim=4)
    generator = networks(shape)[0].double().eval()
    z, labels = latents(shape, 2)
    w = generator.mapping(z.double(), labels).detach()
    torch.manual_seed(3)
    found = generator.path_lengths(z.double(), labels)
    torch.manual_seed(3)
    y = torch.randn(2, 1, 8, 9, dtype=torch.float64) / math.sqrt(8 * 9)
    jacobian = torch.autograd.functional.jacobian(generator.synthesis, w)  # 2, 1, 8, 9, 2, 4
    for i in range(2):
        expected = torch.einsum("chw,chwd->d", y[i], jacobian[i, ..., i, :]).norm()
        torch.testing.assert_close(found[i].detach(), expected)


def test_path_length_penalty_has_the_gradient_of_its_value():
    """In the direction of the gradient itself, against a central difference in float64."""
    shape = config(size=(8, 8), z_dim=4)
    generator = networks(shape)[0].double().eval()
    generator.path_mean.fill_(0.05)
    z = latents(shape, 3)[0].double()

    def penalty() -> Tensor:
        torch.manual_seed(3)
        return (generator.path_lengths(z) - generator.path_mean).square().mean()

    weight = generator.synthesis.layers[1].conv.affine.weight
    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = gradient / gradient.norm()
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            weight += step * direction
        values.append(penalty().item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_running_mean_of_path_lengths():
    shape = config(CLASSES)
    generator = networks(shape)[0].eval()
    z, labels = latents(shape, 4)
    assert generator.path_mean == 0
    torch.manual_seed(0)
    first = generator.path_lengths(z, labels).detach()
    torch.manual_seed(0)
    penalty = generator.path_length_penalty(z, labels)
    torch.testing.assert_close(generator.path_mean, first.mean())
    torch.testing.assert_close(penalty.detach(), (first - first.mean()).square().mean())
    torch.manual_seed(1)
    second = generator.path_lengths(z, labels).detach()
    torch.manual_seed(1)
    penalty = generator.path_length_penalty(z, labels)
    mean = 0.99 * first.mean() + 0.01 * second.mean()
    torch.testing.assert_close(generator.path_mean, mean)
    torch.testing.assert_close(penalty.detach(), (second - mean).square().mean())
    assert torch.equal(generator.state_dict()["path_mean"], generator.path_mean)


def test_path_length_penalties_of_two_parts_before_one_backward_pass():
    """The running mean moves in place between them, which must not disturb the first part's graph."""
    generator, _ = networks(config())
    z, _ = latents(config(), 4)
    (generator.path_length_penalty(z[:2]) + generator.path_length_penalty(z[2:])).backward()
    missing = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == [name for name in missing if name.endswith("to_picture.0.conv.bias")]


# The discriminator.


def reference_deviation(x: np.ndarray, group: int) -> np.ndarray:
    num = len(x)
    groups = math.ceil(num / group)
    result = np.empty(num)
    for first in range(groups):
        members = x[first::groups]
        result[first::groups] = np.sqrt(members.var(axis=0) + 1e-8).mean()
    return result


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 7, 8, 12, 13])
def test_deviation_of_groups(num):
    x = np.random.default_rng(num).standard_normal((num, 3, 4, 5))
    found = deviation(torch.from_numpy(x), 4)
    np.testing.assert_allclose(found, reference_deviation(x, 4), rtol=1e-9)
    assert num == 1 or found.min() > 0.1  # nobody is left alone
    np.testing.assert_allclose(deviation(torch.from_numpy(x), 1), 1e-4)


def test_deviation_tells_a_collapsed_batch_from_a_varied_one():
    shape = config()
    _, discriminator = networks(shape)
    picture = torch.rand(1, 1, 28, 28)
    alike = picture.expand(4, -1, -1, -1)
    varied = torch.cat([picture, 2 * torch.rand(3, 1, 28, 28) - 1])
    assert discriminator.mixes_images
    with torch.no_grad():
        assert (discriminator(alike)[0] - discriminator(varied)[0]).abs() > 1e-3
        discriminator.eval()
        torch.testing.assert_close(discriminator(alike)[0], discriminator(varied)[0])


def test_pictures_still_reach_the_logits_under_spectral_norm():
    torch.manual_seed(0)
    _, discriminator = build(dataclasses.replace(config(), spectral_norm=True))
    pictures = 2 * torch.rand(8, 1, 28, 28) - 1
    with torch.no_grad():
        for _ in range(10):  # power iterations
            logits = discriminator(pictures)
    assert 1e-3 < logits.std() < 1
    assert gradient_norm_exact(discriminator, pictures, None).min() > 1e-6


@pytest.mark.parametrize(
    ("size", "channels", "num_classes"), [((45, 37), 1, CLASSES), ((8, 8), 3, 0), ((28, 60), 3, CLASSES)], ids=str
)
def test_training_mode_at_any_size_with_second_derivatives(size, channels, num_classes):
    shape = config(num_classes, size, channels, blocks=2)
    generator, discriminator = networks(shape)
    generator.style_mixing = 0.9
    z, labels = latents(shape, 5)
    fakes = generator(z, labels)
    assert fakes.shape == (5, channels, *size) and fakes.abs().max() <= 1
    loss = F.softplus(-discriminator(fakes, labels)).mean()
    loss = loss + gradient_norm_exact(discriminator, fakes, labels).mean() + generator.path_length_penalty(z, labels)
    loss.backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("widest", "expected"), [(0, [512, 512, 400, 200]), (100, [100, 100, 100, 100])])
def test_feature_maps_double_up_to_the_widest(widest, expected):
    assert style.widths(config(base=200, widest=widest), 4) == expected
