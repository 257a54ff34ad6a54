"""augment.py: each operation against a formula in numpy, the same change on both sides, twice differentiable."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from ganvas.augment import HOLE, OPERATIONS, POLICIES, SHIFT, Draw, augment, draw
from ganvas.config import Kind

EVERYTHING = OPERATIONS


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int = 6, channels: int = 3, height: int = 16, width: int = 24) -> Tensor:
    values = torch.rand(num, channels, height, width, generator=noise(1), dtype=torch.float64)
    return 2 * values - 1


# The same formulas once more, one picture (C, H, W) at a time, from its row of numbers.


def translated(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    for axis, number in ((1, numbers[3]), (2, numbers[4])):
        side = picture.shape[axis]
        most = round(side / 8)
        offset = int(np.floor(number * (2 * most + 1))) - most
        rows = [min(max(place + offset, 0), side - 1) for place in range(side)]
        picture = np.take(picture, rows, axis)
    return picture


def cut(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    _, height, width = picture.shape
    for y in range(height):
        for x in range(width):
            if abs(y - numbers[5] * height) < height / 4 and abs(x - numbers[6] * width) < width / 4:
                picture[:, y, x] = 0
    return picture


def brightened(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return picture + numbers[0] - 0.5


def contrasted(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return picture.mean() + (picture - picture.mean()) * (0.5 + numbers[2])


def saturated(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    gray = picture.mean(0, keepdims=True)
    return gray + (picture - gray) * 2 * numbers[1]


FORMULAS = dict(zip(OPERATIONS, (translated, cut, brightened, contrasted, saturated), strict=True))


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_operation_is_its_formula(name):
    images = pictures(12)
    drawn = draw(12, (name,), 1.0, noise())
    result = augment(images, drawn, (name,)).numpy()
    for picture, numbers, changed in zip(images.numpy(), drawn.uniform.double().numpy(), result, strict=True):
        np.testing.assert_allclose(changed, FORMULAS[name](picture, numbers), rtol=0, atol=1e-12)
    assert np.abs(result - images.numpy()).max() > 0.1


def test_saturation_leaves_gray_and_transparent_pictures_alone():
    for channels in (1, 4):
        images = pictures(channels=channels)
        assert torch.equal(augment(images, draw(6, ("saturation",), 1.0, noise()), ("saturation",)), images)


# What pairs share.


@pytest.mark.parametrize("kind", POLICIES)
def test_same_draw_is_the_same_change_for_real_and_fake(kind):
    policy = POLICIES[kind]
    drawn = draw(6, policy, 0.7, noise())
    real, fake = pictures(), pictures().clone()
    assert (augment(real, drawn, policy) - augment(fake, drawn, policy)).abs().max() == 0


def test_a_difference_of_the_pair_is_moved_with_it():
    """The hole and the shift lie at the same place on both sides, whatever the pictures show."""
    policy = ("translation", "cutout")
    drawn = draw(6, policy, 1.0, noise())
    real, fake = pictures(), -pictures()
    torch.testing.assert_close(augment(real, drawn, policy), -augment(fake, drawn, policy))


def test_a_slice_of_the_draw_is_the_change_of_that_slice():
    drawn = draw(6, EVERYTHING, 0.7, noise())
    whole = augment(pictures(), drawn, EVERYTHING)
    parts = [augment(pictures()[i : i + 4], drawn.slice(i, i + 4), EVERYTHING) for i in (0, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-15)


def test_pictures_do_not_change_each_other():
    drawn = draw(6, EVERYTHING, 1.0, noise())
    other = pictures()
    other[2] = 0
    before, after = augment(pictures(), drawn, EVERYTHING), augment(other, drawn, EVERYTHING)
    assert torch.equal(before[[0, 1, 3, 4, 5]], after[[0, 1, 3, 4, 5]])


# Probabilities.


@pytest.mark.parametrize("kind", POLICIES)
def test_probability_zero_is_the_identity(kind):
    policy = POLICIES[kind]
    torch.testing.assert_close(
        augment(pictures(), draw(6, policy, 0.0, noise()), policy), pictures(), rtol=0, atol=1e-15
    )


def test_no_policy_is_the_identity():
    assert torch.equal(augment(pictures(), draw(6, (), 1.0, noise()), ()), pictures())


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_each_operation_applies_as_often_as_asked(probability):
    num = 20_000
    on = draw(num, EVERYTHING, probability, noise()).on
    error = (probability * (1 - probability) / num) ** 0.5
    assert (on.mean(0) - probability).abs().max() < 4.5 * error
    correlations = torch.corrcoef(on.T) - torch.eye(len(OPERATIONS))
    assert correlations.abs().max() < 0.04  # each operation is drawn for itself


def test_certain_and_forbidden_operations():
    on = draw(100, ("translation", "contrast"), 1.0, noise()).on
    assert on.mean(0).tolist() == [1, 0, 0, 1, 0]


def test_a_draw_follows_its_generator_alone():
    torch.manual_seed(1)
    first = draw(5, EVERYTHING, 0.5, noise(3))
    torch.manual_seed(2)
    again = draw(5, EVERYTHING, 0.5, noise(3))
    assert torch.equal(first.uniform, again.uniform) and torch.equal(first.on, again.on)


# Ranges.


def test_translation_repeats_the_border_and_reaches_both_ends():
    """A picture of its own coordinates shows by how much it moved."""
    side = 16
    columns = torch.arange(side, dtype=torch.float64).expand(500, 1, side, side).contiguous()
    moved = augment(columns, draw(500, ("translation",), 1.0, noise()), ("translation",))
    offset = moved[:, 0, 0, side // 2] - side // 2
    most = round(side * SHIFT)
    assert sorted(set(offset.tolist())) == list(range(-most, most + 1))
    expected = (torch.arange(side) + offset[:, None]).clamp(0, side - 1)
    assert torch.equal(moved[:, 0, 0], expected) and torch.equal(moved[:, 0, -1], expected)


def test_the_hole_is_half_the_side_where_it_lies_inside():
    middle = Draw(torch.full((1, 7), 0.5), torch.ones(1, 5))
    kept = augment(torch.ones(1, 1, 17, 32), middle, ("cutout",))
    assert (kept == 0).sum() == 8 * 15  # the places strictly nearer than a quarter of the side
    assert HOLE == 1 / 2


@pytest.mark.parametrize("side", [8, 45, 400])
def test_the_largest_number_stays_in_the_picture(side):
    last = Draw(torch.full((2, 7), 1 - 2**-24), torch.ones(2, 5))
    assert augment(torch.rand(2, 3, side, side), last, EVERYTHING).isfinite().all()


# Policies.


def test_every_kind_has_a_policy_of_known_operations():
    assert set(POLICIES) == set(get_args(Kind))
    assert all(set(policy) <= set(OPERATIONS) for policy in POLICIES.values())


@pytest.mark.parametrize("kind", POLICIES)
def test_no_policy_mirrors(kind):
    """A ramp that rises to the right never falls after augmentation (outside the hole, which is flat)."""
    policy = tuple(name for name in POLICIES[kind] if name != "cutout")
    ramp = torch.linspace(-1, 1, 24, dtype=torch.float64).expand(200, 3, 16, 24).contiguous()
    ramp = ramp + torch.linspace(-0.5, 0.5, 16, dtype=torch.float64)[:, None]
    changed = augment(ramp, draw(200, policy, 1.0, noise()), policy)
    assert (changed.diff(dim=3) >= 0).all() and (changed.diff(dim=2) >= 0).all()


@pytest.mark.parametrize("kind", ["digits", "text"])
def test_strokes_are_never_cut_out_or_recoloured(kind):
    ink = torch.full((200, 1, 28, 28), 0.7)
    assert torch.equal(augment(ink, draw(200, POLICIES[kind], 1.0, noise()), POLICIES[kind]), ink)


# Derivatives.


@pytest.mark.parametrize("policy", [*((name,) for name in OPERATIONS), EVERYTHING], ids=lambda p: "+".join(p))
def test_differentiable_twice(policy):
    drawn = draw(2, policy, 1.0, noise())
    images = pictures(2, 3, 5, 6).requires_grad_()
    change = lambda images: augment(images, drawn, policy)  # noqa: E731
    assert torch.autograd.gradcheck(change, images)
    # All operations are affine in the picture: a square makes the second derivative worth checking.
    assert torch.autograd.gradgradcheck(lambda images: change(images).square().sum(), images)
