"""Real-vs-generated classifier: how well unseen real and generated images are separated, and by which areas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ganvas.data.packing.pack import Progress
from ganvas.errors import DataError
from ganvas.evaluation.features import Features
from ganvas.evaluation.intervals import Interval, share

TWO_SAMPLE_NETWORKS = ("random", "efficientnet-lite0")  # whose features an evaluation uses
_FOLDS = 2  # halves, each tested by the classifier of the other
_LEAST = 20  # images of each kind
_PENALTY = 0.3  # of squared weights, per feature
CELLS = 6  # of the map along the longer side
MAP_IMAGES = 16  # images that are covered for the map


@dataclass(frozen=True, eq=False)
class RealOrFake:
    """Accuracy of a classifier that labels unseen images as real or generated."""

    accuracy: Interval
    """In 0..1; 0.5 is chance."""
    map: np.ndarray
    """(H, W) float32 in 0..1: loss of margin if an area is covered, relative to the largest; all 0 without any loss."""
    sentence: str


def real_or_fake(
    real: np.ndarray,
    fake: np.ndarray,
    networks: Sequence[Features],
    *,
    features: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RealOrFake:
    """Fit a linear classifier to one half of the images and test it on the other half; then swap the halves.

    A classifier two-sample test (Lopez-Paz & Oquab 2017) with equal numbers of both kinds: ridge regression on the
    standardised features of all networks. Wilson's interval over all tested images assumes independence: near
    duplicates among real images make it too narrow.

    real, fake: (N, H, W, C) and (M, H, W, C), as for `networks`. features: theirs, (N, D) and (M, D), those of all
    networks concatenated; default: computed here. Raises `DataError` for fewer than 20 images of a kind, or different
    shapes.
    """
    if real.shape[1:] != fake.shape[1:]:
        one, other = (f"{height}x{width}x{channels}" for _, height, width, channels in (real.shape, fake.shape))
        raise DataError(f"images of {one} cannot be compared with images of {other}: use the same shape for both")
    num = min(len(real), len(fake))
    if num < _LEAST:
        raise DataError(
            f"{len(real)} real and {len(fake)} generated images are too few for a classifier: at least {_LEAST} of "
            "each are needed (use more samples or more images)"
        )
    rng = np.random.default_rng(seed)
    chosen = [np.sort(rng.permutation(len(images))[:num]) for images in (real, fake)]
    images = np.concatenate([real[chosen[0]], fake[chosen[1]]])
    if features is None:
        rows = _described(images, networks)
    else:
        rows = np.concatenate([features[0][chosen[0]], features[1][chosen[1]]]).astype(np.float64)
    signs = np.repeat([1.0, -1.0], num)
    # Both kinds are equally frequent in each half, so that their shares carry no information.
    fold = np.concatenate([rng.permutation(np.arange(num) % _FOLDS) for _ in range(2)])
    hits, worth = 0, np.zeros(_map_grid(*images.shape[1:3]))
    for i in range(_FOLDS):
        classifier = _Linear(rows[fold != i], signs[fold != i])
        unseen = np.flatnonzero(fold == i)
        hits += int((classifier(rows[unseen]) * signs[unseen] > 0).sum())
        some = unseen[np.linspace(0, len(unseen) - 1, min(MAP_IMAGES // _FOLDS, len(unseen))).astype(int)]
        mean = images[unseen].mean(axis=0).round().astype(images.dtype)
        worth += _occlusion(images[some], signs[some], mean, networks, classifier, progress)
    accuracy = share(hits / (2 * num), 2 * num)
    cells = torch.from_numpy(worth.clip(0)).float()[None, None]
    shown = F.interpolate(cells, images.shape[1:3], mode="bilinear", align_corners=False)[0, 0]
    return RealOrFake(accuracy, (shown / shown.max().clamp_min(1e-6)).numpy(), _sentence(accuracy))


class _Linear:
    """Ridge regression of signs (N,), 1 or -1, on standardised features (N, D). A call returns margins (M,)."""

    def __init__(self, features: np.ndarray, signs: np.ndarray) -> None:
        num, width = features.shape
        deviation = features.std(axis=0)
        self.mean, self.scale = features.mean(axis=0), np.where(deviation > 1e-6, deviation, 1)
        rows = (features - self.mean) / self.scale
        products = rows @ rows.T  # one row per image: there are fewer images than features
        self.weights = rows.T @ np.linalg.solve(products + _PENALTY * width * np.eye(num), signs)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.scale @ self.weights


def _occlusion(
    images: np.ndarray,
    signs: np.ndarray,
    mean: np.ndarray,
    networks: Sequence[Features],
    classifier: _Linear,
    progress: Progress | None = None,
) -> np.ndarray:
    """(rows, columns): mean loss of margin of images (N, H, W, C) if a cell is replaced by the mean image (H, W, C).

    signs: 1 for real images, -1 for generated ones.

    Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
    """
    rows, columns = _map_grid(*images.shape[1:3])
    # Edges of the cells; they cover the whole image even if its sides are not multiples.
    tops, lefts = (
        np.linspace(0, side, n + 1).round().astype(int)
        for side, n in zip(images.shape[1:3], (rows, columns), strict=True)
    )
    whole = signs @ classifier(_described(images, networks))
    worth = np.zeros((rows, columns))
    for r, c in np.ndindex(rows, columns):
        place = slice(tops[r], tops[r + 1]), slice(lefts[c], lefts[c + 1])
        covered = images.copy()
        covered[:, place[0], place[1]] = mean[place]
        worth[r, c] = (whole - signs @ classifier(_described(covered, networks))) / len(images)
        if progress:
            progress("areas by which the images differ", r * columns + c + 1, rows * columns)
    return worth


def _described(images: np.ndarray, networks: Sequence[Features]) -> np.ndarray:
    """(N, D) float64: the concatenated features of all networks."""
    return np.concatenate([network(images) for network in networks], axis=1).astype(np.float64)


def _map_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map: 6 along the longer side, square cells."""
    cell = max(height, width) / CELLS
    return max(1, round(height / cell)), max(1, round(width / cell))


def _sentence(accuracy: Interval) -> str:
    measured = (
        f"Real-vs-generated classifier accuracy: {accuracy.value:.1%} on unseen images "
        f"({accuracy.low:.1%} to {accuracy.high:.1%}; chance is 50%)"
    )
    if accuracy.high < 0.5:
        # A copy in the other half has the label of its original, so that it is classified as the other kind.
        return f"{measured}. Below chance: generated images are nearly identical to real images, as copies are."
    if accuracy.low <= 0.5:
        return f"{measured}. A linear classifier cannot distinguish generated from real images."
    how = "easily" if accuracy.value > 0.9 else "often" if accuracy.value > 0.65 else "sometimes"
    return f"{measured}. A linear classifier {how} distinguishes them."
