"""Selects the images to pack and their format: subsets, survey of the headers, choice of a size."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ganvas.config import FULL, DataConfig, Kind, parse_levels, parse_size
from ganvas.data.packing.pack import Policy, Progress, read_list
from ganvas.data.reading.decode import glance, highest, probe, span
from ganvas.data.reading.headers import PictureInfo
from ganvas.data.reading.labels import ALL_OF_THEM
from ganvas.data.reading.lists import Finder, Table
from ganvas.data.reading.sources import Item, Payload, Rejection, Source, file_of
from ganvas.data.reading.target import Target
from ganvas.data.reading.wide import Span, remark
from ganvas.data.reading.wide import levels_of as wide_levels_of
from ganvas.errors import DataError, PictureError, amount, did_you_mean, some

_SIZES = (256, 128, 64, 32)
_MOSTLY = 0.9  # fraction of gray images above which a set counts as scans
_COLOURED = 32  # colour images after which the search for colour ends in a set that is not mostly gray
_SHEER, _MOST = 200, 0.5  # files checked for transparency; fraction above which transparency is kept
_FLAT = 2.5  # threshold of decode.Glance.flatness; the median of CelebA is 0.9, of comic faces 6.3
SURVEYED_WHOLE, SURVEYED = 200_000, 20_000  # images up to which all headers are read; size of a random part
_FEW_BITS = 2**14 - 1  # 16 bit images whose highest value is at most this use fewer bits


@dataclass
class Choice:
    """The images to pack: index in the source and index of the class (-1: none)."""

    indices: np.ndarray
    labels: np.ndarray
    rejected: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def choose(source: Source, config: DataConfig) -> Choice:
    """Applies --classes, --files and --limit. Raises `DataError` for unknown classes or files."""
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
        keep &= np.isin(labels, _class_indices(source.classes, config.classes))
    if config.files is not None:
        keep &= _listed(source.items, config.files)
    indices = np.flatnonzero(keep)
    notes = list(source.notes)
    if config.limit is not None and config.limit < len(indices):
        notes.append(f"{config.limit} of {len(indices)} images were chosen at random with seed {config.subset_seed}.")
        draw = np.random.default_rng(config.subset_seed).choice(len(indices), config.limit, replace=False)
        indices = indices[np.sort(draw)]
    return Choice(indices, labels[indices], rejected, notes)


def _class_indices(classes: list[str], wanted: Iterable[str]) -> list[int]:
    """Indices of the wanted classes. Raises `DataError` with the known classes."""
    for name in wanted:
        if name not in classes:
            known = f"the classes are {some(classes)}" if classes else "these images have no classes"
            raise DataError(f"there is no class {name!r}{did_you_mean(name, classes)}: {known}")
    return [classes.index(name) for name in wanted]


def _listed(items: list[Item], files: Path) -> np.ndarray:
    """Mask of the items named by a --files list: one name per line, or the column of names of a csv."""
    content = read_list(files)
    finder = Finder(name for item in items for name in {item.name, file_of(item.name)})
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    matches = {line: finder.find(line) for line in lines}
    if None in matches.values():  # a header, quotation marks or other columns: read it as a csv, if it is one
        with suppress(DataError):
            table = Table.read(content, str(files), finder)
            column = table.names(finder)
            cells = {row[column]: finder.find(row[column]) for row in table.rows if row[column]}
            matches = cells if any(cells.values()) else matches
    absent = sorted(name for name, match in matches.items() if match is None)
    if absent:
        raise DataError(
            f"--files {files} names {amount(len(absent), 'image that is', 'images that are')} not in the source, "
            f"the first is {absent[0]!r}: "
            f"write names as in the source, for example {items[0].name!r}"
        )
    kept = {match[0] for match in matches.values() if match is not None}
    return np.array([not kept.isdisjoint((item.name, file_of(item.name))) for item in items], bool)


# The format of the pack.


@dataclass
class _Survey:
    """Counts from the headers of the images."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) -> number of images."""
    channels: Counter[int] = field(default_factory=Counter)
    depths: Counter[int] = field(default_factory=Counter)
    alpha: int = 0
    disguised: int = 0
    """Gray images in colour files; counted as gray in `channels`."""
    highest: int = 0
    """Highest value of the 16 bit images; exact only up to FEW_BITS."""
    span: Span | None = None
    """Range of the images with floating point, negative or more than 16 bit pixels; None if there are none."""

    reduced: int = 0
    """Images of 16 bits of which 8 are read."""
    paged: int = 0
    """Files with several images, of which the first is used."""
    pages: int = 0
    """Number of images in these files."""

    sheer: list[bool] = field(default_factory=list)
    """Whether an image has transparent parts, for the first images with an alpha channel."""
    flatness: list[float] = field(default_factory=list)
    """Flatness of the first colour images (see decode.Glance)."""

    @property
    def mostly_transparent(self) -> bool:
        """Whether most images have transparent parts: sprites, emoji, cut-out drawings."""
        return self.alpha * sum(self.sheer) > _MOST * self.channels.total() * len(self.sheer)

    @property
    def flat(self) -> bool:
        """Whether the images have flat areas of colour, unlike photographs."""
        return bool(self.flatness) and float(np.median(self.flatness)) > _FLAT

    @property
    def mostly_gray(self) -> bool:
        """Whether nearly all images are gray: X-ray films and scans, a few with a coloured mark."""
        return self.channels[1] >= _MOSTLY * self.channels.total()

    @property
    def settled(self) -> bool:
        """Whether no more pixels need to be checked."""
        gray = set(self.channels) == {1} and not self.disguised
        known = gray or (self.channels[3] >= _COLOURED and not self.mostly_gray)
        known &= not self.alpha or len(self.sheer) == _SHEER
        return known and self.span is None and (16 not in self.depths or self.highest > _FEW_BITS)

    def look(self, content: bytes | np.ndarray, info: PictureInfo) -> None:
        """Counts one image, and checks its pixels if the header is not sufficient."""
        colour_open = info.channels == 3 and (self.channels[3] < _COLOURED or self.mostly_gray)
        sheer_open = info.alpha and len(self.sheer) < _SHEER
        if colour_open or sheer_open:
            seen = glance(content)
            if sheer_open:
                self.sheer.append(seen.transparent)
            if info.channels == 3 and seen.gray:
                info = dataclasses.replace(info, channels=1)
                self.disguised += 1
            elif info.channels == 3 and colour_open:
                self.flatness.append(seen.flatness)
        if info.wide:
            self.span = span(content) | self.span
        elif info.depth == 16 and self.highest <= _FEW_BITS:
            self.highest = max(self.highest, highest(content))
        self.add(info)

    def add(self, info: PictureInfo, count: int = 1) -> None:
        self.sizes[info.height, info.width] += count
        self.channels[info.channels] += count
        self.depths[info.depth] += count
        self.alpha += count * info.alpha
        self.reduced += count * info.reduced
        if info.pages > 1:
            self.paged, self.pages = self.paged + 1, self.pages + info.pages


def choose_target(survey: _Survey, config: DataConfig, policy: Policy) -> Target:
    """Size, channels, depth and levels of the pack, as configured or chosen from the images.

    Gray is kept if every image is gray, transparency if most images have it, and 16 bits if the images are gray or all
    have 16 bits.
    """
    size = config.size or policy.size
    height, width = parse_size(size) if size else choose_size(survey.sizes)
    all_gray = set(survey.channels) == {1}
    auto = 4 if survey.mostly_transparent else 1 if all_gray else 3
    channels = {"auto": auto, "gray": 1, "color": 3, "alpha": 4}[config.channels]
    deep = 16 in survey.depths and (all_gray or 8 not in survey.depths)
    background = config.background or ("black" if channels == 1 else "white")
    asked = parse_levels(config.levels) if config.levels else None
    wide = asked or (None if survey.span is None else wide_levels_of(survey.span))
    levels = asked or sixteen_bit_levels(survey.highest)
    fit = config.fit or policy.fit or "crop"
    return Target(height, width, channels, 16 if deep else 8, fit, background, levels, wide, asked)


def kind_of_images(survey: _Survey, target: Target, policy: Policy) -> Kind:
    """The known kind; otherwise scan for gray images, drawing for flat areas of colour, else photo."""
    if policy.kind:
        return policy.kind
    if target.channels == 1 or survey.mostly_gray:
        return "scan"  # never mirrored
    return "drawing" if survey.flat else "photo"


def sixteen_bit_levels(top: int) -> tuple[int, int]:
    """Black and white level of 16 bit images whose highest value is `top`: range of the bits in use if they are few."""
    return (0, max(1, 2 ** top.bit_length() - 1)) if 0 < top <= _FEW_BITS else FULL


def remarks(survey: _Survey, config: DataConfig, policy: Policy, target: Target) -> list[str]:
    """Notes on choices made from the pixels."""
    notes = []
    if target.channels == 4 and config.channels == "auto":
        notes.append("Most images have transparent parts, which are kept; --channels color puts them on white.")
    if not policy.kind and kind_of_images(survey, target, policy) == "drawing":
        notes.append(
            "Flat areas of colour: images are treated as drawings, with unchanged colours; for photos use --kind photo."
        )
    if survey.disguised and set(survey.channels) == {1}:
        notes.append(f"{gray_in_colour(survey.disguised)} All are treated as gray.")
    elif survey.channels[3] and survey.mostly_gray and not policy.kind and config.channels != "gray":
        notes.append(
            f"All except {survey.channels[3]:,} of {survey.channels.total():,} images are gray, so none is mirrored: "
            "--kind photo mirrors them, --channels gray packs them without colour."
        )
    if not config.levels and survey.span is not None and target.wide is not None:
        notes.append(remark(survey.span, target.wide))
    if not config.levels and (levels := sixteen_bit_levels(survey.highest)) != FULL:
        notes.append(few_bits(survey.highest, levels[1]))
    if survey.reduced:
        notes.append(reduced_bits(survey.reduced))
    if survey.paged:
        notes.append(first_pages(survey.paged, survey.pages))
    return notes


def gray_in_colour(num: int) -> str:
    if num == 1:
        return "1 image is gray although its file has colour channels."
    return f"{num:,} images are gray although their files have colour channels."


def first_pages(files: int, pages: int) -> str:
    have, each = ("file has", "") if files == 1 else ("files have", " of each")
    return f"{files:,} {have} {pages:,} images; only the first{each} is used. --frames all uses all of them."


def reduced_bits(num: int) -> str:
    have, are = ("image has", "it is") if num == 1 else ("images have", "they are")
    return f"{num:,} {have} 16 bits per channel and colour or transparency: {are} read with 8 bits."


def few_bits(top: int, white: int) -> str:
    return (
        f"No 16 bit image has a value above {top:,}, {top / FULL[1]:.1%} of the range: all are scaled equally, with "
        f"{white:,} as white; --levels 0-65535 keeps them dark."
    )


def choose_size(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) chosen from the sizes of the images.

    If all have the same size, up to 256 pixels: that size (28x28 stays 28x28). Otherwise the largest of 32,
    64, 128 and 256 that is at most the median short side, so that at least half of the images are not
    enlarged. Square, unless all images have the same other aspect ratio (within 1%), which is then kept.
    """
    if len(sizes) == 1 and max(next(iter(sizes))) <= 256:
        height, width = next(iter(sizes))
        return max(height, 8), max(width, 8)
    shorts = np.repeat([min(size) for size in sizes], list(sizes.values()))
    median = int(np.median(shorts))
    short = next((size for size in _SIZES if size <= median), max(8, median))
    ratios = np.array([height / width for height, width in sizes])
    ratio = float(np.median(ratios))
    if ratios.max() / ratios.min() > 1.01 or 0.99 < ratio < 1.01:
        return short, short
    return (round(short * ratio), short) if ratio > 1 else (short, round(short / ratio))


# The passes over the images.


def survey_source(source: Source, choice: Choice, report: Progress, sized: bool = False) -> _Survey:
    """Reads the headers of the chosen images; moves unreadable ones to `choice.rejected`.

    sized: the size of the pack is known. Then, of a very large set, a random part is sufficient if it has only 8 bit
    images.
    """
    if sized and source.arrays() is None and len(choice.indices) > SURVEYED_WHOLE:
        some = np.sort(np.random.default_rng(0).choice(choice.indices, SURVEYED, replace=False))
        part = Choice(some, np.zeros(len(some), np.int64))
        survey = survey_source(source, part, report)
        if set(survey.depths) == {8}:
            choice.notes.append(
                f"Colour and kind were chosen from {SURVEYED:,} of {len(choice.indices):,} images, drawn at random; "
                "--channels and --kind set others."
            )
            return survey
    survey = _Survey()
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
            report("checking images", i, len(good))
        if whole is not None and survey.settled:  # all images of an array have the same format
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
