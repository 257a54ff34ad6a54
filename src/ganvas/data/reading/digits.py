"""The data set "digits": the test part of the UCI set of handwritten digits, in digits.npz, so nothing is downloaded.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, CC BY 4.0 (data/catalog.py, NOTICE).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ganvas.data.reading.sources import Item, Payload, Rejection

FILE = Path(__file__).with_name("digits.npz")  # images (1797, 8, 8) uint8 in 0..16, labels (1797,) uint8
DIGITS_VERSION = "1"  # raise when the enlargement changes


class Digits:
    """1,797 digits of 8x8 pixels in 0..16, enlarged to 32x32 gray."""

    form = "digits"

    def __init__(self) -> None:
        self.classes = [str(digit) for digit in range(10)]
        self.rejected: list[Rejection] = []
        self.notes: list[str] = []
        self.conditions = None

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        with np.load(FILE) as arrays:
            return np.stack([enlarged(image) for image in arrays["images"]]), arrays["labels"].astype(np.int64)

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
