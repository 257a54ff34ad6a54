"""Write any number of generated images to files; interrupted calls can be continued.

manifest.csv is the state: a row is added after its image is written. The next call writes only missing images and
keeps the images of other calls in the same folder.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import re
import shutil
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np

from ganvas.errors import ConfigError
from ganvas.explore.recipes import Recipe
from ganvas.generator import BATCH, Generator, Labels, to_pixels
from ganvas.image_files import enlarged, save_picture
from ganvas.options import Enlarged, Files
from ganvas.provenance import provenance
from ganvas.system import files

_Progress = Callable[[str, int, int], None]
Gate = Callable[[np.ndarray], np.ndarray]
"""Images (N, H, W, C) -> (N,) bool: which of them to leave out."""
More = Callable[[Sequence["Planned"]], list["Planned"]]
"""Images that were left out -> images to generate instead."""
_PLAIN = Files()
TRIES = 10  # images generated per image wanted, at most, to replace those that the gate leaves out

_COLUMNS = ["file", "seed", "label", "truncation", "model", "note"]
_LEFT_OUT = "left out: a copy of a training image"
_WRITERS = 4  # threads that compress and write


@dataclass(frozen=True)
class Planned:
    """One image to generate. file: path relative to the folder, with /."""

    file: str
    seed: int
    label: str | None


@dataclass(frozen=True)
class Written:
    """Result of a call: paths of the images, number that existed already, number left out by the gate, number of all.

    damaged: unreadable lines of the manifest; their images were generated again.
    """

    paths: list[Path]
    known: int
    left_out: int
    planned: int
    damaged: int = 0


def plan(
    generator: Generator,
    seeds: Sequence[int],
    label: Labels = None,
    truncation: float = 1.0,
    form: Files = _PLAIN,
) -> list[Planned]:
    """One image per seed. label: a class or conditions for all, or one each; default: those in turn, by the seed.

    form: format, enlargement and resolution; they are part of the file name, so that a repeated call with others
    writes other files.
    """
    generator.batches(seeds, label, truncation)  # checks the arguments; generates nothing yet
    names = generator.label_texts(label, seeds)
    mark = ("" if truncation == 1 else f"_t{truncation:g}") + _mark_of(form)
    if generator.info.conditions is not None:
        word = "" if label is None else f"_{_short_name(generator.label_name(label) or '')}"
        return [
            Planned(f"seed{seed:06d}{word}{mark}.{form.format or 'png'}", seed, name)
            for seed, name in zip(seeds, names, strict=True)
        ]
    words = {None: ""} | {
        name: f"_{word}" for name, word in zip(generator.classes, file_names(generator.classes), strict=True)
    }
    return [
        Planned(f"seed{seed:06d}{words[name]}{mark}.{form.format or 'png'}", seed, name)
        for seed, name in zip(seeds, names, strict=True)
    ]


def _mark_of(form: Files) -> str:
    """Enlargement and resolution as part of a file name."""
    filter = "" if form.enlarge == 1 or form.filter == Enlarged.filter else f"-{form.filter}"
    return (f"_x{form.enlarge}{filter}" if form.enlarge > 1 else "") + (f"_{form.dpi}dpi" if form.dpi else "")


def plan_per_class(
    generator: Generator, num: int, seed: int = 0, truncation: float = 1.0, form: Files = _PLAIN
) -> list[Planned]:
    """`num` images of each class in folders named after the classes; seeds are consecutive over all classes."""
    if generator.info.conditions is not None:
        raise ConfigError("--per-class: this model has conditions instead of classes; use --conditions")
    if not generator.classes:
        raise ConfigError("--per-class: this model was trained without labels; omit the option")
    folders = class_folders(generator.classes)
    planned = []
    for i, (name, folder) in enumerate(zip(generator.classes, folders, strict=True)):
        part = plan(generator, range(seed + i * num, seed + (i + 1) * num), name, truncation, form)
        planned += [Planned(f"{folder}/{one.file}", one.seed, one.label) for one in part]
    return planned


def replacements(generator: Generator, num: int, seed: int = 0, truncation: float = 1.0, form: Files = _PLAIN) -> More:
    """For `plan_per_class` with the same arguments: new images of the classes of those that were left out.

    Their seeds follow those of the plan, so a repeated call generates the same images. A class gets at most 10 times
    as many images as wanted.
    """
    seeds = itertools.count(seed + num * len(generator.classes))
    generated = dict.fromkeys(generator.classes, num)

    def more(left_out: Sequence[Planned]) -> list[Planned]:
        planned = []
        for one in left_out:
            name = one.label or ""
            if generated[name] < TRIES * num:
                generated[name] += 1
                (new,) = plan(generator, [next(seeds)], name, truncation, form)
                planned.append(Planned(f"{one.file.rpartition('/')[0]}/{new.file}", new.seed, name))
        return planned

    return more


def class_folders(classes: Sequence[str]) -> list[str]:
    """A unique folder name for each class, valid on all systems; the class name itself if possible."""
    safe = ("".join("-" if c in '<>:"/\\|?*' or not c.isprintable() else c for c in name) for name in classes)
    trimmed = (name[:80].strip(" .") or "class" for name in safe)
    return _distinct([f"{name}-" if name.partition(".")[0].upper() in _DEVICES else name for name in trimmed])


_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(1, 10))}
"""Reserved file names on Windows, with any suffix."""


def file_name(label: str) -> str:
    """A label as part of a file name, valid on all systems."""
    return "".join(c if c.isalnum() or c in "-+." else "-" for c in label)[:40]


def _short_name(conditions: str) -> str:
    """Conditions as part of a file name: different for different ones."""
    name = file_name(conditions.replace("=", "-"))
    is_plain = len(conditions) <= 40 and all(c.isalnum() or c in "+.=," for c in conditions)
    return name if is_plain else f"{name[:33]}-{hashlib.sha256(conditions.encode()).hexdigest()[:6]}"


def file_names(labels: Sequence[str]) -> list[str]:
    """Unique names as by `file_name`."""
    return _distinct([file_name(label) for label in labels])


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered if they differ only by case or Unicode normalisation."""
    taken: set[str] = set()
    kept = []
    for name in names:
        one, number = name, 1
        while (key := unicodedata.normalize("NFC", one).casefold()) in taken:
            number += 1
            one = f"{name}-{number}"
        taken.add(key)
        kept.append(one)
    return kept


def write(
    generator: Generator,
    out: Path,
    planned: Sequence[Planned],
    truncation: float = 1.0,
    *,
    form: Files = _PLAIN,
    gate: Gate | None = None,
    more: More | None = None,
    progress: _Progress | None = None,
) -> Written:
    """Write the planned images and manifest.csv to the folder `out`, or to one file if `out` ends in .zip.

    Repeat an interrupted call to continue. form: as in the plan. gate: selects images to leave out; the manifest lists
    them. more: plans their replacements.
    Raises ConfigError if the folder contains images of another model, another process writes to it, or the gate leaves
    out all images.
    """
    as_zip = out.suffix.lower() == ".zip"
    folder = out.with_name(f".{out.name}.parts") if as_zip else out
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out.with_name(f".{out.name}.lock") if as_zip else folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ConfigError(
                f"another process writes images to {out}: wait until it finishes, or choose another --out"
            ) from None
    try:
        return write_into(_Job(folder, generator, truncation, form, gate, progress), out, list(planned), more)
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()


@dataclass(frozen=True)
class _Job:
    """What is the same for all images of a call. folder: locked by this process."""

    folder: Path
    generator: Generator
    truncation: float
    form: Files
    gate: Gate | None
    progress: _Progress | None


def write_into(job: _Job, out: Path, planned: list[Planned], more: More | None) -> Written:
    """See `write`. out: the .zip file, or the folder itself."""
    folder, path = job.folder, job.folder / "manifest.csv"
    with files.explained(folder):
        for name in {file.rpartition("/")[0] for file in (one.file for one in planned)} - {""}:
            (folder / name).mkdir(exist_ok=True)
    rows, damaged = _open_manifest(folder, job.generator.hash[:12])
    known = 0
    batch = planned
    while batch:
        usable = {one.file for one in batch if one.file in rows and _matches(rows[one.file], one, job)}
        todo = [one for one in batch if one.file not in usable]
        known += len(usable)
        for one in todo:
            rows.pop(one.file, None)
        if path.exists():  # remove rows of images that are generated again, and an incomplete last line
            files.write_text(path, _table([_COLUMNS, *rows.values()]))
        rows |= _make(job, todo, len(planned))
        batch = more([one for one in batch if rows[one.file][-1]]) if more is not None and job.gate is not None else []
        planned += batch
    paths = [folder / one.file for one in planned if not rows[one.file][-1]]
    if not paths:
        raise ConfigError("all images are copies of training images: take other seeds, or train on more images")
    left_out = len(planned) - len(paths)
    if out != folder:
        _zipped(out, folder, [path.relative_to(folder).as_posix() for path in paths])
        paths = [out]
    return Written(paths, known, left_out, len(planned), damaged)


def _make(job: _Job, todo: Sequence[Planned], total: int) -> dict[str, list[str]]:
    """Generate and write images and their rows of the manifest. Returns the rows by file. total: for the progress."""
    path, rows = job.folder / "manifest.csv", dict[str, list[str]]()
    done = total - len(todo)
    with ThreadPoolExecutor(_WRITERS) as pool:
        for batch, pixels in drawn_batches(job.generator, todo, job.truncation):
            left_out = job.gate(pixels) if job.gate is not None else np.zeros(len(batch), bool)
            kept = [(one, picture) for one, picture, out_ in zip(batch, pixels, left_out, strict=True) if not out_]
            list(pool.map(lambda pair: _save(job, *pair), kept))
            fresh = [
                _row_of(job.generator, one, job.truncation, bool(out_))
                for one, out_ in zip(batch, left_out, strict=True)
            ]
            with files.explained(path), path.open("a", encoding="utf-8", newline="") as file:
                file.write(_table(fresh if file.tell() else [_COLUMNS, *fresh]))
            rows |= {one.file: row for one, row in zip(batch, fresh, strict=True)}
            done += len(batch)
            if job.progress is not None:
                job.progress("images", done, total)
    return rows


def drawn_batches(
    generator: Generator, planned: Sequence[Planned], truncation: float
) -> Iterator[tuple[Sequence[Planned], np.ndarray]]:
    """Batches of the plan with their pixels (N, H, W, C)."""
    if not planned:
        return
    labels = None if planned[0].label is None else [one.label or "" for one in planned]
    batches = generator.batches([one.seed for one in planned], labels, truncation)
    for start, images in zip(itertools.count(0, BATCH), batches):
        yield planned[start : start + len(images)], to_pixels(images, generator.info.depth)


def _save(job: _Job, one: Planned, pixels: np.ndarray) -> None:
    recipe = Recipe(one.seed, label=one.label, truncation=job.truncation)
    text = provenance(job.generator.hash, recipe.to_dict())
    write_one(job.folder / one.file, pixels, text, job.form, sync=False)


def write_one(path: Path, pixels: np.ndarray, text: Mapping[str, str], form: Files, sync: bool = True) -> None:
    """Write one generated image (H, W, C), enlarged as asked."""
    save_picture(path, enlarged(pixels[None], form.enlarge, form.filter)[0], text, sync, form.dpi)


def _row_of(generator: Generator, one: Planned, truncation: float, left_out: bool) -> list[str]:
    note = _LEFT_OUT if left_out else ""
    return [one.file, str(one.seed), one.label or "", f"{truncation:g}", generator.hash[:12], note]


def _table(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _open_manifest(folder: Path, model: str) -> tuple[dict[str, list[str]], int]:
    """Rows of earlier calls by file, and number of damaged lines, not counting an incomplete last line."""
    path = folder / "manifest.csv"
    if not path.exists():
        return {}, 0
    with files.explained(path):
        content = path.read_bytes()
    reader = csv.reader(io.StringIO(content[: content.rfind(b"\n") + 1].decode(errors="replace"), newline=""))
    lines: list[list[str]] = []
    while True:
        try:
            lines.append(next(reader))
        except csv.Error:
            lines.append([])
        except StopIteration:
            break
    if not lines:
        return {}, 0
    if lines[0] != _COLUMNS:
        raise ConfigError(f"{path} is not from this version of Ganvas: choose another --out, or move the folder")
    rows = [line for line in lines[1:] if _is_row(line, folder)]
    whole = {row[0]: row for row in rows}
    if others := {row[4] for row in whole.values()} - {model}:
        raise ConfigError(f"{folder} contains images of the model {min(others)}, not of {model}: choose another --out")
    return whole, len(lines) - 1 - len(rows)


def _is_row(line: list[str], folder: Path) -> bool:
    """Whether a line of a manifest is valid."""
    try:
        file, seed, _, truncation, model, note = line
        numbers = int(seed) >= 0 and 0 <= float(truncation) <= 1
    except ValueError:
        return False
    known = note in ("", _LEFT_OUT) and re.fullmatch("[0-9a-f]{12}", model) is not None
    return numbers and known and "\ufffd" not in "".join(line) and files.inside(folder, file) is not None


def _matches(row: Sequence[str], one: Planned, job: _Job) -> bool:
    """Whether the image of a row is the planned one and its file is not empty (as after a power failure)."""
    if row[1:3] != [str(one.seed), one.label or ""] or float(row[3]) != float(f"{job.truncation:g}"):
        return False
    path = job.folder / row[0]
    return job.gate is not None if row[-1] else path.is_file() and path.stat().st_size > 0


def _zipped(out: Path, folder: Path, names: Sequence[str]) -> None:
    """Replace the folder by one archive, without further compression."""

    def fill(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in [*names, "manifest.csv"]:
                archive.write(folder / name, name)

    files.write_atomically(out, fill)
    shutil.rmtree(folder)
