"""What a set is by its pixels: gray in files of colour, few bits in files of 16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ganvas
from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.checkup import check
from ganvas.data.packing import selection
from ganvas.data.reading.decode import probe
from ganvas.errors import ConfigError


def blobs(number: int, channels: int = 1, size: int = 24) -> np.ndarray:
    """(size, size[, channels]) uint8, soft and different for each number, over the whole range."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (4, 4, channels), np.uint8)
    planes = [np.asarray(Image.fromarray(coarse[..., c]).resize((size, size))) for c in range(channels)]
    pixels = np.stack(planes, axis=2).astype(float)
    pixels = (pixels - pixels.min()) / np.ptp(pixels) * 255
    return np.uint8(pixels.squeeze())


def write(folder: Path, number: int, save: Callable[[int, str], None]) -> Path:
    folder.mkdir()
    for i in range(number):
        save(i, f"{folder}/{i:03}")
    return folder


GRAY_IN_COLOUR = {
    "rgb jpeg": lambda i, path: Image.fromarray(blobs(i)).convert("RGB").save(path + ".jpg", quality=80),
    "rgba png": lambda i, path: Image.fromarray(blobs(i)).convert("RGBA").save(path + ".png"),
    "one of many is rgba": lambda i, path: Image.fromarray(blobs(i)).convert("L" if i else "RGBA").save(path + ".png"),
    "palette": lambda i, path: Image.fromarray(blobs(i)).convert("RGB").quantize(64).save(path + ".png"),
    "cmyk tiff": lambda i, path: Image.fromarray(blobs(i)).convert("CMYK").save(path + ".tif"),
}


@pytest.mark.parametrize("form", GRAY_IN_COLOUR)
def test_pixels_decide_what_is_gray(form, tmp_path):
    folder = write(tmp_path / "films", 12, GRAY_IN_COLOUR[form])
    pack = open_pack(folder)
    assert (pack.channels, pack.kind, pack.mirror) == (1, "scan", False)
    assert check(folder).channels == {1: 12}
    if form in ("rgb jpeg", "rgba png"):
        assert any("12 images are gray although" in note for note in pack.notes)
        assert any("12 images are gray although" in note for note in check(folder).notes)


def test_gray_arrays_of_three_channels(tmp_path):
    np.save(tmp_path / "gray.npy", np.stack([blobs(i)[:, :, None].repeat(3, 2) for i in range(4)]))
    assert open_pack(tmp_path / "gray.npy").channels == 1
    np.save(tmp_path / "colour.npy", np.stack([blobs(i, 3) for i in range(40)]))
    assert open_pack(tmp_path / "colour.npy").channels == 3


def test_films_with_a_few_coloured_marks_are_not_mirrored(tmp_path):
    def save(i: int, path: str) -> None:
        pixels = blobs(i)[:, :, None].repeat(3, 2)
        if i == 0:
            pixels[:4, :4] = (255, 0, 0)
        Image.fromarray(pixels).save(path + ".png")

    folder = write(tmp_path / "films", 12, save)
    pack = open_pack(folder)
    assert (pack.channels, pack.mirror) == (3, False)
    assert any("All except 1 of 12 images are gray, so none is mirrored" in note for note in pack.notes)
    assert open_pack(folder, DataConfig(kind="photo")).mirror


def test_colour_stays_colour(tmp_path):
    folder = write(tmp_path / "photos", 8, lambda i, path: Image.fromarray(blobs(i, 3)).save(path + ".jpg"))
    pack = open_pack(folder)
    assert (pack.channels, pack.mirror) == (3, True) and not any("gray" in note for note in pack.notes)
    half = write(
        tmp_path / "half",
        8,
        lambda i, path: Image.fromarray(blobs(i, 1 + 2 * (i % 2))).convert("RGB").save(path + ".png"),
    )
    assert open_pack(half).channels == 3 and open_pack(half).mirror


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_few_bits_in_sixteen_are_stretched(ending, bits, tmp_path):
    scale = 2 ** (bits - 8)
    folder = write(
        tmp_path / "scans", 6, lambda i, path: Image.fromarray(blobs(i).astype(np.uint16) * scale).save(path + ending)
    )
    pack = open_pack(folder)
    white = 2**bits - 1
    assert pack.depth == 16 and pack.images.max() == round(255 * scale / white * 65535)
    assert any(f"with {white:,} as white; --levels 0-65535" in note for note in pack.notes)
    found = check(folder)
    assert found.blank == [] and any("--levels" in note for note in found.notes)
    assert open_pack(folder, DataConfig(levels="0-65535")).images.max() == 255 * scale
    assert open_pack(folder, DataConfig(levels=f"0-{127 * scale}")).images.max() == 65535


def test_the_scale_is_that_of_the_set(tmp_path):
    pixels = np.stack([np.full((8, 8), value, np.uint16) for value in (100, 200, 1000)])
    pixels[:, 0] = 0
    np.save(tmp_path / "few.npy", pixels)
    assert open_pack(tmp_path / "few.npy").images[:, 1, 0, 0].tolist() == [6406, 12812, 64062]  # of 1023
    pixels[0, 1, 1] = 30_000
    np.save(tmp_path / "many.npy", pixels)
    assert open_pack(tmp_path / "many.npy").images[1, 1, 0, 0] == 200


@pytest.mark.parametrize("levels", ["4095", "9-3", "0-inf", "0-1e999", "a-b", ""])
def test_levels_that_cannot_be(levels):
    with pytest.raises(ConfigError, match=f"--levels {levels}: expected two values"):
        DataConfig(levels=levels)


# Files of several images.


def several(form: str, path: Path, first: int, number: int = 5) -> None:
    images = [Image.fromarray(blobs(first + i, 3 if form == "webp" else 1)) for i in range(number)]
    if form == "16 bit tif":
        images = [Image.fromarray(np.asarray(image).astype(np.uint16) * 257) for image in images]
    ending = form.split()[-1]
    options = {"lossless": True} if form == "webp" else {}
    images[0].save(path.with_suffix(f".{ending}"), save_all=True, append_images=images[1:], **options)


@pytest.mark.parametrize("form", ["tif", "16 bit tif", "gif", "webp", "png"])
def test_files_of_several_pictures_are_named_and_can_be_taken_whole(form, tmp_path):
    folder = tmp_path / "stacks"
    for name, first in (("cat", 0), ("dog", 50)):
        (folder / name).mkdir(parents=True)
        several(form, folder / name / "0", first)
    said = "2 files have 10 images; only the first of each is used. --frames all uses all of them."
    first = open_pack(folder)
    assert first.num_images == 2 and said in first.notes and said in check(folder).notes
    pack = open_pack(folder, DataConfig(frames="all"))
    ending = form.split()[-1]
    assert pack.names[:2] == [f"cat/0.{ending}#0001", f"cat/0.{ending}#0002"] and said not in pack.notes
    assert pack.num_images == 10 and pack.labels.tolist() == [0] * 5 + [1] * 5
    assert check(folder, DataConfig(frames="all")).num_images == 10
    scale = 257 if form.startswith("16") else 1
    for i in (0, 4):
        wanted = blobs(i, 3) if form == "webp" else blobs(i)[:, :, None]
        np.testing.assert_allclose(pack.images[i] / scale, wanted, atol=0 if form != "gif" else 1)


def test_a_list_of_files_names_files_or_pages(tmp_path):
    for i in range(2):
        several("tif", tmp_path / str(i), 10 * i)
    (tmp_path / "list.txt").write_text("0.tif\n1.tif#0002\n")
    pack = open_pack(tmp_path, DataConfig(frames="all", files=tmp_path / "list.txt"))
    assert pack.names == [*(f"0.tif#{k:04}" for k in range(1, 6)), "1.tif#0002"]


def test_previews_in_a_tiff_are_no_pages(tmp_path):
    images = [Image.fromarray(blobs(i, size=size)) for i, size in enumerate((24, 24, 12))]
    for i in range(2):
        images[0].save(tmp_path / f"{i}.tif", save_all=True, append_images=images[1:])
    assert open_pack(tmp_path, DataConfig(frames="all")).num_images == 4


def test_a_damaged_page_is_named(tmp_path):
    for i in range(2):
        several("tif", tmp_path / str(i), 10 * i)
    content = (tmp_path / "0.tif").read_bytes()
    (tmp_path / "0.tif").write_bytes(content[: len(content) * 2 // 3])
    pack = open_pack(tmp_path, DataConfig(frames="all"))
    assert 5 < pack.num_images < 10
    assert open_pack(tmp_path).num_images == 2


# Transparency and drawings.


def sprite(number: int, size: int = 24) -> np.ndarray:
    """(size, size, 4) uint8: flat areas of colour, transparent around."""
    rng = np.random.default_rng(number)
    pixels = np.zeros((size, size, 4), np.uint8)
    for _ in range(3):
        top, left = rng.integers(2, size // 2, 2)
        pixels[top : top + size // 3, left : left + size // 3] = (*rng.integers(0, 256, 3), 255)
    return pixels


@pytest.mark.parametrize("ending", [".png", ".webp", ".gif"])
def test_transparency_is_kept_where_most_pictures_have_it(ending, tmp_path):
    folder = write(
        tmp_path / "sprites", 6, lambda i, path: Image.fromarray(sprite(i)).save(path + ending, lossless=True)
    )
    pack = open_pack(folder)
    assert (pack.channels, pack.kind) == (4, "drawing") and pack.images[0, 0, 0, 3] == 0
    assert any("Most images have transparent parts, which are kept" in note for note in pack.notes)
    assert open_pack(folder, DataConfig(channels="color")).images[0, 0, 0].tolist() == [255, 255, 255]


def test_transparency_of_a_few_or_of_none_is_not_kept(tmp_path):
    def save(i: int, path: str) -> None:
        pixels = sprite(i)
        pixels[..., 3] = 255 if i > 1 else pixels[..., 3]
        Image.fromarray(pixels).save(path + ".png")

    assert open_pack(write(tmp_path / "sprites", 6, save)).channels == 3
    np.save(tmp_path / "opaque.npy", np.stack([sprite(i) | np.uint8([0, 0, 0, 255]) for i in range(4)]))
    assert open_pack(tmp_path / "opaque.npy").channels == 3
    np.save(tmp_path / "sheer.npy", np.stack([sprite(i) for i in range(4)]))
    assert open_pack(tmp_path / "sheer.npy").channels == 4


def test_sprites_are_trained_on_with_their_transparency(tmp_path):
    folder = write(tmp_path / "sprites", 6, lambda i, path: Image.fromarray(sprite(i)).save(path + ".png"))
    options = {"size": 16, "base": 8, "z_dim": 8, "batch": 6, "previews": 2, "device": "cpu", "quiet": True}
    ganvas.train(folder, tmp_path / "run", images=12, **options)
    assert ganvas.Generator.load(tmp_path / "run").sample(2, seed=0).shape == (2, 4, 16, 16)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_flat_areas_of_colour_pass_for_drawings(ending, tmp_path):
    def draw(i: int, path: str) -> None:
        Image.fromarray(sprite(i, 96)[..., :3]).save(path + ending, quality=95)

    folder = write(tmp_path / "drawings", 6, draw)
    pack = open_pack(folder)
    assert (pack.kind, pack.mirror) == ("drawing", True) and any("--kind photo" in note for note in pack.notes)
    assert open_pack(folder, DataConfig(kind="photo")).kind == "photo"
    photos = write(tmp_path / "photos", 6, lambda i, path: Image.fromarray(blobs(i, 3, 96)).save(path + ending))
    assert open_pack(photos).kind == "photo"


@pytest.mark.parametrize(
    ("name", "kind"), [("comic_faces", "drawing"), pytest.param("cifar10", "photo", marks=pytest.mark.slow)]
)
def test_real_sets_have_the_kind_that_they_are(name, kind, shared_data):
    assert open_pack(shared_data / name, DataConfig(limit=40, size="32", labels="none")).kind == kind


# Large sets.


def test_a_random_part_of_a_very_large_set_is_surveyed_if_the_size_is_given(monkeypatch, tmp_path):
    folder = write(tmp_path / "photos", 60, lambda i, path: Image.fromarray(blobs(i, 3)).save(path + ".png"))
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:60])
    monkeypatch.setattr(selection, "SURVEYED_WHOLE", 50)
    monkeypatch.setattr(selection, "SURVEYED", 40)
    seen: list[int] = []
    monkeypatch.setattr(selection, "probe", lambda content: seen.append(1) or probe(content))
    pack = open_pack(folder, DataConfig(size=16))
    assert len(seen) == 40 and (pack.num_images, pack.channels, pack.kind) == (60, 3, "photo")
    assert [one.name for one in pack.record.rejected] == ["broken.png"]
    assert any("from 40 of 61 images, drawn at random" in note for note in pack.notes)
    seen.clear()
    assert open_pack(folder).num_images == 60 and len(seen) == 61  # the size is chosen from all
    Image.fromarray(blobs(3).astype(np.uint16) * 9).save(folder / "deep.png")
    monkeypatch.setattr(selection, "SURVEYED", 62)
    seen.clear()
    open_pack(folder, DataConfig(size=24))
    assert len(seen) > 62  # 16 bit images: all are read
