"""Generated images as a PyTorch data set, for example to train a classifier on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from ganvas.conditions import Given
from ganvas.errors import ConfigError
from ganvas.generator import Generator, Labels


class SyntheticDataset(Dataset[Any]):
    """`n` images of a generator, made when they are read; nothing is stored. Image i has the seed `seed + i`.

        images = SyntheticDataset("runs/mine", n=10_000)
        loader = torch.utils.data.DataLoader(images, batch_size=64)

    Items are images (C, H, W) float32 in [-1, 1] on the CPU, or with classes (image, class index). A DataLoader reads a
    whole batch at once. Use it without workers (num_workers=0) if the generator is on a GPU. For a model of conditions
    items are (image, vector).
    generator: a Generator, or what `Generator.load` takes. label: one class for all images, or one each; default: all
    classes in turn. conditions: as in `Generator.sample`. truncation: from 0 (mean image) to 1 (full diversity).
    transform: applied to each image.
    """

    def __init__(
        self,
        generator: Generator | str | Path,
        n: int,
        seed: int = 0,
        label: Labels = None,
        truncation: float = 1.0,
        transform: Callable[[Tensor], Any] | None = None,
        conditions: Given | Sequence[Given] | None = None,
    ) -> None:
        if n < 1:
            raise ConfigError(f"{n} images: expected at least 1")
        self.generator = generator if isinstance(generator, Generator) else Generator.load(generator)
        self.n, self.seed, self.truncation, self.transform = n, seed, truncation, transform
        label = self.generator.one_of(label, conditions)
        self.labels = self.generator.labels_of(label, range(seed, seed + n))

    @property
    def classes(self) -> list[str]:
        """Class names in label order; empty for an unconditional generator."""
        return self.generator.classes

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Items of a batch; DataLoader calls this."""
        if any(not -self.n <= index < self.n for index in indices):
            raise IndexError(f"index out of range: {self.n} images")
        places = [int(index) % self.n for index in indices]
        labels = None if self.labels is None else self.labels[places]
        seeds = [self.seed + place for place in places]
        images = [image for batch in self.generator.batches(seeds, labels, self.truncation) for image in batch]
        shown = [image if self.transform is None else self.transform(image) for image in images]
        if labels is None:
            return shown
        return list(zip(shown, labels if labels.is_floating_point() else labels.tolist(), strict=True))
