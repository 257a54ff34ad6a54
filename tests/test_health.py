"""training/health.py: every state is provoked, named once with what to do, and not named in a healthy run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ganvas
from ganvas.config import TrainConfig
from ganvas.data import open_pack
from ganvas.errors import TrainingError
from ganvas.image_files import save_png
from ganvas.losses import LOSSES
from ganvas.records import Score, TrainingReport, Variety, read_log
from ganvas.run import Run
from ganvas.training import health, loop
from ganvas.training.health import COLLAPSE, GAME, PATIENCE, PLATEAU, REST, Event, Watch, ignorant_loss

TINY: dict[str, Any] = {
    "size": "8", "base": 8, "z_dim": 8, "batch": 16, "previews": 14, "device": "cpu", "quiet": True,
    "conditional": False, "augment": 0.0,
}  # fmt: skip
"""Steps of a few milliseconds: the watch judges after 200 of them."""


def events(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(run) if "health" in record]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is shown and every preview examined, so that a run of seconds has the evidence of one of hours."""
    monkeypatch.setattr(loop, "DISPLAY_SECONDS", 0.0)
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(loop, "EXAMINATION_SHARE", 1e9)


@pytest.fixture
def report() -> dict[str, Any]:
    return {"images": 64, "d_real": 0.5, "d_fake": -0.5, "loss": 0.4, "sign": 0.3, "augment": 0.3,
            "g_norm": 1.0, "d_norm": 2.0, "seconds": 1.0, "images_per_second": 64.0, "eta": 9.0, "lr": 1e-3,
            "ema_half_life": 5000, "penalty": 0.0}  # fmt: skip


@pytest.fixture
def vitals() -> dict[str, Any]:
    return {"images": 64, "score": 0.1, "margin": 0.01, "precision": 0.6, "diversity": 0.9, "checkerboard": 1.0,
            "near": 0.02, "change": 0.05, "d_gap": 0.1}  # fmt: skip


class Told:
    """A watch that is told of records, one after every 64 images; what begins is kept by name."""

    def __init__(self, config: TrainConfig, history: list[dict[str, Any]] | None = None) -> None:
        self.watch, self.images = Watch(config, history or ()), 0

    def __call__(self, records: list[dict[str, Any]], progress: float = 0.5) -> list[str]:
        found: list[Event] = []
        for record in records:
            self.images += 64
            told = record | {"images": self.images}
            found += (
                self.watch.examine(Score(**told), progress)
                if "score" in told
                else self.watch.see(TrainingReport(**told))
            )
        return [event.name for event in found]


CONFIG = TrainConfig(loss="relativistic", adaptive=True)


def test_a_healthy_training_is_left_in_peace(report: dict[str, Any], vitals: dict[str, Any]) -> None:
    falling = [vitals | {"score": 1 / (i + 1)} for i in range(3 * PLATEAU)]
    assert Told(CONFIG)([report] * 40 + falling) == []


@pytest.mark.parametrize(
    ("name", "change", "patience"),
    [
        ("winner", {"loss": 1e-3, "d_real": 30.0}, GAME),
        ("winner", {"loss": math.log(2), "d_real": -0.5}, GAME),
        ("augmentation", {"augment": 0.8, "sign": 0.9}, PATIENCE),
    ],
)
def test_a_state_of_the_losses_is_named_once_after_some_patience(
    name: str, change: dict[str, Any], patience: int, report: dict[str, Any]
) -> None:
    told = Told(CONFIG)
    assert told([report | change] * (patience - 1)) == []
    assert told([report | change] * 3 * GAME) == [name]
    assert told([report] * (GAME // 2) + [report | change] * GAME) == []  # a short rest
    assert told([report] * 2 * GAME + [report | change] * GAME) == [name]  # over, and begun again


@pytest.mark.parametrize(("precision", "expected"), [(0.4, ["winner"]), (0.6, [])])
def test_a_discriminator_that_knows_nothing_is_weak_only_if_the_images_are_poor(
    precision: float, expected: list[str], report: dict[str, Any], vitals: dict[str, Any]
) -> None:
    """Good images cannot be distinguished from real ones either."""
    lost = report | {"loss": math.log(2), "d_real": -0.5}
    assert Told(CONFIG)([vitals | {"precision": precision}, *[lost] * 2 * GAME]) == expected


def test_an_exploding_gradient_is_named(report: dict[str, Any]) -> None:
    assert Told(CONFIG)([report] * 20 + [report | {"g_norm": 500.0}] * 2) == ["exploding"]
    assert Told(CONFIG)([report] * 20 + [report | {"g_norm": 500.0}, report]) == []  # one spike
    idle = [report | {"d_norm": 0.0}] * 20
    assert Told(CONFIG)([*idle, *[report] * 2]) == []  # a discriminator that had nothing to learn, and has again


def test_fresh_networks_are_not_judged(report: dict[str, Any], vitals: dict[str, Any]) -> None:
    """For 200 steps the discriminator knows nothing, and all images are alike."""
    config = TrainConfig(loss="relativistic", batch=16)
    lost, alike = report | {"loss": math.log(2)}, vitals | {"diversity": 0.01, "precision": 0.0}
    told = Told(config)
    assert told([*[lost] * 47, *[alike] * 3]) == []  # 3,200 images
    assert told([alike, *[lost] * GAME]) == ["collapse", "winner"]
    assert Told(CONFIG)([alike] * 4, progress=0.1) == []  # or so early in the budget


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("overfitting", {"d_gap": 0.9}),
        ("copying", {"near": 0.5}),
        ("still", {"change": 1e-5}),
    ],
)
def test_a_state_of_the_pictures_is_named(name: str, change: dict[str, Any], vitals: dict[str, Any]) -> None:
    falling = [vitals | {"score": 1 / (i + 1)} for i in range(40)]
    told = Told(CONFIG)
    assert told(falling[:20]) == []
    assert told([record | change for record in falling[20:]]) == [name]


def test_two_previews_at_the_end_are_enough_to_be_still(vitals: dict[str, Any]) -> None:
    falling = [vitals | {"score": 1 / (i + 1)} for i in range(10)]
    assert Told(CONFIG)([*falling[:8], *(record | {"change": 1e-5} for record in falling[8:])]) == ["still"]


def test_a_collapse_is_named_unless_the_score_improves(vitals: dict[str, Any]) -> None:
    falling = [vitals | {"score": 1 / (i + 1)} for i in range(12)]
    alike = {"diversity": COLLAPSE / 2}
    told = Told(CONFIG)
    assert told([*falling[:6], *[record | alike for record in falling[6:]]]) == []
    assert "collapse" in told([falling[-1] | alike] * 16)
    rising = [vitals | alike | {"score": 0.1 * (i + 1)} for i in range(5)]
    assert Told(CONFIG)([*falling, *rising])[0] == "collapse"


def test_copies_and_overfitting_mean_nothing_while_all_images_are_alike(vitals: dict[str, Any]) -> None:
    falling = [vitals | {"score": 1 / (i + 1), "diversity": COLLAPSE / 2} for i in range(12)]
    assert Told(CONFIG)([record | {"near": 0.5, "d_gap": 0.9} for record in falling]) == []


def test_images_that_are_all_the_same_are_named_early(vitals: dict[str, Any]) -> None:
    flat = [Variety(500 * i, 0.01) for i in range(1, 7)]
    watch = Watch(CONFIG)
    assert [watch.preview(record, 0.05) for record in flat[:4]] == [[]] * 4
    (event,) = watch.preview(flat[4], 0.1)
    assert event.name == "flat" and "1.0% of real images" in event.words and "restarting" in event.action
    assert watch.preview(flat[5], 0.1) == []  # said once
    varied = Watch(CONFIG)
    assert not any(varied.preview(dataclasses.replace(record, variety=0.3), 0.1) for record in flat)


def test_a_class_whose_images_are_all_the_same_is_named() -> None:
    watch = Watch(CONFIG)
    records = [Variety(4000 * i, 0.5, 0.01, "cat") for i in range(1, 5)]
    events = [event for record in records for event in watch.preview(record, 0.5)]
    assert [event.name for event in events] == ["uniform class"] and "class cat" in events[0].words


def test_a_run_whose_images_are_all_the_same_starts_again(
    often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound that every young run breaks: it starts again twice, each time with other weights and half the rate."""
    monkeypatch.setattr(health, "FLAT", 1e9)
    monkeypatch.setattr(health, "FLAT_IMAGES", 64)
    monkeypatch.setattr(health, "START_STEPS", 0)
    monkeypatch.setattr(health, "RESTART_UNTIL", 1.0)
    monkeypatch.setattr(loop, "EXAMINATION_SHARE", 0.0)  # of the previews only
    run = tmp_path / "run"
    constant: dict[str, Any] = {"lr_end": 1.0, "warmup": 0.0, "decay_from": 1.0}
    ganvas.train("digits", run, limit=300, images=320, **(TINY | constant | {"previews": 10}))
    records = [*read_log(run)]
    actions = [record["action"] for record in records if record.get("health") == "flat"]
    assert len(actions) == 3 and "restarting" in actions[1] and "start a new run" in actions[2]
    state = Run(run).load_checkpoint(lambda _: None, torch.device("cpu"))
    assert state is not None and state["counters"]["restarts"] == 2
    rates = [record["lr"] for record in records if "lr" in record]
    assert rates[-1] == pytest.approx(rates[0] / 4)


def test_pictures_that_become_different_are_no_collapse(vitals: dict[str, Any]) -> None:
    growing = [vitals | {"diversity": value} for value in (0.01, 0.02, 0.04, 0.08, 0.16, 0.3)]
    assert Told(CONFIG)(growing) == []


def test_a_growing_checkerboard_is_named(vitals: dict[str, Any]) -> None:
    growing = [vitals | {"checkerboard": value, "score": 1 - value / 100} for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    told = Told(CONFIG)
    assert told([*growing, *growing[:-3:-1], *growing[-2:]]) == ["checkerboard"]  # and not again while it is there
    steady = [vitals | {"checkerboard": 5.0, "score": 1 - i / 10} for i in range(5)]
    assert Told(CONFIG)(steady) == []  # there, but not growing
    assert Told(CONFIG)([vitals, vitals | {"checkerboard": 9.0}, vitals, vitals]) == []  # once
    assert told([vitals] * REST + growing[1:]) == ["checkerboard"]


def test_a_plateau_is_named(vitals: dict[str, Any]) -> None:
    assert Told(CONFIG)([vitals] * PLATEAU) == ["plateau"]
    assert Told(CONFIG)([vitals] * PLATEAU, progress=1.0) == []  # too late to stop
    after_a_bad_time = [vitals] * 8 + [vitals | {"score": 1 - i / 20} for i in range(12)]
    assert Told(CONFIG)(after_a_bad_time) == []


@pytest.mark.parametrize("num", [20, 40])
def test_a_plateau_among_noisy_scores(num: int, vitals: dict[str, Any]) -> None:
    """A score that is flat after 25% of the run is noticed; one that falls by 30% in each half is no plateau.

    Nor is it a collapse if the images are alike, because they improve.
    """
    rng, noticed = np.random.default_rng(0), {"flat": 0, "falling": 0}
    time = np.arange(1, num + 1) / num
    for _ in range(25):
        for name, usual in (("flat", 1 / np.minimum(time, 0.25)), ("falling", time**-0.515)):
            scores = usual * (1 + 0.08 * rng.normal(size=num))
            records = [vitals | {"score": float(score), "diversity": 0.1} for score in scores]
            found = Told(CONFIG)(records)
            noticed[name] += "plateau" in found
            noticed[f"{name}, collapsed"] = noticed.get(f"{name}, collapsed", 0) + ("collapse" in found)
    assert noticed["flat"] >= 20 and noticed["falling"] == 0
    assert noticed["flat, collapsed"] >= 20 and noticed["falling, collapsed"] <= 1


def test_the_decrease_is_that_of_a_regression_line() -> None:
    from scipy.stats import linregress

    images, scores = [100, 150, 300, 420, 500], [0.9, 0.7, 0.75, 0.4, 0.45]
    line = linregress(images, scores)
    assert health.decrease(images, scores) == pytest.approx((-400 * line.slope, 400 * line.stderr, 3))


def test_examinations_that_come_close_together_say_nothing(vitals: dict[str, Any]) -> None:
    """Where the machine is slow for a while, examinations by the clock are few steps apart: nothing can change."""
    watch = Watch(CONFIG)
    falling = [vitals | {"score": 1 / (i + 1), "images": 10_000 * i} for i in range(1, 11)]
    close = [vitals | {"score": 0.09, "change": 1e-4, "images": 100_000 + 10 * i} for i in range(10)]
    assert [watch.examine(Score(**record), 0.5) for record in falling + close] == [[]] * (len(falling) + len(close))


def test_a_resumed_watch_says_nothing_twice(vitals: dict[str, Any]) -> None:
    watch = Watch(CONFIG)
    *first, second, third = (Score(**vitals | {"diversity": 0.1, "images": 64 * i}) for i in range(1, 6))
    assert [watch.examine(record, 0.5) for record in first] == [[]] * 3
    assert watch.examine(first[-1], 0.5) == []  # another look at the same weights is no evidence
    (event,) = watch.examine(second, 0.5)
    assert event.words in str(event) and event.action in str(event)
    again = Watch(CONFIG, history=[*first, second, event.at(256)])
    assert again.examine(third, 0.6) == []


def test_what_a_guess_loses() -> None:
    """By hand: ln 2 for a relativistic pair, 2 ln 2 for two cross-entropies, 2 for two hinges, none for a critic."""
    for loss, expected in (("relativistic", math.log(2)), ("bce", 2 * math.log(2)), ("hinge", 2.0)):
        assert ignorant_loss(TrainConfig(loss=loss)) == pytest.approx(expected, rel=1e-6)
    assert ignorant_loss(TrainConfig(loss="wasserstein")) is None
    assert all((value := ignorant_loss(TrainConfig(loss=name))) is None or value > 0 for name in LOSSES)


# ---- real runs ----


def found_in(run: Path, source: str | Path = "digits", **options: Any) -> dict[str, str]:
    """A tiny training's states, and what was first said of each."""
    ganvas.train(source, run, **(TINY | options))
    return {event["health"]: f"{event['words']}: {event['action']}" for event in reversed(events(run))}


@pytest.mark.slow
def test_a_discriminator_that_wins_is_named(often: None, tmp_path: Path) -> None:
    found = found_in(tmp_path / "run", images=4000, lr=1e-7, lr_d=2e-3, r1=0.0)
    assert "too strong" in found["winner"] and "--r1" in found["winner"]


@pytest.mark.slow
def test_a_discriminator_that_cannot_learn_has_lost(often: None, tmp_path: Path) -> None:
    found = found_in(tmp_path / "run", images=4000, lr=1e-3, lr_d=1e-9)
    assert "too weak" in found["winner"]


@pytest.mark.slow
def test_a_rate_without_effect_is_named(often: None, tmp_path: Path) -> None:
    found = found_in(tmp_path / "run", images=4800, lr=1e-9, lr_d=1e-9)
    assert "by only 0.00% of their range" in found["still"] and "raise --lr" in found["still"]


def test_a_collapse_is_named(often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A multilayer perceptron draws one digit at first, a good one: its precision is 1 and its recall 0."""
    monkeypatch.setattr(health, "START_STEPS", 30)
    few: dict[str, Any] = {"limit": 100, "holdout": 0.5, "model": "mlp", "loss": "relativistic", "r1": 0.05, "r2": 0.05}
    found = found_in(tmp_path / "run", images=1600, previews=8, lr=5e-4, beta1=0.0, beta2=0.99, ema=2000.0, **few)
    assert "mode collapse" in found["collapse"]


@pytest.mark.slow
def test_augmentation_at_its_cap_is_named(often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("state", "health"):
        monkeypatch.setattr(f"ganvas.training.{place}.TARGET", 0.2)
    adaptive: dict[str, Any] = {"adaptive": True, "augment": 0.6}
    found = found_in(tmp_path / "run", images=4800, limit=60, previews=4, **adaptive)
    assert "at its maximum of 0.8" in found["augmentation"] and "add images" in found["augmentation"]


@pytest.mark.slow
def test_a_checkerboard_of_transposed_convolutions_is_named(often: None, tmp_path: Path) -> None:
    found = found_in(tmp_path / "run", images=4800, size="32", model="dcgan", lr=2e-3, previews=20)
    assert (
        "checkerboard artefacts are growing" in found["checkerboard"]
        and "transposed convolutions" in found["checkerboard"]
    )


@pytest.mark.slow
def test_a_discriminator_that_knows_its_few_pictures_is_named(often: None, tmp_path: Path) -> None:
    few: dict[str, Any] = {"limit": 100, "holdout": 0.5, "base": 16}
    found = found_in(tmp_path / "run", images=32_000, lr=2e-3, lr_end=1.0, r1=0.0, r2=0.0, **few)
    assert "the discriminator overfits" in found["overfitting"]


@pytest.mark.slow
def test_copying_is_named(often: None, tmp_path: Path) -> None:
    """Labels so fine that each belongs to one image ask for nothing but copies."""
    for number, image in enumerate(open_pack("digits").images[:60]):
        (tmp_path / "each" / f"{number}").mkdir(parents=True)
        save_png(tmp_path / "each" / f"{number}" / "it.png", image)
    options: dict[str, Any] = {"conditional": True, "base": 16, "z_dim": 2, "lr": 3e-3, "previews": 10}
    found = found_in(tmp_path / "run", tmp_path / "each", images=14_400, **options)
    assert "close to a single training image" in found["copying"] and "add images" in found["copying"]


def broken_after(monkeypatch: pytest.MonkeyPatch, images: int, above: float) -> None:
    """A step after `images` images with a learning rate above `above` makes the weights not finite."""
    update = loop.update

    def breaking(state: Any, config: TrainConfig, side: Any, rate: float) -> None:
        update(state, config, side, rate)
        if state.images_seen >= images and rate > above:
            with torch.no_grad():
                next(state.generator.parameters()).fill_(math.nan)

    monkeypatch.setattr(loop, "update", breaking)


def test_a_divergence_goes_back_and_on_with_half_the_rate(
    often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_after(monkeypatch, images=160, above=3e-4)
    run = tmp_path / "run"
    ganvas.train("digits", run, limit=300, images=320, lr=1e-3, lr_end=1.0, warmup=0.0, **(TINY | {"previews": 4}))
    found = [event for event in events(run) if event["health"] == "diverged"]
    assert len(found) == 2  # 1e-3 and 5e-4 break, 2.5e-4 does not
    assert "(2 of 3 times)" in found[1]["action"] and found[1]["images"] <= 160
    assert [record["lr"] for record in read_log(run) if "lr" in record][-1] == pytest.approx(2.5e-4)
    pictures = ganvas.Generator.load(run).sample(4)
    assert pictures.isfinite().all()
    assert Run(run).saved()[-1].images_seen == 320


def test_after_three_times_training_ends_and_nothing_is_lost(
    often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_after(monkeypatch, images=160, above=0.0)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"diverged at \d+ images after 3 rollbacks; the newest good checkpoint"):
        ganvas.train("digits", run, limit=300, images=320, lr=1e-3, warmup=0.0, **(TINY | {"previews": 4}))
    assert len([event for event in events(run) if event["health"] == "diverged"]) == 3
    assert ganvas.Generator.load(run).sample(4).isfinite().all()


def test_the_log_tells_the_vitals_and_the_best_weights_are_those_of_the_best_score(often: None, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ganvas.train("digits", run, limit=300, images=320, **(TINY | {"previews": 8}))
    scores = {record["images"]: record["score"] for record in read_log(run) if "score" in record}
    assert len(scores) > 5
    best = ganvas.Generator.load(run / "best")
    assert scores[best.info.images_seen] == min(scores.values())
    assert all("d_gap" in record for record in read_log(run) if "score" in record)
    assert np.isfinite(list(scores.values())).all()
