"""Detect copies of training images, also mirrored, shifted, cropped, or with changed tones.

1. Retrieval: about 200 moved versions of the thumbnail find the most similar training images (`Index`).
2. Registration: for each of them, find the mirroring, shift, crop, tone and sharpness with the smallest remaining
   difference (`registered`, `differences`).
3. Score: distance to the nearest training image divided by the distance to the next ones (after Carlini et al. 2023,
   "Extracting training data from diffusion models", section 4). A ratio is used because the usual distance depends on
   the data: digits are alike, faces are not. Real images show how low the ratio gets by chance: held-out ones and, if
   these are few, training images that are compared with the others.

Noise does not hide a copy: differences are measured in the directions in which images differ, and the part that is
explained by the noise of the sample is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.inspection.near_duplicates import nearest
from ganvas.data.packing import holdout
from ganvas.data.packing.pack import Pack
from ganvas.errors import DataError
from ganvas.evaluation.appearance import grain
from ganvas.evaluation.intervals import Interval, share

COARSE, FINE = 16, 32  # thumbnail sides in pixels: for retrieval and coarse registration; for fine registration
DESCRIBED, DECIDING = 64, 128  # principal components for retrieval and for the score
SHIFTS = np.linspace(-0.1, 0.1, 7)  # fractions of the side
CROPS = ((0.95, 0.02, 3), (0.9, 0.04, 3), (0.86, 0.06, 5))  # cropped fraction, largest offset, positions per side
BORDER = 0.1  # fraction of the side that has less weight in retrieval
EXHAUSTIVE = 2000  # training images up to which the index has one part
PROBES = 3  # parts of the index that are searched for each moved version
CANDIDATES, FINALISTS = 64, 12  # images registered coarsely, and finely
ROUNDS = (2, 3)  # iterations of coarse and of fine registration
USUAL = slice(3, 8)  # finalists, nearest first, whose mean distance is the usual one
BLANK = 1e-3  # standard deviation of a thumbnail without content
SURE = 0.2  # fraction of a difference that noise never explains
FALSE_ALARMS = 0.005  # false-alarm rate of held-out images
ENOUGH, CAUTION = 400, 0.9  # real images for calibration; factor of the threshold if fewer are held out
LEAK, LEAKED = 5.0, 0.2  # deviations below the others, and score, below which a real image is a near duplicate
HELDOUT = 2000  # most held-out images for calibration
LEAST = holdout.TO_TELL_COPIES  # fewest held-out images
STRANGE = 0.02  # share of held-out images with a lower correlation to their nearest training image
BLOCK, PAIRS = 128, 256  # images and pairs at a time
PIXELS = 2**22  # pixels at a time
ROWS = 8192  # training images at a time


class Found(NamedTuple):
    """The nearest training image of each of M images."""

    nearest: np.ndarray
    """(M,) int64: index into the pack's images."""
    correlation: np.ndarray
    """(M,) correlation of the registered pair, with fitted tones and sharpness: 0 to 1."""
    score: np.ndarray
    """(M,) distance to the nearest training image divided by the usual distance; 0: a copy, about 1: not a copy."""
    moved: list[str]
    """Changes from the training image to the sample: "mirrored, shifted"; "" for none."""


@dataclass(frozen=True)
class Copies:
    """Copies in a set of samples."""

    found: Found
    copies: np.ndarray
    """(M,) bool."""
    rate: Interval
    """Share of samples flagged as copies; compare with `CopyFinder.false_alarms`."""
    authenticity: Interval
    """Share of samples farther from their nearest training image than that image is from its nearest neighbour."""
    closer: Interval
    """Probability that a sample is closer to a training image than a held-out image is; 0.5 is ideal."""
    caught: bool
    """Whether the rate exceeds chance and the false-alarm rate."""
    meaningful: bool
    """Whether the samples resemble the data; otherwise the absence of copies means nothing."""
    sentence: str


class CopyFinder:
    """Find copies of the training images of a pack: `find` and `judge` for evaluation, `is_copy` while sampling.

    Runs on the CPU. Memory: 3 MB per thousand gray training images (8 MB in colour) plus 200 MB while searching.
    Training images with equal thumbnails count as one. Raises `DataError` for fewer than 20 held-out images, or
    fewer than 50 training images (or 12 different ones).
    """

    def __init__(self, pack: Pack, progress: Callable[[str, int, int], None] | None = None) -> None:
        if len(pack.heldout) < LEAST or pack.num_training < 50:
            raise DataError(
                f"{len(pack.heldout)} held-out and {pack.num_training} training images are too few to detect copies: "
                f"at least {LEAST} and 50 are needed (use a larger --holdout or more images)"
            )
        self.progress = progress or (lambda what, done, total: None)
        thumbs = thumbnails(pack.images, pack.training, self.progress)
        keys = thumbs.coarse.numpy().reshape(len(pack.training), -1)
        kept = np.sort(np.unique(keys.view(np.dtype((np.void, keys.strides[0])))[:, 0], return_index=True)[1])
        if len(kept) < FINALISTS:
            raise DataError(
                f"{len(kept)} different training images are too few to detect copies: at least {FINALISTS} are needed"
            )
        self.training = pack.training[kept]
        self.duplicates = len(pack.training) - len(kept)
        self.thumbs = thumbs.at(kept)
        self.versions = versions()
        self.describing = principal(self.thumbs.coarse, DESCRIBED, window(pack.channels))
        self.deciding = principal(self.thumbs.fine, DECIDING)
        self.moving = moving(self.versions, self.describing)
        self.rows = torch.cat([self.described(part, 1)[:, 0] for part in self.thumbs.coarse.split(ROWS)])
        self.index = Index(self.rows)
        self.noise = energy_of_noise(pack.images.shape[1:], self.deciding)
        heldout = np.sort(np.random.default_rng(0).permutation(pack.heldout)[:HELDOUT])
        real = self.find(pack.images[heldout])
        self.heldout, self.correlations = real.score, real.correlation
        self.threshold, self.leaks = calibrate(self.heldout)
        others = min(ENOUGH - len(heldout), len(self.training))
        if others > 0:
            scores = self.among_others(np.linspace(0, len(self.training) - 1, others).astype(int))
            scores = np.concatenate([self.heldout, scores])
            self.threshold = CAUTION * calibrate(scores)[0]
        else:
            scores = self.heldout
        self.false_alarms = share(float((scores < self.threshold).mean()), len(scores))

    def described(self, coarse: Tensor, num: int) -> Tensor:
        """(N, num, 64) unit rows: principal components of the images, with each of the first `num` moves undone."""
        rows = coarse.float().flatten(1) @ self.moving[:, : num * self.describing.shape[1]]
        return F.normalize(rows.view(len(coarse), num, -1), dim=2)

    def find(self, samples: np.ndarray) -> Found:
        """The nearest training image of each sample (M, H, W, C) uint8 or uint16."""
        found = []
        for start in range(0, len(samples), BLOCK):
            found.append(self._find(thumbnails(samples[start : start + BLOCK])))
            self.progress("searching for copies", min(start + BLOCK, len(samples)), len(samples))
        nearest, correlations, scores, moves = (np.concatenate(part) for part in zip(*found, strict=True))
        return Found(nearest, correlations, scores, [in_words(move) for move in moves.tolist()])

    def among_others(self, places: np.ndarray) -> np.ndarray:
        """Scores of the training images at these places of `training`, each compared with all others."""
        blocks = np.split(places, range(BLOCK, len(places), BLOCK))
        return np.concatenate([self._find(self.thumbs.at(part), torch.from_numpy(part))[2] for part in blocks])

    def _find(self, queries: Thumbnails, own: Tensor | None = None) -> tuple[np.ndarray, ...]:
        """Index, correlation, score and move (B, 4) of the nearest training image of each of B images.

        own: (B,) the training image that each of them is, which is left out.
        """
        every = torch.arange(len(queries.fine))
        rows, versions = self.index.search(self.described(queries.coarse, len(self.versions)), CANDIDATES)
        moves = self.versions[versions]
        left, moves = _by_pairs(registered, queries.coarse, self.thumbs.coarse, rows, moves, ROUNDS[0])
        left = left if own is None else torch.where(rows == own[:, None], torch.inf, left)
        best = left.topk(min(FINALISTS, left.shape[1] - (own is not None)), dim=1, largest=False).indices
        rows, moves = rows.gather(1, best), moves[every[:, None], best]
        _, moves = _by_pairs(registered, queries.fine, self.thumbs.fine, rows, moves, ROUNDS[1])
        inside, outside, whole = _by_pairs(differences, queries.fine, self.thumbs.fine, rows, moves, self.deciding)
        # Noise of the sample beyond that of similar images, but not more than the other directions show.
        grain = (queries.grain - self.thumbs.grain[rows].median(dim=1).values).clamp_min(0)
        spread = _spread(queries.fine.float()).flatten() ** 2
        nearest = ((inside + outside) / whole).argmin(dim=1)
        noise = torch.minimum(grain / spread * self.noise[0], outside[every, nearest] * self.noise[0] / self.noise[1])
        distances = (torch.maximum(inside - noise[:, None], SURE * inside) / whole).sqrt().clamp_min(1e-3)
        order = distances.argsort(dim=1)
        usual = distances.gather(1, order[:, USUAL]).mean(dim=1)
        first = order[:, 0]
        correlation = (1 - (inside + outside) / whole)[every, first].clamp(0, 1).sqrt()
        correlation *= queries.fine.float().flatten(1).std(dim=1) > BLANK  # a blank image is explained by anything
        found = rows[every, first], correlation, distances[every, first] / usual, moves[every, first]
        return self.training[found[0].numpy()], *(part.numpy() for part in found[1:])

    def is_copy(self, samples: np.ndarray) -> np.ndarray:
        """(M,) bool: which samples are copies."""
        return self.find(samples).score < self.threshold

    def judge(self, samples: np.ndarray, unlike: bool = False) -> Copies:
        """Evaluate samples (M, H, W, C): copy rate, authenticity, comparison with held-out images.

        unlike: whether a feature network has found that the samples do not resemble the data.
        """
        found = self.find(samples)
        copies = found.score < self.threshold
        rate = share(float(copies.mean()), len(copies))
        closer = dominance(found.score, self.heldout)
        caught = rate.low > max(FALSE_ALARMS, self.false_alarms.high)
        strange = found.correlation < np.quantile(self.correlations, STRANGE)
        meaningful = caught or not (unlike or strange.mean() > 0.5)
        if caught:
            verdict = f"{rate.value:.1%} of the images are copies of training images"
        elif not meaningful:
            verdict = "not meaningful: these images do not resemble the data"
        elif closer.low > 0.55:
            verdict = "generated images are closer to training images than held-out images are, but few are copies"
        else:
            verdict = "no sign of copying"
        sentence = (
            f"{verdict}: {int(copies.sum()):,} of {len(copies):,} samples flagged as copies ({rate.low:.2%} to "
            f"{rate.high:.2%}; false-alarm rate {self.false_alarms.value:.2%})"
        )
        return Copies(found, copies, rate, self.authenticity(samples, found), closer, caught, meaningful, sentence)

    def authenticity(self, samples: np.ndarray, found: Found) -> Interval:
        """Alaa et al. 2022, "How faithful is your synthetic data?", section 3.3, in the features for retrieval."""
        own = self.rows[np.searchsorted(self.training, found.nearest)].numpy()
        others = np.sqrt(nearest(own, self.rows.numpy(), 2)[0][:, 1])
        blocks = (thumbnails(samples[start : start + BLOCK]) for start in range(0, len(samples), BLOCK))
        rows = [self.described(thumbs.coarse, 1) for thumbs in blocks]
        distance = np.linalg.norm(torch.cat(rows)[:, 0].numpy() - own, axis=1)
        return share(float((distance >= others).mean()), len(samples))


def calibrate(scores: np.ndarray) -> tuple[float, int]:
    """Return (score below which an image is a copy, number of images that are near duplicates of training images).

    The threshold is the 0.5% quantile of the scores of real images. Near duplicates of training images are left out:
    held-out images that leaked, or twins among the training images.
    """
    logs = np.log(np.maximum(scores, 1e-4))
    low, middle, high = np.percentile(logs, [25, 50, 75])
    deviation = max((high - low) / 1.349, (middle - low) / 0.6745, 1e-3)
    leaked = (logs < middle - LEAK * deviation) & (scores < LEAKED)
    return float(np.exp(np.quantile(logs[~leaked], FALSE_ALARMS))), int(leaked.sum())


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


# ---- thumbnails ----


class Thumbnails(NamedTuple):
    """Thumbnails of N images in 0 to 1, without opacity."""

    fine: Tensor
    """(N, C, 32, 32) float16."""
    coarse: Tensor
    """(N, C, 16, 16) float16."""
    grain: Tensor
    """(N,) float32: noise variance at full size."""

    def at(self, places: np.ndarray) -> Thumbnails:
        return Thumbnails(*(part[torch.from_numpy(places)] for part in self))


def thumbnails(
    images: np.ndarray, places: np.ndarray | None = None, progress: Callable[[str, int, int], None] | None = None
) -> Thumbnails:
    """Thumbnails of images (N, H, W, C) uint8 or uint16, or of those at `places`; reads in blocks."""
    places = np.arange(len(images)) if places is None else places
    block = max(1, PIXELS // (images.shape[1] * images.shape[2]))
    parts = []
    for start in range(0, len(places), block):
        pixels = images[places[start : start + block], ..., :3].astype(np.float32) / np.iinfo(images.dtype).max
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        fine = shrunk(pictures)
        parts.append((fine.half(), F.avg_pool2d(fine, FINE // COARSE).half(), grain(pictures)))
        if progress is not None:
            progress("training images", start + len(pixels), len(places))
    return Thumbnails(*(torch.cat(part) for part in zip(*parts, strict=True)))


def shrunk(pictures: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 32, 32), slightly blurred, so that losses by compression or resizing do not count."""
    rows = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    for _ in range(4):  # binomial kernel with a standard deviation of 1 pixel
        rows = F.avg_pool2d(rows, 2, 1)
    return F.interpolate(rows, (FINE, FINE), mode="bilinear", antialias=True)


def energy_of_noise(shape: tuple[int, ...], directions: Tensor) -> tuple[float, float]:
    """Energy of unit white noise in images (H, W, C): in these directions of their thumbnails, and outside them."""
    generator = _seeded()
    noise = torch.cat([shrunk(torch.randn((1, min(shape[2], 3), *shape[:2]), generator=generator)) for _ in range(32)])
    rows = noise.flatten(1) - noise.flatten(1).mean(dim=1, keepdim=True)
    inside = float(((rows @ directions) ** 2).sum(dim=1).mean())
    return inside, float((rows**2).sum(dim=1).mean()) - inside


def window(channels: int) -> Tensor:
    """(C * 16 * 16,) pixel weights of a coarse thumbnail: lower at the border, which a moved image may lack."""
    places = (torch.arange(COARSE) + 0.5) / COARSE
    counts = (torch.minimum(places, 1 - places) / BORDER).clamp(max=1)
    return (counts[:, None] * counts).flatten().repeat(min(channels, 3))


def principal(thumbs: Tensor, num: int, weights: Tensor | None = None) -> Tensor:
    """(D, num): projection to the first principal components of at most 8,192 thumbnails, without brightness.

    weights: (D,) of the values. Method: subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4). Without
    weights the projection is orthonormal, except for the brightness.
    """
    some = thumbs[:: max(1, len(thumbs) // ROWS)].float().flatten(1)
    weights = torch.ones(some.shape[1]) if weights is None else weights
    some = F.normalize((some - some @ weights[:, None] / weights.sum()) * weights, dim=1)
    space = torch.randn((some.shape[1], min(num, *some.shape)), generator=_seeded())
    for _ in range(5):
        space = torch.linalg.qr(some.T @ (some @ space)).Q
    space = space * weights[:, None]
    return space - weights[:, None] / weights.sum() * space.sum(dim=0)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---- retrieval ----


class Index:
    """Approximate search in unit rows (N, D), split into about sqrt(N) parts by spherical k-means."""

    def __init__(self, rows: Tensor) -> None:
        num = 1 if len(rows) <= EXHAUSTIVE else round(len(rows) ** 0.5)
        self.centres = rows[torch.randperm(len(rows), generator=_seeded())[:num]]
        for _ in range(10):
            part = torch.cat([(some @ self.centres.T).argmax(dim=1) for some in rows.split(ROWS)])
            self.centres = F.normalize(torch.zeros_like(self.centres).index_add(0, part, rows), dim=1)
        self.order = part.argsort(stable=True)
        self.rows = rows[self.order]
        self.ends = torch.bincount(part, minlength=num).cumsum(0).tolist()

    def search(self, queries: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """(rows, versions), (B, num) each: the most similar rows to any version of each of B queries (B, V, D).

        The first version is compared with all rows, the others with the rows of the nearest parts.
        """
        similar = (queries[:, 0] @ self.rows.T).numpy()
        versions = queries.flatten(0, 1)
        near = (versions @ self.centres.T).topk(min(PROBES, len(self.centres)), dim=1).indices
        looking = near.flatten().argsort(stable=True) // near.shape[1]
        counts = torch.bincount(near.flatten(), minlength=len(self.centres)).tolist()
        start = 0
        for who, end in zip(looking.split(counts), self.ends, strict=True):
            if len(who) and end > start:
                found = (versions[who] @ self.rows[start:end].T).numpy()
                query, first = np.unique(who.numpy() // queries.shape[1], return_index=True)
                best = np.maximum.reduceat(found, first)
                similar[query, start:end] = np.maximum(similar[query, start:end], best)
            start = end
        found = torch.from_numpy(similar).topk(min(num, len(self.rows)), dim=1).indices
        version = torch.bmm(self.rows[found], queries.transpose(1, 2)).argmax(dim=2)
        return self.order[found], version


# ---- registration ----


def versions() -> Tensor:
    """(V, 4) moves as `_moved` takes them, the first one the identity: mirroring, shifts up to a tenth, crops."""
    moves = [(y, x, 1.0) for y in SHIFTS for x in SHIFTS]
    for kept, off, num in CROPS:
        moves += [(y, x, kept) for y in np.linspace(-off, off, num) for x in np.linspace(-off, off, num)]
    moves.sort(key=lambda move: abs(move[0]) + abs(move[1]) + 1 - move[2])
    return torch.tensor([(mirrored, *move) for mirrored in (0.0, 1.0) for move in moves], dtype=torch.float32)


def moving(moves: Tensor, directions: Tensor) -> Tensor:
    """(C * 16 * 16, V * num): apply each move to a coarse thumbnail, then project it on the directions (D, num)."""
    size = COARSE * COARSE
    pixels = torch.eye(size).view(size, 1, COARSE, COARSE)
    moved = torch.stack([_moved(pixels, move.expand(size, 4))[0].view(size, size) for move in moves])
    channels = directions.view(-1, size, directions.shape[1])
    return torch.einsum("vio,cod->civd", moved, channels).reshape(len(directions), -1)


def registered(pictures: Tensor, targets: Tensor, moves: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Register images (N, C, S, S) with their targets; return (unexplained variance (N,), 0 to 1, and moves (N, 4)).

    The moves are undone and the images explained by their targets in the area that both show. Each round solves for
    tone and move together in first order (Lucas & Kanade; Baker & Matthews 2004).
    """
    columns = torch.cat([_tones(targets), _slopes(targets)], dim=1)
    best, best_moves = torch.full((len(pictures),), 2.0), moves
    for done in range(rounds + 1):
        values, mask = _shown(pictures, moves, columns)
        means = values.sum(dim=2) / mask.sum(dim=1, keepdim=True)
        size = mask.sum(dim=1)[:, None, None]
        products = values @ values.transpose(1, 2) - size * means[:, :, None] * means[:, None]
        left, _ = _solved(products[:, [0, 1, 2, -1]][:, :, [0, 1, 2, -1]])
        better = left < best
        best, best_moves = torch.where(better, left, best), torch.where(better[:, None], moves, best_moves)
        if done < rounds:
            _, found = _solved(products)
            y, x, grown = (found[:, 3:] / found[:, :1].clamp_min(0.01)).clamp(-0.12, 0.12).unbind(dim=1)
            scale = (moves[:, 3] * (1 + grown)).clamp(0.8, 1.0)
            places = (moves[:, 1:3] + torch.stack([y, x], dim=1) / 2) * (scale / moves[:, 3])[:, None]
            moves = torch.cat([moves[:, :1], places.clamp(-0.15, 0.15), scale[:, None]], dim=1)
    return best, best_moves


def differences(pictures: Tensor, targets: Tensor, moves: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared differences (N,) of moved images from their targets: in these directions, outside them; total energy."""
    values, mask = _shown(pictures, moves, _tones(targets))
    values = (values - values.sum(dim=2, keepdim=True) / mask.sum(dim=1)[:, None, None]) * mask[:, None]
    products = values @ values.transpose(1, 2)
    left, weights = _solved(products)
    weights = torch.where(left[:, None] < 1, weights, torch.zeros_like(weights))
    rest = values[:, -1] - (weights[:, :, None] * values[:, :-1]).sum(dim=1)
    inside = ((rest @ directions) ** 2).sum(dim=1)
    whole = products[:, -1, -1].clamp_min(1e-3)
    return inside, ((rest**2).sum(dim=1) - inside).clamp_min(0), whole


def _by_pairs(
    function: Callable[..., tuple[Tensor, ...]], pictures: Tensor, base: Tensor, rows: Tensor, moves: Tensor, last: Any
) -> list[Tensor]:
    """Apply `function` to each of B images paired with each of its rows (B, K) of the base: results (B, K, ...)."""
    pictures = _standard(pictures.float())
    parts = []
    for pairs in torch.arange(rows.numel()).split(PAIRS):
        targets = _standard(base[rows.flatten()[pairs]].float())
        parts.append(function(pictures[pairs // rows.shape[1]], targets, moves.flatten(0, 1)[pairs], last))
    return [torch.cat(part).unflatten(0, rows.shape) for part in zip(*parts, strict=True)]


def _standard(thumbs: Tensor) -> Tensor:
    """Scale to mean 0 and standard deviation 1."""
    return (thumbs - thumbs.mean(dim=(1, 2, 3), keepdim=True)) / _spread(thumbs)


def _spread(thumbs: Tensor) -> Tensor:
    return thumbs.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)


def _tones(targets: Tensor) -> Tensor:
    """(N, 3, D): columns that model changes of tone and sharpness: the target, its Laplacian, its square."""
    wide = F.pad(targets, (1, 1, 1, 1), mode="replicate")
    rows = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    blurred = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
    return torch.stack([targets, blurred - targets, targets**2], dim=1).flatten(2)


def _slopes(targets: Tensor) -> Tensor:
    """(N, 3, D): derivatives of targets for moves down, right and towards the centre, in units of half a side."""
    wide, side = F.pad(targets, (1, 1, 1, 1), mode="replicate"), targets.shape[-1]
    y = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) * (side / 4)
    x = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) * (side / 4)
    places = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack([y, x, places[:, None] * y + places * x], dim=1).flatten(2)


def _shown(pictures: Tensor, moves: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """(columns followed by the moved images (N, K + 1, D), 0 outside the visible area; its mask (N, D))."""
    moved, inside = _moved(pictures, moves)
    mask = inside.flatten(1).repeat(1, pictures.shape[1])
    return torch.cat([columns, moved.flatten(1)[:, None]], dim=1) * mask[:, None], mask


def _solved(products: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of the last column by the others, from their products (N, K + 1, K + 1).

    Returns (unexplained fraction (N,), 1 if the weight of the first column is negative; weights (N, K)).
    """
    normal, right = products[:, :-1, :-1], products[:, :-1, -1]
    ridge = 1e-4 * normal.diagonal(dim1=1, dim2=2) + 1e-3
    weights = torch.linalg.solve(normal + torch.diag_embed(ridge), right)
    left = 1 - (weights * right).sum(dim=1) / products[:, -1, -1].clamp_min(1e-3)
    return torch.where(weights[:, 0] > 0, left.clamp(0, 1), torch.ones_like(left)), weights


def _moved(pictures: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Undo moves of images: (N, C, S, S), and the mask of their visible area (N, S, S).

    moves (N, 4): 1 if mirrored (applied first); y and x of the centre as fractions of the side; fraction of the side
    that is visible.
    """
    mirrored, y, x, scale = moves[:, :, None].unbind(dim=1)
    height, width = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in pictures.shape[2:])
    rows, columns = (height - 2 * y) / scale, (1 - 2 * mirrored) * (width - 2 * x) / scale
    shape = len(pictures), len(height), len(width)
    places = torch.stack([columns[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    inside = (rows.abs() <= 1).float()[:, :, None] * (columns.abs() <= 1).float()[:, None]
    return F.grid_sample(pictures, places, padding_mode="border", align_corners=False), inside


def in_words(move: list[float]) -> str:
    mirrored, y, x, scale = move
    cropped, shifted = scale < 0.97, max(abs(y), abs(x)) > 0.02
    return ", ".join(["mirrored"] * (mirrored > 0) + ["cropped"] * cropped + ["shifted"] * (shifted and not cropped))
