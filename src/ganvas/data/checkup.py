"""Data report of `ganvas data check`: properties and problems of the images.

One pass over the source. Only a hash and a thumbnail per image stay in memory, a few kilobytes.
"""

from __future__ import annotations

import functools
import json
import operator
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ganvas.conditions import Conditions
from ganvas.config import FULL, DataConfig, parse_levels
from ganvas.data import catalog
from ganvas.data.image_statistics import Look, look_chunk
from ganvas.data.inspection.marks import EXAMINED, Box, gathered
from ganvas.data.inspection.near_duplicates import Likeness, clusters, nearest_neighbours
from ganvas.data.inspection.thumbnails import Thumbnails
from ganvas.data.opening import reopened
from ganvas.data.packing.pack import Pack, Progress, is_pack
from ganvas.data.packing.pool import LEAST_FOR_WORKERS, chunks, parallel_map
from ganvas.data.packing.selection import (
    Choice,
    choose,
    few_bits,
    first_pages,
    gray_in_colour,
    reduced_bits,
    sixteen_bit_levels,
    stream,
)
from ganvas.data.reading.containers import Rejection, by_reason
from ganvas.data.reading.sources import Payload
from ganvas.data.reading.wide import levels_of as wide_levels_of
from ganvas.data.reading.wide import remark
from ganvas.errors import amount, some
from ganvas.limits import num_cores

_CLASSES_SHOWN = 50
_SHOWN = 5  # examples per line
_NEIGHBOUR, _SAMPLE = 5, 2000  # an outlier is far from its 5th nearest neighbour in a sample of this size
_FAR = 4.0  # distance threshold in robust standard deviations of the logarithm


@dataclass
class BurnedIn:
    """A burned-in mark found in many images."""

    share: float
    """Fraction of the examined images that have it."""
    bright: bool
    """True if brighter than its surroundings, False if darker."""
    box: Box
    """Typical position."""
    names: list[str]
    """Examined images that have it."""


@dataclass
class Checkup:
    """Result of the check. Names are those of the source."""

    data: str
    form: str
    num_images: int = 0
    """Number of usable images."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Height x width -> number of images, most frequent first."""
    channels: dict[int, int] = field(default_factory=dict)
    depths: dict[int, int] = field(default_factory=dict)
    alpha: int = 0
    """Number of images with transparency."""
    classes: dict[str, int] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    """The unusable files."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Groups of images with the same pixels."""
    blank: list[str] = field(default_factory=list)
    """Blank or nearly blank images."""
    near: list[list[str]] = field(default_factory=list)
    """Clusters of nearly identical images, largest first; identical pixels count once."""
    leaks: list[list[str]] = field(default_factory=list)
    """Clusters (also of identical images) with different classes."""
    marks: list[BurnedIn] = field(default_factory=list)
    bars: list[str] = field(default_factory=list)
    """Images with uniform bars at a border: letterboxes and frames."""
    outliers: list[str] = field(default_factory=list)
    """Images that differ strongly from all others, most different first."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user, as sentences."""

    @property
    def num_duplicates(self) -> int:
        """Number of redundant images: all except one of each group."""
        return sum(len(group) - 1 for group in self.duplicates)

    @property
    def num_near(self) -> int:
        """Number of images in clusters of near duplicates."""
        return sum(map(len, self.near))

    def to_json(self) -> str:
        """The complete report, with full lists of names."""
        return json.dumps(asdict(self) | {"num_duplicates": self.num_duplicates}, indent=1, ensure_ascii=False)

    def lines(self) -> list[str]:
        """The report as lines for the terminal."""
        told = [f"{name}: {text}" for name, text in (self.facts() | self.problems()).items()]
        return [
            f"{self.data} ({self.form}): {amount(self.num_images, 'image')}",
            *told,
            *(f"note: {n}" for n in self.notes),
        ]

    def facts(self) -> dict[str, str]:
        """Properties of the images, as text."""
        colors = {_colors(channels): count for channels, count in self.channels.items()}
        return {
            "sizes": _counted(self.sizes),
            "channels": _counted(colors) + (f", {self.alpha:,} with transparency" if self.alpha else ""),
            "depth": _counted({f"{n} bit": k for n, k in self.depths.items()}),
            "classes": _counted(self.classes, _CLASSES_SHOWN) if self.classes else "none",
        }

    def problems(self) -> dict[str, str]:
        """What was searched for, and what was found, as text; "none" if nothing was."""
        rejected = by_reason(self.rejected)
        same = [" = ".join(group[:3]) for group in self.duplicates]
        alike = [" ~ ".join(group[:3]) for group in self.near]
        groups = f" (clusters: {len(self.near):,}, the largest has {len(self.near[0]):,})" if self.near else ""
        return {
            "rejected": f"{len(self.rejected):,}: {rejected}" if rejected else "none",
            "exact duplicates": _examples(same, self.num_duplicates),
            "near duplicates": _examples(alike, self.num_near) + groups,
            "same image in several classes": _examples([" ~ ".join(group[:3]) for group in self.leaks]),
            "blank or nearly blank": _examples(self.blank),
            "burned-in marks": "; ".join(map(_mark, self.marks)) or "none",
            "borders and letterboxes": _examples(self.bars),
            "very different from all others": _examples(self.outliers),
        }


def _counted(counts: dict[str, int], most: int = _SHOWN) -> str:
    parts = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    rest = len(counts) - len(parts)
    return ", ".join(parts) + (f" and {rest:,} others" if rest else "")


def _mark(mark: BurnedIn) -> str:
    top, left = mark.box[0] + mark.box[2] / 2, mark.box[1] + mark.box[3] / 2
    place = " ".join([_third(top, "upper", "lower"), _third(left, "left", "right")]).strip() or "middle"
    return f"in {mark.share:.0%} of the images, mostly {place} ({mark.names[0]})"


def _third(place: float, low: str, high: str) -> str:
    return low if place < 1 / 3 else high if place > 2 / 3 else ""


def _colors(channels: int) -> str:
    return "gray" if channels == 1 else "colour"


def _examples(names: list[str], count: int | None = None) -> str:
    if not names:
        return "none"
    rest = len(names) - _SHOWN
    return f"{count or len(names):,}: " + ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def check(
    source: str | Path,
    config: DataConfig | None = None,
    *,
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> Checkup:
    """Checks every image of a path, a pack folder or a named data set (`source` and `data` as in `open_pack`).

    Images are checked at their original size. Raises `DataError` if there are none.
    """
    config = config or DataConfig()
    if data is None and is_pack(Path(source)):
        return _check_pack(reopened(Path(source), config), progress)
    dataset, place = catalog.locate(str(source), data, progress)
    images, _ = catalog.open_at(dataset, place, config)
    choice = choose(images, config)
    checkup = Checkup(str(source), images.form, notes=list(choice.notes))
    if images.conditions is not None:
        rows = images.conditions.rows(images.items[i].name for i in choice.indices)
        checkup.notes.append(Conditions.of(images.conditions.kinds, rows).sentence())
    checkup.rejected = [*images.rejected, *choice.rejected]
    names = [images.items[i].name for i in choice.indices]
    payloads = (payload for _, payload in stream(images, choice.indices))
    _look_at_all(checkup, payloads, names, _labels(choice, images.classes), progress, config.levels)
    return checkup


def _labels(choice: Choice, classes: list[str]) -> list[str]:
    return [classes[label] for label in choice.labels] if classes else []


def _check_pack(pack: Pack, progress: Progress | None) -> Checkup:
    checkup = Checkup(str(pack.folder), "pack", rejected=list(pack.record.rejected), notes=list(pack.notes))
    labels = [] if pack.labels is None else [pack.classes[label] for label in pack.labels]
    _look_at_all(checkup, iter(pack.images), pack.names, labels, progress)
    return checkup


# Properties of single images.


def _look_at_all(
    checkup: Checkup,
    payloads: Iterator[Payload],
    names: list[str],
    labels: list[str],
    progress: Progress | None,
    levels: str | None = None,
) -> None:
    """Fills in the results of all images. levels: the option --levels."""
    report = progress or (lambda what, done, total: None)
    workers = num_cores() if len(names) >= LEAST_FOR_WORKERS else 0
    looks: list[Look] = []
    kept: list[int] = []  # indices of readable images
    done = 0
    for chunk in parallel_map(look_chunk, _jobs(payloads, -(-len(names) // EXAMINED)), workers):
        for i, one in enumerate(chunk, start=done):
            if isinstance(one, str):
                checkup.rejected.append(Rejection(names[i], one))
            else:
                looks.append(one)
                kept.append(i)
        done += len(chunk)
        report("checking images", done, len(names))
    looks = _of_one_range(checkup, looks, levels)
    names, classes = [names[i] for i in kept], list(dict.fromkeys(labels))  # classes in the order of the source
    labels = [labels[i] for i in kept] if labels else []
    _count(checkup, looks, names, labels, classes)
    report("comparing images", 0, 0)
    groups = _compare(checkup, looks, names, labels)
    checkup.notes += _notes(checkup, groups, labels)


def _of_one_range(checkup: Checkup, looks: list[Look], levels: str | None) -> list[Look]:
    """The measurements of floating point and larger pixels relative to one range, which is noted."""
    spans = [look.span for look in looks if look.span is not None]
    if not spans:
        return looks
    joined = functools.reduce(operator.or_, spans)
    chosen = parse_levels(levels) if levels else wide_levels_of(joined)
    checkup.notes += [] if levels else [remark(joined, chosen)]
    return [look.within(chosen) for look in looks]


def _jobs(payloads: Iterator[Payload], step: int) -> Iterator[tuple[list[Payload], int, int]]:
    first = 0
    for chunk in chunks(payloads):
        yield chunk, first, max(1, step)
        first += len(chunk)


def _count(checkup: Checkup, looks: list[Look], names: list[str], labels: list[str], classes: list[str]) -> None:
    """Fills in the properties of single images."""
    infos = [look.info for look in looks]
    sizes = Counter(f"{info.height}x{info.width}" for info in infos)
    checkup.num_images, checkup.sizes = len(looks), dict(sizes.most_common())
    checkup.channels = dict(Counter(1 if look.gray else 3 for look in looks))
    disguised = sum(look.gray and look.info.channels == 3 for look in looks)
    if disguised:
        checkup.notes.append(gray_in_colour(disguised))
    checkup.depths = dict(Counter(info.depth for info in infos))
    checkup.alpha = sum(info.alpha for info in infos)
    counts = Counter(labels)
    checkup.classes = {name: counts[name] for name in classes}
    if reduced := sum(info.reduced for info in infos):
        checkup.notes.append(reduced_bits(reduced))
    if paged := [info.pages for info in infos if info.pages > 1]:
        checkup.notes.append(first_pages(len(paged), sum(paged)))
    top = max((look.highest for look in looks), default=0)
    white = sixteen_bit_levels(top)[1]
    if white != FULL[1]:
        checkup.notes.append(few_bits(top, white))
    checkup.blank = [name for name, look in zip(names, looks, strict=True) if look.blank(white)]
    checkup.bars = [name for name, look in zip(names, looks, strict=True) if any(look.bars)]


def _compare(checkup: Checkup, looks: list[Look], names: list[str], labels: list[str]) -> list[list[int]]:
    """Fills in comparisons between images; returns the groups of identical ones."""
    if not looks:
        return []
    equal: dict[bytes, list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        equal[look.digest].append(i)
    groups = [group for group in equal.values() if len(group) > 1]
    checkup.duplicates = [[names[i] for i in group] for group in groups]

    # One of each group of identical images is compared with the others; blank images are excluded.
    blank = set(checkup.blank)
    once = np.array([group[0] for group in equal.values() if names[group[0]] not in blank], np.int64)
    thumbs = Thumbnails.joined([looks[i].thumbnail for i in once]) if len(once) else None
    near = [once[cluster] for cluster in clusters(Likeness(thumbs, quick=True).pairs(), len(once))] if thumbs else []
    checkup.near = [[names[i] for i in cluster] for cluster in near]
    if labels:
        mixed = [group for group in (*groups, *near) if len({labels[i] for i in group}) > 1]
        checkup.leaks = [[f"{names[i]} ({labels[i]})" for i in group] for group in mixed]
    if thumbs:
        checkup.outliers = [names[once[i]] for i in _outliers(thumbs, [looks[i] for i in once])]

    # A pupil in all frames of one scene is no mark: each cluster counts as one image.
    again = {int(i) for cluster in near for i in cluster[1:]} | {i for group in groups for i in group[1:]}
    examined = {i: look.spots for i, look in enumerate(looks) if look.spots is not None and i not in again}
    checkup.marks = [
        BurnedIn(mark.share, mark.bright, mark.box, [names[i] for i in mark.places]) for mark in gathered(examined)
    ]
    return groups


def _outliers(thumbs: Thumbnails, looks: list[Look]) -> list[int]:
    """Indices of images whose tones, brightness and contrast differ most from all others, most different first."""
    num = len(looks)
    sample = np.random.default_rng(0).permutation(num)[:_SAMPLE]
    if len(sample) <= 2 * _NEIGHBOUR:
        return []
    tones = thumbs.tones.reshape(num, -1).astype(np.float32) / 255
    levels = np.array([(look.brightness, look.spread) for look in looks], np.float32)
    rows = np.concatenate([tones / np.sqrt(tones.shape[1]), levels], axis=1, dtype=np.float32)
    distances, neighbours = nearest_neighbours(rows, rows[sample], _NEIGHBOUR + 1)
    itself = (sample[neighbours] == np.arange(num)[:, None]).any(1)
    apart = np.log(np.sqrt(np.where(itself, distances[:, _NEIGHBOUR], distances[:, _NEIGHBOUR - 1])) + 1e-3)
    offset = apart - np.median(apart)
    far = offset / max(1.4826 * float(np.median(np.abs(offset))), 0.05)
    return [int(i) for i in np.argsort(-far) if far[i] > _FAR]


def _notes(checkup: Checkup, groups: list[list[int]], labels: list[str]) -> list[str]:
    notes = []
    if checkup.num_images < 2:
        notes.append("Training needs at least 2 images.")
    if labels and (mixed := sum(len({labels[i] for i in group}) > 1 for group in groups)):
        notes.append(f"Different classes in {amount(mixed, 'group')} of identical images: some labels are wrong.")
    if checkup.near:
        notes.append(
            f"{checkup.num_near:,} images are nearly identical to another: a random split would leak. Packing keeps "
            "each cluster on one side; --drop-duplicates removes images that differ only in compression or brightness."
        )
    if checkup.marks and set(checkup.channels) == {1}:
        notes.append("The generator would learn the burned-in marks: pack with --mask-marks to fill them in.")
    elif checkup.marks:
        notes.append(
            "Look at the burned-in marks first: in colour images they are often parts of the figures, such as pupils, "
            "which --mask-marks would remove."
        )
    counts = checkup.classes
    if counts and (single := [name for name, count in counts.items() if count == 1]):
        notes.append(f"Classes with a single image cannot be learned: {some(single)}.")
    if counts and (none := [name for name, count in counts.items() if count == 0]):
        notes.append(f"Classes without usable images are left out: {some(none)}.")
    if counts and max(counts.values()) > 10 * (least := max(1, min(counts.values()))):
        notes.append(
            f"The classes are very unbalanced: {max(counts, key=lambda name: counts[name])} has "
            f"{max(counts.values()) / least:.0f} times the images of {min(counts, key=lambda name: counts[name])}."
        )
    if len(checkup.channels) > 1:
        notes.append("Gray and colour images are mixed: all become colour unless --channels gray is given.")
    return notes
