"""training/step.py: one step's gradients against ordinary backward passes, whole and in micro-batches."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import traceback
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ganvas.augment import NUMBERS, OPERATIONS, POLICIES, Draw, augment, draw
from ganvas.config import ModelConfig, TrainConfig
from ganvas.losses import LOSSES
from ganvas.models import MODELS, build, contract, crops_of
from ganvas.models.layers import without_memory
from ganvas.training import step
from ganvas.training.step import (
    Inputs,
    Networks,
    Side,
    accumulate_gradients,
    augmentations_for,
    learning_rate,
    path_gradients,
)

CLASSES = 3
NUM = 7  # images in a batch: a prime, so that micro-batches are of different sizes
POLICY = POLICIES["photo"]
CONFIG = TrainConfig(loss="relativistic", r1=2.0, r2=0.5, penalty_interval=4, augment=0.8, precision="fp32")

# Networks whose discriminators look at each image alone.
joint = pytest.mark.parametrize(("model", "num_classes"), [("compact", 0), ("residual", CLASSES)])
conditions = pytest.mark.parametrize("num_classes", [0, CLASSES], ids=["plain", "labels"])


class SmallGenerator(contract.Generator):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.start = nn.Linear(4, 2 * 3 * 3)
        self.classes = nn.Embedding(num_classes, 2 * 3 * 3) if num_classes else None
        self.up = nn.ConvTranspose2d(2, 3, 4, 2, 1)

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        x = self.start(z) if self.classes is None else self.start(z) + self.classes(labels)
        return torch.tanh(self.up(torch.sin(x).view(-1, 2, 3, 3)))


class SmallDiscriminator(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(5 * 3 * 3, 6))
        self.classes = nn.Embedding(max(num_classes, 1), 6)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
        return (torch.tanh(self.layers(images)) * self.classes(labels)).sum(1)


def small_networks(num_classes: int = 0) -> Networks:
    """Smooth, in float64."""
    torch.manual_seed(0)
    generator, discriminator = SmallGenerator(num_classes).double(), SmallDiscriminator(num_classes).double()
    return Networks(generator, discriminator, generator, discriminator)


def registered_networks(model: str, num_classes: int = 0) -> tuple[ModelConfig, Networks]:
    """In float64, where no rounding carries a number across a leaky ReLU's kink.

    Weights are moved away from their start, where some are zero and hide what lies behind them.
    """
    config = ModelConfig(model, 20, 28, 3, num_classes, z_dim=4, base=16)
    torch.manual_seed(0)
    generator, discriminator = build(config)
    with torch.no_grad():
        for parameter in [*generator.parameters(), *discriminator.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    generator, discriminator = generator.double().eval(), discriminator.double()
    return config, Networks(generator, discriminator, generator, discriminator)


def inputs(height: int, width: int, num_classes: int = 0, num: int = NUM, dtype: torch.dtype = torch.float32) -> Inputs:
    noise = torch.Generator().manual_seed(5)
    real = 2 * torch.rand(num, 3, height, width, generator=noise, dtype=dtype) - 1
    labels = torch.randint(num_classes, (num,), generator=noise) if num_classes else None
    z = torch.randn(num, 4, generator=noise, dtype=dtype)
    return Inputs(real, labels, z, draw(num, POLICY, 0.8, noise))


def flat(network: nn.Module) -> Tensor:
    """All gradients in one vector."""
    return torch.cat([p.grad.flatten() if p.grad is not None else p.new_zeros(p.numel()) for p in network.parameters()])


def gradients(networks: Networks, given: Inputs, config: TrainConfig = CONFIG, micro_batch: int = 99, penalise=True):
    """(generator's, discriminator's) gradients of one step as vectors, from fresh."""
    for network in (networks.generator, networks.plain_discriminator):
        network.zero_grad()
    if config.update == "alternating":
        accumulate_gradients(
            networks, given, config, augmentations_for("photo", config), micro_batch, penalise, "generator"
        )
        side: Side = "discriminator"
        kept = flat(networks.generator)
        accumulate_gradients(networks, given, config, augmentations_for("photo", config), micro_batch, penalise, side)
        assert torch.equal(flat(networks.generator), kept)  # the discriminator's turn leaves the generator alone
    else:
        accumulate_gradients(networks, given, config, augmentations_for("photo", config), micro_batch, penalise)
    return flat(networks.generator), flat(networks.plain_discriminator)


def two_passes(networks: Networks, given: Inputs, name: str = "relativistic") -> tuple[Tensor, Tensor]:
    """The adversarial gradients as everybody computes them: a backward pass for each network."""
    loss, generator, discriminator = LOSSES[name], networks.generator, networks.plain_discriminator
    vectors = []
    for network, term in ((generator, loss.generator), (discriminator, loss.discriminator)):
        network.zero_grad()
        fake = generator(given.z, given.labels)
        real_logits = discriminator(augment(given.real, given.draw, POLICY), given.labels)
        fake_logits = discriminator(augment(fake, given.draw, POLICY), given.labels)
        term(real_logits, fake_logits).mean().backward()
        vectors.append(flat(network))
    return vectors[0], vectors[1]


def assert_near(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= tolerance * other.norm()


# One pass for both networks.


@conditions
def test_one_pass_is_two_passes(num_classes):
    networks, given = small_networks(num_classes), inputs(6, 6, num_classes, dtype=torch.float64)
    assert_near(gradients(networks, given, penalise=False), two_passes(networks, given), 1e-6)


@joint
def test_one_pass_is_two_passes_for_every_model(model, num_classes):
    shape, networks = registered_networks(model, num_classes)
    given = inputs(shape.height, shape.width, num_classes, dtype=torch.float64)
    assert_near(gradients(networks, given, penalise=False), two_passes(networks, given), 1e-6)


@conditions
@pytest.mark.parametrize("update", ["joint", "alternating"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_gives_both_networks_their_own_gradient(loss, update, num_classes):
    networks, given = small_networks(num_classes), inputs(6, 6, num_classes, dtype=torch.float64)
    config = dataclasses.replace(CONFIG, loss=loss, update=update)
    assert_near(gradients(networks, given, config, penalise=False), two_passes(networks, given, loss), 1e-6)


def test_noisy_targets_reach_the_discriminator_alone():
    networks = small_networks()
    given = dataclasses.replace(inputs(6, 6, dtype=torch.float64), uniform=torch.rand(NUM, 3, dtype=torch.float64))
    plain = dataclasses.replace(CONFIG, loss="bce", r1=0.0, r2=0.0)
    config = dataclasses.replace(plain, label_noise=0.05)
    generator, discriminator = gradients(networks, given, config)
    assert_near((generator,), (gradients(networks, given, plain)[0],), 1e-6)

    networks.plain_discriminator.zero_grad()
    real, fake = (
        networks.plain_discriminator(augment(pictures, given.draw, POLICY), None)
        for pictures in (given.real, networks.generator(given.z, None).detach())
    )
    assert given.uniform is not None
    targets = 1 - 0.05 * given.uniform[:, 1], -0.05 * given.uniform[:, 2]
    sigmoid = [torch.sigmoid(real).log(), torch.sigmoid(-real).log(), torch.sigmoid(fake).log()]
    loss = -(targets[0] * sigmoid[0] + (1 - targets[0]) * sigmoid[1])
    loss = loss - (targets[1] * sigmoid[2] + (1 - targets[1]) * torch.sigmoid(-fake).log())
    loss.mean().backward()
    assert_near((discriminator,), (flat(networks.plain_discriminator),), 1e-6)


def test_gradient_penalty_is_added_with_its_weight_and_interval():
    networks = small_networks()
    given = dataclasses.replace(inputs(6, 6, dtype=torch.float64), uniform=torch.rand(NUM, 3, dtype=torch.float64))
    config = dataclasses.replace(CONFIG, loss="wasserstein", r1=0.0, r2=0.0, gradient_penalty=10.0)
    added = gradients(networks, given, config)[1] - gradients(networks, given, config, penalise=False)[1]
    networks.plain_discriminator.zero_grad()
    fake = networks.generator(given.z, None).detach()
    assert given.uniform is not None
    share = given.uniform[:, 0].view(-1, 1, 1, 1)
    shown = [augment(pictures, given.draw, POLICY) for pictures in (given.real, fake)]
    between = (share * shown[0] + (1 - share) * shown[1]).requires_grad_()
    (slope,) = torch.autograd.grad(networks.plain_discriminator(between, None).sum(), between, create_graph=True)
    (4 * 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()).backward()
    assert_near((added,), (flat(networks.plain_discriminator),), 1e-6)


def test_path_lengths_weigh_their_interval_and_look_at_half_of_the_batch():
    class Measured(SmallGenerator, contract.StyledGenerator):
        def path_length_penalty(self, z: Tensor, labels: Tensor | None) -> Tensor:
            seen.append(len(z))
            return self(z, labels).mean()

    seen: list[int] = []
    generator, given = Measured(0).double(), inputs(6, 6, dtype=torch.float64)
    path_gradients(generator, given, 2.0)
    added = flat(generator)
    generator.zero_grad()
    (generator(given.z[:3], None).mean() * 8).backward()
    assert seen == [3]
    assert_near((added,), (flat(generator),), 1e-12)


def test_one_pass_when_the_discriminator_is_far_ahead():
    """Logits 10 apart: the discriminator's own gradient is small, the generator's must not be."""
    networks, given = small_networks(), inputs(6, 6, dtype=torch.float64)
    discriminator = networks.plain_discriminator
    with torch.no_grad():
        discriminator.classes.weight.mul_(20)
    assert_near(gradients(networks, given, penalise=False), two_passes(networks, given), 1e-5)


def test_gradients_are_added_and_networks_left_alone():
    networks, given = small_networks(), inputs(6, 6, dtype=torch.float64)
    before = copy.deepcopy(networks.plain_discriminator.state_dict())
    once = gradients(networks, given)
    accumulate_gradients(networks, given, CONFIG, POLICY, 99, True)
    twice = flat(networks.generator), flat(networks.plain_discriminator)
    assert_near(twice, tuple(2 * vector for vector in once), 1e-12)
    after = networks.plain_discriminator.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


# Penalties.


@conditions
def test_lazy_penalties_add_interval_times_half_gamma(num_classes):
    networks, given = small_networks(num_classes), inputs(6, 6, num_classes, dtype=torch.float64)
    discriminator = networks.plain_discriminator
    generator_with, with_penalty = gradients(networks, given)
    generator_without, without = gradients(networks, given, penalise=False)
    assert torch.equal(generator_with, generator_without)  # R2 is none of the generator's business

    discriminator.zero_grad()
    fake = networks.generator(given.z, given.labels).detach()
    for pictures, gamma in ((given.real, 2.0), (fake, 0.5)):
        shown = augment(pictures, given.draw, POLICY).requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(shown, given.labels).sum(), shown, create_graph=True)
        (4 * gamma / 2 * slope.square().sum() / NUM).backward()
    assert_near((with_penalty - without,), (flat(discriminator),), 1e-10)


@pytest.mark.parametrize("field", ["r1", "r2"])
def test_each_penalty_can_be_switched_off(field):
    networks, given = small_networks(), inputs(6, 6, dtype=torch.float64)
    both = gradients(networks, given)[1]
    one = gradients(networks, given, dataclasses.replace(CONFIG, **{field: 0.0}))[1]
    none = gradients(networks, given, dataclasses.replace(CONFIG, r1=0.0, r2=0.0))[1]
    assert (one - both).norm() > 0 and (one - none).norm() > 0
    assert torch.equal(none, gradients(networks, given, penalise=False)[1])


# Micro-batches and ranks.


@conditions
@pytest.mark.parametrize("micro_batch", [1, 3, 5])
def test_micro_batches_change_nothing(num_classes, micro_batch):
    networks, given = small_networks(num_classes), inputs(6, 6, num_classes, dtype=torch.float64)
    assert_near(gradients(networks, given, micro_batch=micro_batch), gradients(networks, given), 1e-6)


@pytest.mark.parametrize(
    "change", [{"loss": "hinge"}, {"loss": "least-squares"}, {"loss": "bce", "label_noise": 0.2}], ids=str
)
def test_micro_batches_change_nothing_without_rescaled_gradients(change):
    networks, given = small_networks(), inputs(6, 6, dtype=torch.float64)
    config = dataclasses.replace(CONFIG, **change)
    if config.label_noise:
        given = dataclasses.replace(given, uniform=torch.rand(NUM, 3, dtype=torch.float64))
    assert_near(gradients(networks, given, config, micro_batch=3), gradients(networks, given, config), 1e-6)


@joint
def test_micro_batches_change_nothing_for_every_model(model, num_classes):
    shape, networks = registered_networks(model, num_classes)
    given = inputs(shape.height, shape.width, num_classes, dtype=torch.float64)
    whole = gradients(networks, given)
    for micro_batch in (2, 6):
        assert_near(gradients(networks, given, micro_batch=micro_batch), whole, 1e-6)


def test_mean_over_equal_ranks_is_the_single_process():
    networks, given = small_networks(CLASSES), inputs(6, 6, CLASSES, num=6, dtype=torch.float64)
    parts = [gradients(networks, given.slice(start, start + 2)) for start in (0, 2, 4)]
    mean = tuple(torch.stack(vectors).mean(0) for vectors in zip(*parts, strict=True))
    assert_near(mean, gradients(networks, given), 1e-6)


# What is reported.


@pytest.mark.parametrize("micro_batch", [2, 99])
def test_stats_are_means_over_the_batch(micro_batch):
    networks, given = small_networks(CLASSES), inputs(6, 6, CLASSES, dtype=torch.float64)
    stats = accumulate_gradients(networks, given, CONFIG, POLICY, micro_batch, True)
    with torch.no_grad():
        fake = augment(networks.generator(given.z, given.labels), given.draw, POLICY)
        fake_logits = networks.discriminator(fake, given.labels)
        real_logits = networks.discriminator(augment(given.real, given.draw, POLICY), given.labels)
    assert stats.real.item() == pytest.approx(real_logits.mean().item(), rel=1e-5)
    assert stats.fake.item() == pytest.approx(fake_logits.mean().item(), rel=1e-5)
    expected = LOSSES["relativistic"].discriminator(real_logits, fake_logits).mean().item()
    assert stats.loss.item() == pytest.approx(expected, rel=1e-5)
    for name, shown in (("r1", augment(given.real, given.draw, POLICY)), ("r2", fake)):
        shown.requires_grad_()
        (slope,) = torch.autograd.grad(networks.discriminator(shown, given.labels).sum(), shown)
        assert getattr(stats, name).item() == pytest.approx(slope.square().sum().item() / NUM, rel=1e-6)
    assert not any(value.requires_grad for value in vars(stats).values())


def test_steps_without_penalties_report_none():
    networks, given = small_networks(), inputs(6, 6, dtype=torch.float64)
    stats = accumulate_gradients(networks, given, CONFIG, POLICY, 3, False)
    assert stats.r1 is None and stats.r2 is None


# Precision.


@joint
def test_bfloat16_gradients_are_close(model, num_classes):
    shape, networks = registered_networks(model, num_classes)
    for network in (networks.generator, networks.plain_discriminator):
        network.float()
    given = inputs(shape.height, shape.width, num_classes)
    full = gradients(networks, given)
    half = gradients(networks, given, dataclasses.replace(CONFIG, precision="bf16"))
    for one, other in zip(half, full, strict=True):
        assert one.dtype == torch.float32 and one.isfinite().all()
        assert torch.cosine_similarity(one, other, dim=0) > 0.97


# Schedules.


def test_learning_rate_rises_holds_and_falls():
    config = TrainConfig(lr=0.002, lr_end=0.1, decay_from=0.5, warmup=0.1)
    rate = {seen: learning_rate(config, seen, 1000) for seen in (0, 50, 100, 500, 750, 1000, 2000)}
    assert rate[0] == 0 and rate[50] == pytest.approx(0.001)
    assert rate[100] == rate[500] == pytest.approx(0.002)
    assert rate[750] == pytest.approx(0.002 * (1 + 0.1) / 2)
    assert rate[1000] == rate[2000] == pytest.approx(0.0002)


@pytest.mark.parametrize("decay_from", [0.0, 1.0])
def test_learning_rate_at_the_ends_of_its_options(decay_from):
    config = TrainConfig(lr=1.0, lr_end=0.0, decay_from=decay_from, warmup=0.0)
    assert learning_rate(config, 0, 1000) == 1
    assert math.isclose(learning_rate(config, 1000, 1000), decay_from, abs_tol=1e-12)
    assert 0 <= learning_rate(config, 500, 0) <= 1


def test_no_augmentation_without_probability():
    assert augmentations_for("photo", TrainConfig(augment=0.3)) == POLICIES["photo"]
    assert augmentations_for("photo", TrainConfig(augment=0.0)) == augmentations_for("photo", TrainConfig()) == ()


# What a GPU would wait for.


class HostTensors(TorchFunctionMode):
    """Records calls that make a tensor from Python numbers, as lists of indices do, or use one in the host's memory.

    On a GPU, both are copies that it waits for. Calls that ask for a number fail on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        index = args[1] if func in (Tensor.__getitem__, Tensor.__setitem__) else ()
        listed = any(isinstance(one, list) for one in (index if isinstance(index, tuple) else (index,)))
        on_host = any(isinstance(one, Tensor) and one.device.type == "cpu" for one in given)
        if func in (torch.tensor, torch.as_tensor) or listed or on_host:
            self.found.append("".join(traceback.format_stack(limit=2)[:1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("model", "discriminator", "height", "width"),
    [
        ("light", "both", 400, 300), ("light", "own", 64, 48), ("compact", "both", 64, 64),
        ("residual", "both", 64, 64), ("style", "both", 64, 64), ("dcgan", "own", 64, 64),
    ],
)  # fmt: skip
def test_a_gpu_waits_for_nothing_in_a_step(
    model: str, discriminator: str, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_autocast", lambda device, precision: contextlib.nullcontext())  # meta has none
    classic = MODELS[model].classic
    config = dataclasses.replace(
        CONFIG, update="alternating" if classic else "joint", path_length=2.0 if model == "style" else 0.0,
        gradient_penalty=0.0 if classic or discriminator == "both" else 1.0, r1_features=1.0,
        loss="bce" if classic else "relativistic", label_noise=0.1 if classic else 0.0,
    )  # fmt: skip
    classes = 0 if classic else CLASSES
    with without_memory():
        generator, judge = build(ModelConfig(model, height, width, 3, classes, 8, 16, discriminator=discriminator))
        labels = None if classic else torch.zeros(8, dtype=torch.int64)
        places = torch.zeros(8, crops_of(judge), 2)
        numbers = Draw(torch.zeros(8, len(NUMBERS)), torch.zeros(8, len(OPERATIONS)))
        real, z, uniform = torch.zeros(8, 3, height, width), torch.zeros(8, 8), torch.zeros(8, 3)
        given = Inputs(real, labels, z, numbers, uniform, torch.ones(3), places)
    networks = Networks(generator.train(), judge.train(), generator, judge)
    with HostTensors() as mode:
        for side in ("discriminator", "generator") if classic else ("both",):
            accumulate_gradients(networks, given, config, POLICY, 8, True, side, True)
    assert mode.found == []
