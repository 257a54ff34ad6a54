"""Command lines that generate the images shown in the studio."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ganvas.errors import ConfigError
from ganvas.explore.recipes import Favourites, Recipe
from ganvas.studio.engine import Loaded

LONGEST = 100_000  # characters; shells accept about 131,000 in one argument


def of_recipes(loaded: Loaded, recipes: Sequence[Recipe], film: bool = False) -> str:
    """`ganvas sample` for seeds of one class and truncation; otherwise a command that writes the recipes to a file.

    film: a morphing video of the images. Raises ConfigError if the recipes are too long for a command.
    """
    source = shlex.quote(str(loaded.place.folder))
    labels = {one.label if isinstance(one.label, str) else None for one in recipes}
    truncations = {one.truncation for one in recipes}
    if all(is_seed(one) for one in recipes) and len(labels) == len(truncations) == 1:
        seeds = ranges([one.seed or 0 for one in recipes])
        label, truncation = labels.pop(), truncations.pop()
        has_conditions = loaded.generator.info.conditions is not None
        name = "--conditions" if has_conditions else "--labels" if film else "--label"
        options = [] if label is None else [f"{name} {shlex.quote(label)}"]
        options += [] if truncation == 1 else [f"--truncation {truncation:g}"]
        if film:
            # Without a label the class depends on the seed; `ganvas interpolate` needs it explicitly.
            classes = loaded.generator.label_names
            own = [classes[(one.seed or 0) % len(classes)] for one in recipes] if classes and label is None else []
            options += [f"{name} {shlex.quote((';' if has_conditions else ',').join(own))}"] if own else []
            return " ".join(["ganvas interpolate", source, f"--seeds {seeds}", *options, "--out morph.gif"])
        return " ".join(["ganvas sample", source, f"--seeds {seeds}", *options, "--out pictures"])
    content = json.dumps(json.loads(favourites(loaded, recipes)), separators=(",", ":"))
    if len(content) > LONGEST:
        raise ConfigError("the recipes are too long for a command: add the images to favourites, then copy its command")
    follow = f"ganvas interpolate {source} --favourites pictures.json --out morph.gif"
    if not film:
        follow = f"ganvas favourites {source} pictures.json --out pictures"
    return f"printf %s {shlex.quote(content)} > pictures.json && {follow}"


def of_list(loaded: Loaded, file: Path, film: bool = False) -> str:
    source, name = shlex.quote(str(loaded.place.folder)), shlex.quote(str(file))
    if film:
        return f"ganvas interpolate {source} --favourites {name} --out morph.gif"
    return f"ganvas favourites {source} {name} --out kept"


def is_seed(recipe: Recipe) -> bool:
    """Whether the recipe has only seed, class and truncation, so that `ganvas sample` can generate its image."""
    only = Recipe(seed=recipe.seed, label=recipe.label, truncation=recipe.truncation)
    return recipe == only and recipe.seed is not None and not isinstance(recipe.label, Mapping)


def ranges(seeds: Sequence[int]) -> str:
    """Seeds in order, in the format of parse_seeds: 0-9,42."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def favourites(loaded: Loaded, recipes: Sequence[Recipe]) -> str:
    """The content of a favourites file of these images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "favourites.json"
        Favourites(loaded.generator.hash, list(recipes), dict(loaded.directions)).save(path)
        return path.read_text(encoding="utf-8")
