"""models/crops.py: the discriminator of large images, which sees the reduced image and crops."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ganvas
from ganvas.config import ModelConfig, TrainConfig
from ganvas.image_files import save_png
from ganvas.models import (
    build,
    build_generator,
    crops,
    crops_of,
    generated_parts,
    heads_on_features,
    light,
    logits_of,
    parts_of,
    views_of,
)
from ganvas.models.batch_norm import layers_of
from ganvas.models.crops import CropDiscriminator, part_sizes, window_at
from ganvas.models.layers import cut, jitter, upsample, without_memory, without_pattern
from ganvas.records import read_log
from ganvas.training import loop
from ganvas.training.state import FeaturesPenalty
from ganvas.training.step import Inputs, accumulate_gradients, at_size, coarse_size, draw_inputs, phases
from ganvas.training.workers import Networks, Workers

CONFIG = TrainConfig(
    batch=16, loss="relativistic", r1=0.5, r2=0.5, r1_features=0.1, penalty_interval=4,
    precision="fp32", update="joint", z_dim=8, augment=0.5,
)  # fmt: skip


def model(
    kind: str = "both", height: int = 72, width: int = 80, channels: int = 1, num_classes: int = 0
) -> ModelConfig:
    return ModelConfig(
        "light", height, width, channels, num_classes, z_dim=8, base=8, widest=16, discriminator=kind  # ty: ignore
    )  # fmt: skip


@pytest.fixture
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 32 instead of 128 pixels, so that images of 80 pixels are large."""
    monkeypatch.setattr(crops, "LARGE", 40)
    monkeypatch.setattr(crops, "CROP", 32)


@pytest.mark.parametrize(
    ("size", "scales", "sizes"),
    [
        ((64, 64), [], [(64, 64)]),
        ((160, 96), [], [(160, 96)]),
        ((256, 256), [1], [(128, 128), (128, 128)]),
        ((800, 800), [1, 2], [(100, 100), (128, 128), (128, 128)]),
        ((2048, 1024), [1, 4], [(128, 64), (128, 128), (128, 128)]),
        ((20, 801), [1, 2], [(8, 101), (20, 128), (10, 128)]),
    ],
)
def test_parts_of_a_size(size: tuple[int, int], scales: list[int], sizes: list[tuple[int, int]]) -> None:
    assert part_sizes(*size) == (scales, sizes)


@pytest.mark.parametrize("height", [161, 250, 512, 1024, 2048])
@pytest.mark.parametrize("width", [8, 100, 700])
def test_every_window_fits_into_the_image(height: int, width: int) -> None:
    scales, sizes = part_sizes(height, width)
    for scale, (rows, columns) in zip(scales, sizes[1:], strict=True):
        assert 0 < scale * rows <= height and 0 < scale * columns <= width


def test_a_crop_is_a_window_of_the_image() -> None:
    images = torch.rand(3, 2, 40, 30)
    window = window_at((40, 30), 2, (8, 4), torch.tensor([[0.0, 0.0], [0.5, 0.999], [1.0, 1.0]]))
    found = cut(images, *window)
    for i, (top, left) in enumerate([(0, 0), (12, 22), (24, 22)]):
        assert torch.equal(found[i], images[i, :, top : top + 16, left : left + 8])


@pytest.mark.usefixtures("tiny_parts")
def test_the_gradient_of_a_crop_reaches_its_window_only() -> None:
    _, discriminator = build(model(height=160, width=160))
    images = torch.rand(1, 1, 160, 160, requires_grad=True)
    _, fine, halved = parts_of(discriminator, images, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
    assert fine.shape == halved.shape == (1, 1, 32, 32)
    (gradient,) = torch.autograd.grad(halved.sum(), images)
    expected = torch.zeros(1, 1, 160, 160)
    expected[:, :, 96:, :64] = 0.25
    torch.testing.assert_close(gradient, expected)


@pytest.mark.usefixtures("tiny_parts")
@pytest.mark.parametrize(("height", "width"), [(80, 80), (81, 79), (163, 100), (161, 200)])
def test_a_generator_draws_the_same_windows_as_of_its_whole_images(height: int, width: int) -> None:
    torch.manual_seed(0)
    generator, discriminator = build(model(height=height, width=width, channels=3))
    with torch.no_grad():
        nn.init.normal_(generator.to_details[-1].weight)  # ty: ignore[not-subscriptable]
        for stage in generator.tail:  # ty: ignore[not-iterable]
            nn.init.normal_(stage.noise.strength)
            nn.init.normal_(stage.to_quarters.weight, std=0.2)
    z = torch.randn(8, 8)
    places = torch.rand(8, crops_of(discriminator), 2)
    places[0], places[1] = 0.0, 1.0
    with torch.no_grad():
        whole, *windows = generated_parts(generator, discriminator, z, None, places)
        _, *expected = parts_of(discriminator, generator(z), places)
        generator.coarse = generator.coarse_sizes[-1]
        (small,) = generated_parts(generator, discriminator, z, None, places)
    torch.testing.assert_close(whole, small)
    for mine, theirs in zip(windows, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_jitter_moves_each_image_by_whole_pixels_to_its_position() -> None:
    images = torch.rand(16, 2, 9, 8)
    positions = torch.cartesian_prod(torch.arange(4), torch.arange(4)) / 4 + 0.1
    moved = jitter(images, positions)
    inside = (slice(None), slice(3, 6), slice(3, 5))
    for i in range(16):
        y, x = i // 4 - 2, i % 4 - 2
        assert torch.equal(moved[i][inside], images[i, :, 3 + y : 6 + y, 3 + x : 5 + x])
    assert moved.shape == images.shape and torch.equal(jitter(images, torch.full((16, 2), 0.5)), images)


def test_repeating_patterns_are_removed_and_edges_and_grain_remain() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.arange(48)
    pattern = ((rows[:, None] + 2 * rows) % 4).float().expand(1, 2, 48, 48)
    plain = without_pattern(pattern, 4)
    assert pattern.std() > 1 and plain.std() < 1e-5 and abs(plain.mean() - pattern.mean()) < 1e-5
    grain = torch.randn(1, 2, 50, 47, generator=rng)
    assert (without_pattern(grain, 4) - grain).std() < 0.25
    edge = (rows >= 23).float().expand(1, 1, 48, 48)
    assert (without_pattern(edge, 4) - edge).abs().max() < 0.2


@pytest.mark.usefixtures("tiny_parts")
@pytest.mark.parametrize("kind", ["features", "both"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_channels_and_sides(kind: str, channels: int) -> None:
    config = model(kind, channels=channels, num_classes=3)
    torch.manual_seed(0)
    generator, discriminator = build(config)
    assert isinstance(discriminator, CropDiscriminator)
    labels = torch.tensor([0, 2])
    images = generator(torch.randn(2, config.z_dim), labels)
    assert images.shape == (2, channels, 72, 80)
    views = views_of(discriminator, parts_of(discriminator, images, torch.rand(2, crops_of(discriminator), 2)))
    logits = logits_of(discriminator, views, labels)
    assert logits.shape == (2, len(views)) and torch.isfinite(logits).all()
    assert len(heads_on_features(discriminator, len(views))) == len(views) - (4 if kind == "both" else 0)


@pytest.mark.usefixtures("tiny_parts")
def test_pairs_are_cropped_at_the_same_drawn_positions() -> None:
    _, discriminator = build(model())
    assert isinstance(discriminator, CropDiscriminator)
    one = torch.rand(1, 1, 72, 80).expand(2, -1, -1, -1)
    places = torch.tensor([[[0.0, 0.0]], [[0.9, 0.4]]])
    whole, crops = parts_of(discriminator, one, places)
    assert torch.equal(whole[0], whole[1]) and not torch.equal(crops[0], crops[1])
    assert torch.equal(crops, parts_of(discriminator, one, places)[1])
    inputs = draw(model(), crops_of(discriminator))
    assert inputs.places is not None and inputs.places.shape == (16, 1, 2) and inputs.places.std() > 0.1


def draw(config: ModelConfig, num_crops: int) -> Inputs:
    noise = torch.Generator().manual_seed(2)
    real = 2 * torch.rand(16, config.channels, config.height, config.width, generator=noise) - 1
    policy = ("translation", "brightness")
    return draw_inputs(
        real, None, slice(0, 16), CONFIG, policy, 0.5, noise, torch.full((1 + num_crops,), 0.1), num_crops
    )  # fmt: skip


@pytest.mark.usefixtures("tiny_parts")
def test_micro_batches_and_workers_give_the_gradient_of_the_batch() -> None:
    torch.manual_seed(0)
    config = model()
    generator, discriminator = build(config)
    assert isinstance(discriminator, CropDiscriminator)
    given = draw(config, crops_of(discriminator))
    discriminator.calibrate(given.real)
    nets = Networks(generator, discriminator, generator, discriminator)
    found = []
    for micro_batch, num in ((16, 0), (8, 0), (16, 2)):
        workers = Workers(nets, num) if num else None
        accumulate_gradients(nets, given, CONFIG, ("translation", "brightness"), micro_batch, True, workers=workers)
        if workers is not None:
            workers.close()
        parameters = [*generator.parameters(), *discriminator.parameters()]
        found.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        for p in parameters:
            p.grad = None
    for other in found[1:]:
        assert (other - found[0]).norm() <= 5e-3 * found[0].norm()  # rounding at the kinks of the frozen network


@pytest.mark.usefixtures("tiny_parts")
def test_doublings_by_pixel_shuffle_start_without_checkerboard_artefacts() -> None:
    torch.manual_seed(0)
    generator = build_generator(model(height=80))
    found = []
    generator.tail[-1].register_forward_hook(lambda *given: found.append(given[-1]))  # ty: ignore[not-subscriptable]
    generator(torch.randn(8, 8))
    blocks = found[0].unfold(2, 2, 2).unfold(3, 2, 2)
    torch.testing.assert_close(blocks, blocks[..., :1, :1].expand_as(blocks))


@pytest.mark.usefixtures("tiny_parts")
def test_the_coarse_phase_draws_small_images_which_the_first_images_are_enlarged_from() -> None:
    torch.manual_seed(0)
    generator, discriminator = build(model(height=81))
    z = torch.randn(8, 8)
    whole = generator(z)
    assert coarse_size(generator, 49, 100) == (41, 40) and coarse_size(generator, 50, 100) is None
    generator.coarse = generator.coarse_sizes[-1]
    small = generator(z)
    assert whole.shape[2:] == (81, 80) and small.shape[2:] == (41, 40)
    torch.testing.assert_close(upsample(small.atanh(), (82, 80)).tanh()[:, :, :81], whole, atol=1e-4, rtol=1e-3)
    real = torch.rand(8, 1, 81, 80)
    views = views_of(discriminator, parts_of(discriminator, at_size(real, generator.coarse), torch.rand(8, 2, 2)))
    assert isinstance(discriminator, CropDiscriminator) and len(discriminator.parts) == 3
    assert len(views) == len(views_of(discriminator, parts_of(discriminator, real))) // 3
    assert logits_of(discriminator, views, None).shape == (8, len(views))


@pytest.mark.usefixtures("tiny_parts")
def test_a_run_draws_small_images_first_and_then_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    draws = loop.draw_inputs
    monkeypatch.setattr(loop, "draw_inputs", lambda real, *a: shapes.append(tuple(real.shape[2:])) or draws(real, *a))
    noise = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(12):
        save_png(tmp_path / "data" / f"{i}.png", noise.integers(0, 256, (72, 72, 1), dtype=np.uint8))
    options = {"kind": "xray", "images": 16, "batch": 8, "base": 8, "widest": 8}
    ganvas.train(tmp_path / "data", tmp_path / "run", quiet=True, size=72, **options)
    assert shapes == [(36, 36), (72, 72)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), [(None, 1.0)]),
        ((66, 72), [((64, 70), 1 / 4), (None, 3 / 4)]),
        ((128, 160), [((64, 80), 1 / 4), (None, 3 / 4)]),
        ((800, 800), [((64, 64), 1 / 64), ((113, 113), 3 / 64), ((200, 200), 3 / 16), (None, 3 / 4)]),
        ((40, 640), [((10, 160), 1 / 4), (None, 3 / 4)]),
    ],
)
def test_training_begins_with_small_images(size: tuple[int, int], expected: list) -> None:
    with without_memory():
        generator = build_generator(model(height=size[0], width=size[1]))
    assert phases(generator) == expected
    total = 640_000
    drawn = [coarse_size(generator, seen, total) for seen in range(0, total, total // 64)]
    assert [(one, drawn.count(one) / 64) for one in dict.fromkeys(drawn)] == expected


def test_a_short_budget_has_enough_small_images_but_half_of_it_is_for_whole_ones() -> None:
    with without_memory():
        generator = build_generator(model(height=800, width=800))
    for total, counts in ((30_000, [2_500, 2_500, 2_500, 22_500]), (60, [10, 10, 10, 30])):
        drawn = [coarse_size(generator, seen, total) for seen in range(total)]
        assert [drawn.count(one) for one in dict.fromkeys(drawn)] == counts


@pytest.mark.usefixtures("tiny_parts")
def test_a_discriminator_on_pixels_alone_sees_whole_images() -> None:
    generator, discriminator = build(model("own", height=80))
    assert generator.coarse_sizes == () and phases(generator) == [(None, 1.0)]
    inputs = draw(model("own", height=80), 0)
    nets = Networks(generator, discriminator, generator, discriminator)
    accumulate_gradients(nets, inputs, CONFIG, (), 16, penalise=True)
    for weight in generator.parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all()


@pytest.mark.parametrize(("side", "small_size"), [(28, (14, 16)), (41, (18, 14)), (19, (14, 24))])
def test_a_finer_grid_adds_details_to_the_enlarged_smaller_image(
    side: int, small_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first none, so that the images stay as they are at the change of size."""
    monkeypatch.setattr(light, "SMALL", 14)
    torch.manual_seed(0)
    generator, discriminator = build(model(height=side, width=32))
    assert generator.coarse_sizes == (small_size,)
    z = torch.randn(8, 8)
    with torch.no_grad():
        whole = generator(z)
        generator.coarse = small_size
        small = generator(z)
        enlarged = torch.nn.functional.interpolate(small.atanh(), size=(side, 32), mode="bilinear").tanh()
        torch.testing.assert_close(enlarged, whole, atol=1e-4, rtol=1e-3)
        generator.coarse = None
        nn.init.normal_(generator.to_details[0].weight)  # ty: ignore[not-subscriptable]
        assert not torch.allclose(generator(z), whole, atol=0.1)
    discriminator(small).sum().backward()
    for name, weight in discriminator.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_a_run_of_middle_size_begins_with_half_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The layers that are left out keep the statistics of their start. Only whole images have a score."""
    monkeypatch.setattr(light, "SMALL", 20)
    shapes, statistics = [], []
    draws = loop.draw_inputs
    monkeypatch.setattr(loop, "draw_inputs", lambda real, *a: shapes.append(tuple(real.shape[2:])) or draws(real, *a))
    follows = loop.follow_statistics

    def follow(generator: nn.Module, copies: list) -> None:
        follows(generator, copies)
        statistics.append([layer.running_mean.clone() for layer in layers_of(generator)])

    monkeypatch.setattr(loop, "follow_statistics", follow)
    noise = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(12):
        save_png(tmp_path / "data" / f"{i}.png", noise.integers(0, 256, (40, 40, 1), dtype=np.uint8))
    options = {"kind": "xray", "images": 32, "batch": 8, "base": 8, "widest": 8, "model": "light", "previews": 8}
    ganvas.train(tmp_path / "data", tmp_path / "run", size=40, **options)
    assert "begins with smaller images, from 20x20: their previews are smooth" in capsys.readouterr().err
    scored = [line["images"] for line in read_log(tmp_path / "run") if "score" in line]
    assert scored and min(scored) > 16
    assert shapes == [(20, 20)] * 2 + [(40, 40)] * 2
    (second, last), (third, finest) = (statistics[1][-2:], statistics[-1][-2:])
    assert torch.equal(last, statistics[0][-1]) and not torch.equal(finest, last) and not torch.equal(third, second)


@pytest.mark.usefixtures("tiny_parts")
def test_details_have_noise_that_is_the_same_in_every_process_and_not_in_the_file() -> None:
    generators = []
    for _ in range(2):
        torch.manual_seed(0)
        generators.append(build_generator(model(height=80)))
        with torch.no_grad():
            for stage in generators[-1].tail:  # ty: ignore[not-iterable]
                stage.noise.strength.fill_(1.0)
            nn.init.ones_(generators[-1].to_details[-1].weight)  # ty: ignore[not-subscriptable]
    assert not any("fixed" in name for name in generators[0].state_dict())
    z = torch.randn(8, 8)
    one, other = (generator(z) for generator in generators)
    assert torch.equal(one, other)
    with torch.no_grad():
        generators[0].tail[-1].noise.strength.zero_()  # ty: ignore[not-subscriptable]
    assert (generators[0](z) - one).abs().mean() > 0.01


def test_each_part_has_its_own_penalty_which_rests_while_the_part_is_not_seen() -> None:
    penalty = FeaturesPenalty(0.1, 0.4, torch.device("cpu"), parts=3)
    for _ in range(50):
        penalty.update(torch.tensor([0.9]))
    assert penalty.value[0] > 0.15 and penalty.value[1:].tolist() == pytest.approx([0.1, 0.1])
    for _ in range(50):
        penalty.update(torch.tensor([0.4, 0.9, -0.9]))
    assert penalty.value[1] > 0.15 and penalty.value[2] < 0.05
    other = FeaturesPenalty(0.1, 0.4, torch.device("cpu"), parts=3)
    other.load_state_dict(penalty.state_dict())
    assert torch.equal(other.value, penalty.value) and torch.equal(other.lead, penalty.lead)


@pytest.mark.parametrize("size", [(8, 400), (200, 9)])
def test_narrow_images(size: tuple[int, int]) -> None:
    generator, discriminator = build(model("both", *size, channels=3))
    images = generator(torch.randn(8, 8))
    assert images.shape == (8, 3, *size) and discriminator(images).shape == (8,)


def test_small_images_are_seen_whole() -> None:
    generator, discriminator = build(dataclasses.replace(model(), height=40, width=40))
    assert not isinstance(discriminator, CropDiscriminator) and crops_of(discriminator) == 0
    assert len(generator.tail) == 0  # ty: ignore[invalid-argument-type]
