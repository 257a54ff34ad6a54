"""Reads text lists from other programs: labels, --files and the lists of known data sets.

`text_of` decodes, `Table` reads lines of cells with or without a header, `Finder` finds the image that a cell names.
Ambiguous content raises `DataError`.
"""

from __future__ import annotations

import bisect
import codecs
import csv
import functools
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganvas.conditions import number_of
from ganvas.data.reading.containers import is_picture, printable
from ganvas.errors import DataError, some
from ganvas.system import files

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte order marks; a text without one must be UTF-8."""

_DELIMITERS = ",;\t"

MOST_BYTES, MOST_LINES = 2**28, 5_000_000  # of a list
_ENDS = (b"\n", b"\r", b"\v", b"\f", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")
"""What `str.splitlines` takes for the end of a line."""
MOST_CELLS = 40_000_000
"""Cells of a table, with those that its lines lack: a few bytes may otherwise stand for any number of them."""
_MOST_LINE = 2**24  # characters of a JSON line, whose values take up to 25 times as many bytes in memory
_SAMPLE_LINES, _SAMPLE_CELLS = 1000, 1_000_000  # that are searched for the column of names


def text_of(content: bytes, where: str | Path) -> str:
    """Decodes a list: UTF-8, or UTF-16 with a byte order mark. Raises `DataError` for other encodings and sizes."""
    if len(content) > MOST_BYTES or any(content.count(end) > MOST_LINES for end in _ENDS):
        raise _too_large(where)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        if "\0" not in text:
            return text
    except UnicodeDecodeError:
        pass
    raise DataError(f"{where} is not text in UTF-8, or UTF-16 with a mark: save it as UTF-8 ('CSV UTF-8' in Excel)")


def _too_large(where: str | Path) -> DataError:
    return DataError(
        f"{where} is too large: keep only the columns that you need; at most {MOST_BYTES:,} bytes, {MOST_LINES:,} "
        f"lines and {MOST_CELLS:,} cells are read"
    )


def refuse_cells(number: int, where: str | Path) -> None:
    """Raises `DataError` if a table has too many cells."""
    if number > MOST_CELLS:
        raise _too_large(where)


def read_text(path: Path, where: str | None = None) -> str:
    """The text of a list on disk. Raises `DataError`, which calls it `where`."""
    try:
        with path.open("rb") as file:
            parts = itertools.islice(iter(lambda: file.read(2**20), b""), MOST_BYTES // 2**20 + 1)
            content = b"".join(parts)  # devices and pipes do not say how long they are
    except OSError as error:
        raise DataError(f"{where or path} cannot be read: {error.strerror}") from None
    return text_of(content, where or path)


def as_name(cell: str) -> str:
    """A cell in the spelling of image names: "/" between folders, no leading "./"."""
    return printable(cell.strip().replace("\\", "/").removeprefix("./"))


def _ending_of(name: str) -> str:
    """The ending of an image name, or "": "v1.2" has none."""
    return name[name.rindex(".") :] if is_picture(name) else ""


class Finder:
    """Finds the image named by a list, which may have been written in another folder.

    A name may lack leading folders or the ending, or have additional folders, if it fits exactly one image.
    complete: files that are only found by their complete names.
    """

    def __init__(self, pictures: Iterable[str], complete: Iterable[str] = ()) -> None:
        self._pictures = list(dict.fromkeys(pictures))
        self._complete = frozenset([*self._pictures, *complete])

    def find(self, cell: str) -> tuple[str, int] | None:
        """(image, number of matching trailing parts of its name); None if no image or more than one fits."""
        name = as_name(cell)
        if name in self._complete:
            return name, name.count("/") + 2
        parts = [part for part in name.split("/") if part]
        fitting = [_fitting(parts, names) for names in (self._whole, self._bare)]
        return max((one for one in fitting if one is not None), key=lambda one: one[1], default=None)

    @functools.cached_property
    def _whole(self) -> list[tuple[str, str]]:
        return sorted((_backwards(name.split("/")), name) for name in self._pictures)

    @functools.cached_property
    def _bare(self) -> list[tuple[str, str]]:
        return sorted((_backwards(name.removesuffix(_ending_of(name)).split("/")), name) for name in self._pictures)


def _backwards(parts: list[str]) -> str:
    """A name from its last part to its first, so that names with the same end are neighbours in alphabetical order."""
    return "/".join(reversed(parts)) + "/"


def _fitting(parts: list[str], names: list[tuple[str, str]]) -> tuple[str, int] | None:
    """(image, number of common trailing parts) of the image that shares most of them; None if there are several.

    names: sorted pairs of `_backwards` and the image.
    """
    if not parts:
        return None
    place = bisect.bisect_left(names, (_backwards(parts), ""))
    common = {i: _common(parts, names[i][0]) for i in range(max(place - 2, 0), min(place + 2, len(names)))}
    most = max(common.values(), default=0)
    best = [i for i, length in common.items() if length == most]
    return (names[best[0]][1], most) if most and len(best) == 1 else None


def _common(parts: list[str], backwards: str) -> int:
    """Number of common trailing parts."""
    length = 0
    for part, other in zip(reversed(parts), backwards.split("/"), strict=False):
        if part != other:
            break
        length += 1
    return length


@dataclass(frozen=True)
class Table:
    """Rows of cells, all as long as the first line. header: None if the list has none."""

    header: list[str] | None
    rows: list[list[str]]
    where: str

    @classmethod
    def read(cls, text: str, where: str, finder: Finder) -> Table:
        """Reads a csv with commas, semicolons or tabs, or JSON lines. A first line that names no image is a header."""
        if text.lstrip().startswith("{"):
            return cls._of_json_lines(text, where)
        first = text.lstrip("\r\n").partition("\n")[0]
        delimiter = max(_DELIMITERS, key=first.count)
        refuse_cells(text.count(delimiter), where)
        rows: list[list[str]] = []
        try:
            for line in csv.reader(io.StringIO(text), delimiter=delimiter):
                row = [cell.strip() for cell in line]
                if any(row):
                    width = len(rows[0]) if rows else len(row)
                    if any(row[width:]):
                        raise DataError(
                            f"{where} has a line with more cells than its first line, {','.join(row)!r:.200}: "
                            "put quotation marks around cells that contain a comma"
                        )
                    rows.append(row[:width] + [""] * (width - len(row)))
                    refuse_cells(width * len(rows), where)
        except csv.Error as error:
            raise DataError(f"{where} is not a csv of file,label ({error})") from None
        if not rows:
            raise DataError(f"{where} is empty; expected lines of file,label")
        has_header = not any(is_picture(cell) or finder.find(cell) for cell in rows[0] if cell)
        return cls(rows[0] if has_header else None, rows[has_header:], where)

    @classmethod
    def _of_json_lines(cls, text: str, where: str) -> Table:
        header: dict[str, None] = {}
        rows: list[list[str]] = []
        for number, line in enumerate(io.StringIO(text, newline=None), start=1):
            if not line.strip():
                continue
            try:
                value = files.parse_json(line) if len(line) <= _MOST_LINE else None
            except ValueError:
                value = None
            if not isinstance(value, dict):
                raise DataError(f"{where}, line {number}: expected one JSON object per line, such as "
                                '{"file_name": "a.png", "label": "cat"}')  # fmt: skip
            header |= dict.fromkeys(value)
            refuse_cells(len(header) * (len(rows) + 1), where)
            rows.append([_cell(value.get(key)) for key in header])
        return cls([*header], [row + [""] * (len(header) - len(row)) for row in rows], where)

    def names(self, finder: Finder) -> int:
        """Index of the column with image names: most of its cells end like images, or are found."""

        def count(column: int) -> tuple[int, int]:
            cells = [row[column] for row in sample]
            return sum(map(is_picture, cells)), sum(finder.find(cell) is not None for cell in cells if cell)

        width = len(self.header or (self.rows[0] if self.rows else [""]))
        num = len(self.rows)
        sample = self.rows[:: max(1, num // _SAMPLE_LINES, num * width // _SAMPLE_CELLS)]
        return max(range(width), key=count)

    def labels(self, names: int, column: str | None) -> list[str]:
        """The label of each row, "" for none, from `column` or the only other column.

        One-hot columns (one 1 per row) give the name of the column as the label. Raises `DataError` if the choice is
        ambiguous.
        """
        width = len(self.header or self.rows[0])
        others = [i for i in range(width) if i != names and not self.is_index(i)]
        if column is not None:
            known = [self.header[i] for i in others] if self.header else []
            if known.count(column) != 1:
                has = some(known) if self.header else "none, because it has no header line"
                raise DataError(f"{self.where} has no column {column!r}; its label columns are: {has}")
            others = [others[known.index(column)]]
        if len(others) > 1 and self.header and self._is_one_hot(others):
            return [next(self.header[i] for i in others if number_of(row[i])) for row in self.rows]
        if len(others) > 1:
            if self.header is None:
                raise DataError(
                    f"{self.where} has {len(others)} cells per line besides the image name and no header line: "
                    "keep one of them, or add a first line with column names"
                )
            raise DataError(
                f"{self.where} has several label columns ({some([self.header[i] for i in others])}): "
                f"choose one with --labels {self.where}:{self.header[others[0]]}"
            )
        return [row[others[0]] if others else "" for row in self.rows]

    def is_index(self, column: int) -> bool:
        """Whether the column is a row index written by pandas: no name, or "Unnamed: 0"."""
        return self.header is not None and (not self.header[column] or self.header[column].startswith("Unnamed: "))

    def _is_one_hot(self, columns: Sequence[int]) -> bool:
        values = ([number_of(row[i]) for i in columns] for row in self.rows)
        return all(set(row) <= {0, 1} and sum(map(bool, row)) == 1 for row in values)


def _cell(value: Any) -> str:
    """A JSON value as a cell; lists and objects stay JSON."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
