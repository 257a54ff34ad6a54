"""Sets of DICOM files: folders and archives, frames, kinds, refused files, and what is said without the extra."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import catalog, open_pack
from ganvas.data.checkup import check
from ganvas.data.packing.pack import Policy
from ganvas.data.packing.write import build_pack
from ganvas.data.reading import dicom
from ganvas.data.reading.decode import probe
from ganvas.data.reading.sources import open_source
from ganvas.errors import DataError, MissingExtraError, PictureError

pydicom = pytest.importorskip("pydicom", reason="needs the extra `medical`")
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from dicom_files import BROKEN, FORMS, PICTURES, film, group, noise  # noqa: E402


@FORMS
def test_a_set_of_files_with_classes(put: Callable[..., Path], form: str) -> None:
    files = {f"{'ill' if i % 2 else 'well'}/{i}.DCM": film(p, Modality="MR") for i, p in enumerate(PICTURES)}
    source = open_source(put(files, form))
    assert (source.form, source.classes, source.rejected) == ("dicom", ["ill", "well"], [])
    assert {item.name: payload for item, payload in source.stream()} == files


@FORMS
def test_files_without_an_ending_are_told_by_their_mark(put: Callable[..., Path], form: str) -> None:
    names = ["DICOM/ST1/IM0001", "DICOM/ST1/1.2.840.55.7", "DICOM/ST2/slice.ima"]
    files = dict(zip(names, map(film, PICTURES), strict=False))
    others = {"DICOM/ST1/README": b"x" * 500, "DICOM/DICOMDIR": film(PICTURES[0]), "DICOM/short": b""}
    source = open_source(put(files | others, form))
    assert source.classes == ["ST1", "ST2"] and source.form == "dicom"
    assert {content for _, content in source.stream()} == set(files.values())
    assert {item.name for item in source.items} == {n.removeprefix("DICOM/" * (form == "folder")) for n in names}


def test_frames_become_pictures_of_their_own(put: Callable[..., Path]) -> None:
    frames = noise(3, 8, 9)
    place = put({"a/heart.dcm": film(frames, NumberOfFrames=3), "b/still.dcm": film(noise(8, 9))})
    source = open_source(place)
    names = ["a/heart.dcm#0001", "a/heart.dcm#0002", "a/heart.dcm#0003", "b/still.dcm"]
    assert [(item.name, item.label) for item in source.items] == list(zip(names, ["a", "a", "a", "b"], strict=True))
    for (_, pixels), frame in zip(source.stream(), frames, strict=False):
        np.testing.assert_array_equal(pixels, frame)
    ((item, pixels),) = source.stream({names[1]})
    assert item.name == names[1]
    np.testing.assert_array_equal(pixels, frames[1])
    pack = open_pack(place)
    assert pack.names == names
    np.testing.assert_array_equal(pack.images[:3, :, :, 0], frames)


@FORMS
def test_a_single_file_of_frames_is_a_source(put: Callable[..., Path], tmp_path: Path, form: str) -> None:
    frames = noise(4, 8, 9)
    content = film(frames, NumberOfFrames=4, syntax=uid.RLELossless)
    place = put({"heart": content}, form)
    for path in (place, place / "heart") if form == "folder" else (place,):
        assert [item.name for item in open_source(path).items] == [f"heart#{k:04}" for k in range(1, 5)]
        np.testing.assert_array_equal(np.stack([pixels for _, pixels in open_source(path).stream()]), frames)


def test_a_number_of_frames_that_cannot_be_is_not_believed(put: Callable[..., Path]) -> None:
    files = {"a.dcm": film(noise(8, 8)), "b.dcm": film(noise(2, 8, 8), NumberOfFrames=2_000_000_000)}
    source = open_source(put(files))
    assert [item.name for item in source.items] == ["a.dcm", "b.dcm"]
    with pytest.raises(PictureError, match="has 2000000000 frames"):
        dicom.pixels(files["b.dcm"])


def test_frames_of_an_enhanced_file_have_their_own_windows() -> None:
    values = np.array([[0, 50, 100, 200]], np.uint16)
    shared, each = Dataset(), [Dataset(), Dataset()]
    shared.PixelValueTransformationSequence = group(RescaleSlope="2", RescaleIntercept="0", RescaleType="US")
    for item, center in zip(each, ("100.5", "200.5"), strict=True):
        item.FrameVOILUTSequence = group(WindowCenter=center, WindowWidth="201")
    content = film(
        np.stack([values, values]),
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each,
    )
    first, second = dicom.frames(content, [0, 1])
    assert first.tolist() == [[0, 32768, 65535, 65535]]
    assert second.tolist() == [[0, 0, 32768, 65535]]


def test_a_broken_file_of_frames_is_as_many_rejections(put: Callable[..., Path]) -> None:
    broken = film(noise(3, 8, 8), NumberOfFrames=3)[:-30]
    place = put({"a.dcm": broken, "b.dcm": film(noise(8, 8)), "c.dcm": film(noise(8, 8) // 2)})
    pack = open_pack(place)
    assert pack.names == ["b.dcm", "c.dcm"]
    assert [(r.name, r.reason) for r in pack.record.rejected] == [(f"a.dcm#{k:04}", "truncated") for k in (1, 2, 3)]


def test_broken_files_among_good_ones_are_named(put: Callable[..., Path]) -> None:
    good = {f"good{i}.dcm": film(picture) for i, picture in enumerate(PICTURES)}
    bad = {f"x{i}.dcm": content for i, content in enumerate(BROKEN.values())} | {"x_text.dcm": b"no pixels here"}
    pack = open_pack(put(good | bad), DataConfig(size="16"))
    assert pack.names == list(good)
    assert {r.name for r in pack.record.rejected} == set(bad)
    with pytest.raises(DataError, match=r"no image can be used.*x0\.dcm: DICOM file without pixels"):
        open_pack(put(bad, name="bad"))


def test_the_report_looks_into_dicom(put: Callable[..., Path]) -> None:
    files = {"a.dcm": film(PICTURES[0]), "b.dcm": film(PICTURES[0], PatientName="Other"), "c.dcm": b"DICM"}
    files["deep.dcm"] = film(noise(9, 9, dtype=np.uint16, top=1023), bits=10)
    found = check(put(files))
    assert (found.num_images, found.depths, found.form) == (3, {8: 2, 16: 1}, "dicom")
    assert found.duplicates == [["a.dcm", "b.dcm"]] and [r.name for r in found.rejected] == ["c.dcm"]


def test_child_processes_decode_the_same(put: Callable[..., Path], tmp_path: Path) -> None:
    files = {f"{i:03}.dcm": film(noise(12, 10 + i), syntax=uid.RLELossless) for i in range(70)}
    files |= {"050.dcm": BROKEN["^truncated$"], "900.dcm": film(noise(3, 12, 12), NumberOfFrames=3)}
    source = open_source(put(files))
    packs = [
        build_pack(
            source, DataConfig(size="12"), tmp_path / f"pack{n}", policy=Policy("films"), fingerprint="films", workers=n
        )
        for n in (0, 2)
    ]
    assert packs[0].num_images == 72 and packs[0].hash == packs[1].hash
    assert packs[0].record.rejected == packs[1].record.rejected


# Kinds.


@pytest.mark.parametrize(
    ("modality", "form", "kind"),
    [("DX", "radiographs", "xray"), ("CR", "radiographs", "xray"), ("MG", "radiographs", "xray"),
     ("CT", "dicom", "scan"), ("US", "dicom", "scan"), (None, "dicom", "scan")],
)  # fmt: skip
def test_the_modality_decides_the_kind(put: Callable[..., Path], modality: str | None, form: str, kind: str) -> None:
    elements = {"Modality": modality} if modality else {}
    color = modality == "US"  # colour images elsewhere pass for photos, which are mirrored
    files = {f"{i}.dcm": film(noise(16, 16, 3) // (i + 1) if color else noise(16, 16 + i), **elements) for i in (0, 1)}
    place = put(files)
    source = open_source(place)
    assert source.form == form
    pack = open_pack(place)
    assert (pack.kind, pack.mirror) == (kind, False)
    assert open_pack(place, DataConfig(kind="photo")).kind == "photo"
    assert catalog.policy_for(None, place, DataConfig(), form).kind == kind


def test_a_mixture_with_other_pictures_is_a_plain_folder(put: Callable[..., Path]) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(16, 16)).save(file, "PNG")
    source = open_source(put({"a.dcm": film(noise(16, 16), Modality="DX"), "b.png": file.getvalue()}))
    assert source.form == "folder" and len(source.items) == 2


# Without the extra.


def test_without_pydicom_the_extra_is_named(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a.dcm": film(noise(16, 16)), "b.dcm": film(noise(16, 16))}
    file = io.BytesIO()
    Image.fromarray(noise(16, 16)).save(file, "PNG")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ganvas\[medical\]'"):
        open_source(put(files))
    with pytest.raises(PictureError, match=r"pip install 'ganvas\[medical\]'"):
        probe(files["a.dcm"])
    mixed = put({"a.dcm": files["a.dcm"], "b.png": file.getvalue(), "c.png": file.getvalue()}, "zip")
    source = open_source(mixed)
    assert [item.name for item in source.items] == ["b.png", "c.png"]
    assert [r.name for r in source.rejected] == ["a.dcm"] and "ganvas[medical]" in source.rejected[0].reason
