"""Scores of a generator during training, which take a few seconds at most.

The score that selects the best weights is KID to real images (held-out images if there are enough) in the features of
a random network. A pretrained network that selects the weights could not be used for an independent evaluation.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.batches import images_at
from ganvas.data.inspection.near_duplicates import nearest_neighbours
from ganvas.data.packing.pack import Pack
from ganvas.evaluation.artefacts import checkerboard, sharpness
from ganvas.evaluation.distances import kid_interval, precision_recall
from ganvas.evaluation.features import Features
from ganvas.generator import Generator

_NUM_PICTURES = 256  # fewer for large images
_PIXELS = 2**23  # most pixels of all images together
_CHECKERBOARD_IMAGES = 64
_THUMBNAIL = 12  # side in pixels for the search for neighbours
_NEIGHBOURS = 20
_MOST_TRAINING = 20_000  # most training images for the search for neighbours
_STRANGE, LEAST_JUDGED = 2, 50  # false-alarm rate of `near` in percent; fewest images to calibrate it


class TrainingScorer:
    """Call it with a generator to get its scores, always for the same seeds:

    score, kid: KID to real images. margin: half of its 95% interval. precision, recall: improved precision and recall.
    diversity: mean squared distance of the features of two generated images, relative to real images.
    checkerboard: peak of the worst period relative to real images; invisible peaks (below the usual power of real
    images) hardly count. sharpness: variance of the Laplacian relative to real images.
    near: share of images much closer to one training image than to the next ones; by chance 2%, calibrated on held-out
    images, or on training images if there are too few held-out images. Omitted if there are too few of both.
    change: mean absolute change of a pixel since the last call, relative to the range.
    """

    def __init__(self, pack: Pack, device: str | None = None) -> None:
        began = time.monotonic()
        num = max(32, min(_NUM_PICTURES, _PIXELS // (pack.height * pack.width)))
        reference = pack.heldout if len(pack.heldout) >= num else pack.training
        chosen = _drawn(reference, num)
        self.features = Features.load("random", device, pack=pack)
        self.real = self.features(pack.images[chosen])
        self.spread = _spread(self.real)
        self.pictures = images_at(pack, chosen[:_CHECKERBOARD_IMAGES])
        self.checkerboard, self.sharpness = checkerboard(self.pictures), sharpness(self.pictures)
        known = pack.labels if pack.conditions is None else pack.conditions
        self.labels = None if known is None else known[chosen]
        self.training = _thumbnails(pack, _drawn(pack.training, _MOST_TRAINING))
        self.threshold = self._chance(pack)
        self.before: Tensor | None = None
        self.cost = time.monotonic() - began

    def __call__(self, generator: Generator) -> dict[str, float]:
        labels = self.labels if generator.info.config.label_size else None
        images = torch.cat(list(generator.batches(range(len(self.real)), labels)))
        features = self.features(images)
        kid = kid_interval(self.real, features)
        precision, recall = precision_recall(self.real, features)
        vitals = {
            "score": kid.value,
            "margin": (kid.high - kid.low) / 2,
            "kid": kid.value,
            "precision": precision,
            "recall": recall,
            "diversity": _spread(features) / max(1e-12, self.spread),
            "checkerboard": self._checkerboard(images[:_CHECKERBOARD_IMAGES]),
            "sharpness": sharpness(images[:_CHECKERBOARD_IMAGES]) / max(1e-12, self.sharpness),
        }
        if self.threshold is not None:
            small = _normalised(F.interpolate(images, (_THUMBNAIL, _THUMBNAIL), mode="area"))
            vitals["near"] = float((self._standing_out(self._distances(small, _NEIGHBOURS)) < self.threshold).mean())
        if self.before is not None:
            vitals["change"] = float((images - self.before).abs().mean() / 2)
        self.before = images
        return vitals

    def _checkerboard(self, images: Tensor) -> float:
        """Worst peak relative to real images.

        In blurred images even invisible peaks are large relative to their neighbourhood. So the peak is also measured
        on the generated images mixed with as many real images, and the smaller value counts.
        """
        alone, among = checkerboard(images), checkerboard(torch.cat([images, self.pictures[: len(images)]]))
        return max((min(alone[p], 2 * among[p] - real) / real for p, real in self.checkerboard.items()), default=1.0)

    def _chance(self, pack: Pack) -> float | None:
        """Threshold of the distance ratio, below which `_STRANGE` percent of images that are not copies lie."""
        enough = len(self.training) > _NEIGHBOURS + 1
        if enough and len(pack.heldout) >= LEAST_JUDGED:
            distances = self._distances(_thumbnails(pack, _drawn(pack.heldout, _NUM_PICTURES)), _NEIGHBOURS)
        elif enough and len(self.training) >= LEAST_JUDGED:
            some = self.training[:: -(-len(self.training) // _NUM_PICTURES)]
            distances = self._distances(some, _NEIGHBOURS + 1)[:, 1:]  # without themselves
        else:
            return None
        return float(np.percentile(self._standing_out(distances), _STRANGE))

    def _distances(self, thumbnails: np.ndarray, num: int) -> np.ndarray:
        """Distances (N, num) to the `num` nearest training images, nearest first."""
        return np.sqrt(nearest_neighbours(thumbnails, self.training, num)[0])

    @staticmethod
    def _standing_out(distances: np.ndarray) -> np.ndarray:
        """(N,): distance to the nearest training image divided by the mean of the next ones; small for a copy."""
        return distances[:, 0] / np.maximum(1e-6, distances[:, 1:].mean(axis=1))


def _drawn(indices: np.ndarray, num: int) -> np.ndarray:
    """A fixed random choice of at most `num` indices, sorted."""
    return np.sort(np.random.default_rng(0).permutation(indices)[:num])


def _thumbnails(pack: Pack, chosen: np.ndarray) -> np.ndarray:
    parts = [images_at(pack, part) for part in np.array_split(chosen, len(chosen) // 256 + 1)]
    return _normalised(torch.cat([F.interpolate(part, (_THUMBNAIL, _THUMBNAIL), mode="area") for part in parts]))


def _normalised(thumbnails: Tensor) -> np.ndarray:
    """Rows with mean 0 and length 1, so that brightness and contrast do not matter."""
    rows = thumbnails.flatten(1)
    return F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1).numpy()


def _spread(features: np.ndarray) -> float:
    """Mean squared distance of two rows, up to a constant factor."""
    return float(features.var(axis=0, dtype=np.float64, ddof=1).sum())
