"""Conditions: columns of a table, such as hair colour, glasses and age, that describe each image together.

A row of cells becomes a vector of numbers. In the networks it takes the place of the one-hot vector of a class. Kinds:

    yesno      yes or no                                              1 number, 0 or 1
    category   one of several values; an empty cell is the value none  one-hot
    several    any number of labels, written "A|B"; empty: no label    one number per label, 0 or 1
    number     a number, standardised                                 1 number
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganvas.config import MOST_CONDITIONS, ConditionKind
from ganvas.errors import ConfigError, DataError, did_you_mean, some
from ganvas.fields import changed, from_dict

Given = str | Mapping[str, Any]
"""Conditions of an image, not necessarily of all columns: "hair=red,age=60" or {"hair": "red", "age": 60}."""

_YES, _NO = frozenset({"yes", "true", "y", "t", "1"}), frozenset({"no", "false", "n", "f", "0", "-1"})
_NONE = "none"  # value of an empty cell of a category
_SEPARATOR = "|"
_MOST_VALUES = 100  # values of a category or labels of a column
MOST_COMBINATIONS = 256  # combinations of training images stored with a model
_GROUPS = 10  # different values that a number has in these combinations
_NEAR = 0.5  # standard deviations within which a combination fits a number


@dataclass(frozen=True)
class Column:
    """A column of the table. values: of a category, or the labels of `several`, in order.

    mean, std, low, high: of a number in the data.
    """

    name: str
    kind: ConditionKind
    values: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        fits = bool(self.values) == (self.kind in ("category", "several"))
        if not fits or len(set(self.values)) < len(self.values) or self.std <= 0 or self.low > self.high:
            raise ConfigError(f"the column {self.name!r:.40} of the conditions is damaged")

    @property
    def width(self) -> int:
        """Numbers of the column in a vector."""
        return len(self.values) or 1

    def __str__(self) -> str:
        if self.kind == "yesno":
            return f"{self.name} (yes or no)"
        if self.kind == "number":
            return f"{self.name} (number, {self.low:g} to {self.high:g})"
        what = "one of" if self.kind == "category" else "any of"
        return f"{self.name} ({what} {some(self.values, 6)})"

    def cell(self, value: Any) -> str:
        """A value given by a user as a cell. Raises `ConfigError`, with the possible values, for others."""
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, list | tuple | set):
            value = _SEPARATOR.join(map(str, value))
        text = str(value).strip()
        if self.kind == "yesno" and text.lower() in _YES | _NO:
            return "yes" if text.lower() in _YES else "no"
        if self.kind == "number" and (number := number_of(text)) is not None:
            slack = 1e-4 * self.std  # for numbers that were rounded
            if self.low - slack <= number <= self.high + slack:
                return f"{min(max(number, self.low), self.high):.6g}"
        if self.kind == "category" and (text or _NONE) in self.values:
            return text or _NONE
        if self.kind == "several":
            labels = _labels_in(text)
            if labels == [_NONE] or set(labels) <= set(self.values):
                return _SEPARATOR.join(one for one in self.values if one in labels)
        raise ConfigError(f"{self.name}={text:.60}: expected {self.expected(text)}")

    def expected(self, text: str) -> str:
        """The possible values, in a message about another one."""
        if self.kind == "yesno":
            return "yes or no"
        if self.kind == "number":
            return f"a number from {self.low:g} to {self.high:g}, as in the training images"
        if self.kind == "category":
            return f"one of {some(self.values, 20)}{did_you_mean(text, [*self.values])}"
        return f"labels joined by {_SEPARATOR}, of {some(self.values, 20)}, or nothing"

    def numbers(self, cell: str) -> list[float]:
        """The numbers of a cell in a vector."""
        if self.kind == "yesno":
            return [float(cell.lower() in _YES)]
        if self.kind == "number":
            return [(float(cell) - self.mean) / self.std]
        labels = _labels_in(cell) if self.kind == "several" else [cell or _NONE]
        return [float(one in labels) for one in self.values]

    def cell_of(self, numbers: np.ndarray) -> str:
        """The cell of the numbers of a vector. Raises `ConfigError` for a mixture of cells."""
        if self.kind == "number":
            return f"{float(numbers[0]) * self.std + self.mean:.6g}"
        if not np.isin(numbers, (0, 1)).all() or (self.kind == "category" and numbers.sum() != 1):
            raise ConfigError("interpolated conditions cannot be saved as a code: save the recipe of the interpolation")
        if self.kind == "yesno":
            return "yes" if numbers[0] else "no"
        return _SEPARATOR.join(one for one, is_on in zip(self.values, numbers, strict=True) if is_on)


@dataclass(frozen=True)
class Conditions:
    """The columns of the conditions, and combinations of cells of training images.

    combinations: different rows of cells; images whose conditions are not given take them in turn.
    shared: whether each of them belongs to several training images.
    """

    columns: tuple[Column, ...]
    combinations: tuple[tuple[str, ...], ...] = ()
    shared: bool = False

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names or len(set(names)) < len(names) or not 0 < self.width <= MOST_CONDITIONS:
            raise ConfigError("the conditions are damaged: their columns have no or equal names, or are too many")
        if len(self.combinations) > MOST_COMBINATIONS or any(len(row) != len(names) for row in self.combinations):
            raise ConfigError("the conditions are damaged: their combinations do not fit the columns")
        for row in self.combinations:
            for column, cell in zip(self.columns, row, strict=True):
                column.cell(cell)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return sum(column.width for column in self.columns)

    def __str__(self) -> str:
        return ", ".join(map(str, self.columns))

    def sentence(self) -> str:
        """The columns, for the user."""
        return f"Conditions: {self}. --conditions TABLE:COLUMN=KIND changes columns and kinds."

    def stored(self) -> str:
        """What a model stores of the data, for the user."""
        num = len(self.combinations)
        if self.shared:
            return f"Models store {num:,} combinations of conditions, each of at least two training images."
        return (
            f"Models store {num:,} combinations of conditions of single training images (numbers in {_GROUPS} groups): "
            "leave out columns that identify a person."
        )

    def about(self) -> dict[str, str | list[str] | tuple[float, float]]:
        """Column name -> its values, "yes or no", or its (lowest, highest) number."""
        other: dict[ConditionKind, Any] = {"yesno": lambda one: "yes or no", "number": lambda one: (one.low, one.high)}
        return {one.name: other.get(one.kind, lambda one: list(one.values))(one) for one in self.columns}

    def layout(self) -> list[dict[str, Any]]:
        """The meaning of each number of a vector, for programs without Ganvas.

        With `value`: 1 if the image has this value, else 0; yesno: 1 for yes; number: (value - mean) / std.
        """
        meanings: list[dict[str, Any]] = []
        for column in self.columns:
            about = {"column": column.name, "kind": column.kind}
            if column.kind == "number":
                meanings.append(about | {name: getattr(column, name) for name in ("mean", "std", "low", "high")})
            else:
                meanings += [about | {"value": value} for value in column.values] or [about]
        return meanings

    # -- from data and files --

    @classmethod
    def of(cls, kinds: Mapping[str, ConditionKind], rows: Sequence[Sequence[str]]) -> Conditions:
        """The columns of these rows of cells. Raises `DataError` for too many values."""
        columns = []
        for i, (name, kind) in enumerate(kinds.items()):
            cells = [row[i] for row in rows]
            if kind == "number":
                numbers = np.array(cells, np.float64)
                std = float(numbers.std()) or 1.0
                extremes = (float(f"{end:.6g}") for end in (numbers.min(), numbers.max()))
                columns.append(Column(name, kind, (), float(numbers.mean()), std, *extremes))
                continue
            distinct = {one for cell in cells for one in (_labels_in(cell) if kind == "several" else [cell or _NONE])}
            values = () if kind == "yesno" else tuple(sorted(distinct, key=natural))
            if len(values) > _MOST_VALUES:
                raise DataError(
                    f"the column {name!r} has {len(values):,} different values ({some(values, 3)}), at most "
                    f"{_MOST_VALUES} are possible: leave it out, or use {name}=number if it has numbers"
                )
            columns.append(Column(name, kind, values))
        if (width := sum(column.width for column in columns)) > MOST_CONDITIONS:
            raise DataError(
                f"the conditions have {width:,} values, at most {MOST_CONDITIONS:,} are possible: use fewer"
            )
        return cls(tuple(columns))

    def with_combinations(self, rows: Sequence[Sequence[str]]) -> Conditions:
        """With the most common combinations of these rows of cells of training images, in random order.

        Only combinations that occur more than once are used, if at least half of the images have such a combination.
        Otherwise combinations of single images are used: columns that are drawn separately give impossible images.
        """
        coarse = []
        for i, column in enumerate(self.columns):
            cells = [row[i] for row in rows]
            known = {cell: column.cell(cell) for cell in set(cells)} if column.kind != "number" else {}
            coarse.append([known[cell] for cell in cells] if known else _coarsened(cells))
        combinations = list(zip(*coarse, strict=True))
        counts = Counter(combinations[i] for i in np.random.default_rng(0).permutation(len(combinations)))
        is_shared = 2 * sum(count for count in counts.values() if count > 1) >= len(combinations)
        common = [row for row, count in counts.most_common(MOST_COMBINATIONS) if count > 1 or not is_shared]
        order = np.random.default_rng(0).permutation(len(common))
        return dataclasses.replace(self, combinations=tuple(common[i] for i in order), shared=is_shared)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Columns leave out what does not apply to their kind."""
        columns = [changed(column) for column in self.columns]
        return {"columns": columns, "combinations": [*map(list, self.combinations)], "shared": self.shared}

    @classmethod
    def from_dict(cls, values: Any) -> Conditions:
        """Reads the output of `to_dict`, also after JSON. Raises `ConfigError` for anything else."""
        return from_dict(cls, values, "the table of conditions")

    # -- vectors --

    def matrix(self, rows: Sequence[Sequence[str]]) -> np.ndarray:
        """Vectors (N, width) float32 of rows of cells."""
        parts = [
            _for_each([row[i] for row in rows], column.numbers, column.width) for i, column in enumerate(self.columns)
        ]
        return np.concatenate(parts, axis=1)

    @functools.cached_property
    def table(self) -> np.ndarray:
        """Vectors (K, width) of the combinations."""
        return self.matrix(self.combinations)

    def fault(self, matrix: np.ndarray) -> str | None:
        """What is wrong with vectors (N, width) of images, or None."""
        if not np.isfinite(matrix).all():
            return "values that are not finite"
        for column, part in zip(self.columns, self.split(matrix), strict=True):
            if column.kind != "number" and not np.isin(part, (0, 1)).all():
                return f"values of {column.name!r} other than 0 and 1"
            if column.kind == "category" and not (part.sum(axis=1) == 1).all():
                return f"images without exactly one value of {column.name!r}"
        return None

    def split(self, matrix: np.ndarray) -> list[np.ndarray]:
        """The parts (..., column.width) of vectors (..., width)."""
        return np.split(matrix, np.cumsum([column.width for column in self.columns])[:-1], axis=-1)

    def cells(self, vector: np.ndarray) -> dict[str, str]:
        """Column name -> cell of a vector (width,). Raises `ConfigError` for an interpolated one."""
        parts = zip(self.columns, self.split(vector), strict=True)
        return {column.name: column.cell_of(part) for column, part in parts}

    def text(self, vector: np.ndarray) -> str:
        """A vector as text that `read` takes, e.g. "hair=red,age=60"."""
        return ",".join(f"{name}={cell}" for name, cell in self.cells(vector).items())

    def read(self, given: Given | None) -> dict[str, str]:
        """Column name -> cell of what a user gave. Raises `ConfigError` for unknown columns and values."""
        if given is None:
            return {}
        names = [column.name for column in self.columns]
        if isinstance(given, Mapping):
            values = {str(name): value for name, value in given.items()}
        elif isinstance(given, str):
            # Values may contain commas, so only a comma before a column name separates.
            ends = "|".join(re.escape(name) for name in names)
            parts = re.split(rf",(?=\s*(?:{ends})\s*=)", given) if given.strip() else []
            pairs = [part.partition("=") for part in parts]
            if odd := next((part for part, pair in zip(parts, pairs, strict=True) if not pair[1]), None):
                raise ConfigError(f"condition {odd!r:.60}: expected column=value, with the columns {some(names)}")
            keys = [name.strip() for name, _, _ in pairs]
            if again := [name for name, count in Counter(keys).items() if count > 1]:
                raise ConfigError(f"the condition {again[0]!r:.60} is given twice")
            values = {name: value for name, (_, _, value) in zip(keys, pairs, strict=True)}
        else:
            raise ConfigError(f"conditions {given!r:.60}: expected text such as {self.example()}")
        for name in values:
            if name not in names:
                near = did_you_mean(name, names)
                raise ConfigError(f"there is no condition {name!r:.60}{near}: this model has {some(names)}")
        return {column.name: column.cell(values[column.name]) for column in self.columns if column.name in values}

    def example(self) -> str:
        """The first combination as text."""
        return self.text(self.table[0]) if self.combinations else f"{self.columns[0].name}=..."

    def vectors(self, given: Given | None, seeds: Sequence[int]) -> np.ndarray:
        """Vectors (N, width) of images with these conditions and seeds.

        Columns that are not given have the cells of the combination with index seed modulo K, among the K that fit the
        given ones (`fitting`).
        """
        cells = self.read(given)
        if len(cells) == len(self.columns):
            return np.repeat(self.matrix([tuple(cells.values())]), len(seeds), axis=0)
        if not self.combinations:
            raise ConfigError("this model stores no combinations of conditions: give all of them")
        rows = self.table[self.fitting(cells)]
        vectors = rows[[seed % len(rows) for seed in seeds]]
        start = 0
        for column in self.columns:
            if column.name in cells:
                vectors[:, start : start + column.width] = column.numbers(cells[column.name])
            start += column.width
        return vectors

    def fitting(self, cells: Mapping[str, str]) -> np.ndarray:
        """Indices of the combinations that fit the given cells.

        Those with the same values, and of these the ones with numbers within half a standard deviation, or the nearest.
        All combinations if none has the same values.
        """
        same, distance = np.ones(len(self.combinations), bool), np.zeros(len(self.combinations))
        for column, part in zip(self.columns, self.split(self.table), strict=True):
            if column.name not in cells:
                continue
            wanted = np.array(column.numbers(cells[column.name]), np.float32)
            if column.kind == "number":
                distance = np.maximum(distance, np.abs(part - wanted)[:, 0])
            else:
                same &= (part == wanted).all(axis=1)
        if not same.any():
            same[:] = True
        least = max(_NEAR, float(distance[same].min()))
        return np.flatnonzero(same & (distance <= least))


def _for_each(cells: Sequence[str], numbers: Callable[[str], list[float]], width: int) -> np.ndarray:
    """(N, width) float32 numbers of cells, computed once for equal ones."""
    place = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
    table = np.array([numbers(cell) for cell in place], np.float32).reshape(-1, width)
    return table[[place[cell] for cell in cells]]


def _coarsened(cells: Sequence[str]) -> list[str]:
    """Numbers replaced by the median of their group, of ten groups of about equal size."""
    numbers = np.array(cells, np.float64)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _GROUPS + 1)[1:-1]))
    group = np.searchsorted(edges, numbers, side="left")
    medians = {k: f"{np.sort(numbers[group == k])[(group == k).sum() // 2]:.6g}" for k in np.unique(group).tolist()}
    return [medians[k] for k in group.tolist()]


def kind_of(cells: Sequence[str]) -> ConditionKind:
    """The kind of a column, from its cells: yes/no words, numbers, labels joined by "|", otherwise a category."""
    filled = {cell for cell in cells if cell}
    if len(filled) < len(set(cells)) or not {cell.lower() for cell in filled} <= _YES | _NO:
        if filled and all(number_of(cell) is not None for cell in filled):
            return "number"
        return "several" if any(_SEPARATOR in cell or _is_json_list(cell) for cell in filled) else "category"
    return "yesno"


def as_yes_or_no(cell: str) -> str:
    """A cell of a column that is used as yes/no: empty, none and words for no are no, everything else is yes."""
    return "no" if not cell or cell.lower() in _NO | {_NONE} else "yes"


def _labels_in(cell: str) -> list[str]:
    """The labels of a cell: "A|B", or a JSON list of texts, in which "|" separates labels, too."""
    text = _SEPARATOR.join(map(str, json.loads(cell))) if _is_json_list(cell) else cell
    return [one.strip() for one in text.split(_SEPARATOR) if one.strip()]


def _is_json_list(cell: str) -> bool:
    if not cell.startswith("["):
        return False
    try:
        return isinstance(json.loads(cell), list)
    except (ValueError, RecursionError):
        return False


def number_of(cell: str) -> float | None:
    """The finite number in a cell, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def natural(text: str) -> list[str | int]:
    """Sort key that puts "10" after "9"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
