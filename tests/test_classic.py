"""The reference projects' networks: the same layers, counts, padding and start as the projects', at their own sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from architectures import CLASSIC
from ganvas.config import ModelConfig, parse_size
from ganvas.errors import ConfigError
from ganvas.losses import gradient_norm_exact
from ganvas.models import build, channels_last, classic
from ganvas.presets import PRESETS

SMALL = {
    "mlp": (9, 14),
    "dcgan": (45, 37),
    "xray": (32, 64),
    "tf-mnist": (12, 20),
    "mnist-upsample": (12, 20),
    "celeba": (8, 16),
    "cifar10": (8, 16),
}
"""A quick size for each, not square."""
KERAS = ("xray", "tf-mnist", "celeba", "cifar10")

models = pytest.mark.parametrize("model", CLASSIC)


def config(model: str, channels: int = 3, size: tuple[int, int] | None = None, **more: int) -> ModelConfig:
    return ModelConfig(model, *(size or SMALL[model]), channels, **{"z_dim": 8, "base": 16, **more})


def networks(config: ModelConfig, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    return build(config)


def inputs(config: ModelConfig, num: int) -> tuple[Tensor, Tensor]:
    """(z, images in [-1, 1])."""
    noise = torch.Generator().manual_seed(1)
    z = torch.randn(num, config.z_dim, generator=noise)
    return z, 2 * torch.rand(num, config.channels, config.height, config.width, generator=noise) - 1


def on_meta(config: ModelConfig) -> tuple[nn.Module, nn.Module, torch.Size]:
    """Both networks without a number in them, and the shape of two of their images, which D has seen."""
    with torch.device("meta"):
        generator, discriminator = build(config)
        pictures = generator(torch.zeros(2, config.z_dim))
        assert discriminator(pictures).shape == (2,)
    return generator, discriminator, pictures.shape


# The same networks as the projects'.


@pytest.mark.parametrize(
    ("preset", "size", "of_generator", "of_discriminator"),
    [
        ("mlp64", "64", 13_283_072, 6_456_321),
        ("xray800", "800", 37_348_720, 1_095_553),
        ("tf-mnist", "28", 2_305_472, 212_865),
        ("mnist-upsample", "28", 856_065, 533_505),  # the first: no figure of the project's, this reading of its layers
        ("celeba", "64", 3_979_651, 404_801),
        ("cifar10", "32", 1_466_115, 522_497),
        ("dcgan", "64", 3_576_704, 2_765_568),
        ("dcgan128", "128", 12_786_560, 11_164_416),
    ],
)
def test_a_preset_has_its_projects_parameters(preset, size, of_generator, of_discriminator):
    found = PRESETS[preset]
    assert found.size in (None, size)
    values = {name: found.options[name] for name in ("model", "z_dim", "base") if name in found.options}
    height, width = parse_size(size)
    channels = 1 if found.channels == "gray" else 3
    generator, discriminator, shape = on_meta(ModelConfig(height=height, width=width, channels=channels, **values))
    assert shape == (2, channels, height, width)
    for network, number in ((generator, of_generator), (discriminator, of_discriminator)):
        assert sum(parameter.numel() for parameter in network.parameters()) == number


def test_running_statistics_are_counted_apart():
    """Keras calls them parameters that are not trained: tf-mnist has 25,472."""
    generator, _, _ = on_meta(config("tf-mnist", 1, (28, 28), z_dim=100))
    assert sum(buffer.numel() for name, buffer in generator.named_buffers() if "running" in name) == 25_472


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        ((16, 16), [128, 64]),
        ((28, 28), [256, 128, 64]),
        ((64, 64), [512, 256, 128, 64]),
        ((128, 96), [1024, 512, 256, 128, 64]),
        ((800, 800), [1024, 1024, 1024, 1024, 512, 256, 128, 64]),
    ],
)
def test_dcgan_doubles_its_maps_towards_the_coarse_end(size, maps):
    _, discriminator, shape = on_meta(config("dcgan", 1, size, base=64))
    assert shape == (2, 1, *size)
    convolutions = [layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [*reversed(maps), 1]


@pytest.mark.parametrize(
    ("model", "slopes", "dropout"),
    [
        ("mlp", [0.2] * 6, [0.3] * 3),
        ("xray", [0.3] * 13, [0.3] * 6),
        ("tf-mnist", [0.3] * 5, [0.3] * 2),
        ("mnist-upsample", [0.2] * 4, [0.3] * 2),
        ("celeba", [0.2] * 6, [0.2]),
        ("cifar10", [0.2] * 8, [0.4]),
    ],
)
def test_slopes_and_dropout(model, slopes, dropout):
    """What no count of parameters shows."""
    generator, discriminator, _ = on_meta(config(model))
    layers = [*generator.modules(), *discriminator.modules()]
    assert [layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)] == slopes
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout) and layer.p > 0] == dropout


def test_dcgan_keeps_to_the_widest():
    generator, _, _ = on_meta(config("dcgan", 1, (64, 64), base=16, widest=40))
    widths = [layer.num_features for layer in generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert widths == [40, 40, 32, 16]


# Keras' padding.


def padded_by_hand(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """One map's convolution in TensorFlow's words: out = ceil(in / stride), the total padding split with the odd row
    at the end. Correlation, as in every deep-learning library."""
    rows, columns = (-(-side // stride) for side in x.shape)
    side = len(kernel)
    top, left = (
        max((out - 1) * stride + side - given, 0) // 2 for out, given in zip((rows, columns), x.shape, strict=True)
    )
    y = np.zeros((rows, columns))
    for row, column, i, j in np.ndindex(rows, columns, side, side):
        u, v = row * stride + i - top, column * stride + j - left
        if 0 <= u < x.shape[0] and 0 <= v < x.shape[1]:
            y[row, column] += kernel[i, j] * x[u, v]
    return y


def transposed_by_hand(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """One map's transposed convolution: every pixel stamps the kernel; (k - s) // 2 rows are cut off at the start."""
    side = len(kernel)
    whole = np.zeros([(n - 1) * stride + side for n in x.shape])
    for row, column in np.ndindex(*x.shape):
        whole[row * stride :, column * stride :][:side, :side] += x[row, column] * kernel
    low = (side - stride) // 2
    return whole[low:, low:][: x.shape[0] * stride, : x.shape[1] * stride]


strides = pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (4, 2), (5, 2), (11, 2), (5, 3)])


@strides
@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_same_padding_of_convolutions(kernel, stride, size):
    torch.manual_seed(0)
    layer = classic.SameConv(1, 1, kernel, stride).double()
    x = torch.randn(1, 1, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = padded_by_hand(x[0, 0].numpy(), layer.weight[0, 0].numpy(), stride)
        torch.testing.assert_close(layer(x)[0, 0] - layer.bias, torch.from_numpy(expected))


@strides
def test_same_padding_of_transposed_convolutions(kernel, stride):
    torch.manual_seed(0)
    layer = classic.SameConvTranspose(1, 1, kernel, stride).double()
    x = torch.randn(1, 1, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = transposed_by_hand(x[0, 0].numpy(), layer.weight[0, 0].numpy(), stride)
        torch.testing.assert_close(layer(x)[0, 0] - layer.bias, torch.from_numpy(expected))


@strides
def test_the_transposed_convolution_is_the_gradient_of_the_convolution(kernel, stride):
    """That is how TensorFlow defines it, and holds however its padding is written: <conv x, y> = <x, conv^T y>."""
    torch.manual_seed(0)
    down = classic.SameConv(2, 3, kernel, stride, bias=False).double()
    up = classic.SameConvTranspose(3, 2, kernel, stride, bias=False).double()
    x = torch.randn(1, 2, 4 * stride, 3 * stride, dtype=torch.float64)
    y = torch.randn(1, 3, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        up.weight.copy_(down.weight)
        torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


def test_running_variance_of_dense_features_is_the_batches_own():
    torch.manual_seed(0)
    norm = classic.DenseNorm(5)
    batches = 3 * torch.randn(2, 4, 5)
    expected = torch.ones(5)
    for batch in batches:
        torch.testing.assert_close(norm(batch).var(dim=0, correction=0), torch.ones(5), rtol=1e-2, atol=0)
        expected = 0.99 * expected + 0.01 * batch.var(dim=0, correction=0)
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_var, expected)
    norm.eval()(batches[0])
    torch.testing.assert_close(norm.running_var, expected)


# The start.


@pytest.mark.parametrize("model", KERAS)
def test_keras_start(model):
    """Glorot: uniform within +-sqrt(6 / (fan in + fan out)); every bias is zero."""
    for network in networks(config(model)):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                fans = (layer.weight.shape[0] + layer.weight.shape[1]) * layer.weight[0, 0].numel()
                limit = (6 / fans) ** 0.5
                assert layer.weight.abs().max() <= limit, name
                if layer.weight.numel() > 1000:
                    assert layer.weight.abs().max() > 0.98 * limit, name
                    assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05), name
                assert layer.bias is None or not layer.bias.any(), name
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                assert (layer.eps, layer.momentum) == (1e-3, 0.01)


def test_dcgan_start():
    for network in networks(config("dcgan", size=(64, 64), base=64, z_dim=100)):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05), name
                assert layer.weight.mean().abs() < 0.002 and layer.bias is None, name
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1, abs=0.01), name
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3), name
                assert not layer.bias.any()


@pytest.mark.parametrize("model", ["mlp", "mnist-upsample"])
def test_pytorch_start(model):
    """Weights and biases: uniform within +-1 / sqrt(fan in)."""
    for network in networks(config(model)):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                limit = layer.weight[0].numel() ** -0.5
                assert layer.weight.abs().max() <= limit, name
                assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.1), name
                assert layer.bias is not None and layer.bias.abs().max() <= limit, name


# What every network of Ganvas promises.


@models
@pytest.mark.parametrize("channels", [1, 4])
def test_shapes_ranges_and_gradients(model, channels):
    shape = config(model, channels)
    generator, discriminator = networks(shape)
    z, pictures = inputs(shape, 4)
    fakes = generator(z)
    assert fakes.shape == pictures.shape and fakes.dtype == torch.float32
    assert fakes.abs().max() <= 1 and (fakes.abs() > 0.99).float().mean() < 0.2
    assert fakes.std(dim=0).mean() > 1e-4 and (fakes < 0).any()

    logits = discriminator(pictures)
    assert logits.shape == (4,) and logits.dtype == torch.float32 and logits.abs().max() < 20
    norm = gradient_norm_exact(discriminator, pictures, None)
    assert norm.isfinite().all() and (norm > 0).all()
    (norm.mean() + logits.mean() + discriminator(fakes).mean()).backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@models
def test_every_weight_learns(model):
    """In evaluation mode, where no batch statistics take the biases before them away."""
    shape = config(model)
    generator, discriminator = (network.eval() for network in networks(shape))
    discriminator(generator(inputs(shape, 4)[0])).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@models
def test_extremes_reach_the_ends_of_the_range(model):
    """White is 1 and black is -1, whichever squashing function the project used."""
    shape = config(model)
    generator, _ = networks(shape)
    generator.eval()
    with torch.no_grad():
        for parameter in generator.to_picture.parameters():
            parameter.mul_(1e6)
        pictures = generator(inputs(shape, 4)[0])
    assert pictures.min() == -1 and pictures.max() == 1


def test_celeba_lives_between_0_and_1():
    """Its sigmoid's 0 and 1 are our -1 and 1, in both networks."""
    shape = config("celeba")
    generator, discriminator = (network.eval() for network in networks(shape))
    z, pictures = inputs(shape, 2)
    with torch.no_grad():
        before = generator.to_picture(generator.layers(z))
        torch.testing.assert_close(generator(z), 2 * torch.sigmoid(before) - 1)
        black = torch.full_like(pictures, -1)
        assert not discriminator(black).any()  # zeros all the way: every bias is zero at the start
        assert discriminator(-black).abs().max() > 0


@models
def test_evaluation_mode_knows_neither_chance_nor_neighbours(model):
    shape = config(model)
    pair = networks(shape)
    with torch.no_grad():
        for network, given in zip(pair, inputs(shape, 5), strict=True):
            for _ in range(3):
                network(given)  # running statistics away from their start
            network.eval()
            whole = network(given)
            assert torch.equal(network(given), whole)
            rows = [network(given[i : i + 1]) for i in range(5)]
            torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-4, atol=1e-5)


@models
def test_training_mode_does_what_the_network_says(model):
    """mixes_images: a neighbour changes an image; stochastic: the same call twice differs."""
    shape = config(model)
    with torch.no_grad():
        for network, given in zip(networks(shape), inputs(shape, 4), strict=True):
            changed = given.clone()
            changed[1] = -given[1]
            torch.manual_seed(2)
            first, again = network(given), network(given)
            assert torch.equal(first, again) != network.stochastic
            torch.manual_seed(2)
            with_other = network(changed)
            others = [0, 2, 3]
            assert torch.allclose(first[others], with_other[others], atol=1e-7) != network.mixes_images


@models
def test_state_goes_round(model):
    """Weights and running statistics suffice to make the same images and verdicts again."""
    shape = config(model)
    with torch.no_grad():
        for one, other, given in zip(networks(shape, 1), networks(shape, 2), inputs(shape, 3), strict=True):
            one(given)
            other.load_state_dict(one.state_dict())
            assert torch.equal(other.eval()(given), one.eval()(given))


@models
def test_bfloat16_and_channels_last_are_close(model):
    shape = config(model)
    with torch.no_grad():
        for network, given in zip(networks(shape), inputs(shape, 4), strict=True):
            network.eval()
            full = network(given)
            channels_last(network)
            torch.testing.assert_close(network(given), full, rtol=1e-4, atol=1e-5)
            with torch.autocast("cpu", torch.bfloat16):
                half = network(given)
            assert half.dtype == torch.float32
            assert (half - full).norm() < 0.1 * full.norm()


# Refusals.


@models
def test_labels_are_refused(model):
    with pytest.raises(ConfigError, match=f"--model {model}: .*3 classes.*--no-conditional"):
        build(config(model, num_classes=3))


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        ("dcgan", (64, 15), "64x15, but each side needs at least 16"),
        ("xray", (800, 790), "800x790.* multiples of 32 pixels; .* such as 800x800"),
        ("xray", (8, 64), "8x64.* multiples of 32 pixels; .* such as 32x64"),
        ("tf-mnist", (28, 30), "28x30.* multiples of 4 pixels; .* such as 28x32"),
        ("mnist-upsample", (27, 28), "27x28.* multiples of 4 pixels; .* such as 28x28"),
        ("celeba", (218, 178), "218x178.* multiples of 8 pixels; .* such as 216x176"),
        ("cifar10", (33, 32), "33x32.* multiples of 8 pixels; .* such as 32x32"),
    ],
)
def test_sizes_are_refused(model, size, words):
    with pytest.raises(ConfigError, match=f"--model {model}: the size is {words}"):
        build(config(model, size=size))
