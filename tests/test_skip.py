"""The network for few large images: grids, gates, decoders and their loss, no lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.models import skip
from ganvas.models.summary import summarise


def config(
    height: int, width: int | None = None, channels: int = 1, num_classes: int = 0, z_dim: int = 16, base: int = 8
) -> ModelConfig:
    return ModelConfig("skip", height, width or height, channels, num_classes, z_dim, base)


def networks(config: ModelConfig, seed: int = 0, trained: bool = False) -> tuple[skip.Generator, skip.Discriminator]:
    """In evaluation mode, where the noise is fixed. trained: weights away from their start."""
    torch.manual_seed(seed)
    generator, discriminator = skip.build(config)
    if trained:
        with torch.no_grad():
            for parameter in [*generator.parameters(), *discriminator.parameters()]:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return generator.eval(), discriminator.eval()


def scenes(num: int, height: int, width: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Smooth random images (num, C, H, W) in [-1, 1]."""
    noise = torch.randn(num, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(2 * F.interpolate(noise, size=(height, width), mode="bicubic"))


# Sizes.


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        ((800, 800), [(n, n) for n in (4, 7, 13, 25, 50, 100, 200, 400, 800)]),
        ((256, 256), [(n, n) for n in (4, 8, 16, 32, 64, 128, 256)]),
        ((45, 37), [(3, 3), (6, 5), (12, 10), (23, 19), (45, 37)]),
    ],
)
def test_every_grid_of_the_generator(size, grids):
    with torch.device("meta"):
        generator, _ = skip.build(config(*size))
        assert generator.sizes == grids
        reached: list[tuple[int, ...]] = []
        for stage in generator.stages:
            stage.register_forward_hook(lambda _, __, output: reached.append(tuple(output.shape[2:])))
        assert generator(torch.zeros(2, 16)).shape == (2, 1, *size)
    assert reached == grids[1:]


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (28, 28), (45, 37), (17, 300), (64, 128)])
def test_any_size(size, num_classes):
    shape = config(*size, 3, num_classes)
    generator, discriminator = networks(shape)
    labels = torch.arange(2) if num_classes else None
    fakes = generator(torch.randn(2, 16), labels)
    assert fakes.shape == (2, 3, *size)
    logits, errors = discriminator(fakes, labels, reconstruct=2)
    assert logits.shape == (2,) and errors.shape == (2,) and (errors > 0).all() and (errors < 3).all()
    torch.testing.assert_close(discriminator(fakes, labels), logits)


@pytest.mark.parametrize("size", [(800, 800), (512, 1024), (1024, 1024)])
def test_large_pictures_are_rebuilt_at_most_at_128_pixels(size):
    with torch.device("meta"):
        _, discriminator = skip.build(config(*size))
        rebuilt: list[int] = []
        for decoder in discriminator.decoders:
            decoder.register_forward_hook(lambda _, __, output: rebuilt.append(min(output.shape[2:])))
        logits, errors = discriminator(torch.zeros(3, 1, *size), reconstruct=2)
    assert logits.shape == (3,) and errors.shape == (2,)
    assert len(rebuilt) == 2 and all(64 < side <= 128 for side in rebuilt)


def test_a_generator_for_800_pixels_fits_in_25_megabytes():
    with torch.device("meta"):
        generator, _ = skip.build(config(800, base=16, z_dim=128))
        summary = summarise(generator, torch.zeros(1, 128))
    assert summary.parameters <= 6.2e6
    assert 4 * sum(tensor.numel() for tensor in generator.state_dict().values()) <= 25e6
    assert summary.macs < 30e9  # a training step must be affordable


# The generator.


def test_coarse_features_gate_fine_ones():
    gate = skip.Excitation(6, 4, (4, 4))
    coarse, fine = torch.randn(3, 6, 13, 13), torch.randn(3, 4, 50, 50)
    with torch.no_grad():
        gated = gate(coarse, fine)
        share = gated / fine
        assert (share > 0).all() and (share < 1).all()
        torch.testing.assert_close(share, share[:, :, :1, :1].expand_as(share))  # one number a map
        assert share[:, :, 0, 0].std() > 1e-3  # and another for another image
        torch.testing.assert_close(gate(coarse, 2 * fine), 2 * gated)
        gate.weigh.weight.zero_()
        gate.load_state_dict({"weigh.bias": torch.tensor([-30.0, 30.0, 30.0, 30.0])}, strict=False)
        shut = gate(coarse, fine)
        assert shut[:, 0].abs().max() < 1e-6
        torch.testing.assert_close(shut[:, 1:], fine[:, 1:])


def test_gates_reach_from_every_coarse_grid_to_one_16_times_finer():
    generator, _ = networks(config(256))
    gates = [gate for gate in generator.gates if isinstance(gate, skip.Excitation)]
    assert [gate.gather.in_channels for gate in gates] == [96, 96, 96]  # grids of 4, 8 and 16
    assert [gate.gather.out_channels for gate in gates] == [32, 16, 8]  # of 64, 128 and 256
    z = torch.randn(2, 16)
    with torch.no_grad():
        assert (generator(z).std(dim=(2, 3)) > 0.05).all()
        for gate in gates:
            gate.load_state_dict({"weigh.bias": torch.full((gate.weigh.out_channels,), -30.0)}, strict=False)
        assert generator(z).abs().max() < 1e-6  # shut, they leave the last convolution's bias alone


def test_noise_is_new_in_training_and_fixed_after_it():
    generator, _ = networks(config(32), trained=True)
    z = torch.randn(2, 16)
    with torch.no_grad():
        assert generator.stochastic and torch.equal(generator(z), generator(z))
        generator.train()
        assert not torch.equal(generator(z), generator(z))


def spikes(pictures: Tensor) -> list[float]:
    """Power of images (N, 1, H, H) at the periods 2, 4 and 8 along either axis, over the median of its neighbours."""
    side = pictures.shape[-1]
    power = torch.fft.fft2(pictures.double()).abs().square().mean(dim=(0, 1))
    power = (power + power.T) / 2
    found = []
    for period in (2, 4, 8):
        at = side // period
        # The axis itself, where a lattice shows, without the neighbours next to it that a spike leaks into.
        near = [power[0, at + i] for i in range(-8, 9) if abs(i) > 1 and at + i <= side // 2]
        found.append(float(power[0, at] / torch.stack(near).median()))
    return found


def initial_pictures() -> Tensor:
    """The inner part, away from the border, which is no lattice; windowed for the spectrum."""
    pictures = []
    for seed in range(3):
        generator, _ = networks(config(256), seed)
        with torch.no_grad():
            pictures.append(generator(torch.randn(4, 16)))
    inner = torch.cat(pictures)[:, :, 64:192, 64:192]
    window = torch.hann_window(128)
    return (inner - inner.mean(dim=(2, 3), keepdim=True)) * torch.outer(window, window)


def test_no_lattice_at_the_start(monkeypatch):
    assert max(spikes(initial_pictures())) < 3

    def insert_zeros(x: Tensor, size: tuple[int, int]) -> Tensor:
        """What a transposed convolution does before its kernel."""
        grown = x.new_zeros(*x.shape[:2], *size)
        grown[:, :, ::2, ::2] = x
        return grown

    monkeypatch.setattr(skip, "upsample", insert_zeros)
    assert max(spikes(initial_pictures())) > 3  # the measure sees one


# The decoders.


def test_decoders_learn_only_when_asked():
    _, discriminator = networks(config(32, num_classes=2), trained=True)
    pictures, labels = scenes(4, 32, 32), torch.tensor([0, 1, 0, 1])
    discriminator(pictures, labels).sum().backward()
    for name, parameter in discriminator.named_parameters():
        apart = name.startswith(discriminator.self_supervised)
        assert (parameter.grad is None) == apart, name

    discriminator.zero_grad(set_to_none=True)
    logits, errors = discriminator(pictures, labels, reconstruct=2)
    (logits.sum() + errors.sum()).backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_errors_belong_to_their_own_pictures():
    _, discriminator = networks(config(64), trained=True)
    pictures = scenes(5, 64, 64).requires_grad_()
    _, errors = discriminator(pictures, reconstruct=3)
    assert errors.shape == (3,)
    for i in range(3):
        (gradient,) = torch.autograd.grad(errors[i], pictures, retain_graph=True)
        assert [bool(row.abs().max() > 0) for row in gradient] == [j == i for j in range(5)]
    alone = torch.cat([discriminator(pictures[i : i + 1], reconstruct=1)[1] for i in range(3)])
    torch.testing.assert_close(alone, errors, rtol=1e-4, atol=1e-5)


def test_errors_fall_when_the_decoders_learn():
    _, discriminator = networks(config(32))
    discriminator.train()
    pictures = scenes(6, 32, 32)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    found = []
    for _ in range(30):
        _, errors = discriminator(pictures, reconstruct=6)
        errors.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(errors.detach().mean()))
    assert found[-1] < 0.5 * found[0]
    with torch.no_grad():
        _, errors = discriminator(pictures.flip(0), reconstruct=6)
        features = discriminator.features(pictures)
        swapped = discriminator.errors(pictures.flip(0), features)
    assert errors.mean() < 0.8 * swapped.mean()  # each image from its own features


def test_the_middle_of_pictures_lies_where_the_middle_of_features_does():
    for height, width in ((16, 16), (25, 25), (12, 19)):
        features = torch.rand(1, 2, height, width)
        pictures = features.repeat_interleave(4, 2).repeat_interleave(4, 3)
        pictures = pictures[:, :, : 4 * height - 3, : 4 * width - 2]  # as halving rounds up
        source, target = skip.middle(features, pictures)
        assert source.shape[2:] == (height - height // 2, width - width // 2)
        assert torch.equal(source.repeat_interleave(4, 2).repeat_interleave(4, 3), target)


# Structural similarity.


def reference_ssim(first: np.ndarray, second: np.ndarray, window: int, last: bool) -> float:
    """Mean of (luminance times, where `last`) contrast and structure of gray images (H, W) in [0, 1], by loops."""
    place = np.arange(window) - (window - 1) / 2
    weights = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for i in range(first.shape[0] - window + 1):
        for j in range(first.shape[1] - window + 1):
            a, b = first[i : i + window, j : j + window], second[i : i + window, j : j + window]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            value = (2 * covariance + 0.03**2) / (var_a + var_b + 0.03**2)
            if last:
                value *= (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            values.append(value)
    return float(np.mean(values))


def test_similarity_against_the_formula():
    first = scenes(2, 50, 47, seed=1).double()
    second = (first + 0.3 * torch.randn(first.shape, generator=torch.Generator().manual_seed(2))).clamp(-1, 1)
    weights = np.array([0.0448, 0.2856, 0.3001])
    weights /= weights.sum()
    for i in range(2):
        a, b = ((x[i, 0].numpy() + 1) / 2 for x in (first, second))
        expected = 1.0
        for scale, weight in enumerate(weights):  # 50x47, 25x23 and 12x11: the next is smaller than the window
            expected *= reference_ssim(a, b, 11, last=scale == 2) ** weight
            a, b = (
                x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2].reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2)
                for x in (a, b)
            )
            a, b = a.mean(axis=(1, 3)), b.mean(axis=(1, 3))
        assert 0.2 < expected < 0.95
        assert float(skip.multi_scale_ssim(first, second)[i]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", [(8, 8), (8, 31), (9, 12), (64, 48), (200, 176)])
def test_similarity_of_equal_pictures_is_one(size):
    pictures = scenes(2, *size, channels=3)
    same = skip.multi_scale_ssim(pictures, pictures)
    torch.testing.assert_close(same, torch.ones(2), rtol=0, atol=1e-4)
    noisy = skip.multi_scale_ssim(pictures, pictures + 0.3 * torch.randn_like(pictures))
    noisier = skip.multi_scale_ssim(pictures, pictures + 0.9 * torch.randn_like(pictures))
    assert (noisier < noisy).all() and (noisy < same - 0.01).all()
    assert (skip.multi_scale_ssim(pictures, -pictures) < 0.2).all()


def test_similarity_has_a_bounded_slope_everywhere():
    for rebuilt in (torch.zeros(2, 1, 64, 64), -scenes(2, 64, 64), torch.randn(2, 1, 64, 64).clamp(-1, 1)):
        rebuilt.requires_grad_()
        loss = skip.rebuilding_loss(rebuilt, scenes(2, 64, 64))
        (gradient,) = torch.autograd.grad(loss.sum(), rebuilt)
        assert gradient.isfinite().all() and gradient.abs().max() < 1


def test_parts_without_batch_statistics():
    for network in networks(config(64)):
        kinds = {type(module) for module in network.modules()}
        assert not kinds & {nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d}
