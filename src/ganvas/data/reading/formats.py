"""Readers for data sets stored as arrays: MNIST idx, npz and npy (cifar.py reads CIFAR).

numpy files are read with allow_pickle=False, so no code in a file can run.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganvas.data.reading.archives import broken_archive, is_bomb, open_compressed
from ganvas.errors import DataError, PictureError
from ganvas.system import files

_MAX_SET_BYTES = 3 * 2**28  # maximum size of an idx file, which is read into memory; EMNIST has up to 547 MB
_MAX_IMAGES = 5_000_000  # maximum images in an array; each gets a name


@dataclass(frozen=True, slots=True)
class Arrays:
    """A data set in memory."""

    images: np.ndarray
    """(N, H, W) or (N, H, W, C), numbers."""
    labels: np.ndarray | None
    """(N,) int64, indices into classes."""
    classes: list[str]
    names: list[str]
    """One unique name per image, such as "train-00042"."""


def join_parts(parts: list[Arrays]) -> Arrays:
    """Joins parts of a data set with the same classes, such as train and test."""
    if len({part.images.shape[1:] for part in parts}) > 1:
        shapes = " and ".join(str(part.images.shape[1:]) for part in parts)
        raise DataError(f"the parts of the data set have images of different sizes, {shapes}: use them separately")
    labels = [part.labels for part in parts if part.labels is not None]
    return Arrays(
        np.concatenate([part.images for part in parts]) if len(parts) > 1 else parts[0].images,
        np.concatenate(labels) if len(labels) == len(parts) else None,
        parts[0].classes if len(labels) == len(parts) else [],
        [name for part in parts for name in part.names],
    )


def _with_classes(images: np.ndarray, values: np.ndarray | None, prefix: str) -> Arrays:
    """Converts label values (N,), integers or strings, to class names and indices."""
    if len(images) > _MAX_IMAGES:
        raise DataError(f"an array of {len(images):,} images: expected at most {_MAX_IMAGES:,}")
    digits = len(str(max(0, len(images) - 1)))
    names = [f"{prefix}{i:0{digits}}" for i in range(len(images))]
    if values is None:
        return Arrays(images, None, [], names)
    unique, labels = np.unique(values, return_inverse=True)
    return Arrays(images, labels.astype(np.int64), [str(value) for value in unique], names)


# MNIST idx format (also Fashion-MNIST, KMNIST, EMNIST): big-endian header, then bytes.

IDX_NAME = re.compile(
    r"(?P<set>.*?)-?(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?", re.IGNORECASE
)
_IDX_DIMENSIONS = {0x00000801: 1, 0x00000803: 3}


def find_idx(names: Iterable[str]) -> dict[str, dict[tuple[str, str], str]]:
    """The idx files among `names`, by set: {"": {("train", "images"): "train-images-idx3-ubyte.gz", ...}}."""
    sets: dict[str, dict[tuple[str, str], str]] = {}
    for name in sorted(names, reverse=True):  # an uncompressed file replaces its .gz
        if match := IDX_NAME.fullmatch(name):
            part = "train" if match["part"].lower() == "train" else "test"
            sets.setdefault(match["set"], {})[part, match["what"].lower()] = name
    return {name: files for name, files in sets.items() if any(what == "images" for _, what in files)}


def read_idx(folder: Path, prefix: str, files: Mapping[tuple[str, str], str], split: str) -> Arrays:
    """Reads a data set found by `find_idx`. Raises `DataError` for damaged files and missing parts."""
    parts = [part for part in ("train", "test") if split in (part, "all") and (part, "images") in files]
    if not parts:
        present = ", ".join(sorted(files.values()))
        raise DataError(f"{folder} has no {split} images among {present}: add the file or choose another split")
    raw_images = [_read_idx_file(folder / files[part, "images"], 3) for part in parts]
    if prefix.lower().startswith("emnist"):  # only EMNIST stores columns first
        raw_images = [np.ascontiguousarray(images.transpose(0, 2, 1)) for images in raw_images]
    labelled = all((part, "labels") in files for part in parts)
    values = [_read_idx_file(folder / files[part, "labels"], 1) for part in parts] if labelled else None
    if values:
        for part, images, labels in zip(parts, raw_images, values, strict=True):
            if len(images) != len(labels):
                raise DataError(
                    f"{folder}: {files[part, 'labels']} has {len(labels)} labels for {len(images)} images; "
                    "the files do not match, download them again"
                )
    unlabelled = join_parts(
        [_with_classes(images, None, f"{part}-") for part, images in zip(parts, raw_images, strict=True)]
    )
    if not values:
        return unlabelled
    labelled_set = _with_classes(unlabelled.images, np.concatenate(values), "")
    return Arrays(unlabelled.images, labelled_set.labels, labelled_set.classes, unlabelled.names)


def _read_idx_file(path: Path, dimensions: int) -> np.ndarray:
    """uint8 array of 1 (labels) or 3 (images) dimensions. Raises `DataError` for a wrong size."""
    with broken_archive(path), open_compressed(path) as file:
        head = file.read(4 + 4 * dimensions)
        stated = _IDX_DIMENSIONS.get(int.from_bytes(head[:4], "big")) if len(head) >= 4 else None
        if stated != dimensions or len(head) < 4 + 4 * dimensions:
            kind = "labels" if dimensions == 1 else "images"
            raise DataError(f"{path} is not an idx file of {kind} (it starts with {head[:4].hex() or 'nothing'})")
        shape = struct.unpack(f">{dimensions}I", head[4:])
        expected = math.prod(shape)
        if expected > _MAX_SET_BYTES:
            raise DataError(f"{path} has {expected:,} bytes by its header: expected at most {_MAX_SET_BYTES:,}")
        content = file.read(expected)
        more = bool(file.read(1))
    if len(content) != expected or more or 0 in shape:
        received = f"more than {expected:,}" if more else f"{len(content):,}"
        raise DataError(
            f"{path} should have {' x '.join(map(str, shape))} = {expected:,} bytes but has {received}: "
            "download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


# numpy files.

_IMAGE_KEYS = ("images", "image", "x", "X", "data", "arr_0")
_LABEL_KEYS = ("labels", "label", "y", "Y", "targets", "arr_1")


def read_arrays(path: Path, split: str) -> Arrays:
    """Reads a .npy of images, or a .npz of images and optional labels, perhaps with train and test parts.

    Pickled objects inside are never loaded. Raises `DataError`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about files written by Python 2
            return _read_npy(path) if path.suffix.lower() == ".npy" else _read_npz(path, split)
    except DataError:
        raise
    except Exception as error:  # damaged files can make numpy and zipfile raise almost anything
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} cannot be read as numpy arrays of numbers ({reason}): save it again") from None


def picture_of(content: bytes) -> np.ndarray | PictureError:
    """The image in a .npy file (channels first or last), or an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # damaged files can make numpy raise almost anything
        return PictureError("not an array of numbers: save it again")
    first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4)
    return pixels.transpose(1, 2, 0) if first else pixels


def _read_npy(path: Path) -> Arrays:
    return _array_part(files.load_array(path), None, "", path)


def _read_npz(path: Path, split: str) -> Arrays:
    # Opened here, because numpy does not close invalid files.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
        if not isinstance(held, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is a single array: rename it to end in .npy")
        for member in held.zip.infolist() if held.zip is not None else []:
            if is_bomb(member.file_size, member.compress_size):
                raise DataError(
                    f"{path}: {member.filename} is a decompression bomb: its {member.compress_size:,} bytes expand to "
                    f"{member.file_size:,}; save it uncompressed if you trust it"
                )
        keys = set(held.files)
        wanted = [""] if _first_key(keys, _IMAGE_KEYS, "") else [p for p in ("train", "test") if split in (p, "all")]
        entries = [(part, _first_key(keys, _IMAGE_KEYS, part), _first_key(keys, _LABEL_KEYS, part)) for part in wanted]
        parts = [
            _array_part(held[images], held[labels] if labels else None, f"{part}-" if part else "", path)
            for part, images, labels in entries
            if images
        ]
    if not parts:
        raise DataError(
            f"{path} has {', '.join(sorted(keys)) or 'no arrays'}; expected an array named images (or x, "
            f"x_{wanted[0]}, arr_0) and, for labels, labels (or y, y_{wanted[0]})"
        )
    return join_parts(parts)


def _first_key(keys: set[str], names: Iterable[str], part: str) -> str | None:
    spelled = [[name] if not part else [f"{name}_{part}", f"{part}_{name}"] for name in names]
    return next((name for name in itertools.chain(*spelled) if name in keys), None)


def _array_part(images: np.ndarray, values: np.ndarray | None, prefix: str, path: Path) -> Arrays:
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 3 and images.shape[2] in (1, 3, 4) and images.shape[1] > images.shape[2]:
        raise DataError(
            f"{path} has one array {images.shape}, which is a single image: expected images x height x width"
            "[ x channels]; use a folder with one .npy per image, or one array of all images"
        )
    if images.dtype.kind not in "uif" or images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{path} has an array {images.shape} of {images.dtype}; expected images x height x width"
            "[ x channels] of numbers: uint8, uint16, or others with --levels"
        )
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        raise DataError(f"{path} has images with {images.shape[3]} channels; expected 1, 3 or 4")
    if values is not None:
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if values.shape != (len(images),) or values.dtype.kind not in "iubUS":
            raise DataError(
                f"{path} has labels {values.shape} of {values.dtype} for {len(images)} images; "
                "expected one integer or string per image"
            )
        try:
            values = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        except UnicodeDecodeError:
            raise DataError(f"{path} has labels that are not UTF-8 text: save them as str or integers") from None
    return _with_classes(images, values, prefix)
