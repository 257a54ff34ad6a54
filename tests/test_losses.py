"""losses.py: values, gradients and penalties against formulas written out, in float64 unless said otherwise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.losses import LOSSES, Loss, generator_scale, gradient_norm_exact, gradient_norm_finite

RELATIVISTIC = LOSSES["relativistic"]
# The saturating and non-saturating terms of 2014: another pair with which the one-pass rule must hold.
CLASSIC = Loss(lambda real, fake: F.softplus(-real) + F.softplus(fake), lambda real, fake: F.softplus(-fake))


def logits(num: int = 64, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    real, fake = spread * torch.randn(2, num, dtype=torch.float64)
    return real.requires_grad_(), fake.requires_grad_()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Quadratic(nn.Module):
    """D(x) = b.x + x.A x / 2 for each picture by itself, with the gradient b + (A + A') x / 2."""

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
    """Smooth, conditional on nothing, and without operations that mix pictures."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 3, 3, stride=2), nn.Tanh(), nn.Flatten()
    )
    return nn.Sequential(network, nn.Linear(3 * 2 * 2, 1), nn.Flatten(0)).double()


def discriminate(network: nn.Module):
    return lambda images, labels: network(images)


# The two sides of the game.


def test_relativistic_terms_are_the_formulas():
    real, fake = logits()
    d, g = RELATIVISTIC.discriminator(real, fake), RELATIVISTIC.generator(real, fake)
    torch.testing.assert_close(d, torch.log(1 + torch.exp(fake - real)))
    torch.testing.assert_close(g, torch.log(1 + torch.exp(real - fake)))
    sigmoid = 1 / (1 + torch.exp(real - fake))  # of fake - real
    torch.testing.assert_close(torch.autograd.grad(d.sum(), [real, fake]), (-sigmoid, sigmoid))
    torch.testing.assert_close(torch.autograd.grad(g.sum(), [real, fake]), (1 - sigmoid, sigmoid - 1))


def test_terms_stay_finite_for_extreme_logits():
    real, fake = torch.tensor([1e4, -1e4, 0.0]), torch.tensor([-1e4, 1e4, 0.0])
    for term in (RELATIVISTIC.discriminator, RELATIVISTIC.generator):
        assert term(real, fake).isfinite().all()
    assert generator_scale(RELATIVISTIC, real, fake).isfinite().all()


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


@pytest.mark.parametrize("loss", [RELATIVISTIC, CLASSIC], ids=["relativistic", "classic"])
def test_rescaled_gradient_is_the_generators(loss):
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


@pytest.mark.parametrize("direction", [(), (torch.ones(3, 1, 2, 2),)], ids=["exact", "finite"])
def test_penalties_pass_labels_on_and_leave_pictures_alone(direction):
    seen = []

    def discriminator(images: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(labels)
        return (images.flatten(1) * weight).sum(1)

    weight = torch.ones(4, requires_grad=True)
    images, labels = torch.randn(3, 1, 2, 2), torch.arange(3)
    norm = gradient_norm_finite if direction else gradient_norm_exact
    norm(discriminator, images, labels, *direction).mean().backward()
    assert all(one is labels for one in seen) and images.grad is None and weight.grad is not None


@pytest.mark.parametrize("curvature", [0, 1])
def test_finite_difference_is_unbiased(curvature):
    """Central differences of a quadratic are exact for any step, so only the probe's chance is left."""
    network = Quadratic((2, 3, 4), curvature)
    image = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    probes = 20_000
    with torch.no_grad():
        images = image.expand(probes, -1, -1, -1)
        values = gradient_norm_finite(network, images, None, torch.randn_like(images), step=0.1)
        expected = network.gradient(image).square().sum().item()
    error = values.std().item() / probes**0.5
    assert error < 0.02 * expected
    assert abs(values.mean().item() - expected) < 4 * error


def test_finite_difference_approaches_the_directional_derivative():
    network = small_discriminator()
    images = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    direction = torch.randn_like(images)
    (gradient,) = torch.autograd.grad(network(images.requires_grad_()).sum(), images)
    derivative = (gradient * direction).sum(dim=(1, 2, 3)).square()
    errors = [
        (gradient_norm_finite(discriminate(network), images, None, direction, step) - derivative).abs().sum().item()
        for step in (0.2, 0.1, 0.05)
    ]
    # Halving the step divides an error of second order by four.
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)
    assert errors[2] < 0.02 * derivative.sum()


def test_finite_difference_trains_towards_smaller_gradients():
    """Without a double backward: its weights' gradient agrees with the exact one's for the same direction."""
    network = Quadratic((1, 2, 2), curvature=1)
    images, direction = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    value = gradient_norm_finite(network, images, None, direction, 0.05)
    expected = (network.gradient(images) * direction.flatten(1)).sum(1).square()
    parameters = list(network.parameters())
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad(value.mean(), parameters), torch.autograd.grad(expected.mean(), parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
