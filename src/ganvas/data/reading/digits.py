"""The data set "digits": the test part of the UCI set of handwritten digits, in digits.npz, so nothing is downloaded.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, CC BY 4.0 (data/catalog.py, NOTICE).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ganvas.data.reading.formats import Arrays
from ganvas.data.reading.sources import ArraySource

DIGITS_FILE = Path(__file__).with_name("digits.npz")  # images (1797, 8, 8) uint8 in 0..16, labels (1797,) uint8
DIGITS_VERSION = "1"  # raise when the enlargement changes


def digits() -> ArraySource:
    """1,797 digits of 8x8 pixels in 0..16, enlarged to 32x32 gray."""
    images, labels = _arrays()
    names = [f"{i:04d}" for i in range(len(images))]
    return ArraySource("digits", Arrays(images, labels, [str(digit) for digit in range(10)], names))


@functools.cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """The enlarged images (1797, 32, 32) uint8 and their labels (1797,) int64; read-only, as they are shared."""
    with np.load(DIGITS_FILE) as stored:
        images, labels = (
            np.stack([enlarged_digit(image) for image in stored["images"]]),
            stored["labels"].astype(np.int64),
        )
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


def enlarged_digit(image: np.ndarray) -> np.ndarray:
    """(8, 8) of 0..16 -> (32, 32) uint8 of 0..255: smooth strokes with a margin, white on black."""
    margin = Image.fromarray(np.pad(image, 1).astype(np.float32))  # the digits fill all 8 rows
    large = np.asarray(margin.resize((128, 128), Image.Resampling.BICUBIC)) * (255 / 16)
    soft = Image.fromarray(large.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(4))
    # A steep curve sharpens the blurred strokes; the box filter smooths their edges.
    ink = ((np.asarray(soft, np.float32) / 255 - 0.3) / 0.6).clip(0, 1)
    ink = ink * ink * (3 - 2 * ink)
    small = Image.fromarray(np.rint(ink * 255).astype(np.uint8)).resize((32, 32), Image.Resampling.BOX)
    return np.asarray(small)
