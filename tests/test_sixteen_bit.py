"""Sixteen bits of gray from end to end: file, pack, batch, sample, file, without the loss of one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ganvas
from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.batches import Batches
from ganvas.data.reading.decode import decode, probe
from ganvas.data.reading.target import Target
from ganvas.errors import ConfigError
from ganvas.generator import to_pixels
from ganvas.image_files import grid, save_picture

ENDINGS = pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".PNG", ".TIFF"])


def noise(*shape: int, dtype: type = np.uint16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".png", ".tif", ".tiff"]),
    st.sampled_from([(np.uint16, 1), (np.uint8, 1), (np.uint8, 3), (np.uint8, 4)]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_a_saved_picture_comes_back_bit_for_bit(
    tmp_path: Path, ending: str, kind: tuple[type, int], height: int, width: int, seed: int
) -> None:
    dtype, channels = kind
    pixels = noise(height, width, channels, dtype=dtype, seed=seed)
    pixels.flat[0], pixels.flat[-1] = 0, np.iinfo(dtype).max
    save_picture(tmp_path / f"picture{ending}", pixels)
    content = (tmp_path / f"picture{ending}").read_bytes()
    depth = 8 * pixels.itemsize
    info = probe(content)
    assert (info.height, info.width, info.depth, info.alpha) == (height, width, depth, channels == 4)
    back = decode(content, Target(height, width, channels, depth, "crop", None))
    np.testing.assert_array_equal(back, pixels)


def test_levels_become_black_and_white_and_what_lies_beyond_is_cut(tmp_path: Path) -> None:
    pixels = noise(2, 16, 16, 1) // 16  # 0 to 4095
    for i, one in enumerate(pixels):
        save_picture(tmp_path / f"{i}.png", one)
    pack = open_pack(tmp_path, DataConfig(levels="1000-3000"))
    wanted = ((pixels.astype(float) - 1000) * 65535 / 2000).clip(0, 65535)
    np.testing.assert_allclose(pack.images, wanted, atol=1)


@ENDINGS
def test_the_ending_decides_the_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    save_picture(path, noise(9, 7, 1))
    with Image.open(path) as picture:
        assert picture.format == ("PNG" if ending.lower() == ".png" else "TIFF")
        assert picture.mode == "I;16"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_deep_colour_is_scaled_to_8_bits(tmp_path: Path) -> None:
    pixels = noise(9, 7, 3)
    save_picture(tmp_path / "a.tif", pixels)
    with Image.open(tmp_path / "a.tif") as picture:
        assert np.abs(np.asarray(picture) - pixels / 257).max() <= 0.5


@pytest.mark.parametrize("name", ["a.bmp", "a", "a.tif.gz"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"written as \.png, \.jpg, \.jpeg, \.jpe, \.jfif, \.webp, \.tiff, \.tif"):
        save_picture(tmp_path / name, noise(4, 4, 1))
    assert not any(tmp_path.iterdir())


@ENDINGS
def test_files_to_pack_to_batch_and_back(tmp_path: Path, ending: str) -> None:
    pictures = noise(4, 16, 12, 1)
    pictures[0, 0, 0], pictures[0, 0, 1] = 0, 65535
    (tmp_path / "source").mkdir()
    for i, pixels in enumerate(pictures):
        save_picture(tmp_path / "source" / f"{i}{ending}", pixels)
    pack = open_pack(tmp_path / "source", folder=tmp_path / "pack")
    assert pack.depth == 16 and pack.images.dtype == np.uint16
    np.testing.assert_array_equal(pack.images, pictures)
    batches = Batches(pack, 4)
    order, _ = batches.picked(0)
    images, _ = next(batches)
    assert images.min() == -1 and images.max() == 1
    np.testing.assert_array_equal(to_pixels(images, 16), pictures[order])


def test_training_on_16_bits_gives_samples_of_16_bits(tmp_path: Path) -> None:
    """More gray values than 8 bits have, in the preview that training leaves and in a sample saved as TIFF."""
    (tmp_path / "source").mkdir()
    slope = np.linspace(0, 65535, 16 * 16).reshape(16, 16, 1)
    for i in range(8):
        save_picture(tmp_path / "source" / f"{i}.tif", np.roll(slope, i, 1).astype(np.uint16))
    small = {"size": 16, "base": 8, "z_dim": 8, "batch": 8, "previews": 1, "device": "cpu"}
    ganvas.train(tmp_path / "source", tmp_path / "run", images=16, quiet=True, **small)
    previews = sorted((tmp_path / "run" / "samples").glob("*.png"))
    with Image.open(previews[-1]) as preview:
        assert preview.mode == "I;16" and len(np.unique(np.asarray(preview))) > 300
    gan = ganvas.Generator.load(tmp_path / "run")
    assert gan.info.depth == 16
    pixels = to_pixels(gan.sample(4, seed=1), gan.info.depth)
    assert pixels.dtype == np.uint16 and len(np.unique(pixels)) > 300
    save_picture(tmp_path / "sample.tif", grid(pixels))
    with Image.open(tmp_path / "sample.tif") as sample:
        np.testing.assert_array_equal(np.asarray(sample), grid(pixels)[:, :, 0])
