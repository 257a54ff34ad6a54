"""What generated images are good for: can a classifier tell them from real ones, and do they help to train one?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.augment import POLICIES
from ganvas.config import Kind
from ganvas.data.pack import Progress
from ganvas.errors import DataError
from ganvas.judge.intervals import LEVEL, Interval, share
from ganvas.judge.small import Classifier, Pictures, logits, prepared, shape_of, train_classifier

FOLDS = 2
LEAST = 20  # images of each kind
CELLS = 8  # of the map along the longer side
MAP_PICTURES = 200
ARMS = ("real", "real + augmentation", "synthetic", "real + synthetic")


# ---- real or generated? ----


@dataclass(frozen=True, eq=False)
class RealOrFake:
    """How well a small classifier tells generated images from real ones that it has not seen."""

    accuracy: Interval
    """In 0..1; 0.5 is chance: the two cannot be told apart by it."""
    num_tested: int
    map: np.ndarray
    """(H, W) float32 in 0..1: how much it loses where a patch is covered; 1 is the most; all 0 where it knows nothing.
    """
    sentence: str


def real_or_fake(
    real: Pictures,
    fake: Pictures,
    *,
    mirror: bool = False,
    steps: int = 120,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> RealOrFake:
    """Trains a classifier on one half of both sets, tests it on the other half, and the other way round.

    A classifier two-sample test (Lopez-Paz & Oquab 2017). As many of each kind are taken. The interval is Wilson's
    over all tested images; it takes them as independent: near duplicates among the real ones make it too narrow.
    mirror: the generator learnt from mirrored images too, so which way they face does not count. steps: gradient
    steps of 100 images for each half. Raises `DataError` below 20 images of a kind, or where the shapes differ.
    """
    check_shapes(real, fake)
    num = min(len(real), len(fake))
    if num < LEAST:
        raise DataError(
            f"{len(real)} real and {len(fake)} generated images were given and telling them apart needs at least "
            f"{LEAST} of each: ask for more samples or take more pictures"
        )
    rng = np.random.default_rng(seed)
    kinds = [prepared(pictures, np.sort(rng.permutation(len(pictures))[:num])) for pictures in (real, fake)]
    pictures, labels = torch.cat(kinds), torch.arange(2).repeat_interleave(num)
    # Each half has as many of each kind: a network that learnt the shares would be right too rarely on the other half.
    fold = torch.from_numpy(np.concatenate([rng.permutation(np.arange(num) % FOLDS) for _ in kinds]))
    hits, worth = 0, torch.zeros(map_grid(*pictures.shape[2:]))
    for i in range(FOLDS):
        seen, unseen = fold != i, fold == i
        network = train_classifier(
            pictures[seen],
            labels[seen],
            2,
            steps=steps,
            seed=seed + i,
            mirror=mirror,
            device=device,
            progress=progress,
        )
        tested, truth = pictures[unseen], labels[unseen]
        hits += int((logits(network, tested).argmax(dim=1) == truth).sum())
        some = torch.from_numpy(rng.permutation(len(truth))[: MAP_PICTURES // FOLDS])
        worth += occlusion(network, tested[some], truth[some])
    accuracy = share(hits / (2 * num), 2 * num)
    worth = worth.clamp_min(0)
    worth = F.interpolate(worth[None, None], shape_of(real)[1:], mode="bilinear", align_corners=False)[0, 0]
    return RealOrFake(accuracy, 2 * num, (worth / worth.max().clamp_min(1e-6)).numpy(), told_apart(accuracy))


def told_apart(accuracy: Interval) -> str:
    found = f"{accuracy.value:.1%} of unseen images ({accuracy.low:.1%} to {accuracy.high:.1%}; chance is 50%)"
    if accuracy.low <= 0.5:
        return f"A small classifier cannot tell generated from real images: it is right about {found}."
    how = "easily" if accuracy.value > 0.9 else "often" if accuracy.value > 0.65 else "sometimes"
    return f"A small classifier {how} tells generated from real images: it is right about {found}."


@torch.inference_mode()
def occlusion(network: Classifier, pictures: Tensor, labels: Tensor) -> Tensor:
    """(rows, columns): mean loss of margin for the right answer where a cell shows the mean image instead.

    Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
    """
    rows, columns = map_grid(*pictures.shape[2:])
    mean = pictures.float().mean(dim=0, keepdim=True).half()

    def margin(shown: Tensor) -> float:
        found = logits(network, shown)
        return float((found.gather(1, labels[:, None]) - found.gather(1, 1 - labels[:, None])).mean())

    whole = margin(pictures)
    worth = torch.zeros(rows, columns)
    # Where a cell begins and ends: the cells cover the image also where its sides do not divide.
    tops, lefts = (
        torch.linspace(0, side, n + 1).round().int().tolist()
        for side, n in zip(pictures.shape[2:], (rows, columns), strict=True)
    )
    for r in range(rows):
        for c in range(columns):
            place = (slice(None), slice(None), slice(tops[r], tops[r + 1]), slice(lefts[c], lefts[c + 1]))
            covered = pictures.clone()
            covered[place] = mean[place]
            worth[r, c] = whole - margin(covered)
    return worth


def map_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map: 8 along the longer side, square cells."""
    cell = max(height, width) / CELLS
    return max(1, round(height / cell)), max(1, round(width / cell))


# ---- of use for training? ----


@dataclass(frozen=True, eq=False)
class Usefulness:
    """Accuracy on held-out real images of classifiers trained on each mixture, and the differences to real only."""

    accuracy: dict[str, Interval]
    """By mixture (`ARMS`), mean over seeds; in 0..1."""
    difference: dict[str, Interval]
    """By mixture other than real only: accuracy less that of real only. Differences below 0 are losses."""
    seeds: int
    num_tested: int
    num_real: int
    num_synthetic: int
    helps: bool
    """Whether real + synthetic is better than real only beyond chance."""
    sentence: str


def usefulness(
    real: Pictures,
    real_labels: np.ndarray,
    synthetic: Pictures,
    synthetic_labels: np.ndarray,
    heldout: Pictures,
    heldout_labels: np.ndarray,
    num_classes: int,
    *,
    kind: Kind = "scan",
    mirror: bool = False,
    steps: int = 200,
    seeds: int = 5,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Usefulness:
    """Trains the same classifier on each mixture and tests it on held-out real images, `seeds` times.

    "Train on synthetic, test on real" (Esteban et al. 2017; Ravuri & Vinyals 2019 call it the classification accuracy
    score). labels: (N,) int in 0..num_classes-1, for generated images what they were asked for. kind, mirror: which
    augmentation is classical for these images (`ganvas.augment`). Every mixture has the same number of gradient
    steps; the same seed means the same start. Raises `DataError` where shapes differ or a class has no real or no
    generated image.

    Intervals (see `interval`) hold for other seeds and other test images, not for other training images: where
    there were 120 real ones, another 120 by themselves were 0.8 to 1.7 points worse (MedNIST). On one core about two
    minutes at 28 pixels and five times that at 64.
    """
    check_shapes(real, synthetic)
    check_shapes(real, heldout)
    for labels, what in ((real_labels, "real"), (synthetic_labels, "generated")):
        if not (counts := np.bincount(labels, minlength=num_classes)).all():
            raise DataError(
                f"class number {int(counts.argmin())} has no {what} images and usefulness is measured over all "
                f"{num_classes} classes: give some of each, or leave the class out"
            )
    sets = [prepared(pictures, np.arange(len(pictures))) for pictures in (real, synthetic, heldout)]
    answers = [
        torch.from_numpy(np.asarray(labels)).long() for labels in (real_labels, synthetic_labels, heldout_labels)
    ]
    both = torch.cat(sets[:2]), torch.cat(answers[:2])
    mixtures = dict(zip(ARMS, ((sets[0], answers[0]), (sets[0], answers[0]), (sets[1], answers[1]), both), strict=True))
    classical = tuple(operation for operation in POLICIES[kind] if operation != "cutout")
    right = {}
    for n, (arm, (pictures, labels)) in enumerate(mixtures.items()):
        augmented = arm == "real + augmentation"
        rows = []
        for seed in range(seeds):
            network = train_classifier(
                pictures,
                labels,
                num_classes,
                steps=steps,
                seed=seed,
                policy=classical if augmented else (),
                mirror=augmented and mirror,
                device=device,
            )
            rows.append((logits(network, sets[2]).argmax(dim=1) == answers[2]).numpy())
            if progress:
                progress("training classifiers for usefulness", n * seeds + seed + 1, len(mixtures) * seeds)
        right[arm] = np.stack(rows).astype(np.float64)
    accuracy = {arm: interval(rows, 0.0, 1.0) for arm, rows in right.items()}
    difference = {arm: interval(right[arm] - right["real"], -1.0, 1.0) for arm in ARMS[1:]}
    return Usefulness(
        accuracy,
        difference,
        seeds,
        len(heldout),
        len(real),
        len(synthetic),
        difference["real + synthetic"].low > 0,
        verdict(accuracy, difference),
    )


def interval(values: np.ndarray, least: float, most: float) -> Interval:
    """Mean of (seeds, test images) and its 95% interval for other seeds and other test images.

    The variance of the mean over seeds and that over images are added, which counts what both share twice and so is
    rather too wide than too narrow (as the bootstrap over both, Owen 2007); t with Satterthwaite's degrees of freedom.
    """
    seeds, num = values.shape
    by_seed = values.mean(axis=1).var(ddof=1) / seeds
    by_picture = values.mean(axis=0).var(ddof=1) / num
    variance, mean = by_seed + by_picture, float(values.mean())
    if variance == 0:
        return Interval(mean, mean, mean)
    freedom = variance**2 / (by_seed**2 / (seeds - 1) + by_picture**2 / (num - 1))
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    return Interval(mean, max(mean - half, least), min(mean + half, most))


def verdict(accuracy: dict[str, Interval], difference: dict[str, Interval]) -> str:
    """Plain words, also where they are not welcome."""
    real, mixed, alone = accuracy["real"], difference["real + synthetic"], difference["synthetic"]
    classical = difference["real + augmentation"]
    effect = (
        f"added to the real ones they change the accuracy of {real.value:.1%} by {mixed.value * 100:+.1f} points "
        f"({mixed.low * 100:+.1f} to {mixed.high * 100:+.1f})"
    )
    if mixed.low > 0:
        first = "Generated images help"
    elif mixed.high < 0:
        first = "Generated images do harm"
    else:
        first = "Generated images do not help beyond chance"
    if alone.low > 0:
        second = "by themselves they train a better classifier than the real ones"
    elif alone.high < 0:
        second = f"by themselves they train a worse one ({alone.value * 100:+.1f} points)"
    else:
        second = "by themselves they do as well as the real ones, within chance"
    third = f"classical augmentation changes it by {classical.value * 100:+.1f} points"
    return f"{first}: {effect}; {second}; {third}."


# ---- shared ----


def check_shapes(first: Pictures, second: Pictures) -> None:
    """Raises `DataError` unless both are images of one size and number of channels."""
    shapes = shape_of(first), shape_of(second)
    if shapes[0] != shapes[1]:
        one, other = (f"{height}x{width} pixels with {channels} channels" for channels, height, width in shapes)
        raise DataError(f"pictures of {one} cannot be compared with images of {other}: give both in one shape")
