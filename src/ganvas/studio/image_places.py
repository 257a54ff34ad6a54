"""The folders and archives of images that the page may use, and the list of what a folder contains.

Every path from a client is resolved, links included, and must then be inside one of the allowed folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ganvas.data.catalog import CATALOG, Dataset
from ganvas.data.reading.containers import PICTURES
from ganvas.data.reading.sources import ARCHIVES
from ganvas.errors import ConfigError
from ganvas.studio.errors import AbsentError, ForbiddenError

_FILES = (*ARCHIVES, ".npz")  # files that are a source by themselves
_MOST_LISTED, _MOST_COUNTED = 300, 20_000  # subfolders and archives of a folder; entries that are looked at


@dataclass(frozen=True)
class _Inside:
    """Content of a folder. num_images: directly in it. folders, archives: paths."""

    folder: Path
    parent: Path | None
    num_images: int
    folders: list[Path]
    archives: list[Path]
    complete: bool
    """False if the folder has more entries than are looked at."""


class ImagePlaces:
    """Folders whose content may be listed and used for trainings, and the named data sets."""

    def __init__(self, roots: Iterable[Path], uploads: Path) -> None:
        """roots: allowed folders, uploads: folder of uploads, allowed too. Raises ConfigError for a missing root."""
        folders: list[Path] = []
        for root in roots:
            if not root.is_dir():
                raise ConfigError(f"--images {root} is not a folder: name folders that contain images")
            if (place := root.resolve()) not in folders:
                folders.append(place)
        self.roots, self.uploads = folders, uploads

    def listed(self) -> list[Path]:
        """The allowed folders, and the one of uploads if it exists."""
        return self.roots + [self.uploads] * (self.uploads.is_dir() and self.uploads not in self.roots)

    def source(self, text: str) -> str:
        """What a client asked for as the source of a training: the name of a data set, or a path that is allowed."""
        if text in CATALOG and not Path(text).exists():
            return text
        path = self.allowed(text)
        if not path.is_dir() and not (path.is_file() and path.name.lower().endswith(_FILES)):
            raise ConfigError(f"{path} is not a source of images: choose a folder or an archive ({', '.join(_FILES)})")
        return str(path)

    def allowed(self, text: str) -> Path:
        """The path, resolved. Raises ForbiddenError outside the allowed folders, AbsentError if it does not exist."""
        try:
            path = Path(text).expanduser()
            if not path.is_absolute():
                raise ConfigError(f"{text[:200]!r} is not a full path: start with the name of a disk or with /")
            path = path.resolve()
            exists = path.exists()
        except (OSError, RuntimeError, ValueError):
            raise ConfigError(f"{text[:200]!r} is not a path of this machine: choose a folder from the list") from None
        allowed = (*self.roots, self.uploads.resolve())
        inside = next((path.relative_to(root) for root in allowed if path.is_relative_to(root)), None)
        if inside is None or any(part.startswith(".") for part in inside.parts):
            places = ", ".join(map(str, self.roots)) or "none"
            raise ForbiddenError(
                f"this studio may not read {path}: it may read {places}; `ganvas studio --images FOLDER` allows others"
            )
        if not exists:
            raise AbsentError(f"{path} does not exist: choose a folder from the list")
        return path

    def inside(self, text: str) -> _Inside:
        """The content of an allowed folder; for an archive, that of its folder."""
        path = self.allowed(text)
        folder = path if path.is_dir() else path.parent
        folders, archives, images, complete = list[Path](), list[Path](), 0, True
        try:
            with os.scandir(folder) as entries:
                for num, entry in enumerate(entries):
                    if num >= _MOST_COUNTED:
                        complete = False
                        break
                    name = entry.name.lower()
                    if name.startswith("."):
                        continue
                    if name.endswith(PICTURES):
                        images += 1
                    elif name.endswith(_FILES):
                        archives.append(Path(entry.path))
                    elif entry.is_dir():
                        folders.append(Path(entry.path))
        except OSError as error:
            raise ConfigError(f"{folder} cannot be read ({error.strerror}): choose another folder") from None
        parent = folder.parent if any(folder.parent.is_relative_to(root) for root in self.roots) else None
        complete = complete and max(len(folders), len(archives)) <= _MOST_LISTED
        return _Inside(folder, parent, images, _shown(folders), _shown(archives), complete)


def _shown(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.name.lower())[:_MOST_LISTED]


def named_sets() -> list[Dataset]:
    """The data sets that can be used by name: included, downloadable, or already present."""
    return [one for one in CATALOG.values() if all(file.url for file in one.files) or one.folder.is_dir()]
