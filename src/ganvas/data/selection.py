"""Which images are packed and what they become: subsets, the look at the headers, the choice of a size."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ganvas.config import FULL, DataConfig, Kind, parse_levels, parse_size
from ganvas.data.decode import PictureInfo, Target, glance, highest, probe
from ganvas.data.labels import ALL_OF_THEM
from ganvas.data.lists import Finder, Table
from ganvas.data.pack import Policy, Progress, did_you_mean, read_list
from ganvas.data.sources import Item, Payload, Rejection, Source, file_of
from ganvas.errors import DataError, PictureError, some

SIZES = (256, 128, 64, 32)
MOSTLY = 0.9  # part of the images that is gray where the set passes for films or scans
COLOURED = 32  # images with colour, after which no more are looked for in a set that is not mostly gray
SHEER, MOST = 200, 0.5  # files that are looked at for transparency, and the part that has it where it is kept
FLAT = 2.5  # of decode.Glance.flatness: CelebA's median is 0.9, that of comic faces 6.3
FEW_BITS = 2**14 - 1  # a highest value up to this in a set of 16 bit: its images are stored with fewer bits


@dataclass
class Choice:
    """The images to be packed, by their index in the source, with the index of their class (-1: none)."""

    indices: np.ndarray
    labels: np.ndarray
    rejected: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def choose(source: Source, config: DataConfig) -> Choice:
    """Apply --classes, --files and --limit; raises `DataError` for classes or files that do not exist."""
    whole = source.arrays()
    if whole is not None:
        labels = np.full(len(whole[0]), -1) if whole[1] is None else np.asarray(whole[1], np.int64)
    else:
        index = {name: i for i, name in enumerate(source.classes)}
        labels = np.array([-1 if item.label is None else index[item.label] for item in source.items], np.int64)
    keep = np.ones(len(labels), bool)
    rejected = []
    if source.classes:
        rejected = [Rejection(source.items[i].name, "has no label", ALL_OF_THEM) for i in np.flatnonzero(labels < 0)]
        keep &= labels >= 0
    if config.classes:
        keep &= np.isin(labels, class_indices(source.classes, config.classes))
    if config.files is not None:
        keep &= _listed(source.items, config.files)
    indices = np.flatnonzero(keep)
    notes = list(source.notes)
    if config.limit is not None and config.limit < len(indices):
        notes.append(f"{config.limit} of {len(indices)} images were drawn with seed {config.subset_seed}.")
        draw = np.random.default_rng(config.subset_seed).choice(len(indices), config.limit, replace=False)
        indices = indices[np.sort(draw)]
    return Choice(indices, labels[indices], rejected, notes)


def class_indices(classes: list[str], wanted: Iterable[str]) -> list[int]:
    """Indices of the wanted classes; raises `DataError` with the ones that exist."""
    for name in wanted:
        if name not in classes:
            known = f"the classes are {some(classes)}" if classes else "these images have no classes"
            raise DataError(f"there is no class {name!r}{did_you_mean(name, classes)}: {known}")
    return [classes.index(name) for name in wanted]


def _listed(items: list[Item], files: Path) -> np.ndarray:
    """Which items a --files list names: a name a line, or the column of names of a csv."""
    content = read_list(files)
    finder = Finder(name for item in items for name in {item.name, file_of(item.name)})
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    found = {line: finder.find(line) for line in lines}
    if None in found.values():  # a header, quotation marks or other columns: read it as a csv, if it is one
        with suppress(DataError):
            table = Table.read(content, str(files), finder)
            column = table.names(finder)
            cells = {row[column]: finder.find(row[column]) for row in table.rows if row[column]}
            found = cells if any(cells.values()) else found
    absent = sorted(name for name, match in found.items() if match is None)
    if absent:
        raise DataError(
            f"--files {files} names {len(absent)} images that the source lacks, first {absent[0]!r}: "
            f"names are written as in the source, for example {items[0].name!r}"
        )
    kept = {match[0] for match in found.values() if match is not None}
    return np.array([not kept.isdisjoint((item.name, file_of(item.name))) for item in items], bool)


# What they become: the target.


@dataclass
class Survey:
    """What the headers say, in counts."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) -> number of images."""
    channels: Counter[int] = field(default_factory=Counter)
    depths: Counter[int] = field(default_factory=Counter)
    alpha: int = 0
    disguised: int = 0
    """Gray images in files of colour; they count as gray in `channels`."""
    highest: int = 0
    """Highest value of the 16 bit images, as far as it matters."""

    paged: int = 0
    """Files of several images, of which the first is taken."""
    pages: int = 0
    """Pictures in these files."""

    sheer: list[bool] = field(default_factory=list)
    """Whether some of an image is transparent, for the first images whose files could say so."""
    flatness: list[float] = field(default_factory=list)
    """Of the first images in colour (see decode.Glance)."""

    @property
    def mostly_transparent(self) -> bool:
        """Most images show some of what is behind them: sprites, emoji, cut-out drawings."""
        return self.alpha * sum(self.sheer) > MOST * self.channels.total() * len(self.sheer)

    @property
    def flat(self) -> bool:
        """The images are flat areas of colour rather than photographs."""
        return bool(self.flatness) and float(np.median(self.flatness)) > FLAT

    @property
    def mostly_gray(self) -> bool:
        """Nearly all images are gray: films and scans, of which a few have a coloured mark."""
        return self.channels[1] >= MOSTLY * self.channels.total()

    @property
    def settled(self) -> bool:
        """Whether pixels need not be looked at any more."""
        gray = set(self.channels) == {1} and not self.disguised
        told = gray or (self.channels[3] >= COLOURED and not self.mostly_gray)
        told &= not self.alpha or len(self.sheer) == SHEER
        return told and (16 not in self.depths or self.highest > FEW_BITS)

    def look(self, content: bytes | np.ndarray, info: PictureInfo) -> None:
        """Count one image, and look at its pixels where the header leaves open what the set is."""
        colour_open = info.channels == 3 and (self.channels[3] < COLOURED or self.mostly_gray)
        sheer_open = info.alpha and len(self.sheer) < SHEER
        if colour_open or sheer_open:
            seen = glance(content)
            if sheer_open:
                self.sheer.append(seen.transparent)
            if info.channels == 3 and seen.gray:
                info = dataclasses.replace(info, channels=1)
                self.disguised += 1
            elif info.channels == 3 and colour_open:
                self.flatness.append(seen.flatness)
        if info.depth == 16 and self.highest <= FEW_BITS:
            self.highest = max(self.highest, highest(content))
        self.add(info)

    def add(self, info: PictureInfo, count: int = 1) -> None:
        self.sizes[info.height, info.width] += count
        self.channels[info.channels] += count
        self.depths[info.depth] += count
        self.alpha += count * info.alpha
        if info.pages > 1:
            self.paged, self.pages = self.paged + 1, self.pages + info.pages


def choose_target(survey: Survey, config: DataConfig, policy: Policy) -> Target:
    """The size, channels, depth and levels of the pack: asked for, or chosen from the images.

    Gray stays gray where every image is gray, transparency stays where most images have it, and 16 bits stay where
    they are gray or all of them have 16.
    """
    size = config.size or policy.size
    height, width = parse_size(size) if size else choose_size(survey.sizes)
    all_gray = set(survey.channels) == {1}
    auto = 4 if survey.mostly_transparent else 1 if all_gray else 3
    channels = {"auto": auto, "gray": 1, "color": 3, "alpha": 4}[config.channels]
    deep = 16 in survey.depths and (all_gray or 8 not in survey.depths)
    background = config.background or ("black" if channels == 1 else "white")
    levels = parse_levels(config.levels) if config.levels else levels_of(survey.highest)
    return Target(height, width, channels, 16 if deep else 8, config.fit or policy.fit or "crop", background, levels)


def kind_of(survey: Survey, target: Target, policy: Policy) -> Kind:
    """The known kind; else gray images pass for scans, flat areas of colour for drawings, and the rest for photos."""
    if policy.kind:
        return policy.kind
    if target.channels == 1 or survey.mostly_gray:
        return "scan"  # never mirrored
    return "drawing" if survey.flat else "photo"


def levels_of(top: int) -> tuple[int, int]:
    """Black and white of 16 bit images whose highest value is `top`: the bits in use, where they are few."""
    return (0, max(1, 2 ** top.bit_length() - 1)) if 0 < top <= FEW_BITS else FULL


def remarks(survey: Survey, config: DataConfig, policy: Policy, target: Target) -> list[str]:
    """What the pixels say otherwise than the files, in sentences."""
    notes = []
    if target.channels == 4 and config.channels == "auto":
        notes.append("Most images are transparent in part, which is kept: --channels color puts them on white.")
    if not policy.kind and kind_of(survey, target, policy) == "drawing":
        notes.append(
            "Flat areas of colour: the images pass for drawings, whose colours stay as they are; --kind photo."
        )
    if survey.disguised and set(survey.channels) == {1}:
        notes.append(f"{survey.disguised:,} images are gray though their files could hold colour: all count as gray.")
    elif survey.channels[3] and survey.mostly_gray and not policy.kind and config.channels != "gray":
        notes.append(
            f"All but {survey.channels[3]:,} of {survey.channels.total():,} images are gray, so none is mirrored: "
            "--kind photo mirrors them, --channels gray packs them without colour."
        )
    if not config.levels and (levels := levels_of(survey.highest)) != FULL:
        notes.append(few_bits(survey.highest, levels[1]))
    if survey.paged:
        notes.append(first_pages(survey.paged, survey.pages))
    return notes


def first_pages(files: int, pages: int) -> str:
    return f"{files:,} files hold {pages:,} images, of which the first is taken: --frames all takes every one."


def few_bits(top: int, white: int) -> str:
    return (
        f"No 16 bit image has a value above {top:,}, {top / FULL[1]:.1%} of the range: all are scaled alike, with "
        f"{white:,} as white; --levels 0-65535 leaves them dark."
    )


def choose_size(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) from the pictures' own sizes.

    All of one size, up to 256 pixels: that size, exactly (28x28 stays 28x28). Otherwise the largest of 32,
    64, 128 and 256 that is not above the median short side, so that at least half of the images are not
    enlarged; square, unless all have the same other proportions (within 1%), which are then kept.
    """
    if len(sizes) == 1 and max(next(iter(sizes))) <= 256:
        height, width = next(iter(sizes))
        return max(height, 8), max(width, 8)
    shorts = np.repeat([min(size) for size in sizes], list(sizes.values()))
    median = int(np.median(shorts))
    short = next((size for size in SIZES if size <= median), max(8, median))
    ratios = np.array([height / width for height, width in sizes])
    ratio = float(np.median(ratios))
    if ratios.max() / ratios.min() > 1.01 or 0.99 < ratio < 1.01:
        return short, short
    return (round(short * ratio), short) if ratio > 1 else (short, round(short / ratio))


# The passes over the images.


def survey_source(source: Source, choice: Choice, report: Progress) -> Survey:
    """Read the headers of the chosen images; the unreadable ones move to `choice.rejected`."""
    survey = Survey()
    whole = source.arrays()
    good = np.ones(len(choice.indices), bool)
    for i, (item, payload) in enumerate(stream(source, choice.indices)):
        try:
            content = readable(payload)
            survey.look(content, probe(content))
        except PictureError as error:
            good[i] = False
            choice.rejected.append(Rejection(item.name, str(error)))
        if i % 500 == 0:
            report("looking at the pictures", i, len(good))
        if whole is not None and survey.settled:  # images of an array differ in nothing else
            survey.add(probe(whole[0][0]), len(good) - i - 1)
            break
    choice.indices, choice.labels = choice.indices[good], choice.labels[good]
    return survey


def stream(source: Source, indices: np.ndarray) -> Iterator[tuple[Item, Payload]]:
    """The images of these indices, in order."""
    if (whole := source.arrays()) is not None:
        yield from ((source.items[i], whole[0][i]) for i in indices)
    elif len(indices) == len(source.items):
        yield from source.stream()
    else:
        yield from source.stream({source.items[i].name for i in indices})


def readable(payload: Payload) -> bytes | np.ndarray:
    if isinstance(payload, PictureError):
        raise payload
    return payload
