"""provenance.py: what a picture's file says about itself, and reading it back."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ganvas import film
from ganvas.errors import PictureError, RunError
from ganvas.image_files import png_bytes, save_picture
from ganvas.provenance import KIND, SENTENCE, provenance, read_provenance
from ganvas.reporting import pictures
from ganvas.share import publish
from test_bombs import png

RECIPE = {"seed": 5, "label": "左 hand <b>", "truncation": 0.8}


def pixels(channels: int = 1, dtype: type = np.uint8) -> np.ndarray:
    return np.arange(5 * 7 * channels, dtype=dtype).reshape(5, 7, channels)


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_model_and_recipe_come_back_from_the_file(tmp_path: Path, ending: str, channels: int, dtype: type) -> None:
    path = tmp_path / f"a{ending}"
    save_picture(path, pixels(channels, dtype), provenance("abc123", RECIPE))
    assert read_provenance(path) == {"synthetic": True, "model": "abc123", "recipe": RECIPE}


def test_a_png_says_in_plain_words_and_in_xmp_that_it_is_synthetic(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(pixels(3), provenance("abc123", RECIPE)))
    with Image.open(path) as opened:
        opened.load()
        assert opened.text["Description"] == SENTENCE and opened.text["Software"] == "Ganvas"  # ty: ignore[missing-attribute]
        xmp = ElementTree.fromstring(opened.text["XML:com.adobe.xmp"])  # ty: ignore[missing-attribute]
    (described,) = xmp.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert described.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == KIND


def test_metadata_changes_no_pixel(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", pixels(3), provenance("abc123", RECIPE))
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(np.asarray(opened), pixels(3))


def test_other_pictures_have_no_provenance(tmp_path: Path) -> None:
    plain = tmp_path / "plain.png"
    save_picture(plain, pixels())
    assert read_provenance(plain) is None
    for text in ("no json", json.dumps([1]), json.dumps({"synthetic": "yes"}), "[" * 100_000):
        plain.write_bytes(png_bytes(pixels(), {"ganvas": text}))
        assert read_provenance(plain) is None
    Image.fromarray(pixels()[:, :, 0]).save(tmp_path / "a.jpg")
    assert read_provenance(tmp_path / "a.jpg") is None


@pytest.mark.parametrize("keep", [0, 20, -30])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(pixels(3), provenance("abc123", RECIPE))[:keep])
    with pytest.raises(PictureError, match=r"a\.png is not a readable image"):
        read_provenance(path)
    with pytest.raises(PictureError, match="not a readable image"):
        read_provenance(tmp_path / "nowhere.png")


def test_an_image_of_impossible_size_is_damaged_wherever_it_is_read(tmp_path: Path) -> None:
    """Pillow has an exception of its own for these, and reads formats that Ganvas does not write."""
    path = tmp_path / "a.png"
    path.write_bytes(png(60_000, 60_000, 8, 0))
    with pytest.raises(PictureError, match=r"a\.png is not a readable image"):
        read_provenance(path)
    with pytest.raises(RunError, match=r"the grid .*a\.png is damaged"):
        film.scene(path, 1)
    with pytest.raises(RunError, match=r"the grid .*a\.png is damaged"):
        pictures.opened_grid(path)
    assert pictures.embed(tmp_path, "a.png", 10**6) is None and publish.opened_member(tmp_path, "a.png") is None
    Image.fromarray(pixels()[:, :, 0]).save(path, "PPM")
    with pytest.raises(PictureError):
        read_provenance(path)
