"""The commands and programs of the documentation work.

In a page, a block ```bash holds commands, one a line, and a block ```python a program. They are run in order in one
folder, with a small budget (`small`), except those under a comment:

    <!-- not run: why -->          the command line understands it, no more is known
    <!-- runs until stopped -->    a server: it is started, asked for its page, and stopped
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

pytest.importorskip("mkdocstrings", reason="mkdocstrings is missing: install the extra docs")
pytest.importorskip("zensical", reason="zensical is missing: install the extra docs")


import ganvas
import ganvas.cli
import processes
from ganvas.errors import GanvasError
from ganvas.share.export_web import runtime_files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guide").glob("*.md"))
SITE = runpy.run_path(str(DOCS / "build_site.py"))
PAGES = [DOCS / "index.md", *GUIDES, ROOT / "README.md", ROOT / "examples" / "README.md"]
QUICK = "first-images"
"""The guide that is run in the quick tests; the others are slow."""

# -- what a page asks the reader to do --

BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)\n```", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. mark: of the comment above it."""

    language: str
    text: str
    mark: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of every command."""
        text = self.text.replace("\\\n", " ")
        return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    found = [Block(m["language"], m["text"], m["mark"] or "") for m in BLOCK.finditer(page.read_text())]
    assert page.read_text().count("\n```") == 2 * len(found), f"{page.name}: a block was not understood"
    return found


def ganvas_words(line: list[str]) -> list[str] | None:
    """What the command line of Ganvas gets in a command, also behind torchrun; None for another program's."""
    for start in (["ganvas"], ["-m", "ganvas"]):
        for place in range(len(line) if "torchrun" in line else 1):
            if line[place : place + len(start)] == start:
                return line[place + len(start) :]
    return None


# -- the command line, without what it does --


def understood(words: list[str]) -> bool:
    """Whether the command line's own parser takes these arguments."""
    if words[0].startswith("--"):
        return words[0] in ("--version", "--tyro-print-completion")
    if "--config" in words:  # the file does not exist here
        place = words.index("--config")
        words = ["train", "images/", *words[1:place], *words[place + 2 :]]
    try:
        ganvas.cli.parse(words)
    except (SystemExit, GanvasError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_understood(page: Path) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for block in blocks(page):
        assert block.mark in ("", SERVED) or block.mark.startswith("not run: "), block.mark
        if block.language == "python":
            compile(block.text, page.name, "exec")
            continue
        for line in block.lines:
            if (words := ganvas_words(line)) is not None:
                assert understood(words), (page.name, shlex.join(line))
            for extras in re.findall(r"^(?:\.|ganvas)\[(.*)\]$", "\n".join(line), re.M):
                assert set(extras.split(",")) <= known.keys(), (page.name, extras)


def test_the_parser_is_the_real_one() -> None:
    assert understood(["train", "images/", "--minutes", "3", "--from", "runs/other"])
    assert not understood(["train", "images/", "--minute", "3"])
    assert not understood(["sample", "runs/mine", "--n", "many"])
    assert not understood(["export", "runs/mine", "--to", "paper", "--out", "x"])


OTHERS = {
    "nproc",
    "nnodes",
    "max",
    "rdzv",
    "standalone",
    "ntasks",
    "gpus",
    "cpus",
    "nodes",
    "time",
    "requeue",
    "signal",
}
OTHERS |= {"open", "job", "dependency", "directory", "help", "strict", "all", "quick", "universal"}
"""First words of other programs' options."""


@functools.cache
def all_options() -> set[str]:
    """The options of all commands, and their negations."""
    known = set(re.findall(r"`(--[a-z0-9-]+)`", SITE["options_page"]() + SITE["commands_page"]()))
    return known | {f"--no-{name[2:]}" for name in known}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_that_is_mentioned_exists(page: Path) -> None:
    known = all_options()
    for span in re.findall(r"`[^`\n]+`", re.sub(BLOCK, "", page.read_text())):
        for option in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", span):
            assert f"--{option}" in known or option.split("-")[0] in OTHERS, (page.name, span)


# -- the commands, run --

SERVED = "runs until stopped"
TINY = ["--size", "16", "--base", "8", "--batch", "16", "--previews", "2", "--limit", "300"]
TINY_OPTIONS = "size=16, base=8, batch=16, previews=2, limit=300"
MOST = {"--n": 12, "--per-class": 2, "--frames": 4, "--steps": 3}


def images(minutes: str) -> int:
    """A budget that is larger where the page's is."""
    return 64 + 16 * int(minutes)


def small(words: list[str]) -> list[str]:
    """The same command with a small budget, and images of 16 pixels a side."""
    words = list(words)
    for option in MOST.keys() & set(words):
        place = words.index(option) + 1
        words[place] = str(min(MOST[option], int(words[place])))
    if words[0] == "train" and "--dry-run" not in words:
        if "--minutes" in words:
            place = words.index("--minutes")
            words[place : place + 2] = ["--images", str(images(words[place + 1]))]
        if "--size" in words:
            place = words.index("--size")
            del words[place : place + 2]
        words += TINY
    if words[0] == "evaluate":
        words += ["--n", "24"]
    return words


def run_page(page: Path, ganvas_command: Callable) -> None:
    """Runs all blocks of a page in the current folder; what a command writes must be there afterwards."""
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.mark.startswith("not run: "):
            continue
        if block.language == "python":
            program = re.sub(r"minutes=(\d+)", lambda m: f"images={images(m[1])}, {TINY_OPTIONS}", block.text)
            exec(compile(program, page.name, "exec"), names)
            continue
        for line in block.lines if block.language == "bash" else ():
            words = ganvas_words(line)
            assert words is not None, f"{page.name}: {shlex.join(line)} is no command of Ganvas: say that it is not run"
            if "web" in words and not has_runtime():
                continue
            if line[0] == "torchrun":
                in_ranks(line[: len(line) - len(words)] + small(words))
            elif block.mark == SERVED:
                serve(words)
            else:
                answer = ganvas_command(*small(words))
                assert answer.code == 0, (shlex.join(line), answer.err)
            if "--out" in words:
                assert Path(words[words.index("--out") + 1]).exists(), shlex.join(line)


@functools.cache
def has_runtime() -> bool:
    """Whether the page's runtime is at hand, or npm brings it."""
    try:
        return bool(runtime_files(None))
    except GanvasError:
        return False


def in_ranks(line: list[str]) -> None:
    """torchrun, with two processes on the CPU instead of eight GPUs."""
    ended = subprocess.run(two_processes(line), capture_output=True, text=True, timeout=600, env=os.environ | SLIM)
    assert ended.returncode == 0, ended.stderr


def two_processes(line: list[str]) -> list[str]:
    line = [sys.executable, "-m", "torch.distributed.run", *line[1:]]
    line[line.index("--nproc-per-node") + 1] = "2"
    return line


SLIM = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def serve(words: list[str]) -> None:
    """Starts a server, asks for its page, and ends it as Ctrl-C does."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    token = "correct-horse-battery"
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"authorization": f"Bearer {token}"})
    process = processes.start(*words, "--port", port, "--no-browser", environment=SLIM | {"GANVAS_TOKEN": token})
    try:
        content = ""
        for _ in range(600):
            assert process.is_alive()
            try:
                with urllib.request.urlopen(asked, timeout=10) as answer:
                    content = answer.read().decode()
                break
            except OSError:
                time.sleep(0.1)
        assert "<html" in content
        os.kill(process.pid, signal.SIGINT)
        assert processes.ended(process) in (0, 130)
    finally:
        processes.kill(process)


# -- the images that the pages speak of --


def digit_folders(folder: Path) -> None:
    """images/ with three classes of 30 digits, and labels.csv."""
    found = load_digits()
    rows = ["file,label"]
    for digit, name in enumerate(("zero", "one", "two")):
        (folder / "images" / name).mkdir(parents=True)
        for i, picture in enumerate(found.images[found.target == digit][:30]):
            pixels = np.kron(picture * 15.9, np.ones((3, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{name}{i:02}.png")
            rows.append(f"{name}{i:02}.png,{'round' if digit == 0 else 'other'}")
    (folder / "labels.csv").write_text("\n".join(rows))


def comic_faces(folder: Path, data: Path) -> None:
    unzip(data / "comic_faces" / "comic_faces_96_5000.zip", folder / "faces", 150)


def medical_pictures(folder: Path, data: Path) -> None:
    """scans/: DICOM; films/: chest films; kinds/: films of two kinds, as classes."""
    unzip(data / "dicom" / "dicom_chest_xray_8.zip", folder / "scans", 8)
    unzip(data / "chest_xray" / "chest_xray_normal_300.zip", folder / "films", 120)
    with tarfile.open(data / "mednist" / "MedNIST_24000.tar.gz") as archive:
        left = {"CXR": 60, "Hand": 60}
        for member in archive:
            kind = Path(member.name).parent.name
            if member.isfile() and left.get(kind):
                left[kind] -= 1
                (folder / "kinds" / kind).mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                (folder / "kinds" / kind / Path(member.name).name).write_bytes(content.read())
            if not any(left.values()):
                break


def unzip(archive: Path, folder: Path, most: int) -> None:
    folder.mkdir()
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".png", ".jpg", ".jpeg", ".dcm"))]
        for name in names[:most]:
            (folder / Path(name).name).write_bytes(opened.read(name))


REAL = {"few-images": comic_faces, "medical": medical_pictures}


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("short_classifiers")
@pytest.mark.parametrize(
    "page", [pytest.param(one, id=one.stem, marks=[] if one.stem == QUICK else [pytest.mark.slow]) for one in GUIDES]
)
def test_every_command_works(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ganvas_command: Callable,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    digit_folders(tmp_path)
    if page.stem in REAL:
        REAL[page.stem](tmp_path, request.getfixturevalue("shared_data"))
    run_page(page, ganvas_command)


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_training_goes_on(tmp_path: Path) -> None:
    """What the page on many GPUs says of restarts, and of another number of processes; tried on a CPU."""
    page = DOCS / "guide" / "many-gpus.md"
    line = next(line for block in blocks(page) for line in block.lines if "--max-restarts" in line)
    digit_folders(tmp_path)
    run = tmp_path / "runs" / "mine"
    words = ganvas_words(line)
    assert words is not None
    often = [*small(words), "--checkpoint-minutes", "0.02", "--images", "20000"]
    place = often.index("--images")
    del often[place : place + 2]
    command = two_processes(line[: len(line) - len(words)] + often)
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | SLIM, start_new_session=True
    )
    try:
        wait_for(lambda: any(run.glob("checkpoints/*.pt")), process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        _, said = process.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too
    assert process.returncode == 0, said
    assert said.count("resuming from") == 1, said
    again = [*often[: often.index("--images") + 1], "21000", *often[often.index("--images") + 2 :]]
    alone = subprocess.run(
        [sys.executable, "-m", "ganvas", *again], cwd=tmp_path, capture_output=True, text=True, env=os.environ | SLIM
    )
    assert alone.returncode == 0 and "resuming from 20,000 images" in alone.stderr, alone.stderr


def wait_for(there: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
