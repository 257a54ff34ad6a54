"""A quick look at a generator while it trains: its vitals, a handful of numbers that cost seconds at most.

The score that keeps the best weights is the kernel distance (KID) to real pictures, held-out ones where there are
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
PIXELS = 2**23  # of all pictures together
LATTICE_PICTURES = 64
THUMBNAIL = 12  # pixels a side in which neighbours are looked for
NEIGHBOURS = 20
MOST_TRAINING = 20_000  # training pictures that neighbours are looked for among
STRANGE = 2  # per cent of the held-out pictures that pass for near


class QuickJudge:
    """Called with a generator, it answers with its vitals, all about the same seeds each time:

    score, kid: the distance to real pictures; margin: half of its 95% interval. precision, recall: improved ones.
    diversity: mean squared distance of two generated pictures' features, over that of two real ones.
    lattice: the worst period's peak over the real pictures'. sharpness: Laplacian variance over the real pictures'.
    near: share of pictures much nearer to one training picture than to the next ones (held-out pictures: 2%), where
    pictures were set aside. change: mean change of a pixel, of the range, since the last look.
    """

    def __init__(self, pack: Pack, device: str | None = None) -> None:
        began = time.monotonic()
        num = max(32, min(NUM_PICTURES, PIXELS // (pack.height * pack.width)))
        reference = pack.heldout if len(pack.heldout) >= num else pack.training
        chosen = _drawn(reference, num)
        self.features = Features.load("random", device, pack=pack)
        self.real = self.features(pack.images[chosen])
        self.spread = _spread(self.real)
        pictures = _tensor(pack, chosen[:LATTICE_PICTURES])
        self.lattice, self.sharpness = lattice(pictures), sharpness(pictures)
        self.labels = None if pack.labels is None else pack.labels[chosen].tolist()
        self.training = _thumbnails(pack, _drawn(pack.training, MOST_TRAINING))
        self.threshold = None
        if len(pack.heldout) >= 50 and len(self.training) > NEIGHBOURS:
            heldout = _thumbnails(pack, _drawn(pack.heldout, NUM_PICTURES))
            self.threshold = float(np.percentile(self._standing_out(heldout), STRANGE))
        self.before: Tensor | None = None
        self.cost = time.monotonic() - began

    def __call__(self, generator: Generator) -> dict[str, float]:
        images = generator.sample(len(self.real), seed=0, label=self.labels if generator.classes else None)
        found = self.features(images)
        kid = kid_interval(self.real, found)
        precision, recall = precision_recall(self.real, found)
        peaks = lattice(images[:LATTICE_PICTURES])
        vitals = {
            "score": kid.value,
            "margin": (kid.high - kid.low) / 2,
            "kid": kid.value,
            "precision": precision,
            "recall": recall,
            "diversity": _spread(found) / max(1e-12, self.spread),
            "lattice": max((peaks[period] / real for period, real in self.lattice.items()), default=1.0),
            "sharpness": sharpness(images[:LATTICE_PICTURES]) / max(1e-12, self.sharpness),
        }
        if self.threshold is not None:
            small = _normalised(F.interpolate(images, (THUMBNAIL, THUMBNAIL), mode="area"))
            vitals["near"] = float((self._standing_out(small) < self.threshold).mean())
        if self.before is not None:
            vitals["change"] = float((images - self.before).abs().mean() / 2)
        self.before = images
        return vitals

    def _standing_out(self, thumbnails: np.ndarray) -> np.ndarray:
        """Distance to the nearest training picture over the mean of the next ones: small for a copy (N,)."""
        distances = np.sqrt(nearest(thumbnails, self.training, NEIGHBOURS)[0])
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
