"""A quick score of a generator while it trains, without any feature network: sliced Wasserstein distance of patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.pack import Pack
from ganvas.generator import Generator

NUM_PICTURES = 256  # fewer where they are large
PIXELS = 2**22  # of all pictures together
PATCH = 7  # pixels
PATCHES = 16  # per picture and level
DIRECTIONS = 128
COARSEST = 16  # pixels: levels are halved while the shorter side is at least this


def sliced_wasserstein(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """Mean over a pyramid of the sliced Wasserstein-1 distance of 7x7 patches; 0 for equal sets, lower is better.

    real, fake: as many pictures each, (N, C, H, W) in [-1, 1]. After Karras et al. 2018, section 5, with a box
    pyramid in place of the Laplacian one, so that overall brightness counts as well.
    """
    random = torch.Generator().manual_seed(seed)
    distances = []
    while True:
        directions = torch.randn(real.shape[1] * PATCH**2, DIRECTIONS, generator=random)
        directions /= directions.norm(dim=0)
        projected = [directions.T @ patches(pictures, random).T for pictures in (real, fake)]
        first, second = (np.sort(values.numpy(), axis=1) for values in projected)
        distances.append(np.abs(first - second).mean())
        if min(real.shape[2:]) < 2 * COARSEST:
            return float(np.mean(distances))
        real, fake = F.avg_pool2d(real, 2), F.avg_pool2d(fake, 2)


def patches(pictures: Tensor, random: torch.Generator) -> Tensor:
    """`PATCHES` random patches per picture as rows (N * PATCHES, C * PATCH^2)."""
    num, channels, height, width = pictures.shape
    y = torch.randint(height - PATCH + 1, (num, PATCHES), generator=random)
    x = torch.randint(width - PATCH + 1, (num, PATCHES), generator=random)
    step = torch.arange(PATCH)
    rows = (y[..., None] + step)[:, :, None, :, None]
    columns = (x[..., None] + step)[:, :, None, None, :]
    places = torch.arange(num)[:, None, None, None, None]
    bands = torch.arange(channels)[None, None, :, None, None]
    return pictures[places, bands, rows, columns].flatten(2).flatten(0, 1)


def quick_score(pack: Pack) -> Callable[[Generator], float]:
    """A function that scores a generator against the same pictures (up to 256) of the pack each time."""
    num = max(16, min(NUM_PICTURES, PIXELS // (pack.height * pack.width)))
    chosen = np.sort(np.random.default_rng(0).permutation(pack.num_images)[:num])
    top = (2**pack.depth - 1) / 2
    real = torch.from_numpy(pack.images[chosen].astype(np.float32)).permute(0, 3, 1, 2) / top - 1
    labels = None if pack.labels is None else pack.labels[chosen].tolist()

    def score(generator: Generator) -> float:
        asked = labels if generator.classes else None
        return sliced_wasserstein(real, generator.sample(len(real), seed=0, label=asked))

    return score
