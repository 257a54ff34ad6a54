"""Burned-in marks: letters at varying places are found, counted, compared and filled in; ordinary content is none."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ganvas.data.inspection.marks import Mark, _overlap, find, marks, share, spots, without
from planted import landscapes

FONT = ImageFont.load_default(22)


def films(num: int, seed: int = 0) -> np.ndarray:
    """(num, 160, 128, 1) uint8: soft gray images without a mark."""
    small = landscapes(num, 40, 1, seed)[..., 0]
    soft = [Image.fromarray(picture // 2).resize((128, 160), Image.Resampling.BICUBIC) for picture in small]
    return np.stack([np.asarray(picture) for picture in soft])[..., None]


def marked(pictures: np.ndarray, letter: str, carriers: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Writes the letter into the left of some images, at a place of its own in each; returns the places as well."""
    rng = np.random.default_rng(seed)
    pictures, places = pictures.copy(), rng.integers((8, 5), (110, 25), (len(pictures), 2))
    for i in carriers:
        canvas = Image.fromarray(pictures[i, ..., 0])
        ImageDraw.Draw(canvas).text((int(places[i, 1]), int(places[i, 0])), letter, 250, FONT)
        pictures[i, ..., 0] = np.asarray(canvas)
    return pictures, places


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """100 films of which the first 40 carry an R, and where."""
    return marked(films(100), "R", np.arange(40))


@pytest.fixture(scope="module")
def letter(planted) -> Mark:
    (mark,) = marks(planted[0])
    return mark


def test_a_letter_at_varying_places_is_found(planted, letter):
    _, places = planted
    assert letter.bright and set(letter.places) <= set(range(40)) and len(letter.places) >= 36
    assert letter.share == len(letter.places) / 100
    for i, (top, left, height, width) in letter.places.items():
        assert abs((top + height / 2) * 160 - (places[i, 0] + 14)) < 7
        assert abs((left + width / 2) * 128 - (places[i, 1] + 8)) < 7
        assert 10 <= height * 160 <= 22 and 8 <= width * 128 <= 20
    assert letter.box[1] < 1 / 3


def test_the_share_of_other_pictures_is_told(letter):
    clean = films(40, seed=5)
    assert share(letter, clean) <= 0.05
    assert share(letter, marked(clean, "R", np.arange(0, 40, 2))[0]) >= 0.45
    assert share(letter, marked(clean, "I", np.arange(40))[0]) <= 0.05
    assert share(letter, np.repeat(marked(clean, "R", np.arange(40))[0], 3, axis=3)) >= 0.9  # gray or colour


def test_sixteen_bits_and_dark_marks_are_found_too(planted, letter):
    deep = planted[0].astype(np.uint16) * 257
    assert marks(deep)[0].places.keys() == letter.places.keys()
    (dark,) = marks(255 - planted[0])
    assert not dark.bright and len(dark.places) >= 36


def test_two_marks_are_two_and_the_more_frequent_comes_first():
    both = marked(marked(films(100), "R", np.arange(50))[0], "E", np.arange(50, 75), seed=1)[0]
    first, second = marks(both)
    assert set(first.places) <= set(range(50)) and set(second.places) <= set(range(50, 75))
    assert len(first.places) >= 45 and len(second.places) >= 20


def test_marks_at_the_same_places_in_most_images_are_one():
    places = dict.fromkeys(range(4), (10, 10, 5, 5))
    hole = (12, 12, 2, 2)
    assert _overlap(places, dict.fromkeys(range(3), hole) | {3: (40, 10, 2, 2)})
    assert not _overlap(places, dict.fromkeys(range(2), hole))  # half of them are not most
    assert not _overlap(places, dict.fromkeys(range(4), (15, 12, 2, 2)))  # below, at the border


def test_pictures_without_marks_have_none():
    assert marks(films(100)) == []
    assert marks(np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)) == []
    assert marks(np.full((30, 32, 32, 1), 77, np.uint8)) == []


def test_blobs_strokes_and_rare_letters_are_no_marks():
    dots = films(100)
    for i in range(60):
        dots[i, 20 + i : 28 + i, 12:20] = 250
    assert marks(dots) == []
    assert marks(marked(films(100), "I", np.arange(60))[0]) == []
    assert marks(marked(films(200), "R", np.arange(3))[0]) == []
    assert len(marks(marked(films(200), "R", np.arange(16))[0])) == 1


def test_soft_anatomy_is_no_mark():
    """The same blurred ring in every image: alike, but nothing that was burned in has such edges."""
    rows, columns = np.indices((24, 24)) - 11.5
    ring = 120 * np.exp(-((np.hypot(rows, columns) - 6) ** 2) / 8)
    pictures, places = films(60).astype(np.float32), np.random.default_rng(0).integers(5, 30, (60, 2))
    for picture, (top, left) in zip(pictures, places, strict=True):
        picture[top : top + 24, left : left + 24, 0] += ring
    assert marks(pictures.astype(np.uint8)) == []


def test_a_filled_mark_is_gone_and_the_rest_untouched(planted, letter):
    pictures, places = planted
    clean = films(100)
    filled = [without(letter, picture) for picture in pictures]
    assert {i for i in range(100) if filled[i] is not None} == set(letter.places)
    for i in letter.places:
        changed = (filled[i] != pictures[i]).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert places[i, 0] - 5 <= rows[0] and rows[-1] <= places[i, 0] + 32
        assert places[i, 1] - 8 <= columns[0] and columns[-1] <= places[i, 1] + 26
        assert np.abs(filled[i].astype(int) - clean[i]).max() < 60  # the letter stood out by 120 and more
        steps = max(np.abs(np.diff(filled[i].astype(int), axis=axis)).max() for axis in (0, 1))
        assert steps <= 40 and find(letter, filled[i]) is None
    after = [pictures[i] if fill is None else fill for i, fill in enumerate(filled)]
    assert marks(np.stack(after)) == []


@pytest.mark.parametrize(("left", "top"), [(1, 60), (109, 60), (50, -4), (50, 132)])
def test_a_mark_near_the_border_is_filled(letter, left, top):
    """One side has no neighbour to be filled from."""
    canvas = Image.fromarray(films(1)[0, ..., 0])
    ImageDraw.Draw(canvas).text((left, top), "R", 250, FONT)
    filled = without(letter, np.asarray(canvas)[..., None])
    assert filled is not None and filled.max() < 180


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_is_continued_through_the_mark(letter, axis):
    """From all four sides."""
    ramp = np.indices((160, 128))[axis] * 0.7 + 10
    canvas = Image.fromarray(ramp.astype(np.uint8))
    ImageDraw.Draw(canvas).text((50, 100), "R", 250, FONT)
    filled = without(letter, np.asarray(canvas)[..., None])
    assert filled is not None and np.abs(filled[..., 0] - ramp).max() < 3


def test_spots_are_few(planted):
    assert max(len(spots(picture)) for picture in planted[0]) <= 12


def test_the_marks_of_chest_films(shared_data):
    """Most of them carry a burned-in R at the patient's right, and nothing else is a mark."""
    pictures = []
    with zipfile.ZipFile(shared_data / "chest_xray" / "chest_xray_normal_300.zip") as archive:
        for name in [name for name in archive.namelist() if name.endswith(".jpeg")][:40]:
            pictures.append(np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L").resize((256, 256))))
    found = marks(np.stack(pictures)[..., None])
    assert len(found) == 1 and found[0].bright and found[0].share > 0.8
    assert found[0].box[1] + found[0].box[3] < 0.25  # the left of the image
