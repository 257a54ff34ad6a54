"""Sources of images: `open_source` converts a path to a `Source` of named, labelled images.

Files are in a container (containers.py) and get labels from labels.py. Data sets stored as arrays, such as
MNIST and CIFAR, are read by formats.py and cifar.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ganvas.config import DataConfig, parse_conditions, parse_levels
from ganvas.data.reading import cifar, dicom, formats, video
from ganvas.data.reading.archives import Tar, Zip
from ganvas.data.reading.condition_table import ConditionTable, read_conditions
from ganvas.data.reading.containers import PICTURES, Container, Folder, Item, Rejection, Single, is_picture
from ganvas.data.reading.decode import has_picture_mark, is_lfs_pointer, pages, probe
from ganvas.data.reading.labels import (
    CELEBA_ATTRIBUTES,
    CELEBA_PARTITION,
    LIST_ENDINGS,
    Labelled,
    by_celeba,
    by_csv,
    by_folder,
    by_own_list,
    csv_of,
    is_celeba,
)
from ganvas.data.reading.masks import without_masks
from ganvas.errors import DataError, MissingExtraError, PictureError, amount
from ganvas.image_formats import IMAGE_FORMATS

__all__ = ["Item", "Payload", "Rejection", "Source", "file_of", "fingerprint_of", "open_source"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_OTHER_PICTURES = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".svg", ".psd", ".exr", ".ppm", ".pgm")
"""Unsupported image formats; such files are reported as rejected."""

_LIST_FILES = re.compile(cifar.FILES.pattern + r"|list_.*\.txt|.*\.(csv|tsv|jsonl)|dataset\.json")
"""Files of an archive that describe the data set, unlike images."""

_BARE_NAME = re.compile(
    rf"(?!DICOMDIR$)([^.]*|.*\.\d+|.*\.ima|.*({'|'.join(map(re.escape, PICTURES))})[^a-z0-9/.].*)", re.IGNORECASE
)
"""File names without a known ending, such as DICOM files of scanners and images saved by browsers ("a.jpg_large",
"a.jpg?w=640"). DICOMDIR is the index of DICOM files."""

_EXPECTED = (
    "expected a folder of images, DICOM files or videos, a .zip or .tar(.gz) of them, a video, a .csv of file,label, a "
    ".npz or .npy, or a folder with MNIST idx files or CIFAR batches"
)

Payload = bytes | np.ndarray | PictureError


class Source(Protocol):
    """Named images in a fixed order, with their labels."""

    @property
    def form(self) -> str:
        """ "folder", "zip", "tar", "csv", "celeba", "idx", "cifar" or "arrays"; "dicom" if all files are DICOM, and
        "radiographs" if these are X-ray projections; "video" if all are videos."""
        ...

    @property
    def classes(self) -> list[str]:
        """Class names in order; empty without labels."""
        ...

    @property
    def items(self) -> list[Item]: ...

    @property
    def rejected(self) -> list[Rejection]:
        """Files found unusable while listing."""
        ...

    @property
    def notes(self) -> list[str]:
        """Notes on interpretations that may be wrong."""
        ...

    @property
    def conditions(self) -> ConditionTable | None:
        """The cells of every item, if conditions were asked for."""
        ...

    def stream(self, keep: set[str] | None = None) -> Iterator[tuple[Item, Payload]]:
        """Every item, or those named in `keep`, once and in order: the encoded file as bytes, pixels as an
        (H, W) or (H, W, C) array, or a `PictureError` with the reason why it could not be read."""
        ...

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """(images (N, H, W[, C]), label indices (N,) or None) if the data set is stored as arrays, else None."""
        ...


@dataclass
class _PictureSource:
    """Encoded image files in a container; each is one item, or one per frame."""

    form: str
    container: Container
    items: list[Item]
    classes: list[str]
    rejected: list[Rejection]
    frames: dict[str, list[str]]
    """File name -> item names of its frames, for files with several."""
    notes: list[str]
    fps: float = video.FPS
    """Frames per second of the videos among them."""
    conditions: ConditionTable | None = None
    window: tuple[float, float] | None = None
    """For the frames of DICOM files with several (`Target.window`)."""

    def stream(self, keep: set[str] | None = None) -> Iterator[tuple[Item, Payload]]:
        wanted = {item.name: item for item in self.items if keep is None or item.name in keep}
        split = {}
        for file, names in self.frames.items():
            if chosen := {k: wanted.pop(name) for k, name in enumerate(names) if name in wanted}:
                split[file] = chosen
        for name, content in self.container.read(wanted.keys() | split.keys()):
            if name in wanted and _is_array(name) and isinstance(content, bytes):
                yield wanted[name], formats.picture_of(content)
            elif name in wanted and not isinstance(content, Path):
                yield wanted[name], content
            elif isinstance(content, PictureError):
                yield from ((item, content) for item in split[name].values())
            elif video.is_video(name):
                chosen = split[name] if name in split else {0: wanted[name]}
                yield from zip(chosen.values(), video.frames(content, self.fps, list(chosen)), strict=True)
            elif isinstance(content, bytes):
                chosen = list(split[name])
                several = (
                    dicom.frames(content, chosen, self.window) if dicom.is_dicom(content) else pages(content, chosen)
                )
                yield from zip(split[name].values(), several, strict=True)

    def arrays(self) -> None:
        return None


@dataclass
class ArraySource:
    """A data set in memory as one array."""

    form: str
    held: formats.Arrays
    rejected: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conditions: None = None

    @property
    def classes(self) -> list[str]:
        return self.held.classes

    @cached_property
    def items(self) -> list[Item]:
        if self.held.labels is None:
            return [Item(name, None) for name in self.held.names]
        classes = self.held.classes
        return [Item(name, classes[k]) for name, k in zip(self.held.names, self.held.labels.tolist(), strict=True)]

    def stream(self, keep: set[str] | None = None) -> Iterator[tuple[Item, Payload]]:
        for item, pixels in zip(self.items, self.held.images, strict=True):
            if keep is None or item.name in keep:
                yield item, pixels

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self.held.images, self.held.labels


def open_source(path: Path, config: DataConfig | None = None) -> Source:
    """List the images at `path` and their labels.

    config.labels: None (class sub-folders or those of the data set), "none", a csv of file,label (a path, or a name
    next to or inside the source; "some.csv:column" selects a column by its header), or attributes of CelebA. If `path`
    is a csv, it may be one of its columns. config.conditions: a table and its columns, see `read_conditions`.
    config.split, masks, frames and fps choose images, config.levels is for DICOM files; other options are not used.
    Raises `DataError`.
    """
    path, config = Path(path), config or DataConfig()
    asked = config if config.conditions is None else dataclasses.replace(config, labels="none")
    try:
        if not path.exists():
            raise DataError(f"{path} does not exist; {_EXPECTED}")
        if path.is_file():
            with path.open("rb") as file:
                if is_lfs_pointer(file.read(64)):
                    raise DataError(f"{path} is a Git LFS pointer instead of the file: run git lfs pull")
        source = _open(path, asked)
        source = _all_pages(source) if config.frames == "all" and isinstance(source, _PictureSource) else source
        # Without images, packing gives the reasons.
        named = config.conditions is not None and source.items
        return _with_conditions(source, config.conditions, path) if named else source
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _no_labels(config: DataConfig) -> bool:
    """Whether labels are not wanted."""
    return (config.labels or "").lower() == "none"


def _open(path: Path, config: DataConfig) -> Source:
    if held := _find_arrays(path, config.split):
        return _array_source(*held, config, path)
    listing = str(path) if _is_list(path) else None
    container = _open_container(path.parent if listing else path)
    inner = _only_inside(container)
    if listing and config.labels and not _no_labels(config) and not csv_of(config.labels)[0]:
        config = dataclasses.replace(config, labels=f"{listing}:{config.labels}")  # a column of the csv
    if inner:
        return _open(inner, dataclasses.replace(config, labels=config.labels or listing))
    cifar_files = {name: name.rpartition("/")[2] for name in container.names}
    if cifar.is_cifar(cifar_files.values()) and not isinstance(container, Folder):
        contents = _read_all(container, [n for n, base in cifar_files.items() if cifar.FILES.fullmatch(base)])
        arrays = cifar.read_cifar({cifar_files[n]: content for n, content in contents.items()}, config.split, path)
        return _array_source("cifar", arrays, config, path)
    return _picture_source(container, listing, config)


def _with_conditions(source: Source, option: str, path: Path) -> _PictureSource:
    """The source with the cells of its items; images without all of them are rejected."""
    if not isinstance(source, _PictureSource):
        raise DataError(f"--conditions {option}: {path} has arrays instead of image files that a table could name")
    files = [Item(name, None) for name in dict.fromkeys(file_of(item.name) for item in source.items)]
    table, rejected, notes = read_conditions(source.container, files, option)
    items = [Item(item.name, None) for item in source.items if file_of(item.name) in table.cells]
    cells = {item.name: table.cells[file_of(item.name)] for item in items}
    return dataclasses.replace(
        source,
        items=items,
        rejected=source.rejected + rejected,
        notes=source.notes + notes,
        conditions=ConditionTable(table.kinds, cells),
    )


def _all_pages(source: _PictureSource) -> _PictureSource:
    """The source with one item per page or frame. Reads the files."""
    several = {item.name for item in source.items if item.name.lower().endswith(_PAGED)}
    counts = {}
    for name, content in source.container.read(several):
        with suppress(PictureError):
            counts[name] = probe(content).pages if isinstance(content, bytes) else 1
    items, frames = _split(source.items, counts)
    return dataclasses.replace(source, items=items, frames=source.frames | frames)


_PAGED = tuple(ending for form in IMAGE_FORMATS.values() if form.paged for ending in form.endings)
"""Endings of files that may contain several images, except DICOM."""


def _is_list(path: Path) -> bool:
    """Whether the path is a list of images instead of their folder."""
    return path.suffix.lower() in LIST_ENDINGS and path.is_file()


# Sets that are arrays.


def _find_arrays(path: Path, split: str) -> tuple[str, formats.Arrays] | None:
    """The data set at `path` if it is stored as arrays: idx, CIFAR, npz or npy."""
    if path.is_file():
        if path.suffix.lower() in (".npz", ".npy"):
            return "arrays", formats.read_arrays(path, split)
        if match := formats.IDX_NAME.fullmatch(path.name):
            files = formats.find_idx(file.name for file in path.parent.iterdir()).get(match["set"], {})
            return "idx", formats.read_idx(path.parent, match["set"], files, split)
        return None
    names = [entry.name for entry in path.iterdir() if entry.is_file()]
    if sets := formats.find_idx(names):
        if len(sets) > 1:
            raise DataError(f"{path} has idx files of several data sets ({', '.join(sets)}): choose one file of images")
        ((prefix, files),) = sets.items()
        return "idx", formats.read_idx(path, prefix, files, split)
    if cifar.is_cifar(names):
        contents = {name: (path / name).read_bytes() for name in names if cifar.FILES.fullmatch(name)}
        return "cifar", cifar.read_cifar(contents, split, path)
    return None


def _array_source(form: str, held: formats.Arrays, config: DataConfig, path: Path) -> ArraySource:
    if config.labels is not None and not _no_labels(config):
        raise DataError(f"--labels {config.labels}: {path} has its own labels; omit --labels, or use --labels none")
    if _no_labels(config):
        held = formats.Arrays(held.images, None, [], held.names)
    return ArraySource(form, held)


# Sets of image files.


def _open_container(path: Path) -> Container:
    """Opens the folder, zip or tar at `path`, detected by its first bytes. Raises `DataError` for other files."""
    if path.is_dir():
        return Folder(path)
    name = path.name.lower()
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"PK\3\4", b"PK\5\6")) or name.endswith(".zip"):
        return Zip(path)
    if start[257:262] == b"ustar" or name.endswith(ARCHIVES):
        return Tar(path, hold=lambda name: bool(_LIST_FILES.fullmatch(name.rpartition("/")[2])))
    if dicom.is_dicom(start) or video.is_video(name):
        return Single(path)
    kind = "is a single image" if is_picture(name) else "is not a supported file of images"
    raise DataError(f"{path} {kind}; {_EXPECTED}")


def _only_inside(container: Container) -> Path | None:
    """The only folder or archive inside a folder without images, or None."""
    if not isinstance(container, Folder) or any(is_picture(name) or video.is_video(name) for name in container.names):
        return None
    top = [name for name in container.names if "/" not in name]
    if any(map(_is_array, top)) or _by_mark(
        container, top, lambda start: has_picture_mark(start) or dicom.is_dicom(start)
    ):
        return None
    folders = {name.partition("/")[0] for name in container.names if "/" in name}
    if len(folders) == 1:
        return container.path / folders.pop()
    archives = [name for name in container.names if name.lower().endswith((*ARCHIVES, ".npz"))]
    if len(archives) > 1:
        raise DataError(f"{container.path} has several archives ({', '.join(archives)}): choose one of them")
    return container.path / archives[0] if archives else None


def _read_all(container: Container, names: list[str]) -> dict[str, bytes]:
    contents = {}
    for name, content in container.read(names):
        if isinstance(content, PictureError):
            raise DataError(f"{container.path}: {name} {content}; copy or download it again")
        assert isinstance(content, bytes)  # not a video
        contents[name] = content
    return contents


def _picture_source(container: Container, listing: str | None, config: DataConfig) -> _PictureSource:
    """Labels the image files of a container. listing: the csv given instead of a folder."""
    images, marked = _image_files(container)
    rejected = container.rejected + [
        Rejection(name, f"{Path(name).suffix} images are not supported: convert it to PNG or JPEG")
        for name in container.names
        if name.lower().endswith(_OTHER_PICTURES) and not is_picture(name)
    ]
    if not images:
        raise DataError(_nothing_found(container, rejected))
    images, masks = (images, []) if config.masks == "use" else without_masks(images)
    form, labelled = _labelled(container, images, masks, listing, config)
    if not listing:  # other files in the folder of a csv are irrelevant
        labelled.rejected = rejected + labelled.rejected
    names = {item.name for item in labelled.items}
    no_av = MissingExtraError("av", "video", f"{container.path} has videos: reading them")
    videos = _readable(labelled, set(filter(video.is_video, names)), video.available(), video.NO_AV, no_av)
    no_pydicom = MissingExtraError("pydicom", "medical", f"{container.path} has DICOM files: reading them")
    dicoms = names.intersection(marked).union(filter(dicom.is_named, names))
    dicoms = _readable(labelled, dicoms, dicom.available(), dicom.NO_PYDICOM, no_pydicom)
    facts = {name: dicom.facts(start) for name, start in container.starts(dicoms, dicom.START)} if dicoms else {}
    if facts and len(dicoms) == len(labelled.items):
        form = "radiographs" if next(iter(facts.values())).radiograph else "dicom"
    elif videos and len(videos) == len(labelled.items):
        form = "video"
    counts, fps = {name: about.num_frames for name, about in facts.items()}, config.fps or video.FPS
    reasons: dict[str, str] = {}
    for name, content in container.read(videos) if videos else ():
        try:
            if isinstance(content, PictureError):
                raise content
            counts[name] = video.num_frames(content, fps)
        except PictureError as error:
            counts[name], reasons[name] = 0, str(error)
    broken = [name for name in sorted(videos) if not counts[name]]
    labelled.rejected += [Rejection(name, reasons.get(name, "damaged video file")) for name in broken]
    items, frames = _split([item for item in labelled.items if counts.get(item.name, 1)], counts, videos)
    if len(videos) > len(broken):
        num = sum(counts[name] for name in videos)
        give = amount(len(videos) - len(broken), "video gives", "videos give")
        labelled.notes.append(f"{give} {amount(num, 'frame')}, {fps:g} per second; --fps sets another rate.")
    window = parse_levels(config.levels) if config.levels else None
    return _PictureSource(
        form, container, items, labelled.classes, labelled.rejected, frames, labelled.notes, fps, window=window
    )


def _readable(
    labelled: Labelled, names: set[str], available: bool, reason: str, nothing_else: MissingExtraError
) -> set[str]:
    """`names` if the package that reads these files is available; otherwise rejects them for `reason`: an empty set.

    Raises `nothing_else` if there are no other files.
    """
    if available or not names:
        return names
    if len(names) == len(labelled.items):
        raise nothing_else
    labelled.rejected += [Rejection(item.name, reason) for item in labelled.items if item.name in names]
    labelled.items = [item for item in labelled.items if item.name not in names]
    return set()


def _image_files(container: Container) -> tuple[list[str], list[str]]:
    """(all images and videos in order, those that only their first bytes show to be DICOM)."""
    named = [name for name in container.names if is_picture(name) or video.is_video(name)]
    images = sorted(named + _by_mark(container, container.names, has_picture_mark))
    expected = not images or any(dicom.is_named(name) for name in images)
    marked = _by_mark(container, container.names, dicom.is_dicom) if expected else []
    return sorted(images + marked) or [name for name in container.names if _is_array(name)], marked


def _labelled(
    container: Container, images: list[str], masks: list[Rejection], listing: str | None, config: DataConfig
) -> tuple[str, Labelled]:
    """(form of the source, the images with their labels). masks: annotations, which only a list may name."""
    labels, split, plain = config.labels, config.split, _no_labels(config)
    if csv_file := labels if csv_of(labels)[0] else listing:
        labelled = by_csv(container, images, csv_file, masks=masks, only_listed=listing is not None, plain=plain)
        return "csv" if listing else container.form, labelled
    form = container.form
    if is_celeba(container):
        form, labelled = "celeba", by_celeba(container, images, None if plain else labels, split)
    elif labels is None or plain:
        labelled = None if plain else by_own_list(container, images, split)
        labelled = labelled or by_folder(container, images, split, plain)
    else:
        raise DataError(
            f"--labels {labels}: {container.path} is not CelebA, which has attributes; "
            "expected none or a csv of file,label"
        )
    labelled.rejected += masks
    return form, labelled


def _by_mark(container: Container, names: list[str], has_mark: Callable[[bytes], bool]) -> list[str]:
    """Files without a known ending whose first bytes fit."""
    bare = [name for name in names if not is_picture(name) and _BARE_NAME.fullmatch(name.rpartition("/")[2])]
    return [name for name, start in container.starts(bare, dicom.DICOM_MARK.stop) if has_mark(start)] if bare else []


def _is_array(name: str) -> bool:
    return name.lower().endswith(".npy")


def _split(
    items: list[Item], num_frames: dict[str, int], videos: Collection[str] = ()
) -> tuple[list[Item], dict[str, list[str]]]:
    """One item per frame, "heart.dcm#0001" and so on, for files with several and for videos."""
    frames: dict[str, list[str]] = {}
    split = []
    for item in items:
        if (count := num_frames.get(item.name, 1)) == 1 and item.name not in videos:
            split.append(item)
        else:
            frames[item.name] = [f"{item.name}#{k:04}" for k in range(1, count + 1)]
            split += [Item(name, item.label) for name in frames[item.name]]
    return split, frames


def file_of(name: str) -> str:
    """The file of an item: "heart.dcm" from "heart.dcm#0001"."""
    return _FRAME.sub("", name)


_FRAME = re.compile(r"#\d{4,}$")


def _nothing_found(container: Container, rejected: list[Rejection]) -> str:
    if rejected:
        first = f"{rejected[0].name}: {rejected[0].reason}"
        return f"{container.path} has no usable image, {len(rejected)} rejected ({first})"
    if not container.names:
        return f"{container.path} is empty; {_EXPECTED}"
    kinds = Counter(Path(name).suffix.lower() or "no ending" for name in container.names).most_common(3)
    holds = ", ".join(f"{count} x {kind}" for kind, count in kinds)
    return f"{container.path} has no images (it contains {holds}); {_EXPECTED}"


# Fingerprints.


def fingerprint_of(path: Path, labels: str | None = None, conditions: str | None = None) -> str:
    """SHA-256 in hex of the relative name, size and modification time, not of the content, of every file that
    `open_source` uses. An archive is not opened.
    """
    path = Path(path)
    if path.is_dir():
        files = dict(Folder(path).locations())
    else:
        files = {path.name: str(path)}
        if _is_list(path):
            files |= Folder(path.parent).locations()
        neighbours = [f for f in path.parent.iterdir() if _is_sidecar(f.name, path.name)]
        files |= {file.name: str(file) for file in neighbours}
    tables = {"labels": csv_of(labels)[0], "conditions": parse_conditions(conditions)[0] if conditions else None}
    for what, name in tables.items():
        for file in (Path(name), path.parent / name) if name else ():
            if file.is_file():
                files[f"{what}:{name}"] = str(file)
    for name in (CELEBA_ATTRIBUTES, CELEBA_PARTITION):
        for file in path.parent.glob(f"{name}.*"):
            files[file.name] = str(file)
    digest = hashlib.sha256()
    for name, location in sorted(files.items()):
        try:
            status = os.stat(location)  # noqa: PTH116 (a Path takes longer to make than the call)
        except OSError:
            continue
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _is_sidecar(name: str, main: str) -> bool:
    mine = formats.IDX_NAME.fullmatch(main)
    other = formats.IDX_NAME.fullmatch(name)
    return bool(mine and other and mine["set"] == other["set"])
