"""Reads the pixels of DICOM files with pydicom (the `medical` extra).

Only the elements that describe the pixels are read (`ELEMENTS`). Patient, study and institution are never parsed, so
they cannot get into a pack, a note, a log or a message. Error texts of pydicom are not passed on, because they may
quote values. Besides pixels only the file name is kept, as with every image: **a patient's name in a file name is
kept**, and so is text burned into the pixels.

Gray pixels are converted as in the standard (PS3.3 C.11.1, C.11.2): stored value -> modality LUT or rescale -> VOI LUT
or the first window -> inverted if MONOCHROME1. Stored integers of at most 16 bits are looked up in a table of the
results for all possible values. Larger integers and floating point numbers are converted directly; without a window
they have no black and white, so they are returned unscaled, like other images with such values (wide.py).
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Generator, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ganvas.data.reading.headers import MAX_PIXELS, PictureInfo, too_large
from ganvas.errors import PictureError

if TYPE_CHECKING:
    from pydicom import Dataset

_ENDINGS = (".dcm", ".dicom")
DICOM_MARK = slice(128, 132)  # position of "DICM" in a file
START = 2**16
"""Number of bytes at the start of a file that `facts` reads."""

_MAX_FRAMES = 2**16
"""Larger numbers in a file are ignored."""

NO_PYDICOM = "DICOM files need the package 'pydicom': pip install 'ganvas[medical]'"

_RADIOGRAPHS = frozenset({"CR", "DX", "MG", "RG", "IO", "PX", "RF", "XA", "DR"})
"""Modalities (PS3.3 C.7.3.1.1.1) that are X-ray projections; DR is an old name of DX."""

_NUMBER_OF_FRAMES, _MODALITY = 0x0028_0008, 0x0008_0060

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

ELEMENTS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *(*_PIXELS, "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
"""The only elements that are read from a file."""


def available() -> bool:
    """Whether pydicom is installed."""
    return importlib.util.find_spec("pydicom") is not None


def is_named(name: str) -> bool:
    """Whether the file name ends like DICOM."""
    return name.lower().endswith(_ENDINGS)


def is_dicom(content: bytes) -> bool:
    """Whether the content (at least the first 132 bytes) has the DICOM mark, or none but starts with an element.

    Old programs wrote neither preamble nor mark. Such files begin with an element of group 2 or 8: group, number, then
    two capital letters, or a length below 65,536. No image format begins like this.
    """
    group, number, kind, rest = content[:2], content[3:4], content[4:6], content[6:8]
    named = kind.isalpha() and kind.isupper()
    bare = group in (b"\x02\0", b"\x08\0") and number == b"\0" and (named or rest == b"\0\0")
    return content[DICOM_MARK] == b"DICM" or (bare and len(content) >= DICOM_MARK.stop)


@dataclass(frozen=True, slots=True)
class DicomFacts:
    """Properties of a file that a source needs before reading it."""

    radiograph: bool
    num_frames: int


def facts(start: bytes) -> DicomFacts:
    """Reads the first `START` bytes of a file; one frame if they do not contain the number."""
    from pydicom.filereader import read_partial

    try:
        with _quiet():
            header = read_partial(
                io.BytesIO(start),
                stop_when=lambda tag, vr, length: tag > _NUMBER_OF_FRAMES,
                specific_tags=[_MODALITY, _NUMBER_OF_FRAMES],
                force=True,  # without a mark
            )
            count = int(header.get("NumberOfFrames") or 1)
            return DicomFacts(header.get("Modality") in _RADIOGRAPHS, count if 1 <= count <= _MAX_FRAMES else 1)
    except Exception:  # errors are reported when the file is read
        return DicomFacts(False, 1)


def probe(content: bytes) -> PictureInfo:
    """Size and type of the image. Raises `PictureError` if `pixels` would certainly fail."""
    with _explained():
        dataset = _opened(content)
        gray = dataset.PhotometricInterpretation.startswith("MONOCHROME")
        depth = _depth(dataset) if gray else 8
        unscaled = _is_wide(dataset) and _window(_groups(dataset, 0)[1]) is None
        return PictureInfo(dataset.Rows, dataset.Columns, 1 if gray else 3, False, depth, wide=unscaled)


GrayWindow = tuple[float, float]
"""Values, after modality LUT or rescale, that are shown as black and white."""


def pixels(content: bytes, window: GrayWindow | None = None) -> np.ndarray:
    """The image of a file with one frame, converted for display.

    window: to use instead of the file's. Gray images are then float64, unscaled, and inverted within it if MONOCHROME1.

    Gray: (H, W) uint8 in 0..255, or uint16 in 0..65535 if more than 8 bits are stored; float64 of any range for
    floating point numbers and more than 16 bits without a window. Colour: (H, W, 3) uint8.
    Raises `PictureError` with the reason.
    """
    with _explained():
        dataset = _opened(content)
        if (count := int(dataset.get("NumberOfFrames") or 1)) > 1:
            raise PictureError(f"has {count} frames that could not be separated: save each frame as its own file")
    (picture,) = _frames(dataset, [0], window)
    if isinstance(picture, PictureError):
        raise picture
    return picture


def frames(
    content: bytes, indices: Sequence[int], window: GrayWindow | None = None
) -> Iterator[np.ndarray | PictureError]:
    """Frames of a file with several, each in the format of `pixels` or an error."""
    try:
        with _explained():
            dataset = _opened(content)
    except PictureError as error:
        yield from [error] * len(indices)
        return
    yield from _frames(dataset, indices, window)


def _frames(dataset: Dataset, indices: Sequence[int], window: GrayWindow | None) -> Iterator[np.ndarray | PictureError]:
    from pydicom.pixels import get_decoder

    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    for index in indices:
        try:
            with _explained():
                _check_complete(dataset)
                stored, properties = decoder.as_array(dataset, index=index)
                picture = _shown(stored, str(properties["photometric_interpretation"]), dataset, index, window)
        except PictureError as error:
            yield error
        else:
            yield picture


# The file.


@contextmanager
def _quiet() -> Generator[None]:
    """Suppresses warnings, which may quote values of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _explained() -> Generator[None]:
    """Converts any exception to a short `PictureError` that quotes no values."""
    try:
        with _quiet():
            yield
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("needs more memory than available") from None
    except Exception:
        raise PictureError("damaged DICOM file") from None


def _opened(content: bytes) -> Dataset:
    """The elements of a file. Raises `PictureError` if its pixels cannot be decoded."""
    if not available():
        raise PictureError(NO_PYDICOM)
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset = dcmread(io.BytesIO(content), specific_tags=list(ELEMENTS), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    if not any(name in dataset for name in _PIXELS):
        # pydicom returns no pixels for a file that ends within compressed pixels; the elements before them remain.
        picture = "Rows" in dcmread(io.BytesIO(content), specific_tags=["Rows"], stop_before_pixels=True, force=True)
        kind = "or truncated" if picture else "such as a report or a plan"
        raise PictureError(f"DICOM file without pixels, {kind}")
    if not dataset.Rows or not dataset.Columns:
        raise PictureError("has no pixels")
    if dataset.Rows * dataset.Columns > MAX_PIXELS:
        raise too_large(dataset.Rows * dataset.Columns)
    if _is_wide(dataset) and not dataset.PhotometricInterpretation.startswith("MONOCHROME"):
        raise PictureError(f"colours of {dataset.BitsAllocated} bits are not supported: save it with 8 or 16 bits")
    _check_syntax(dataset)
    return dataset


def _is_wide(dataset: Dataset) -> bool:
    """Whether the pixels are floating point numbers or integers of more than 16 bits."""
    return "PixelData" not in dataset or dataset.BitsAllocated > 16


def _check_syntax(dataset: Dataset) -> None:
    """Raises `PictureError` if no installed decoder supports the transfer syntax, and names one that does."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.is_transfer_syntax else re.sub(r"[^0-9.]", "", syntax)[:64]
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise PictureError(f"the transfer syntax {name} is not supported: save it uncompressed") from None
    plugins = set(decoder.available_plugins)
    if syntax == JPEGExtended12Bit and dataset.BitsStored > 8:
        plugins.discard("pillow")  # claims support, but decodes only 8 bits
    if syntax.is_encapsulated and not plugins:
        raise PictureError(
            f"the transfer syntax {name} needs another decoder: pip install 'ganvas[medical]' pylibjpeg-libjpeg "
            "(licence: GPL-3), or save it uncompressed"
        )


def _check_complete(dataset: Dataset) -> None:
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    from pydicom.pixels.utils import get_expected_length

    stored = next(dataset[name].value for name in _PIXELS if name in dataset)
    if len(stored) < get_expected_length(dataset):
        raise PictureError("truncated")


def _depth(dataset: Dataset) -> int:
    return 16 if _is_wide(dataset) or dataset.BitsStored > 8 else 8


# Conversion of stored values for display.


def _shown(stored: np.ndarray, colors: str, dataset: Dataset, index: int, window: GrayWindow | None) -> np.ndarray:
    """Converts frame `index`, stored as (H, W) or (H, W, 3) in the colour space `colors`, to an image."""
    if colors in ("MONOCHROME1", "MONOCHROME2") and window is not None:
        seen = _rescaled(stored, _groups(dataset, index)[0], signed=dataset.get("PixelRepresentation") == 1)[0]
        return sum(window) - seen if colors == "MONOCHROME1" else seen
    if colors in ("MONOCHROME1", "MONOCHROME2") and _is_wide(dataset):
        return _wide(stored, dataset, index, inverted=colors == "MONOCHROME1")
    if colors in ("MONOCHROME1", "MONOCHROME2"):
        lowest, highest = _stored_range(dataset)
        if stored.min() == stored.max():
            raise PictureError("blank: all pixels have the same value")
        table = _table(dataset, index, inverted=colors == "MONOCHROME1")
        picture = table[stored.clip(lowest, highest).astype(np.int64) - lowest]
        if picture.min() == picture.max():
            raise PictureError("blank: all pixels have the same value within its window")
        return picture
    if colors == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        mapped = apply_color_lut(stored, dataset)[..., :3]
        top = 2 ** min(8 * mapped.itemsize, dataset.RedPaletteColorLookupTableDescriptor[2]) - 1
    elif colors == "RGB" and stored.ndim == 3:
        mapped, top = stored, 2**dataset.BitsStored - 1
    else:
        raise PictureError("unsupported colour space: save it as RGB")
    return mapped if top == 255 else np.rint(mapped.clip(0, top) * (255 / top)).astype(np.uint8)


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    """The lowest and the highest value that the stored bits can hold."""
    if dataset.PixelRepresentation == 1:
        return -(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1
    return 0, 2**dataset.BitsStored - 1


def _table(dataset: Dataset, index: int, inverted: bool) -> np.ndarray:
    """Look-up table for the stored values, lowest to highest: uint8 or uint16 over the whole range.

    inverted: the lowest value is white. Presentation LUT Shape is ignored, because it repeats this.
    """
    values, window = _groups(dataset, index)
    lowest, highest = _stored_range(dataset)
    seen, full = _rescaled(np.arange(lowest, highest + 1), values, signed=lowest < 0)
    if full[0] == full[1]:
        raise PictureError("blank: rescaling maps all values to the same one")
    if window.get("VOILUTSequence"):
        lut, first, top = _lut(window.VOILUTSequence[0], signed=full[0] < 0)
        seen = _looked_up(seen, lut, first) / top
    elif bounds := _window(window):
        seen = _windowed(seen, *bounds, str(window.get("VOILUTFunction") or "LINEAR").upper())
    else:
        seen = (seen - full[0]) / (full[1] - full[0])
    depth = _depth(dataset)
    shown = np.rint((1 - seen if inverted else seen).clip(0, 1) * (2**depth - 1))
    return shown.astype(np.uint16 if depth == 16 else np.uint8)


def _rescaled(stored: np.ndarray, values: Dataset, signed: bool) -> tuple[np.ndarray, tuple[float, float]]:
    """(float64 values after the modality LUT or rescale, lowest and highest possible one)."""
    seen = stored.astype(np.float64)
    if values.get("ModalityLUTSequence"):
        lut, first, top = _lut(values.ModalityLUTSequence[0], signed)
        return _looked_up(seen, lut, first), (0.0, float(top))
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    seen = seen * float(1 if slope is None else slope) + float(intercept or 0)
    return seen, (float(seen.min()), float(seen.max()))


def _wide(stored: np.ndarray, dataset: Dataset, index: int, inverted: bool) -> np.ndarray:
    """Large integers or floating point numbers: uint16 through the window, or float64 without one."""
    values, window = _groups(dataset, index)
    if values.get("ModalityLUTSequence") or window.get("VOILUTSequence"):
        raise PictureError("look-up tables for more than 16 bits are not supported: save it with 8 or 16 bits")
    seen, _ = _rescaled(stored, values, signed=False)
    bounds = _window(window)
    if bounds is None:
        return -seen if inverted else seen
    shown = _windowed(seen, *bounds, str(window.get("VOILUTFunction") or "LINEAR").upper())
    if not np.isfinite(shown).all():
        raise PictureError("has NaN or infinite values")
    return np.rint((1 - shown if inverted else shown).clip(0, 1) * 65535).astype(np.uint16)


def _groups(dataset: Dataset, index: int) -> tuple[Dataset, Dataset]:
    """The data sets with modality values and window of a frame: the file itself, or a group of an enhanced file."""
    sequences = {"PixelValueTransformationSequence": dataset, "FrameVOILUTSequence": dataset}
    for sequence, position in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
        groups = dataset.get(sequence) or []
        for name in sequences:
            if position < len(groups) and groups[position].get(name):
                sequences[name] = groups[position].get(name)[0]
    return sequences["PixelValueTransformationSequence"], sequences["FrameVOILUTSequence"]


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window, or None."""
    first = []
    for name in ("WindowCenter", "WindowWidth"):
        value: Any = dataset.get(name)
        if value in (None, ""):
            return None
        first.append(float(value[0] if isinstance(value, MutableSequence) else value))
    return first[0], first[1]


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Maps a window to 0..1 (PS3.3 C.11.2.1.2 and C.11.2.1.3). The caller clips values outside 0..1."""
    if width < 1 if function == "LINEAR" else width <= 0:
        raise PictureError(f"invalid window: its width is {width:g}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700)))
    if function == "LINEAR":  # by definition shifted by 0.5 and narrower by 1
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _lut(item: Dataset, signed: bool) -> tuple[np.ndarray, int, int]:
    """(entries, value of the first entry, highest possible entry) of a look-up table."""
    descriptor = [int(number) for number in item.LUTDescriptor]
    count, first, bits = descriptor[0] or 2**16, descriptor[1], descriptor[2]
    if signed and first >= 2**15:
        first -= 2**16  # may have been read as unsigned
    data = item.LUTData
    if isinstance(data, bytes):
        # 8 bit entries are stored either in one byte or in two.
        packed = len(data) < 2 * count
        entries = np.frombuffer(data, np.uint8 if packed else np.uint16 if _little(item) else ">u2")[:count]
    else:
        entries = np.atleast_1d(data)[:count]
    if not len(entries) or not 1 <= bits <= 16:
        raise PictureError("damaged look-up table")
    return entries.astype(np.float64), first, 2**bits - 1


def _little(item: Dataset) -> bool:
    return item.original_encoding[1] is not False


def _looked_up(values: np.ndarray, lut: np.ndarray, first: int) -> np.ndarray:
    return lut[np.rint(values - first).clip(0, len(lut) - 1).astype(np.int64)]
