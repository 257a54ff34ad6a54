"""Is a generated picture a training picture? The nearest one, found through mirroring, shifts, crops and other tones.

A picture is sought in two steps. Small thumbnails of it and of a few moved versions retrieve candidates among all
training pictures. Each candidate is then registered: the best normalised correlation over mirroring, shifts and crops,
of those places that both show. What decides is not how near the best candidate is, since digits are alike and faces are
not, but how much nearer than the other candidates (after Carlini et al. 2023, "Extracting training data from diffusion
models", section 4): the same number of held-out real pictures says how low it gets by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.near import nearest
from ganvas.data.pack import Pack
from ganvas.errors import DataError
from ganvas.judge.intervals import Interval, share

COARSE, FINE = 12, 32  # pixels a side of the thumbnails that retrieve, and of those that are registered
CANDIDATES = 24  # registered for each picture; the farther half tells what is usual
COMPONENTS = 64  # principal ones, in which candidates are retrieved
SHIFTS = (-0.1, -0.05, 0.0, 0.05, 0.1)  # of the side
CROPS, CROP = (-0.05, 0.0, 0.05), 0.9  # where a crop lies, and the part of the whole that it fills
REFINED = 4  # candidates whose registration is refined
STEPS = (0.04, 0.04, 0.02, 0.02, 0.01, 0.01, 0.005)  # of the refinement, of the side
BASE = 8192  # training pictures at a time
FALSE_ALARMS = 0.005  # of held-out pictures
FEW = 400  # held-out pictures below which the tail is a fitted one
FITTED = 3.2  # deviations from the median, by the lower quartile: tails are heavier than the normal one's 2.6
LEAK = 5.0  # deviations below the others at which a held-out picture is a training picture itself
HELDOUT = 2000  # held-out pictures that calibrate, at most
LEAST = 20  # of them
BLOCK = 128  # pictures at a time


class Found(NamedTuple):
    """What is nearest to each of M pictures."""

    nearest: np.ndarray
    """(M,) int64: index into the pack's pictures."""
    correlation: np.ndarray
    """(M,) of the registered pair, -1 to 1."""
    score: np.ndarray
    """(M,) distance to the nearest training picture over the usual distance to its like: 0 a copy, near 1 none."""
    moved: list[str]
    """What maps the training picture to the sample: "mirrored, shifted", "" for nothing."""


@dataclass(frozen=True)
class Copies:
    """What was found of a set of samples."""

    found: Found
    copies: np.ndarray
    """(M,) bool."""
    rate: Interval
    """Share of the samples that are copies; of held-out pictures `false_alarms` pass for copies."""
    authenticity: Interval
    """Share of samples that are farther from their training picture than that is from its nearest other one."""
    closer: Interval
    """Chance that a sample lies nearer to a training picture than a held-out one does; 0.5 for a perfect generator."""
    sentence: str


class CopyFinder:
    """Built once from a pack; `find` and `judge` then take samples, `is_copy` is the gate of sampling.

    Everything is on the CPU; memory is 2 MB a thousand gray training pictures (6 MB in colour).
    Raises `DataError` where fewer than 20 pictures were held out, or fewer than 50 remain to train on.
    """

    def __init__(self, pack: Pack, progress: Callable[[str, int, int], None] | None = None) -> None:
        if len(pack.heldout) < LEAST or pack.num_training < 50:
            raise DataError(
                f"{len(pack.heldout)} held-out and {pack.num_training} training pictures cannot tell copies from "
                f"likeness: at least {LEAST} and 50 are needed (--holdout, or more pictures)"
            )
        self.training = pack.training
        self.progress = progress or (lambda what, done, total: None)
        self.channels = min(pack.channels, 3)
        parts = [self.thumbnails(pack.images[block]) for block in _blocks(pack.training, 8 * BLOCK)]
        self.fine = torch.cat(parts)
        coarse = _unit(_reduced(self.fine, COARSE))
        self.coarse = coarse.numpy()
        self.components = principal(coarse)
        self.base = self.described(self.fine)
        self.versions = versions()
        heldout = np.sort(np.random.default_rng(0).permutation(pack.heldout)[:HELDOUT])
        self.heldout = self.find(pack.images[heldout]).score
        self.threshold, self.leaks = calibrate(self.heldout)
        self.false_alarms = share(float((self.heldout < self.threshold).mean()), len(self.heldout))

    def thumbnails(self, pixels: np.ndarray) -> Tensor:
        """(N, H, W, C) uint8 or uint16 -> (N, C, 20, 20) float32 in 0..1, opacity left out."""
        pictures = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)[:, :3] / np.iinfo(pixels.dtype).max
        # A little blurred: what a copy has lost by compression or resizing, or gained as noise, does not count.
        rows = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
        for _ in range(4):  # a binomial kernel of deviation 1 pixel
            rows = F.avg_pool2d(rows, 2, 1)
        return F.interpolate(rows, (FINE, FINE), mode="bilinear", antialias=True)

    def find(self, samples: np.ndarray) -> Found:
        """The nearest training picture of each sample (M, H, W, C) uint8 or uint16."""
        rows, correlations, scores, moved = [], [], [], []
        for start in range(0, len(samples), BLOCK):
            queries = self.thumbnails(samples[start : start + BLOCK])
            candidates, versions = self.candidates(queries)
            best, moves = self.registered(queries, candidates, versions)
            order = best.argsort(dim=1, descending=True)
            ranked = best.gather(1, order).clamp(-1, 1)
            distances = (1 - ranked).sqrt()
            usual = distances[:, CANDIDATES // 2 :].mean(dim=1)
            first = order[:, 0]
            rows.append(self.training[candidates[torch.arange(len(first)), first].numpy()])
            correlations.append(ranked[:, 0].numpy())
            scores.append((distances[:, 0] / usual.clamp_min(1e-6)).numpy())
            moved += [in_words(move) for move in moves[torch.arange(len(first)), first].tolist()]
            self.progress("looking for copies", min(start + BLOCK, len(samples)), len(samples))
        return Found(np.concatenate(rows), np.concatenate(correlations), np.concatenate(scores), moved)

    def candidates(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(B, CANDIDATES) rows of the training thumbnails nearest to any version of the query, and which version."""
        rows = torch.cat([self.described(_moved(queries, move.expand(len(queries), 4))[0]) for move in self.versions])
        values, indices, versions = [], [], []
        for base, start in zip(self.base.split(BASE), range(0, len(self.base), BASE), strict=True):
            similar = (rows @ base.T).view(len(self.versions), len(queries), -1)
            best, which = similar.max(dim=0)
            top, places = best.topk(min(CANDIDATES, best.shape[1]), dim=1)
            values.append(top)
            indices.append(places + start)
            versions.append(which.gather(1, places))
        order = torch.cat(values, 1).topk(CANDIDATES, dim=1).indices
        return torch.cat(indices, 1).gather(1, order), torch.cat(versions, 1).gather(1, order)

    def described(self, thumbnails: Tensor) -> Tensor:
        """Rows of length 1 in the principal components of the training pictures' coarse thumbnails."""
        return F.normalize(_unit(_reduced(thumbnails, COARSE)) @ self.components, dim=1)

    def registered(self, queries: Tensor, candidates: Tensor, versions: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised correlation with each candidate (B, K), refined for the best, and its move (B, K, 4)."""
        num = len(queries)
        moves = self.versions[versions]
        targets = self.fine[candidates]
        repeated = queries[:, None].expand(-1, CANDIDATES, -1, -1, -1)
        best = _correlation(repeated.flatten(0, 1), targets.flatten(0, 1), moves.flatten(0, 1)).view(num, CANDIDATES)
        chosen = best.topk(REFINED, dim=1).indices
        every = torch.arange(num)[:, None].expand_as(chosen)
        picture, target = repeated[every, chosen].flatten(0, 1), targets[every, chosen].flatten(0, 1)
        move, value = moves[every, chosen].flatten(0, 1), best[every, chosen].flatten()
        for step in STEPS:
            for column in (1, 2, 3):
                for sign in (-1.0, 1.0):
                    tried = move.clone()
                    tried[:, column] += sign * step
                    tried[:, 3].clamp_(0.8, 1.0)
                    found = _correlation(picture, target, tried)
                    better = found > value
                    value, move = torch.where(better, found, value), torch.where(better[:, None], tried, move)
        best[every, chosen] = value.view_as(chosen)
        moves[every, chosen] = move.view(num, REFINED, 4)
        return best, moves

    def is_copy(self, samples: np.ndarray) -> np.ndarray:
        """(M,) bool: which samples the gate refuses."""
        return self.find(samples).score < self.threshold

    def judge(self, samples: np.ndarray) -> Copies:
        """Rate, authenticity and comparison with the held-out pictures, in one sentence."""
        found = self.find(samples)
        copies = found.score < self.threshold
        rate = share(float(copies.mean()), len(copies))
        closer = dominance(found.score, self.heldout)
        if rate.low > max(FALSE_ALARMS, self.false_alarms.high):
            verdict = f"{rate.value:.1%} of the pictures are copies of training pictures"
        elif closer.low > 0.55:
            verdict = "the pictures lie nearer to training pictures than real ones do, though few are copies"
        else:
            verdict = "no sign of copying"
        sentence = (
            f"{verdict}: {int(copies.sum()):,} of {len(copies):,} samples pass for copies ({rate.low:.2%} to "
            f"{rate.high:.2%}), of held-out real pictures {self.false_alarms.value:.2%} do"
        )
        return Copies(found, copies, rate, self.authenticity(samples, found), closer, sentence)

    def authenticity(self, samples: np.ndarray, found: Found) -> Interval:
        """Alaa et al. 2022, "How faithful is your synthetic data?", section 3.3, in thumbnails of equal tone."""
        places = np.searchsorted(self.training, found.nearest)
        rows = self.coarse[places]
        own = np.sqrt(nearest(rows, self.coarse, 2)[0][:, 1])
        queries = [
            _unit(_reduced(self.thumbnails(samples[block]), COARSE)) for block in _blocks(np.arange(len(samples)))
        ]
        distance = np.linalg.norm(torch.cat(queries).numpy() - rows, axis=1)
        return share(float((distance >= own).mean()), len(samples))


def calibrate(scores: np.ndarray) -> tuple[float, int]:
    """(the score below which a picture is a copy, how many held-out pictures are training pictures themselves).

    The 0.5% quantile of the held-out pictures' scores; of fewer than 400 that of a normal distribution of their
    logarithms, by median and quartiles. Held-out pictures that leaked into the training part are left out.
    """
    logs = np.log(np.maximum(scores, 1e-4))
    low, middle, high = np.percentile(logs, [25, 50, 75])
    deviation = max((high - low) / 1.349, 1e-3)
    leaked = logs < middle - LEAK * max(deviation, (middle - low) / 0.6745)
    kept = logs[~leaked]
    if len(kept) >= FEW:
        return float(np.exp(np.quantile(kept, FALSE_ALARMS))), int(leaked.sum())
    return float(np.exp(middle - FITTED * max(deviation, (middle - low) / 0.6745))), int(leaked.sum())


def dominance(samples: np.ndarray, heldout: np.ndarray) -> Interval:
    """Chance that a sample's score is below a held-out picture's (ties count half), with DeLong's interval.

    The statistic of Mann & Whitney, as Meehan et al. 2020, "A non-parametric test to detect data-copying", use it.
    """
    order = np.sort(heldout)
    above = 1 - (np.searchsorted(order, samples, "left") + np.searchsorted(order, samples, "right")) / 2 / len(order)
    ranked = np.sort(samples)
    below = (np.searchsorted(ranked, heldout, "left") + np.searchsorted(ranked, heldout, "right")) / 2 / len(ranked)
    half = 1.96 * float(np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)))
    value = float(above.mean())
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


# ---- moved pictures ----


def versions() -> Tensor:
    """(V, 4): mirrored or not; shifted by up to a tenth, or a crop put back where it may come from (`_moved`)."""
    shifts = [(y, x, 1.0) for y in SHIFTS for x in SHIFTS]
    crops = [(y, x, CROP) for y in CROPS for x in CROPS]
    return torch.tensor([(mirrored, *move) for mirrored in (0.0, 1.0) for move in shifts + crops])


def in_words(move: list[float]) -> str:
    mirrored, y, x, scale = move
    cropped, shifted = scale < 0.97, max(abs(y), abs(x)) > 0.02
    return ", ".join(["mirrored"] * (mirrored > 0) + ["cropped"] * cropped + ["shifted"] * (shifted and not cropped))


def principal(rows: Tensor) -> Tensor:
    """(D, 64): the first principal components of at most 8,192 of the rows."""
    some = rows[:: max(1, len(rows) // BASE)]
    values, vectors = torch.linalg.eigh(some.T @ some)
    return vectors[:, values.argsort(descending=True)[:COMPONENTS]]


def _correlation(pictures: Tensor, targets: Tensor, moves: Tensor) -> Tensor:
    """Normalised correlation (N,) of moved pictures with their targets (N, C, S, S), where the moved ones show."""
    moved, inside = _moved(pictures, moves)
    mask = inside[:, None].expand_as(moved).flatten(1)
    size = mask.sum(dim=1, keepdim=True)
    first, second = moved.flatten(1), targets.flatten(1)
    first = (first - (first * mask).sum(dim=1, keepdim=True) / size) * mask
    second = (second - (second * mask).sum(dim=1, keepdim=True) / size) * mask
    norms = first.norm(dim=1).clamp_min(1e-3) * second.norm(dim=1).clamp_min(1e-3)
    return (first * second).sum(dim=1) / norms


def _moved(pictures: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures put back where they were shifted or cropped from: (N, C, S, S), and where they show anything (N, S, S).

    moves (N, 4): 1 for mirrored first; y and x, of the side, where the middle goes; part of the whole that is filled.
    """
    mirrored, y, x, scale = moves.unbind(dim=1)
    zero = torch.zeros_like(y)
    sign = 1 - 2 * mirrored
    rows = [
        torch.stack([sign / scale, zero, -2 * sign * x / scale], 1),
        torch.stack([zero, 1 / scale, -2 * y / scale], 1),
    ]
    places = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    inside = (places.abs() <= 1).all(dim=3).float()
    return F.grid_sample(pictures, places, padding_mode="border", align_corners=False), inside


def _reduced(thumbnails: Tensor, side: int) -> Tensor:
    return F.interpolate(thumbnails, (side, side), mode="bilinear", antialias=True)


def _unit(thumbnails: Tensor) -> Tensor:
    """Rows of mean 0 and length 1: brightness and contrast do not count."""
    rows = thumbnails.flatten(1)
    return F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)


def _blocks(indices: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
