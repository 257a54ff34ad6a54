"""Grids from fixed latents and EMA weights: the same cell shows the same latent from the first grid to the last."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ganvas.config import TrainConfig
from ganvas.generator import BATCH, Generator, to_pixels, weights_hash
from ganvas.pictures import grid, save_png
from ganvas.provenance import provenance
from ganvas.run import Run

SHEET = 900  # pixels that a grid may be wide or high, where possible
MOST_CLASSES = 16  # rows of a conditional model's grid


@dataclass(frozen=True)
class Layout:
    rows: int
    columns: int


def layout(height: int, width: int, num_classes: int) -> Layout:
    """Rows and columns of a grid that stays near 900 pixels: one row a class, else as many as fit up to 8x8."""
    fit_rows = max(2, min(10, SHEET // (height + 2)))
    fit_columns = max(2, min(10, SHEET // (width + 2)))
    if num_classes:
        return Layout(min(num_classes, MOST_CLASSES), fit_columns)
    return Layout(min(8, fit_rows), min(8, fit_columns))


class Preview:
    """Draws `config.previews` grids over the budget: the k-th at the part (k / previews)^1.5 of it."""

    def __init__(self, generator: Generator, run: Run, config: TrainConfig) -> None:
        model = generator.info.config
        self.generator, self.run, self.num = generator, run, config.previews
        self.layout = layout(model.height, model.width, model.num_classes)
        cells = self.layout.rows * self.layout.columns
        self.z = generator.latents(range(cells))
        rows = torch.arange(cells) // self.layout.columns
        self.labels = rows if model.num_classes else None
        self.drawn = -1

    def due(self, progress: float) -> bool:
        """True when the next grid is due; progress is the part of the budget used."""
        place = int(self.num * progress ** (1 / 1.5))
        if self.drawn < 0 and self.run.grids():
            self.drawn = place  # resumed: the grids so far are there
        return place > self.drawn

    def draw(self, images_seen: int, progress: float) -> None:
        """Writes samples/<images seen>.png."""
        self.drawn = int(self.num * progress ** (1 / 1.5))
        labels = [None] * len(self.z) if self.labels is None else self.labels.split(BATCH)
        parts = [self.generator.render(*part) for part in zip(self.z.split(BATCH), labels, strict=False)]
        pixels = to_pixels(torch.cat(parts), self.generator.info.depth)
        self.run.samples.mkdir(exist_ok=True)
        recipe = {"seeds": list(range(len(self.z))), "images_seen": images_seen}
        told = provenance(weights_hash(self.generator.network), recipe)  # the average of now: it moves on
        save_png(self.run.samples / f"{images_seen:012d}.png", grid(pixels, self.layout.columns), told)
