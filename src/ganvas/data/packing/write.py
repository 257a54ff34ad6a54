"""Makes a pack: selects images, reads their headers, decodes them and writes them in one pass.

Writes to `<folder>.partial-<pid>` and renames it when complete and on disk, so that a pack is never incomplete.
Images are processed in chunks, so that memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from filelock import FileLock

import ganvas
from ganvas.conditions import Conditions
from ganvas.config import DataConfig
from ganvas.data.packing.cleaning import mask_marks, without_duplicates, without_similar_frames
from ganvas.data.packing.holdout import few, held_out, held_out_in_time, still_held_out, without_leaks
from ganvas.data.packing.kept import Kept
from ganvas.data.packing.pack import (
    UNMIRRORED,
    Pack,
    PackInfo,
    Policy,
    Progress,
    Request,
    content_hash,
    is_pack,
    note_checked,
    stamps,
)
from ganvas.data.packing.pool import LEAST_FOR_WORKERS, decoded
from ganvas.data.packing.selection import Choice, choose, choose_target, kind_of_images, remarks, survey_source
from ganvas.data.reading.containers import by_reason
from ganvas.data.reading.sources import Rejection, Source, file_of
from ganvas.data.reading.target import Target
from ganvas.data.reading.video import is_video
from ganvas.errors import DataError, some
from ganvas.limits import num_cores
from ganvas.system import files

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def build_pack(
    source: Source,
    config: DataConfig,
    folder: Path,
    *,
    policy: Policy,
    fingerprint: str,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Pack:
    """Packs `source` to `folder`, or opens the existing pack of the same source with the same policy.

    fingerprint: of the source; an existing pack with another one is replaced.
    workers: decoding processes; default: one per core, none for small sets.
    Raises `DataError` for fewer than 2 usable images, a full disk, or other content in `folder`.
    """
    report = progress or (lambda what, done, total: None)
    wanted = Request.of(config, policy)
    if (pack := current(folder, wanted, fingerprint)) is not None:
        return pack
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A second process waits here and then finds the finished pack.
        with contextlib.ExitStack() as held:
            lock = FileLock(folder.with_name(f".{folder.name}.lock"))
            if files.acquire(lock):
                held.callback(lock.release)
            else:
                report(files.no_locks(folder), 0, 0)
            if (pack := current(folder, wanted, fingerprint)) is not None:
                return pack
            _sweep(folder)
            notes = []
            if is_pack(folder):
                notes = ["The source has changed since it was packed, so it was packed again."]
                report("the source has changed since it was packed: packing it again", 0, 0)
            partial.mkdir()
            _write(source, config, policy, partial, wanted, fingerprint, notes, report, workers)
            _swap_in(partial, folder)
    except OSError as error:
        if error.errno in _FULL:
            raise DataError(
                f"the disk is full: {folder} could not be written; free some space, choose another folder, "
                "or pack fewer or smaller images (--limit, --size)"
            ) from error
        if error.errno == errno.ENODEV:
            raise DataError(
                f"the pack {folder} cannot be written, because its file system cannot memory-map files: choose a "
                "folder on a local disk, or set the variable GANVAS_CACHE to one"
            ) from error
        raise DataError(f"the pack {folder} cannot be written ({error}): {files.another_place(folder)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Pack.open(folder)


def current(folder: Path, wanted: Request, fingerprint: str) -> Pack | None:
    """The pack in `folder` if it matches `wanted`; None if it is missing or outdated.

    Raises `DataError` if the folder has other content, which is never overwritten.
    """
    if not is_pack(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} exists and is not a pack: nothing was written; choose another folder")
        return None
    try:
        pack = Pack.open(folder)
    except DataError:  # damaged or of another version: pack again
        return None
    if pack.record.request != wanted:
        raise DataError(
            f"{folder} has a pack of {pack.record.request.name} made from another location or with other "
            "options: nothing was written; choose another folder or delete it"
        )
    return pack if pack.record.fingerprint == fingerprint else None


def _sweep(folder: Path) -> None:
    """Removes leftovers of killed processes. The lock ensures that none is running."""
    for leftover in (
        *folder.parent.glob(f"{folder.name}.partial-*"),
        *folder.parent.glob(f"{folder.name}.old-*"),
    ):
        shutil.rmtree(leftover, ignore_errors=True)


def _swap_in(partial: Path, folder: Path) -> None:
    """Renames the finished pack to its final name; replaces an outdated one."""
    old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flushes a file's content, or a folder's list of names, to disk."""
    if os.name == "nt" and path.is_dir():
        return  # not possible and not needed on Windows
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        files.sync_to_disk(handle)
    finally:
        os.close(handle)


def _write(
    source: Source,
    config: DataConfig,
    policy: Policy,
    folder: Path,
    wanted: Request,
    fingerprint: str,
    notes: list[str],
    report: Progress,
    workers: int | None,
) -> None:
    """Writes all files of the pack to `folder`, which is empty."""
    choice = choose(source, config)
    _check_enough(len(choice.indices), source, choice)
    survey = survey_source(source, choice, report, sized=bool(config.size or policy.size))
    _check_enough(len(choice.indices), source, choice)
    target = choose_target(survey, config, policy)
    choice.notes += remarks(survey, config, policy, target)
    path = folder / "images.npy"
    good = _write_images(source, choice, target, path, report, workers)
    _clean(source, config, choice, good, path, report)
    labels, classes = _settle_classes(choice, good, source.classes)
    report("selecting held-out images", 0, 0)
    images = files.load_array(path)
    names = [source.items[i].name for i in choice.indices[good]]
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        heldout, notes_about_them = _held_out(images, labels, names, config.holdout, policy.kept, Path(scratch))
    choice.notes += notes_about_them
    vectors, schema = _conditions_of(source, names, heldout, choice)
    for name, array in (("heldout", heldout), ("labels", labels), ("conditions", vectors)):
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    (folder / "names.txt").write_text("".join(name + "\n" for name in names), encoding="utf-8", newline="\n")
    rejected = [*source.rejected, *choice.rejected]
    kind = kind_of_images(survey, target, policy)
    PackInfo(
        request=wanted,
        form=source.form,
        fingerprint=fingerprint,
        shape=[len(names), target.height, target.width, target.channels],
        depth=target.depth,
        fit=target.fit,
        background=target.background,
        levels=list(target.wide or target.levels),
        labelled=labels is not None,
        heldout=len(heldout),
        classes=classes,
        kind=kind,
        mirror=kind not in UNMIRRORED,
        licence=policy.licence,
        attribution=policy.attribution,
        rejected=rejected,
        notes=[*notes, *choice.notes, *_named(rejected)],
        names_hash=hashlib.sha256("\n".join(names).encode()).hexdigest(),
        hash=content_hash(images, labels, classes, heldout, vectors, schema),
        ganvas=getattr(ganvas, "__version__", None),
        conditions=schema,
    ).write(folder)
    note_checked(folder, stamps(folder))
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _held_out(
    images: np.ndarray,
    labels: np.ndarray | None,
    names: list[str],
    share: float | None,
    kept: Kept | None,
    scratch: Path,
) -> tuple[np.ndarray, list[str]]:
    """Indices of the held-out images, and notes about them. kept: see `Policy`. scratch: for temporary files."""
    if kept is not None:
        return still_held_out(images, names, kept, scratch)
    scenes = [_scene_of(name) for name in names]
    in_time = any(is_frame for _, is_frame in scenes)
    if in_time:
        heldout = without_leaks(images, scenes, held_out_in_time(scenes, share), scratch)
    else:
        heldout = held_out(images, labels, share, scratch=scratch)
    return heldout, few(len(images), len(heldout), share, in_time)


def _scene_of(name: str) -> tuple[str, bool]:
    """The file of an image, and whether the image is a frame of a video."""
    file = file_of(name)
    return file, file != name and is_video(file)


def _conditions_of(
    source: Source, names: list[str], heldout: np.ndarray, choice: Choice
) -> tuple[np.ndarray | None, dict[str, Any] | None]:
    """Vectors (N, D) of the packed images and their columns; notes which columns are used."""
    if source.conditions is None:
        return None, None
    rows = source.conditions.rows(names)
    schema = Conditions.of(source.conditions.kinds, rows)
    training = np.setdiff1d(np.arange(len(rows)), heldout)
    schema = schema.with_combinations([rows[i] for i in training])
    choice.notes += [schema.sentence(), schema.stored()]
    return schema.matrix(rows), schema.to_dict()


def _named(rejected: list[Rejection]) -> list[str]:
    """A sentence about unusable files and reasons, or an empty list."""
    return [f"{len(rejected):,} of the files could not be used: {by_reason(rejected)}."] if rejected else []


def _check_enough(num_images: int, source: Source, choice: Choice) -> None:
    if num_images >= 2:
        return
    rejected = [*source.rejected, *choice.rejected]
    why = f" ({len(rejected)} rejected; the first is {rejected[0].name}: {rejected[0].reason})" if rejected else ""
    how_many = ["no image", "only one image"][num_images]
    raise DataError(f"{how_many} can be used{why}, but at least 2 are needed: add images in PNG, JPEG or WebP")


def _write_images(
    source: Source, choice: Choice, target: Target, path: Path, report: Progress, workers: int | None
) -> np.ndarray:
    """Writes images.npy. Returns a mask of the chosen images that are in it."""
    total = len(choice.indices)
    if workers is None:
        workers = 0 if total < LEAST_FOR_WORKERS else min(num_cores(), 16)
    good = np.zeros(total, bool)
    done = 0
    dtype = np.dtype("<u2" if target.depth == 16 else "u1")
    num_bytes = total * target.height * target.width * target.channels * dtype.itemsize
    if shutil.disk_usage(path.parent).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def header(num_images: int) -> dict[str, Any]:
        shape = (num_images, target.height, target.width, target.channels)
        return {"descr": dtype.str, "fortran_order": False, "shape": shape}

    with path.open("wb") as file:
        # The header has room for another N and is written again when the number of broken images is known.
        np.lib.format.write_array_header_1_0(file, header(total))
        for images, reasons in decoded(source, choice.indices, target, workers):
            file.write(np.ascontiguousarray(images, dtype).data.cast("B") if len(images) else b"")
            for reason in reasons:
                good[done] = reason is None
                if reason is not None:
                    name = source.items[choice.indices[done]].name
                    choice.rejected.append(Rejection(name, reason))
                done += 1
            report("packing", done, total)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header(int(good.sum())))
    return good


def _clean(source: Source, config: DataConfig, choice: Choice, good: np.ndarray, path: Path, report: Progress) -> None:
    """Drops similar frames and, if asked, duplicates from images.npy and from `good`; fills in marks if asked."""
    _check_enough(int(good.sum()), source, choice)
    is_frame = np.array([_scene_of(source.items[i].name)[1] for i in choice.indices[good]])
    if is_frame.any():
        report("looking for similar frames", 0, 0)
        good[good] = without_similar_frames(path, is_frame, choice.notes)
        _check_enough(int(good.sum()), source, choice)
    if config.drop_duplicates:
        report("looking for duplicates", 0, 0)
        good[good] = without_duplicates(path, choice.notes)
        _check_enough(int(good.sum()), source, choice)
    if config.mask_marks:
        report("looking for marks", 0, 0)
        mask_marks(path, choice.notes)


def _settle_classes(choice: Choice, good: np.ndarray, classes: list[str]) -> tuple[np.ndarray | None, list[str]]:
    """Labels of the packed images, numbered over the classes with images; notes which classes were dropped."""
    if not classes:
        return None, []
    labels = choice.labels[good]
    counts = np.bincount(labels, minlength=len(classes))
    chosen = np.bincount(choice.labels, minlength=len(classes))
    empty = [name for name, count, had in zip(classes, counts, chosen, strict=True) if had and not count]
    if empty:
        choice.notes.append(f"Classes without usable images were dropped: {some(empty)}.")
    single = [name for name, count in zip(classes, counts, strict=True) if count == 1]
    if single:
        choice.notes.append(f"Classes with a single image, which cannot be learned: {some(single)}.")
    present = np.flatnonzero(counts)
    renumbered = np.cumsum(counts > 0) - 1
    return renumbered[labels].astype(np.int64), [classes[i] for i in present]
