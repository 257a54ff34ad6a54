"""Labels of image files: from folders, from a list of file,label, or from the lists of CelebA."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ganvas.conditions import natural
from ganvas.data.reading.containers import Container, Item, Rejection
from ganvas.data.reading.lists import Finder, Table, as_name, read_text, refuse_cells, text_of
from ganvas.data.reading.masks import ANNOTATIONS, SUFFIX, stem
from ganvas.errors import DataError, amount, some
from ganvas.system import files

_T = TypeVar("_T")

_FOLDER_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
"""Folder names that are parts of a data set, not classes."""

CELEBA_ATTRIBUTES, CELEBA_PARTITION = "list_attr_celeba", "list_eval_partition"
_CELEBA_PARTS = {"train": "0", "test": "2"}  # "1" is validation


@dataclass
class Labelled:
    """Usable images, their classes in order, and images rejected because of their labels."""

    items: list[Item] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Notes on interpretations that may be wrong."""


ALL_OF_THEM = "--labels none uses all, without classes"

# Folders.


def by_folder(container: Container, images: list[str], split: str, plain: bool = False) -> Labelled:
    """Classes from the first level with two or more folders of images; train/ and test/ are parts.

    plain: all images of the part, without classes.
    """
    images, depth, rejected = _in_part(container, images, split)
    tops = _folders_at(images, depth)
    if plain or len(tops) < 2:
        return Labelled([Item(name, None) for name in images], rejected=rejected)
    labelled = Labelled(classes=sorted(tops, key=natural), rejected=rejected)
    for name in images:
        if name.count("/") > depth:
            labelled.items.append(Item(name, name.split("/")[depth]))
        else:
            labelled.rejected.append(Rejection(name, "outside the class folders", ALL_OF_THEM))
    if all(_SHARD.fullmatch(top) for top in tops):
        labelled.notes.append(
            f"The folders {some(labelled.classes, 3)} are used as classes. If they are only shards, {ALL_OF_THEM}."
        )
    labelled.notes += [
        f"The folder {top} is used as a class, although its files have the names of other images. If they are masks or "
        f"annotations, leave them out: --classes {' '.join(one for one in labelled.classes if one != top)}"
        for top in labelled.classes
        if top.lower() in ANNOTATIONS and len(labelled.classes) <= _FEW and _repeats(labelled.items, top)
    ]
    return labelled


_FEW = 4  # largest number of classes for a note about a class named like annotations


def _repeats(items: list[Item], top: str) -> bool:
    """Whether most files of the class `top` have the file names of images of other classes."""
    others = {stem(item.name) for item in items if item.label != top}
    own = [stem(item.name) for item in items if item.label == top]
    return 2 * sum(SUFFIX.sub("", name) in others for name in own) > len(own)


_SHARD = re.compile(r"\d{4,}")
"""Folder names such as 00000 and 01000, used to split large data sets."""


def _in_part(container: Container, images: list[str], split: str) -> tuple[list[str], int, list[Rejection]]:
    """(images of the folder `split`, number of shared leading folders, rejected images outside)."""
    depth = _shared_depth(images)
    tops = _folders_at(images, depth)
    if len(tops) < 2 or not all(top.lower() in _FOLDER_PARTS for top in tops):
        if split == "test":
            raise DataError(f"{container.path} has no test part: omit --split, or add a folder named test")
        return images, depth, []
    if split == "all":
        return images, depth + 1, []
    part_of = {top: _FOLDER_PARTS[top.lower()] for top in tops}
    chosen = [name for name in images if part_of.get(name.split("/")[depth]) == split]
    if not chosen:
        raise DataError(f"{container.path} has no {split} folder, only {', '.join(sorted(tops))}")
    reason = f"outside the folders {', '.join(sorted(tops))}"
    outside = [name for name in images if name.count("/") == depth]
    return chosen, depth + 1, [Rejection(name, reason, "--split all uses all parts") for name in outside]


def _folders_at(images: list[str], depth: int) -> set[str]:
    return {name.split("/")[depth] for name in images if name.count("/") > depth}


def _shared_depth(images: list[str]) -> int:
    """Number of leading folders shared by all images."""
    return os.path.commonprefix(images).count("/")  # noqa: RUF071 (characters behind the last "/" do not count)


# A list of file,label.

LIST_ENDINGS = (".csv", ".tsv", ".jsonl", ".json")


def csv_of(labels: str | None) -> tuple[str | None, str | None]:
    """("labels.csv", "hair") from "labels.csv:hair"; (None, None) if `labels` is not a list."""
    name, colon, column = (labels or "").rpartition(":")
    if colon and name.lower().endswith(LIST_ENDINGS):
        return name, column
    return (labels, None) if (labels or "").lower().endswith(LIST_ENDINGS) else (None, None)


def by_csv(
    container: Container,
    images: list[str],
    labels: str,
    *,
    masks: list[Rejection],
    only_listed: bool,
    plain: bool = False,
) -> Labelled:
    """Label `images` by the list that `labels` names ("some.csv" or "some.csv:column").

    Lines name images as in `Finder`. Images that are not listed are rejected, or ignored silently if `only_listed`.
    masks: rejected annotations, used only if the list has their complete names. plain: use the list to select images,
    without labels. Raises `DataError` for ambiguous lists, such as two labels for one image.
    """
    csv_name, column = csv_of(labels)
    content = find_text(container, csv_name or labels)
    if content is None:
        raise DataError(f"--labels {labels}: no such file, also not next to or in {container.path}")
    where = Path(csv_name or labels).name
    refused = {mask.name: mask for mask in masks}
    finder = Finder(images, complete=refused)
    if where.lower().endswith(".json"):
        listed = _stylegan_labels(content)
        if not listed:
            raise DataError(f'{where} has no list of [file, class number] under "labels", the format of StyleGAN')
    else:
        listed = _rows(Table.read(content, where, finder), finder, column, plain)
    listed_masks = refused.keys() & {name for name, _ in listed}
    labelled = _by_list(container, sorted({*images, *listed_masks}), listed, finder, where, only_listed)
    labelled.rejected += [] if only_listed else [mask for mask in masks if mask.name not in listed_masks]
    return labelled


def _rows(table: Table, finder: Finder, column: str | None, plain: bool = False) -> list[tuple[str, str]]:
    """Name and label of each row that has a name; plain: no labels."""
    names = table.names(finder)
    labels = [""] * len(table.rows) if plain else table.labels(names, column)
    rows = zip([row[names] for row in table.rows], labels, strict=True)
    return [(as_name(name), label) for name, label in rows if name]


def _by_list(
    container: Container,
    images: list[str],
    listed: list[tuple[str, str]],
    finder: Finder,
    where: str,
    only_listed: bool = False,
) -> Labelled:
    label_of, strangers = matched(listed, finder, where)
    if not label_of:
        raise no_match(listed, where, container, images[0])
    refused = {rejection.name for rejection in container.rejected}
    absent = [file for file in strangers if file not in refused]
    labelled = Labelled(rejected=[Rejection(file, f"listed in {where} but missing") for file in absent])
    has_labels = any(label_of.values())  # a csv of one column is a list of images without labels
    for name in images:
        if label_of.get(name) or (name in label_of and not has_labels):
            labelled.items.append(Item(name, label_of[name] or None))
        elif name in label_of or not only_listed:
            labelled.rejected.append(Rejection(name, f"has no label in {where}", ALL_OF_THEM))
    labelled.classes = sorted({item.label for item in labelled.items if item.label}, key=natural)
    return labelled


_METADATA = ("metadata.csv", "metadata.jsonl")
"""Metadata lists of Hugging Face image folders, one for all or one per part."""


def by_own_list(container: Container, images: list[str], split: str) -> Labelled | None:
    """Labels from a list next to the images: StyleGAN's dataset.json or Hugging Face's metadata files.

    None if there is no list, or it has no classes; folders then give the classes.
    """
    lists = [name for name in container.names if name.rpartition("/")[2] in ("dataset.json", *_METADATA)]
    if not lists:
        return None
    finder = Finder(images)
    listed: list[tuple[str, str]] = []
    other_columns: dict[str, None] = {}
    for name, content in container.read(lists):
        folder, _, base = name.rpartition("/")
        prefix = f"{folder}/" if folder else ""
        text = text_of(content, name) if isinstance(content, bytes) else ""
        if base == "dataset.json":
            stylegan = _stylegan_labels(text)
            if stylegan == []:
                return Labelled(
                    [Item(picture, None) for picture in images], notes=[_OWN_LIST.format(base, "no classes")]
                )
            listed += [(prefix + file, label) for file, label in stylegan or ()]
        elif text.strip():
            table = Table.read(text, name, finder)
            header = table.header or []
            if "file_name" in header and "label" in header:
                listed += [(prefix + file, label) for file, label in _rows(table, finder, "label")]
            elif "file_name" in header:
                other_columns |= dict.fromkeys(f"{base}:{column}" for column in header if column != "file_name")
    if not any(finder.find(name) for name, _ in listed):
        labelled = by_folder(container, images, split)
        if other_columns:
            labelled.notes.append(
                f"There is a list with the images; to use a column as classes: --labels {min(other_columns)}."
            )
        return labelled
    base = lists[0].rpartition("/")[2]
    chosen, _, rejected = _in_part(container, images, split)
    present = set(chosen)
    own = [row for row in listed if (match := finder.find(row[0])) is None or match[0] in present]
    labelled = _by_list(container, chosen, own, finder, base)
    labelled.rejected += rejected
    labelled.notes.append(_OWN_LIST.format(base, "the classes"))
    return labelled


_OWN_LIST = "The list included with the images, {}, gives {}."


MOST_JSON = 3 * 2**24  # a million images have 30 million characters; values take up to 25 times as many bytes in memory


def _stylegan_labels(content: str) -> list[tuple[str, str]] | None:
    """(file, class number) pairs from a dataset.json of StyleGAN; empty if it has no classes, None if it is another
    kind of file. Raises `DataError` for labels that are not integers, and for files that are too large.
    """
    if len(content) > MOST_JSON:
        raise DataError(f"dataset.json has more than {MOST_JSON:,} characters: ignore it with --labels none")
    try:
        labels = files.parse_json(content)["labels"]
    except (ValueError, TypeError, KeyError):
        return None
    if labels is None:
        return []
    try:
        listed = [(as_name(name), label) for name, label in labels]
    except (TypeError, ValueError, AttributeError):
        return None
    if any(type(label) is not int for _, label in listed):
        raise DataError("dataset.json has labels that are not integers: ignore them with --labels none")
    return [(name, str(label)) for name, label in listed]


def matched(listed: list[tuple[str, _T]], finder: Finder, where: str) -> tuple[dict[str, _T], list[str]]:
    """(image -> label, names without an image). A name with more matching parts has precedence."""
    best: dict[str, tuple[int, str, _T]] = {}
    strangers, clashes = [], []
    for name, label in listed:
        match = finder.find(name)
        if match is None:
            strangers.append(name)
            continue
        picture, agreement = match
        before = best.get(picture)
        if before is None or agreement > before[0] or (agreement == before[0] and not before[2]):
            if before and agreement > before[0]:
                strangers.append(before[1])
            best[picture] = agreement, name, label
        elif agreement < before[0]:
            strangers.append(name)
        elif label and label != before[2]:
            clashes.append(f"{picture} is {before[2]!r} and {label!r}")
    if clashes:
        raise DataError(
            f"{where} gives {amount(len(clashes), 'image')} two labels ({some(clashes, 2)}): keep one line per image"
        )
    return {picture: label for picture, (_, _, label) in best.items()}, list(dict.fromkeys(strangers))


def no_match(listed: Sequence[tuple[str, object]], where: str, container: Container, example: str) -> DataError:
    """The error for a list of which no line names an image."""
    if not listed:
        return DataError(f"{where} names no file: expected lines with the name of an image, such as {example!r}")
    return DataError(
        f"{where} names {amount(len(listed), 'file')} and none is an image in {container.path}: "
        f"it has {listed[0][0]!r} instead of, for example, {example!r}"
    )


def find_text(container: Container, name: str) -> str | None:
    """Text of a list file: at the path `name`, or with this name next to or inside the container."""
    for file in (Path(name), container.path.parent / name):
        if file.is_file():
            return read_text(file)
    inside = [held for held in container.names if held == name or held.endswith("/" + name)]
    contents = [content for _, content in container.read(inside[:1]) if isinstance(content, bytes)]
    return text_of(contents[0], name) if contents else None


# CelebA.


def is_celeba(container: Container) -> bool:
    names = [container.path.name, *container.names]
    return any("img_align_celeba" in name or CELEBA_ATTRIBUTES in name for name in names)


def by_celeba(container: Container, images: list[str], labels: str | None, split: str) -> Labelled:
    """Labels of CelebA. labels: attributes such as "Smiling" or "Smiling,Male", or None for no labels."""
    partition = _celeba_list(container, CELEBA_PARTITION)
    if partition:
        part_of = _read_partition(partition[1])
        number = _CELEBA_PARTS.get(split)
        images = [name for name in images if number is None or part_of.get(stem(name)) == number]
        if not images:
            raise DataError(f"{container.path} has none of the images of the {split} part of {partition[0]}")
    elif split == "test":
        raise DataError(f"{container.path}: the test part needs list_eval_partition.txt next to the images")
    if labels is None:
        return Labelled([Item(name, None) for name in images])
    attributes = _celeba_list(container, CELEBA_ATTRIBUTES)
    if not attributes:
        raise DataError(f"--labels {labels} needs list_attr_celeba.txt: put it next to {container.path.name}")
    label_of = _read_attributes(attributes[1], labels, attributes[0])
    labelled = Labelled()
    for name in images:
        if label := label_of.get(stem(name)):
            labelled.items.append(Item(name, label))
        else:
            labelled.rejected.append(Rejection(name, f"has no line in {attributes[0]}"))
    present = {item.label for item in labelled.items if item.label}
    # order: "not Smiling" before "Smiling", last attribute changes fastest
    labelled.classes = sorted(present, key=lambda name: [not word.startswith("not ") for word in name.split(" + ")])
    return labelled


def _celeba_list(container: Container, name: str) -> tuple[str, str] | None:
    """(file name, content) of a CelebA list: the original .txt or the .csv from Kaggle."""
    for file in (f"{name}.txt", f"{name}.csv"):
        if (content := find_text(container, file)) is not None:
            refuse_cells(len(content) // 2, file)
            return file, content
    return None


def _read_attributes(content: str, asked: str, where: str) -> dict[str, str]:
    """Image stem -> class for "Smiling" or "Smiling,Male". Raises `DataError` with the known attributes."""
    lines = content.splitlines()
    header = next((i for i, line in enumerate(lines[:2]) if len(_cells(line)) > 1), 0)  # after the count
    known = [name for name in _cells(lines[header] if lines else "") if name != "image_id"]
    by_lower = {name.lower(): name for name in known}
    attributes = [name.strip() for name in asked.split(",")]
    for name in attributes:
        if name.lower() not in by_lower:
            raise DataError(f"--labels {name} is not an attribute in {where}; known attributes: {', '.join(known)}")
    attributes = [by_lower[name.lower()] for name in attributes]
    columns = [(name, known.index(name) + 1) for name in attributes]
    labels = {}
    for cells in map(_cells, lines[header + 1 :]):
        if len(cells) == len(known) + 1:
            words = [name if cells[column] == "1" else f"not {name}" for name, column in columns]
            labels[stem(cells[0])] = " + ".join(words)
    return labels


def _read_partition(content: str) -> dict[str, str]:
    """Image stem -> "0" (train), "1" (validation) or "2" (test)."""
    rows = map(_cells, content.splitlines())
    return {stem(row[0]): row[1] for row in rows if len(row) == 2 and row[1] in ("0", "1", "2")}


def _cells(line: str) -> list[str]:
    return re.split(r"[,\s]+", line.strip())
