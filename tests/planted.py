"""Pictures that are made for a test, and changes that leave them nearly the same."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter


def landscapes(num: int, side: int = 48, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(num, side, side, channels) uint8: smooth random images with edges in them, each different."""
    rng = np.random.default_rng(seed)
    smooth = 0.3 * gaussian_filter(rng.normal(size=(num, side, side, channels)), (0, 4, 4, 0))
    smooth = smooth + gaussian_filter(rng.normal(size=(num, side, side, 1)), (0, 3, 3, 0))
    smooth += 0.15 * np.sign(gaussian_filter(rng.normal(size=(num, side, side, 1)), (0, 4, 4, 0)))
    low, high = smooth.min((1, 2, 3), keepdims=True), smooth.max((1, 2, 3), keepdims=True)
    return (40 + 170 * (smooth - low) / (high - low)).astype(np.uint8)


def compressed(picture: np.ndarray, quality: int = 70) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def brighter(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture * 1.1 + 8, 0, 255).astype(np.uint8)


def shifted(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((1, 0), (1, 0), (0, 0)), mode="edge")[: len(picture), : picture.shape[1]]
