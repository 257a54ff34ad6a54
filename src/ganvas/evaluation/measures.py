"""Measures between real and generated images as table rows with meaning and protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

import ganvas
from ganvas.evaluation import distances
from ganvas.evaluation.features import Features
from ganvas.evaluation.manifold import resemblance
from ganvas.results import Better, FeatureMap, Interval, Measure

INCEPTION = ("inception-original", "inception-clean")
"""Networks for which a Frechet distance is an FID (with the published weights; other weights get another name)."""

MEANINGS: dict[str, tuple[Better, str]] = {
    "kid": (
        "lower",
        "Distance between the features of real and generated images, unbiased by small numbers; ideal: 0.",
    ),
    "kid_second": (
        "lower",
        "KID in another kind of network. If both networks rank two models differently, the ranking is not clear.",
    ),
    "kid_training": (
        "lower",
        "KID to training images. A value far below the other KID indicates memorised training images.",
    ),
    "kid_heldout": (
        "lower",
        "KID to images not used for training. A value far above the other KID indicates memorised training images.",
    ),
    "fid": (
        "lower",
        "Distance between means and covariances of features. Compare only for equal numbers of images and resizing.",
    ),
    "fid_infinity": ("lower", "FID extrapolated to infinitely many images (linear fit in 1/N)."),
    "frechet_infinity": (
        "lower",
        "Distance between means and covariances of features, extrapolated to infinitely many images. Not an FID.",
    ),
    "frechet": (
        "lower",
        "Distance between means and covariances of features in this network. Not an FID; higher for fewer images.",
    ),
    "precision": ("higher", "Share of generated images that resemble a real image (quality)."),
    "recall": ("higher", "Share of real images that the generator could have made (diversity)."),
    "density": ("higher", "How densely real images surround the generated images (quality; robust to outliers)."),
    "coverage": ("higher", "Share of real images with a generated image nearby (diversity; robust to outliers)."),
    "alpha_precision": (
        "higher",
        "Whether generated images are as typical as real ones (quality): low if all are outside, or all at the centre.",
    ),
    "beta_recall": (
        "higher",
        "Whether real images have generated images as close as other real ones (diversity); 1 for copies.",
    ),
    "mind": ("lower", "Sliced Wasserstein distance between features: compares whole distributions, unlike Frechet."),
    "vendi": ("near", "Effective number of different images (diversity), by their differences from the mean image."),
    "inception_score": (
        "higher",
        "Clear and diverse images in terms of ImageNet classes. It says little about other kinds of images.",
    ),
}
"""Of each measure: which way is better, and a sentence for the reader of a report."""

_MANIFOLD = {"precision": 3, "recall": 3, "density": 5, "coverage": 5, "alpha_precision": None, "beta_recall": None}
"""Measures of `manifold`: k of the neighbour that is the radius of the balls; None: integrated over all radii."""

_MAPPED = 200  # images of each kind on the map
_UNLIKE = 0.1  # share of images that resemble a real one below which they do not resemble the data

_Result = TypeVar("_Result")


def as_row(
    key: str,
    name: str,
    estimate: Interval,
    better: Better,
    real: float | None,
    meaning: str,
    protocol: str,
    *flags: str,
) -> Measure:
    return Measure(estimate.value, estimate.low, estimate.high, key, name, better, real, meaning, protocol, list(flags))


def _of(
    measure: Callable[[np.ndarray, np.ndarray], _Result], real: np.ndarray, floor: np.ndarray | None
) -> _Result | None:
    """The measure between two sets of real images; None if there are too few."""
    return None if floor is None else measure(real, floor)


def unlike(real: np.ndarray, fake: np.ndarray) -> bool:
    """Whether hardly any generated image (M, D) resembles a real one (N, D)."""
    return resemblance(real, fake) < _UNLIKE


def feature_map(real: np.ndarray, fake: np.ndarray, features: str = "") -> FeatureMap:
    """Two-dimensional map of features (N, D) and (M, D): the first two principal components of at most 200 of each.

    Points are in [-1, 1]; `explained` is the share of the variance that the two components explain. They are computed
    from equal numbers of both kinds, and the largest weight of each is positive.
    """
    num = min(len(real), len(fake), _MAPPED)
    # Evenly spaced, because the images may be in the order of their classes.
    chosen = [features[np.linspace(0, len(features) - 1, num).astype(int)] for features in (real, fake)]
    both = torch.from_numpy(np.concatenate(chosen)).double()
    centred = both - both.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # pca_lowrank is randomised
        axes = torch.pca_lowrank(centred, min(6, *centred.shape), center=False, niter=4)[2][:, :2]
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    points = centred @ axes
    explained = float(points.square().sum() / centred.square().sum().clamp_min(1e-12))
    kinds = (points / points.abs().max().clamp_min(1e-12)).numpy().round(3).tolist()
    return FeatureMap(kinds[:num], kinds[num:], round(explained, 4), features)


class Measures:
    """Measures between sets of images, each with its protocol."""

    def __init__(
        self, features: Features, sampling: str, split: str, num_real: int, num_fake: int,
        trained_with: str | None = None,
    ) -> None:  # fmt: skip
        """sampling, split: how the generated and the real images were chosen, for the protocol.

        trained_with: pretrained network used in training; measures in its features are flagged.
        """
        self.features, self.sampling, self.trained_with = features, sampling, trained_with
        self.split, self.num_real, self.num_fake = split, num_real, num_fake

    def row(
        self, key: str, name: str, estimate: Interval, real: float | None, more: str = "", flags: tuple[str, ...] = (),
    ) -> Measure:  # fmt: skip
        better, meaning = MEANINGS[key]
        protocol = (
            f"{self.num_real:,} real ({self.split}), {self.num_fake:,} generated ({self.sampling})"
            f"{', ' + more if more else ''}; {self.features.protocol}; "
            f"ganvas {ganvas.__version__}, torch {torch.__version__}"
        )
        if self.features.name == self.trained_with:
            flags = (*flags, "too favourable: this network was used in training")
        return as_row(key, f"{name} ({self.features.name})", estimate, better, real, meaning, protocol, *flags)

    def rows(
        self, real: np.ndarray, floor: np.ndarray | None, fake: np.ndarray, logits: np.ndarray, force: bool
    ) -> list[Measure]:
        """Rows of all measures.

        real, floor, fake: features (N, D) of the reference, of other real images, and of the generated images.
        floor: None if there are too few other real images; then rows have no value for real images.
        logits: (N, K) of the generated images. force: compute FID even for too few images.
        """
        inception = self.features.name in INCEPTION
        rows = [self.row("kid", "KID", distances.kid_interval(real, fake), _of(distances.kid, real, floor))]
        if inception:
            rows += self.fid(real, floor, fake, force)
        else:
            if min(len(real), len(fake)) >= distances.IMAGES_PER_FEATURE * real.shape[1]:
                value = distances.fid_infinity(real, fake)
                name = "Frechet distance, infinite samples"
                rows.append(self.row("frechet_infinity", name, value, None, "halves drawn with seed 0"))
            value, best = distances.frechet_interval(real, fake), _of(distances.frechet, real, floor)
            rows.append(self.row("frechet", "Frechet distance", value, best))
        values, ideal = distances.manifold(real, fake), _of(distances.manifold, real, floor)
        for key, k in _MANIFOLD.items():
            best = None if ideal is None else getattr(ideal, key).value
            name = key.capitalize().replace("_", "-")
            rows.append(self.row(key, name, getattr(values, key), best, f"k = {k}" if k else "integrated"))
        mind = _of(distances.mind, real, floor)
        best = None if mind is None else mind.value
        rows.append(self.row("mind", "MIND", distances.mind(real, fake), best, "1,000 projections, seed 0"))
        # What all images share, such as the position of a head, is not diversity.
        centre, expected = real.mean(axis=0), real if floor is None else floor
        num = min(len(fake), len(expected))
        diverse, ideal = (distances.vendi(images[:num] - centre) for images in (fake, expected))
        more = f"{num:,} images of each kind, centred on the mean of the real images"
        rows.append(self.row("vendi", "Vendi score", diverse, ideal.value, more))
        if inception:
            score = distances.inception_score(logits)
            rows.append(self.row("inception_score", "Inception score", score, None, "10 splits in order"))
        return rows

    def fid(self, real: np.ndarray, floor: np.ndarray | None, fake: np.ndarray, force: bool) -> list[Measure]:
        """Rows of FID. Too few images are an error unless `force` is set; then the rows are flagged as biased."""
        biased = distances.check_fid(len(real), len(fake), force)
        flags = (f"biased: fewer than {distances.MINIMUM_FOR_FID:,} images",) if biased else ()
        value, best = distances.frechet_interval(real, fake), _of(distances.frechet, real, floor)
        rows = [self.row("fid", "FID", value, best, flags=flags)]
        if min(len(real), len(fake)) >= distances.IMAGES_PER_FEATURE * real.shape[1]:
            value = distances.fid_infinity(real, fake)
            rows.insert(
                0, self.row("fid_infinity", "FID, infinite samples", value, None, "halves drawn with seed 0", flags)
            )
        return rows

    def second(self, real: np.ndarray, floor: np.ndarray | None, fake: np.ndarray) -> Measure:
        """KID in another kind of network."""
        return self.row("kid_second", "KID", distances.kid_interval(real, fake), _of(distances.kid, real, floor))

    def other(self, key: str, split: str, reference: np.ndarray, floor: np.ndarray, fake: np.ndarray) -> Measure:
        """KID to the other part of the real images; memorisation makes the training part closer."""
        measures = Measures(self.features, self.sampling, split, len(reference), len(fake))
        estimate, real = distances.kid_interval(reference, fake), distances.kid(reference, floor)
        return measures.row(key, f"KID to {split} images", estimate, real)
