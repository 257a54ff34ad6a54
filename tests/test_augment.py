"""augment.py: each operation against a formula in numpy, the same change on both sides, twice differentiable.

At the end: no change shows in the samples of a generator that was trained with it, on a set of toy images.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganvas.augment import (
    DEGREES,
    HOLE,
    HUE,
    MOST_PROBABLE,
    NUMBERS,
    OPERATIONS,
    PLACE,
    POLICIES,
    SHIFT,
    AdaptiveProbability,
    Draw,
    augment,
    draw,
    overfitting_sign,
    resample,
    resample_by_gather,
)
from ganvas.config import Kind
from ganvas.losses import LOSSES, gradient_norm_exact

EVERYTHING = OPERATIONS


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int = 6, channels: int = 3, height: int = 16, width: int = 24) -> Tensor:
    values = torch.rand(num, channels, height, width, generator=noise(1), dtype=torch.float64)
    return 2 * values - 1


# The same formulas once more, one image (C, H, W) at a time, from its numbers by name.

Numbers = dict[str, float]


def mirrored(place: int, side: int) -> int:
    """The image continued by its mirror image."""
    while not 0 <= place < side:
        place = -1 - place if place < 0 else 2 * side - 1 - place
    return place


def looked_up(picture: np.ndarray, inverse: np.ndarray, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Every pixel p, from the middle, shows the place inverse @ p + shift, between its four neighbours."""
    _, height, width = picture.shape
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    result = np.empty_like(picture)
    for place in np.ndindex(height, width):
        y, x = inverse @ (np.array(place) - middle) + middle + np.array(shift)
        value = np.zeros(len(picture))
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                value += weight * picture[:, mirrored(row, height), mirrored(column, width)]
        result[:, *place] = value
    return result


def translated(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    most = [round(side / 8) for side in picture.shape[1:]]
    y, x = (math.floor(numbers[f"shift_{axis}"] * (2 * m + 1)) - m for axis, m in zip("yx", most, strict=True))
    return looked_up(picture, np.eye(2), (y, x))


def scaled(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    return looked_up(picture, np.eye(2) / 1.25 ** (2 * numbers["scale"] - 1))


def stretched(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    factor = 1.1 ** (2 * numbers["stretch"] - 1)  # wider by this, lower by this
    return looked_up(picture, np.diag([factor, 1 / factor]))


def turned_by(degrees: float):
    def turned(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
        angle = math.radians(degrees) * (2 * numbers["rotation"] - 1)
        return looked_up(picture, np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]))

    return turned


def cut(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    picture = picture.copy()
    _, height, width = picture.shape
    for y in range(height):
        for x in range(width):
            if abs(y - numbers["hole_y"] * height) < height / 4 and abs(x - numbers["hole_x"] * width) < width / 4:
                picture[:, y, x] = 0
    return picture


def brightened(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    return picture + numbers["brightness"] - 0.5


def contrasted(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    return picture.mean() + (picture - picture.mean()) * (0.5 + numbers["contrast"])


def saturated(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    gray = picture.mean(0, keepdims=True)
    return gray + (picture - gray) * 2 * numbers["saturation"]


def hue_turned(picture: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Rodrigues' formula, written as a matrix, for the axis (1, 1, 1) / sqrt(3)."""
    angle = (2 * numbers["hue"] - 1) * HUE
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return np.einsum("ij,jhw->ihw", matrix, picture)


FORMULAS = {
    "translation": translated,
    "scale": scaled,
    "stretch": stretched,
    "rotation5": turned_by(5),
    "rotation10": turned_by(10),
    "rotation15": turned_by(15),
    "cutout": cut,
    "brightness": brightened,
    "contrast": contrasted,
    "saturation": saturated,
    "hue": hue_turned,
}


def rows_of(drawn: Draw) -> list[Numbers]:
    return [dict(zip(NUMBERS, row, strict=True)) for row in drawn.uniform.double().tolist()]


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_operation_is_its_formula(name):
    images = pictures(5)
    drawn = draw(5, (name,), 1.0, noise())
    result = augment(images, drawn, (name,)).numpy()
    for picture, numbers, changed in zip(images.numpy(), rows_of(drawn), result, strict=True):
        np.testing.assert_allclose(changed, FORMULAS[name](picture, numbers), rtol=0, atol=1e-12)
    assert np.abs(result - images.numpy()).max() > 0.1


def test_every_operation_has_its_formula():
    assert set(FORMULAS) == set(OPERATIONS)


def test_changes_of_place_are_one_resampling():
    """All at once are one look-up at the combined place: turned back, then shrunk and stretched back, then shifted."""
    images = pictures(5)
    policy = ("translation", "scale", "stretch", "rotation15")
    drawn = draw(5, policy, 1.0, noise())
    for picture, moved, numbers in zip(images, augment(images, drawn, policy), rows_of(drawn), strict=True):
        angle = math.radians(15) * (2 * numbers["rotation"] - 1)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        size, wide = 1.25 ** (2 * numbers["scale"] - 1), 1.1 ** (2 * numbers["stretch"] - 1)
        shift = (math.floor(numbers["shift_y"] * 5) - 2, math.floor(numbers["shift_x"] * 7) - 3)
        expected = looked_up(picture.numpy(), np.diag([wide, 1 / wide]) / size @ turn, shift)
        np.testing.assert_allclose(moved.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_pictures_have_no_hue_or_saturation(channels):
    gray = pictures(channels=1).expand(-1, channels, -1, -1)
    policy = ("saturation", "hue")
    torch.testing.assert_close(augment(gray, draw(6, policy, 1.0, noise()), policy), gray, rtol=0, atol=1e-15)


def test_colour_leaves_transparency_alone_and_moves_it_along():
    images = pictures(channels=4)
    policy = POLICIES["photo"]
    drawn = draw(6, policy, 1.0, noise())
    changed = augment(images, drawn, policy)
    torch.testing.assert_close(changed[:, :3], augment(images[:, :3], drawn, policy), rtol=0, atol=1e-15)
    only_place = tuple(name for name in policy if name in (*PLACE, "cutout"))
    assert torch.equal(changed[:, 3:], augment(images[:, 3:], drawn, only_place))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_narrow_types_and_autocast(channels):
    images = pictures(channels=channels).float()
    drawn = draw(6, EVERYTHING, 1.0, noise())
    expected = augment(images, drawn, EVERYTHING)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(images, drawn, EVERYTHING), expected)
    narrow = images.bfloat16().requires_grad_()
    changed = augment(narrow, drawn, EVERYTHING)
    assert changed.dtype == torch.bfloat16
    torch.testing.assert_close(changed.float(), expected, rtol=0, atol=0.03)
    changed.sum().backward()
    assert narrow.grad is not None and narrow.grad.dtype == torch.bfloat16


# The sampler.


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 3, 9, 32), (2, 4, 20, 7)])
def test_the_sampler_is_its_reference(shape):
    """Also far outside, where the image is reflected more than once."""
    images = pictures(*shape)
    num, _, height, width = shape
    row = (torch.rand(num, height, width, generator=noise(2), dtype=torch.float64) - 0.5) * 5 * height
    column = (torch.rand(num, height, width, generator=noise(3), dtype=torch.float64) - 0.5) * 5 * width
    reference = resample_by_gather(images, row, column)
    torch.testing.assert_close(resample(images, row, column), reference, rtol=0, atol=1e-12)
    plain, checked = images.clone().requires_grad_(), images.clone().requires_grad_()
    weights = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images)
    (resample(plain, row, column) * weights).sum().backward()
    (resample_by_gather(checked, row, column) * weights).sum().backward()
    torch.testing.assert_close(plain.grad, checked.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sample", [resample, resample_by_gather])
def test_the_sampler_is_differentiable_twice_and_linear(sample):
    row = torch.rand(2, 5, 6, generator=noise(2), dtype=torch.float64) * 9 - 2
    column = torch.rand(2, 5, 6, generator=noise(3), dtype=torch.float64) * 9 - 2
    images = pictures(2, 2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda images: sample(images, row, column), images)
    assert torch.autograd.gradgradcheck(lambda images: sample(images, row, column).pow(3).sum(), images)


def test_no_border_of_another_gray_appears():
    flat = torch.full((50, 3, 24, 16), 0.7)
    moved = augment(flat, draw(50, PLACE, 1.0, noise()), PLACE)
    torch.testing.assert_close(moved, flat, rtol=0, atol=1e-6)


# What pairs share.


@pytest.mark.parametrize("kind", POLICIES)
def test_same_draw_is_the_same_change_for_real_and_fake(kind):
    policy = POLICIES[kind]
    drawn = draw(6, policy, 0.7, noise())
    real, fake = pictures(), pictures().clone()
    assert (augment(real, drawn, policy) - augment(fake, drawn, policy)).abs().max() == 0


def test_a_difference_of_the_pair_is_moved_with_it():
    """The hole and the shift lie at the same place on both sides, whatever the images show."""
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
    for images in (pictures(), pictures(channels=1), pictures(channels=4).float(), pictures(height=13).bfloat16()):
        changed = augment(images, draw(6, policy, 0.0, noise()), policy)
        assert changed.dtype == images.dtype and torch.equal(changed, images)


def test_a_picture_that_no_change_befalls_stays_bit_for_bit_among_others():
    images = pictures(64).float()
    drawn = draw(64, EVERYTHING, 0.2, noise())
    spared = drawn.on.sum(1) == 0
    changed = augment(images, drawn, EVERYTHING)
    assert 2 <= spared.sum() < 32
    assert torch.equal((changed == images).all(dim=(1, 2, 3)), spared)


def test_no_policy_is_the_identity():
    assert torch.equal(augment(pictures(), draw(6, (), 1.0, noise()), ()), pictures())


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_each_operation_applies_as_often_as_asked(probability):
    num = 20_000
    on = draw(num, EVERYTHING, probability, noise()).on
    assert torch.equal(on, draw(num, EVERYTHING, torch.tensor(probability), noise()).on)
    error = (probability * (1 - probability) / num) ** 0.5
    assert (on.mean(0) - probability).abs().max() < 4.5 * error
    correlations = torch.corrcoef(on.T) - torch.eye(len(OPERATIONS))
    assert correlations.abs().max() < 0.04  # each operation is drawn for itself


def test_certain_and_forbidden_operations():
    on = draw(100, ("translation", "contrast"), 1.0, noise()).on
    assert on.mean(0).tolist() == [name in ("translation", "contrast") for name in OPERATIONS]


def test_a_draw_follows_its_generator_alone():
    torch.manual_seed(1)
    first = draw(5, EVERYTHING, 0.5, noise(3))
    torch.manual_seed(2)
    again = draw(5, EVERYTHING, 0.5, noise(3))
    assert torch.equal(first.uniform, again.uniform) and torch.equal(first.on, again.on)


# Ranges.


def test_translation_is_by_whole_pixels_and_reaches_both_ends():
    """An image of its own coordinates shows by how much it moved; beyond its edge it is reflected."""
    side = 16
    columns = torch.arange(side, dtype=torch.float64).expand(500, 1, side, side).contiguous()
    moved = augment(columns, draw(500, ("translation",), 1.0, noise()), ("translation",))
    offset = (moved[:, 0, 0, side // 2] - side // 2).round()
    most = round(side * SHIFT)
    assert sorted(set(offset.tolist())) == list(range(-most, most + 1))
    expected = torch.tensor([[mirrored(int(x + o), side) for x in range(side)] for o in offset]).double()
    for row in (0, -1):
        torch.testing.assert_close(moved[:, 0, row], expected, rtol=0, atol=1e-12)


def test_angles_stay_within_the_limit_of_their_kind():
    """The slope of a turned ramp is the tangent of the angle."""
    for name, most in DEGREES.items():
        ramp = (torch.arange(33, dtype=torch.float64) - 16).expand(400, 1, 33, 33).contiguous()
        turned = augment(ramp, draw(400, (name,), 1.0, noise()), (name,))[:, 0]
        along, across = turned[:, 16, 17] - turned[:, 16, 15], turned[:, 17, 16] - turned[:, 15, 16]
        degrees = torch.atan2(across, along).rad2deg()
        assert degrees.abs().max() <= most + 1e-9
        assert degrees.min() < -0.95 * most and degrees.max() > 0.95 * most


def test_the_hole_is_half_the_side_where_it_lies_inside():
    middle = Draw(torch.full((1, len(NUMBERS)), 0.5), torch.ones(1, len(OPERATIONS)))
    kept = augment(torch.ones(1, 1, 17, 32), middle, ("cutout",))
    assert (kept == 0).sum() == 8 * 15  # the places strictly nearer than a quarter of the side
    assert HOLE == 1 / 2


@pytest.mark.parametrize("size", [(8, 8), (45, 45), (400, 400), (8, 300)])
def test_the_largest_numbers_stay_in_the_picture(size):
    for number in (0.0, 1 - 2**-24):
        last = Draw(torch.full((2, len(NUMBERS)), number), torch.ones(2, len(OPERATIONS)))
        assert augment(torch.rand(2, 3, *size), last, EVERYTHING).isfinite().all()
        moved = augment(torch.rand(2, 3, *size), last, PLACE)
        assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6


# Policies.


def test_every_kind_has_a_policy_of_known_operations():
    assert set(POLICIES) == set(get_args(Kind))
    assert all(set(policy) <= set(OPERATIONS) for policy in POLICIES.values())


@pytest.mark.parametrize("kind", POLICIES)
def test_no_policy_mirrors_or_turns_over(kind):
    """Away from the border, a ramp that rises to the right and down never falls (no hole, which is flat)."""
    policy = tuple(name for name in POLICIES[kind] if name != "cutout")
    ramp = torch.linspace(-1, 1, 24, dtype=torch.float64).expand(200, 3, 24, 24).contiguous()
    ramp = ramp + torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]
    changed = augment(ramp, draw(200, policy, 1.0, noise()), policy)[:, :, 7:17, 7:17]
    assert (changed.diff(dim=3) >= 0).all() and (changed.diff(dim=2) >= 0).all()


@pytest.mark.parametrize("kind", ["digits", "text"])
def test_strokes_are_never_cut_out_recoloured_or_turned(kind):
    ink = torch.full((200, 1, 28, 28), 0.7)
    drawn = draw(200, POLICIES[kind], 1.0, noise())
    torch.testing.assert_close(augment(ink, drawn, POLICIES[kind]), ink, rtol=0, atol=1e-6)
    assert set(POLICIES[kind]) == {"translation", "scale"}


def test_what_would_be_wrong_for_a_kind_is_not_in_its_policy():
    for kind in ("xray", "scan"):
        assert not {"hue", "rotation10", "rotation15"} & set(POLICIES[kind])
    assert [kind for kind in POLICIES if "hue" in POLICIES[kind]] == ["photo"]


# Derivatives.


@pytest.mark.parametrize("policy", [*((name,) for name in OPERATIONS), EVERYTHING], ids=lambda p: "+".join(p))
def test_differentiable_twice(policy):
    drawn = draw(2, policy, 1.0, noise())
    images = pictures(2, 3, 4, 5).requires_grad_()
    change = lambda images: augment(images, drawn, policy)  # noqa: E731
    assert torch.autograd.gradcheck(change, images)
    # All operations are affine in the image: a power makes the second derivative worth checking.
    assert torch.autograd.gradgradcheck(lambda images: change(images).pow(3).sum(), images, fast_mode=True)


# The adaptive probability.


def test_the_probability_follows_the_sign_within_its_limits():
    adaptive = AdaptiveProbability(0.1, target=0.6)
    adaptive.update(torch.tensor(0.7), 1_000, total_images=10**9)
    assert adaptive.value.item() == pytest.approx(0.1 + 1_000 / 500_000)
    adaptive.update(torch.tensor(0.5), 1_000, total_images=10**9)
    assert adaptive.value.item() == pytest.approx(0.1)
    adaptive.update(torch.tensor(0.6), 1_000, total_images=10**9)
    assert adaptive.value.item() == pytest.approx(0.1)  # on target
    for sign, limit in ((-1.0, 0.0), (1.0, MOST_PROBABLE)):
        for _ in range(250):
            adaptive.update(torch.tensor(sign), 2_000, total_images=10**9)
        assert adaptive.value.item() == pytest.approx(limit)
    assert AdaptiveProbability(1.0).value.item() == pytest.approx(MOST_PROBABLE)


def test_a_short_budget_adapts_faster_but_never_within_fewer_than_200_steps():
    adaptive = AdaptiveProbability(0.0)
    adaptive.update(torch.tensor(1.0), 10, total_images=40_000)
    assert adaptive.value.item() == pytest.approx(10 / 10_000)
    adaptive = AdaptiveProbability(0.0)
    adaptive.update(torch.tensor(1.0), 10, total_images=1)
    assert adaptive.value.item() == pytest.approx(1 / 200)


def test_the_probability_is_a_tensor_that_draws_and_is_kept():
    adaptive = AdaptiveProbability(0.0)
    adaptive.update(torch.tensor(1.0, requires_grad=True), 1, total_images=100)
    assert adaptive.value.shape == () and adaptive.value.dtype == torch.float32 and not adaptive.value.requires_grad
    again = AdaptiveProbability(0.7)
    again.load_state_dict(adaptive.state_dict())
    assert torch.equal(again.value, adaptive.value)
    assert draw(1_000, EVERYTHING, again.value, noise()).on.mean() < 0.02


def test_the_probability_settles_where_the_sign_is_on_target():
    """A discriminator that augmentation hinders: its sign falls from 0.9 to 0.3 as the probability rises."""
    adaptive = AdaptiveProbability(0.0)
    for _ in range(3_000):
        adaptive.update(0.9 - 0.6 * adaptive.value, 64, total_images=10**6)
    assert adaptive.value.item() == pytest.approx(0.5, abs=0.01)


def test_overfitting_sign():
    real, fake = torch.tensor([2.0, 1.0, -1.0, 3.0]), torch.tensor([1.0, 2.0, -2.0, -3.0])
    assert overfitting_sign(real, fake, relativistic=False) == 0.5  # three of four above 0
    assert overfitting_sign(real, fake, relativistic=True) == 0.5  # three of four above their fake
    # A relativistic loss knows no zero, not even one a class.
    offset = torch.tensor([100.0, -100.0, 100.0, -100.0])
    assert overfitting_sign(real + offset, fake + offset, relativistic=True) == 0.5
    parts = [overfitting_sign(real[i : i + 2], fake[i : i + 2], relativistic=True) for i in (0, 2)]
    assert sum(parts) / 2 == 0.5


def test_overfitting_sign_of_normal_logits_at_the_distances_that_its_docstring_names():
    real, fake = torch.randn(2, 200_000, generator=noise())
    assert overfitting_sign(real + 1.19, fake, relativistic=True).item() == pytest.approx(0.6, abs=0.01)
    middle = (real.mean() + 1.68 + fake.mean()) / 2
    assert overfitting_sign(real + 1.68 - middle, fake, relativistic=False).item() == pytest.approx(0.6, abs=0.01)
    assert overfitting_sign(real + 1.68, fake, relativistic=True).item() == pytest.approx(0.77, abs=0.01)


# The leak. A toy set where every change would show: upright bars at one place, of one brightness and colour, give or
# take a little. A small generator learns them from augmented images; its samples must look like the bars, not like
# the augmented bars. The control augments the real images alone, and must learn the changes with them.

SIDE = 16
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIDE).float(), torch.arange(SIDE).float(), indexing="ij")
TINT = torch.tensor([1.0, 0.6, 0.4])  # orange
SLACK = torch.tensor([0.5, 0.5, 5.0, 0.3, 0.12, 0.15, 20.0, 0.15])  # what counts as the same, per measure


def bars(num: int, channels: int, generator: torch.Generator) -> Tensor:
    """Upright bars about column 5.5 and row 7.5 on a dark ground; (N, C, 16, 16)."""
    column, row, brightness = (torch.rand(3, num, generator=generator))[:, :, None, None]
    shape = torch.exp(-(((COLUMNS - 5 - column) / 1.3) ** 2 + ((ROWS - 7 - row) / 2.6) ** 2) / 2)
    bar = (1.3 + 0.2 * brightness) * shape
    return -0.8 + bar[:, None] * (TINT[None, :, None, None] if channels == 3 else 1)


def measure(images: Tensor) -> Tensor:
    """Row, column, angle in degrees, extent, ground, top; in colour also hue in degrees and strength; (N, 6 or 8)."""
    gray = images.mean(1)
    ground = gray.flatten(1).median(1).values
    bar = (gray - ground[:, None, None]).clamp(min=0)
    bar = bar * (bar > 0.2 * bar.amax((1, 2), keepdim=True))
    total = bar.sum((1, 2)).clamp(min=1e-6)

    def mean(values: Tensor) -> Tensor:
        return (bar * values).sum((1, 2)) / total

    row, column = mean(ROWS), mean(COLUMNS)
    y, x = ROWS - row[:, None, None], COLUMNS - column[:, None, None]
    angle = torch.atan2(2 * mean(x * y), mean(y * y) - mean(x * x)).rad2deg() / 2
    values = [row, column, angle, (mean(y * y) + mean(x * x)).sqrt(), ground, gray.amax((1, 2))]
    if images.shape[1] == 3:
        red, green, blue = (mean(images[:, i] - gray) for i in range(3))
        along, across = red - (green + blue) / 2, (green - blue) * 3**0.5 / 2
        values += [torch.atan2(across, along).rad2deg(), torch.hypot(along, across)]
    return torch.stack(values, 1)


def share_outside(images: Tensor) -> float:
    """Share of the images that lie outside the toy set's range in any measure."""
    truth = measure(bars(4_000, images.shape[1], noise(9)))
    slack = SLACK[: truth.shape[1]]
    measures = measure(images)
    return ((measures < truth.amin(0) - slack) | (measures > truth.amax(0) + slack)).any(1).float().mean().item()


def learned(policy: tuple[str, ...], probability: float, steps: int, channels: int = 1, both: bool = True) -> Tensor:
    """1,000 samples of a generator trained with the relativistic loss and lazy R1 and R2.

    both: augment the fakes as well as the real images, as training does; False is the control.
    """
    torch.manual_seed(0)
    random = noise(0)
    pixels, width, batch, rate = channels * SIDE * SIDE, 128, 64, 2e-3
    leak = nn.LeakyReLU(0.2)
    picture = nn.Sequential(nn.Linear(width, pixels), nn.Tanh(), nn.Unflatten(1, (channels, SIDE, SIDE)))
    generator = nn.Sequential(nn.Linear(8, width), leak, nn.Linear(width, width), leak, picture)
    layers = nn.Linear(pixels, width), leak, nn.Linear(width, width), leak, nn.Linear(width, 1)
    discriminator = nn.Sequential(nn.Flatten(), *layers, nn.Flatten(0))
    average = [value.detach().clone() for value in generator.parameters()]
    optimizers = [torch.optim.Adam(n.parameters(), rate, betas=(0.0, 0.99)) for n in (generator, discriminator)]
    loss = LOSSES["relativistic"]
    for step in range(steps):
        drawn = draw(batch, policy, probability, random)
        real = augment(bars(batch, channels, random), drawn, policy)
        fake = generator(torch.randn(batch, 8, generator=random))
        fake = augment(fake, drawn, policy) if both else fake
        d_loss = loss.discriminator(discriminator(real), discriminator(fake.detach())).mean()
        if step % 4 == 0:
            for images in (real, fake):
                d_loss = d_loss + 0.1 * gradient_norm_exact(lambda x, _: discriminator(x), images, None).mean()
        optimizers[1].zero_grad()
        d_loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        loss.generator(discriminator(real), discriminator(fake)).mean().backward()
        optimizers[0].step()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - step / steps) + 0.02)
        for kept, value in zip(average, generator.parameters(), strict=True):
            kept.lerp_(value.detach(), 1 / (1 + 0.15 * step))
    with torch.no_grad():
        for kept, value in zip(average, generator.parameters(), strict=True):
            value.copy_(kept)
        return generator(torch.randn(1_000, 8, generator=random))


LEAKS = ("translation", "scale", "stretch", "rotation15", "brightness", "contrast")


@pytest.fixture
def one_thread():
    """Networks as small as these only wait for a second thread, for minutes where the machine is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_augmentations_do_not_show_in_the_samples():
    probability = 0.7
    truth = bars(1_000, 1, noise(5))
    assert share_outside(truth) == 0
    assert share_outside(augment(truth, draw(1_000, LEAKS, probability, noise()), LEAKS)) > 0.8
    assert share_outside(learned(LEAKS, probability, 1_200)) < 0.08
    assert share_outside(learned(LEAKS, probability, 600, both=False)) > 0.6


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("probability", [0.6, MOST_PROBABLE])
def test_no_augmentation_of_photos_shows_in_the_samples_at_convergence(probability):
    policy = POLICIES["photo"]
    truth = bars(1_000, 3, noise(5))
    assert share_outside(truth) == 0
    assert share_outside(augment(truth, draw(1_000, policy, probability, noise()), policy)) > 0.9
    samples = learned(policy, probability, 6_000, channels=3)
    assert share_outside(samples) < 0.04
    middles = measure(samples).mean(0) - measure(truth).mean(0)
    assert (middles.abs() < SLACK).all()
    assert share_outside(learned(policy, probability, 2_000, channels=3, both=False)) > 0.8
