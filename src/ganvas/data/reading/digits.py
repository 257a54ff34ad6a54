"""The data set "digits": handwritten digits included in scikit-learn, no download needed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from PIL import Image, ImageFilter

from ganvas.data.reading.sources import Item, Payload, Rejection

DIGITS_VERSION = "1"  # raise when the enlargement changes


class Digits:
    """1,797 digits of scikit-learn, 8x8 pixels in 0..16, enlarged to 32x32 gray."""

    form = "digits"

    def __init__(self) -> None:
        self.classes = [str(digit) for digit in range(10)]
        self.rejected: list[Rejection] = []
        self.notes: list[str] = []
        self.conditions = None

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # imported late: takes a second

        images, labels = load_digits(return_X_y=True)
        return np.stack([enlarged(image.reshape(8, 8)) for image in images]), labels.astype(np.int64)

    @cached_property
    def items(self) -> list[Item]:
        return [Item(f"{i:04d}", str(label)) for i, label in enumerate(self._arrays[1])]

    def stream(self, keep: set[str] | None = None) -> Iterator[tuple[Item, Payload]]:
        for item, image in zip(self.items, self._arrays[0], strict=True):
            if keep is None or item.name in keep:
                yield item, image

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self._arrays

    def fingerprint(self) -> str:
        return DIGITS_VERSION


def enlarged(image: np.ndarray) -> np.ndarray:
    """(8, 8) of 0..16 -> (32, 32) uint8 of 0..255: smooth strokes with a margin, white on black."""
    margin = Image.fromarray(np.pad(image, 1).astype(np.float32))  # the digits fill all 8 rows
    large = np.asarray(margin.resize((128, 128), Image.Resampling.BICUBIC)) * (255 / 16)
    soft = Image.fromarray(large.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(4))
    # A steep curve sharpens the blurred strokes; the box filter smooths their edges.
    ink = ((np.asarray(soft, np.float32) / 255 - 0.3) / 0.6).clip(0, 1)
    ink = ink * ink * (3 - 2 * ink)
    small = Image.fromarray(np.rint(ink * 255).astype(np.uint8)).resize((32, 32), Image.Resampling.BOX)
    return np.asarray(small)
