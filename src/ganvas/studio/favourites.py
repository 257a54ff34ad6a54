"""Lists of favourites: `favourites.json` and further files next to the model, rewritten at each change."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ganvas.errors import ConfigError
from ganvas.explore.recipes import Favourites, Recipe
from ganvas.studio.engine import Loaded
from ganvas.studio.errors import AbsentError, ConflictError
from ganvas.system import files

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
FIRST = "favourites"
_MOST_KEPT, _MOST_LISTS = 5000, 50  # images per list, lists per model
_MOST_UNDONE = 50  # changes of a list that can be undone

_Content = tuple[list[Recipe], list[str]]
"""The recipes of a list and their titles."""


@dataclass(frozen=True)
class _Change:
    """A change of a list, to be undone."""

    what: str
    before: _Content
    after: _Content


class Lists:
    """The lists of all models, with one change at a time."""

    def __init__(self) -> None:
        self.changing = threading.Lock()
        self.changes: dict[Path, list[_Change]] = {}

    def names(self, loaded: Loaded) -> list[str]:
        """Names of the lists, always including the first one."""
        files = sorted(loaded.place.folder.glob(f"{FIRST}-*.json"))[:_MOST_LISTS]
        others = [path.stem.removeprefix(f"{FIRST}-") for path in files]
        return [FIRST, *(name for name in others if _NAME.fullmatch(name) and name != FIRST)]

    def read(self, loaded: Loaded, name: str) -> Favourites:
        """Read a list. Raises ConflictError if the file belongs to another model or is damaged."""
        path = self.file(loaded, name)
        if not path.exists():
            return Favourites(loaded.generator.hash)
        try:
            return Favourites.read(path, loaded.generator)
        except ConfigError as error:
            raise ConflictError(str(error)) from error

    def keep(self, loaded: Loaded, name: str, recipe: Recipe, title: str | None) -> Favourites:
        """Append an image, or change the title of an existing one."""

        def change(recipes: list[Recipe], titles: list[str]) -> str:
            if recipe not in recipes:
                if len(recipes) >= _MOST_KEPT:
                    raise ConfigError(f"the list {name} is full ({_MOST_KEPT:,} images): start another list")
                recipes.append(recipe)
                titles.append(title or "")
                return "add"
            if title is not None:
                titles[recipes.index(recipe)] = title
            return "rename"

        return self.change(loaded, name, change)

    def remove(self, loaded: Loaded, name: str, recipe: Recipe) -> Favourites:
        """Remove an image, if it is in the list."""

        def change(recipes: list[Recipe], titles: list[str]) -> str:
            if recipe in recipes:
                place = recipes.index(recipe)
                del recipes[place], titles[place]
            return "remove"

        return self.change(loaded, name, change)

    def move(self, loaded: Loaded, name: str, recipe: Recipe, place: int) -> Favourites:
        """Move an image to another place, 0 is the first. Raises AbsentError if it is not in the list."""

        def change(recipes: list[Recipe], titles: list[str]) -> str:
            if recipe not in recipes:
                raise AbsentError(f"this image is not in the list {name}: reload the page")
            old = recipes.index(recipe)
            recipes.insert(place, recipes.pop(old))
            titles.insert(place, titles.pop(old))
            return "move"

        return self.change(loaded, name, change)

    def change(self, loaded: Loaded, name: str, change: Callable[[list[Recipe], list[str]], str]) -> Favourites:
        """Save a change of recipes and titles, and remember it. change: makes it and says what it is."""
        with self.changing:
            favourites = self.read(loaded, name)
            before = _content(favourites)
            recipes, titles = _content(favourites)
            what = change(recipes, titles)
            if (recipes, titles) == before:
                return favourites
            self.save(loaded, name, favourites, (recipes, titles))
            known = self.changes.setdefault(self.file(loaded, name), [])
            known.append(_Change(what, before, (recipes, titles)))
            del known[:-_MOST_UNDONE]
            return favourites

    def undo(self, loaded: Loaded, name: str) -> Favourites:
        """Undo the last change of a list. Raises ConflictError if there is none, or the file was changed elsewhere."""
        with self.changing:
            known = self.changes.get(self.file(loaded, name), [])
            if not known:
                raise ConflictError(f"no change of the list {name} is known: nothing to undo")
            last, favourites = known.pop(), self.read(loaded, name)
            if _content(favourites) != last.after:
                known.clear()
                raise ConflictError(f"the list {name} was changed by another program: its last change stays")
            return self.save(loaded, name, favourites, last.before)

    def undoable(self, loaded: Loaded, name: str) -> str:
        """The change that `undo` would undo: add, rename, remove or move; "" for none."""
        known = self.changes.get(self.file(loaded, name))
        return known[-1].what if known else ""

    def save(self, loaded: Loaded, name: str, favourites: Favourites, new: _Content) -> Favourites:
        favourites.recipes, favourites.names = list(new[0]), list(new[1])
        favourites.directions = {**favourites.directions, **loaded.directions}
        favourites.save(self.file(loaded, name))
        return favourites

    def set_aside(self, loaded: Loaded, name: str) -> str:
        """Rename a list that cannot be used, to start a new one; return the new file name."""
        with self.changing:
            path = self.file(loaded, name)
            if not path.is_file():
                raise AbsentError(f"{path.name} does not exist: there is nothing to rename")
            for number in range(1, 1000):
                new = path.with_name(f"{path.stem}.aside-{number}.json")
                if not new.exists():
                    with files.explained(path):
                        path.rename(new)
                    return new.name
            raise ConflictError(f"{path} has been renamed 999 times: move some of these files")

    def file(self, loaded: Loaded, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"list {name!r}: expected at most 40 lower-case letters, digits and -, such as portraits")
        return loaded.place.folder / (f"{FIRST}.json" if name == FIRST else f"{FIRST}-{name}.json")


def _content(favourites: Favourites) -> _Content:
    return list(favourites.recipes), list(favourites.names or [""] * len(favourites.recipes))
