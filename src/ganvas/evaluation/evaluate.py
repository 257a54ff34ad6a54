"""Evaluate a generator: samples, measures with intervals, classes, copies, artefacts.

`evaluate` writes evaluation.json and the folder evaluation/ into the run folder; reports read these files.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

import ganvas
from ganvas.config import DataConfig, from_dict
from ganvas.data.inspection import marks
from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack, Progress, is_pack
from ganvas.errors import CheckpointError, ConfigError, DataError, RunError
from ganvas.evaluation import artefacts, copies, usefulness
from ganvas.evaluation.classifier import judge_of
from ganvas.evaluation.classwise import ClassRow, class_table, expected_shares, missing, mode_coverage
from ganvas.evaluation.feature_cache import features_of
from ganvas.evaluation.features import Features
from ganvas.evaluation.frechet import MINIMUM_FOR_FID, check_fid
from ganvas.evaluation.measures import INCEPTION, Measures, Row, as_row, unlike
from ganvas.generator import Generator, find_weights, to_pixels
from ganvas.image_files import grid, save_png
from ganvas.models.pretrained import pretrained_network
from ganvas.provenance import provenance
from ganvas.run import Run, timestamp
from ganvas.system import files
from ganvas.system.device import choose_device

FORMAT = 1  # version of evaluation.json
NUM = 2_000  # images of each kind; fewer for large images
NUM_LEAST, LEAST = 50, 24  # fewest generated images by default; fewest images of each kind for the measures
DEFAULT_FEATURES = "efficientnet-lite0"
BYTES = 2**29  # most memory for generated images
ENOUGH = 500  # held-out images; with fewer, training images are the reference
SEED = 1_000_000  # of the first sample; previews and evaluations during training use other seeds
SHOWN, CLASSES_SHOWN = 36, 12  # images, or rows of eight, in the grids
CLOSEST = 12  # pairs in the gallery
MARKED, MARKS_SHOWN = 300, 6  # images of each kind searched for marks; marks in the report
CLASSIFIED = 1_000  # images of each kind for the real-vs-generated classifier


Part = TypeVar("Part")


@dataclass(frozen=True)
class Options:
    """Options of an evaluation."""

    features: str | None = None
    """Feature network (judge.features.NETWORKS). Default: efficientnet-lite0, or random if the generator was trained
    with the features of efficientnet-lite0."""
    weights: Path | None = None
    """Weights file of the feature network. Default: the published weights."""
    num: int | None = None
    """Generated images. Default: 2,000 (2,048 for an FID), fewer for large images."""
    seed: int = SEED
    """Seed of the first sample; the next samples use the following seeds."""
    truncation: float = 1.0
    """1: full diversity."""
    usefulness: bool = False
    """Also test whether generated images help to train a classifier. Needs labels."""
    force: bool = False
    """Compute FID even with fewer than 2,048 images; it is flagged as biased."""
    device: str | None = None
    """cpu, cuda or mps. Default: the fastest available."""

    def __post_init__(self) -> None:
        if self.num is not None and self.num < LEAST:
            raise ConfigError(f"--n {self.num}: an evaluation needs at least {LEAST} images")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: expected 0 or more")


def evaluate(
    source: str | Path,
    options: Options | None = None,
    *,
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a run (or, with `data`, any model); write evaluation.json and evaluation/ into its folder.

    data: the training images, if the pack of the run is gone or there is no run.
    Raises `RunError` for a run without a model, `DataError` if the images do not fit or are too few, and the errors of
    `Features.load`.
    """
    options = options or Options()
    report = progress or (lambda what, done, total: None)
    began = time.monotonic()
    folder = Path(source)
    generator = Generator.load(folder, options.device)
    pack = pack_of(folder, generator, data, progress)
    judgement = Judgement(generator, pack, options, report)
    out = folder if folder.is_dir() else folder.parent
    with files.explained(out):
        (out / "evaluation").mkdir(exist_ok=True)
    content = judgement.content(out, weights_hash(folder))
    content["seconds"] = round(time.monotonic() - began, 1)
    files.write_json(out / "evaluation.json", content)
    return content


# ---- data and samples ----


def pack_of(folder: Path, generator: Generator, data: str | Path | None, progress: Progress | None) -> Pack:
    """The training images of the generator, with their held-out part."""
    if (folder / "config.json").is_file() and (folder / "model").is_dir():
        record = Run(folder).config()["data"]
        place, config = pictures_of(record, folder)
        if data is None and is_pack(known := Path(place)) and (pack := Pack.open(known)).hash == record["hash"]:
            return fitting(pack, generator, folder)
        pack = open_pack(data or record["source"], config, progress=progress)
        if pack.hash != record["hash"]:
            raise RunError(
                f"{folder} was trained on other images than {data or record['source']} now contains: "
                "give the original images with --data"
            )
        return fitting(pack, generator, folder)
    if data is None:
        raise RunError(f"{folder} is a model without its run: give its training images with --data")
    shape = generator.info.config
    channels: Any = {1: "gray", 3: "color", 4: "alpha"}[shape.channels]
    wanted = DataConfig(size=f"{shape.height}x{shape.width}", channels=channels)
    pack = Pack.open(Path(data)) if is_pack(Path(data)) else open_pack(data, wanted, progress=progress)
    return fitting(pack, generator, folder)


def pictures_of(record: dict[str, Any], folder: Path) -> tuple[str, DataConfig]:
    """Location of the images of the run `folder` (its pack, if that still exists) and the options of the pack."""
    try:
        options = {**record["options"], "classes": tuple(record["options"]["classes"])}
        place = record["pack"] if is_pack(Path(record["pack"])) else record["source"]
        record["hash"]
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} is damaged: the record of the training images is missing") from error
    return place, from_dict(DataConfig, options, "config.json")


def fitting(pack: Pack, generator: Generator, folder: Path) -> Pack:
    """Return the pack if it fits the generator; otherwise raise `DataError`."""
    model = generator.info.config
    if (pack.height, pack.width, pack.channels) != (model.height, model.width, model.channels):
        raise DataError(
            f"the images are {pack.height}x{pack.width}x{pack.channels} and {folder} generates "
            f"{model.height}x{model.width}x{model.channels}: give its training images with --data"
        )
    if generator.classes and pack.classes != generator.classes:
        raise DataError(f"the images have other classes than {folder}: give its training images with --data")
    if pack.num_training < LEAST:
        raise DataError(f"{pack.num_training} training images are too few: an evaluation needs at least {LEAST}")
    return pack


def weights_hash(folder: Path) -> str:
    return files.sha256(find_weights(folder))[:8]


def drawn(indices: np.ndarray, num: int, seed: int) -> np.ndarray:
    """A random choice of at most `num` indices, sorted; the same for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(indices)[:num])


class Judgement:
    """One generator, its samples, and the real images for comparison.

    The reference is the held-out part if it has 500 images, otherwise the training part (stated in the protocol).
    Measures use a part of the reference and of the samples, see `equal_sets`.
    """

    def __init__(self, generator: Generator, pack: Pack, options: Options, report: Progress) -> None:
        self.generator, self.pack, self.options, self.report = generator, pack, options, report
        bytes_each = pack.height * pack.width * pack.channels * pack.depth // 8
        self.left_out: list[str] = []
        self.unlike = False  # whether the samples resemble no real image in both networks, see `measures`
        self.trained_with = pretrained_network(generator.info.config)
        name = options.features or ("random" if self.trained_with else DEFAULT_FEATURES)
        # Loaded before the samples are made, which takes longer: a wrong name or missing weights are reported at once.
        self.features = Features.load(name, options.device, weights=options.weights, pack=pack)
        self.is_fid = name in INCEPTION and not options.force
        num = options.num or max(NUM_LEAST, min(MINIMUM_FOR_FID if self.is_fid else NUM, BYTES // bytes_each))
        self.split = "held-out" if len(pack.heldout) >= ENOUGH else "training"
        self.heldout = drawn(pack.heldout, num, 0)
        self.training = drawn(pack.training, num, 1)
        self.reference = self.heldout if self.split == "held-out" else self.training
        self.measured, self.others = self.equal_sets(num)
        self.num_measured = num if self.others is None else min(num, len(self.others))
        if self.is_fid:
            check_fid(len(self.measured), self.num_measured)
        self.labels = self.labels_to_ask(num)
        self.samples = self.sample(num)

    def equal_sets(self, num: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The real images of the measures, and other real images for the values to expect (indices).

        Most measures depend on the numbers of images. So the other real images are as many as the generated ones, which
        are drawn down where there are fewer: for a small data set each set has half of the training images. None if
        that is fewer than 50, or than an FID needs: then no value to expect is given.
        """
        least = MINIMUM_FOR_FID if self.is_fid else NUM_LEAST
        if self.split == "held-out":
            return self.heldout, self.training if len(self.training) >= min(num, least) else None
        each = min(num, self.pack.num_training // 2)
        if each < min(num, least):
            return self.training, None
        both = np.random.default_rng(1).permutation(self.pack.training)[: 2 * each]
        return np.sort(both[:each]), np.sort(both[each:])

    def labels_to_ask(self, num: int) -> np.ndarray | None:
        """Labels in the proportions of the training images; None for an unconditional generator."""
        if not self.generator.classes or self.pack.labels is None:
            return None
        shares = np.bincount(self.pack.labels[self.pack.training], minlength=self.pack.num_classes)
        places = np.linspace(0, shares.sum(), num, endpoint=False)
        labels = np.searchsorted(np.cumsum(shares), places, side="right")
        return np.random.default_rng(self.options.seed).permutation(labels)

    def sample(self, num: int) -> np.ndarray:
        """Generated images (num, H, W, C) as uint8 or uint16."""
        pack, options = self.pack, self.options
        samples = np.empty((num, pack.height, pack.width, pack.channels), pack.images.dtype)
        labels = None if self.labels is None else self.labels.tolist()
        done = 0
        for images in self.generator.batches(range(options.seed, options.seed + num), labels, options.truncation):
            if not images.isfinite().all():
                raise CheckpointError("the generator produces values that are not finite: use an earlier model")
            samples[done : done + len(images)] = to_pixels(images, pack.depth)
            done += len(images)
            self.report("sampling", done, num)
        return samples

    # ---- the parts ----

    def content(self, out: Path, weights: str) -> Row:
        """The content of evaluation.json; images are saved in out/evaluation/."""
        rows = self.measures()
        classes, recognised = self.part("Classes", self.classes) or (None, None)
        if recognised is not None:
            rows.append(recognised)
        return {
            "format": FORMAT,
            "ganvas": ganvas.__version__,
            "made": timestamp(),
            "run": out.resolve().name,
            "model": self.model(weights),
            "data": self.data(),
            "protocol": self.protocol(),
            "measures": rows,
            "classes": classes,
            "copies": self.part("Copies", lambda: self.copies(out)),
            "artefacts": dataclasses.asdict(artefacts.examine(self.pack.images[self.reference], self.samples)),
            "marks": self.marks(out),
            "real_or_fake": self.part("Real-vs-generated classifier", lambda: self.real_or_fake(out)),
            "usefulness": self.usefulness() if self.options.usefulness else None,
            "pictures": self.pictures(out),
            "left_out": self.left_out,
        }

    def part(self, name: str, judged: Callable[[], Part | None]) -> Part | None:
        """One part of the evaluation; if the data are insufficient, record why and continue."""
        try:
            return judged()
        except DataError as error:
            self.left_out.append(f"{name}: {error}.")
            return None

    def too_few_held_out(self, least: int) -> str:
        num = len(self.pack.heldout)
        return f"{num or 'no'} images were held out, {least} are needed (use more images or a larger --holdout)"

    # ---- measures ----

    def measures(self) -> list[Row]:
        """The rows of all measures of features."""
        features = self.features
        real, floor = self.real_features(features)
        fake, logits = features.both(self.samples[: self.num_measured])
        measures = self.in_features(features)
        rows = measures.rows(real, floor, fake, logits, self.options.force)
        self.unlike = unlike(real, fake)
        rows.insert(1, self.second_kid("random" if features.name != "random" else DEFAULT_FEATURES))
        if self.split == "training" and len(self.heldout) < LEAST:
            self.left_out.append(f"KID to held-out images: {self.too_few_held_out(LEAST)}.")
        elif self.split == "training":
            held, _ = features_of(features, self.pack, self.heldout, self.report)
            rows.insert(1, measures.other("kid_heldout", "held-out", held, real, fake))
        elif floor is not None:
            rows.insert(1, measures.other("kid_training", "training", floor, real, fake))
        return rows

    def second_kid(self, name: str) -> Row:
        """KID in the features of another kind of network, because one network alone can mislead."""
        features = Features.load(name, self.options.device, pack=self.pack)
        real, floor = self.real_features(features)
        fake = features(self.samples[: self.num_measured])
        self.unlike = self.unlike and unlike(real, fake)
        return self.in_features(features).second(real, floor, fake)

    def in_features(self, features: Features) -> Measures:
        sampling = f"seed {self.options.seed}, truncation {self.options.truncation:g}, EMA weights"
        return Measures(features, sampling, self.split, len(self.measured), self.num_measured, self.trained_with)

    def real_features(self, features: Features) -> tuple[np.ndarray, np.ndarray | None]:
        """Features of the two sets of real images of `equal_sets`."""
        real, _ = features_of(features, self.pack, self.measured, self.report)
        if self.others is None:
            return real, None
        return real, features_of(features, self.pack, self.others, self.report)[0]

    # ---- classes ----

    def classes(self) -> tuple[Row, Row | None] | None:
        """The results by class and, for a conditional generator, the class accuracy."""
        pack = self.pack
        if pack.labels is None or pack.num_classes < 2:
            return None
        judge = judge_of(pack, self.options.device, self.report)
        features = Features.load("classifier", self.options.device, pack=pack)
        real, _ = features_of(features, pack, self.reference, self.report)
        fake, logits = features.both(self.samples)
        found = logits.argmax(axis=1)
        labels = pack.labels[self.reference]
        table = class_table(pack.classes, labels, found, self.labels, real, fake)
        every = pack.labels[pack.training]  # because the reference may lack rare classes
        shares = np.bincount(every, minlength=pack.num_classes) / len(every)
        modes = mode_coverage(found, shares)
        alien = unlike(real, fake)
        lacking = [] if alien else missing(found, expected_shares(shares, judge.confusion))
        accuracy = judge.accuracy
        tested = f"{judge.num_tested:,} held-out images"
        name = f"a classifier trained on real images (accuracy {accuracy.value:.1%} on {tested})"
        rows = [
            {
                "name": row.name,
                "real_share": row.real,
                "generated_share": row.fake.value,
                "generated_low": row.fake.low,
                "generated_high": row.fake.high,
                "kid": None if row.kid is None else row.kid.value,
                "agreement": None if row.agreement is None else row.agreement.value,
                "confused_with": row.taken_for,
                "num": int((found == i).sum() if self.labels is None else (self.labels == i).sum()),
            }
            for i, row in enumerate(table.rows)
        ]
        content = {
            "rows": rows,
            "total_variation": table.distance.value,
            "chance": table.chance,
            "agreement": None if table.agreement is None else table.agreement._asdict(),
            "worst": table.worst,
            "judged": not alien,
            "missing": [pack.classes[i] for i in lacking],
            "sentence": "Classes cannot be evaluated: the generated images do not resemble the data."
            if alien
            else in_words([table.rows[i] for i in lacking]),
            "modes": {"covered": modes.covered._asdict(), "of": modes.of, "kl": modes.divergence._asdict()},
            "judge": name,
        }
        if table.agreement is None:
            return content, None
        meaning = f"Share of generated images that {name} assigns to the requested class."
        protocol = f"n = {len(found):,}, classifier {judge.hash[:8]} trained on {judge.num_trained:,} training images"
        measure = as_row(
            "accuracy_asked", "Class accuracy", table.agreement, "higher", accuracy.value, meaning, protocol
        )
        return content, measure

    # ---- copies ----

    def copies(self, out: Path) -> Row:
        """The copy rate and the closest pairs. Raises `DataError` if too few images were held out."""
        pack = self.pack
        if len(pack.heldout) < copies.LEAST:
            raise DataError(self.too_few_held_out(copies.LEAST))
        finder = copies.CopyFinder(pack, self.report)
        judged = finder.judge(self.samples, self.unlike)
        shown = np.argsort(judged.found.score)[:CLOSEST]
        rows = []
        for i, sample in enumerate(shown):
            place = judged.found.nearest[sample]
            path = f"evaluation/closest-{i:02}.png"
            save_png(out / path, grid(np.stack([self.samples[sample], pack.images[place]]), 2))
            rows.append(
                {
                    "file": path,
                    "seed": self.options.seed + int(sample),
                    "label": None if self.labels is None else pack.classes[self.labels[sample]],
                    "training": pack.names[place],
                    "score": float(judged.found.score[sample]),
                    "copy": bool(judged.copies[sample]),
                    "alteration": judged.found.moved[sample],
                }
            )
        return {
            "num": len(self.samples),
            "rate": judged.rate._asdict(),
            "caught": judged.caught,
            "meaningful": judged.meaningful,
            "false_alarms": finder.false_alarms.value,
            "threshold": finder.threshold,
            "authenticity": judged.authenticity._asdict(),
            "closer_than_heldout": judged.closer._asdict(),
            "training_duplicates": finder.duplicates,
            "leaks": finder.leaks,
            "sentence": judged.sentence,
            "closest": rows,
        }

    # ---- artefacts ----

    def marks(self, out: Path) -> list[Row]:
        """Marks burned into the real images: their shares in real and generated images, and an example."""
        real = self.pack.images[drawn(self.reference, MARKED, 5)]
        rows = []
        for i, mark in enumerate(marks.marks(real)[:MARKS_SHOWN]):
            number, (top, left, height, width) = next(iter(mark.places.items()))
            tall, wide = self.pack.height, self.pack.width
            box = [int(top * tall), int(left * wide), max(1, round(height * tall)), max(1, round(width * wide))]
            margin = max(box[2:]) // 2
            y, x = max(0, box[0] - margin), max(0, box[1] - margin)
            crop = real[number, y : box[0] + box[2] + margin, x : box[1] + box[3] + margin]
            path = f"evaluation/mark-{i:02}.png"
            save_png(out / path, crop)
            found = marks.share(mark, self.samples[:MARKED])
            rows.append({"file": path, "box": box, "real_share": mark.share, "generated_share": found})
        return rows

    def real_or_fake(self, out: Path) -> Row:
        found = usefulness.real_or_fake(
            self.pack.images[drawn(self.reference, CLASSIFIED, 3)],
            self.samples[:CLASSIFIED],
            mirror=self.pack.mirror,
            device=self.generator.device,
            progress=self.report,
        )
        pixels = (255 * found.map[:, :, None]).round().astype(np.uint8)
        save_png(out / "evaluation" / "real-or-fake.png", pixels)
        return {
            "accuracy": found.accuracy._asdict(),
            "map": "evaluation/real-or-fake.png",
            "sentence": found.sentence,
        }

    def usefulness(self) -> Row:
        """Whether generated images in addition to real images improve a classifier."""
        pack, labels = self.pack, self.labels
        if pack.labels is None or labels is None:
            raise ConfigError("--usefulness needs a conditional generator: train on a folder with class subfolders")
        found = usefulness.usefulness(
            pack.images[self.training],
            pack.labels[self.training],
            self.samples,
            labels,
            pack.images[self.heldout],
            pack.labels[self.heldout],
            pack.num_classes,
            kind=pack.kind,
            mirror=pack.mirror,
            device=self.generator.device,
            progress=self.report,
        )
        return {
            "rows": [{"name": name, "accuracy": value._asdict()} for name, value in found.accuracy.items()],
            "differences": {name: value._asdict() for name, value in found.difference.items()},
            "sentence": found.sentence,
            "seeds": found.seeds,
        }

    # ---- image grids ----

    def pictures(self, out: Path) -> Row:
        """Save grids of real and generated images: the first seeds, uncurated; one row per class if labelled."""
        real, fake, columns = drawn(self.reference, SHOWN, 4), np.arange(min(SHOWN, len(self.samples))), 6
        per_class = self.labels is not None and self.pack.labels is not None
        if self.labels is not None and self.pack.labels is not None:
            columns, rows = 8, min(self.pack.num_classes, CLASSES_SHOWN)
            every = self.pack.training
            real = np.concatenate([first(every[self.pack.labels[every] == i], columns) for i in range(rows)])
            fake = np.concatenate([first(np.flatnonzero(self.labels == i), columns) for i in range(rows)])
        save_png(out / "evaluation" / "real.png", grid(self.pack.images[real], columns))
        seeds = [self.options.seed + int(i) for i in fake]
        told = provenance(self.generator.hash, {"seeds": seeds, "truncation": self.options.truncation})
        save_png(out / "evaluation" / "generated.png", grid(self.samples[fake], columns), told)
        note = f"uncurated, first seeds from {self.options.seed:,}" + (", one row per class" if per_class else "")
        return {
            "real": "evaluation/real.png",
            "generated": "evaluation/generated.png",
            "per_class": per_class,
            "note": note,
        }

    # ---- provenance ----

    def model(self, weights: str) -> Row:
        info = self.generator.info
        shape = {name: getattr(info.config, name) for name in ("model", "height", "width", "channels")}
        return shape | {"images_seen": info.images_seen, "weights": weights}

    def data(self) -> Row:
        pack = self.pack
        return {
            "source": pack.record.request["name"],
            "hash": pack.hash,
            "num_training": pack.num_training,
            "num_heldout": len(pack.heldout),
            "classes": pack.classes,
            "licence": pack.record.licence,
            "attribution": pack.record.attribution,
        }

    def protocol(self) -> Row:
        return {
            "num_real": len(self.measured),
            "num_generated": self.num_measured,
            "split": self.split,
            "seed": self.options.seed,
            "truncation": self.options.truncation,
            "ema": "moving average of the weights, as saved",
            "features": self.features.protocol,
            "trained_with": self.trained_with,
            "machine": f"{platform.machine()}, {choose_device(self.options.device).name}",
            "versions": {
                "ganvas": ganvas.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }


def in_words(missing: list[ClassRow]) -> str:
    """A sentence about the classes that the generator lacks."""
    if not missing:
        return "No class is clearly missing."
    each = [
        f"{row.name} ({row.fake.value:.1%}, {row.fake.low:.1%} to {row.fake.high:.1%}; in the data {row.real:.1%})"
        for row in missing
    ]
    return f"{'Classes' if len(each) > 1 else 'Class'} missing or rare among the generated images: {', '.join(each)}."


def first(indices: np.ndarray, num: int) -> np.ndarray:
    """The first `num` indices, repeated if there are fewer."""
    return np.resize(indices, num)
