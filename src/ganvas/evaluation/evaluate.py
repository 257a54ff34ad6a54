"""Evaluate generated images: measures with intervals, classes, copies, artefacts.

`evaluate` and `evaluate_images` write evaluation.json and the folder evaluation/; reports read these files.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy import ndimage

import ganvas
from ganvas import hub
from ganvas.config import CHANNELS, DataConfig
from ganvas.data.inspection import marks
from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack, Progress
from ganvas.errors import ConfigError, DataError, amount
from ganvas.evaluation import artefacts, condition_agreement, copies, two_sample, usefulness
from ganvas.evaluation.classifier import classifier_for
from ganvas.evaluation.classwise import class_table, expected_shares, missing, mode_coverage
from ganvas.evaluation.feature_cache import IMAGES_AT_A_TIME, features_of
from ganvas.evaluation.features import Features
from ganvas.evaluation.frechet import MINIMUM_FOR_FID, check_fid
from ganvas.evaluation.measures import INCEPTION, Measures, as_row, feature_map, unlike
from ganvas.evaluation.overall import AREAS, CLASSIFIER, GRIDS, SECONDS, USEFULNESS, Overall, WholeProgress
from ganvas.evaluation.samples import FromGenerator, ImageSamples, Samples, pack_of
from ganvas.fields import part
from ganvas.generator import Generator
from ganvas.image_files import grid, save_png
from ganvas.options import LEAST_EVALUATED, Evaluate
from ganvas.results import (
    Artefacts,
    ClassResult,
    ClassResults,
    CopyResults,
    DataFacts,
    Evaluation,
    FeatureMap,
    Grids,
    MarkResult,
    Measure,
    Protocol,
    TellingApart,
    UsefulnessResults,
)  # fmt: skip
from ganvas.run import timestamp
from ganvas.system import files
from ganvas.system.device import choose_device

_NUM = 2_000  # images of each kind; fewer for large images
_NUM_LEAST = 50  # fewest generated images by default
DEFAULT_FEATURES = "efficientnet-lite0"
_BYTES = 2**29  # most memory for generated images
ENOUGH_HELD_OUT = 500  # held-out images; with fewer, training images are the reference
_SHOWN, CLASSES_SHOWN = 36, 12  # images, or rows of eight, in the grids
_CLOSEST = 12  # pairs in the gallery
_BLURRED, _BLUR = 200, 1.5  # blur of `resembles_nothing`: images of each kind; pixels, for images of up to 64 pixels
_MARKED, _MARKS_SHOWN = 300, 6  # images of each kind searched for marks; marks in the report
_CLASSIFIED = 1_000  # images of each kind for the real-vs-generated classifier
_STEPS = {"Measures": 3, "Classes": 3, "Conditions": 2, "Copies": 3, "Real-vs-generated classifier": 4}
"""Counted steps of each part of an evaluation; 1 for the others."""


_Part = TypeVar("_Part")


def evaluate(asked: Evaluate, progress: Progress | None = None, overall: Overall | None = None) -> Evaluation:
    """Evaluate a run (or, with `data`, any model); write evaluation.json and evaluation/ into its folder.

    progress: called while the images are read and, without `overall`, during each step. overall: called with the
    progress of the whole evaluation.
    Raises `RunError` for a run without a model, `DataError` if the images do not fit or are too few, and the errors of
    `Features.load`.
    """
    folder = hub.local(asked.source)
    generator = Generator.load(folder, asked.device)
    pack = pack_of(folder, generator, asked.data, progress)
    out = folder if folder.is_dir() else folder.parent
    if asked.out is not None:
        out = Path(asked.out)
    elif (name := hub.hub_name(asked.source)) is not None:  # not into the cache
        out = Path(f"{name.repo.rpartition('/')[2]}-evaluation")
    return _written(FromGenerator(generator, asked, folder), pack, asked, out, progress, overall)


def evaluate_images(asked: Evaluate, progress: Progress | None = None, overall: Overall | None = None) -> Evaluation:
    """Evaluate the images of a folder or archive against those of another one; write evaluation.json and evaluation/.

    Raises `DataError` if there are too few images, ConfigError for more images than there are (--n).
    """
    assert asked.against is not None
    made = open_pack(asked.source, DataConfig(size=asked.size, holdout=0), progress=progress)
    size, channels = f"{made.height}x{made.width}", CHANNELS[made.channels]
    pack = open_pack(asked.against, DataConfig(size=size, channels=channels), progress=progress)
    for images, place in ((made, asked.source), (pack, asked.against)):
        if images.num_training < LEAST_EVALUATED:
            raise DataError(
                f"{place} has {amount(images.num_training, 'image')}: an evaluation needs at least {LEAST_EVALUATED}"
            )
    source = Path(asked.source)
    out = Path(asked.out) if asked.out is not None else source.with_name(f"{source.name.split('.')[0]}-evaluation")
    return _written(ImageSamples(made, asked), pack, asked, out, progress, overall)


def _written(
    source: Samples, pack: Pack, asked: Evaluate, out: Path, progress: Progress | None, overall: Overall | None = None
) -> Evaluation:
    """Evaluate, and write the result into the folder `out`."""
    began = time.monotonic()
    judgement = Evaluator(source, pack, asked, progress or (lambda what, done, total: None), overall)
    _ = judgement.samples  # made before anything is written, and first, as the progress expects
    with files.explained(out):
        (out / "evaluation").mkdir(exist_ok=True, parents=True)
    evaluation = dataclasses.replace(judgement.content(out), seconds=round(time.monotonic() - began, 1))
    files.write_json(out / "evaluation.json", evaluation.to_dict())
    return evaluation


def drawn_indices(indices: np.ndarray, num: int, seed: int) -> np.ndarray:
    """A random choice of at most `num` indices, sorted; the same for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(indices)[:num])


class Evaluator:
    """Generated images, and the real images for comparison.

    The reference is the held-out part if it has 500 images, otherwise the training part (stated in the protocol).
    Measures use a part of the reference and of the samples, see `equal_sets`.
    """

    def __init__(
        self, source: Samples, pack: Pack, options: Evaluate, report: Progress, overall: Overall | None = None
    ) -> None:
        self.source, self.pack, self.options = source, pack, options
        self.progress = WholeProgress(report, overall)
        self.report = self.progress.step
        bytes_each = pack.height * pack.width * pack.channels * pack.depth // 8
        self.left_out: list[str] = []
        self.map: FeatureMap | None = None  # see `measures`
        self.unlike = False  # whether the samples resemble no real image
        self.trained_with = source.trained_with
        name = options.features or ("random" if self.trained_with else DEFAULT_FEATURES)
        weights = None if options.weights is None else Path(options.weights)
        # Loaded before the samples are made, which takes longer: a wrong name or missing weights are reported at once.
        self.features = Features.load(name, options.device, weights=weights, pack=pack)
        self.networks = {name: self.features}
        self.third = name not in (DEFAULT_FEATURES, "random")  # whether `resembles_nothing` needs a third network
        self.known: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # by network: features and logits of the samples
        self.is_fid = name in INCEPTION and not options.force
        usual = max(_NUM_LEAST, min(MINIMUM_FOR_FID if self.is_fid else _NUM, _BYTES // bytes_each))
        num = options.n or min(usual, source.most or usual)
        self.split = "held-out" if len(pack.heldout) >= ENOUGH_HELD_OUT else "training"
        self.heldout = drawn_indices(pack.heldout, num, 0)
        self.training = drawn_indices(pack.training, num, 1)
        self.reference = self.heldout if self.split == "held-out" else self.training
        self.measured, self.others = self.equal_sets(num)
        self.num_measured = num if self.others is None else min(num, len(self.others))
        if self.is_fid:
            check_fid(len(self.measured), self.num_measured)
        self.labels = source.labels(pack, num)
        if options.usefulness and (pack.labels is None or self.labels is None):
            raise ConfigError(
                "--usefulness needs classes: train on a folder with class subfolders, or with --against use the same "
                "class subfolders for generated and real images"
            )
        self.conditions = source.conditions(pack, num)
        self.progress.plan(self.expected(num))
        self.num = num

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """The generated images (M, H, W, C), made at the first use."""
        self.progress.begin("Sampling")
        wanted = self.labels if self.conditions is None else self.conditions
        return self.source.pixels(self.pack, self.num, wanted, self.report)

    def equal_sets(self, num: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The real images of the measures, and other real images for the values to expect (indices).

        Most measures depend on the numbers of images, so there are as many other real images as generated ones; if
        there are fewer, fewer generated images are measured. For a small data set each set has half of the training
        images. None if that is fewer than 50, or than an FID needs: then no value to expect is given.
        """
        least = MINIMUM_FOR_FID if self.is_fid else _NUM_LEAST
        if self.split == "held-out":
            return self.heldout, self.training if len(self.training) >= min(num, least) else None
        each = min(num, self.pack.num_training // 2)
        if each < min(num, least):
            return self.training, None
        both = np.random.default_rng(1).permutation(self.pack.training)[: 2 * each]
        return np.sort(both[:each]), np.sort(both[each:])

    def expected(self, num: int) -> dict[str, float]:
        """Expected seconds of each part for `num` samples."""
        pack, thousand = self.pack, num / 1000
        size = pack.height * pack.width / 64**2
        described = thousand + len(self.measured) / 1000 + (0 if self.others is None else len(self.others) / 1000)
        searched = (
            thousand + min(len(pack.heldout), copies.HELDOUT) / 1000
            if len(pack.heldout) >= copies.LEAST_HELD_OUT
            else 0
        )
        each = SECONDS["features"], SECONDS["random features"]
        each = each[::-1] if self.features.name == "random" else each
        return {
            "Sampling": SECONDS["sampling"] * thousand * size,
            "Measures": each[0] * described,
            "Second network": each[1] * described
            + (SECONDS["features"] * (thousand + len(self.measured) / 1000) if self.third else 0),
            "Classes": CLASSIFIER + SECONDS["classes"] * thousand if pack.labels is not None else 0,
            "Conditions": CLASSIFIER if self.conditions is not None else 0,
            "Copies": SECONDS["copies"] * searched,
            "Artefacts": SECONDS["artefacts"] * thousand * size,
            "Marks": SECONDS["marks"] * min(thousand, _MARKED / 1000) * size,
            "Real-vs-generated classifier": AREAS,
            "Usefulness": USEFULNESS * min(1.0, size) if self.options.usefulness else 0,
            "Grids": GRIDS,
        }

    # ---- the parts ----

    def content(self, out: Path) -> Evaluation:
        """The results; images are saved in out/evaluation/."""
        rows = self.measures()
        classes, recognised = self.part("Classes", self.classes) or (None, None)
        if recognised is not None:
            rows.append(recognised)
        rows += self.part("Conditions", self.agreement) or []
        return Evaluation(
            ganvas=ganvas.__version__,
            made=timestamp(),
            run=out.resolve().name,
            model=self.source.model(),
            data=self.data(),
            protocol=self.protocol(),
            measures=rows,
            unlike=self.unlike,
            feature_map=self.map,
            classes=classes,
            copies=self.part("Copies", lambda: self.copies(out)),
            artefacts=self.artefacts(),
            marks=self.marks(out),
            real_or_fake=self.part("Real-vs-generated classifier", lambda: self.real_or_fake(out)),
            usefulness=self.part("Usefulness", self.usefulness) if self.options.usefulness else None,
            grids=self.grids(out),
            left_out=self.left_out,
        )

    def part(self, name: str, judged: Callable[[], _Part | None]) -> _Part | None:
        """One part of the evaluation; if the data are insufficient, record why and continue."""
        try:
            self.progress.begin(name, _STEPS.get(name, 1))
            return judged()
        except DataError as error:
            self.left_out.append(f"{name}: {error}.")
            return None

    def too_few_held_out(self, least: int) -> str:
        num = len(self.pack.heldout)
        held = amount(num, "image was", "images were") if num else "no images were"
        return f"{held} held out, {least} are needed (use more images or a larger --holdout)"

    # ---- measures ----

    def measures(self) -> list[Measure]:
        """The rows of all measures of features."""
        self.progress.begin("Measures", _STEPS["Measures"])
        features = self.features
        real, floor = self.real_features(features)
        fake, logits = self.of_samples(features, self.num_measured)
        measures = self.in_features(features)
        self.report("computing the measures", 0, 0)
        rows = measures.rows(real, floor, fake, logits, self.options.force)
        self.map = feature_map(real, fake, features.name)
        rows.insert(1, self.second_kid("random" if features.name != "random" else DEFAULT_FEATURES))
        self.unlike = self.resembles_nothing()
        if self.split == "training" and len(self.heldout) < LEAST_EVALUATED:
            self.left_out.append(f"KID to held-out images: {self.too_few_held_out(LEAST_EVALUATED)}.")
        elif self.split == "training":
            held, _ = features_of(features, self.pack, self.heldout, self.report)
            rows.insert(1, measures.other("kid_heldout", "held-out", held, real, fake))
        elif floor is not None:
            rows.insert(1, measures.other("kid_training", "training", floor, real, fake))
        return rows

    def second_kid(self, name: str) -> Measure:
        """KID in the features of another kind of network, because one network alone can mislead."""
        self.progress.begin("Second network", _STEPS["Measures"] + 2 * self.third)
        features = self.network(name)
        real, floor = self.real_features(features)
        fake, _ = self.of_samples(features, self.num_measured)
        self.report("computing the second KID", 0, 0)
        return self.in_features(features).second(real, floor, fake)

    def resembles_nothing(self) -> bool:
        """Whether the samples resemble no real image, both as they are and after a blur of all images.

        Noise, sharpening and compression also move features away from those of real images. After a blur, only images
        with other contents, or of an untrained generator, are still far away.
        """
        features = self.network(DEFAULT_FEATURES)
        real, _ = features_of(features, self.pack, self.measured, self.report)
        if not unlike(real, self.of_samples(features, self.num_measured)[0]):
            return False
        images = (
            self.pack.images[drawn_indices(self.measured, _BLURRED, 7)],
            self.samples[: min(_BLURRED, self.num_measured)],
        )
        width = _BLUR * max(1.0, max(self.pack.height, self.pack.width) / 64)
        blurred = (ndimage.gaussian_filter(part, (0, width, width, 0)) for part in images)
        return unlike(*(features(part) for part in blurred))

    def of_samples(self, features: Features, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Features and logits of the first `num` samples, with progress; computed once."""
        if (known := self.known.get(features.name)) is not None and len(known[0]) >= num:
            return known[0][:num], known[1][:num]
        blocks, words = [], f"features of the samples ({features.name})"
        self.report(words, 0, num)
        for start in range(0, num, IMAGES_AT_A_TIME):
            blocks.append(features.both(self.samples[start : min(start + IMAGES_AT_A_TIME, num)]))
            self.report(words, min(start + IMAGES_AT_A_TIME, num), num)
        rows, logits = (np.concatenate(part) for part in zip(*blocks, strict=True))
        self.known[features.name] = rows, logits
        return rows, logits

    def network(self, name: str) -> Features:
        """A feature network, loaded once."""
        if name not in self.networks:
            self.networks[name] = Features.load(name, self.options.device, pack=self.pack)
        return self.networks[name]

    def in_features(self, features: Features) -> Measures:
        return Measures(
            features, self.source.sampling, self.split, len(self.measured), self.num_measured, self.trained_with
        )

    def real_features(self, features: Features) -> tuple[np.ndarray, np.ndarray | None]:
        """Features of the two sets of real images of `equal_sets`."""
        real, _ = features_of(features, self.pack, self.measured, self.report)
        if self.others is None:
            return real, None
        return real, features_of(features, self.pack, self.others, self.report)[0]

    # ---- classes ----

    def classes(self) -> tuple[ClassResults, Measure | None] | None:
        """The results by class and, for a conditional generator, the class accuracy."""
        pack = self.pack
        if pack.labels is None or pack.num_classes < 2:
            return None
        classifier = classifier_for(pack, self.options.device, self.report)
        features = self.network("classifier")
        real, _ = features_of(features, pack, self.reference, self.report)
        fake, logits = self.of_samples(features, len(self.samples))
        self.report("evaluating the classes", 0, 0)
        predicted = logits.argmax(axis=1)
        labels = pack.labels[self.reference]
        table = class_table(pack.classes, labels, predicted, self.labels, real, fake)
        every = pack.labels[pack.training]  # because the reference may lack rare classes
        shares = np.bincount(every, minlength=pack.num_classes) / len(every)
        alien = self.unlike or unlike(real, fake)
        lacking = [] if alien else missing(predicted, expected_shares(shares, classifier.confusion))
        accuracy = classifier.accuracy
        tested = f"{classifier.num_tested:,} held-out images"
        name = f"a classifier trained on real images (accuracy {accuracy.value:.1%} on {tested})"
        content = dataclasses.replace(
            table,
            judged=not alien,
            missing=[pack.classes[i] for i in lacking],
            sentence="Classes cannot be evaluated: the generated images do not resemble the data."
            if alien
            else _in_words([table.rows[i] for i in lacking]),
            modes=mode_coverage(predicted, shares),
            judge=name,
        )
        if table.agreement is None:
            return content, None
        meaning = f"Share of generated images that {name} assigns to the requested class."
        trained = f"trained on {classifier.num_trained:,} training images"
        protocol = f"n = {len(predicted):,}, classifier {classifier.hash[:8]} {trained}"
        measure = as_row(
            "accuracy_asked", "Class accuracy", table.agreement, "higher", accuracy.value, meaning, protocol
        )
        return content, measure

    def agreement(self) -> list[Measure]:
        """Whether the generated images have the requested conditions, one row per column."""
        if self.conditions is None:
            return []
        return condition_agreement.agreement(self.pack, self.samples, self.conditions, self.source.device, self.report)

    # ---- copies ----

    def copies(self, out: Path) -> CopyResults:
        """The copy rate and the closest pairs. Raises `DataError` if too few images were held out."""
        pack = self.pack
        if len(pack.heldout) < copies.LEAST_HELD_OUT:
            raise DataError(self.too_few_held_out(copies.LEAST_HELD_OUT))
        finder = copies.CopyFinder(pack, self.report)
        judged = finder.judge(self.samples, self.unlike)
        shown = np.argsort(judged.matches.score)[:_CLOSEST]
        rows = []
        for i, sample in enumerate(shown):
            place = judged.matches.nearest[sample]
            path = f"evaluation/closest-{i:02}.png"
            save_png(out / path, grid(np.stack([self.samples[sample], pack.images[place]]), 2))
            rows.append(
                dataclasses.replace(
                    self.source.origin(int(sample)),
                    file=path,
                    label=None if self.labels is None else pack.classes[self.labels[sample]],
                    training=pack.names[place],
                    score=float(judged.matches.score[sample]),
                    copy=bool(judged.copies[sample]),
                    alteration=judged.matches.moved[sample],
                )
            )
        return dataclasses.replace(part(judged, CopyResults), closest=rows)

    # ---- artefacts ----

    def artefacts(self) -> Artefacts:
        self.progress.begin("Artefacts")
        self.report("searching for artefacts", 0, 0)
        return artefacts.examine(self.pack.images[self.reference], self.samples)

    def marks(self, out: Path) -> list[MarkResult]:
        """Marks burned into the real images: their shares in real and generated images, and an example."""
        self.progress.begin("Marks")
        self.report("searching for burned-in marks", 0, 0)
        real = self.pack.images[drawn_indices(self.reference, _MARKED, 5)]
        rows = []
        for i, mark in enumerate(marks.marks(real)[:_MARKS_SHOWN]):
            number, (top, left, height, width) = next(iter(mark.places.items()))
            tall, wide = self.pack.height, self.pack.width
            box = [int(top * tall), int(left * wide), max(1, round(height * tall)), max(1, round(width * wide))]
            margin = max(box[2:]) // 2
            y, x = max(0, box[0] - margin), max(0, box[1] - margin)
            crop = real[number, y : box[0] + box[2] + margin, x : box[1] + box[3] + margin]
            path = f"evaluation/mark-{i:02}.png"
            save_png(out / path, crop)
            rows.append(MarkResult(path, box, mark.share, marks.share(mark, self.samples[:_MARKED])))
        return rows

    def real_or_fake(self, out: Path) -> TellingApart:
        chosen = drawn_indices(self.measured, min(self.num_measured, _CLASSIFIED), 3)
        places, samples = np.searchsorted(self.measured, chosen), self.samples[: len(chosen)]
        images, rows = self.pack.images[chosen], []
        networks = [self.network(name) for name in two_sample.TWO_SAMPLE_NETWORKS]
        for features in networks:
            real = features_of(features, self.pack, self.measured, self.report)[0][places]
            if self.pack.mirror:  # half of the real images are mirrored, as in training
                real[1::2] = features_of(features, self.pack, chosen[1::2], self.report, mirrored=True)[0]
            rows.append((real, self.of_samples(features, len(samples))[0]))
        if self.pack.mirror:
            images[1::2] = images[1::2, :, ::-1]
        known = np.concatenate([real for real, _ in rows], axis=1), np.concatenate([fake for _, fake in rows], axis=1)
        separation = two_sample.real_or_fake(images, samples, networks, features=known, progress=self.report)
        pixels = (255 * separation.map[:, :, None]).round().astype(np.uint8)
        save_png(out / "evaluation" / "real-or-fake.png", pixels)
        caution = ""
        if self.trained_with in two_sample.TWO_SAMPLE_NETWORKS:
            caution = f" It uses features of {self.trained_with}, which trained the generator, so it may miss faults."
        return TellingApart(separation.accuracy, "evaluation/real-or-fake.png", separation.sentence + caution)

    def usefulness(self) -> UsefulnessResults:
        """Whether generated images in addition to real images improve a classifier."""
        pack, labels = self.pack, self.labels
        assert pack.labels is not None and labels is not None  # checked at the start
        return usefulness.usefulness(
            pack.images[self.training],
            pack.labels[self.training],
            self.samples,
            labels,
            pack.images[self.heldout],
            pack.labels[self.heldout],
            pack.num_classes,
            kind=pack.kind,
            mirror=pack.mirror,
            device=self.source.device,
            progress=self.report,
        )

    # ---- image grids ----

    def grids(self, out: Path) -> Grids:
        """Save grids of real and generated images: the first seeds, uncurated; one row per class if labelled."""
        self.progress.begin("Grids")
        self.report("saving the grids", 0, 0)
        real, fake, columns = drawn_indices(self.reference, _SHOWN, 4), np.arange(min(_SHOWN, len(self.samples))), 6
        per_class = self.labels is not None and self.pack.labels is not None
        if self.labels is not None and self.pack.labels is not None:
            columns, rows = 8, min(self.pack.num_classes, CLASSES_SHOWN)
            every = self.pack.training
            real = np.concatenate([np.resize(every[self.pack.labels[every] == i], columns) for i in range(rows)])
            fake = np.concatenate([np.resize(np.flatnonzero(self.labels == i), columns) for i in range(rows)])
        save_png(out / "evaluation" / "real.png", grid(self.pack.images[real], columns))
        text = self.source.provenance([int(i) for i in fake])
        save_png(out / "evaluation" / "generated.png", grid(self.samples[fake], columns), text)
        note = self.source.note + (", one row per class" if per_class else "")
        return Grids("evaluation/real.png", "evaluation/generated.png", per_class, note)

    # ---- provenance ----

    def data(self) -> DataFacts:
        pack = self.pack
        return DataFacts(
            source=pack.record.request.name,
            hash=pack.hash,
            num_training=pack.num_training,
            num_heldout=len(pack.heldout),
            classes=pack.classes,
            conditions="" if pack.schema is None else str(pack.schema),
            licence=pack.record.licence,
            attribution=pack.record.attribution,
        )

    def protocol(self) -> Protocol:
        return dataclasses.replace(
            self.source.protocol(),
            num_real=len(self.measured),
            num_generated=self.num_measured,
            split=self.split,
            features=self.features.protocol,
            trained_with=self.trained_with,
            machine=f"{platform.machine()}, {choose_device(self.options.device).name}",
            versions={
                "ganvas": ganvas.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        )


def _in_words(missing: list[ClassResult]) -> str:
    """A sentence about the classes that the generator lacks."""
    if not missing:
        return "No class is clearly missing."
    each = [
        f"{row.name} ({row.generated_share:.1%}, {row.generated_low:.1%} to {row.generated_high:.1%}; in the data "
        f"{row.real_share:.1%})"
        for row in missing
    ]
    return f"{'Classes' if len(each) > 1 else 'Class'} missing or rare among the generated images: {', '.join(each)}."
