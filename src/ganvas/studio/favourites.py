"""Lists of favourites: `favourites.json` and further files next to the model, rewritten at each change."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from ganvas.errors import ConfigError
from ganvas.explore.recipes import Favourites, Recipe
from ganvas.studio.engine import Loaded
from ganvas.studio.errors import AbsentError, ConflictError
from ganvas.system import files

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
FIRST = "favourites"
MOST_KEPT, MOST_LISTS, LONGEST = 5000, 50, 200  # images per list, lists per model, characters per title


class Lists:
    """The lists of all models, with one change at a time."""

    def __init__(self) -> None:
        self.changing = threading.Lock()

    def names(self, loaded: Loaded) -> list[str]:
        """Names of the lists, always including the first one."""
        files = sorted(loaded.place.folder.glob(f"{FIRST}-*.json"))[:MOST_LISTS]
        others = [path.stem.removeprefix(f"{FIRST}-") for path in files]
        return [FIRST, *(name for name in others if NAME.fullmatch(name) and name != FIRST)]

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
        with self.changing:
            found = self.read(loaded, name)
            names = found.names or [""] * len(found.recipes)
            if recipe in found.recipes:
                if title is not None:
                    names[found.recipes.index(recipe)] = title
            elif len(found.recipes) >= MOST_KEPT:
                raise ConfigError(f"the list {name} is full ({MOST_KEPT:,} images): start another list")
            else:
                found.recipes.append(recipe)
                names.append(title or "")
            found.names = names
            return self.save(loaded, name, found)

    def remove(self, loaded: Loaded, name: str, recipe: Recipe) -> Favourites:
        """Remove an image, if it is in the list."""
        with self.changing:
            found = self.read(loaded, name)
            names = found.names or [""] * len(found.recipes)
            left = [pair for pair in zip(found.recipes, names, strict=True) if pair[0] != recipe]
            if len(left) == len(found.recipes):
                return found
            found.recipes, found.names = [one for one, _ in left], [title for _, title in left]
            return self.save(loaded, name, found)

    def save(self, loaded: Loaded, name: str, found: Favourites) -> Favourites:
        found.directions = {**found.directions, **loaded.directions}
        found.save(self.file(loaded, name))
        return found

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
        if not NAME.fullmatch(name):
            raise ConfigError(f"list {name!r}: expected at most 40 lower-case letters, digits and -, such as portraits")
        return loaded.place.folder / (f"{FIRST}.json" if name == FIRST else f"{FIRST}-{name}.json")
