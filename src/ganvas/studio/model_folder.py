"""The models and runs in the folder of the studio, each with a name.

Names from clients are looked up here and never joined to a path. Links that lead outside the folder are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ganvas.errors import ConfigError
from ganvas.model_file import WEIGHTS
from ganvas.studio.errors import AbsentError

_DEEP = 2  # levels of subfolders that are searched
_MOST = 200  # runs and models
_LOOKED_AT = 5_000  # most folders that are searched, in case the folder is a whole disk


@dataclass(frozen=True)
class Place:
    """A run or a model folder. name: path relative to the given folder, or the name of that folder."""

    name: str
    folder: Path
    is_run: bool
    weights: Path | None
    """The weights file; None for a run that has not saved a model yet."""


class Shelf:
    """The runs and models of one folder; searched at each request, because runs may change."""

    def __init__(self, root: Path, may_be_empty: bool = False) -> None:
        """root: a run, a model folder, a weights file or a folder of runs. Raises ConfigError if there is nothing.

        may_be_empty: for a folder in which the first run will be trained; it need not exist.
        """
        if may_be_empty and (root.is_dir() or not root.exists()):
            self.root = root.resolve()
            return
        if not root.exists():
            raise ConfigError(f"{root} does not exist: expected a run, a model folder or a folder of runs")
        self.root = (root if root.is_dir() else root.parent).resolve()
        if not self.places():
            raise ConfigError(f"{root} has no run and no model: expected a run, a model folder or a folder of runs")

    def places(self) -> dict[str, Place]:
        """Runs and models by name, sorted."""
        places: dict[str, Place] = {}
        level, looked = [self.root], 0
        for _ in range(_DEEP + 1):
            below: list[Path] = []
            for folder in level:
                looked += 1
                if looked > _LOOKED_AT or len(places) >= _MOST:
                    return places
                place = self.place(folder)
                if place is not None:
                    places[place.name] = place
                else:
                    below += self.folders(folder)
            level = below
        return dict(sorted(places.items()))

    def place(self, folder: Path) -> Place | None:
        is_run = self.own(folder / "config.json") is not None and (folder / "samples").is_dir()
        candidates = (folder / "model" / WEIGHTS, folder / WEIGHTS)
        weights = next((file for file in candidates if self.own(file) is not None), None)
        if not is_run and weights is None:
            return None
        name = folder.relative_to(self.root).as_posix() if folder != self.root else folder.name or "model"
        name = name.encode(errors="backslashreplace").decode()  # file names may not be valid text
        return Place(name, folder, is_run, weights)

    def folders(self, folder: Path) -> list[Path]:
        try:
            inside = sorted(path for path in folder.iterdir() if path.is_dir())
        except OSError:
            return []
        return [path for path in inside if not path.name.startswith(".") and self.within(path)]

    def own(self, file: Path) -> Path | None:
        """The file, if it exists and is inside the given folder after following symbolic links."""
        try:
            return file if file.is_file() and self.within(file) else None
        except OSError:
            return None

    def within(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root)

    def find(self, name: str) -> Place:
        """Look up a name. Raises AbsentError if it does not exist."""
        place = self.places().get(name)
        if place is None:
            raise AbsentError(f"this studio has no run or model {name!r}: reload the page for the current list")
        return place
