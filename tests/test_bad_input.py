"""Bad input: one sentence, exit code 2, no traceback, nothing lost, nothing half written.

The commands run in this process, some also as processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

import ganvas
import ganvas.explore.verbs
import processes
from conftest import TINY, Answer, Command
from ganvas.run import Run

resource = pytest.importorskip("resource", reason="limits of a process are a matter of Unix")

SHORT = ("--images", 32, *TINY)
Refused = Callable[..., str]


def sentence(code: int, err: str) -> str:
    """The one sentence of a refused command; what was said of the way before it does not count."""
    assert code == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("ganvas: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    return lines[0]


@pytest.fixture
def refused(ganvas_command: Command) -> Refused:
    """Runs a command line that must fail; returns its sentence."""

    def call(*arguments: object) -> str:
        answer = ganvas_command(*arguments)
        return sentence(answer.code, answer.err)

    return call


@pytest.fixture
def works(ganvas_command: Command, tmp_path: Path) -> Callable[..., Answer]:
    """Trains on a source that has something wrong and yet enough that is right; returns what was said."""

    def call(source: Path, *options: object) -> Answer:
        answer = ganvas_command("train", source, "--out", tmp_path / "run", *SHORT, *options)
        assert answer.code == 0, answer.err
        ganvas.Generator.load(tmp_path / "run").sample(2)
        return answer

    return call


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run of one's own, to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def pictures(two_classes: Path, tmp_path: Path) -> Path:
    """A flat folder of eight good images of one's own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        shutil.copy(two_classes / "lying" / f"{i:02}.png", folder / f"good{i}.png")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, by relative name, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: as a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def as_process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ganvas", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


# Sources without images.


@pytest.mark.parametrize("command", ["train", "check", "pack", "sample", "video"])
def test_missing_path(refused: Refused, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"check": ["data", "check", "nowhere"], "pack": ["data", "pack", "nowhere", "out"]}
    assert "nowhere" in refused(*arguments.get(command, [command, "nowhere"]))
    assert list(tmp_path.iterdir()) == []


def test_name_that_is_nearly_one(refused: Refused) -> None:
    assert "did you mean 'mnist'?" in refused("train", "mnits")


def test_files_of_a_named_set_that_are_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "does not exist" in refused("train", "mnist", "--data", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused("train", "mnist", "--data", tmp_path / "empty")


@pytest.mark.parametrize("command", [["train"], ["data", "check"], ["data", "pack"]])
def test_folders_without_enough_pictures(refused: Refused, pictures: Path, tmp_path: Path, command: list[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    out = [tmp_path / "out"] if command[-1] == "pack" else []
    assert "is empty" in refused(*command, source, *out)
    (source / "notes.txt").write_text("no images here")
    assert "no images (it contains 1 x .txt)" in refused(*command, source, *out)
    shutil.copy(pictures / "good0.png", source)
    if command[-1] != "check":  # to look at one image is fine
        assert "only one image" in refused(*command, source, *out)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_source(refused: Refused, pictures: Path, tmp_path: Path) -> None:
    assert "is a single image" in refused("train", pictures / "good0.png")
    (tmp_path / "thesis.pdf").write_bytes(b"%PDF-1.7")
    assert "is not a supported file of images" in refused("train", tmp_path / "thesis.pdf")
    assert "File name too long" in refused("train", "x" * 5000)


def test_pictures_of_another_format(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "phone.heic").write_bytes(b"\0" * 64)
    said = refused("train", tmp_path / "source", "--out", tmp_path / "run", *SHORT)
    assert ".heic" in said and "PNG" in said
    assert not (tmp_path / "run").exists()


# Bad files among good ones: the rest is used, the bad ones are named.


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A small PNG file that claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_broken_files_are_named_and_the_rest_is_used(
    works: Callable[..., Answer], ganvas_command: Command, pictures: Path
) -> None:
    good = (pictures / "good0.png").read_bytes()
    (pictures / "bomb.png").write_bytes(bomb(50_000))
    (pictures / "cut.png").write_bytes(good[: len(good) // 2])
    (pictures / "text.png").write_text("I am no picture")
    said = works(pictures).err
    assert "8 images of 16x16x1" in said and "3 of the files could not be used" in said
    for reason in ("bomb.png (too large", "cut.png (truncated", "text.png (not an image, but text"):
        assert reason in said
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "flipped.png").write_bytes(good[:60] + bytes(40) + good[100:])
    checked = ganvas_command("data", "check", pictures)
    assert checked.code == 0 and "8 images" in checked.out
    for name in ("bomb.png", "cut.png", "text.png", "empty.png", "flipped.png"):
        assert name in checked.out


def test_only_broken_files(refused: Refused, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(bomb(50_000))
    assert "2 rejected; the first is a.png: too large" in refused("train", tmp_path)


@pytest.mark.parametrize("name", ["../../evil.png", "/tmp/evil.png", "C:\\evil.png"])
def test_unsafe_names_in_a_zip(works: Callable[..., Answer], pictures: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / "deep" / "deeper" / "set.zip"
    source.parent.mkdir(parents=True)
    with zipfile.ZipFile(source, "w") as archive:
        for path in sorted(pictures.iterdir()):
            archive.write(path, path.name)
        archive.writestr(name, (pictures / "good0.png").read_bytes())
    said = works(source).err
    assert "8 images" in said and "unsafe name" in said
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/evil.png").exists()


def test_symbolic_link_loops(works: Callable[..., Answer], refused: Refused, pictures: Path, tmp_path: Path) -> None:
    (pictures / "again").symlink_to(pictures)
    (pictures / "itself.png").symlink_to("itself.png")
    said = works(pictures).err
    assert "8 images" in said and "already listed" in said and "broken symbolic link" in said
    (tmp_path / "loop").symlink_to("loop")
    assert "loop" in refused("train", tmp_path / "loop")


def test_names_that_are_not_utf_8(works: Callable[..., Answer], ganvas_command: Command, pictures: Path) -> None:
    try:
        source = pictures.rename(os.fsdecode(os.fsencode(pictures) + b"\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (source / "good0.png").rename(source / os.fsdecode(b"caf\xe9.png"))
    run = source.parent / "run"
    assert "8 images" in works(source).err
    odd_run = run.rename(os.fsdecode(os.fsencode(run) + b"\xe9"))
    for command in (["train", source, "--out", odd_run, *SHORT], ["video", odd_run], ["data", "check", source]):
        answer = ganvas_command(*command)
        assert answer.code == 0, answer.err


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody can read")
def test_unreadable_file(works: Callable[..., Answer], pictures: Path) -> None:
    (pictures / "locked.png").symlink_to("/proc/self/mem")  # fails for root as well
    said = works(pictures).err
    assert "8 images" in said and "locked.png (cannot be read" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_forbidden_file_and_folder(works: Callable[..., Answer], refused: Refused, pictures: Path) -> None:
    (pictures / "good7.png").chmod(0)
    assert "7 pictures" in works(pictures).err
    pictures.chmod(0)
    assert "cannot be read" in refused("train", pictures)
    pictures.chmod(0o700)


# Labels.


def test_labels_csv_that_names_absent_files(works: Callable[..., Answer], refused: Refused, pictures: Path) -> None:
    rows = [f"good{i}.png,{'even' if i % 2 == 0 else 'odd'}" for i in range(8)]
    (pictures / "labels.csv").write_text("\n".join(["file,label", *rows, "gone.png,even"]))
    said = works(pictures, "--labels", pictures / "labels.csv").err
    assert "8 images of 16x16x1 in 2 classes" in said and "gone.png (listed in labels.csv but missing)" in said
    (pictures / "other.csv").write_text("file,label\nnone.png,a\nnor.png,b\n")
    assert "none is an image" in refused("train", pictures, "--labels", pictures / "other.csv")
    assert "no such file" in refused("train", pictures, "--labels", pictures / "absent.csv")


def test_class_with_one_picture(works: Callable[..., Answer], two_classes: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(two_classes, tmp_path / "source"))
    (source / "rare").mkdir()
    shutil.copy(source / "lying" / "00.png", source / "rare")
    said = works(source).err
    assert "Classes with a single image, which cannot be learned: rare." in said and "in 3 classes" in said


def test_odd_class_names(ganvas_command: Command, works: Callable[..., Answer], pictures: Path, tmp_path: Path) -> None:
    names = ["../x", "..", "Größe 大", "𠀀" * 300, "a/b:c*?", "CON"]
    rows = [f"good{i}.png,{names[i % len(names)]}" for i in range(8)]
    (pictures / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    works(pictures, "--labels", pictures / "labels.csv")
    out = tmp_path / "deep" / "samples"
    answer = ganvas_command("sample", tmp_path / "run", "--n", 6, "--out", out)
    assert answer.code == 0, answer.err
    assert len(list(out.glob("seed*.png"))) == 6 and list(out.parent.iterdir()) == [out]
    manifest = (out / "manifest.csv").read_text(encoding="utf-8")
    assert all(name in manifest for name in names)


def test_more_classes_than_a_grid_shows(works: Callable[..., Answer], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (80, 16, 16), np.uint8)
    np.savez(tmp_path / "many.npz", images=images, labels=np.arange(80) % 40)
    assert "in 40 classes" in works(tmp_path / "many.npz").err
    with Image.open(Run(tmp_path / "run").grids()[-1][1]) as grid:
        assert grid.height == 16 * 18 + 2


def test_label_that_does_not_exist(refused: Refused, trained: Path, tmp_path: Path) -> None:
    said = refused("sample", trained, "--label", "Hand", "--out", tmp_path / "out")
    assert "'Hand' does not exist: this model has lying, standing" in said
    assert not (tmp_path / "out").exists()


def test_class_that_does_not_exist(refused: Refused, two_classes: Path) -> None:
    said = refused("train", two_classes, "--classes", "lying", "slanting")
    assert "slanting" in said and "standing" in said


# Options.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--fit", "stretched"], "--fit stretched: expected one of crop, pad, stretch, did you mean 'stretch'?"),
        (["--size", "0"], "--size 0: each side must be between 8 and 4096 pixels"),
        (["--size", "7"], "--size 7: each side must be between 8 and 4096 pixels"),
        (["--size", "-5"], "--size -5: expected a number of pixels"),
        (["--size", "big"], "--size big: expected a number of pixels such as 64"),
        (["--minutes", "-1"], "--minutes -1: expected a number above 0"),
        (["--minutes", "nan"], "--minutes nan: expected a number above 0"),
        (["--images", "0"], "--images 0: expected a number above 0"),
        (["--minutes", "1", "--images", "9"], "give one budget, not 2: --minutes and --images"),
        (["--seed", "-1"], "--seed -1: expected 0 or more"),
        (["--subset-seed", "-1"], "--subset-seed -1: expected 0 or more"),
        (["--augment", "2"], "--augment 2: expected a number from 0 to 1"),
        (["--limit", "1"], "--limit 1: at least 2 images are needed"),
        (["--model", "resnet"], "--model resnet: expected one of light, compact"),
        (["--loss", "hing"], "--loss hing: expected one of relativistic"),
        (["--device", "abacus"], "--device abacus: expected cpu, cuda"),
        (["--background", "mauvish"], "--background mauvish: expected white"),
        (["--files", "nowhere.txt"], "--files nowhere.txt cannot be read"),
        (["--conditional", "--labels", "none"], "these images have no labels"),
        (["--micro-batch", "99", "--batch", "8"], "--micro-batch 99: expected at most 8, the images per process"),
    ],
)
def test_options_that_cannot_be(
    refused: Refused, two_classes: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    assert expected in refused("train", two_classes, "--out", tmp_path / "run", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none(refused: Refused, two_classes: Path, trained: Path) -> None:
    for command in (["train", two_classes, "--dry-run"], ["sample", trained]):
        assert "--device cuda: PyTorch finds no CUDA GPU" in refused(*command, "--device", "cuda")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--n", "0"], "--n 0: expected 1 or more"),
        (["--n", "-3"], "--n -3: expected 1 or more"),
        (["--seed", "-1"], "--seed -1: expected 0 or more"),
        (["--truncation", "2"], "--truncation 2: expected a number from 0 to 1"),
        (["--truncation", "nan"], "--truncation nan: expected a number from 0 to 1"),
    ],
)
def test_samples_that_cannot_be(
    refused: Refused, trained: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    assert expected in refused("sample", trained, "--out", tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_films_that_cannot_be(refused: Refused, trained: Path, run: Path, tmp_path: Path) -> None:
    assert "--formats avi: expected some of gif, webp, mp4" in refused("video", trained, "--formats", "gif,avi")
    assert "--max-mb 0: expected a number above 0" in refused("video", trained, "--max-mb", 0)
    assert "is too small" in refused("video", trained, "--max-mb", 0.001, "--out", tmp_path / "out")
    assert "has no preview grids" in refused("video", trained / "model")
    grid = Run(run).grids()[0][1]
    grid.write_bytes(grid.read_bytes()[:80])
    assert f"{grid} is damaged" in refused("video", run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "digits", "--imags", "9"], "--images"),
        (["sample", "run", "--labl", "a"], "--label"),
        (["train", "digits", "--images", "many"], "--images"),
        (["sampel", "run"], "'sample'"),
        (["train"], "SOURCE"),
        ([], "train"),
        (["data"], "check"),
    ],
)
def test_command_lines_that_cannot_be_read(ganvas_command: Command, arguments: list[str], expected: str) -> None:
    answer = ganvas_command(*arguments)
    assert answer.code == 2 and expected in answer.err and "--help" in answer.err
    assert "Traceback" not in answer.err and not answer.out


# Run folders.


def test_run_of_other_pictures_or_options(refused: Refused, run: Path, two_classes: Path, pictures: Path) -> None:
    before = content(run)
    said = refused("train", pictures, "--out", run, "--images", 48, *TINY)
    assert "was trained on other images (24 of 16x16, 1 channels; now 8 of 16x16, 1 channels)" in said
    said = refused("train", two_classes, "--out", run, "--images", 48, *TINY, "--model", "residual", "--lr", 0.5)
    assert "model None -> residual; lr None -> 0.5" in said
    assert "trained on other images" in refused("train", two_classes, "--out", run, "--size", 32, "--images", 99)
    assert "48 images: --images 16 is less" in refused("train", two_classes, "--out", run, "--images", 16, *TINY)
    assert "give a larger --images" in refused("train", two_classes, "--out", run, "--minutes", 5, *TINY)
    assert content(run) == before


def test_folder_of_other_things(refused: Refused, two_classes: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for command in (["train", two_classes, "--out", tmp_path], ["data", "pack", two_classes, tmp_path]):
        assert "thesis" not in refused(*command)
    assert content(tmp_path) == {"thesis.txt": b"mine"}


def test_two_processes_on_one_run(refused: Refused, run: Path, two_classes: Path) -> None:
    before = content(run)
    with Run(run):
        said = refused("train", two_classes, "--out", run, "--images", 999, *TINY)
    assert "another process is training in" in said and content(run) == before


@pytest.mark.parametrize(
    "spoilt",
    [b"", b"{", b"[]", b"{}", b"null", b'{"data": 1, "model": {}, "asked": {}, "train": {}}', b"\xff{}", b"[" * 10**5],
)
def test_damaged_config(refused: Refused, run: Path, two_classes: Path, spoilt: bytes) -> None:
    (run / "config.json").write_bytes(spoilt)
    before = content(run)
    said = refused("train", two_classes, "--out", run, "--images", 99, *TINY)
    assert "config.json is damaged" in said and content(run) == before


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("train", {"batch": "16"}),
        ("train", {"images": None}),
        ("train", {"r1": [1]}),
        ("train", {"loss": "none", "seed": True}),
        ("model", {"height": None}),
        ("data", {"source": 5}),
        ("data", {"hash": ["a"]}),
    ],
)
def test_config_with_values_of_another_kind(
    refused: Refused, run: Path, two_classes: Path, part: str, change: dict[str, object]
) -> None:
    config = json.loads((run / "config.json").read_text())
    config[part] |= change
    (run / "config.json").write_text(json.dumps(config))
    assert "config.json is damaged" in refused("train", two_classes, "--out", run, "--images", 99, *TINY)


def test_damaged_lines_of_the_log_are_left_out(ganvas_command: Command, run: Path, two_classes: Path) -> None:
    odd: list[object] = [[1], 5, {}, {"images": "16"}, {"images": True}, {"images": 1e300}]  # no records
    odd += [{"images": 16, "health": ["x"]}]
    lacking = [{"images": 16, "score": 1}, {"images": 16, "loss": "x"}, {"images": 16, "health": 5}]
    lines = [b"\xff\xfe", b"\0", b'{"images": 16', b"[" * 10**5, *(json.dumps(one).encode() for one in odd + lacking)]
    log = run / "log.jsonl"
    before = log.read_bytes()
    log.write_bytes(b"\n".join(lines) + b"\n" + before)
    assert ganvas_command("report", run).code == 0
    answer = ganvas_command("train", two_classes, "--out", run, "--images", 64, *TINY)
    assert answer.code == 0 and f"log.jsonl had {4 + len(odd)} damaged lines, which were removed" in answer.err
    assert before in log.read_bytes() and b"\xff" not in log.read_bytes()


def test_an_option_that_is_not_the_one_that_was_written(refused: Refused, run: Path, two_classes: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["train"]["lr"] *= 2
    (run / "config.json").write_text(json.dumps(config))
    assert "do not match its checksum" in refused("train", two_classes, "--out", run, "--images", 99, *TINY)


def test_config_with_missing_or_unknown_fields(refused: Refused, run: Path, two_classes: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["checksum"]  # as in runs of ganvas 0.1.0
    (run / "config.json").write_text(json.dumps(config | {"model": config["model"] | {"base": 12}}))
    assert "do not match its config.json" in refused("train", two_classes, "--out", run, "--images", 99, *TINY)
    del config["model"]["height"]
    (run / "config.json").write_text(json.dumps(config))
    assert "height" in refused("train", two_classes, "--out", run, "--images", 99, *TINY)
    config["train"]["magic"] = 1
    (run / "config.json").write_text(json.dumps(config))
    assert "magic" in refused("train", two_classes, "--out", run, "--images", 99, *TINY)
    assert "config.json" in refused("train", two_classes, "--out", run / "model", "--images", 99, *TINY)


def test_damaged_checkpoints(refused: Refused, ganvas_command: Command, run: Path, two_classes: Path) -> None:
    newest = Run(run).saved()[-1].path
    assert len(Run(run).saved()) > 1
    newest.write_bytes(newest.read_bytes()[:-100])
    answer = ganvas_command("train", two_classes, "--out", run, "--images", 48, *TINY)
    assert answer.code == 0 and "is damaged; using the previous one" in answer.err
    for checkpoint in Run(run).saved():
        checkpoint.path.write_bytes(b"")
    before = content(run)
    assert "has no other good checkpoint" in refused("train", two_classes, "--out", run, "--images", 48, *TINY)
    assert content(run) == before


class Evil:
    """Unpickled, it makes the folder that it was given."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_pickle_dressed_as_a_checkpoint(refused: Refused, run: Path, two_classes: Path, tmp_path: Path) -> None:
    import hashlib

    evil = tmp_path / "evil.pt"
    torch.save({"generator": Evil(tmp_path / "executed")}, evil)
    digest = hashlib.sha256(evil.read_bytes()).hexdigest()[:16]
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    evil.rename(run / "checkpoints" / f"{48:012d}-{digest}.pt")
    assert "was not written by Ganvas" in refused("train", two_classes, "--out", run, "--images", 64, *TINY)
    assert not (tmp_path / "executed").exists()


# Model files.


def test_pickle_dressed_as_a_model(refused: Refused, run: Path, tmp_path: Path) -> None:
    weights = run / "model" / "generator.safetensors"
    for write in (lambda: weights.write_bytes(pickle.dumps(Evil(tmp_path / "executed"))),
                  lambda: torch.save(Evil(tmp_path / "executed"), weights)):  # fmt: skip
        write()
        assert "is a Python pickle, which could run code" in refused("sample", run, "--out", tmp_path / "out")
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out").exists()


def spoil_weights(weights: Path, how: str) -> None:
    whole = weights.read_bytes()
    if how == "truncated":
        weights.write_bytes(whole[: len(whole) // 2])
    elif how == "one bit":
        weights.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "text":
        weights.write_text("I am no model")
    elif how == "of another program":
        safetensors.torch.save_file({"weight": torch.zeros(3)}, weights)
    elif how == "of the future":
        with safetensors.safe_open(weights, framework="pt") as file:
            metadata = file.metadata()
        info = json.loads(metadata["ganvas"]) | {"format": 99}
        safetensors.torch.save_file(
            safetensors.torch.load(whole), weights, metadata | {"ganvas": json.dumps(info)}
        )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("truncated", "is damaged or not a safetensors file"),
        ("one bit", "is damaged (wrong checksum)"),
        ("empty", "is damaged or not a safetensors file"),
        ("text", "is damaged or not a safetensors file"),
        ("of another program", "has no readable Ganvas configuration"),
        ("of the future", "has format 99"),
    ],
)
def test_spoilt_model(refused: Refused, run: Path, tmp_path: Path, how: str, expected: str) -> None:
    spoil_weights(run / "model" / "generator.safetensors", how)
    assert expected in refused("sample", run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_without_a_model(refused: Refused, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "model")
    assert "contains no generator.safetensors" in refused("sample", run, "--out", tmp_path / "out")


# Places that cannot be written.


@pytest.mark.parametrize("command", ["train", "pack", "sample", "grid", "video", "check"])
def test_place_that_cannot_be_written(
    refused: Refused, two_classes: Path, trained: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    inside = tmp_path / "file" / "out"
    arguments = {
        "train": ["train", two_classes, "--out", inside],
        "pack": ["data", "pack", two_classes, inside],
        "sample": ["sample", trained, "--out", inside],
        "grid": ["sample", trained, "--out", inside, "--grid"],
        "video": ["video", trained, "--out", inside],
        "check": ["data", "check", two_classes, "--save", inside],
    }[command]
    assert "cannot be written" in refused(*arguments)
    if command == "train":
        assert "is a file" in refused("train", two_classes, "--out", tmp_path / "file")
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory\nat x")])
def test_no_memory(refused: Refused, trained: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ganvas.explore.verbs, "sample", short)
    assert "not enough memory" in refused("sample", trained)


def test_full_disk_while_training(refused: Refused, ganvas_command: Command, two_classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ganvas_command("train", two_classes, "--out", out, "--images", 32, *TINY)
    before = content(out)
    size = max(len(saved) for saved in before.values())
    with full_disk(size // 2):
        said = refused("train", two_classes, "--out", out, "--images", 48, *TINY)
    assert "no space left on the disk while writing" in said
    assert not list(out.rglob("*.tmp"))
    kept = {name: saved for name, saved in before.items() if name.startswith(("checkpoints", "model", "samples"))}
    assert kept.items() <= content(out).items()
    answer = ganvas_command("train", two_classes, "--out", out, "--images", 48, *TINY)
    assert answer.code == 0 and "resuming from 32 images" in answer.err


def test_full_disk_while_a_run_begins(refused: Refused, two_classes: Path, tmp_path: Path) -> None:
    ganvas.open_pack(two_classes)
    with full_disk(100):
        assert "no space left" in refused("train", two_classes, "--out", tmp_path / "run", "--images", 48)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_packing_sampling_and_filming(
    refused: Refused, two_classes: Path, trained: Path, tmp_path: Path
) -> None:
    with full_disk(100):
        assert "the disk is full" in refused("data", "pack", two_classes, tmp_path / "pack", "--size", 24)
        assert "no space left" in refused("sample", trained, "--out", tmp_path / "samples")
        assert "no space left" in refused("sample", trained, "--grid", "--out", tmp_path / "grid.png")
        assert "no space left" in refused("video", trained, "--out", tmp_path / "film")
        assert "no space left" in refused("data", "check", two_classes, "--save", tmp_path / "report.json")
    assert not content(tmp_path)


# The same as processes of their own.


def test_as_a_process(tmp_path: Path) -> None:
    answer = as_process("train", "digits", "--size", "7", cwd=tmp_path)
    assert "--size 7: each side must be" in sentence(answer.returncode, answer.stderr)
    assert len(answer.stderr.splitlines()) == 1 and not answer.stdout and list(tmp_path.iterdir()) == []


def test_output_that_nobody_reads() -> None:
    line = f"{sys.executable} -m ganvas --help | true"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=buffered)
    assert answer.stderr == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_output_of_a_command_that_nobody_reads(tmp_path: Path) -> None:
    """The reader goes before the command prints its list."""
    pipe, errors = tmp_path / "pipe", tmp_path / "errors"
    os.mkfifo(pipe)
    process = processes.start("data", "list", output=pipe, errors=errors)
    os.close(os.open(pipe, os.O_RDONLY))  # once the process has opened it
    assert processes.ended(process) == 1 and errors.read_text() == ""


def test_a_process_in_an_empty_folder_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    errors, out = tmp_path / "errors", tmp_path / "out"
    process = processes.start("train", "nowhere", output=out, errors=errors, folder=tmp_path / "here")
    assert "'nowhere' is neither an existing path" in sentence(processes.ended(process) or 0, errors.read_text())
    assert len(errors.read_text().splitlines()) == 1 and not out.read_text()
    assert list((tmp_path / "here").iterdir()) == []
