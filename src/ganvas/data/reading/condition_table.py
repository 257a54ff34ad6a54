"""Reads the table of --conditions: the cells of each image, and the kind of each column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ganvas.conditions import as_yes_or_no, kind_of, number_of
from ganvas.config import ConditionKind, parse_conditions
from ganvas.data.reading.containers import Container, Item, Rejection
from ganvas.data.reading.labels import find_text, matched, no_match
from ganvas.data.reading.lists import Finder, Table, as_name, refuse_cells
from ganvas.errors import ConfigError, DataError, did_you_mean, some


@dataclass(frozen=True)
class ConditionTable:
    """Column name -> kind, and image name -> cells in the order of the columns."""

    kinds: dict[str, ConditionKind]
    cells: dict[str, tuple[str, ...]]

    def rows(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """The cells of these images."""
        return [self.cells[name] for name in names]


def read_conditions(
    container: Container, items: list[Item], option: str
) -> tuple[ConditionTable, list[Rejection], list[str]]:
    """The table that `option` names ("table.csv:hair,age"), the images that cannot be used, and notes.

    Lines name images as in `Finder`. Images without a line or with an empty number are rejected. An empty cell of
    another column is the category none, no label, or in a column given as yesno: no. Raises `DataError` for ambiguous
    tables and columns that cannot be used.
    """
    file, asked = parse_conditions(option)
    if (content := find_text(container, file)) is None:
        raise DataError(f"--conditions {option}: no such file, also not next to or in {container.path}")
    where, finder = Path(file).name, Finder(item.name for item in items)
    table = _spaced(content, where) if where.lower().endswith(".txt") else Table.read(content, where, finder)
    if table.header is None:
        raise DataError(f"{where} has no header line: add a first line with column names, for --conditions")
    place = table.names(finder)
    columns = _chosen(table, place, asked, option)
    listed = [(as_name(row[place]), tuple(row[i] for i in columns.values())) for row in table.rows if row[place]]
    row_of, _ = matched(listed, finder, where)
    if not row_of:
        raise no_match(listed, where, container, items[0].name)
    rejected = [Rejection(item.name, f"has no line in {where}") for item in items if item.name not in row_of]
    kinds, notes = dict[str, ConditionKind](), list[str]()
    for i, name in enumerate(columns):
        cells = [row[i] for row in row_of.values()]
        kind = asked.get(name) or kind_of(cells)
        if len({as_yes_or_no(cell) for cell in cells} if kind == "yesno" else set(cells)) < 2:
            if asked:
                raise DataError(f"the column {name!r} of {where} has the same value for all images: leave it out")
            notes.append(f"The column {name} of {where} is not used: it has the same value for all images.")
            continue
        kinds[name] = kind
        if kind == "number":
            if wrong := next((cell for cell in cells if cell and number_of(cell) is None), None):
                raise DataError(f"{name}=number: {where} has {wrong!r:.40} in this column, which is not a number")
            lacking = {image for image, row in row_of.items() if not row[i]}
            rejected += [Rejection(image, f"has no number for {name} in {where}") for image in lacking]
    if not kinds:
        raise DataError(f"{where} has no column that differs between the images")
    places = [list(columns).index(name) for name in kinds]
    lacking = {rejection.name for rejection in rejected}
    cells = {
        image: tuple(
            as_yes_or_no(row[i]) if kinds[name] == "yesno" else row[i] for i, name in zip(places, kinds, strict=True)
        )
        for image, row in row_of.items()
        if image not in lacking
    }
    if not cells:
        raise DataError(f"no image has values in all columns of {where}: {rejected[0].name} {rejected[0].reason}")
    return ConditionTable(kinds, cells), rejected, notes


def _chosen(table: Table, names: int, asked: dict[str, ConditionKind | None], option: str) -> dict[str, int]:
    """Column name -> index, of the asked columns or of all except the image names and a row index."""
    header = table.header or []
    known = {name: i for i, name in enumerate(header) if i != names and not table.is_index(i)}
    if twice := [name for name in known if header.count(name) > 1]:
        raise DataError(f"{table.where} has several columns {twice[0]!r}: rename them")
    for name in asked or known:
        if name not in known:
            near = did_you_mean(name, [*known])
            raise DataError(f"{table.where} has no column {name!r}{near}; its columns are: {some([*known], 20)}")
        if "=" in name or "," in name:
            raise ConfigError(f"--conditions {option}: rename the column {name!r}, which contains = or a comma")
    if not known:
        raise DataError(f"{table.where} has no columns besides the image names")
    return {name: known[name] for name in asked or known}


def _spaced(content: str, where: str) -> Table:
    """A table separated by spaces, such as list_attr_celeba.txt: perhaps a first line with the number of lines, then
    names of all columns, or of all but the first, which has the image names.
    """
    refuse_cells(len(content) // 2, where)
    rows = [line.split() for line in content.splitlines() if line.strip()]
    if len(rows) > 2 and len(rows[0]) == 1 < len(rows[1]):
        rows = rows[1:]
    header, *rows = rows or [[]]
    width = len(rows[0]) if rows else 0
    header = ["image", *header] if len(header) == width - 1 else header
    if wrong := next((row for row in [header, *rows] if len(row) != width or width < 2), None):
        raise DataError(f"{where}: expected lines of equal length with an image name and values, not {wrong!r:.80}")
    return Table(header, rows, where)
