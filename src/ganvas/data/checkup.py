"""The data report: what the pictures are, and what is wrong with some of them, before anybody trains on them.

One pass over the source; only a short hash of each picture is kept, so that memory stays small.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganvas.config import DataConfig
from ganvas.data import catalog
from ganvas.data.decode import PictureInfo, Target, decode, probe
from ganvas.data.pack import Pack, Progress, is_pack, reopened
from ganvas.data.pool import chunks, num_cores, parallel_map
from ganvas.data.selection import Choice, choose, readable, stream
from ganvas.data.sources import Payload
from ganvas.errors import PictureError

BLANK = 0.02  # standard deviation of the values, of 0..1, below which a picture shows next to nothing
FEW = 500  # pictures that are looked at in this process
SHOWN = 5  # names or sizes that a line gives as examples


@dataclass
class Checkup:
    """What was found. Names are those of the source."""

    data: str
    form: str
    num_images: int = 0
    """Pictures that can be used."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Height x width -> number of pictures, the most frequent first."""
    channels: dict[int, int] = field(default_factory=dict)
    depths: dict[int, int] = field(default_factory=dict)
    alpha: int = 0
    """Pictures with transparency."""
    classes: dict[str, int] = field(default_factory=dict)
    rejected: list[dict[str, str]] = field(default_factory=list)
    """Name and reason of each file that cannot be used."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Groups of pictures with the same pixels."""
    blank: list[str] = field(default_factory=list)
    """Pictures that show nothing, or next to nothing."""
    notes: list[str] = field(default_factory=list)
    """What deserves attention, in sentences."""

    @property
    def num_duplicates(self) -> int:
        """Pictures that could go without loss: all but one of each group."""
        return sum(len(group) - 1 for group in self.duplicates)

    def to_json(self) -> str:
        """All of it; the lists of names are complete."""
        return json.dumps(asdict(self) | {"num_duplicates": self.num_duplicates}, indent=1, ensure_ascii=False)

    def lines(self) -> list[str]:
        """The report for a terminal, a fact a line."""
        rejected = [f"{file['name']} ({file['reason']})" for file in self.rejected]
        same = [" = ".join(group[:3]) for group in self.duplicates]
        colors = {_colors(channels): count for channels, count in self.channels.items()}
        found = [
            f"{self.data} ({self.form}): {self.num_images:,} pictures",
            f"sizes: {_counted(self.sizes)}",
            f"channels: {_counted(colors)}" + (f", {self.alpha:,} with transparency" if self.alpha else ""),
            f"depth: {_counted({f'{n} bit': k for n, k in self.depths.items()})}",
            f"classes: {_counted(self.classes, len(self.classes))}" if self.classes else "classes: none",
            f"rejected: {_examples(rejected)}",
            f"exact duplicates: {_examples(same, self.num_duplicates)}",
            f"blank or nearly blank: {_examples(self.blank)}",
        ]
        return found + [f"note: {note}" for note in self.notes]


def _counted(counts: dict[str, int], most: int = SHOWN) -> str:
    parts = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    rest = len(counts) - len(parts)
    return ", ".join(parts) + (f" and {rest:,} others" if rest else "")


def _colors(channels: int) -> str:
    return "gray" if channels == 1 else "colour"


def _examples(names: list[str], count: int | None = None) -> str:
    if not names:
        return "none"
    rest = len(names) - SHOWN
    return f"{count or len(names):,}: " + ", ".join(names[:SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def check(
    data: str | Path,
    config: DataConfig | None = None,
    *,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> Checkup:
    """Look at every picture of a path, a pack folder or a named set (`data` and `path` as in `open_pack`).

    The pictures are looked at as they are, before any change of size. Raises `DataError` when there are none.
    """
    config = config or DataConfig()
    if path is None and is_pack(Path(data)):
        return _check_pack(reopened(Path(data), config), progress)
    dataset, place = catalog.locate(str(data), path, progress)
    source, _ = catalog.open_at(dataset, place, config)
    choice = choose(source, config)
    checkup = Checkup(str(data), source.form, notes=list(choice.notes))
    rejected = [*source.rejected, *choice.rejected]
    checkup.rejected = [{"name": rejection.name, "reason": rejection.reason} for rejection in rejected]
    names = [source.items[i].name for i in choice.indices]
    payloads = (payload for _, payload in stream(source, choice.indices))
    _look_at_all(checkup, payloads, names, _labels(choice, source.classes), progress)
    return checkup


def _labels(choice: Choice, classes: list[str]) -> list[str]:
    return [classes[label] for label in choice.labels] if classes else []


def _check_pack(pack: Pack, progress: Progress | None) -> Checkup:
    checkup = Checkup(str(pack.folder), "pack", rejected=list(pack.info["rejected"]), notes=list(pack.notes))
    labels = [] if pack.labels is None else [pack.classes[label] for label in pack.labels]
    _look_at_all(checkup, iter(pack.images), pack.names, labels, progress)
    return checkup


# A look at one picture.


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of one picture."""

    info: PictureInfo
    digest: bytes
    """The first 16 bytes of the sha256 of its size and pixels."""
    blank: bool


def look(payload: Payload) -> Look:
    """Decode one picture at its own size; raises `PictureError`."""
    content = readable(payload)
    info = probe(content)
    channels = 4 if info.alpha else info.channels
    pixels = decode(content, Target(info.height, info.width, channels, info.depth, "crop", None))
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()[:16]
    spread = float(pixels.std(axis=(0, 1), dtype=np.float32).max()) / (2**info.depth - 1)
    return Look(info, digest, spread < BLANK)


def look_chunk(payloads: list[Payload]) -> list[Look | str]:
    """`look` at some pictures, in a child process or here; the reason instead where one cannot be used."""
    looks: list[Look | str] = []
    for payload in payloads:
        try:
            looks.append(look(payload))
        except PictureError as error:
            looks.append(str(error))
    return looks


def _look_at_all(
    checkup: Checkup, payloads: Iterator[Payload], names: list[str], labels: list[str], progress: Progress | None
) -> None:
    """Fill in what the pictures themselves say."""
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    counts["classes"].update(dict.fromkeys(dict.fromkeys(labels), 0))  # in the order of the source
    first: dict[bytes, int] = {}
    groups: dict[bytes, list[int]] = {}
    workers = num_cores() if len(names) >= FEW else 0
    done = 0
    for looks in parallel_map(look_chunk, ((chunk,) for chunk in chunks(payloads)), workers):
        for i, found in enumerate(looks, start=done):
            if isinstance(found, str):
                checkup.rejected.append({"name": names[i], "reason": found})
                continue
            counts["sizes"][f"{found.info.height}x{found.info.width}"] += 1
            counts["channels"][found.info.channels] += 1
            counts["depths"][found.info.depth] += 1
            counts["alpha"][found.info.alpha] += 1
            if labels:
                counts["classes"][labels[i]] += 1
            if found.blank:
                checkup.blank.append(names[i])
            if found.digest in first:
                groups.setdefault(found.digest, [first[found.digest]]).append(i)
            first.setdefault(found.digest, i)
        done += len(looks)
        if progress:
            progress("looking at the pictures", done, len(names))
    checkup.num_images = counts["sizes"].total()
    checkup.sizes = dict(counts["sizes"].most_common())
    checkup.channels, checkup.depths = dict(counts["channels"]), dict(counts["depths"])
    checkup.alpha, checkup.classes = counts["alpha"][True], dict(counts["classes"])
    checkup.duplicates = [[names[i] for i in group] for group in groups.values()]
    checkup.notes += _notes(checkup, groups, labels)


def _notes(checkup: Checkup, groups: dict[bytes, list[int]], labels: list[str]) -> list[str]:
    notes = []
    if checkup.num_images < 2:
        notes.append("At least 2 pictures are needed to train.")
    if labels and (mixed := sum(len({labels[i] for i in group}) > 1 for group in groups.values())):
        notes.append(f"{mixed:,} groups of equal pictures have different classes: some labels are wrong.")
    counts = checkup.classes
    if counts and (single := [name for name, count in counts.items() if count == 1]):
        notes.append(f"Classes with a single picture cannot be learned: {', '.join(single)}.")
    if counts and (none := [name for name, count in counts.items() if count == 0]):
        notes.append(f"Classes without a usable picture are left out: {', '.join(none)}.")
    if counts and max(counts.values()) > 10 * (least := max(1, min(counts.values()))):
        notes.append(
            f"The classes are far from balanced: {max(counts, key=lambda name: counts[name])} has "
            f"{max(counts.values()) / least:.0f} times the pictures of {min(counts, key=lambda name: counts[name])}."
        )
    if len(checkup.channels) > 1:
        notes.append("Gray and colour pictures are mixed: packed, all are colour unless --channels gray is given.")
    return notes
