"""Reads text lists from other programs: labels, --files and the lists of known data sets.

`text_of` decodes, `Table` reads lines of cells with or without a header, `Finder` finds the image that a cell names.
Ambiguous content raises `DataError`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganvas.conditions import number_of
from ganvas.data.reading.containers import is_picture, printable
from ganvas.errors import DataError, some

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte order marks; a text without one must be UTF-8."""

_DELIMITERS = ",;\t"


def text_of(content: bytes, where: str | Path) -> str:
    """Decodes a list: UTF-8, or UTF-16 with a byte order mark. Raises `DataError` for other encodings."""
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        if "\0" not in text:
            return text
    except UnicodeDecodeError:
        pass
    raise DataError(f"{where} is not text in UTF-8, or UTF-16 with a mark: save it as UTF-8 ('CSV UTF-8' in Excel)")


def read_text(path: Path) -> str:
    """The text of a list on disk; raises `DataError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return text_of(content, path)


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
        self._pictures = {name: name for name in pictures}
        self._complete = frozenset(complete)
        self._tails: dict[tuple[int, bool], dict[str, str | None]] = {}

    def find(self, cell: str) -> tuple[str, int] | None:
        """(image, number of matching trailing parts of its name); None if no image or more than one fits."""
        name = as_name(cell)
        if name in self._pictures or name in self._complete:
            return name, name.count("/") + 2
        parts = [part for part in name.split("/") if part]
        for length in range(len(parts), 0, -1):
            tail = "/".join(parts[-length:])
            for bare in (False, True):
                if picture := self._named(length, bare).get(tail):
                    return picture, length
        return None

    def _named(self, length: int, bare: bool) -> dict[str, str | None]:
        """Last `length` parts of each image name, `bare`: without ending -> image, or None for several."""
        if (length, bare) not in self._tails:
            tails: dict[str, str | None] = {}
            for name in self._pictures:
                if name.count("/") >= length - 1:
                    tail = "/".join(name.split("/")[-length:])
                    tail = tail.removesuffix(_ending_of(tail)) if bare else tail
                    tails[tail] = None if tail in tails else name
            self._tails[length, bare] = tails
        return self._tails[length, bare]


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
        try:
            lines = csv.reader(io.StringIO(text), delimiter=max(_DELIMITERS, key=first.count))
            rows = [[cell.strip() for cell in row] for row in lines]
        except csv.Error as error:
            raise DataError(f"{where} is not a csv of file,label ({error})") from None
        rows = [row for row in rows if any(row)]
        if not rows:
            raise DataError(f"{where} is empty; expected lines of file,label")
        has_header = not any(is_picture(cell) or finder.find(cell) for cell in rows[0] if cell)
        width = len(rows[0])
        if wrong := next((row for row in rows if any(row[width:])), None):
            raise DataError(
                f"{where} has a line with more cells than its first line, {','.join(wrong)!r}: "
                "put quotation marks around cells that contain a comma"
            )
        rows = [row[:width] + [""] * (width - len(row)) for row in rows]
        return cls(rows[0] if has_header else None, rows[has_header:], where)

    @classmethod
    def _of_json_lines(cls, text: str, where: str) -> Table:
        lines: list[dict[str, Any]] = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if not isinstance(value, dict):
                raise DataError(f"{where}, line {number}: expected one JSON object per line, such as "
                                '{"file_name": "a.png", "label": "cat"}')  # fmt: skip
            lines.append(value)
        header = list(dict.fromkeys(key for line in lines for key in line))
        return cls(header, [[_cell(line.get(key)) for key in header] for line in lines], where)

    def names(self, finder: Finder) -> int:
        """Index of the column with image names: most of its cells end like images, or are found."""

        def count(column: int) -> tuple[int, int]:
            cells = [row[column] for row in self.rows[:: max(1, len(self.rows) // 1000)]]
            return sum(map(is_picture, cells)), sum(finder.find(cell) is not None for cell in cells if cell)

        width = len(self.header or (self.rows[0] if self.rows else [""]))
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
        values = [[number_of(row[i]) for i in columns] for row in self.rows]
        return all(set(row) <= {0, 1} and sum(map(bool, row)) == 1 for row in values)


def _cell(value: Any) -> str:
    """A JSON value as a cell; lists and objects stay JSON."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
