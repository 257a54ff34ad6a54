"""Advice from evidence: each rule is provoked by what a real run would have measured, and stays silent otherwise."""

from __future__ import annotations

import copy
import shlex
from typing import Any

import pytest

from ganvas import cli
from ganvas.config import DataConfig, ModelConfig, TrainConfig, TrainOptions
from ganvas.fields import part
from ganvas.records import typed
from ganvas.reporting.advice import Advice
from ganvas.reporting.advice import advice as advice_for
from ganvas.results import Evaluation
from ganvas.run_config import RunConfig, RunData

Record = dict[str, Any]


IMAGES = DataConfig(size="28")


def config(options: DataConfig = IMAGES, channels: int = 1, **changes: Any) -> RunConfig:
    """Of a compact network on 30,000 labelled digits; changes: asked for, and trained with."""
    chosen = {"model": "compact", "r1": 0.05, "lr": 0.0025, "base": 16, "conditional": True}
    return RunConfig(
        data=RunData(
            source="my images", pack="pack", hash="0" * 64, num_images=32_000, num_heldout=2_000, size="28x28",
            channels=channels, options=options,
        ),
        model=ModelConfig("compact", 28, 28, channels),
        asked=TrainOptions(minutes=10, **changes),
        train=TrainConfig(minutes=10, **(chosen | changes)),
    )  # fmt: skip


def compared(value: float) -> Record:
    """A measure of artefacts."""
    return dict.fromkeys(("value", "low", "high", "real", "generated"), value)


def measure(key: str, value: float, real: float, margin: float = 0.01) -> Record:
    return {"key": key, "value": value, "low": value - margin, "high": value + margin, "real": real}


def evaluation(*measures: Record, **parts: Any) -> Record:
    """A good one, in which `measures` replace those of the same key."""
    good = [
        measure("kid", 0.02, 0.0),
        measure("kid_training", 0.02, 0.0),
        measure("precision", 0.8, 0.85),
        measure("recall", 0.6, 0.85),
        measure("coverage", 0.8, 0.95),
    ]
    found = {row["key"]: row for row in [*good, *measures]}
    return {"measures": list(found.values()), **parts}


def log(scores: list[float], health: str = "", **vitals: float) -> list[Record]:
    """A report and an examination for each score."""
    usual = {"diversity": 0.9, "checkerboard": 1.0, "sharpness": 1.0, "d_gap": 0.3, "near": 0.01}
    records: list[Record] = []
    for i, score in enumerate(scores):
        records.append({"images": 1000 * (i + 1), "loss": 0.6, "seconds": 10.0 * i})
        records.append({"images": 1000 * (i + 1), "score": score, **usual, **vitals})
    return records + (
        [{"images": 1000 * len(scores), "health": health, "words": f"{health} was seen", "action": "act"}]
        if health
        else []
    )


COPIED = {"rate": {"value": 0.2, "low": 0.18, "high": 0.22}, "caught": True}
FALLING = [1 / (i + 1) for i in range(16)]
FLAT = [0.5, 0.2, 0.1, 0.05, 0.03] + [0.02] * 11
SLOWING = [0.5, 0.2, 0.1, 0.05, 0.04, 0.03, 0.025, 0.024, 0.023, 0.022, 0.021, 0.0207, 0.0205, 0.0203, 0.0201, 0.02]


def advice(evaluation: Record | None, log: list[Record], config: RunConfig, run: str = "RUN") -> list[Advice]:
    judged = None if evaluation is None else Evaluation.from_dict(evaluation)
    return advice_for(judged, [*typed(log)], config, run)


def titles(found: list[Advice]) -> list[str]:
    return [one.title for one in found]


def only(found: list[Advice]) -> Advice:
    assert len(found) == 1, titles(found)
    return found[0]


def test_nothing_stands_out_in_a_good_run() -> None:
    assert advice(evaluation(), log(SLOWING), config()) == []


def test_a_run_that_was_not_judged() -> None:
    found = only(advice(None, log(SLOWING), config(), "runs/my run"))
    assert found.command == "ganvas evaluate 'runs/my run'"


def test_under_trained_goes_on_with_a_larger_budget() -> None:
    found = only(advice(evaluation(), log(FALLING), config(), "runs/a"))
    assert found.title == "Train longer"
    assert "0.0833 to 0.0625" in found.evidence
    assert found.command == "ganvas train 'my images' --size 28 --minutes 30 --out runs/a"


def test_a_run_that_is_too_short_is_only_trained_longer() -> None:
    poor = evaluation(measure("precision", 0.2, 0.9), measure("recall", 0.1, 0.9))
    flat = {
        "findings": [{"what": w, "sentence": f"Bad {w}.", "severity": "bad"} for w in ("variety", "tone", "sharpness")]
    }
    found = only(advice(poor | {"artefacts": flat}, log([0.3, 0.2], "collapse", sharpness=0.1), config()))
    assert found.title == "Train longer" and "2,000 images" in found.evidence and "about 6,000 images" in found.evidence
    assert only(advice(poor, log([0.3, 0.2]), config())).title == "Train longer"
    assert advice(evaluation(), log([0.3, 0.2]), config()) == []


def test_a_plateau_is_not_under_trained() -> None:
    assert "Train longer" not in titles(advice(evaluation(), log(FALLING, "plateau"), config()))


@pytest.mark.parametrize(
    ("judged", "vitals", "health", "words"),
    [
        ({"copies": COPIED}, {}, "", "20.0% (18.0% to 22.0%)"),
        ({"kid": 0.02, "kid_training": 0.005}, {}, "", "0.005 to training images and 0.02 to held-out"),
        ({}, {"d_gap": 0.7}, "", "70% of the way"),
        ({}, {}, "copying", "Copying was seen"),
        ({}, {}, "augmentation", "Augmentation was seen"),
    ],
)  # fmt: skip
def test_overfitting_by_each_sign(judged: Record, vitals: Record, health: str, words: str) -> None:
    kids = [measure(key, judged[key], 0.0, 0.001) for key in ("kid", "kid_training") if key in judged]
    found = evaluation(*kids, **({"copies": judged["copies"]} if "copies" in judged else {}))
    one = only(advice(found, log(FALLING, health, **vitals), config()))
    assert one.title == "Overfitting: use more augmentation"
    assert words in one.evidence
    assert "--adaptive" in one.command


def test_copies_within_false_alarms_are_none() -> None:
    copies = {"rate": {"value": 0.02, "low": 0.006, "high": 0.05}, "false_alarms": 0.005, "caught": False}
    assert advice(evaluation(copies=copies), log(SLOWING), config()) == []


def test_held_out_kid_where_training_pictures_are_the_reference() -> None:
    found = evaluation(measure("kid", 0.005, 0.0, 0.001), measure("kid_heldout", 0.02, 0.0, 0.001))
    assert only(advice(found, log(SLOWING), config())).title == "Overfitting: use more augmentation"


def test_too_little_data_where_augmentation_is_spent() -> None:
    found = only(advice(evaluation(), log(SLOWING, d_gap=0.8), config(augment=0.5), "runs/a"))
    assert found.title == "Overfitting: too little data"
    assert found.command == "ganvas train MORE_IMAGES --from runs/a --out runs/a-more"


def test_too_small_a_network() -> None:
    poor = evaluation(measure("precision", 0.4, 0.85))
    found = only(advice(poor, log(FLAT), config()))
    assert found.title == "The network is too small"
    assert "--base 32" in found.command
    assert "--minutes 20" in found.command
    residual = config(model="residual", model_size="M")
    assert "--model-size L" in only(advice(poor, log(FLAT), residual)).command
    assert "The network is too small" not in titles(advice(poor, log(FLAT, d_gap=0.8), config()))


def test_too_much_augmentation() -> None:
    found = only(advice(evaluation(), log(SLOWING, d_gap=0.05), config(augment=0.6)))
    assert found.title == "Augmentation is too strong"
    assert "--augment 0.3" in found.command


def test_augmentation_that_leaks() -> None:
    off = {"findings": [{"what": "tone", "sentence": "Tones are off.", "severity": "bad"}]}
    found = only(advice(evaluation(artefacts=off), log(SLOWING), config(augment=0.6)))
    assert found.title == "Augmentation shows in the samples"
    assert found.evidence.startswith("Tones are off.")
    assert "--augment 0.3" in found.command
    assert advice(evaluation(artefacts=off), log(SLOWING), config(augment=0.1)) == []


def test_collapse() -> None:
    alike = {"findings": [{"what": "variety", "sentence": "Too alike.", "severity": "bad"}]}
    assert only(advice(evaluation(artefacts=alike), log(SLOWING), config())).evidence.startswith("Too alike.")
    found = only(advice(evaluation(measure("recall", 0.1, 0.85)), log(SLOWING), config()))
    assert found.title == "Mode collapse"
    assert "--r1 0.1" in found.command
    assert "--lr 0.00125" in found.command
    classes = {"missing": ["3"], "sentence": "Class 3 is missing."}
    assert "Class 3 is missing." in only(advice(evaluation(classes=classes), log(SLOWING), config())).evidence
    classic = config(preset="dcgan", model="dcgan", loss="bce", r1=0.0)
    found = only(advice(evaluation(), log(SLOWING, "collapse"), classic))
    assert "--loss relativistic" in found.command
    assert "dcgan" not in found.command


@pytest.mark.parametrize(
    ("similar", "collapsed"), [("Images are too similar.", False), ("Generated images repeat.", True)]
)
def test_a_blur_makes_images_similar_and_is_no_collapse(similar: str, collapsed: bool) -> None:
    said = {"variety": similar, "sharpness": "Blurrier than real images."}
    found = {"findings": [{"what": what, "sentence": words, "severity": "bad"} for what, words in said.items()]}
    assert ("Mode collapse" in titles(advice(evaluation(artefacts=found), log(SLOWING), config()))) == collapsed


@pytest.mark.parametrize(
    ("seen", "title"), [([], "Images are blurred"), (FLAT, "Images are blurred"), ([0.3, 0.2], "Train longer")]
)
def test_blur_that_more_training_does_not_remove_has_its_own_advice(seen: list[float], title: str) -> None:
    """Its precision is as low as that of a run that is too short."""
    blurred = [{"what": "sharpness", "sentence": "Blurrier than real images.", "severity": "bad"}]
    artefacts = {"findings": blurred, "sharpness": compared(0.3)}
    poor = evaluation(measure("precision", 0.1, 0.85), artefacts=artefacts)
    assert only(advice(poor, log(seen, sharpness=0.3), config())).title == title
    assert "Images are blurred" not in titles(advice(poor | {"unlike": True}, log(seen, sharpness=0.3), config()))


def test_little_diversity_of_poor_images_is_no_collapse() -> None:
    poor = evaluation(measure("precision", 0.1, 0.85), measure("recall", 0.05, 0.85))
    assert titles(advice(poor, log(FALLING), config())) == ["Train longer"]


def test_divergence() -> None:
    found = only(advice(evaluation(), log(SLOWING, "diverged"), config()))
    assert found.title == "Training is unstable"
    assert "--lr 0.00125" in found.command


def test_checkerboard_artefacts() -> None:
    seen = {"findings": [{"what": "checkerboard", "sentence": "A checkerboard of 4 pixels.", "severity": "bad"}]}
    classic = config(preset="dcgan", model="dcgan")
    found = only(advice(evaluation(artefacts=seen), log(SLOWING), classic))
    assert found.evidence.startswith("A checkerboard of 4 pixels.")
    assert "--model compact" in found.command
    assert "--preset" not in found.command
    assert "--lr 0.00125" in only(advice(evaluation(), log(SLOWING, checkerboard=5.0), config())).command
    fine = {"findings": [{"what": "checkerboard", "sentence": "No checkerboard.", "severity": "ok"}]}
    assert advice(evaluation(artefacts=fine), log(SLOWING), config()) == []


def test_sharpness_counts_when_training_has_ended() -> None:
    assert only(advice(evaluation(), log(SLOWING, sharpness=0.4), config())).title == "Images are blurred"
    assert only(advice(evaluation(), log(SLOWING, sharpness=2.0), config())).title == "Images are noisy"
    assert titles(advice(evaluation(), log(FALLING, sharpness=0.4), config())) == ["Train longer"]
    halved = only(advice(evaluation(), log(SLOWING, sharpness=0.4), config(r1=0.05)))
    assert "--r1 0.025" in halved.command
    features = config(r1=0.0, discriminator="features")
    assert "--discriminator both" in only(advice(evaluation(), log(SLOWING, sharpness=0.4), features)).command


def test_classes() -> None:
    rows = [
        {"name": "<0>", "agreement": 0.4, "confused_with": "8"},
        {"name": "1", "agreement": 0.99, "confused_with": None},
    ]
    classes = {"rows": rows, "worst": "<0>", "agreement": {"value": 0.9, "low": 0.88, "high": 0.92}}
    found = only(advice(evaluation(classes=classes), log(SLOWING), config(), "runs/a"))
    assert "40% of the samples" in found.evidence
    assert "8" in found.evidence
    assert found.command == "ganvas sample runs/a --label '<0>' --n 64 --grid --out class.png"
    for agreement in (None, 0.73):  # of no image, or nearly the mean
        rows[0]["agreement"] = agreement
        assert advice(evaluation(classes=classes), log(SLOWING), config(), "runs/a") == []
    uneven = {"rows": [], "worst": None, "agreement": None, "total_variation": 0.3, "chance": 0.02}
    found = only(advice(evaluation(classes=uneven), log(SLOWING), config(conditional=False)))
    assert found.title == "Class shares differ from the data"
    assert "--conditional" in shlex.split(found.command)
    assert "--no-conditional" not in found.command


def test_marks_and_leaks() -> None:
    marks = [{"file": "a.png", "box": [0, 0, 8, 8], "real_share": 0.6, "generated_share": 0.4}]
    found = only(advice(evaluation(marks=marks), log(SLOWING), config()))
    assert "60%" in found.evidence
    assert "--mask-marks" in found.command
    found = only(advice(evaluation(copies={"leaks": 3}), log(SLOWING), config()))
    assert found.title == "Duplicates in the held-out set"
    assert "--drop-duplicates" in found.command


def test_two_actions_have_folders_of_their_own() -> None:
    """Whoever follows both has two runs, which can be compared."""
    marks = [{"file": "a.png", "box": [0, 0, 8, 8], "real_share": 0.6, "generated_share": 0.4}]
    both = advice(evaluation(marks=marks, copies={"leaks": 3}), log(SLOWING), config(), "runs/a/")
    assert [one.command.partition(" --out ")[2] for one in both] == ["runs/a-drop-duplicates", "runs/a-mask-marks"]
    larger = only(advice(evaluation(measure("precision", 0.4, 0.85)), log(FLAT), config(), "runs/a"))
    assert larger.command.endswith(" --out runs/a-base-minutes")
    rate = only(
        advice(evaluation(), log(SLOWING, checkerboard=5.0, sharpness=9.0), config(), "runs/a")
    )  # of two problems
    assert rate.title == "Checkerboard artefacts" and rate.command.endswith(" --out runs/a-lr")


def test_at_most_two_actions_and_no_contradiction() -> None:
    """Lost diversity asks for a larger penalty, blur for a smaller one: only the diagnosis is given."""
    bad = {
        "findings": [{"what": w, "sentence": f"Bad {w}.", "severity": "bad"} for w in ("variety", "sharpness", "tone")]
    }
    marks = [{"file": "a.png", "box": [0, 0, 8, 8], "real_share": 0.6, "generated_share": 0.4}]
    found = advice(
        evaluation(artefacts=bad, marks=marks, copies={"leaks": 3}), log(SLOWING, sharpness=0.3), config(augment=0.6)
    )
    assert titles(found) == ["Mode collapse", "Duplicates in the held-out set"]


@pytest.mark.parametrize(
    ("name", "vitals"),
    [("collapse", {"diversity": 0.1}), ("copying", {"near": 0.2}), ("checkerboard", {"checkerboard": 5.0})],
)
def test_a_warning_counts_until_later_examinations_show_the_opposite(name: str, vitals: Record) -> None:
    event = {"images": 5000, "health": name, "words": f"{name} was seen", "action": "act"}
    assert (
        f"{name.capitalize()} was seen."
        in only(advice(evaluation(), [*log(SLOWING, **vitals), event], config())).evidence
    )
    assert advice(evaluation(), [*log(SLOWING), event], config()) == []


def test_instability_of_a_run_that_went_on_to_improve_is_over() -> None:
    event = {"images": 2000, "health": "exploding", "words": "exploding was seen", "action": "act"}
    assert advice(evaluation(), [*log(SLOWING), event], config()) == []
    assert only(advice(evaluation(), [*log([0.1] * 16), event], config())).title == "Training is unstable"


def test_every_command_can_be_run() -> None:
    """The command line takes each of them, with the options of the run."""
    options = DataConfig(size="28", classes=("a b", "c"), limit=500, kind="scan")
    asked = config(options, adaptive=True, lr=1e-3, preset="dcgan", augment=0.6)
    mark = {"real_share": 0.6, "generated_share": 0.4}
    classes = {"rows": [{"name": "1", "agreement": 0.1, "confused_with": None}], "worst": "1"}
    classes["agreement"] = {"value": 0.9, "low": 0.8, "high": 1.0}
    cases = [
        advice(None, log(FALLING, "collapse", checkerboard=9.0), asked),
        advice(evaluation(classes=classes, copies=COPIED), log(SLOWING, "diverged", sharpness=9.0), config()),
        advice(evaluation(measure("precision", 0.4, 0.85)), log(FLAT), config(model="residual", model_size="S")),
        advice(evaluation(), log(SLOWING, d_gap=0.05), config(augment=0.6)),
        advice(evaluation(copies=COPIED | {"leaks": 2}, marks=[mark]), log(SLOWING), config(augment=0.6)),
    ]
    commands = [one.command for found in cases for one in found]
    assert len(commands) >= 8
    calls = [cli.parse(shlex.split(command)[1:])[1] for command in commands]
    tried = next(one for one in calls if getattr(one, "classes", ()))
    assert part(tried, DataConfig) == options
    assert tried.adaptive and tried.preset == "dcgan"


def test_the_evidence_is_left_as_it_was() -> None:
    given = (evaluation(copies={"leaks": 1}), log(FALLING, "collapse"), config())
    before = copy.deepcopy(given)
    assert advice(*given)
    assert given == before


def test_good_images_that_share_one_head_are_a_collapse() -> None:
    found = only(advice(evaluation(measure("vendi", 5.5, 33.8, 0.5)), log(SLOWING), config()))
    assert found.title == "Mode collapse" and "The Vendi score is 5.5 (real images: 33.8)." in found.evidence


def test_noise_in_flat_areas_counts_where_sharpness_is_as_usual() -> None:
    seen = {"findings": [{"what": "noise", "sentence": "Noise.", "severity": "bad"}]}
    assert only(advice(evaluation(artefacts=seen), log(SLOWING), config())).title == "Images are noisy"


def test_a_pattern_over_images_is_named_instead_of_a_longer_training() -> None:
    """Faint noise, a checkerboard and blocks lower precision by themselves; noise alone does not resemble the data."""
    for what, title in (("noise", "Images are noisy"), ("blocks", "Blocks of 8 pixels")):
        found = [{"what": what, "sentence": "Seen.", "severity": "bad"}]
        low = measure("precision", 0.1, 0.85)
        judged = evaluation(low, artefacts={"findings": found}, copies={"meaningful": True})
        assert only(advice(judged, [], config())).title == title
        judged = evaluation(low, artefacts={"findings": found}, copies={"meaningful": False})
        assert only(advice(judged, [], config())).title == "Train longer"
        chequered = [*found, {"what": "checkerboard", "sentence": "A checkerboard.", "severity": "bad"}]
        judged = evaluation(
            low,
            artefacts={
                "findings": chequered,
                "sharpness": dict.fromkeys(("value", "low", "high", "real", "generated"), 2.8),
            },
        )
        assert len(advice(judged, [], config())) == 1
        judged = evaluation(measure("recall", 0.1, 0.85), artefacts={"findings": found})
        assert only(advice(judged, [], config())).title == title


def test_images_unlike_a_small_data_set_have_no_value_to_expect() -> None:
    low = measure("precision", 0.02, 0.85) | {"real": None}
    found = only(advice(evaluation(low, unlike=True), [], config()))
    assert found.title == "Train longer" and found.evidence.startswith("Precision is 0.02. This is too early")


def test_copies_that_a_classifier_misreads_are_no_collapse() -> None:
    lacking = {"missing": ["3"], "sentence": "Class missing: 3."}
    found = advice(evaluation(copies=COPIED, classes=lacking), [], config())
    assert found[0].title.startswith("Overfitting")
    assert advice(evaluation(classes=lacking), [], config())[0].title == "Mode collapse"


def test_marks_of_colour_images_are_shown_and_not_masked() -> None:
    marks = [{"file": "a.png", "box": [0, 0, 8, 8], "real_share": 0.6, "generated_share": 0.4}]
    assert advice(evaluation(marks=marks), log(SLOWING), config(channels=3)) == []
