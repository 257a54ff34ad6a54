"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import io
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

# The process that starts the workers runs no tests: it imports no PyTorch, which takes seconds.
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker, one core, with the processes that its tests start
    import torch
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    threadpool_limits(1)
    gc.disable()  # until all tests are collected: their modules stay


def pytest_collection_finish() -> None:
    """Garbage collections need not look at the imported modules and the list of tests."""
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def files_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packs and downloads go into a temporary folder, and no test waits until the disk has what it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANVAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(os, "fsync", os.fstat)
        yield


@dataclass(frozen=True)
class Answer:
    """What a command gave: its exit code and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def ganvas_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """`ganvas_command("train", folder, "--images", 32)` is that command line, run in this process."""

    from ganvas.cli import main

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ganvas", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as ended:  # --help, and options that cannot be parsed
            code = int(ended.code or 0)
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two class sub-folders with 12 gray 16x16 PNG images each: bars that lie or stand."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("data") / "bars"
    rng = np.random.default_rng(0)
    for name in ("lying", "standing"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 60, (16, 16), np.uint8)
            pixels[4 + i % 6 : 8 + i % 6] = 220
            Image.fromarray(pixels if name == "lying" else pixels.T.copy()).save(folder / name / f"{i:02}.png")
    return folder


TINY = ("--size", 16, "--base", 8, "--z-dim", 8, "--batch", 16, "--previews", 2, "--device", "cpu")
"""Options of the smallest training: about a second."""


@pytest.fixture(scope="session")
def trained(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `two_classes`, for looking at only."""
    import ganvas

    run = tmp_path_factory.mktemp("trained") / "run"
    config = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 2, "device": "cpu"}
    ganvas.train(two_classes, run, images=48, quiet=True, **config)
    return run


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A folder of two runs for a studio, to write into."""
    for name in ("bars", "other"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    """A client of a studio of `folder`, which starts no trainings."""
    from fastapi.testclient import TestClient

    from ganvas.studio import api
    from studio_client import HOME

    with TestClient(api.app(folder, device="cpu"), base_url=HOME) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium that is installed; the module skips itself without one (studio_pages.CHROMIUM)."""
    from playwright.sync_api import sync_playwright

    from studio_pages import CHROMIUM

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def few_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches for copies that are moved little, with a threshold from few real images, which are quick."""
    from ganvas.evaluation import copies

    moves = copies.versions()[:20]
    monkeypatch.setattr(copies, "versions", lambda: moves)
    monkeypatch.setattr(copies, "REGISTERED", 12)
    monkeypatch.setattr(copies, "ENOUGH_TO_CALIBRATE", 30)
    monkeypatch.setattr(copies, "CALIBRATION_FORMAT", -2)  # another place in the cache


@pytest.fixture(scope="module")
def short_classifiers() -> Iterator[None]:
    """Evaluations that cost a second, for tests of everything but the accuracy of their networks.

    The classifiers are trained for a few steps, the network of the second KID sees small images and is loaded once,
    and copies are searched among few moves, with a threshold that is chosen by few images.
    """
    import functools

    from ganvas.evaluation import classifier, copies, efficientnet, two_sample

    few_moves = copies.versions()[:20]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "LEAST_STEPS", 20)
        patch.setattr(classifier, "SEED", 1)  # another place in the cache than that of a fully trained one
        patch.setattr(efficientnet, "SIZE", 32)
        patch.setattr(efficientnet, "load", functools.partial(_loaded, functools.cache(efficientnet.load)))
        patch.setattr(copies, "ENOUGH_TO_CALIBRATE", 30)
        patch.setattr(copies, "HELDOUT", 30)
        patch.setattr(copies, "CALIBRATION_FORMAT", -1)  # another place in the cache
        patch.setattr(copies, "versions", lambda: few_moves)
        patch.setattr(copies, "REGISTERED", 12)
        patch.setattr(two_sample, "CELLS", 2)
        patch.setattr(two_sample, "MAP_IMAGES", 6)
        yield


def _loaded(load: Callable[..., object], name: str, device: object, weights: Path | None, pack: object) -> object:
    """A network of published weights, which does not depend on the pack."""
    return load(name, device, weights, None)


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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images for tests: GANVAS_TEST_DATA, or ../shared/data beside the repository. Skips without them."""
    folder = Path(os.environ.get("GANVAS_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real images: set GANVAS_TEST_DATA to a folder that has mnist/, mednist/ ...")
    return folder
