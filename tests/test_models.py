"""One battery over every modern architecture: a new one is checked by being registered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from architectures import MODERN
from ganvas.config import ModelConfig
from ganvas.errors import ConfigError
from ganvas.generator import Generator
from ganvas.losses import gradient_norm_exact
from ganvas.model_file import ModelInfo, labels_in_turn
from ganvas.models import MODELS, build, channels_last, normalise
from ganvas.models.batch_norm import measure_statistics
from ganvas.models.summary import summarise, summarise_config

SIZES = [(28, 28), (32, 32), (40, 64), (45, 37)]
CLASSES = 3

conditions = pytest.mark.parametrize("num_classes", [0, CLASSES], ids=["plain", "labels"])


@pytest.fixture(params=MODERN)
def model(request) -> str:
    return request.param


def config(
    model: str, size: tuple[int, int] = (28, 28), channels: int = 1, num_classes: int = 0, **more: int
) -> ModelConfig:
    return ModelConfig(model, *size, channels, num_classes, **{"z_dim": 8, "base": 16, **more})


def networks(config: ModelConfig, seed: int = 0, trained: bool = False) -> tuple[nn.Module, nn.Module]:
    """trained: weights away from their start, where some are zero and hide what lies behind them.

    In training mode, but for networks that say that they mix images or draw numbers there.
    """
    torch.manual_seed(seed)
    pair = build(config)
    for network in pair:
        if network.mixes_images or network.stochastic:
            network.eval()
    if trained:
        with torch.no_grad():
            for parameter in [*pair[0].parameters(), *pair[1].parameters()]:
                parameter.add_(0.05 * torch.randn_like(parameter))
    measure_statistics(pair[0], config, labels_in_turn(config, None))
    return pair


def inputs(config: ModelConfig, num: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """(z, images, labels); labels run through all classes."""
    noise = torch.Generator().manual_seed(seed)
    z = torch.randn(num, config.z_dim, generator=noise)
    pictures = 2 * torch.rand(num, config.channels, config.height, config.width, generator=noise) - 1
    return z, pictures, torch.arange(num) % CLASSES if config.num_classes else None


# Any size, any channels, with and without labels.


@pytest.mark.parametrize(
    ("size", "channels", "num_classes"),
    list(zip(SIZES, (1, 4, 3, 3), (0, CLASSES, 0, CLASSES), strict=True)),
    ids=lambda value: str(value).replace(" ", ""),
)
def test_shapes_ranges_and_second_derivatives(model, size, channels, num_classes):
    """The beginning of a training: right shapes, nothing saturated, gradients to every weight of the discriminator."""
    shape = config(model, size, channels, num_classes)
    generator, discriminator = networks(shape)
    z, pictures, labels = inputs(shape, 3)

    fakes = generator(z, labels)
    assert fakes.shape == pictures.shape and fakes.dtype == torch.float32
    assert fakes.abs().max() <= 1 and (fakes.abs() > 0.99).float().mean() < 0.2
    assert fakes.std(dim=0).mean() > 1e-3  # the latent shows from the start

    logits = discriminator(pictures, labels)
    assert logits.shape == (3,) and logits.dtype == torch.float32
    assert logits.abs().max() < 20 and discriminator(fakes, labels).abs().max() < 20

    norm = gradient_norm_exact(discriminator, pictures, labels)
    assert norm.shape == (3,) and (norm > 1e-8).all() and (norm < 1e3).all()
    (norm.mean() + logits.mean() + discriminator(fakes, labels).mean()).backward()
    for network in (generator, discriminator):
        gradients = [parameter.grad for _, parameter in network.named_parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        assert sum(gradient.abs().sum() for gradient in gradients if gradient is not None) > 0


@conditions
def test_every_weight_learns(model, num_classes):
    """Away from the start no weight is left without a gradient, in one backward pass through both networks."""
    shape = config(model, (45, 37), 3, num_classes, blocks=2)
    generator, discriminator = networks(shape, trained=True)
    z, _, labels = inputs(shape, CLASSES)
    discriminator(generator(z, labels), labels).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("base", "blocks"), [(8, 3), (24, 1), (40, 1)])
def test_any_width_and_depth(model, base, blocks):
    shape = config(model, (30, 22), 3, base=base, blocks=blocks, z_dim=5)
    generator, discriminator = networks(shape)
    assert discriminator(generator(torch.randn(2, 5))).shape == (2,)


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (512, 1024), (17, 300)])
def test_sizes_without_arithmetic(model, size):
    for summary in summarise_config(config(model, size, 3)):
        assert summary.parameters > 0 and summary.macs > 0
    with torch.device("meta"):
        generator, discriminator = build(config(model, size, 3))
        pictures = generator(torch.zeros(2, 8))
        assert pictures.shape[1:] == (3, *size) and discriminator(pictures).shape == (2,)


# Images know nothing of each other.


@conditions
def test_pictures_do_not_mix(model, num_classes):
    shape = config(model, (28, 28), 3, num_classes)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, labels = inputs(shape, 4)
    pictures.requires_grad_()
    z.requires_grad_()

    def reaches(output: Tensor, source: Tensor) -> list[bool]:
        (gradient,) = torch.autograd.grad(output[1].sum(), source)
        return [bool(row.abs().max() > 0) for row in gradient]

    assert reaches(discriminator(pictures, labels), pictures) == [False, True, False, False]
    assert reaches(generator(z, labels), z) == [False, True, False, False]


@conditions
def test_neighbours_change_nothing(model, num_classes):
    shape = config(model, (28, 28), 3, num_classes)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, labels = inputs(shape, 4)
    others = torch.tensor([0, 2, 3])
    with torch.no_grad():
        for network, given in ((generator, z), (discriminator, pictures)):
            changed = given.clone()
            changed[1] = 5 * torch.randn_like(changed[1])
            before, after = network(given, labels), network(changed, labels)
            torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-5)
            assert not torch.allclose(after[1], before[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "num_classes"), [((32, 32), 0), ((45, 37), CLASSES)], ids=["plain", "labels"])
def test_batch_size_changes_nothing(model, size, num_classes):
    shape = config(model, size, 3, num_classes)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, labels = inputs(shape, 5)
    with torch.no_grad():
        for network, given in ((generator, z), (discriminator, pictures)):
            whole = network(given, labels)
            rows = [network(given[i : i + 1], None if labels is None else labels[i : i + 1]) for i in range(5)]
            torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-5, atol=1e-5)


def test_evaluation_mode_is_the_same_function(model):
    """No dropout and no batch statistics, but where a network says so: what is trained is what is sampled."""
    shape = config(model, channels=3)
    for network, given in zip(networks(shape, trained=True), inputs(shape, 3), strict=False):
        if not network.training:
            continue
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(given), network.train()(given), rtol=0, atol=1e-6)


# Labels.


def test_labels_matter_to_both(model):
    shape = config(model, num_classes=CLASSES)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, _ = inputs(shape, 1)
    every = torch.arange(CLASSES)
    with torch.no_grad():
        drawn = generator(z.expand(CLASSES, -1), every)
        logits = discriminator(pictures.expand(CLASSES, -1, -1, -1), every)
    assert min((drawn[i] - drawn[i - 1]).abs().mean() for i in range(CLASSES)) > 1e-3
    assert len({round(value, 4) for value in logits.tolist()}) == CLASSES


# Precision, layout, seeds.


@conditions
def test_bfloat16_is_close(model, num_classes):
    shape = config(model, (32, 32), 3, num_classes)
    generator, discriminator = networks(shape, trained=True)
    z, pictures, labels = inputs(shape, 8)

    def outputs(enabled: bool) -> tuple[Tensor, Tensor, Tensor]:
        given = pictures.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            fakes, logits = generator(z, labels), discriminator(given, labels)
        (gradient,) = torch.autograd.grad(logits.float().sum(), given)
        return fakes.detach(), logits.detach(), gradient

    for half, full in zip(outputs(True), outputs(False), strict=True):
        assert half.dtype == torch.float32 and half.isfinite().all()
        assert (half - full).norm() < 0.1 * full.norm()


def test_channels_last_is_the_same_network(model):
    shape = config(model, (45, 37), 3)
    for network, given in zip(networks(shape, trained=True), inputs(shape, 2), strict=False):
        with torch.no_grad():
            before = network(given)
            if given.ndim == 4:
                given = given.contiguous(memory_format=torch.channels_last)
            after = channels_last(network)(given)
            torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@conditions
def test_features_stay_in_channels_last_format(model, num_classes):
    """Otherwise every convolution on a CPU copies its input and its gradient."""
    shape = config(model, (64, 64), num_classes=num_classes)
    generator = channels_last(networks(shape)[0])
    formats = []
    for module in generator.depths[1:]:
        module.register_forward_hook(lambda _module, _given, x: formats.append(x.stride(1) == 1))
    z, _, labels = inputs(shape, 2)
    generator(z, labels)
    assert formats and all(formats)


@conditions
def test_torch_seed_decides_the_weights(model, num_classes):
    shape = config(model, num_classes=num_classes)
    first, again, other = (networks(shape, seed) for seed in (4, 4, 5))
    for one, two, three in zip(first, again, other, strict=True):
        state = two.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())
        assert any(not torch.equal(tensor, one.state_dict()[name]) for name, tensor in three.state_dict().items())


@pytest.mark.parametrize("side", [28, 130])
def test_initial_scale_is_sane(model, side):
    """Neither flat nor saturated images, and logits that a first step can handle, however many stages there are."""
    shape = config(model, (side, side), 3, z_dim=32, base=16 if side < 100 else 8)
    _, pictures, _ = inputs(shape, 2)
    for seed in range(3 if side < 60 else 1):
        generator, discriminator = networks(shape, seed)
        with torch.no_grad():
            fakes = generator(torch.randn(4, shape.z_dim))
            assert 0.05 < fakes.std() < 0.6 and (fakes.abs() > 0.99).float().mean() < 0.01
            assert discriminator(pictures).std() > 1e-5 and discriminator(pictures).abs().max() < 3
            assert discriminator(fakes).abs().max() < 3
        assert 1e-6 < gradient_norm_exact(discriminator, pictures, None).mean() < 10


def test_spectral_norm_is_an_option_of_every_discriminator(model):
    shape = config(model, (20, 20), 3, CLASSES, spectral_norm=True, base=8)
    _, discriminator = networks(shape)
    _, pictures, labels = inputs(shape, 4)
    discriminator.train()
    layers = [layer for layer in discriminator.modules() if hasattr(layer, "parametrizations")]
    for _ in range(30):  # power iterations
        _ = [layer.weight for layer in layers]
    checked = 0
    for layer in discriminator.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and hasattr(layer, "parametrizations"):
            largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert largest == pytest.approx(1, abs=0.05)
            checked += 1
    assert checked >= 3
    gradient_norm_exact(discriminator, pictures, labels).mean().backward()
    for summary, network in zip(summarise_config(shape), networks(shape), strict=True):
        assert summary.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert sum(row.parameters for row in summary.rows) <= summary.parameters


def test_spectral_norm_leaves_the_outputs_shape_alone():
    network = nn.Sequential(nn.Linear(5, 4), nn.Flatten(), nn.Linear(4, 1))
    normalise(network)
    assert network(torch.randn(3, 5)).shape == (3, 1) and len(list(network.parameters())) == 4


@pytest.mark.parametrize("num_classes", [0, CLASSES], ids=["plain", "labels"])
def test_truncation_of_every_model_goes_to_one_picture(model, num_classes):
    shape = config(model, num_classes=num_classes)
    network, _ = networks(shape, trained=True)
    generator = Generator(network, ModelInfo(shape, [str(i) for i in range(num_classes)]))
    label = 1 if num_classes else None
    mean, full = (generator.sample(3, label=label, truncation=truncation) for truncation in (0.0, 1.0))
    torch.testing.assert_close(mean[0], mean[2])
    assert not torch.allclose(full[0], full[2])


def test_registry_names_every_architecture_once():
    assert {"compact", "residual", "style", "mlp", "dcgan", "xray"} <= MODELS.keys()
    with pytest.raises(ConfigError, match="--model perceptron: expected one of light, compact"):
        build(config("perceptron"))


# Kept and counted.


@conditions
def test_save_and_load(model, num_classes, tmp_path):
    shape = config(model, (45, 37), 3, num_classes, blocks=2)
    network, _ = networks(shape, trained=True)
    classes = [f"class {i}" for i in range(num_classes)]
    saved = Generator(network, ModelInfo(shape, classes))
    loaded = Generator.load(saved.save(tmp_path / "model"), "cpu")
    assert loaded.info == saved.info
    state = saved.network.state_dict()
    assert list(state) == list(loaded.network.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.network.state_dict().items())
    assert torch.equal(loaded.sample(5, seed=3), saved.sample(5, seed=3))


@conditions
def test_summary_counts_every_parameter(model, num_classes):
    shape = config(model, (45, 37), 3, num_classes)
    for network, summary in zip(networks(shape), summarise_config(shape), strict=True):
        assert summary.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert summary.macs == sum(row.macs for row in summary.rows) > 0


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), 10 * 12 * 8 * 3 * 9),
        (lambda: nn.Conv2d(3, 8, (3, 5), stride=2, padding=(1, 2)), (3, 10, 12), 5 * 6 * 8 * 3 * 15),
        (lambda: nn.Conv2d(8, 16, 3, groups=4), (8, 6, 6), 4 * 4 * 16 * 2 * 9),
        (lambda: nn.Linear(7, 5, bias=False), (7,), 35),
    ],
)
def test_multiply_adds_of_one_layer(layer: Callable[[], nn.Module], shape, macs):
    summary = summarise(nn.Sequential(layer()), torch.zeros(2, *shape))
    assert summary.macs == macs
    assert summary.rows[0].parameters == summary.parameters


def test_unknown_architecture():
    with pytest.raises(ConfigError, match=r"--model vast: expected one of .*residual"):
        build(config("vast"))


def test_coarse_grids_of_light_have_a_residual_block_that_changes_nothing_at_first() -> None:
    """So that starting weights without it keep their images."""
    generator = build(ModelConfig("light", 64, 64, 3, z_dim=8, base=8, widest=16))[0].eval()
    blocks = [stage.residual for stage in generator.stages]
    assert [block is not None for block in blocks] == [True, True, False, False]  # 8 and 16 pixels; not 32, 64
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = generator(z)
        for block in blocks[:2]:
            block.conv.weight.normal_()
        assert torch.equal(generator(z), before)
        blocks[0].out.weight.normal_()
        changed = generator(z)
        assert not torch.equal(changed, before)
        blocks[0].gate.weight.normal_()  # the gates depend on the latent
        assert not torch.equal(generator(z), changed)
