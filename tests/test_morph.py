"""morph.py and what film.py writes for it: the way through recipes, and the film of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from architectures import MODERN
from ganvas import film
from ganvas.errors import ConfigError, MissingExtraError
from ganvas.explore import morph
from ganvas.explore.recipes import Direction, Mix, Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.models import MODELS
from ganvas.options import Frames
from ganvas.provenance import KIND, SENTENCE
from test_film import frames_of, needs_av
from test_generator import CLASSES, fresh

KEYS = [Recipe(seed=1), Recipe(seed=5, truncation=0.5), Recipe(seed=3)]


@pytest.fixture(scope="module")
def gan() -> Generator:
    return fresh(classes=CLASSES)


def pixels_of(gan: Generator, recipes: list[Recipe], directions: dict | None = None) -> np.ndarray:
    return to_pixels(gan.show(resolve(gan, recipes, directions)), gan.info.depth)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


# The way.


@given(st.integers(2, 9), st.integers(0, 100), st.booleans())
@settings(deadline=None)
def test_every_key_is_a_frame_and_the_way_between_is_smooth(num_keys: int, more: int, loop: bool) -> None:
    places = morph.way(num_keys, num_keys + more, loop)
    assert len(places) == num_keys + more and places[0] == 0
    assert set(range(num_keys)) <= set(places.tolist())
    assert (np.diff(places) > 0).all() and places[-1] < num_keys
    assert loop or places[-1] == num_keys - 1
    legs = np.bincount(places.astype(int), minlength=num_keys)[: num_keys if loop else num_keys - 1]
    assert legs.max() - legs.min() <= 1  # every leg takes as long


def test_the_way_comes_to_rest_at_the_keys() -> None:
    steps = np.diff(morph.way(3, 90, loop=True))
    assert steps[[0, 29, 30, 59, 60]].max() < 0.01 < 0.05 < steps[[15, 45, 75]].min()


@pytest.mark.parametrize("name", MODELS)
def test_a_loop_passes_its_keys_with_every_architecture(name: str) -> None:
    gan = fresh(name, CLASSES if name in MODERN else None, height=32, width=32)
    shown = list(morph.frames(gan, KEYS, 9))
    assert len(shown) == 9 and shown[0].shape == (32, 32, 1) and shown[0].dtype == np.uint8
    for frame, key in zip(shown[::3], pixels_of(gan, KEYS), strict=True):
        assert close(frame, key)
    between = np.abs(np.diff(np.stack([*shown, shown[0]]).astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (between > 0).all()
    far = np.abs(shown[0].astype(int) - shown[3].astype(int)).mean()
    assert between[:3].max() <= far * 1.5  # steps of a way, not leaps


def test_without_a_loop_the_last_key_is_the_last_frame(gan: Generator) -> None:
    shown = list(morph.frames(gan, KEYS, 130, loop=False))  # more than two batches
    first, _, last = pixels_of(gan, KEYS)
    assert len(shown) == 130 and close(shown[0], first) and close(shown[-1], last)


def test_ways_lead_through_mixtures_edits_and_classes(gan: Generator) -> None:
    push = {"push": Direction("push", tuple([0.5] * 8))}
    keys = [
        Recipe(seed=1, label="left"),
        Recipe(seed=1, label="right", mix=Mix(Recipe(seed=2), (0,))),
        Recipe(seed=2, edits={"push": 2.0}),
    ]
    shown = list(morph.frames(gan, keys, 12, directions=push))
    for frame, key in zip(shown[::4], pixels_of(gan, keys, push), strict=True):
        assert close(frame, key)


def test_sixteen_bits_stay(gan: Generator) -> None:
    deep = Generator(gan.network, dataclasses.replace(gan.info, depth=16), "cpu")
    assert next(morph.frames(deep, KEYS[:2], 4)).dtype == np.uint16


def test_what_is_no_way_is_refused_before_the_first_frame(gan: Generator) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        morph.frames(gan, KEYS[:1], 10)
    with pytest.raises(ConfigError, match="2 frames for 3 images"):
        morph.frames(gan, KEYS, 2)
    with pytest.raises(ConfigError, match="does not exist"):
        morph.frames(gan, [*KEYS, Recipe(seed=1, label="up")], 10)


# The film.


def colours(num: int = 10, channels: int = 3, dtype: type = np.uint8, height: int = 20, width: int = 30) -> list:
    top = np.iinfo(dtype).max
    return [np.full((height, width, channels), top * i // num, dtype) for i in range(num)]


@pytest.mark.parametrize("form", ["gif", "webp", pytest.param("mp4", marks=needs_av)])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16)])
def test_frames_come_back_in_their_order_and_size(tmp_path: Path, form: str, channels: int, dtype: type) -> None:
    path = film.write(iter(colours(10, channels, dtype)), tmp_path / "deep" / f"a.{form}", fps=20, enlarge=4)
    frames = frames_of(path)
    assert len(frames) == 10 and {frame.shape for frame in frames} == {(80, 120, 3)}
    for i, frame in enumerate(frames):
        assert frame.mean() == pytest.approx(255 * i / 10, abs=4)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("form", ["gif", "webp"])
@pytest.mark.parametrize("fps", [1, 24, 30, 50])
def test_a_film_lasts_as_long_as_its_frames(tmp_path: Path, form: str, fps: int) -> None:
    with Image.open(film.write(colours(25), tmp_path / f"a.{form}", fps=fps)) as opened:
        times = []
        for i in range(opened.n_frames):  # ty: ignore[missing-attribute]
            opened.seek(i)
            opened.load()
            times.append(opened.info["duration"])
        assert opened.info["loop"] == 0
    assert len(times) == 25 and sum(times) == pytest.approx(25_000 / fps, abs=10)
    assert max(times) - min(times) <= 10


@needs_av
def test_an_mp4_has_its_rate_and_needs_few_frames_in_memory(tmp_path: Path) -> None:
    import av

    given, most = [], 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal most
        for i in range(200):
            one = np.full((32, 32, 3), i, np.uint8)
            given.append(weakref.ref(one))
            most = max(most, sum(ref() is not None for ref in given))
            yield one

    path = film.write(frames(), tmp_path / "a.mp4", fps=25)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 25 and stream.frames == 200
        assert container.metadata["comment"] == SENTENCE
    assert most < 20


def test_small_pictures_are_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    checks = (np.indices((28, 14)).sum(axis=0) % 2 * 255).astype(np.uint8)[:, :, None]
    (first, *_) = frames_of(film.write([checks, 255 - checks], tmp_path / "a.gif", Frames(filter="nearest")))
    assert first.shape == (280, 140, 3)
    assert np.array_equal(first[::10, ::10, :1], checks) and np.array_equal(first[9::10, 9::10, :1], checks)
    (large, *_) = frames_of(film.write([np.zeros((300, 200, 1), np.uint8)] * 2, tmp_path / "b.gif"))
    assert large.shape == (300, 200, 3)


def test_films_say_that_they_are_synthetic(tmp_path: Path) -> None:
    with Image.open(film.write(colours(), tmp_path / "a.gif")) as opened:
        assert SENTENCE.encode() in opened.info["comment"]
    with Image.open(film.write(colours(), tmp_path / "a.webp")) as opened:
        assert KIND.encode() in opened.info["xmp"]


def test_a_gif_obeys_its_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (120, 120, 1), np.uint8) for _ in range(6)]
    large = film.write(noise, tmp_path / "a.gif", enlarge=1).stat().st_size
    small = film.write(noise, tmp_path / "b.gif", Frames(max_mb=large / 4e6), enlarge=1)
    assert small.stat().st_size <= large / 4 and len(frames_of(small)) == 6
    with pytest.raises(ConfigError, match="too small for 6 frames"):
        film.write(noise, tmp_path / "c.gif", Frames(max_mb=0.0001), enlarge=1)
    assert not (tmp_path / "c.gif").exists()


def never() -> Iterator[np.ndarray]:
    raise AssertionError("a frame was made for a film that cannot be")
    yield np.zeros((1, 1, 1), np.uint8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.avi", {}, r"a\.avi ends in \.avi: videos are written as \.gif, \.webp, \.mp4"),
        ("a", {}, "ends in nothing"),
        ("a.gif", {"fps": 51}, "--fps 51: expected up to 50"),
        ("a.gif", {"look": Frames(size="1080")}, "--size 1080: expected width x height"),
        ("a.gif", {"look": Frames(size="9000x9000")}, "16 to 7680"),
        ("a.gif", {"look": Frames(background="#12")}, "--background #12: expected a colour"),
    ],
)
def test_what_cannot_be_a_film_is_refused_first(tmp_path: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        film.write(never(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_no_frames_make_no_film(tmp_path: Path) -> None:
    for form in ["gif", "webp", *(["mp4"] if importlib.util.find_spec("av") else [])]:
        with pytest.raises(ConfigError, match="no frames"):
            film.write([], tmp_path / f"a.{form}")
    assert not list(tmp_path.iterdir())


def test_mp4_without_its_extra_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ganvas\[video\]'"):
        film.write(never(), tmp_path / "a.mp4")
