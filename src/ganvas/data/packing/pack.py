"""Pack: images with the same size, depth and number of channels in one memory-mapped file.

    images.npy   uint8 or uint16, N x H x W x C
    labels.npy   int64, N (only with labels)
    conditions.npy  float32, N x D (only with conditions; their columns are in pack.json)
    heldout.npy  int64, indices of the held-out images
    names.txt    the name of each image in its source, one per line, in the order of the pack
    pack.json    classes, source, policy, rejected files with reasons, content hash, notes
    checked.json size, time and inode of the other files when their hash was last verified

opening.py finds or makes the pack of a source; packing.py writes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ganvas.conditions import Conditions
from ganvas.config import MAX_SIZE, DataConfig, Fit, Kind
from ganvas.data.packing.kept import Kept
from ganvas.data.reading.containers import Rejection
from ganvas.data.reading.lists import read_text
from ganvas.errors import ConfigError, DataError, GanvasError, amount
from ganvas.fields import from_dict
from ganvas.system import files

PACK_FORMAT = 2  # format of the pack folder; raise it when older readers would misread the folder
UNMIRRORED: frozenset[str] = frozenset({"digits", "text", "xray", "scan"})
"""Types of images that must not be mirrored."""

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total); total is 0 if unknown."""


@dataclass(frozen=True)
class Policy:
    """Known facts about a set of images, besides the user's options."""

    name: str
    """Name of the data set, file or folder."""
    path: str | None = None
    """Location of the images; None for data included in a package."""
    kind: Kind | None = None
    """None: guessed from the images (see `selection.kind_of`)."""
    size: str | None = None
    """Default image size; None: chosen from the images."""
    fit: Fit | None = None
    licence: str | None = None
    attribution: str | None = None
    kept: Kept | None = None
    """Images that a run holds out and that stay held out; None: a new choice."""


_LATER = {"fps": None, "masks": "skip", "conditions": None}
"""Options added since format 2, with their defaults."""


@dataclass(frozen=True)
class Request:
    """Everything that determines the content of a pack, except the images."""

    name: str
    path: str | None
    config: DataConfig
    """Its `files` is the hash of the list's content, not its location."""
    kept: str | None = None
    """`Kept.key` of the images that stay held out."""

    @classmethod
    def of(cls, config: DataConfig, policy: Policy) -> Request:
        if config.files is not None:
            content = hashlib.sha256(read_list(config.files).encode()).hexdigest()
            config = dataclasses.replace(config, files=content)
        return cls(policy.name, policy.path, config, policy.kept.key if policy.kept else None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without what older packs lack; the name of a pack in the cache is their hash."""
        values = dataclasses.asdict(self.config).items()
        config = {name: value for name, value in values if name not in _LATER or value != _LATER[name]}
        return {"name": self.name, "path": self.path, "config": config} | ({"kept": self.kept} if self.kept else {})


@dataclass(frozen=True)
class PackInfo:
    """The content of pack.json."""

    request: Request
    form: str
    """Kind of the source: folder, zip ..."""
    fingerprint: str
    """Changes if the files of the source change."""
    shape: list[int]
    """(N, H, W, C)."""
    depth: int
    fit: Fit
    background: str | None
    levels: list[int | float]
    """Values of 16 bit, or of floating point and larger, pixels that are black and white."""
    labelled: bool
    heldout: int
    """Number of held-out images."""
    classes: list[str]
    kind: Kind
    mirror: bool
    licence: str | None
    attribution: str | None
    rejected: list[Rejection]
    """Files that could not be used."""
    notes: list[str]
    names_hash: str
    hash: str
    format: int = PACK_FORMAT
    ganvas: str | None = None
    """Version of Ganvas that made the pack."""
    conditions: dict | None = None
    """`Conditions.to_dict`; left out of packs without conditions."""

    @classmethod
    def read(cls, folder: Path) -> PackInfo:
        """Reads pack.json; ignores unknown fields. Raises `DataError` for another version, ValueError for damage."""
        values = files.parse_json((folder / "pack.json").read_bytes())
        if not isinstance(values, dict):
            raise ValueError("pack.json does not hold named values")
        if values.get("format") != PACK_FORMAT:
            raise DataError(
                f"{folder} has pack format {values.get('format')!r:.20} and this version reads {PACK_FORMAT}: "
                "pack the images again, or use the version of ganvas that wrote it"
            )
        return from_dict(cls, values, "pack.json", ignore_unknown=True)

    def write(self, folder: Path) -> None:
        values = dataclasses.asdict(self) | {"request": self.request.to_dict()}
        if self.conditions is None:
            del values["conditions"]
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        # A path may not be valid text.
        (folder / "pack.json").write_text(text, encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True, eq=False, repr=False)
class Pack:
    """An open pack. `images` stays on disk; slices are read on access.

    It is a map-style data set of PyTorch: `torch.utils.data.DataLoader(pack, batch_size=64)` works. Items are images
    (C, H, W) float32 in [-1, 1], or (image, class index) if the pack has labels, or (image, vector) if it has
    conditions. Held-out images are included; use `torch.utils.data.Subset(pack, pack.training)` to leave them out.
    """

    folder: Path
    images: np.ndarray
    """(N, H, W, C) uint8 in 0..255 or uint16 in 0..65535, memory mapped, read only."""
    labels: np.ndarray | None
    """(N,) int64 indices into `classes`, or None."""
    heldout: np.ndarray
    """Sorted int64 indices of the held-out images (holdout.py); may be empty."""
    record: PackInfo
    conditions: np.ndarray | None = None
    """(N, D) float32 vectors of conditions, or None; `schema` has their columns."""

    @classmethod
    def open(cls, folder: str | Path) -> Pack:
        """Opens a pack folder. Raises `DataError` if it is damaged, not a pack, or of another version.

        Types, shapes and ranges are always checked. The content is compared with the stored hash, unless these
        same files have been verified before.
        """
        folder = Path(folder)
        if not is_pack(folder):
            raise DataError(f"{folder} is not a pack: make one with `ganvas data pack IMAGES {folder}`")
        try:
            info = PackInfo.read(folder)
            images, heldout = (files.load_array(folder / name) for name in ("images.npy", "heldout.npy"))
            labels = files.load_array(folder / "labels.npy") if info.labelled else None
            vectors = files.load_array(folder / "conditions.npy") if info.conditions is not None else None
            wrong = _fault(info, images, labels, heldout) or _fault_of_conditions(info, vectors)
            if wrong is None and (now := stamps(folder)) != _checked(folder):
                if content_hash(images, labels, info.classes, heldout, vectors, info.conditions) != info.hash:
                    wrong = "its images, labels, conditions or held-out part have changed since packing"
                elif _names_hash(folder) != info.names_hash:
                    wrong = "its names have changed since packing"
                else:
                    note_checked(folder, now)
        except DataError:
            raise
        except (ConfigError, OSError, ValueError, TypeError, EOFError, MemoryError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"the pack {folder} is damaged ({reason}): delete it and pack the images again") from error
        if wrong is not None:
            raise DataError(f"the pack {folder} is damaged ({wrong}): delete it and pack the images again")
        # Copied to memory, so that changes of the files during training have no effect.
        labels, heldout = None if labels is None else np.array(labels), np.array(heldout)
        return cls(folder, images, labels, heldout, info, None if vectors is None else np.array(vectors))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        import torch  # not above: the processes that decode images import this module

        pixels = torch.from_numpy(np.array(self.images[index], np.float32).transpose(2, 0, 1).copy())
        image = pixels / ((2**self.depth - 1) / 2) - 1
        if self.conditions is not None:
            return image, torch.from_numpy(self.conditions[index].copy())
        return image if self.labels is None else (image, int(self.labels[index]))

    def __repr__(self) -> str:
        classes = f" in {amount(self.num_classes, 'class', 'classes')}" if self.num_classes else ""
        shape = f"{self.height}x{self.width}x{self.channels}"
        return f"Pack({self.folder}, {self.num_images:,} images of {shape}{classes}, {len(self.heldout):,} held out)"

    @property
    def hash(self) -> str:
        """SHA-256 of images, labels, class names, conditions and held-out indices."""
        return self.record.hash

    @property
    def classes(self) -> list[str]:
        return self.record.classes

    @property
    def kind(self) -> Kind:
        return self.record.kind

    @property
    def mirror(self) -> bool:
        """Whether images may be mirrored."""
        return self.record.mirror

    @property
    def num_images(self) -> int:
        """Number of images, including held-out ones."""
        return len(self.images)

    @functools.cached_property
    def training(self) -> np.ndarray:
        """Sorted int64 indices of the training images: all except `heldout`."""
        keep = np.ones(self.num_images, bool)
        keep[self.heldout] = False
        return np.flatnonzero(keep)

    @property
    def num_training(self) -> int:
        return self.num_images - len(self.heldout)

    @property
    def height(self) -> int:
        return self.images.shape[1]

    @property
    def width(self) -> int:
        return self.images.shape[2]

    @property
    def channels(self) -> int:
        return self.images.shape[3]

    @property
    def depth(self) -> Literal[8, 16]:
        """Bits of each value."""
        return 16 if self.images.itemsize == 2 else 8

    @property
    def num_classes(self) -> int:
        """0 for a pack without labels."""
        return 0 if self.labels is None else len(self.classes)

    @functools.cached_property
    def schema(self) -> Conditions | None:
        """The columns of `conditions`, and the combinations that are stored with a model."""
        return None if self.conditions is None else Conditions.from_dict(self.record.conditions)

    @functools.cached_property
    def names(self) -> list[str]:
        """Name of each image in its source."""
        return (self.folder / "names.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")

    @property
    def notes(self) -> list[str]:
        """Notes from packing: what was dropped, drawn or chosen."""
        return self.record.notes


_CONTENT = ("images.npy", "labels.npy", "conditions.npy", "heldout.npy", "names.txt", "pack.json")
_CHECKED = "checked.json"
_PIECE = 8 * 2**20  # bytes of images hashed at a time


def _fault(info: PackInfo, images: np.ndarray, labels: np.ndarray | None, heldout: np.ndarray) -> str | None:
    """Error in the arrays or the description of a pack, or None."""
    classes, num = info.classes, len(images)
    if info.mirror is not (info.kind not in UNMIRRORED):
        return f"pack.json has mirror {info.mirror} for the kind {info.kind}"
    if images.dtype not in (np.dtype("u1"), np.dtype("<u2")) or 8 * images.itemsize != info.depth:
        return f"images.npy has the type {images.dtype}, expected unsigned numbers of {info.depth} bits"
    if list(images.shape) != info.shape or images.ndim != 4 or num < 2 or images.shape[3] not in (1, 3, 4):
        return f"images.npy has the shape {images.shape}, expected {info.shape!r:.60}"
    if any(not 1 <= side <= MAX_SIZE for side in images.shape[1:3]):
        return f"images.npy has the shape {images.shape}, expected sides of {MAX_SIZE} pixels at most"
    if labels is not None and (labels.dtype != np.int64 or labels.shape != (num,)):
        return f"labels.npy has {labels.dtype} {labels.shape}, expected int64 {(num,)}"
    if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        return f"labels.npy has unknown class numbers, expected numbers below {len(classes)}"
    if heldout.dtype != np.int64 or heldout.shape != (info.heldout,) or len(heldout) >= num:
        return f"heldout.npy has {heldout.dtype} {heldout.shape}, expected int64 {(info.heldout,)}"
    if len(heldout) and not (heldout[0] >= 0 and heldout[-1] < num and bool((np.diff(heldout) > 0).all())):
        return "heldout.npy is not an increasing list of image indices"
    return None


def _fault_of_conditions(info: PackInfo, vectors: np.ndarray | None) -> str | None:
    """Error in the conditions of a pack, or None. Raises `ConfigError` for damaged columns."""
    if info.conditions is None or vectors is None:
        return None
    schema = Conditions.from_dict(info.conditions)
    if vectors.dtype != np.dtype("<f4") or vectors.shape != (info.shape[0], schema.width) or not schema.combinations:
        return f"conditions.npy has {vectors.dtype} {vectors.shape}, expected float32 {(info.shape[0], schema.width)}"
    wrong = schema.fault(vectors)
    return wrong and f"conditions.npy has {wrong}"


def content_hash(
    images: np.ndarray,
    labels: np.ndarray | None,
    classes: list[str],
    heldout: np.ndarray,
    vectors: np.ndarray | None = None,
    conditions: dict | None = None,
) -> str:
    """Hash of a pack; see `Pack.hash`."""
    digest = hashlib.sha256()
    step = max(1, _PIECE // images[0].nbytes)
    for start in range(0, len(images), step):
        digest.update(np.ascontiguousarray(images[start : start + step]).data)
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    digest.update(json.dumps(classes).encode())
    digest.update(heldout.astype("<i8").tobytes())
    if vectors is not None:
        digest.update(vectors.astype("<f4").tobytes() + json.dumps(conditions, sort_keys=True).encode())
    return digest.hexdigest()


def _names_hash(folder: Path) -> str:
    """Hash of names.txt, without the final newline."""
    return hashlib.sha256((folder / "names.txt").read_bytes().removesuffix(b"\n")).hexdigest()


def stamps(folder: Path) -> dict[str, list[int]]:
    """Size, modification time and inode of the files of a pack."""
    optional = ("labels.npy", "conditions.npy")
    stats = {name: (folder / name).stat() for name in _CONTENT if name not in optional or (folder / name).exists()}
    return {name: [stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats.items()}


def _checked(folder: Path) -> dict[str, list[int]] | None:
    """The stamps stored at the last verification."""
    try:
        return json.loads((folder / _CHECKED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def note_checked(folder: Path, verified: dict[str, list[int]]) -> None:
    """Stores that these files are verified; ignored in read-only folders, which are verified each time."""
    with contextlib.suppress(GanvasError):
        files.write_text(folder / _CHECKED, json.dumps(verified))


def is_pack(folder: Path) -> bool:
    return (folder / "pack.json").is_file()


def read_list(path: str | Path) -> str:
    """Text of a --files list. Raises `DataError` if it cannot be read."""
    return read_text(Path(path), f"--files {path}")
