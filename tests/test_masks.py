"""Masks and annotations beside images: never a class, never trained on unless asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.checkup import check
from ganvas.errors import DataError


def put(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def numbered(pattern: str, num: int = 4) -> list[str]:
    return [pattern.format(i) for i in range(num)]


LAYOUTS = {
    "two folders": (numbered("images/{}.png"), numbered("masks/{}.png")),
    "names with a suffix": (numbered("JPEGImages/{}.jpg"), numbered("SegmentationClass/{}_seg.png")),
    "nested annotations": (numbered("images/{}.jpg"), numbered("annotations/trimaps/{}.png")),
    "labels": (numbered("img/{}.png"), numbered("labels/{}.png")),
    "in each part": (
        numbered("train/images/{}.png") + numbered("val/images/{}.png"),
        numbered("train/masks/{}.png") + numbered("val/masks/{}.png"),
    ),
    "parts inside": (
        numbered("images/train/{}.png") + numbered("images/val/{}.png"),
        numbered("masks/train/{}.png") + numbered("masks/val/{}.png"),
    ),
    "several masks of one image": (numbered("scan/image/{}.png", 2), numbered("scan/masks/part{}.png", 7)),
    "files beside files": (numbered("{}.png"), [*numbered("{}_mask.png"), "0_mask_1.png"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_left_out_and_counted_unless_asked_for(layout, tmp_path):
    images, masks = LAYOUTS[layout]
    folder = put(tmp_path / "set", images + masks)
    for labels in (None, "none"):
        pack = open_pack(folder, DataConfig(labels=labels, split="all"))
        assert sorted(pack.names) == sorted(images) and pack.classes == []
        assert sorted(file.name for file in pack.record.rejected) == sorted(masks)
    (line,) = [line for line in check(folder, DataConfig(split="all")).lines() if line.startswith("rejected")]
    assert "mask or annotation" in line and "--masks use reads them as images" in line
    assert any("--masks use reads them as images" in note for note in pack.notes)
    everything = open_pack(folder, DataConfig(masks="use", labels="none", split="all"))
    assert sorted(everything.names) == sorted(images + masks)


def test_classes_inside_the_folder_of_images(tmp_path):
    names = [f"{top}/{name}/{i}.png" for top in ("images", "masks") for name in ("cat", "dog") for i in range(3)]
    pack = open_pack(put(tmp_path / "set", names))
    assert pack.classes == ["cat", "dog"] and pack.names == names[:6]


NOT_MASKS = {
    "people with and without a mask": numbered("mask/{}.png") + numbered("no_mask/{}.png"),
    "photos of labels": numbered("images/{}.png") + numbered("labels/other{}.png"),
    "a name that ends alike": numbered("{}_mask.png"),
}


@pytest.mark.parametrize("layout", NOT_MASKS)
def test_images_that_only_have_such_names_are_used(layout, tmp_path):
    pack = open_pack(put(tmp_path / "set", NOT_MASKS[layout]))
    assert sorted(pack.names) == sorted(NOT_MASKS[layout]) and pack.record.rejected == []


def test_an_unclear_folder_is_named_in_a_note(tmp_path):
    folder = put(tmp_path / "set", numbered("CXR_png/{}.png") + numbered("masks/{}_mask.png"))
    said = "The folder masks is used as a class, although its files have the names of other images."
    assert open_pack(folder).classes == ["CXR_png", "masks"]
    assert any(note.startswith(said) and note.endswith("--classes CXR_png") for note in check(folder).notes)
    assert open_pack(folder, DataConfig(classes=("CXR_png",))).names == numbered("CXR_png/{}.png")


def test_lists_name_images_not_masks(tmp_path):
    folder = put(tmp_path / "set", numbered("images/{}.png") + numbered("masks/{}.png"))
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n" + "".join(f"{i}.png,{'cat' if i % 2 else 'dog'}\n" for i in range(4)))
    pack = open_pack(folder, DataConfig(labels=str(table)))
    assert pack.names == numbered("images/{}.png") and pack.classes == ["cat", "dog"]
    assert len(pack.record.rejected) == 4
    table.write_text("file,label\n" + "".join(f"masks/{i}.png,{'cat' if i % 2 else 'dog'}\n" for i in range(4)))
    assert open_pack(folder, DataConfig(labels=str(table))).names == numbered("masks/{}.png")
    (folder / "metadata.csv").write_text("file_name,label\n" + "".join(f"images/{i}.png,{i % 2}\n" for i in range(4)))
    own = open_pack(folder)
    assert own.names == numbered("images/{}.png") and own.classes == ["0", "1"]


def test_the_option_is_part_of_a_pack_and_older_packs_stay(tmp_path):
    folder = put(tmp_path / "set", numbered("images/{}.png") + numbered("masks/{}.png"))
    used = open_pack(folder, DataConfig(masks="use"), folder=tmp_path / "pack")
    assert used.classes == ["images", "masks"]
    plain = open_pack(folder, folder=tmp_path / "plain")
    assert "masks" not in plain.record.request.to_dict()["config"]  # as in packs made before the option
    assert open_pack(tmp_path / "pack", DataConfig(masks="use")).num_images == 8
    with pytest.raises(DataError, match="its --masks is skip, not use"):
        open_pack(tmp_path / "plain", DataConfig(masks="use"))
