"""training/plan.py: complete and sensible configurations for every kind of data and device, with a reason each."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from architectures import MODERN
from ganvas.augment import POLICIES
from ganvas.config import TrainConfig, TrainOptions
from ganvas.data.packing.pack import Pack
from ganvas.errors import ConfigError
from ganvas.models import MODELS
from ganvas.models.architecture import GAMMA, Setting, gamma_for
from ganvas.models.summary import summarise_config
from ganvas.presets import PRESETS
from ganvas.run_config import read_training
from ganvas.system.device import Device, choose_device
from ganvas.training import plan as planning
from ganvas.training.plan import UNSEEN, Plan, augmentation_probability, free_memory, memory_needed, plan
from ganvas.training.plan_text import show_plan, value_text

CPU = Device(torch.device("cpu"), "CPU, 2 threads", "test", False)
CUDA = Device(torch.device("cuda"), "fake", "test", True)
GIB = 2**30
BUDGETS = {"minutes", "images", "epochs"}


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    memory(monkeypatch, 256 * GIB)


def memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(planning, "free_memory", lambda device: free)


def pack_of(
    height: int = 28,
    width: int | None = None,
    channels: int = 1,
    classes: int = 0,
    num: int = 6000,
    kind: str = "photo",
) -> Pack:
    """A pack of black images that take no memory."""
    images = np.broadcast_to(np.uint8(0), (num, height, width or height, channels))
    labels = np.arange(num) % classes if classes else None
    return Pack(
        Path("pack"),
        images,
        labels,
        np.empty(0, np.int64),
        SimpleNamespace(kind=kind, mirror=True, classes=[str(i) for i in range(classes)]),
    )


def chosen(planned: Plan) -> dict[str, object]:
    return {choice.name: choice.value for choice in planned.choices}


@pytest.mark.parametrize(
    ("channels", "classes", "device"),
    [(1, 10, CPU), (3, 0, CPU), (1, 0, CUDA), (3, 10, CUDA)],
    ids=["gray-labels-cpu", "colour-cpu", "gray-cuda", "colour-labels-cuda"],
)
@pytest.mark.parametrize("size", [28, 64, 800])
def test_plan_is_complete_and_sane(size: int, channels: int, classes: int, device: Device) -> None:
    planned = plan(pack_of(size, channels=channels, classes=classes), TrainOptions(), device)
    config, model = planned.config, planned.model
    unset = {field.name for field in dataclasses.fields(config) if getattr(config, field.name) is None}
    assert unset - {"model_size"} == (BUDGETS - {"minutes"}) | {"preset", "workers"}
    assert (config.model_size is None) == (config.model != "residual") and not planned.warnings
    assert all(choice.reason for choice in planned.choices)
    assert chosen(planned).items() <= dataclasses.asdict(config).items()

    assert (model.height, model.width, model.channels, model.num_classes) == (size, size, channels, classes)
    assert (model.model, model.z_dim, model.base, model.blocks) == (
        config.model,
        config.z_dim,
        config.base,
        config.blocks,
    )
    small = "compact" if device is CPU else "residual"
    assert (model.model, model.discriminator) == ((small, "own") if size < 41 else ("light", "both"))
    assert config.conditional is (classes > 0)
    assert config.precision == ("bf16" if device is CUDA else "fp32") and config.compile is (device is CUDA)
    assert config.device == str(device.torch_device)
    assert 8 <= (config.batch or 0) <= (64 if device is CPU else 256) and config.micro_batch == config.batch
    assert config.r1 == config.r2 and config.r1 is not None and config.r1 > 0
    assert 0 <= (config.augment or 0) <= 0.6
    assert 1e4 < planned.generator.parameters < 1e8 and 1e4 < planned.discriminator.parameters < 1e8
    assert 0 < planned.memory < 128 * GIB


def test_other_shapes_and_kinds_are_planned() -> None:
    assert plan(pack_of(96, 128, 3), TrainOptions(), CPU).model.width == 128
    assert plan(pack_of(9, 13, 4), TrainOptions(), CPU).model.channels == 4
    for kind in POLICIES:
        planned = plan(pack_of(kind=kind), TrainOptions(), CPU)
        reason = next(choice.reason for choice in planned.choices if choice.name == "augment")
        assert f"kind {kind}: {', '.join(POLICIES[kind])}" in reason


def test_asked_values_win_and_say_so() -> None:
    asked = TrainOptions(
        images=500, model="residual", model_size="S", z_dim=7, base=32, widest=32, blocks=2, conditional=False,
        loss="hinge", r1=1.5, r2=0.0, penalty_interval=2, augment=0.0, batch=12, micro_batch=5,
        update="alternating", n_critic=2, optimizer="adamw", weight_decay=0.1, lr=1e-4, lr_d=3e-4, lr_end=1.0,
        warmup=0.0, beta1=0.5, beta2=0.9, decay_from=0.5, ema=10.0, precision="bf16", compile=True, seed=4,
        spectral_norm=True, gradient_penalty=0.0, path_length=0.0, style_mixing=0.0,
        label_noise=0.0, adaptive=False, momentum=0.0,
    )  # fmt: skip
    planned = plan(pack_of(classes=3), asked, CPU)
    for field in dataclasses.fields(asked):
        if getattr(asked, field.name) is not None:
            assert getattr(planned.config, field.name) == getattr(asked, field.name), field.name
    assert planned.model.num_classes == 0 and planned.model.base == 32
    reasons = {choice.reason for choice in planned.choices if choice.name != "device"}
    assert reasons == {"given"}
    assert planned.config.minutes is None


def test_a_plan_planned_again_stays_as_it_is() -> None:
    pack = pack_of(classes=10)
    first = plan(pack, TrainOptions(), CPU)
    again = plan(pack, first.config, CPU)
    assert again.config == first.config and again.model == first.model


@pytest.mark.parametrize("budget", [{"minutes": 3.0}, {"images": 500}, {"epochs": 2.0}])
def test_the_asked_budget_is_the_only_one(budget: dict) -> None:
    config = plan(pack_of(), TrainOptions(**budget), CPU).config
    assert {name: getattr(config, name) for name in BUDGETS if getattr(config, name) is not None} == budget


def test_r2_follows_r1() -> None:
    assert plan(pack_of(), TrainOptions(r1=3.0), CPU).config.r2 == 3.0


def test_penalty_weight_grows_with_the_size_through_the_published_points() -> None:
    weights = [gamma_for(size) for size in (28, 32, 48, 64, 100, 128, 200, 256, 800)]
    assert weights == sorted(weights)
    for size, gamma in GAMMA:
        assert gamma_for(size) == pytest.approx(gamma)


def test_augmentation_grows_as_pictures_get_fewer() -> None:
    probabilities = [augmentation_probability(num) for num in (2, 20, 200, 2_000, 19_999, 20_000, 10**6)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[0] == 0.6 and probabilities[-2:] == [0.0, 0.0]


def test_augmentation_waits_until_images_are_seen_again_unless_it_is_given() -> None:
    assert plan(pack_of(64), TrainOptions(), CPU).config.augment_after == UNSEEN
    assert plan(pack_of(64), TrainOptions(augment=0.3), CPU).config.augment_after == 0
    assert plan(pack_of(64), TrainOptions(adaptive=True), CPU).config.augment_after == 0


@pytest.mark.parametrize("name", [*MODERN, "mlp"])
def test_defaults_belong_to_the_architecture_and_not_to_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "copy", MODELS[name])
    first, second = (plan(pack_of(64), TrainOptions(model=model), CPU) for model in (name, "copy"))
    assert dataclasses.replace(second.config, model=name) == first.config
    assert [one.reason.replace("copy", name) for one in second.choices[2:]] == [one.reason for one in first.choices[2:]]
    assert all(field in vars(TrainOptions()) for field in MODELS[name].defaults(Setting(64, 64, True)))


@pytest.mark.parametrize(
    ("side", "device", "blocks", "path_length", "style_mixing", "r1"),
    [(28, CPU, 1, 0.0, 0.0, 0.02), (64, CUDA, 2, 2.0, 0.9, 0.02), (256, CPU, 1, 2.0, 0.9, 1.6)],
)
def test_the_style_network_has_the_published_settings(
    side: int, device: Device, blocks: int, path_length: float, style_mixing: float, r1: float
) -> None:
    config = plan(pack_of(side), TrainOptions(model="style", batch=8 if side > 64 else 64), device).config
    assert (config.blocks, config.path_length, config.style_mixing) == (blocks, path_length, style_mixing)
    assert (config.loss, config.r2, config.penalty_interval) == ("bce", 0.0, 16)
    assert config.r1 == pytest.approx(r1)  # 0.0002 x pixels / batch, at least 0.02


# Memory.


def test_micro_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    pack, asked = pack_of(128, channels=3), TrainOptions(model="residual", batch=32)
    whole = plan(pack, asked, CPU)
    assert whole.config.micro_batch == whole.config.batch == 32 and asked.batch == 32
    sizes = []
    for share in (1.0, 0.5, 0.25, 0.1):
        memory(monkeypatch, int(whole.memory * share / planning.MEMORY_SHARE * 1.05))
        planned = plan(pack, asked, CPU)
        assert planned.config.batch == 32 and planned.memory <= whole.memory * share * 1.05
        sizes.append(planned.config.micro_batch)
    assert sizes == [32, 16, 8, 2]
    reason = next(choice.reason for choice in planned.choices if choice.name == "micro_batch")
    assert "GiB of free memory" in reason
    memory(monkeypatch, 1)
    assert plan(pack, asked, CPU).config.micro_batch == 1
    assert plan(pack, TrainOptions(micro_batch=10), CPU).config.micro_batch == 10  # asked for


def test_memory_grows_with_size_batch_and_width() -> None:
    def need(size: int, batch: int = 16, **options: int) -> int:
        asked = TrainOptions(model="residual", base=options.get("base", 16), blocks=1, batch=batch)
        return plan(pack_of(size, channels=3), asked, CPU).memory

    by_size = [need(size) for size in (32, 64, 128, 256)]
    assert all(3 < after / before < 5 for before, after in itertools.pairwise(by_size))  # with the area
    assert need(64, batch=32) > 1.8 * need(64)
    assert need(64, base=32) > 1.5 * need(64)


@pytest.mark.parametrize(
    ("size", "channels", "classes", "asked", "measured"),
    [
        (28, 1, 10, TrainOptions(model="compact", base=24, blocks=1, batch=64), 36),
        (64, 1, 6, TrainOptions(model="compact", base=24, blocks=1, batch=64), 134),
        (64, 3, 0, TrainOptions(model="compact", base=24, blocks=1, batch=64), 189),
        (64, 3, 0, TrainOptions(model="residual", base=16, blocks=1, batch=64), 1368),
        (128, 3, 0, TrainOptions(model="residual", base=16, blocks=1, batch=32), 2521),
    ],
)
def test_memory_estimate_is_within_a_factor_of_two_of_the_measured(
    size: int, channels: int, classes: int, asked: TrainConfig, measured: int
) -> None:
    """measured: MiB by which the resident memory of three steps with penalties grew, on a CPU with two threads."""
    estimate = plan(pack_of(size, channels=channels, classes=classes), asked, CPU).memory / 2**20
    assert 0.5 < estimate / measured < 2, estimate


def test_free_memory_of_this_machine_is_plausible() -> None:
    assert 2**26 < free_memory(choose_device("cpu")) < 2**46


# What cannot be.


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (TrainOptions(model="transformer"), "--model transformer: expected one of light, compact"),
        (TrainOptions(model_size="L"), "--model-size works with --model residual only; set the capacity of compact"),
        (TrainOptions(loss="poetry"), "--loss poetry: expected one of relativistic"),
        (TrainOptions(loss="wasserstein", gradient_penalty=0.0), "needs a Lipschitz constraint"),
        (
            TrainOptions(model="dcgan", gradient_penalty=10.0),
            "does not work with the batch statistics of the dcgan discriminator",
        ),
        (
            TrainOptions(model="dcgan", update="joint"),
            "--update joint does not work with the batch statistics of the dcgan",
        ),
        (TrainOptions(update="joint", n_critic=3), "--n-critic 3 needs --update alternating"),
        (TrainOptions(label_noise=0.1), "does not work with --loss relativistic"),
        (TrainOptions(loss="hinge", label_noise=0.1), "does not work with --loss hinge"),
        (TrainOptions(path_length=2.0), "need a style space, which compact does not have: use --model style"),
        (TrainOptions(momentum=0.9), "--momentum works with --optimizer sgd or rmsprop only"),
        (TrainOptions(weight_decay=0.1), "--weight-decay works with --optimizer adamw or sgd only, not adam"),
        (TrainOptions(probe_gamma=True, r1=0.0), "--r1 is off"),
        (TrainOptions(augment=0.9), "--augment 0.9: above 0.8 the augmentations show in the samples"),
        (TrainOptions(model="cifar10"), "28"),
        (TrainOptions(preset="dcgan", batch=1), "--batch 1 leaves one image in a pass"),
        (TrainOptions(preset="dcgan", batch=9, micro_batch=4), "--batch 9 leaves one image in a pass"),
        (TrainOptions(conditional=True), "no labels; put them into one folder per class"),
        (TrainOptions(batch=8, micro_batch=9), "--micro-batch 9: expected at most 8, the images per process"),
    ],
)
def test_combinations_that_cannot_work_are_refused(asked: TrainConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(pack_of(), asked, CPU)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (TrainOptions(lr=1e-5), "too low for Adam"),
        (TrainOptions(preset="tf-mnist", lr=1e-5), "too low for Adam"),
        (TrainOptions(optimizer="sgd", lr=1e-4), "too low for SGD"),
        (TrainOptions(loss="hinge", r1=0.0), "diverges"),
        (TrainOptions(preset="dcgan", micro_batch=8), "micro-batches of 8 images change the result"),
        (TrainOptions(preset="mnist-upsample", micro_batch=8), "micro-batches of 8 images change the result"),
        (TrainOptions(model="light", batch=16, micro_batch=12), "micro-batches of 12 images change the result"),
    ],
)
def test_unlikely_settings_are_warned_about(asked: TrainConfig, word: str) -> None:
    (warning,) = plan(pack_of(), asked, CPU).warnings
    assert word in warning


def test_whole_groups_of_batch_normalisation_need_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan(pack_of(), TrainOptions(model="light", batch=24, micro_batch=16), CPU).warnings == []
    for batch in (24, 12):
        monkeypatch.undo()
        asked = TrainOptions(model="light", batch=batch)
        memory(monkeypatch, int(plan(pack_of(), asked, CPU).memory * 0.9 / planning.MEMORY_SHARE))
        assert plan(pack_of(), asked, CPU).config.micro_batch == 8


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_taken_over_and_may_be_changed(name: str) -> None:
    preset = PRESETS[name]
    side = int(preset.size or 64)
    pack = pack_of(side, channels=1 if preset.channels == "gray" else 3, classes=3)
    planned = plan(pack, TrainOptions(preset=name), CPU)
    config = planned.config
    assert preset.options.items() <= dataclasses.asdict(config).items()
    assert config.ema == 0 and config.lr_end == 1 and config.lr_d == config.lr and config.n_critic == 1
    assert plan(pack, TrainOptions(preset=name, lr=1e-3, ema=1000.0), CPU).config.ema == 1000
    reasons = {choice.name: choice.reason for choice in planned.choices}
    assert reasons["lr"] == f"preset {name}"


@pytest.mark.parametrize(
    ("loss", "update", "n_critic", "gradient_penalty", "interval"),
    [
        ("relativistic", "joint", 1, 0.0, 8),
        ("hinge", "joint", 1, 0.0, 8),
        ("wasserstein", "alternating", 5, 10.0, 1),
        ("bce", "joint", 1, 0.0, 8),
    ],
)
def test_scheme_follows_the_loss(loss: str, update: str, n_critic: int, gradient_penalty: float, interval: int) -> None:
    config = plan(pack_of(), TrainOptions(loss=loss), CPU).config
    assert (config.update, config.n_critic) == (update, n_critic)
    assert (config.gradient_penalty, config.penalty_interval) == (gradient_penalty, interval)


def test_few_large_pictures_get_both_discriminators_and_sizes_grow_with_the_budget() -> None:
    few = plan(pack_of(800, num=300, kind="xray"), TrainOptions(minutes=30), CUDA)
    assert (few.model.model, few.model.discriminator) == ("light", "both")
    sizes = [plan(pack_of(64, channels=3), TrainOptions(minutes=m, model="residual"), CUDA) for m in (10, 60, 300)]
    assert [planned.config.model_size for planned in sizes] == ["M", "M", "L"]
    assert sizes[0].generator.parameters < sizes[-1].generator.parameters


def test_files_with_an_option_that_no_longer_exists_are_read_where_it_changes_nothing() -> None:
    assert read_training(TrainConfig, {"batch": 8, "ema_ramp": 0.2, "magnitude": None}, "x") == TrainConfig(batch=8)
    with pytest.raises(ConfigError, match="x has fields that this version of Ganvas does not know: ema_ramp"):
        read_training(TrainConfig, {"ema_ramp": 0.5}, "x")


def test_what_a_run_starts_from_decides_its_networks() -> None:
    known = {"model": "residual", "base": 48, "blocks": 3, "z_dim": 5}
    model = plan(pack_of(), TrainOptions(), CPU, known).model
    assert (model.model, model.base, model.blocks, model.z_dim) == ("residual", 48, 3, 5)
    assert plan(pack_of(), TrainOptions(base=16), CPU, known).model.base == 16


def test_batch_that_does_not_divide_among_the_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "world_size", lambda: 3)
    planned = plan(pack_of(), TrainOptions(), CPU)
    assert planned.config.batch == 63 and planned.config.micro_batch == 21
    with pytest.raises(ConfigError, match="--batch 64: expected a multiple of the 3 processes"):
        plan(pack_of(), TrainOptions(batch=64), CPU)


@pytest.mark.parametrize(
    ("side", "channels", "device", "model"),
    [(40, 1, CPU, "compact"), (41, 1, CPU, "light"), (31, 3, CPU, "compact"), (32, 3, CPU, "light"),
     (32, 4, CPU, "light"), (32, 3, CUDA, "residual"), (64, 3, CUDA, "light")],
)  # fmt: skip
def test_the_network_depends_on_size_colour_and_device(side: int, channels: int, device: Device, model: str) -> None:
    assert plan(pack_of(side, channels=channels), TrainOptions(minutes=2.0), device).config.model == model


# On the terminal.


def test_shown_plan_names_every_choice_with_its_reason() -> None:
    pack = pack_of(32, channels=3, classes=4)
    planned = plan(pack, TrainOptions(minutes=2.0), CPU)
    console = Console(file=io.StringIO(), width=200)
    show_plan(planned, pack, console)
    shown = console.file.getvalue()  # ty: ignore[missing-attribute]
    assert "6,000 images of 32x32x3 in 4 classes, kind photo" in shown
    for choice in planned.choices:
        line = next(line for line in shown.splitlines() if line.strip().startswith(choice.name))
        assert value_text(choice.value) in line and choice.reason in line
    assert "generator" in shown and "multiply-adds" in shown and "MiB" in shown
    assert all(row.name in shown for row in planned.generator.rows) and "BatchNorm" in shown
    console = Console(file=io.StringIO(), width=200)
    show_plan(planned, pack, console, layers=False)
    assert "PlaceNorm" not in console.file.getvalue()  # ty: ignore[missing-attribute]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "yes"),
        (False, "no"),
        (0.0025, "0.0025"),
        (500_000.0, "500,000"),
        (64, "64"),
        ("bf16", "bf16"),
        (None, "None"),
    ],
)
def test_values_as_a_person_reads_them(value: object, shown: str) -> None:
    assert value_text(value) == shown


def test_summary_is_free_of_weights() -> None:
    model = plan(pack_of(800, channels=3), TrainOptions(), CUDA).model
    generator, discriminator = summarise_config(model)
    assert memory_needed(generator, discriminator, 2) > memory_needed(generator, discriminator, 1)
