"""Cache of features of real images, by pack, network, preprocessing and selected images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ganvas.data.packing.pack import Pack, Progress
from ganvas.evaluation.features import Features
from ganvas.system import files
from ganvas.system.files import cache_dir

_FORMAT = 1  # version of the cached values
IMAGES_AT_A_TIME = 64  # images read at a time


def features_of(
    features: Features,
    pack: Pack,
    indices: np.ndarray,
    progress: Progress | None = None,
    mirrored: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, num_features) and logits (N, num_logits) float32 of images of a pack, in the order of `indices`.

    mirrored: features of the mirrored images. Damaged cache files are replaced.
    """
    folder = _folder(features, pack, indices, mirrored)
    if (rows := _read(folder, features, len(indices))) is not None:
        return _apart(rows, features.num_features)
    rows = np.empty((len(indices), features.num_features + features.num_logits), np.float32)
    for start in range(0, len(indices), IMAGES_AT_A_TIME):
        part = slice(start, start + IMAGES_AT_A_TIME)
        images = pack.images[indices[part]]
        rows[part] = np.concatenate(features.both(images[:, :, ::-1] if mirrored else images), axis=1)
        if progress:
            progress(f"features of {features.name}", min(start + IMAGES_AT_A_TIME, len(indices)), len(indices))
    _write(folder, rows)
    return _apart(rows, features.num_features)


def _apart(rows: np.ndarray, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(rows[:, :num_features]), np.ascontiguousarray(rows[:, num_features:])


def _folder(features: Features, pack: Pack, indices: np.ndarray, mirrored: bool) -> Path:
    """Cache folder for a network with its preprocessing and a selection of images."""
    digest = hashlib.sha256(f"{_FORMAT} {pack.hash} {features.protocol}{' mirrored' * mirrored}".encode())
    digest.update(np.asarray(indices).astype("<i8").tobytes())
    return cache_dir() / "features" / f"{features.name}-{digest.hexdigest()[:16]}"


def _read(folder: Path, features: Features, num: int) -> np.ndarray | None:
    """Features and logits, concatenated; None if missing or damaged. Damaged files are deleted."""
    for path in folder.glob("features-*.npy"):
        try:
            rows = np.load(path, allow_pickle=False)
        except Exception:  # a damaged file can make numpy raise almost anything
            rows = np.empty(0)
        if rows.shape == (num, features.num_features + features.num_logits) and path.name == _name(rows):
            return rows
        path.unlink()
    return None


def _write(folder: Path, rows: np.ndarray) -> None:
    path = folder / _name(rows)
    with files.explained(path):
        folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, lambda file: np.save(file, rows, allow_pickle=False))


def _name(rows: np.ndarray) -> str:
    """File name with checksum."""
    return f"features-{hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()[:16]}.npy"
