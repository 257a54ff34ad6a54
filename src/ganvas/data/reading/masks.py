"""Finds masks and other annotations among image files, so that they become neither images to learn nor a class.

Two layouts are recognised: a folder such as masks/ beside images/, and files such as x_mask.png beside x.png.
"""

from __future__ import annotations

import re
from collections import defaultdict

from ganvas.data.reading.containers import Rejection

_IMAGES = frozenset(
    name + plural
    for name in ("image", "img", "photo", "picture", "frame", "scan", "slice", "input", "original", "raw", "jpegimage")
    for plural in ("", "s")
)
"""Folders of images that may have annotations beside them, in lower case."""

_MASKS = frozenset({"mask", "masks"})
ANNOTATIONS = _MASKS | {
    *("label", "labels", "annotation", "annotations", "annots", "segmentation", "segmentations", "seg", "segs"),
    *("segmentationclass", "segmentationobject", "ground_truth", "groundtruth", "ground-truth", "gt", "trimaps"),
}
"""Folders of annotations, in lower case. Names other than `_MASKS` count only if their files pair with the images."""

_PAIRED = 0.5  # least fraction of the files of such a folder that have the name of an image
SUFFIX = re.compile(r"[ _-](masks?|seg|segmentation|annotation|gt|ground_?truth)([ _-]?\d+)?$", re.IGNORECASE)
_OPTION = "--masks use reads them as images"


def without_masks(images: list[str]) -> tuple[list[str], list[Rejection]]:
    """(images, rejected annotations) of the names of image files."""
    folders = _annotation_folders(images)
    plain = {name: SUFFIX.sub("", _without_ending(name)) for name in images if SUFFIX.search(stem(name))}
    known = set(map(_without_ending, images)) if plain else set()
    kept, rejected = [], []
    for name in images:
        beside = next((folders[top] for top in _folders_of(name) if top in folders), None) if folders else None
        if beside is not None:
            rejected.append(Rejection(name, f"mask or annotation, beside the folder {beside}", _OPTION))
        elif plain.get(name) in known:
            rejected.append(Rejection(name, "mask or annotation of the image with this name", _OPTION))
        else:
            kept.append(name)
    return kept, rejected


def _annotation_folders(images: list[str]) -> dict[str, str]:
    """Folder of annotations, such as "train/masks" -> name of the folder of images beside it, such as "images"."""
    names: dict[str, dict[str, str]] = defaultdict(dict)  # "train" -> its folders, in lower case -> as it is written
    for folder in {folder for name in images for folder in _folders_of(name)}:
        names[folder.rpartition("/")[0]][folder.rpartition("/")[2].lower()] = folder
    beside = {
        held[mask]: [held[name] for name in sorted(held.keys() & _IMAGES)]
        for held in names.values()
        for mask in held.keys() & ANNOTATIONS
        if held.keys() & _IMAGES
    }
    wanted = set(beside).union(*beside.values())
    bases: dict[str, set[str]] = defaultdict(set)  # folder -> names of its files
    for name in images if wanted else ():
        for folder in _folders_of(name):
            if folder in wanted:
                bases[folder].add(stem(name))
    annotated = {}
    for mask, pictures in beside.items():
        known = set().union(*(bases[folder] for folder in pictures))
        paired = sum(base in known or SUFFIX.sub("", base) in known for base in bases[mask])
        if mask.rpartition("/")[2].lower() in _MASKS or paired >= _PAIRED * len(bases[mask]):
            annotated[mask] = pictures[0].rpartition("/")[2]
    return annotated


def _folders_of(name: str) -> list[str]:
    """The folders that contain a file, outermost first: ["a", "a/b"] for "a/b/c.png"."""
    return [name[:end] for end, letter in enumerate(name) if letter == "/"]


def _without_ending(name: str) -> str:
    """A name without its ending: "a/b" for "a/b.png"."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)


def stem(name: str) -> str:
    """A file name without folders and ending: "b" for "a/b.png"."""
    return _without_ending(name).rpartition("/")[2]
