"""Which findings of an evaluation appear for real images and for planted faults, and do any contradict each other?

    python benchmarks/scenarios.py DATA --sets mnist celeba --nums 300 --json benchmarks/results/scenarios.json

DATA is a folder with mnist/, mednist/, celeba/, comic_faces/ and chest_xray/. Of each set a pack of --nums images is
evaluated with 200 other images in the role of the generated ones, as they are (--draws times) or with one planted
fault. A row of the table is a scenario: which finding must appear and did not ("missed"), which must not appear and did
("false"), and which two statements of the evaluation and its advice contradict each other ("contradictions"). The
real-vs-generated classifier and the marks are left out: they take time, and no finding depends on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from common import machine, table, write_json
from copies import ALTERATIONS, PAIRINGS, SETS, clipped, closely_cropped, compressed, hue_turned, resized, rotated
from ganvas.config import DataConfig, ModelConfig, TrainConfig, TrainOptions
from ganvas.data import Pack, open_pack
from ganvas.evaluation.evaluate import Evaluator
from ganvas.evaluation.samples import FromGenerator
from ganvas.generator import Generator, to_pixels
from ganvas.model_file import ModelInfo
from ganvas.models import build
from ganvas.options import Evaluate
from ganvas.reporting.advice import advice
from ganvas.results import Artefacts, ClassResults, CopyResults, Evaluation, Interval, MarkResult, TellingApart
from ganvas.run_config import RunConfig
from ganvas.training.session import data_of

GENERATED, LEAST = 200, 50  # images that play the generated ones; fewest for a row
HELD_OUT = 20  # fewest held-out images for a search for copies
MEASURES = ("kid", "kid_second", "precision", "recall")  # in the table, for the sensitivity of each to a fault
APPEARANCE = {"checkerboard", "spectrum", "sharpness", "noise", "tone", "variety", "blank", "saturated", "diverse"}
Rng = np.random.Generator


class Drawn(FromGenerator):
    """A generator that gives these images (M, H, W, C)."""

    def __init__(self, pack: Pack, images: np.ndarray, asked: Evaluate) -> None:
        self.given = images
        super().__init__(untrained(pack), asked)

    def pixels(self, pack: Pack, num: int, labels: np.ndarray | None, report: Any) -> np.ndarray:
        return self.given


class WithoutClassifier(Evaluator):
    """An evaluation without the real-vs-generated classifier and the search for burned-in marks."""

    def real_or_fake(self, out: Path) -> TellingApart:
        return TellingApart()

    def marks(self, out: Path) -> list[MarkResult]:
        return []


def untrained(pack: Pack) -> Generator:
    config = ModelConfig("mlp", pack.height, pack.width, pack.channels, z_dim=8, base=8)
    return Generator(build(config)[0], ModelInfo(config))


# ---- what an evaluation says ----


def findings(content: Evaluation, titles: list[str], *severities: str) -> set[str]:
    """Names of what an evaluation and its advice found."""
    found = {one.what for one in (content.artefacts or Artefacts()).findings if one.severity in severities}
    copies, classes = content.copies or CopyResults(), content.classes or ClassResults()
    found |= {"copies"} if copies.caught else set()
    found |= {"unlike the data"} if content.unlike or not copies.meaningful else set()
    found |= {"missing"} if classes.missing else set()
    return found | ({"collapsed"} if "Mode collapse" in titles else set())


def advised(content: Evaluation, pack: Pack) -> list[str]:
    """Titles of the advice for a run that gave these images and has no log."""
    config = RunConfig(
        data=data_of(pack, "images"),
        model=ModelConfig("light", pack.height, pack.width, pack.channels),
        asked=TrainOptions(minutes=10),
        train=TrainConfig(minutes=10, r1=0.1, lr=0.002, augment=0.2, base=16),
    )
    return [one.title for one in advice(content, [], config)]


def contradictions(content: Evaluation, titles: list[str]) -> Iterator[str]:
    """Pairs of statements that cannot both hold, or of actions that undo each other."""
    said = {one.what: one for one in (content.artefacts or Artefacts()).findings}
    fine = {what for what, one in said.items() if one.severity == "ok"}
    bad = findings(content, titles, "bad")
    copies, advice = content.copies or CopyResults(), " | ".join(titles)
    sentence, authentic = copies.sentence, copies.authenticity or Interval(0.5, 0.0, 1.0)
    blurred = said["sharpness"].sentence.startswith("Blurrier")
    sharp, plain = said["sharpness"].sentence.startswith("As sharp"), said["spectrum"].sentence
    similar = content.measure("precision")
    pairs = {
        "as sharp as real images, but too little fine structure": sharp and "Too little fine" in plain,
        "as sharp as real images, but noise": sharp and said["noise"].severity != "ok",
        "blurred, but too much fine structure": blurred and "Too much fine" in plain,
        "no checkerboard, but a pattern of single pixels": "checkerboard" in fine and "checkerboard" in advice.lower(),
        "no sign of copying, but advice about copies": sentence.startswith("no sign") and "Overfitting" in advice,
        "copies, but authentic": copies.caught and authentic.low > 0.9,
        "no sign of copying, but not authentic": sentence.startswith("no sign") and authentic.high < 0.5,
        "unlike the data, but precise": "unlike the data" in bad and similar.low > 0.5,
        "unlike the data, but classes are missing": {"unlike the data", "missing"} <= bad,
        "unlike the data, but no diagnosis": "unlike the data" in bad and not titles,
        "diverse, but repeated or collapsed": "variety" in fine and "collapsed" in bad and "missing" not in bad,
        "a pattern and noise": "noisy" in advice and ("Checkerboard" in advice or "Blocks" in advice),
        "blurred and noisy": "blurred" in advice and "noisy" in advice,
        "collapsed, but train longer": "Mode collapse" in advice and "Train longer" in advice,
        "a pattern of single pixels, but advice about blur": "noise" in bad and "blurred" in advice,
        "more than two actions": len(titles) > 2,
        "noise or blocks, but train longer": {"noise", "blocks"} <= bad and "Train longer" in advice,
        "checkerboard, but noisier than real images": "checkerboard" in bad
        and said["sharpness"].sentence.startswith("Noisier"),
    }
    yield from (pair for pair, both in pairs.items() if both)


# ---- scenarios: images, random numbers -> the generated images ----


def blurred(images: np.ndarray) -> np.ndarray:
    return clipped(ndimage.gaussian_filter(images.astype(float), (0, 1.2, 1.2, 0)))


def checkered(images: np.ndarray) -> np.ndarray:
    return clipped(images + 8.0 * (np.indices(images.shape[1:3]).sum(axis=0) % 2)[..., None] - 4)


def each(change: Callable[[np.ndarray, Rng], np.ndarray]) -> Callable[[np.ndarray, Rng], np.ndarray]:
    return lambda images, rng: np.stack([change(one, rng) for one in images])


def paired(pairing: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray, Rng], np.ndarray]:
    def change(images: np.ndarray, rng: Rng) -> np.ndarray:
        others = images[rng.permutation(len(images))]
        return np.stack([pairing(one, other) for one, other in zip(images, others, strict=True)])

    return change


Change = Callable[[np.ndarray, Rng], np.ndarray]
OF_UNSEEN: dict[str, tuple[Change, set[str]]] = {
    "blurred": (lambda images, rng: blurred(images), {"sharpness"}),
    "noisy": (lambda images, rng: clipped(images + rng.normal(0, 10, images.shape)), {"noise"}),
    "faintly noisy": (lambda images, rng: clipped(images + rng.normal(0, 5, images.shape)), {"noise"}),
    "jpeg": (each(lambda image, rng: compressed(image, rng, 20)), {"blocks"}),
    "brighter": (lambda images, rng: clipped(images + 40.0), {"tone"}),
    "hue": (each(hue_turned), {"tone"}),
    "checkerboard": (lambda images, rng: checkered(images), {"checkerboard"}),
    "50 repeated": (lambda images, rng: np.resize(rng.permutation(images)[:50], images.shape), {"variety"}),
    "flat": (lambda images, rng: np.broadcast_to(images[:, :1, :1], images.shape), {"unlike the data"}),
    "static": (lambda images, rng: rng.integers(0, 256, images.shape, np.uint8), {"unlike the data"}),
}
OF_TRAINING: dict[str, tuple[Change, set[str]]] = {
    "copies": (lambda images, rng: images, {"copies"}),
    "mirrored copies": (lambda images, rng: images[:, :, ::-1], {"copies"}),
    "cropped copies": (each(closely_cropped), {"copies"}),
    "rotated copies": (each(rotated), {"copies"}),
    "blended copies": (paired(PAIRINGS["blend"]), {"copies"}),
    "averages of two": (paired(lambda one, other: clipped(0.5 * one + 0.5 * other)), {"copies"}),
    "collaged copies": (paired(PAIRINGS["collage"]), {"copies"}),
    "negative copies": (each(ALTERATIONS["negative"]), {"copies"}),
}
OTHERS = ("half copies", "one class missing", "another data set", "untrained network")
SCENARIOS = ("real", *OF_UNSEEN, *OF_TRAINING, *OTHERS)
ALIEN = {"flat", "static", "another data set", "untrained network"}


def cases(
    pack: Pack, unseen: np.ndarray, labels: np.ndarray | None, other: np.ndarray, rng: Rng
) -> Iterator[tuple[str, Callable[[], np.ndarray], set[str]]]:
    """(scenario, its images, findings that it must have).

    unseen: real images that are not in the pack, with their labels. other: images of another data set.
    """
    num = len(unseen)
    training = np.asarray(pack.images[rng.permutation(pack.training)[:num]])
    for name, (change, must) in OF_UNSEEN.items():
        if name != "hue" or pack.channels > 1:
            yield name, (lambda change=change: change(unseen, rng)), must
    for name, (change, must) in OF_TRAINING.items():
        yield name, (lambda change=change: change(training, rng)), must
    yield "half copies", lambda: np.concatenate([training[: num // 2], unseen[: num // 2]]), {"copies"}
    if labels is not None:
        yield "one class missing", lambda: unseen[labels != labels[0]], {"missing"}
    yield "another data set", lambda: other, {"unlike the data"}
    yield "untrained network", lambda: pixels_of(untrained(pack), num), {"unlike the data"}


def pixels_of(generator: Generator, num: int) -> np.ndarray:
    """Images (num, H, W, C) of the first seeds."""
    return np.concatenate([to_pixels(part) for part in generator.batches(range(num))])


def allowed(name: str, must: set[str]) -> set[str]:
    """Findings that may appear beside those that must, of which there are none for copies that cannot be searched."""
    match name:
        case "another data set":  # may have faults of its own
            return must | APPEARANCE | {"collapsed", "blocks"}
        case "blended copies" if not must:  # are less diverse than the images they are made of
            return APPEARANCE | {"collapsed"}
        case "real" | "copies" | "half copies":
            return must
        case "one class missing":
            return must | {"collapsed"}
        case "mirrored copies":  # of digits are no digits
            return must | {"missing"}
        case "averages of two" | "50 repeated":
            return must | {"collapsed", "missing", *APPEARANCE}
        case _ if name in ALIEN:
            return must | APPEARANCE | {"collapsed"}
        case _:
            return must | APPEARANCE


def judged(pack: Pack, images: np.ndarray) -> tuple[set[str], set[str], list[str], list[str], dict[str, float]]:
    """What is found, what of it is bad, the titles of the advice, contradictions, and values of measures."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "evaluation").mkdir()
        source = Drawn(pack, np.ascontiguousarray(images), Evaluate("", n=len(images)))
        content = WithoutClassifier(source, pack, source.asked, lambda what, done, total: None).content(Path(folder))
    titles = advised(content, pack)
    found, bad = findings(content, titles, "bad", "note"), findings(content, titles, "bad")
    values = {key: content.measure(key).value for key in MEASURES}
    return found, bad, titles, [*contradictions(content, titles)], values


def every(name: str, data: Path) -> Pack:
    path, size, _ = SETS[name]
    return open_pack(data / path, DataConfig(size=size))


def like(pack: Pack, images: np.ndarray) -> np.ndarray:
    """Images of another data set in the size and colours of `pack`."""
    images = np.stack([resized(image, pack.height, pack.width) for image in images])
    if images.shape[3] != pack.channels:
        mean = images.mean(axis=3, keepdims=True)
        images = clipped(np.repeat(mean, pack.channels, axis=3))
    return images


def scenarios(
    name: str, data: Path, num: int, chosen: list[str], draws: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """The rows of one set with a pack of `num` of its images."""
    whole, other = every(name, data), every("comics" if name != "comics" else "celeba", data)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(whole.images))
    mine, others = np.sort(order[:num]), order[num:]
    if len(others) < LEAST:
        print(f"{name} is left out with {num} images: {len(others)} others are too few")
        return
    with tempfile.TemporaryDirectory() as folder:
        content = {"images": whole.images[mine]} | ({} if whole.labels is None else {"labels": whole.labels[mine]})
        np.savez(Path(folder) / "images.npz", allow_pickle=False, **content)
        pack = open_pack(Path(folder) / "images.npz", DataConfig(kind=whole.kind), folder=Path(folder) / "pack")
        planted: list[tuple[str, Callable[[], np.ndarray], set[str]]] = []
        for _ in range(draws):
            drawn = np.sort(rng.permutation(others)[:GENERATED])
            planted.append(("real", lambda drawn=drawn: whole.images[drawn], set()))
        unseen = np.sort(others[:GENERATED])
        labels = None if whole.labels is None else whole.labels[unseen]
        alien = like(pack, other.images[rng.permutation(len(other.images))[: len(unseen)]])
        planted += cases(pack, np.asarray(whole.images[unseen]), labels, alien, rng)
        for scenario, images, must in planted:
            if scenario not in chosen:
                continue
            began = time.process_time()
            found, bad, titles, pairs, values = judged(pack, images())
            must = must - ({"copies"} if len(pack.heldout) < HELD_OUT else set())
            missed, false = must - found, (found if scenario == "real" else bad) - allowed(scenario, must)
            result: dict[str, Any] = {"data": name, "images": num, "scenario": scenario}
            result |= {key: ", ".join(sorted(one)) or "-" for key, one in (("missed", missed), ("false", false))}
            result |= {"contradictions": "; ".join(pairs) or "-", "found": ", ".join(sorted(found)) or "-"}
            result |= {"advice": "; ".join(titles) or "-"} | {
                key: float(f"{value:.3g}") for key, value in values.items()
            }
            yield result | {"cpu s": round(time.process_time() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--nums", nargs="+", type=int, default=[300])
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--draws", type=int, default=1, help="sets of real images")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    for num in asked.nums:
        for name in asked.sets:
            for result in scenarios(name, asked.data, num, asked.scenarios, asked.draws):
                rows.append(result)
                print(*result.values(), sep="; ", flush=True)
                if asked.json:  # after each, because all of them take hours
                    write_json(asked.json, {"machine": machine("torch", "numpy"), "rows": rows})
    table("Findings of planted faults", rows)


if __name__ == "__main__":
    main()
