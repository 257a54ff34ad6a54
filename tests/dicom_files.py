"""DICOM files for tests, good and broken ones. Importing this needs pydicom; without it, the tests are skipped."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest

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
    """Random values of 0 to `top`, the same for the same shape."""
    top = np.iinfo(dtype).max if top is None else top
    return np.random.default_rng(sum(shape)).integers(0, top, shape, dtype, endpoint=True)


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
"""By a pattern of the reason why each is refused."""

PICTURES = [noise(16, 16 + i) for i in range(5)]
FORMS = pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
