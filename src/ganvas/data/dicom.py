"""DICOM files to pixels, by way of pydicom (the `medical` extra), and to nothing else.

A file is read through a list of the elements that say what its pixels are (`ELEMENTS`); patient, study and institution
are never parsed, so they cannot reach a pack, a note, a log or a message. No text of pydicom's own errors is passed on,
for these may quote values. What is kept besides pixels is the file's name, as with every image: **a name that holds a
patient's name stays one**, and so does text that was burned into the pixels.

Gray pixels go the way of the standard (PS3.3 C.11.1, C.11.2): stored value -> modality LUT or rescale -> VOI LUT or
the first window -> inverted if MONOCHROME1. Stored values are whole numbers of at most 16 bits, so all of that is
worked out once for every possible value, in float64, and the image is one look into that table.
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

from ganvas.data.decode import MAX_PIXELS, PictureInfo, too_large
from ganvas.errors import PictureError

if TYPE_CHECKING:
    from pydicom import Dataset

ENDINGS = (".dcm", ".dicom")
MARK = slice(128, 132)  # where a file says "DICM"
START = 2**16
"""Bytes from the start of a file in which `facts` looks."""

MAX_FRAMES = 2**16
"""A file that says it has more is not believed."""

NO_PYDICOM = "DICOM, which is read by the package 'pydicom': pip install 'ganvas[medical]'"

RADIOGRAPHS = frozenset({"CR", "DX", "MG", "RG", "IO", "PX", "RF", "XA", "DR"})
"""Modalities (PS3.3 C.7.3.1.1.1) that are projections by X-rays; DR is an old name of DX."""

NUMBER_OF_FRAMES, MODALITY = 0x0028_0008, 0x0008_0060

ELEMENTS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
"""All that is ever read of a file's contents."""


def available() -> bool:
    """Whether pydicom is installed."""
    return importlib.util.find_spec("pydicom") is not None


def is_named(name: str) -> bool:
    """Told by the ending."""
    return name.lower().endswith(ENDINGS)


def is_dicom(content: bytes) -> bool:
    """Told by the mark, of a whole file or its first 132 bytes."""
    return content[MARK] == b"DICM"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source has to know of a file before it is read."""

    radiograph: bool
    num_frames: int


def facts(start: bytes) -> Facts:
    """Look into the first `START` bytes of a file; one frame where they do not say."""
    from pydicom.filereader import read_partial

    try:
        with _quiet():
            found = read_partial(
                io.BytesIO(start),
                stop_when=lambda tag, vr, length: tag > NUMBER_OF_FRAMES,
                specific_tags=[MODALITY, NUMBER_OF_FRAMES],
            )
            count = int(found.get("NumberOfFrames") or 1)
            return Facts(found.get("Modality") in RADIOGRAPHS, count if 1 <= count <= MAX_FRAMES else 1)
    except Exception:  # what is wrong with the file is said when it is read
        return Facts(False, 1)


def probe(content: bytes) -> PictureInfo:
    """Size and kind of a file's image; raises `PictureError` where `pixels` surely would."""
    with _explained():
        dataset = _opened(content)
        gray = dataset.PhotometricInterpretation.startswith("MONOCHROME")
        return PictureInfo(dataset.Rows, dataset.Columns, 1 if gray else 3, False, _depth(dataset) if gray else 8)


def pixels(content: bytes) -> np.ndarray:
    """The image of a file with one frame, ready to be looked at.

    Gray: (H, W) uint8 in 0..255, or uint16 in 0..65535 where more than 8 bits are stored. Colour: (H, W, 3) uint8.
    Raises `PictureError` with the reason.
    """
    with _explained():
        dataset = _opened(content)
        if (count := int(dataset.get("NumberOfFrames") or 1)) > 1:
            raise PictureError(f"holds {count} frames that could not be told apart: save each as a file of its own")
    (picture,) = _frames(dataset, [0])
    if isinstance(picture, PictureError):
        raise picture
    return picture


def frames(content: bytes, indices: Sequence[int]) -> Iterator[np.ndarray | PictureError]:
    """Some frames of a file with several, as `pixels` gives them, or for each the reason why it cannot."""
    try:
        with _explained():
            dataset = _opened(content)
    except PictureError as error:
        yield from [error] * len(indices)
        return
    yield from _frames(dataset, indices)


def _frames(dataset: Dataset, indices: Sequence[int]) -> Iterator[np.ndarray | PictureError]:
    from pydicom.pixels import get_decoder

    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    for index in indices:
        try:
            with _explained():
                _check_complete(dataset)
                stored, found = decoder.as_array(dataset, index=index)
                picture = _shown(stored, str(found["photometric_interpretation"]), dataset, index)
        except PictureError as error:
            yield error
        else:
            yield picture


# The file.


@contextmanager
def _quiet() -> Generator[None]:
    """Neither warn of what is odd in a file nor check the values in it: warnings may quote them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _explained() -> Generator[None]:
    """Whatever a damaged file makes pydicom raise becomes a short `PictureError` that quotes nothing."""
    try:
        with _quiet():
            yield
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("needs more memory than there is") from None
    except Exception:
        raise PictureError("damaged DICOM file") from None


def _opened(content: bytes) -> Dataset:
    """The elements of a file, which holds pixels that can be decoded; else raises `PictureError`."""
    if not available():
        raise PictureError(NO_PYDICOM)
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(content), specific_tags=list(ELEMENTS))
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise PictureError("has floating point pixels, which are not read: save it with 8 or 16 bits")
    if "PixelData" not in dataset:
        # pydicom gives nothing at all of a file that ends amid compressed pixels; what stands before them tells.
        picture = "Rows" in dcmread(io.BytesIO(content), specific_tags=["Rows"], stop_before_pixels=True)
        kind = "or cut off before their end" if picture else "such as a report or a plan"
        raise PictureError(f"a DICOM file without pixels, {kind}")
    if not dataset.Rows or not dataset.Columns:
        raise PictureError("has no pixels")
    if dataset.Rows * dataset.Columns > MAX_PIXELS:
        raise too_large(dataset.Rows * dataset.Columns)
    if dataset.BitsStored > 16 or dataset.BitsAllocated > 16:
        raise PictureError(f"has {dataset.BitsAllocated} bit pixels, which are not read: save it with 8 or 16 bits")
    _check_syntax(dataset)
    return dataset


def _check_syntax(dataset: Dataset) -> None:
    """Raise `PictureError` where nothing that is installed decodes the transfer syntax; says what would."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.is_transfer_syntax else re.sub(r"[^0-9.]", "", syntax)[:64]
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise PictureError(
            f"its transfer syntax, {name}, is not one that can be decoded: save it uncompressed"
        ) from None
    plugins = set(decoder.available_plugins)
    if syntax == JPEGExtended12Bit and dataset.BitsStored > 8:
        plugins.discard("pillow")  # which says that it can and then decodes 8 bits only
    if syntax.is_encapsulated and not plugins:
        raise PictureError(
            f"its transfer syntax, {name}, needs another decoder: pip install 'ganvas[medical]' pylibjpeg-libjpeg "
            "(which is under GPL-3), or save it uncompressed"
        )


def _check_complete(dataset: Dataset) -> None:
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    from pydicom.pixels.utils import get_expected_length

    if len(dataset.PixelData) < get_expected_length(dataset):
        raise PictureError("truncated")


def _depth(dataset: Dataset) -> int:
    return 16 if dataset.BitsStored > 8 else 8


# Stored values to what is seen.


def _shown(stored: np.ndarray, colors: str, dataset: Dataset, index: int) -> np.ndarray:
    """Frame `index` as it was stored, (H, W) or (H, W, 3), in the colours `colors`, to an image."""
    if colors in ("MONOCHROME1", "MONOCHROME2"):
        lowest, highest = _stored_range(dataset)
        if stored.min() == stored.max():
            raise PictureError("shows nothing: all of its pixels have the same value")
        table = _table(dataset, index, inverted=colors == "MONOCHROME1")
        picture = table[stored.clip(lowest, highest).astype(np.int64) - lowest]
        if picture.min() == picture.max():
            raise PictureError("its window leaves nothing: all of its pixels have the same value in it")
        return picture
    if colors == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        mapped = apply_color_lut(stored, dataset)[..., :3]
        top = 2 ** min(8 * mapped.itemsize, dataset.RedPaletteColorLookupTableDescriptor[2]) - 1
    elif colors == "RGB" and stored.ndim == 3:
        mapped, top = stored, 2**dataset.BitsStored - 1
    else:
        raise PictureError("has colours of a kind that is not read: save it as RGB")
    return mapped if top == 255 else np.rint(mapped.clip(0, top) * (255 / top)).astype(np.uint8)


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    """The lowest and the highest value that the stored bits can hold."""
    if dataset.PixelRepresentation == 1:
        return -(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1
    return 0, 2**dataset.BitsStored - 1


def _table(dataset: Dataset, index: int, inverted: bool) -> np.ndarray:
    """What each value from the lowest to the highest becomes: uint8 or uint16 over their whole range.

    Inverted where the lowest value is white. Presentation LUT Shape is left alone: it says the same again.
    """
    values, window = _groups(dataset, index)
    lowest, highest = _stored_range(dataset)
    seen = np.arange(lowest, highest + 1, dtype=np.float64)
    if values.get("ModalityLUTSequence"):
        lut, first, top = _lut(values.ModalityLUTSequence[0], signed=lowest < 0)
        seen, full = _looked_up(seen, lut, first), (0.0, float(top))
    else:
        slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
        seen = seen * float(1 if slope is None else slope) + float(intercept or 0)
        full = float(seen.min()), float(seen.max())
    if full[0] == full[1]:
        raise PictureError("its rescaling leaves nothing: all values become the same")
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


def _groups(dataset: Dataset, index: int) -> tuple[Dataset, Dataset]:
    """Where the modality values and the window of a frame stand: the file itself, or a group of an enhanced file."""
    found = {"PixelValueTransformationSequence": dataset, "FrameVOILUTSequence": dataset}
    for sequence, position in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
        groups = dataset.get(sequence) or []
        for name in found:
            if position < len(groups) and groups[position].get(name):
                found[name] = groups[position].get(name)[0]
    return found["PixelValueTransformationSequence"], found["FrameVOILUTSequence"]


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Center and width of the first window, None where there is none."""
    first = []
    for name in ("WindowCenter", "WindowWidth"):
        value: Any = dataset.get(name)
        if value in (None, ""):
            return None
        first.append(float(value[0] if isinstance(value, MutableSequence) else value))
    return first[0], first[1]


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """A window's 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3); values outside 0..1 are for the caller to clip."""
    if width < 1 if function == "LINEAR" else width <= 0:
        raise PictureError(f"its window leaves nothing: it is {width:g} wide")
    if function == "SIGMOID":
        return 1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700)))
    if function == "LINEAR":  # by definition half a step to the left and one step narrower
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _lut(item: Dataset, signed: bool) -> tuple[np.ndarray, int, int]:
    """(entries, the value that the first one stands for, the highest possible entry) of a look-up table."""
    descriptor = [int(number) for number in item.LUTDescriptor]
    count, first, bits = descriptor[0] or 2**16, descriptor[1], descriptor[2]
    if signed and first >= 2**15:
        first -= 2**16  # the file's reader may have taken it for unsigned
    data = item.LUTData
    if isinstance(data, bytes):
        # Entries of 8 bits are found both one in a byte and one in two.
        packed = len(data) < 2 * count
        entries = np.frombuffer(data, np.uint8 if packed else np.uint16 if _little(item) else ">u2")[:count]
    else:
        entries = np.atleast_1d(data)[:count]
    if not len(entries) or not 1 <= bits <= 16:
        raise PictureError("its look-up table is damaged")
    return entries.astype(np.float64), first, 2**bits - 1


def _little(item: Dataset) -> bool:
    return item.original_encoding[1] is not False


def _looked_up(values: np.ndarray, lut: np.ndarray, first: int) -> np.ndarray:
    return lut[np.rint(values - first).clip(0, len(lut) - 1).astype(np.int64)]
