"""DICOM: the right gray values by hand-worked formulas, every refusal in a sentence, and no patient field anywhere."""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ganvas
from ganvas.config import DataConfig
from ganvas.data import catalog, open_pack
from ganvas.data.checkup import check
from ganvas.data.packing.pack import Policy
from ganvas.data.packing.write import build_pack
from ganvas.data.reading import dicom
from ganvas.data.reading.decode import decode, probe
from ganvas.data.reading.sources import open_source
from ganvas.data.reading.target import Target
from ganvas.errors import DataError, MissingExtraError, PictureError

pydicom = pytest.importorskip("pydicom", reason="needs the extra `medical`")
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402

SECRETS = {
    "PatientName": "Quixote^Alonso",
    "PatientID": "PID-7081942",
    "PatientBirthDate": "19470329",
    "InstitutionName": "Hospital of Barataria",
    "ReferringPhysicianName": "Carrasco^Sanson",
    "AccessionNumber": "ACC55512",
    "PatientComments": "tilts at windmills",
    "StudyDescription": "thorax of Quixote",
}


def film(pixels: np.ndarray, *, syntax: str = uid.ExplicitVRLittleEndian, bits: int | None = None, **elements) -> bytes:
    """A DICOM file of (H, W) or (H, W, 3) pixels, or of frames (N, H, W) if NumberOfFrames is given."""
    dataset = FileDataset(None, {}, preamble=b"\0" * 128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    frames = "NumberOfFrames" in elements
    color = pixels.ndim - frames == 3
    dataset.Rows, dataset.Columns = pixels.shape[frames : frames + 2]
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    if syntax in (uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless):
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    return written(dataset)


def written(dataset: FileDataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def without(content: bytes, *names: str) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    for name in names:
        delattr(dataset, name)
    return written(dataset)


def floats(pixels: np.ndarray, **elements) -> bytes:
    """A DICOM file of (H, W) float32 or float64 pixels."""
    stored = pixels.view(np.uint32) if pixels.itemsize == 4 else pixels.view(np.uint64)
    name = "FloatPixelData" if pixels.itemsize == 4 else "DoubleFloatPixelData"
    content = film(stored, **elements, **{name: pixels.tobytes()})
    return without(content, "PixelData", "BitsStored", "HighBit", "PixelRepresentation")


def group(**elements) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return [item]


def lut(descriptor: list[int], entries: Any, vr: str = "OW", **elements) -> list[Dataset]:
    """A look-up table; the standard lets its entries be words in bytes (OW) or numbers (US)."""
    table = group(LUTDescriptor=descriptor, **elements)
    data = [int(entry) for entry in entries]
    table[0].add_new("LUTData", vr, data if vr == "US" else np.array(data, np.uint16).tobytes())
    return table


def ramp(bits: int, signed: bool = False) -> np.ndarray:
    """All values that `bits` can hold (every 16th of 16 bits), as an image."""
    lowest = -(2 ** (bits - 1)) if signed else 0
    values = np.arange(lowest, lowest + 2**bits, 16 if bits == 16 else 1)
    dtype = ("i" if signed else "u") + ("1" if bits <= 8 else "2")
    return values.astype(dtype).reshape(2 ** (int(math.log2(len(values))) // 2), -1)


def noise(*shape: int, dtype: Any = np.uint8, top: int | None = None) -> np.ndarray:
    top = np.iinfo(dtype).max if top is None else top
    return np.random.default_rng(sum(shape)).integers(0, top, shape, dtype, endpoint=True)


# Gray values.


def test_eight_bits_without_a_window_stay_what_they_are() -> None:
    pixels = noise(11, 7)
    np.testing.assert_array_equal(dicom.pixels(film(pixels)), pixels)
    inverted = dicom.pixels(film(pixels, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - pixels)


@pytest.mark.parametrize("bits", [1, 5, 8, 9, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_without_a_window_the_stored_range_is_shown(bits: int, signed: bool) -> None:
    pixels = ramp(bits, signed) if bits > 1 else np.array([[0, 1]], np.uint8)
    signed &= bits > 1
    shown = dicom.pixels(film(pixels, bits=bits, RescaleSlope="2", RescaleIntercept="-1024"))
    top = 255 if bits <= 8 else 65535
    assert shown.dtype == (np.uint8 if bits <= 8 else np.uint16)
    lowest = -(2 ** (bits - 1)) if signed else 0
    np.testing.assert_array_equal(shown, np.rint((pixels.astype(float) - lowest) / (2**bits - 1) * top))


def test_a_known_monochrome1_window() -> None:
    """Center 50.5, width 101: from 0 (white, being inverted) to 100 (black), in steps of one hundredth."""
    pixels = np.array([[0, 25, 50, 100, 200, 4095]], np.uint16)
    shown = dicom.pixels(
        film(pixels, bits=12, PhotometricInterpretation="MONOCHROME1", WindowCenter="50.5", WindowWidth="101")
    )
    assert shown.tolist() == [[65535, 49151, 32768, 0, 0, 0]]


def by_the_standard(x: float, center: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 for an output of 0 to 1, value by value."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(min(-4 * (x - center) / width, 700)))
    if function == "LINEAR":
        if x <= center - 0.5 - (width - 1) / 2:
            return 0
        if x > center - 0.5 + (width - 1) / 2:
            return 1
        return (x - (center - 0.5)) / (width - 1) + 0.5
    if x <= center - width / 2:
        return 0
    return 1 if x > center + width / 2 else (x - center) / width + 0.5


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.booleans(),
    st.sampled_from([8, 10]),
    st.integers(-300, 300),
    st.integers(1, 900),
    st.sampled_from([(1, 0), (2, -100), (0.5, 7), (-1, 0)]),
    st.booleans(),
)
def test_windows_are_those_of_the_standard(
    function: str, signed: bool, bits: int, center: int, width: int, rescale: tuple[float, float], inverted: bool
) -> None:
    pixels, top = ramp(bits, signed), 255 if bits == 8 else 65535
    content = film(
        *(pixels,),
        bits=bits,
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        WindowCenter=[str(center), "1"],
        WindowWidth=[str(width), "2"],
        VOILUTFunction=function,
        RescaleSlope=str(rescale[0]),
        RescaleIntercept=str(rescale[1]),
    )
    values = pixels.astype(float) * rescale[0] + rescale[1]
    wanted = np.vectorize(lambda x: float(by_the_standard(x, center, width, function)))(values)
    wanted = (1 - wanted if inverted else wanted) * top
    if np.rint(wanted).min() == np.rint(wanted).max():
        with pytest.raises(PictureError, match=r"blank|invalid window"):
            dicom.pixels(content)
    else:
        assert np.abs(dicom.pixels(content) - wanted).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_voi_table_is_looked_up(bits: int, vr: str, syntax: str) -> None:
    """More entries than 8 bits can count, with entries of 8 bits too; before the window, which is there as well."""
    entries = np.random.default_rng(bits).integers(0, 2**bits, 1000)
    pixels, table = ramp(12), lut([1000, 500, bits], entries, vr)
    elements = {"VOILUTSequence": table, "WindowCenter": "3", "WindowWidth": "9"}
    shown = dicom.pixels(film(pixels, bits=12, syntax=syntax, **elements))
    wanted = entries[np.clip(pixels.astype(int) - 500, 0, 999)] / (2**bits - 1) * 65535
    np.testing.assert_array_equal(shown, np.rint(wanted))


def test_a_modality_table_is_looked_up_before_the_window() -> None:
    table = lut([4, 10, 12], [0, 100, 50, 4095], ModalityLUTType="US")
    pixels = np.array([[0, 10, 11, 12, 13, 200]], np.uint8)
    plain = dicom.pixels(film(pixels, ModalityLUTSequence=table))
    assert plain.tolist() == [[0, 0, 6, 3, 255, 255]]
    windowed = dicom.pixels(film(pixels, ModalityLUTSequence=table, WindowCenter="50.5", WindowWidth="101"))
    assert windowed.tolist() == [[0, 0, 255, 128, 255, 255]]


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("start", [("SS", -2), ("US", 65534)])
def test_a_negative_start_of_a_table(sequence: str, start: tuple[str, int]) -> None:
    """Some files write it as an unsigned number."""
    pixels = np.array([[-3, -2, -1, 0]], np.int16)
    table = lut([3, 0, 16], [1000, 2000, 65535])
    table[0].add_new("LUTDescriptor", start[0], [3, start[1], 16])
    assert dicom.pixels(film(pixels, **{sequence: table})).tolist() == [[1000, 1000, 2000, 65535]]


# Transfer syntaxes and colours.


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless]
    + ([uid.JPEGLSLossless] if importlib.util.find_spec("jpeg_ls") else []),
    ids=lambda syntax: uid.UID(syntax).keyword,
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 12])
def test_lossless_transfer_syntaxes(syntax: str, bits: int) -> None:
    pixels = noise(70, 65, dtype=np.uint8 if bits == 8 else np.uint16, top=2**bits - 1)
    content = film(pixels, syntax=syntax, bits=bits)
    assert uid.UID(syntax) == pydicom.dcmread(io.BytesIO(content)).file_meta.TransferSyntaxUID
    np.testing.assert_array_equal(dicom.pixels(content), dicom.pixels(film(pixels, bits=bits)))


def test_jpeg_inside_dicom() -> None:
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=95)
    content = film(smooth, PixelData=pydicom.encaps.encapsulate([file.getvalue()]), syntax=uid.JPEGBaseline8Bit)
    assert np.abs(dicom.pixels(content).astype(int) - smooth).max() <= 3


def test_colours_become_rgb_of_8_bits() -> None:
    pixels = noise(10, 12, 3)
    assert probe(film(pixels)).channels == 3
    np.testing.assert_array_equal(dicom.pixels(film(pixels)), pixels)
    deep = dicom.pixels(film(pixels.astype(np.uint16) * 257))
    np.testing.assert_array_equal(deep, pixels)
    luma = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    back = dicom.pixels(film(luma, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(back.astype(int) - pixels).max() <= 3
    with pytest.raises(PictureError, match="save it as RGB"):
        dicom.pixels(film(pixels, PhotometricInterpretation="HSV"))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(bits: int) -> None:
    colors = noise(256, 3, dtype=np.uint8 if bits == 8 else np.uint16)
    palette = {}
    for c, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        palette[f"{name}PaletteColorLookupTableData"] = colors[:, c].tobytes()
    pixels = noise(9, 9)
    content = film(pixels, PhotometricInterpretation="PALETTE COLOR", **palette)
    wanted = colors[pixels] if bits == 8 else np.rint(colors[pixels] / 257)
    np.testing.assert_array_equal(dicom.pixels(content), wanted)
    assert probe(content).channels == 3


def test_decode_gives_the_size_and_depth_asked_for() -> None:
    content = film(noise(40, 30, dtype=np.uint16, top=4095), bits=12)
    info = probe(content)
    assert (info.height, info.width, info.channels, info.alpha, info.depth) == (40, 30, 1, False, 16)
    for channels, depth in ((1, 16), (1, 8), (3, 8), (4, 16)):
        got = decode(content, Target(16, 20, channels, depth, "pad", None))
        assert got.shape == (16, 20, channels) and got.itemsize * 8 == depth
    whole = decode(content, Target(40, 30, 1, 16, "crop", None))
    np.testing.assert_array_equal(whole[:, :, 0], dicom.pixels(content))


@pytest.mark.parametrize("kind", ["int32", "uint32", "float32", "float64"])
def test_wide_pixels_need_a_window_or_the_range_of_the_set(kind: str, put: Callable[..., Path]) -> None:
    """Through the window they are 16 bit; without one, all files of a set are scaled equally."""
    values = np.linspace(0, 100_000, 64).reshape(8, 8).astype(kind)
    make = floats if kind.startswith("float") else film
    asked = {"RescaleSlope": "0.5", "RescaleIntercept": "-10"}
    shown = dicom.pixels(make(values, **asked, WindowCenter="20000", WindowWidth="10001"))
    wanted = (values * 0.5 - 10 - 19999.5) / 10000 + 0.5
    np.testing.assert_allclose(shown, (wanted.clip(0, 1) * 65535), atol=1)
    assert not probe(make(values, WindowCenter="20000", WindowWidth="10001")).wide
    assert probe(make(values)).wide
    np.testing.assert_array_equal(dicom.pixels(make(values, **asked)), values * 0.5 - 10)
    folder = put({"a.dcm": make(values), "b.dcm": make(values // 2)})
    pack = open_pack(folder, DataConfig(size="8"))
    first, second = pack.images[pack.names.index("a.dcm")], pack.images[pack.names.index("b.dcm")]
    np.testing.assert_allclose(second, first / 2, atol=2)


def test_levels_replace_the_windows_of_all_files(put: Callable[..., Path]) -> None:
    """In the units after rescaling, for single files, frames and inverted files."""
    stored = np.arange(64, dtype=np.uint16).reshape(8, 8) * 40
    asked = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": "9", "WindowWidth": "5"}
    files = {
        "a.dcm": film(stored, **asked),
        "b.dcm": film(stored, **asked, PhotometricInterpretation="MONOCHROME1"),
        "c.dcm": film(np.stack([stored, stored[::-1]]), **asked, NumberOfFrames=2),
    }
    wanted = ((stored - 1024.0 + 160) / 400).clip(0, 1) * 65535
    pack = open_pack(put(files), DataConfig(size="8", levels="-160-240"))
    shown = {name: pack.images[i, :, :, 0].astype(float) for i, name in enumerate(pack.names)}
    for name, image in {
        "a.dcm": wanted,
        "b.dcm": 65535 - wanted,
        "c.dcm#0001": wanted,
        "c.dcm#0002": wanted[::-1],
    }.items():
        np.testing.assert_allclose(shown[name], image, atol=1)


@pytest.mark.parametrize("header", ["preamble", "all"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_files_without_the_mark(header: str, syntax: str, put: Callable[..., Path]) -> None:
    """Without the preamble and its mark, or without all file information, as old programs wrote them."""
    images = [noise(9, 8 + i, dtype=np.uint16) for i in range(3)]
    files = {}
    for i, image in enumerate(images):
        content = film(image, syntax=syntax, Modality="DX")
        start = content.index(b"\x08\0\x16\0") if header == "all" else 132  # SOPClassUID, the first element
        files[f"{i}{'.dcm' if i else ''}"] = content[start:]
        np.testing.assert_array_equal(dicom.pixels(content[start:]), image)
    source = open_source(put(files))
    assert [item.name for item in source.items] == ["0", "1.dcm", "2.dcm"] and source.form == "radiographs"
    assert not dicom.is_dicom(b"\x08\0\x16\0UI") and not dicom.is_dicom(b"\x89PNG" + b"\0" * 200)


# What is refused.

LOSSLESS_JPEG = film(noise(4, 4), PixelData=pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"]), syntax=uid.JPEGLossless)
BROKEN = {
    "without pixels, or truncated": film(noise(70, 70), syntax=uid.RLELossless)[:-900],
    "without pixels, such as a report": without(film(noise(4, 4)), "PixelData", "Rows"),
    "^colours of 32 bits": film(noise(4, 4, 3, dtype=np.uint32)),
    "^look-up tables for more than 16 bits": film(
        noise(4, 4, dtype=np.uint32), VOILUTSequence=lut([4, 0, 8], [1, 2, 3, 4])
    ),
    "NaN": floats(np.full((4, 4), np.nan, np.float32)),
    "blank: all pixels have the same value$": film(np.full((4, 4), 9, np.uint8)),
    "blank: all pixels have the same value within its window": film(noise(4, 4), WindowCenter="9000", WindowWidth="2"),
    "invalid window: its width is 0": film(noise(4, 4), WindowCenter="9", WindowWidth="0"),
    "blank: rescaling maps": film(noise(4, 4), RescaleSlope="0", RescaleIntercept="1"),
    "1.2.840.113619.5.2 is not supported": film(noise(4, 4), syntax="1.2.840.113619.5.2"),
    "damaged look-up table": film(noise(4, 4), VOILUTSequence=lut([4, 0, 99], [1, 2, 3, 4])),
    "^truncated$": film(noise(40, 40))[:-100],
    "damaged DICOM file": film(noise(4, 4), PixelData=pydicom.encaps.encapsulate([b"\0" * 40]), syntax=uid.JPEG2000),
    "^has no pixels": film(noise(4, 4), Rows=0),
    "too large: 4,294,836,225 pixels": film(noise(4, 4), Rows=65535, Columns=65535),
}  # fmt: skip


@pytest.mark.parametrize("reason", BROKEN)
def test_refusals_are_one_sentence(reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(BROKEN[reason], Target(4, 4, 1, 8, "crop", None))


def test_a_decoder_that_is_not_there_is_named() -> None:
    if importlib.util.find_spec("libjpeg"):
        pytest.skip("pylibjpeg-libjpeg is installed, and decodes it")
    twelve_bits = film(
        noise(4, 4, dtype=np.uint16, top=4095),
        bits=12,
        PixelData=pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"]),
        syntax=uid.JPEGExtended12Bit,
    )
    for content in (LOSSLESS_JPEG, twelve_bits):
        with pytest.raises(PictureError, match=r"transfer syntax JPEG .*pip install .*pylibjpeg-libjpeg.*GPL"):
            probe(content)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_picture_errors(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([film(noise(6, 6)), film(noise(9, 9), syntax=uid.RLELossless), *BROKEN.values()]))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(132, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad = bytes(bad[: data.draw(st.integers(140, len(bad)))])
    dicom.facts(bad)
    for use in (probe, dicom.pixels, lambda content: list(dicom.frames(content, [0, 1]))):
        try:
            use(bad)
        except PictureError as error:
            assert 5 < len(str(error)) < 260 and "\n" not in str(error)


# Places.


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """`put({"a.dcm": content}, "zip")` is a folder, zip or tar.gz with these files."""

    def call(files: dict[str, bytes], form: str = "folder", name: str = "films") -> Path:
        if form == "folder":
            for file, content in files.items():
                (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name / file).write_bytes(content)
            return tmp_path / name
        path = tmp_path / f"{name}.{form}"
        if form == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for file, content in files.items():
                    archive.writestr(file, content)
        else:
            with tarfile.open(path, "w:gz") as archive:
                for file, content in files.items():
                    member = tarfile.TarInfo(file)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return path

    return call


PICTURES = [noise(16, 16 + i) for i in range(5)]
FORMS = pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])


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
    assert [(r["name"], r["reason"]) for r in pack.record.rejected] == [
        (f"a.dcm#{k:04}", "truncated") for k in (1, 2, 3)
    ]


def test_broken_files_among_good_ones_are_named(put: Callable[..., Path]) -> None:
    good = {f"good{i}.dcm": film(picture) for i, picture in enumerate(PICTURES)}
    bad = {f"x{i}.dcm": content for i, content in enumerate(BROKEN.values())} | {"x_text.dcm": b"no pixels here"}
    pack = open_pack(put(good | bad), DataConfig(size="16"))
    assert pack.names == list(good)
    assert {r["name"] for r in pack.record.rejected} == set(bad)
    with pytest.raises(DataError, match=r"no image can be used.*x0\.dcm: DICOM file without pixels"):
        open_pack(put(bad, name="bad"))


def test_the_report_looks_into_dicom(put: Callable[..., Path]) -> None:
    files = {"a.dcm": film(PICTURES[0]), "b.dcm": film(PICTURES[0], PatientName="Other"), "c.dcm": b"DICM"}
    files["deep.dcm"] = film(noise(9, 9, dtype=np.uint16, top=1023), bits=10)
    found = check(put(files))
    assert (found.num_images, found.depths, found.form) == (3, {8: 2, 16: 1}, "dicom")
    assert found.duplicates == [["a.dcm", "b.dcm"]] and [r["name"] for r in found.rejected] == ["c.dcm"]


def test_child_processes_decode_the_same(put: Callable[..., Path], tmp_path: Path) -> None:
    files = {f"{i:03}.dcm": film(noise(12, 10 + i), syntax=uid.RLELossless) for i in range(70)}
    files |= {"050.dcm": BROKEN["^truncated$"], "900.dcm": film(noise(3, 12, 12), NumberOfFrames=3)}
    source = open_source(put(files))
    packs = [
        build_pack(source, DataConfig(size="12"), tmp_path / f"pack{n}", policy=Policy("films"), workers=n)
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


# Privacy.


@FORMS
def test_no_patient_field_reaches_a_pack_a_message_or_a_log(
    put: Callable[..., Path],
    tmp_path: Path,
    form: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In the open as in a private element, in good files and in those that are refused."""
    caplog.set_level(logging.DEBUG)
    files = {}
    damaged = {"PatientBirthDate": "no date", "WindowCenter": "50"}
    for i, extra in enumerate([{}, {}, {"WindowCenter": "9000", "WindowWidth": "2"}, {"NumberOfFrames": 2}, damaged]):
        pixels = noise(2, 16, 16) if "NumberOfFrames" in extra else noise(16, 16 + i)
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(io.BytesIO(film(pixels, **(SECRETS | extra))))
            dataset.private_block(0x000B, "Quixote", create=True).add_new(1, "LO", "tilts at windmills")
            dataset.RequestAttributesSequence = group(ScheduledProcedureStepDescription="thorax of Quixote")
            files[f"f{i}.dcm"] = written(dataset)
    files["f5.dcm"] = files["f0.dcm"][:-10]
    files["f6.dcm"] = files["f0.dcm"][:400]
    place = put(files, form)
    source = open_source(place)
    for workers in (0, 2) if form == "folder" else (0,):
        folder = tmp_path / f"pack{workers}"
        pack = build_pack(source, DataConfig(size="16"), folder, policy=Policy("films"), workers=workers)
        assert pack.num_images == 5 and len(pack.record.rejected) == 3
    found = check(place)
    said = "\n".join([*found.lines(), found.to_json(), caplog.text, *capfd.readouterr()])
    everything = said.encode() + b"".join(path.read_bytes() for path in tmp_path.glob("pack*/*"))
    parts = len(list(tmp_path.glob("pack*/*")))
    assert parts == (10 if form == "folder" else 5)  # images, held-out places, names, json and checked.json
    words = {word for secret in SECRETS.values() for word in secret.replace("^", " ").split() if len(word) > 3}
    assert len(words) >= 12
    for word in words:
        assert word.encode() in files["f1.dcm"], word
        assert word.encode() not in everything, word


def test_nothing_else_of_a_file_is_even_parsed() -> None:
    dataset = dicom._opened(film(noise(16, 16), **SECRETS))
    assert {element.keyword for element in dataset} <= set(dicom.ELEMENTS)
    words = "|".join(("Patient", "Name", "Date", "Time", "Institution", "Physician", "Description", "Comment", "UID"))
    assert not [name for name in dicom.ELEMENTS if re.search(words, name)]


# Real films.


@pytest.fixture(scope="session")
def films(shared_data: Path) -> Path:
    path = shared_data / "dicom" / "dicom_chest_xray_8.zip"
    if not path.exists():
        pytest.skip("no dicom/dicom_chest_xray_8.zip among the real pictures")
    return path


def test_real_films(films: Path, tmp_path: Path) -> None:
    pack = open_pack(films, DataConfig(size="128", fit="stretch"), folder=tmp_path / "pack")
    assert (pack.num_images, pack.depth, pack.channels, pack.kind, pack.mirror) == (8, 16, 1, "xray", False)
    assert pack.record.rejected == []
    shown = pack.images[:, :, :, 0].astype(float) / 65535
    # Bones and heart are white in all of them, MONOCHROME1 or 2: the middle of a chest outshines its lungs.
    middle, lungs = shown[:, 50:80, 58:70].mean((1, 2)), shown[:, 35:75, 25:45].mean((1, 2))
    assert (middle > lungs + 0.1).all()
    # The half-size copy shows what the 15 bit JPEG 2000 shows.
    assert np.corrcoef(shown[6].ravel(), shown[7].ravel())[0, 1] > 0.999
    assert np.abs(shown[6] - shown[7]).mean() < 0.005
    assert len(np.unique(pack.images[6])) > 5000  # more than 8 bits of gray survive
    # No field of the headers in any byte of the pack, apart from what the user's own file name says.
    held = b"".join(path.read_bytes() for path in pack.folder.iterdir() if path.name != "images.npy")
    with zipfile.ZipFile(films) as archive:
        for name in archive.namelist():
            dataset = pydicom.dcmread(io.BytesIO(archive.read(name)), stop_before_pixels=True)
            for element in dataset:
                if element.VR in ("PN", "DA", "LO", "UI", "LT", "ST") and len(text := str(element.value)) > 4:
                    assert text.encode() not in held, element


def test_no_field_reaches_a_run_its_card_or_its_samples(films: Path, tmp_path: Path) -> None:
    """From the files to 16 bit samples: nothing of a header in any byte of the run or the images drawn."""
    options = {"size": "32", "base": 8, "batch": 4, "images": 8, "previews": 1, "device": "cpu", "quiet": True}
    ganvas.train(films, tmp_path / "run", **options)
    for form in ("png", "tiff"):
        ganvas.sample(tmp_path / "run", tmp_path / form, n=2, format=form)
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(held) > 10_000 and b"DICM" not in held
    checked = 0
    with zipfile.ZipFile(films) as archive:
        for name in archive.namelist():
            dataset = pydicom.dcmread(io.BytesIO(archive.read(name)), stop_before_pixels=True)
            for element in dataset:
                if element.VR in ("PN", "DA", "LO", "UI", "LT", "ST") and len(text := str(element.value)) > 5:
                    assert text.encode() not in held, element
                    checked += 1
    assert checked > 50


def test_report_of_real_films(films: Path) -> None:
    found = check(films)
    assert (found.form, found.num_images, found.depths) == ("radiographs", 8, {8: 6, 16: 2})
    assert found.sizes == {"1024x1024": 6, "1955x1841": 1, "977x920": 1}
    (group,) = found.duplicates
    assert len(group) == 4 and found.blank == []
