"""Recipes (all values needed to generate an image again) and favourites (a JSON file of recipes).

    {"seed": 5, "label": "Hand", "truncation": 0.8}
    {"seed": 5, "edits": {"smile": 1.5}}                                 directions, in standard deviations
    {"seed": 5, "mix": {"with": {"seed": 9}, "depths": [2, 3]}}          layers 2 and 3 from the second image
    {"seed": 5, "towards": {"to": {"seed": 9}, "share": 0.4}}            interpolation to another image
    {"code": [[0.1, -0.7, ...]], "label": "Hand"}                        a projected image: one row, or one per layer

Recipes can be nested. `label` is a class, class weights: {"Hand": 0.5, "Head": 0.5}, or conditions: "hair=red,age=60",
also with weights.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganvas import latent_codes
from ganvas.conditions import Conditions
from ganvas.errors import ConfigError
from ganvas.generator import Generator
from ganvas.latent_codes import Code
from ganvas.system import files

RECIPE_FORMAT = 1
MOST_NESTED = 20  # levels of nested recipes
_MOST_SEEDS = 10_000_000  # per text, so that a typing error does not fill the memory
LARGEST_NUMBER = 1e6  # of a latent, a class weight or an edit; usual values are about 1
LARGEST_SEED = 2**53 - 1  # largest integer that all JSON readers represent exactly


@dataclass(frozen=True)
class Direction:
    """An edit direction in latent space that changes one property.

    vector: (D,) one standard deviation. depths: the layers that it changes, None for all.
    source: description of its origin.
    """

    name: str
    vector: tuple[float, ...]
    depths: tuple[int, ...] | None = None
    source: str = ""


@dataclass(frozen=True)
class Mix:
    other: Recipe
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Towards:
    to: Recipe
    share: float
    """0: the image itself, 1: the other image."""


@dataclass(frozen=True)
class Slider:
    """How a number of a recipe changes an image. The studio shows a slider for it.

    neutral: the value without effect. ends: what the lowest and the highest value mean, perhaps empty.
    apply: (generator, codes of seeds (N), their labels as for `Generator.code`, value) -> codes (N).
    """

    title: str
    low: float
    high: float
    step: float
    neutral: float
    ends: tuple[str, str]
    apply: Callable[[Generator, Code, Tensor | None, float], Code]

    def field(self) -> Any:
        """A field of `Recipe` with this slider."""
        return field(default=self.neutral, metadata={"slider": self})


def _truncated(generator: Generator, code: Code, labels: Tensor | None, amount: float) -> Code:
    with torch.no_grad():
        return latent_codes.truncated(generator.network, code, labels, amount)


@dataclass(frozen=True)
class Recipe:
    """All values needed to generate one image again. Order: seed or code, truncation, edits, towards, mix."""

    seed: int | None = None
    code: tuple[tuple[float, ...], ...] | None = None
    """Instead of a seed: latents, one row for all layers or one per row; they include truncation."""
    label: str | Mapping[str, float] | None = None
    """Default: the class, or the combination of conditions, with index seed modulo their number."""
    truncation: float = Slider("Truncation", 0, 1, 0.05, 1.0, ("average image", "full diversity"), _truncated).field()
    edits: Mapping[str, float] = field(default_factory=dict)
    towards: Towards | None = None
    mix: Mix | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values without defaults."""
        values: dict[str, Any] = {}
        if self.seed is not None:
            values["seed"] = self.seed
        if self.code is not None:
            values["code"] = [list(row) for row in self.code]
        if self.label is not None:
            values["label"] = self.label if isinstance(self.label, str) else dict(self.label)
        amounts = {name: getattr(self, name) for name in SLIDERS}
        values |= {name: amount for name, amount in amounts.items() if amount != SLIDERS[name].neutral}
        if self.edits:
            values["edits"] = dict(self.edits)
        if self.towards is not None:
            values["towards"] = {"to": self.towards.to.to_dict(), "share": self.towards.share}
        if self.mix is not None:
            values["mix"] = {"with": self.mix.other.to_dict(), "depths": list(self.mix.depths)}
        return values

    @classmethod
    def from_dict(cls, values: Any, where: str = "the recipe", nested: int = 0) -> Recipe:
        """Read the output of `to_dict`. Raises ConfigError, with `where` in the message, for anything else."""
        if nested > MOST_NESTED:
            raise ConfigError(f"{where} nests more than {MOST_NESTED} recipes: save the image as a code instead")
        names = {one.name for one in dataclasses.fields(cls)}
        if not isinstance(values, dict) or (unknown := sorted(str(key) for key in values.keys() - names)):
            odd = f"the unknown field {unknown[0]!r}" if isinstance(values, dict) else "no fields"
            raise ConfigError(f"{where} has {odd}: expected some of {', '.join(sorted(names))}")
        parts: dict[str, Any] = {}
        try:
            if ("seed" in values) == ("code" in values):
                raise ConfigError(f"{where}: expected either a seed or a code")
            if "seed" in values:
                parts["seed"] = _whole(values["seed"], LARGEST_SEED)
            if "code" in values:
                parts["code"] = tuple(tuple(_number(x) for x in row) for row in values["code"])
            if "label" in values:
                label = values["label"]
                parts["label"] = label if isinstance(label, str) else {str(k): _number(v) for k, v in label.items()}
            parts |= {name: _number(values[name]) for name in SLIDERS if name in values}
            if "edits" in values:
                parts["edits"] = {str(name): _number(amount) for name, amount in values["edits"].items()}
            if "towards" in values:
                to, share = values["towards"]["to"], _number(values["towards"]["share"])
                parts["towards"] = Towards(cls.from_dict(to, where, nested + 1), share)
            if "mix" in values:
                other, depths = values["mix"]["with"], values["mix"]["depths"]
                parts["mix"] = Mix(cls.from_dict(other, where, nested + 1), tuple(_whole(one, 99) for one in depths))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{where} is not a recipe ({error!s:.200}): see `ganvas favourites --help`") from None
        return cls(**parts)

    def names(self) -> set[str]:
        """Names of the directions that the recipe uses."""
        names = set(self.edits)
        if self.towards is not None:
            names |= self.towards.to.names()
        if self.mix is not None:
            names |= self.mix.other.names()
        return names


SLIDERS: dict[str, Slider] = {
    one.name: one.metadata["slider"] for one in dataclasses.fields(Recipe) if "slider" in one.metadata
}
"""The fields of a recipe that have a slider."""


def _whole(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{value!r:.40} is not an integer from 0 to {most}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_NUMBER:
        raise ValueError(f"{value!r:.40} is not a number up to {LARGEST_NUMBER:,.0f}")
    return float(value)


def parse_seeds(text: str) -> list[int]:
    """Seeds in the order given: "7", "0-9", "3,1,100-199"."""
    seeds: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9]{1,16})(?:-([0-9]{1,16}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last > LARGEST_SEED or len(seeds) + last - first >= _MOST_SEEDS:
            raise ConfigError(f"seeds {text!r}: expected numbers and ranges such as 0-9,42")
        seeds += range(first, last + 1)
    return seeds


def parse_depths(text: str, num_depths: int) -> tuple[int, ...]:
    """Layers of a network: "0-2", "3,4", or coarse, middle, fine, all."""
    thirds = {"coarse": (0, 1), "middle": (1, 2), "fine": (2, 3), "all": (0, 3)}
    if text in thirds:
        start, end = (round(num_depths * part / 3) for part in thirds[text])
        return tuple(range(start, end)) or (min(start, num_depths - 1),)
    try:
        depths = tuple(dict.fromkeys(parse_seeds(text)))
    except ConfigError:
        depths = (num_depths,)
    if max(depths) >= num_depths:
        raise ConfigError(
            f"depths {text!r}: expected coarse, middle, fine, all, or numbers from 0 to {num_depths - 1} such as 0-1"
        )
    return depths


# -- recipes to latent codes --


def resolve(generator: Generator, recipes: Sequence[Recipe], directions: Mapping[str, Direction] | None = None) -> Code:
    """The latent codes of recipes, on the device of the generator. Raises ConfigError for recipes of other models."""
    code = _starts(generator, recipes)
    network = generator.network
    for i, recipe in enumerate(recipes):
        for name, amount in recipe.edits.items():
            direction = (directions or {}).get(name)
            if direction is None:
                known = ", ".join(directions or {}) or "none; run `ganvas directions` to find directions"
                raise ConfigError(f"direction {name!r} does not exist: this model has {known}")
            code.latents[i] += amount * _moved(generator, direction)
    with_goal = [(i, recipe.towards) for i, recipe in enumerate(recipes) if recipe.towards is not None]
    if with_goal:
        rows = [i for i, _ in with_goal]
        goals = resolve(generator, [towards.to for _, towards in with_goal], directions)
        shares = torch.tensor([towards.share for _, towards in with_goal], device=generator.device)
        _replace(code, rows, latent_codes.between(network, code[rows], goals, shares))
    mixed = [(i, recipe.mix) for i, recipe in enumerate(recipes) if recipe.mix is not None]
    if mixed:
        others = resolve(generator, [mix.other for _, mix in mixed], directions)
        for place, (i, mix) in enumerate(mixed):
            if not mix.depths or max(mix.depths) >= generator.num_depths:
                asked = ", ".join(map(str, mix.depths)) or "none"
                raise ConfigError(f"depths {asked}: this model has layers 0 to {generator.num_depths - 1}")
            _replace(code, [i], latent_codes.mix(network, code[[i]], others[[place]], mix.depths))
    return code


def _starts(generator: Generator, recipes: Sequence[Recipe]) -> Code:
    """(N) latent codes from seeds or codes, with labels; those of seeds with what the sliders change."""
    config = generator.info.config
    weights = None
    if config.label_size:
        weights = torch.stack([_label_weights(generator, recipe) for recipe in recipes]).to(generator.device)
    elif named := [recipe.label for recipe in recipes if recipe.label is not None]:
        raise ConfigError(f"label {named[0]!r}: this model was trained without labels")
    z = generator.latents([recipe.seed or 0 for recipe in recipes])
    code = generator.code(z, weights)
    for name, slider in SLIDERS.items():
        _slide(generator, code, weights, name, slider, [getattr(recipe, name) for recipe in recipes])
    num_rows, dim = code.latents.shape[1:]
    for i, recipe in enumerate(recipes):
        if recipe.code is None:
            continue
        if len(recipe.code) not in (1, num_rows) or any(len(row) != dim for row in recipe.code):
            raise ConfigError(
                f"the code has {len(recipe.code)} rows, the first with {len(recipe.code[0]) if recipe.code else 0} "
                f"numbers; this model expects 1 or {num_rows} rows of {dim}: the code is from another model"
            )
        code.latents[i] = torch.tensor(recipe.code, device=generator.device)
    return code


def _slide(
    generator: Generator, code: Code, labels: Tensor | None, name: str, slider: Slider, amounts: Sequence[float]
) -> None:
    """Change each code (N) by the amount of one slider."""
    for amount in set(amounts):
        if not slider.low <= amount <= slider.high:
            low, high = (f"{end:g} ({mean})" for end, mean in zip((slider.low, slider.high), slider.ends, strict=True))
            raise ConfigError(f"{name} {amount:g}: expected a number from {low} to {high}")
        if amount != slider.neutral:
            rows = [i for i, one in enumerate(amounts) if one == amount]
            _replace(code, rows, slider.apply(generator, code[rows], None if labels is None else labels[rows], amount))


def _label_weights(generator: Generator, recipe: Recipe) -> Tensor:
    """Class weights (num_classes,) or vector of conditions (num_conditions,) of a recipe."""
    schema = generator.info.conditions
    if schema is not None:
        mixed = recipe.label if isinstance(recipe.label, Mapping) else {recipe.label: 1.0}
        vectors = [weight * schema.vectors(given, [recipe.seed or 0])[0] for given, weight in mixed.items()]
        return torch.from_numpy(np.sum(vectors, axis=0, dtype=np.float32))
    num = generator.info.config.num_classes
    weights = torch.zeros(num)
    if recipe.label is None:
        weights[(recipe.seed or 0) % num] = 1
    elif isinstance(recipe.label, str):
        weights[generator.label_index(recipe.label)] = 1
    else:
        for name, weight in recipe.label.items():
            weights[generator.label_index(name)] = weight
    return weights


def _moved(generator: Generator, direction: Direction) -> Tensor:
    """(rows, D) change of a latent code by one standard deviation of the direction."""
    dim = generator.info.config.z_dim
    if len(direction.vector) != dim:
        raise ConfigError(
            f"direction {direction.name!r} has {len(direction.vector)} numbers, this model expects {dim}: "
            "the direction is from another model"
        )
    if direction.depths is not None and max(direction.depths, default=0) >= generator.num_depths:
        raise ConfigError(
            f"direction {direction.name!r} changes layer {max(direction.depths)}: this model has layers 0 to "
            f"{generator.num_depths - 1}"
        )
    num_rows = latent_codes.row_slice(generator.network, generator.num_depths - 1) + 1
    added = torch.zeros(num_rows, dim, device=generator.device)
    rows = (
        range(num_rows)
        if direction.depths is None
        else [latent_codes.row_slice(generator.network, d) for d in direction.depths]
    )
    added[list(rows)] = torch.tensor(direction.vector, device=generator.device)
    return added


def _replace(code: Code, rows: Sequence[int], other: Code) -> None:
    code.latents[rows] = other.latents
    if code.labels is not None and other.labels is not None:
        code.labels[rows] = other.labels


def as_recipe(code: Code, classes: Sequence[str], conditions: Conditions | None = None) -> Recipe:
    """The recipe of one latent code (1, rows, D), as numbers without a seed.

    Raises ConfigError if its rows have different classes, which a recipe with a code cannot represent.
    """
    latents = code.latents[0].detach().cpu()
    rows = latents[:1] if bool((latents == latents[:1]).all()) else latents
    label: str | dict[str, float] | None = None
    if code.labels is not None:
        if bool((code.labels[0] != code.labels[0, :1]).any()):
            raise ConfigError(
                "a mixture of two classes cannot be saved as a code: save the recipe of the mixture instead"
            )
        weights = code.labels[0, 0].cpu()
        if conditions is not None:
            label = conditions.text(weights.numpy())
        else:
            label = {classes[i]: weight for i, weight in enumerate(weights.tolist()) if weight}
    return Recipe(code=tuple(tuple(row) for row in rows.tolist()), label=label)


# -- favourites --


@dataclass
class Favourites:
    """Favourite images of one model with the directions that they use; a JSON file.

    model: hash of the weights of the generator, or of the first one if it was averaged again.
    """

    model: str
    recipes: list[Recipe] = field(default_factory=list)
    directions: dict[str, Direction] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    """One name per recipe; "" for none."""

    @classmethod
    def read(cls, path: Path, generator: Generator) -> Favourites:
        """Read a favourites file. Raises ConfigError if it is invalid or belongs to another model."""
        if not path.exists():
            raise ConfigError(f"{path} does not exist: save images in the studio, or with `ganvas favourites --keep`")
        try:
            with files.explained(path):
                values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise ConfigError(
                f"{path} is damaged or not a favourites file: restore it, or save the favourites again"
            ) from None
        if not isinstance(values, dict) or values.get("ganvas") != "favourites":
            raise ConfigError(f"{path} is not a favourites file written by Ganvas")
        if values.get("format") != RECIPE_FORMAT:
            raise ConfigError(f"{path} has format {values.get('format')}; this version of Ganvas reads {RECIPE_FORMAT}")
        if values.get("model") != generator.hash:
            raise ConfigError(
                f"{path} belongs to the model {str(values.get('model'))[:12]}, not to {generator.hash[:12]}: "
                "its images would look different; load that model"
            )
        try:
            entries = [
                (Recipe.from_dict(one["recipe"], str(path)), str(one.get("name", ""))) for one in values["pictures"]
            ]
            directions = {name: direction_of(name, one) for name, one in values.get("directions", {}).items()}
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ConfigError(f"{path} is damaged ({error}): restore it, or save the favourites again") from None
        return cls(generator.hash, [recipe for recipe, _ in entries], directions, [name for _, name in entries])

    def save(self, path: Path) -> None:
        names = self.names or [""] * len(self.recipes)
        images = [
            {"recipe": recipe.to_dict()} | ({"name": name} if name else {})
            for recipe, name in zip(self.recipes, names, strict=True)
        ]
        needed = set().union(*(recipe.names() for recipe in self.recipes))
        files.write_json(
            path,
            {
                "ganvas": "favourites",
                "format": RECIPE_FORMAT,
                "model": self.model,
                "directions": {name: direction_values(one) for name, one in self.directions.items() if name in needed},
                "pictures": images,
            },
        )


def direction_values(direction: Direction) -> dict[str, Any]:
    values = dataclasses.asdict(direction)
    del values["name"]
    return values


def direction_of(name: str, values: Mapping[str, Any]) -> Direction:
    depths = values.get("depths")
    return Direction(
        name,
        tuple(_number(x) for x in values["vector"]),
        None if depths is None else tuple(_whole(one, 99) for one in depths),
        str(values.get("source", "")),
    )
