"""Preview grids from fixed latents and EMA weights: a cell shows the same latent in every grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ganvas.config import TrainConfig
from ganvas.data.batches import images_at, spaced
from ganvas.data.packing.pack import Pack
from ganvas.generator import BATCH, Generator, to_pixels, weights_hash
from ganvas.image_files import grid
from ganvas.model_file import ModelInfo
from ganvas.provenance import provenance
from ganvas.records import Variety
from ganvas.run import Run

_SHEET = 900  # target for the width and height of a grid, in pixels
_MOST_CLASSES = 16  # maximum rows of a conditional model's grid
_CONDITIONS_SHOWN = 8  # maximum rows with one combination of conditions each


@dataclass(frozen=True)
class _Layout:
    rows: int
    columns: int


def layout(height: int, width: int, num_labels: int) -> _Layout:
    """Rows and columns of a grid of about 900 pixels: one row per class or combination of conditions, otherwise up to
    8x8."""
    fit_rows = max(2, min(10, _SHEET // (height + 2)))
    fit_columns = max(2, min(10, _SHEET // (width + 2)))
    if num_labels:
        return _Layout(min(num_labels, _MOST_CLASSES), fit_columns)
    return _Layout(min(8, fit_rows), min(8, fit_columns))


def num_rows(info: ModelInfo) -> int:
    """Number of classes, or of combinations of conditions that are shown; 0 without."""
    return min(_CONDITIONS_SHOWN, len(info.conditions.combinations)) if info.conditions else info.config.num_classes


_SMALL = 16  # image side for measuring variation, in pixels
_COMPARED = 256  # real images for the reference


def spread(images: torch.Tensor) -> float:
    """Mean variance per pixel over images (N, C, H, W), at 16x16 pixels."""
    return float(F.interpolate(images.float(), (_SMALL, _SMALL), mode="area").var(dim=0).mean())


class PixelVariety:
    """Variation between generated images relative to real images, computed from pixels.

    For a conditional model, the mean over its classes, each relative to the real images of that class; `worst` is the
    class with the least variation.
    """

    def __init__(self, pack: Pack, classes: list[str]) -> None:
        self.classes = classes
        if classes and pack.labels is not None:
            labels = pack.labels[pack.training]
            members = [pack.training[labels == i] for i in range(len(classes))]
        else:
            members = [pack.training]
        each = max(8, _COMPARED // len(members))
        self.real = [spread(images_at(pack, spaced(part, each))) if len(part) > 1 else 0.0 for part in members]

    def __call__(self, images: torch.Tensor, labels: torch.Tensor | None, images_seen: int = 0) -> Variety | None:
        """variety: 0 for identical images, about 1 for real ones. None if no class has two images."""
        if labels is None:
            return Variety(images_seen, spread(images) / max(1e-9, self.real[0]))
        shares = {}
        for label in labels.unique().tolist():
            mine = images[labels == label]
            if len(mine) > 1 and self.real[label] > 0:
                shares[self.classes[label]] = spread(mine) / self.real[label]
        if not shares:
            return None
        worst = min(shares, key=lambda name: shares[name])
        mean = sum(shares.values()) / len(shares)
        return Variety(images_seen, mean, shares[worst], worst)


class Preview:
    """Draws `config.previews` grids over the budget; the k-th at the fraction (k / previews)^1.5."""

    def __init__(self, generator: Generator, run: Run, config: TrainConfig) -> None:
        model = generator.info.config
        self.generator, self.run, self.num = generator, run, config.previews
        in_turn = generator.info.labels_in_turn
        self.layout = layout(model.height, model.width, num_rows(generator.info))
        cells = self.layout.rows * self.layout.columns
        self.z = generator.latents(range(cells))
        rows = torch.arange(cells) // self.layout.columns
        self.labels = None if in_turn is None else in_turn[rows]
        self.classes = rows if model.num_classes else None
        self.drawn = -1

    def due(self, progress: float) -> bool:
        """Whether the next grid is due. progress: fraction of the budget used."""
        place = int(self.num * progress ** (1 / 1.5))
        if self.drawn < 0 and self.run.grids():
            self.drawn = place  # resumed: earlier grids exist
        return place > self.drawn

    def draw(self, images_seen: int, progress: float) -> torch.Tensor:
        """Writes samples/<images seen>.png. Returns its images (N, C, H, W) on the CPU."""
        self.drawn = int(self.num * progress ** (1 / 1.5))
        labels = [None] * len(self.z) if self.labels is None else self.labels.split(BATCH)
        parts = [self.generator.render(*part) for part in zip(self.z.split(BATCH), labels, strict=False)]
        images = torch.cat(parts).cpu()
        pixels = to_pixels(images, self.generator.info.depth)
        recipe = {"seeds": list(range(len(self.z))), "images_seen": images_seen}
        text = provenance(weights_hash(self.generator.network), recipe)  # hash of the current average
        self.run.add_grid(images_seen, grid(pixels, self.layout.columns), text)
        return images
