"""losses.py: values, gradients and penalties against formulas written out, in float64 unless said otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ganvas.losses import (
    LOSSES,
    cross_entropy,
    generator_scale,
    gradient_norm_exact,
    gradient_penalty,
)

RELATIVISTIC = LOSSES["relativistic"]


def logits(num: int = 64, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    real, fake = spread * torch.randn(2, num, dtype=torch.float64)
    return real.requires_grad_(), fake.requires_grad_()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Quadratic(nn.Module):
    """D(x) = b.x + x.A x / 2 for each image by itself, with the gradient b + (A + A') x / 2."""

    def __init__(self, shape: tuple[int, int, int], curvature: float) -> None:
        super().__init__()
        num = shape[0] * shape[1] * shape[2]
        self.linear = nn.Parameter(torch.randn(num, dtype=torch.float64))
        self.matrix = nn.Parameter(curvature / num * torch.randn(num, num, dtype=torch.float64))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = images.flatten(1)
        return x @ self.linear + ((x @ self.matrix) * x).sum(1) / 2

    def gradient(self, images: Tensor) -> Tensor:
        return self.linear + images.flatten(1) @ (self.matrix + self.matrix.T) / 2


def small_discriminator() -> nn.Module:
    """Smooth, conditional on nothing, and without operations that mix images."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 3, 3, stride=2), nn.Tanh(), nn.Flatten()
    )
    return nn.Sequential(network, nn.Linear(3 * 2 * 2, 1), nn.Flatten(0)).double()


def discriminate(network: nn.Module):
    return lambda images, labels: network(images)


# The two sides of the game.


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-x))


def of_formula(formula: str, real: Tensor, fake: Tensor) -> Tensor:
    """The value of a formula of the registry."""
    names = {"r": real, "f": fake, "s": sigmoid, "log": torch.log, "exp": torch.exp}
    return eval(formula, names | {"max": lambda x, least: (x > least).double() * (x - least) + least})


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_the_formulas(name):
    real, fake = logits()
    loss = LOSSES[name]
    for term, formula in zip((loss.discriminator, loss.generator), loss.formulas, strict=True):
        value, expected = term(real, fake), of_formula(formula, real, fake)
        assert value.shape == real.shape
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
        found, wanted = (
            torch.autograd.grad(x.sum(), [real, fake], materialize_grads=True, allow_unused=True)
            for x in (value, expected)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_terms_stay_finite_for_extreme_logits(name):
    real, fake = torch.tensor([1e4, -1e4, 0.0]), torch.tensor([-1e4, 1e4, 0.0])
    loss = LOSSES[name]
    for term in (loss.discriminator, loss.generator):
        assert term(real, fake).isfinite().all()
    if loss.rescales:
        assert generator_scale(loss, real, fake).isfinite().all()


@pytest.mark.parametrize("target", [0.0, 0.3, 0.9, 1.0, -0.05])
def test_cross_entropy_with_soft_and_noisy_targets(target):
    (logit, _) = logits()
    expected = -target * log_sigmoid(logit) - (1 - target) * log_sigmoid(-logit)
    torch.testing.assert_close(cross_entropy(logit, target), expected)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.targets])
def test_targets_move_the_discriminators_optimum(name):
    """With a target t the best logit is that of t, not infinity."""
    best = {"bce": torch.log(torch.tensor(0.9 / 0.1)).double(), "least-squares": torch.tensor(0.9).double()}
    real = (best.get(name, best["bce"]) + torch.zeros(3, dtype=torch.float64)).requires_grad_()
    loss = LOSSES[name].discriminator(real, torch.zeros(3).double(), 0.9, 0.0)
    assert torch.autograd.grad(loss.sum(), real)[0].abs().max() < 1e-7


@pytest.mark.parametrize("name", LOSSES)
def test_pairs_do_not_mix(name):
    real, fake = logits(5)
    (slope,) = torch.autograd.grad(LOSSES[name].discriminator(real, fake)[1], fake)
    assert slope[[0, 2, 3, 4]].abs().max() == 0


def test_only_the_difference_counts():
    real, fake = logits()
    torch.testing.assert_close(
        RELATIVISTIC.discriminator(real + 7, fake + 7), RELATIVISTIC.discriminator(real, fake), rtol=1e-12, atol=1e-12
    )


# One backward pass for both networks.


def test_scale_is_minus_exp_of_the_difference():
    real, fake = logits()
    torch.testing.assert_close(generator_scale(RELATIVISTIC, real, fake), -torch.exp(real - fake).detach())


def test_scale_is_cut_at_forty():
    real, fake = torch.tensor([50.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 50.0], dtype=torch.float64)
    expected = -torch.exp(torch.tensor([40.0, -40.0], dtype=torch.float64))
    torch.testing.assert_close(generator_scale(RELATIVISTIC, real, fake), expected)


def test_scale_leaves_no_graph_and_no_gradient():
    real, fake = logits()
    with torch.no_grad():
        scale = generator_scale(RELATIVISTIC, real, fake)
    assert not scale.requires_grad and real.grad is None and fake.grad is None


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.rescales])
def test_rescaled_gradient_is_the_generators(name):
    loss = LOSSES[name]
    network = small_discriminator()
    real, fake = torch.randn(2, 5, 2, 6, 6, dtype=torch.float64)
    fake.requires_grad_()
    (wanted,) = torch.autograd.grad(loss.generator(network(real), network(fake)).mean(), fake)
    real_logits, fake_logits = network(real), network(fake)
    (gradient,) = torch.autograd.grad(loss.discriminator(real_logits, fake_logits).mean(), fake)
    scale = generator_scale(loss, real_logits, fake_logits)
    torch.testing.assert_close(gradient * scale[:, None, None, None], wanted, rtol=1e-10, atol=1e-12)


# Penalties.


def test_exact_penalty_of_a_linear_discriminator():
    network = Quadratic((2, 3, 4), curvature=0)
    norm = gradient_norm_exact(network, torch.randn(5, 2, 3, 4, dtype=torch.float64), None)
    torch.testing.assert_close(norm, network.linear.square().sum().expand(5), rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(norm.mean(), network.linear)
    torch.testing.assert_close(gradient, 2 * network.linear.detach(), rtol=1e-10, atol=1e-12)


def test_exact_penalty_of_a_quadratic_discriminator():
    network = Quadratic((1, 3, 3), curvature=3)
    images = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    expected = network.gradient(images).square().sum(1)
    norm = gradient_norm_exact(network, images, None)
    torch.testing.assert_close(norm, expected, rtol=1e-10, atol=0)
    parameters = list(network.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(norm.mean(), parameters), torch.autograd.grad(expected.mean(), parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_exact_penalty_picture_by_picture():
    """Each picture's own Jacobian row, and the weights' gradient by differences of the whole penalty."""
    network = small_discriminator()
    images = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    norm = gradient_norm_exact(discriminate(network), images, None)
    for image, value in zip(images, norm, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None]), image)
        torch.testing.assert_close(value, jacobian.square().sum(), rtol=1e-10, atol=1e-12)

    weight = network[0][0].weight
    (gradient,) = torch.autograd.grad(norm.sum(), weight)
    direction, step = torch.randn_like(weight), 1e-4
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        sides.append(gradient_norm_exact(discriminate(network), images, None).sum().item())
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    assert (gradient * direction).sum().item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6)


def test_penalties_pass_labels_on_and_leave_pictures_alone():
    seen = []

    def discriminator(images: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(labels)
        return (images.flatten(1) * weight).sum(1)

    weight = torch.ones(4, requires_grad=True)
    images, labels = torch.randn(3, 1, 2, 2), torch.arange(3)
    gradient_norm_exact(discriminator, images, labels).mean().backward()
    assert all(one is labels for one in seen) and images.grad is None and weight.grad is not None


# WGAN-GP.


def test_gradient_penalty_is_the_distance_of_the_norm_from_one():
    network = Quadratic((1, 3, 3), curvature=2)
    real, fake = torch.randn(2, 5, 1, 3, 3, dtype=torch.float64)
    mix = torch.rand(5, dtype=torch.float64)
    between = mix.view(-1, 1, 1, 1) * real + (1 - mix).view(-1, 1, 1, 1) * fake
    expected = (network.gradient(between).norm(dim=1) - 1).square()
    value = gradient_penalty(network, real, fake, None, mix)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)
    parameters = list(network.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(value.mean(), parameters), torch.autograd.grad(expected.mean(), parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_gradient_penalty_of_a_flat_discriminator_has_a_finite_gradient():
    network = Quadratic((1, 2, 2), curvature=0)
    with torch.no_grad():
        network.linear.zero_()
    pictures = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    value = gradient_penalty(network, *pictures, None, torch.rand(3, dtype=torch.float64))
    torch.testing.assert_close(value, torch.ones_like(value), rtol=0, atol=1e-5)
    (slope,) = torch.autograd.grad(value.mean(), network.linear)
    assert slope.isfinite().all()
