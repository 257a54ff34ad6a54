"""No patient field of a DICOM file reaches a pack, a message, a log or a run; real films."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ganvas
from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.checkup import check
from ganvas.data.packing.pack import Policy
from ganvas.data.packing.write import build_pack
from ganvas.data.reading import dicom
from ganvas.data.reading.sources import open_source

pydicom = pytest.importorskip("pydicom", reason="needs the extra `medical`")

from dicom_files import FORMS, SECRETS, film, group, noise, written  # noqa: E402

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
        pack = build_pack(
            source, DataConfig(size="16"), folder, policy=Policy("films"), fingerprint="films", workers=workers
        )
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
