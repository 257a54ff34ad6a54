"""recipes.py: recipes as plain values, what they become, seeds and depths in words, and favourites."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from architectures import MODERN
from ganvas import latent_codes
from ganvas.errors import ConfigError
from ganvas.explore.recipes import (
    LARGEST_NUMBER,
    LARGEST_SEED,
    MOST_NESTED,
    Direction,
    Favourites,
    Mix,
    Recipe,
    Towards,
    as_recipe,
    parse_depths,
    parse_seeds,
    resolve,
)
from ganvas.generator import Generator
from ganvas.models import MODELS
from test_generator import CLASSES, SAME, fresh

finite = st.floats(-LARGEST_NUMBER, LARGEST_NUMBER)
names = st.text(max_size=8)


def recipes(inner: st.SearchStrategy[Recipe] | None = None) -> st.SearchStrategy[Recipe]:
    """Any recipe; `inner` are those that it may name."""
    sources = st.one_of(
        st.fixed_dictionaries({"seed": st.integers(0, LARGEST_SEED)}),
        st.fixed_dictionaries(
            {"code": st.lists(st.lists(finite, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple)}
        ),
    )
    rest = {
        "label": st.one_of(st.none(), names, st.dictionaries(names, finite, max_size=3)),
        "truncation": finite,
        "edits": st.dictionaries(names, finite, max_size=3),
    }
    if inner is not None:
        rest["towards"] = st.one_of(st.none(), st.builds(Towards, inner, finite))
        rest["mix"] = st.one_of(st.none(), st.builds(Mix, inner, st.lists(st.integers(0, 99), max_size=4).map(tuple)))
    return st.builds(lambda source, rest: Recipe(**source, **rest), sources, st.fixed_dictionaries(rest))


nested = st.recursive(recipes(), recipes, max_leaves=6)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from([f.name for f in dataclasses.fields(Recipe)]), names), inner),
        st.fixed_dictionaries({"seed": inner, "mix": st.fixed_dictionaries({"with": inner, "depths": inner})}),
        st.fixed_dictionaries({"seed": inner, "towards": st.fixed_dictionaries({"to": inner, "share": inner})}),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def labelled() -> Generator:
    return fresh(classes=CLASSES)


# Plain values.


@given(nested)
@settings(deadline=None)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@given(anything)
@settings(deadline=None)
def test_whatever_comes_is_a_recipe_or_refused(values: object) -> None:
    try:
        recipe = Recipe.from_dict(values)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_defaults_are_left_out() -> None:
    assert Recipe(seed=5).to_dict() == {"seed": 5}
    assert Recipe(seed=0, label="a", truncation=0.5).to_dict() == {"seed": 0, "label": "a", "truncation": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no fields"),
        ({"seed": 1, "sed": 2}, "unknown field 'sed'"),
        ({}, "either a seed or a code"),
        ({"seed": 1, "code": [[1.0]]}, "either a seed or a code"),
        ({"seed": -1}, "-1 is not an integer"),
        ({"seed": True}, "True is not an integer"),
        ({"seed": [1] * 100_000}, r"\(\[1, 1[1, ]{32,36} is not an integer"),
        ({"seed": 1.0}, "1.0 is not an integer"),
        ({"seed": LARGEST_SEED + 1}, "not an integer"),
        ({"code": [[float("nan")]]}, "nan is not a number up to"),
        ({"code": 3}, "not a recipe"),
        ({"seed": 1, "label": 3}, "not a recipe"),
        ({"seed": 1, "truncation": 10**400}, "not a number up to"),
        ({"seed": 1, "mix": {"with": {"seed": 2}}}, "not a recipe .'depths'"),
        ({"seed": 1, "mix": {"with": {}, "depths": [0]}}, "either a seed or a code"),
        ({"seed": 1, "towards": {"to": {"seed": 2}, "share": "half"}}, "'half' is not a number up to"),
    ],
)
def test_what_is_no_recipe_is_refused_by_its_place(values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"the file.*{message}"):
        Recipe.from_dict(values, "the file")


def test_recipes_nest_only_so_deep() -> None:
    values: dict = {"seed": 0}
    for _ in range(MOST_NESTED):
        values = {"seed": 0, "towards": {"to": values, "share": 0.5}}
    assert Recipe.from_dict(values).towards is not None
    with pytest.raises(ConfigError, match=f"more than {MOST_NESTED} recipes"):
        Recipe.from_dict({"seed": 0, "mix": {"with": values, "depths": [0]}})


def test_directions_that_a_recipe_needs_are_found_at_any_depth() -> None:
    inner = Recipe(seed=1, edits={"smile": 1.0})
    other = Recipe(seed=2, edits={"age": 1.0}, towards=Towards(inner, 0.5))
    assert Recipe(seed=3, mix=Mix(other, (0,)), edits={"hair": 2.0}).names() == {"smile", "age", "hair"}


# What recipes become.


@pytest.mark.parametrize("name", MODELS)
def test_recipes_make_pictures_with_every_architecture(name: str) -> None:
    gan = fresh(name, CLASSES if name in MODERN else None, height=32, width=32)
    last = gan.num_depths - 1
    push = Direction("push", tuple([0.5] * 8))
    plain = Recipe(seed=4, truncation=0.7)
    found = [
        plain,
        Recipe(seed=4, truncation=0.7, edits={"push": 1.0}),
        Recipe(seed=4, truncation=0.7, towards=Towards(Recipe(seed=9), 0.5)),
        Recipe(seed=4, truncation=0.7, mix=Mix(Recipe(seed=9), (last,))),
        Recipe(seed=9),
    ]
    pictures = gan.show(resolve(gan, found, {"push": push}))
    torch.testing.assert_close(pictures[:1], gan.sample(1, seed=4, truncation=0.7), rtol=0, atol=SAME)
    torch.testing.assert_close(pictures[4:], gan.sample(1, seed=9), rtol=0, atol=SAME)
    for changed in pictures[1:4]:
        assert (changed - pictures[0]).abs().max() > 1e-3
    # A latent that was saved instead of its seed is the same image.
    # (A mixture of two classes is only where the code knows the classes: see the test below.)
    rows = [0, 1, 2, 4] if name in MODERN and not latent_codes.has_styles(gan.network) else list(range(5))
    kept = [as_recipe(resolve(gan, [found[i]], {"push": push}), gan.classes) for i in rows]
    again = gan.show(resolve(gan, [Recipe.from_dict(json.loads(json.dumps(one.to_dict()))) for one in kept]))
    torch.testing.assert_close(again, pictures[rows], rtol=0, atol=1e-3)


def test_the_order_is_truncation_edits_towards_mix(labelled: Generator) -> None:
    push = Direction("push", tuple([1.0] + [0.0] * 7))
    z = labelled.latents([4, 9])
    recipe = Recipe(seed=4, truncation=0.5, edits={"push": 2.0}, towards=Towards(Recipe(seed=9), 0.0))
    code = resolve(labelled, [recipe], {"push": push})
    expected = 0.5 * z[0] + 2 * torch.tensor(push.vector)
    torch.testing.assert_close(code.latents[0, 0], expected)
    there = dataclasses.replace(recipe, towards=Towards(Recipe(seed=9), 1.0), mix=Mix(Recipe(seed=4), (0,)))
    code = resolve(labelled, [there], {"push": push})
    torch.testing.assert_close(code.latents[0, 0], z[1])  # neither truncated nor edited: those belong to the first
    torch.testing.assert_close(code.latents[0, 1], z[0])  # the mixture comes last


def test_a_direction_moves_its_depths_alone() -> None:
    for name in MODERN:
        gan = fresh(name)
        push = Direction("push", tuple([1.0] * 8), (gan.num_depths - 1,))
        before, after = (resolve(gan, [Recipe(seed=1, edits={"push": x})], {"push": push}) for x in (0.0, 2.0))
        moved = (after.latents - before.latents).abs().amax(dim=2)[0]
        assert moved[-1] == pytest.approx(2, abs=1e-5) and not moved[:-1].any()


def test_weights_of_classes(labelled: Generator) -> None:
    code = resolve(
        labelled, [Recipe(seed=1, label={"left": 0.25, "7": 0.75}), Recipe(seed=1), Recipe(seed=1, label="7")]
    )
    assert code.labels is not None
    assert code.labels[:, 0].tolist() == [[0.25, 0, 0.75], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(seed=1, label="up"), "'up' does not exist.*left, right, 7"),
        (Recipe(seed=1, label={"up": 1.0}), "'up' does not exist"),
        (Recipe(seed=1, truncation=1.5), "truncation 1.5"),
        (Recipe(seed=1, edits={"smile": 1.0}), "direction 'smile' does not exist: this model has push, other, deep"),
        (Recipe(seed=1, edits={"deep": 1.0}), "direction 'deep' changes layer 50: this model has layers 0 to 1"),
        (Recipe(seed=1, edits={"other": 1.0}), "direction 'other' has 3 numbers, this model expects 8"),
        (Recipe(code=((1.0,) * 7,)), "first with 7 numbers; this model expects 1 or 3 rows of 8"),
        (Recipe(code=()), "the code has 0 rows"),
        (Recipe(seed=1, mix=Mix(Recipe(seed=2), (2,))), "depths 2: this model has layers 0 to 1"),
        (Recipe(seed=1, mix=Mix(Recipe(seed=2), ())), "depths none"),
        (Recipe(seed=1, mix=Mix(Recipe(seed=2, label="up"), (0,))), "'up' does not exist"),
    ],
)
def test_recipes_that_do_not_fit_the_model_are_refused(recipe: Recipe, message: str) -> None:
    gan = fresh(classes=CLASSES, height=32, width=32)
    known = {"push": Direction("push", (0.0,) * 8), "other": Direction("other", (0.0,) * 3)}
    known["deep"] = Direction("deep", (0.0,) * 8, depths=(50,))
    with pytest.raises(ConfigError, match=message):
        resolve(gan, [Recipe(seed=0), recipe], known)


def test_labels_of_a_model_without_any_are_refused() -> None:
    with pytest.raises(ConfigError, match="trained without labels"):
        resolve(fresh(), [Recipe(seed=0), Recipe(seed=1, label="left")])


# Seeds and depths in words.


@given(st.lists(st.tuples(st.integers(0, LARGEST_SEED - 50), st.integers(0, 50)), min_size=1, max_size=5))
@settings(deadline=None)
def test_seeds_come_in_the_order_given(parts: list[tuple[int, int]]) -> None:
    text = ", ".join(f"{first}-{first + more}" if more else str(first) for first, more in parts)
    assert parse_seeds(text) == [first + i for first, more in parts for i in range(more + 1)]


@given(st.text(alphabet="0123456789-, x.", max_size=8))
@settings(max_examples=300, deadline=None)
def test_seeds_are_read_or_refused(text: str) -> None:
    try:
        assert parse_seeds(text)
    except ConfigError as error:
        assert "such as 0-9,42" in str(error)


@pytest.mark.parametrize("text", ["", "5-3", "1,,2", "-1", "1.5", "٣", "0x1", "1e3", "0-99999999999", "9" * 17])
def test_what_is_no_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected numbers and ranges"):
        parse_seeds(text)


def test_many_ranges_do_not_fill_the_memory() -> None:
    with pytest.raises(ConfigError, match="expected numbers and ranges"):
        parse_seeds(",".join(["0-99999999"] * 50))


@given(st.integers(1, 12))
@settings(deadline=None)
def test_thirds_cover_all_depths(num: int) -> None:
    parts = [parse_depths(word, num) for word in ("coarse", "middle", "fine")]
    assert set().union(*parts) == set(range(num)) and all(parts)
    assert parse_depths("all", num) == tuple(range(num))
    assert parse_depths(f"0-{num - 1},0", num) == tuple(range(num))
    for wrong in (str(num), "finest", "", "0-99"):
        with pytest.raises(ConfigError, match=f"numbers from 0 to {num - 1}"):
            parse_depths(wrong, num)


# Favourites.


@given(st.lists(nested, max_size=3), st.data())
@settings(max_examples=40, deadline=None)
def test_favourites_survive_their_file(tmp_path_factory: pytest.TempPathFactory, kept: list[Recipe], data) -> None:
    gan = GAN
    path = tmp_path_factory.mktemp("favourites") / "kept.json"
    needed = sorted(set().union(*(one.names() for one in kept)))
    directions = {name: Direction(name, (0.5, -1.25), (0,), "made up") for name in needed}
    called = data.draw(st.lists(names, min_size=len(kept), max_size=len(kept)))
    Favourites(gan.hash, kept, directions | {"unused": Direction("unused", (1.0,))}, called).save(path)
    back = Favourites.read(path, gan)
    assert (back.recipes, back.directions, back.names) == (kept, directions, called)


GAN = fresh()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or not a favourites"),
        (b"\xff\xfe", "damaged or not a favourites"),
        (b"[" * 100_000, "damaged or not a favourites"),
        (b"[]", "not a favourites file"),
        (b'{"ganvas": "directions"}', "not a favourites file"),
        (b'{"ganvas": "favourites", "format": 99}', "format 99; this version"),
        (
            b'{"ganvas": "favourites", "format": 1, "model": "0123456789abcdef"}',
            "belongs to the model 0123456789ab, not",
        ),
        ({"pictures": 3}, "damaged"),
        ({"pictures": [{}]}, "damaged"),
        ({"pictures": [{"recipe": {"seed": -1}}]}, "not a recipe"),
        ({"pictures": [], "directions": {"a": {"vector": ["x"]}}}, "damaged"),
        ({"pictures": [], "directions": [1]}, "damaged"),
        ({"pictures": [{"recipe": {"seed": 1, "label": {"left": 1e308}}}]}, "is not a number up to 1,000,000"),
        ({"pictures": [{"recipe": {"code": [[1e308] * 8]}}]}, "is not a number up to 1,000,000"),
    ],
)
def test_what_are_no_favourites_of_this_model_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "kept.json"
    if isinstance(content, dict):
        content = json.dumps({"ganvas": "favourites", "format": 1, "model": GAN.hash} | content).encode()
    assert isinstance(content, bytes)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"kept\.json.*{message}"):
        Favourites.read(path, GAN)
    with pytest.raises(ConfigError, match="does not exist"):
        Favourites.read(tmp_path / "none.json", GAN)


def test_favourites_are_made_again_as_they_were(tmp_path: Path) -> None:
    push = {"push": Direction("push", tuple([0.5] * 8))}
    kept = [Recipe(seed=3, truncation=0.8), Recipe(seed=4, edits={"push": 2.0})]
    before = GAN.show(resolve(GAN, kept, push))
    Favourites(GAN.hash, kept, push).save(tmp_path / "kept.json")
    back = Favourites.read(tmp_path / "kept.json", GAN)
    assert torch.equal(GAN.show(resolve(GAN, back.recipes, back.directions)), before)
    assert back.names == ["", ""]


def test_a_mixture_of_two_classes_is_no_plain_code() -> None:
    gan = fresh(classes=CLASSES)
    mixture = Recipe(1, label="left", mix=Mix(Recipe(2, label="right"), (0,)))
    with pytest.raises(ConfigError, match="mixture of two classes"):
        as_recipe(resolve(gan, [mixture]), gan.classes)
    alone = Recipe(1, label="left", mix=Mix(Recipe(2, label="left"), (0,)))
    again = as_recipe(resolve(gan, [alone]), gan.classes)
    torch.testing.assert_close(gan.show(resolve(gan, [again])), gan.show(resolve(gan, [alone])), rtol=0, atol=SAME)
