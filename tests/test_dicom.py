"""DICOM: the right gray values by hand-worked formulas, and every refusal in a sentence."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.reading import dicom
from ganvas.data.reading.decode import decode, probe
from ganvas.data.reading.sources import open_source
from ganvas.data.reading.target import Target
from ganvas.errors import PictureError

pydicom = pytest.importorskip("pydicom", reason="needs the extra `medical`")
from pydicom import uid  # noqa: E402

from dicom_files import BROKEN, LOSSLESS_JPEG, film, floats, lut, noise, ramp  # noqa: E402

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
