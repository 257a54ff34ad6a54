"""Morphing: the frames of a video that interpolates between recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from ganvas import latent_codes
from ganvas.errors import ConfigError, amount
from ganvas.explore.recipes import Direction, Recipe, resolve
from ganvas.generator import BATCH, Generator, to_pixels
from ganvas.options import Easing

EASINGS: dict[Easing, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda even: (1 - np.cos(np.pi * even)) / 2,
    "cubic": lambda even: np.where(even < 0.5, 4 * even**3, 1 - 4 * (1 - even) ** 3),
    "linear": lambda even: even,
}
"""Fraction of the way, 0 to 1, at a fraction of the time between two images."""


def frames(
    generator: Generator,
    recipes: Sequence[Recipe],
    num_frames: int,
    *,
    loop: bool = True,
    easing: Easing = "cosine",
    directions: Mapping[str, Direction] | None = None,
) -> Iterator[np.ndarray]:
    """`num_frames` interpolated images (H, W, C), uint8 or uint16, through the recipes in order.

    Each recipe is one frame. easing: see EASINGS.
    loop: return from the last recipe to the first, which is not repeated; otherwise the last recipe is the last frame.
    directions: the directions used by the recipes. Images are generated lazily in batches. Raises ConfigError
    immediately for fewer than two recipes, fewer frames than recipes, or a recipe of another model.
    """
    if len(recipes) < 2:
        raise ConfigError(f"{amount(len(recipes), 'image')}: morphing needs at least 2")
    if num_frames < len(recipes):
        raise ConfigError(
            f"{amount(num_frames, 'frame')} for {len(recipes)} images: expected at least one frame per image"
        )
    keys = resolve(generator, recipes, directions)
    places = way(len(recipes), num_frames, loop, easing)
    return _pictures(generator, keys, places)


def way(num_keys: int, num_frames: int, loop: bool, easing: Easing = "cosine") -> np.ndarray:
    """(num_frames,) position of each frame: k + s is the fraction s, 0 <= s < 1, from key k to the next key."""
    legs = num_keys if loop else num_keys - 1
    moving = num_frames if loop else num_frames - 1
    ends = np.round(np.linspace(0, moving, legs + 1)).astype(int)
    steps = np.arange(moving)
    leg = np.searchsorted(ends, steps, side="right") - 1
    even = (steps - ends[leg]) / (ends[leg + 1] - ends[leg])
    places = leg + EASINGS[easing](even)
    return places if loop else np.append(places, float(legs))


def _pictures(generator: Generator, keys: latent_codes.Code, places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        before = np.floor(part).astype(int)
        share = torch.from_numpy((part - before).astype(np.float32)).to(generator.device)
        after = (before + 1) % len(keys)
        yield from to_pixels(
            generator.show(latent_codes.between(generator.network, keys[before.tolist()], keys[after.tolist()], share)),
            generator.info.depth,
        )
