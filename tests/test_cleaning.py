"""cleaning.py and holdout.py by the command line: twins are dropped, marks filled, nothing leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Command
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 smooth random images as PNG and the first ten once more, compressed and a little brighter."""
    folder = tmp_path_factory.mktemp("twins") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        small = Image.fromarray(rng.integers(30, 200, (8, 8), np.uint8))
        picture = small.resize((64, 64), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:02}.png")
        if i < 10:
            Image.fromarray(np.asarray(picture) + np.uint8(6)).save(folder / f"{i:02}-again.jpg", quality=70)
    return folder


def test_twins_are_found_and_dropped(twins: Path, ganvas_command: Command, tmp_path: Path) -> None:
    answer = ganvas_command("data", "check", twins)
    assert "clusters: 10, the largest has 2" in answer.out, answer.out
    answer = ganvas_command("data", "pack", twins, tmp_path / "pack", "--drop-duplicates")
    assert "60 images of 64x64x1" in answer.out and "10 images were removed" in answer.out, answer.out
    kept = {name.removesuffix(".png").removesuffix("-again.jpg") for name in Pack.open(tmp_path / "pack").names}
    assert len(kept) == 60


def test_a_picture_and_its_twin_are_on_the_same_side(twins: Path) -> None:
    pack = open_pack(twins, DataConfig(holdout=0.3))
    assert 0 < len(pack.heldout) <= 21
    stems = [name.removesuffix(".png").removesuffix("-again.jpg") for name in pack.names]
    assert not {stems[i] for i in pack.heldout} & {stems[i] for i in pack.training}


def test_the_share_that_is_set_aside(twins: Path) -> None:
    assert len(open_pack(twins).heldout) == 7
    assert len(open_pack(twins, DataConfig(holdout=0.0)).heldout) == 0
    assert open_pack(twins, DataConfig(holdout=0.0)).hash != open_pack(twins).hash
    assert np.array_equal(open_pack(twins).heldout, open_pack(twins).heldout)


def test_marks_of_films_are_filled(shared_data: Path) -> None:
    (films,) = (shared_data / "chest_xray").glob("*.zip")
    plain = open_pack(films, DataConfig(size="256", limit=20))
    filled = open_pack(films, DataConfig(size="256", limit=20, mask_marks=True))
    assert any("marks were filled in" in note for note in filled.notes)
    changed = (plain.images[:] != filled.images[:]).mean(axis=(1, 2, 3))
    assert 0 < changed.max() < 0.1 and (changed > 0).mean() > 0.1
