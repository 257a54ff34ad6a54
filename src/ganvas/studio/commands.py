"""Command lines that make what the studio shows.

They are short: recipes that are more than seeds are saved in a file, which the command names. They work in Bash, Zsh
and PowerShell; only texts with an apostrophe need different quotes.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganvas.explore.recipes import Favourites, Recipe
from ganvas.fields import option
from ganvas.options import Common, Files, Interpolate, Video
from ganvas.studio.engine import Loaded
from ganvas.studio.schemas import CommandOut
from ganvas.system import files

_LONGEST = 300  # characters of a list of seeds; longer ones are saved in a file
_SAFE = re.compile(r"[A-Za-z0-9_./:=+][A-Za-z0-9_./:=+-]*|--?[A-Za-z0-9-]+")  # words that no shell changes
_SPECIAL = frozenset("'\"$`\\!")  # characters that need care inside double quotes


def line(words: Iterable[object]) -> CommandOut:
    """A command, in the quotes of Bash and Zsh and in those of PowerShell."""
    texts = [str(word) for word in words]
    powershell = " ".join(_quoted(text, "''") for text in texts)
    return CommandOut(command=" ".join(map(_quoted, texts)), powershell=powershell)


def _quoted(text: str, apostrophe: str = "'\"'\"'") -> str:
    """A word that the shell passes on as it is, the same for both shells if possible.

    apostrophe: how an apostrophe is written between single quotes.
    """
    if _SAFE.fullmatch(text):
        return text
    if "'" in text and not _SPECIAL & set(text.replace("'", "")):
        return f'"{text}"'
    return "'" + text.replace("'", apostrophe) + "'"


def of_recipes(
    loaded: Loaded, recipes: Sequence[Recipe], form: Files | None = None, columns: int | None = None
) -> CommandOut:
    """`ganvas sample` for seeds of one class and truncation; otherwise `ganvas favourites` with a file of the recipes,
    which is written next to the model. columns: one grid, if `ganvas sample` can make it."""
    more = differing(form or Files(), Files())
    if (seeds := _seeds_of(recipes)) is None:
        return line(["ganvas", "favourites", loaded.place.folder, _saved(loaded, recipes), *more, "--out", "images"])
    name = "--conditions" if loaded.generator.info.conditions is not None else "--label"
    words = ["ganvas", "sample", loaded.place.folder, *seeds, *_label_of(recipes, name), *more]
    return line([*words, "--out", "images"] if columns is None else [*words, "--grid", "--out", "grid"])


def of_list(loaded: Loaded, file: Path) -> CommandOut:
    return line(["ganvas", "favourites", loaded.place.folder, file, "--out", "favourites"])


def of_film(loaded: Loaded, recipes: Sequence[Recipe], asked: Interpolate) -> CommandOut:
    """`ganvas interpolate` for the video `asked` of these images."""
    more = differing(asked, Interpolate("", ""), {"source", "out"})
    words = ["ganvas", "interpolate", loaded.place.folder]
    if (seeds := _seeds_of(recipes)) is not None:
        name, comma = ("--labels", ",") if loaded.generator.info.conditions is None else ("--conditions", ";")
        labels = _label_of(recipes, name)
        if (known := loaded.generator.label_names) and not labels:  # `ganvas interpolate` needs them explicitly
            labels = [name, comma.join(known[(one.seed or 0) % len(known)] for one in recipes)]
        return line([*words, *seeds, *labels, *more, "--out", asked.out])
    return line([*words, "--favourites", _saved(loaded, recipes), *more, "--out", asked.out])


def of_training_film(asked: Video) -> CommandOut:
    return line(["ganvas", "video", asked.run, "--out", asked.out, *differing(asked, Video(""), {"run", "out"})])


def differing(asked: Any, usual: Any, without: Iterable[str] = ()) -> list[object]:
    """The options of a dataclass object that differ from `usual`, as words of a command line."""
    words: list[object] = []
    for name, value in vars(asked).items():
        if name in {*without, *vars(Common())} or value == getattr(usual, name) or value is None:
            continue
        if isinstance(value, bool):
            words.append(option(name) if value else f"--no-{option(name)[2:]}")
        else:
            words += [option(name), f"{value:.10g}" if isinstance(value, float) else value]
    return words


def _seeds_of(recipes: Sequence[Recipe]) -> list[object] | None:
    """--seeds and --truncation of images of seeds, of one class and truncation; None for other recipes."""
    labels = {one.label if isinstance(one.label, str) else None for one in recipes}
    truncations = {one.truncation for one in recipes}
    if not all(_is_seed(one) for one in recipes) or len(labels) != 1 or len(truncations) != 1:
        return None
    seeds, truncation = _ranges([one.seed or 0 for one in recipes]), truncations.pop()
    if len(seeds) > _LONGEST:
        return None
    return ["--seeds", seeds, *([] if truncation == 1 else ["--truncation", f"{truncation:g}"])]


def _label_of(recipes: Sequence[Recipe], name: str) -> list[object]:
    label = recipes[0].label
    return [name, label] if isinstance(label, str) else []


def _is_seed(recipe: Recipe) -> bool:
    """Whether the recipe has only seed, class and truncation, so that `ganvas sample` can generate its image."""
    only = Recipe(seed=recipe.seed, label=recipe.label, truncation=recipe.truncation)
    return recipe == only and recipe.seed is not None and not isinstance(recipe.label, Mapping)


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds in order, in the format of parse_seeds: 0-9,42."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _saved(loaded: Loaded, recipes: Sequence[Recipe]) -> Path:
    """A favourites file of these images next to the model, named by its content."""
    content = favourites_command(loaded, recipes)
    path = loaded.place.folder / f"recipes-{hashlib.sha256(content.encode()).hexdigest()[:8]}.json"
    if not path.exists():
        with files.explained(path):
            files.write_text(path, content)
    return path


def favourites_command(loaded: Loaded, recipes: Sequence[Recipe]) -> str:
    """The content of a favourites file of these images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "favourites.json"
        Favourites(loaded.generator.hash, list(recipes), dict(loaded.directions)).save(path)
        return path.read_text(encoding="utf-8")
