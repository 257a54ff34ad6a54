"""Detect copies of training images, also altered ones, parts of them, and mixtures with another image.

1. Retrieval: about 250 moved versions of the thumbnail find the most similar training images (`Index`).
2. Registration: for each of them, find the mirroring, shift, crop, rotation, tone, colour and sharpness with the
   smallest remaining difference (`registered`, `registration_errors`), more exactly for the nearest ones.
3. Scores: distance to the nearest training image divided by the distance to the next ones (after Carlini et al. 2023,
   "Extracting training data from diffusion models", section 4). A ratio is used because the usual distance depends on
   the data: digits are alike, faces are not. There is a score for the whole image, one without its left and one
   without its right quarter (collages), and one for the image explained by two training images (blends); the smallest
   counts. Real images show how low each gets by chance: held-out ones and, if these are few, training images that are
   compared with the others.

Noise does not hide a copy: differences are measured in the directions in which images differ, and the part that is
explained by the noise of the sample is subtracted.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.inspection.near_duplicates import nearest_neighbours
from ganvas.data.packing import holdout
from ganvas.data.packing.pack import Pack
from ganvas.errors import DataError
from ganvas.evaluation.intervals import Interval, share
from ganvas.evaluation.registration import (
    IDENTITY,
    areas,
    explained_by_two,
    move_in_words,
    moving,
    registered,
    registration_errors,
    versions,
)
from ganvas.evaluation.retrieval import (
    RETRIEVAL_SIDE,
    ROWS,
    ImagePyramid,
    Index,
    energy_of_noise,
    principal,
    pyramid_of,
    visible_areas,
    window,
    without_brightness,
)
from ganvas.results import CopyResults
from ganvas.system import files

CALIBRATION_FORMAT = 5  # version of the calibration in the cache
_DESCRIBED, _DECIDING = 64, 128  # principal components for retrieval and for the score
REGISTERED, _FINALISTS = 40, 9  # images registered; those compared finely
_FIRSTS, _PARTNERS = 4, 8  # first images of a blend in each of two frames; second images for each of the best two
_DISTINCT, _PAIRED = 0.02, 2**21  # least squared sine between two images of a blend; rows of first images at a time
_ALIGNED = 4  # nearest finalists, which are also registered finely; the usual distance needs no fine registration
_ROUNDS = (1, 2)  # iterations of coarse and of fine registration
_USUAL = slice(3, 8)  # finalists, nearest first, whose mean distance is the usual one
_BLANK = 1e-3  # standard deviation of a thumbnail without content
_SURE = 0.2  # fraction of a difference that noise never explains
_FALSE_ALARMS = 0.005  # false-alarm rate of held-out images
_COMPARED = 0.05  # quantile of the scores of real images at which the kinds of scores are made equal
KINDS = ("", "without the left quarter", "without the right quarter", "mixed with another image")
ENOUGH_TO_CALIBRATE, _CAUTION = 400, 0.9  # real images for calibration; factor of the threshold if fewer are held out
_LEAK, _LEAKED = 5.0, 0.2  # deviations below the others, and score, below which a real image is a near duplicate
HELDOUT = 2000  # most held-out images for calibration
LEAST_HELD_OUT, _DIFFERENT = (
    holdout.LEAST_FOR_COPIES,
    12,
)  # fewest held-out images, and fewest different training images
MOST_COMPARED = 500_000  # most training images to compare with, which limits memory to 1.5 GB (4 GB in colour)
_STRANGE = 0.02  # share of held-out images with a lower correlation to their nearest training image
_BLOCK, _VALUES = 128, 3 * 2**16  # images at a time; values of pairs at a time, few enough for the processor cache
_KEY = 16  # bytes of a hash


class Matches(NamedTuple):
    """The nearest training image of each of M images."""

    nearest: np.ndarray
    """(M,) int64: index into the pack's images."""
    correlation: np.ndarray
    """(M,) correlation of the registered pair, with fitted tones and sharpness: 0 to 1."""
    score: np.ndarray
    """(M,) distance to the nearest training image divided by the usual distance; 0: a copy, about 1: not a copy."""
    moved: list[str]
    """Changes from the training image to the sample: "mirrored, shifted", "mixed with another image"; "" for none."""


@dataclass(frozen=True, kw_only=True)
class Copies(CopyResults):
    """Copies in a set of samples. copies: (M,) bool."""

    matches: Matches
    copies: np.ndarray
    rate: Interval
    authenticity: Interval


class CopyFinder:
    """Find copies of the training images of a pack: `find` and `judge` for evaluation, `is_copy` while sampling.

    The constructor describes the training images and sets the threshold on held-out ones; the latter is kept in the
    cache. Runs on the CPU. Memory: 3 MB per thousand gray training images (8 MB in colour) plus 200 MB while searching.
    Of more than 500,000 training images, 500,000 are drawn at random; copies of others are not found.
    Training images with equal thumbnails count as one. Raises `DataError` for fewer than 20 held-out images, or
    fewer than 50 training images (or 12 different ones).
    """

    def __init__(self, pack: Pack, progress: Callable[[str, int, int], None] | None = None) -> None:
        if len(pack.heldout) < LEAST_HELD_OUT or pack.num_training < 50:
            raise DataError(
                f"{len(pack.heldout)} held-out and {pack.num_training} training images are too few to detect copies: "
                f"at least {LEAST_HELD_OUT} and 50 are needed (use a larger --holdout or more images)"
            )
        self.progress = progress or (lambda what, done, total: None)
        compared = pack.training
        if len(compared) > MOST_COMPARED:
            compared = np.sort(np.random.default_rng(0).choice(compared, MOST_COMPARED, replace=False))
        self.share_compared = len(compared) / pack.num_training
        thumbs = pyramid_of(pack.images, compared, self.progress)
        hashes = b"".join(hashlib.blake2b(one, digest_size=_KEY).digest() for one in thumbs.coarse.numpy())
        kept = np.sort(np.unique(np.frombuffer(hashes, np.dtype((np.void, _KEY))), return_index=True)[1])
        if len(kept) < _DIFFERENT:
            raise DataError(
                f"{len(kept)} different training images are too few to detect copies: at least {_DIFFERENT} are needed"
            )
        self.training = compared[kept]
        self.duplicates = len(compared) - len(kept)
        self.thumbs = thumbs if not self.duplicates else thumbs.at(kept)
        del thumbs
        self.versions = versions()
        self.describing = principal(self.thumbs.coarse[:, :1], _DESCRIBED, window())
        self.deciding = principal(self.thumbs.fine, _DECIDING)
        self.moving = moving(self.versions, self.describing)
        self.mirrored = int(self.versions[:, 0].argmax())  # the first of the mirrored versions, not moved otherwise
        lengths = visible_areas(self.thumbs.coarse, areas(self.versions, RETRIEVAL_SIDE))
        self.versions = torch.cat([self.versions, IDENTITY.expand(2, -1)])  # without the left and the right quarter
        self.rows = torch.cat([self.described(part, 1)[:, 0] for part in self.thumbs.coarse.split(ROWS)])
        self.index = Index(self.rows, lengths)
        self.noise = energy_of_noise(pack.images.shape[1:], self.deciding)
        self.factors = np.ones(len(KINDS))
        real, scores, self.correlations = self.calibration(pack)
        self.factors = _equalising(np.concatenate([real, scores]))
        real, scores = (self.smallest(part)[0] for part in (real, scores))
        self.heldout = real
        self.threshold, self.leaks = calibrate(real)
        every = np.concatenate([real, scores])
        if len(scores):
            self.threshold = _CAUTION * calibrate(every)[0]
        self.false_alarms = share(float((every < self.threshold).mean()), len(every))

    def calibration(self, pack: Pack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores (M, 4) of held-out images, (N, 4) of training images compared with the others if the former are few,
        and correlations (M,) of the former. Kept in the cache."""
        heldout = np.sort(np.random.default_rng(0).permutation(pack.heldout)[:HELDOUT])
        digest = hashlib.sha256(f"{CALIBRATION_FORMAT} {pack.hash}".encode())
        for part in (heldout, self.training, self.thumbs.fine.numpy(), self.thumbs.grain.numpy()):
            digest.update(np.ascontiguousarray(part).data)
        path = files.cache_dir() / "copies" / f"calibration-{digest.hexdigest()[:16]}.npz"
        if (known := read(path, len(heldout))) is not None:
            return known
        _, correlations, real, _ = self._search(pack.images[heldout])
        others = max(0, min(ENOUGH_TO_CALIBRATE - len(heldout), len(self.training)))
        scores = self.among_others(np.linspace(0, len(self.training) - 1, others).astype(int))
        write(path, real=real, others=scores, correlations=correlations)
        return real, scores, correlations

    def smallest(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest of the scores (M, 4) of each image, made comparable, and its kind."""
        scores = scores * self.factors
        return scores.min(axis=1), scores.argmin(axis=1)

    def described(self, coarse: Tensor, num: int) -> Tensor:
        """(N, num, 64) unit rows: principal components of the images, with each of the first `num` moves undone."""
        rows = coarse[:, 0].float().flatten(1) @ self.moving[:, : num * self.describing.shape[1]]
        return F.normalize(rows.view(len(coarse), num, -1), dim=2)

    def find(self, samples: np.ndarray) -> Matches:
        """The nearest training image of each sample (M, H, W, C) uint8 or uint16."""
        nearest, correlations, scores, moves = self._search(samples)
        smallest, kinds = self.smallest(scores)
        words = zip((move_in_words(move) for move in moves.tolist()), (KINDS[kind] for kind in kinds), strict=True)
        return Matches(nearest, correlations, smallest, [", ".join(filter(None, pair)) for pair in words])

    def _search(self, samples: np.ndarray) -> tuple[np.ndarray, ...]:
        """Index (M,), correlation (M,), scores (M, 4) and move (M, 5) of the nearest training image of each sample."""
        blocks = []
        for start in range(0, len(samples), _BLOCK):
            blocks.append(self._find(pyramid_of(samples[start : start + _BLOCK])))
            self.progress("searching for copies", min(start + _BLOCK, len(samples)), len(samples))
        nearest, correlations, scores, moves = (np.concatenate(part) for part in zip(*blocks, strict=True))
        return nearest, correlations, scores, moves

    def among_others(self, places: np.ndarray) -> np.ndarray:
        """Scores (N, 4) of the training images at these places of `training`, each compared with all others."""
        scores = [np.empty((0, len(KINDS)), np.float32)]
        for start in range(0, len(places), _BLOCK):
            part = places[start : start + _BLOCK]
            scores.append(self._find(self.thumbs.at(part), torch.from_numpy(part))[2])
            self.progress("choosing the threshold of copies", min(start + _BLOCK, len(places)), len(places))
        return np.concatenate(scores)

    def _find(self, queries: ImagePyramid, own: Tensor | None = None) -> tuple[np.ndarray, ...]:
        """What `_search` returns, of one block.

        own: (B,) the training image that each of them is, which is left out.
        """
        every = torch.arange(len(queries.fine))
        described = self.described(queries.coarse, len(self.versions))
        rows, start = self.index.search(described, REGISTERED)
        moves = self.versions[start]
        left, moves = _by_pairs(registered, queries.coarse, self.thumbs.coarse, rows, moves, _ROUNDS[0])
        left = left if own is None else torch.where(rows == own[:, None], torch.inf, left)
        best = left.topk(min(_FINALISTS, left.shape[1] - (own is not None)), dim=1, largest=False).indices
        rows, moves = rows.gather(1, best), moves[every[:, None], best]
        near = rows[:, :_ALIGNED], moves[:, :_ALIGNED]
        moves[:, :_ALIGNED] = _by_pairs(registered, queries.fine, self.thumbs.fine, *near, _ROUNDS[1])[1]
        inside, outside, whole = _by_pairs(
            registration_errors, queries.fine, self.thumbs.fine, rows, moves, self.deciding
        )
        # Noise of the sample beyond that of similar images, but not more than the other directions show.
        grain = (queries.grain - self.thumbs.grain[rows].median(dim=1).values).clamp_min(0)
        spread = _spread(queries.fine.float()).flatten() ** 2
        nearest = ((inside + outside) / whole)[:, :, 0].argmin(dim=1)
        noise = outside[every, nearest, 0] * self.noise[0] / self.noise[1]
        noise = torch.minimum(grain / spread * self.noise[0], noise)
        left = ((inside + outside) / whole)[:, :, 0]
        inside[:, :, 0] = torch.maximum(inside[:, :, 0] - noise[:, None], _SURE * inside[:, :, 0])
        distances = (inside / whole).sqrt().clamp_min(1e-3)
        ordered, order = distances.sort(dim=1)
        scores = ordered[:, 0] / ordered[:, _USUAL].mean(dim=1)  # (B, 3)
        left = left[every, order[:, 0, 0]]
        mixed = self._by_two(queries, described[:, [0, self.mirrored]], left, own)
        scores = torch.cat([scores, scores[:, :1] * mixed[:, None]], dim=1)
        correlation = (1 - left).clamp(0, 1).sqrt()
        contrast = queries.fine.float().flatten(2).std(dim=2).amax(dim=1)
        correlation *= contrast > _BLANK  # a blank image, also in colour, is explained by anything
        first = order[every, 0, (scores[:, :3] * torch.from_numpy(self.factors[:3])).argmin(dim=1)]
        matches = rows[every, first], correlation, scores, moves[every, first]
        return self.training[matches[0].numpy()], *(part.numpy() for part in matches[1:])

    def _by_two(self, queries: ImagePyramid, frames: Tensor, left: Tensor, own: Tensor | None) -> Tensor:
        """Factor (B,), 0 to 1, by which two training images reduce the distance of each of B images.

        frames: (B, 2, 64) the images as they are and mirrored. left: (B,) what the nearest row leaves after all moves.
        """
        size = max(1, _PAIRED // len(self.rows))
        parts = [
            self._pairs(frames[start : start + size], None if own is None else own[start : start + size])
            for start in range(0, len(frames), size)
        ]
        firsts, partners, mirrored = (torch.cat(part).flatten(0, 1) for part in zip(*parts, strict=True))
        moves = IDENTITY.repeat(len(firsts), 1)
        moves[:, 0] = mirrored
        images = _standard(queries.fine.float()).repeat_interleave(len(firsts) // len(frames), dim=0)
        targets = _standard(self.thumbs.fine[firsts].float())
        others = _standard(self.thumbs.fine[partners.flatten()].float()).unflatten(0, partners.shape)
        mixed = explained_by_two(images, targets, moves, others).view(len(frames), -1).amin(dim=1)
        return (mixed / left.clamp_min(1e-6)).clamp(0, 1).sqrt()

    def _pairs(self, frames: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of rows that together explain most of each of B images.

        Method: orthogonal least squares (Chen, Billings & Luo 1989), from several first images. An image with little
        contrast that is mixed with one of much contrast is only found as the second of a pair.

        Returns first images (B, 2), their partners (B, 2, 8), and whether the image is mirrored (B, 2).
        """
        similar = frames @ self.rows.T
        if own is not None:
            similar[torch.arange(len(own)), :, own] = -torch.inf
        likeness, firsts = (part.flatten(1) for part in similar.topk(_FIRSTS, dim=2))  # (B, 2 * FIRSTS)
        rows, known = self.rows[firsts], likeness.clamp_min(0)[:, :, None]
        rest = frames.repeat_interleave(_FIRSTS, dim=1) - known * rows
        gain = (rest @ self.rows.T).clamp_min(0) / (1 - (rows @ self.rows.T) ** 2).clamp_min(_DISTINCT).sqrt()
        if own is not None:
            gain[torch.arange(len(own)), :, own] = 0
        gain, partners = gain.topk(min(_PARTNERS, gain.shape[2] - 2), dim=2)
        best = (known[:, :, 0] ** 2 + gain[:, :, 0] ** 2).topk(2, dim=1).indices
        every = torch.arange(len(frames))[:, None]
        return firsts[every, best], partners[every, best], best >= _FIRSTS

    def is_copy(self, samples: np.ndarray) -> np.ndarray:
        """(M,) bool: which samples are copies."""
        return self.flagged(self.find(samples))

    def flagged(self, matches: Matches) -> np.ndarray:
        """(M,) bool: which images are copies. A blank image, which has no correlation with any other, is none."""
        return (matches.score < self.threshold) & (matches.correlation > 0)

    def judge(self, samples: np.ndarray, unlike: bool = False) -> Copies:
        """Evaluate samples (M, H, W, C): copy rate, authenticity, comparison with held-out images.

        unlike: whether a feature network has found that the samples do not resemble the data.
        """
        matches = self.find(samples)
        copies = self.flagged(matches)
        rate = share(float(copies.mean()), len(copies))
        closer = dominance(matches.score, self.heldout)
        caught = rate.low > max(_FALSE_ALARMS, self.false_alarms.high)
        strange = matches.correlation < np.quantile(self.correlations, _STRANGE)
        meaningful = caught or not (unlike or strange.mean() > 0.5)
        flagged = f"{int(copies.sum()):,} of {len(copies):,} samples flagged as copies"
        if caught:
            sentence = f"{rate.value:.1%} of the images are copies of training images: {flagged}"
        elif not meaningful:
            sentence = f"not meaningful: these images do not resemble the data: {flagged}"
        elif closer.low > 0.55:
            sentence = f"generated images are closer to training images than held-out images are: {flagged}"
        else:
            sentence = f"no sign of copying: {flagged}, no more than of real images"
        if meaningful and not caught:
            sentence += f"; {len(copies):,} samples cannot rule out a copy rate below {rate.high:.1%}"
        sentence += f" (false-alarm rate at most {self.false_alarms.high:.1%})"
        if self.share_compared < 1:
            sentence += f"; only {self.share_compared:.1%} of the training images, drawn at random, were compared"
        return Copies(
            num=len(copies),
            rate=rate,
            caught=caught,
            meaningful=meaningful,
            false_alarms=self.false_alarms.value,
            threshold=self.threshold,
            authenticity=self.authenticity(samples, matches),
            closer_than_heldout=closer,
            training_duplicates=self.duplicates,
            leaks=self.leaks,
            sentence=sentence,
            matches=matches,
            copies=copies,
        )

    def authenticity(self, samples: np.ndarray, matches: Matches) -> Interval:
        """Alaa et al. 2022, "How faithful is your synthetic data?", section 3.3, in the features for retrieval."""
        own = self.rows[np.searchsorted(self.training, matches.nearest)].numpy()
        others = np.sqrt(nearest_neighbours(own, self.rows.numpy(), 2)[0][:, 1])
        blocks = (pyramid_of(samples[start : start + _BLOCK]) for start in range(0, len(samples), _BLOCK))
        rows = [self.described(thumbs.coarse, 1) for thumbs in blocks]
        distance = np.linalg.norm(torch.cat(rows)[:, 0].numpy() - own, axis=1)
        authentic = (distance >= others) & (matches.score >= self.threshold)  # the distance is of unmoved images
        return share(float(authentic.mean()), len(samples))


def calibrate(scores: np.ndarray) -> tuple[float, int]:
    """Return (score below which an image is a copy, number of images that are near duplicates of training images).

    The threshold is the 0.5% quantile of the scores of real images. Near duplicates of training images are left out:
    held-out images that leaked, or twins among the training images.
    """
    logs = np.log(np.maximum(scores, 1e-4))
    low, middle, high = np.percentile(logs, [25, 50, 75])
    deviation = max((high - low) / 1.349, (middle - low) / 0.6745, 1e-3)
    leaked = (logs < middle - _LEAK * deviation) & (scores < _LEAKED)
    return float(np.exp(np.quantile(logs[~leaked], _FALSE_ALARMS))), int(leaked.sum())


def dominance(samples: np.ndarray, heldout: np.ndarray) -> Interval:
    """Probability that the score of a sample is below that of a held-out image (ties count half).

    Mann-Whitney statistic with DeLong's interval (Meehan et al. 2020, "A non-parametric test to detect data-copying").
    """
    order = np.sort(heldout)
    above = 1 - (np.searchsorted(order, samples, "left") + np.searchsorted(order, samples, "right")) / 2 / len(order)
    ranked = np.sort(samples)
    below = (np.searchsorted(ranked, heldout, "left") + np.searchsorted(ranked, heldout, "right")) / 2 / len(ranked)
    half = 1.96 * float(np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)))
    value = float(above.mean())
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def _equalising(scores: np.ndarray) -> np.ndarray:
    """Factors (4,) by which the kinds of scores of real images (N, 4) become equally low by chance; the first is 1.

    Near duplicates are left out.
    """
    usual = scores[scores[:, 0] >= _LEAKED]
    low = np.quantile(usual if len(usual) else scores, _COMPARED, axis=0)
    return low[0] / np.maximum(low, 1e-3)


# ---- the calibration in the cache ----


def read(path: Path, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Calibration with `num` held-out images; None if missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            real, others, correlations = (content[name] for name in ("real", "others", "correlations"))
    except Exception:  # damaged files can make numpy and zipfile raise almost anything
        return None
    fits = real.shape == (num, len(KINDS)) and others.shape[1:] == (len(KINDS),) and correlations.shape == (num,)
    return (real, others, correlations) if fits else None


def write(path: Path, **content: np.ndarray) -> None:
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **content))


# ---- pairs ----


def _by_pairs(
    function: Callable[..., tuple[Tensor, ...]], images: Tensor, base: Tensor, rows: Tensor, moves: Tensor, last: Any
) -> list[Tensor]:
    """Apply `function` to each of B images paired with each of its rows (B, K) of the base: results (B, K, ...)."""
    images = _standard(images.float())
    parts = []
    for pairs in torch.arange(rows.numel()).split(max(1, _VALUES // base[0].numel())):
        targets = _standard(base[rows.flatten()[pairs]].float())
        parts.append(function(images[pairs // rows.shape[1]], targets, moves.flatten(0, 1)[pairs], last))
    return [torch.cat(part).unflatten(0, rows.shape) for part in zip(*parts, strict=True)]


def _standard(thumbs: Tensor) -> Tensor:
    """Scale to mean 0 of the luminance and mean square 1."""
    return without_brightness(thumbs).view_as(thumbs) / _spread(thumbs)


def _spread(thumbs: Tensor) -> Tensor:
    return without_brightness(thumbs).square().mean(dim=1).sqrt().clamp_min(1e-3)[:, None, None, None]
