"""A quick look at a generator while it trains: its vitals, a handful of numbers that cost seconds at most.

The score that keeps the best weights is the kernel distance (KID) to real images, held-out ones where there are
enough, in the features of a random network: a pretrained one that chose the weights could not judge them afterwards.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.near import nearest
from ganvas.data.pack import Pack
from ganvas.generator import Generator
from ganvas.judge.artefacts import lattice, sharpness
from ganvas.judge.distances import kid_interval, precision_recall
from ganvas.judge.features import Features

NUM_PICTURES = 256  # fewer where they are large
PIXELS = 2**23  # of all images together
LATTICE_PICTURES = 64
THUMBNAIL = 12  # pixels a side in which neighbours are looked for
NEIGHBOURS = 20
MOST_TRAINING = 20_000  # training images that neighbours are looked for among
STRANGE, LEAST_JUDGED = 2, 50  # per cent of images that are no copies but pass for near; images that this takes


class QuickJudge:
    """Called with a generator, it answers with its vitals, all about the same seeds each time:

    score, kid: the distance to real images; margin: half of its 95% interval. precision, recall: improved ones.
    diversity: mean squared distance of two generated pictures' features, over that of two real ones.
    lattice: the worst period's peak over the real pictures'; peaks fainter than the usual power of real images, which
    nobody sees, hardly count. sharpness: Laplacian variance over the real pictures'.
    near: share of images much nearer to one training image than to the next ones. By chance it is 2%: of held-out
    images, or where too few were set aside, of training images among the others. Left out with too few of both.
    change: mean change of a pixel, of the range, since the last look.
    """

    def __init__(self, pack: Pack, device: str | None = None) -> None:
        began = time.monotonic()
        num = max(32, min(NUM_PICTURES, PIXELS // (pack.height * pack.width)))
        reference = pack.heldout if len(pack.heldout) >= num else pack.training
        chosen = _drawn(reference, num)
        self.features = Features.load("random", device, pack=pack)
        self.real = self.features(pack.images[chosen])
        self.spread = _spread(self.real)
        self.pictures = _tensor(pack, chosen[:LATTICE_PICTURES])
        self.lattice, self.sharpness = lattice(self.pictures), sharpness(self.pictures)
        self.labels = None if pack.labels is None else pack.labels[chosen].tolist()
        self.training = _thumbnails(pack, _drawn(pack.training, MOST_TRAINING))
        self.threshold = self._chance(pack)
        self.before: Tensor | None = None
        self.cost = time.monotonic() - began

    def __call__(self, generator: Generator) -> dict[str, float]:
        images = generator.sample(len(self.real), seed=0, label=self.labels if generator.classes else None)
        found = self.features(images)
        kid = kid_interval(self.real, found)
        precision, recall = precision_recall(self.real, found)
        vitals = {
            "score": kid.value,
            "margin": (kid.high - kid.low) / 2,
            "kid": kid.value,
            "precision": precision,
            "recall": recall,
            "diversity": _spread(found) / max(1e-12, self.spread),
            "lattice": self._lattice(images[:LATTICE_PICTURES]),
            "sharpness": sharpness(images[:LATTICE_PICTURES]) / max(1e-12, self.sharpness),
        }
        if self.threshold is not None:
            small = _normalised(F.interpolate(images, (THUMBNAIL, THUMBNAIL), mode="area"))
            vitals["near"] = float((self._standing_out(self._distances(small, NEIGHBOURS)) < self.threshold).mean())
        if self.before is not None:
            vitals["change"] = float((images - self.before).abs().mean() / 2)
        self.before = images
        return vitals

    def _lattice(self, images: Tensor) -> float:
        """Of a blurred image any trace of a lattice stands out, over next to nothing. So the peak must stand out of
        the images alone, and of the same among as many real ones, where it lies on their power too."""
        alone, among = lattice(images), lattice(torch.cat([images, self.pictures[: len(images)]]))
        return max((min(alone[p], 2 * among[p] - real) / real for p, real in self.lattice.items()), default=1.0)

    def _chance(self, pack: Pack) -> float | None:
        """The standing out below which an image is near: of `STRANGE` per cent of images that are no copies."""
        enough = len(self.training) > NEIGHBOURS + 1
        if enough and len(pack.heldout) >= LEAST_JUDGED:
            distances = self._distances(_thumbnails(pack, _drawn(pack.heldout, NUM_PICTURES)), NEIGHBOURS)
        elif enough and len(self.training) >= LEAST_JUDGED:
            some = self.training[:: -(-len(self.training) // NUM_PICTURES)]
            distances = self._distances(some, NEIGHBOURS + 1)[:, 1:]  # without themselves
        else:
            return None
        return float(np.percentile(self._standing_out(distances), STRANGE))

    def _distances(self, thumbnails: np.ndarray, num: int) -> np.ndarray:
        """To the `num` nearest training images (N, num), nearest first."""
        return np.sqrt(nearest(thumbnails, self.training, num)[0])

    @staticmethod
    def _standing_out(distances: np.ndarray) -> np.ndarray:
        """Distance to the nearest training image over the mean of the next ones: small for a copy (N,)."""
        return distances[:, 0] / np.maximum(1e-6, distances[:, 1:].mean(axis=1))


def _drawn(indices: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the indices, always the same ones, in order."""
    return np.sort(np.random.default_rng(0).permutation(indices)[:num])


def _tensor(pack: Pack, chosen: np.ndarray) -> Tensor:
    top = (2**pack.depth - 1) / 2
    return torch.from_numpy(pack.images[chosen].astype(np.float32)).permute(0, 3, 1, 2) / top - 1


def _thumbnails(pack: Pack, chosen: np.ndarray) -> np.ndarray:
    parts = [_tensor(pack, part) for part in np.array_split(chosen, len(chosen) // 256 + 1)]
    return _normalised(torch.cat([F.interpolate(part, (THUMBNAIL, THUMBNAIL), mode="area") for part in parts]))


def _normalised(thumbnails: Tensor) -> np.ndarray:
    """Rows of mean 0 and length 1: brightness and contrast do not count."""
    rows = thumbnails.flatten(1)
    return F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1).numpy()


def _spread(features: np.ndarray) -> float:
    """Mean squared distance of two rows, up to a factor."""
    return float(features.var(axis=0, dtype=np.float64, ddof=1).sum())
