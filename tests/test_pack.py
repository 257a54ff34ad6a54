"""From images to a pack and back: exact pixels, nothing half written, nothing packed twice."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import processes
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.data.packing import pool
from ganvas.data.packing.pool import parallel_map
from ganvas.data.packing.selection import choose_size
from ganvas.errors import DataError

# Waits for a minute when it begins to pack; not guarded by `if __name__ == "__main__"`, as a beginner's script.
LINGERING = """
import sys, time
from ganvas.data import open_pack
def progress(what, done, total):
    if what == "packing":
        print("packing", flush=True)
        time.sleep(60)
open_pack(sys.argv[1], progress=progress)
"""


def pack_and_print(source: str) -> None:
    """Prints what becomes of the images."""
    pack = open_pack(source)
    print(pack.num_images, pack.hash)


def pack_on_a_full_disk(source: str) -> None:
    """Prints the error of a process that may write only small files."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        open_pack(source)
    except DataError as error:
        print(error)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def random_pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_pictures(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
    return folder


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "packs").glob("*") if not (path / "pack.json").exists() and path.is_dir()]


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 3]), st.integers(0, 99))
def test_pixels_come_through_exactly(num, height, width, channels, seed):
    images = random_pictures(num, height, width, channels, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        source = write_pictures(Path(folder) / "source", images.squeeze(3) if channels == 1 else images)
        pack = open_pack(source, folder=Path(folder) / "pack")
        assert (pack.height, pack.width, pack.channels, pack.depth) == (height, width, channels, 8)
        assert np.array_equal(pack.images, images)
        assert pack.names == [f"{i:04d}.png" for i in range(num)]
        del pack


def test_many_pictures_over_processes_come_in_order(tmp_path):
    images = random_pictures(700, 16, 16, 3)
    source = write_pictures(tmp_path / "source", images)
    assert np.array_equal(open_pack(source).images, images)


def test_labels_are_the_class_folders(tmp_path):
    write_pictures(tmp_path / "source" / "cat", random_pictures(3, 16, 16))
    write_pictures(tmp_path / "source" / "dog", random_pictures(1, 16, 16, seed=1))
    pack = open_pack(tmp_path / "source")
    assert pack.classes == ["cat", "dog"] and pack.num_classes == 2
    assert pack.labels is not None and pack.labels.tolist() == [0, 0, 0, 1]
    assert any("single image" in note and "dog" in note for note in pack.notes)


def test_sixteen_bits_stay(tmp_path):
    images = np.random.default_rng(0).integers(0, 65536, (3, 12, 12), np.uint16)
    write_pictures(tmp_path / "source", images)
    pack = open_pack(tmp_path / "source")
    assert (pack.depth, pack.channels) == (16, 1)
    assert np.array_equal(pack.images[..., 0], images)


def test_arrays_take_the_short_way_with_the_same_result(tmp_path):
    images = random_pictures(50, 20, 24)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(50) % 3)
    pack = open_pack(tmp_path / "set.npz")
    assert np.array_equal(pack.images[..., 0], images)
    assert pack.labels is not None and pack.labels.tolist() == (np.arange(50) % 3).tolist()
    resized = open_pack(tmp_path / "set.npz", DataConfig(size="16", channels="color"))
    assert resized.images.shape == (50, 16, 16, 3)


def test_second_call_reads_no_picture(tmp_path):
    source = write_pictures(tmp_path / "source", random_pictures(4, 16, 16))
    first = open_pack(source)
    calls = []
    second = open_pack(source, progress=lambda *what: calls.append(what))
    assert not calls
    assert (second.hash, second.folder) == (first.hash, first.folder)


def test_other_policy_is_another_pack(tmp_path):
    source = write_pictures(tmp_path / "source", random_pictures(4, 16, 16))
    assert open_pack(source).folder != open_pack(source, DataConfig(size="32")).folder


def test_changed_source_is_packed_again_and_said(tmp_path):
    source = write_pictures(tmp_path / "source", random_pictures(4, 16, 16))
    first = open_pack(source)
    old_pixels = np.array(first.images)
    write_pictures(source, random_pictures(5, 16, 16, seed=1))
    said = []
    second = open_pack(source, progress=lambda what, done, total: said.append(what))
    assert second.folder == first.folder and second.num_images == 5 and second.hash != first.hash
    assert any("changed" in what for what in said) and any("changed" in note for note in second.notes)
    assert np.array_equal(first.images, old_pixels)  # whoever has the old one open keeps it


def test_same_content_has_the_same_hash(tmp_path):
    images = random_pictures(4, 16, 16)
    one = open_pack(write_pictures(tmp_path / "one", images))
    two = open_pack(write_pictures(tmp_path / "two", images))
    assert one.hash == two.hash and one.folder != two.folder


def test_broken_pictures_are_named_and_the_rest_is_used(tmp_path):
    source = write_pictures(tmp_path / "source", random_pictures(4, 64, 64))
    whole = (source / "0001.png").read_bytes()
    (source / "0001.png").write_bytes(whole[: len(whole) // 2])  # its header is fine
    (source / "0002.png").write_text("not an image")
    pack = open_pack(source)
    assert pack.names == ["0000.png", "0003.png"] and len(pack.images) == 2
    assert {file.name for file in pack.record.rejected} == {"0001.png", "0002.png"}
    assert all(file.reason for file in pack.record.rejected)


def test_one_picture_is_not_enough(tmp_path, cache):
    source = write_pictures(tmp_path / "source", random_pictures(2, 16, 16))
    (source / "0000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"only one image.*0000.png"):
        open_pack(source)
    assert not leftovers(cache)


def test_subsets_are_drawn_by_the_seed(tmp_path):
    write_pictures(tmp_path / "source" / "cat", random_pictures(10, 8, 8))
    write_pictures(tmp_path / "source" / "dog", random_pictures(10, 8, 8, seed=1))
    source = tmp_path / "source"
    drawn = open_pack(source, DataConfig(limit=7))
    assert drawn.num_images == 7 and drawn.names == sorted(drawn.names)
    assert any("7 of 20" in note for note in drawn.notes)
    assert open_pack(source, DataConfig(limit=7, subset_seed=1)).names != drawn.names
    dogs = open_pack(source, DataConfig(classes=("dog",)))
    assert dogs.classes == ["dog"] and dogs.num_images == 10
    (tmp_path / "list.txt").write_text("cat/0003.png\ndog/0001.png\n")
    listed = open_pack(source, DataConfig(files=tmp_path / "list.txt"))
    assert listed.names == ["cat/0003.png", "dog/0001.png"]
    assert len({pack.record.names_hash for pack in (drawn, dogs, listed)}) == 3


def test_unknown_class_and_unknown_file_are_errors(tmp_path):
    write_pictures(tmp_path / "source" / "cat", random_pictures(2, 8, 8))
    write_pictures(tmp_path / "source" / "dog", random_pictures(2, 8, 8))
    with pytest.raises(DataError, match=r"no class 'dgo', did you mean 'dog'\?.*cat, dog"):
        open_pack(tmp_path / "source", DataConfig(classes=("dgo",)))
    (tmp_path / "list.txt").write_text("cat/0009.png\n")
    with pytest.raises(DataError, match=r"cat/0009.png.*cat/0000.png"):
        open_pack(tmp_path / "source", DataConfig(files=tmp_path / "list.txt"))


def test_pack_folder_opens_and_refuses_what_it_is_not(tmp_path):
    source = write_pictures(tmp_path / "source", random_pictures(3, 16, 16))
    made = open_pack(source, folder=tmp_path / "pack")
    assert open_pack(tmp_path / "pack").hash == made.hash
    assert open_pack(tmp_path / "pack", DataConfig(size="16", channels="gray", kind="xray")).mirror is False
    with pytest.raises(DataError, match=r"16x16, not 32.*1 channels, not 3"):
        open_pack(tmp_path / "pack", DataConfig(size="32", channels="color"))
    with pytest.raises(DataError, match="other options"):
        open_pack(source, DataConfig(size="32"), folder=tmp_path / "pack")


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    source = write_pictures(tmp_path / "source", random_pictures(3, 16, 16))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a pack"):
        open_pack(source, folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("harm", ["cut", "garbage", "version", "gone"])
def test_damaged_pack_is_refused_and_made_again(tmp_path, harm):
    source = write_pictures(tmp_path / "source", random_pictures(3, 16, 16))
    folder = open_pack(source).folder
    if harm == "cut":
        os.truncate(folder / "images.npy", 300)
    elif harm == "garbage":
        (folder / "pack.json").write_text("{")
    elif harm == "version":
        info = json.loads((folder / "pack.json").read_text())
        (folder / "pack.json").write_text(json.dumps(info | {"format": 99}))
    else:
        (folder / "images.npy").unlink()
    with pytest.raises(DataError, match="again"):
        Pack.open(folder)
    assert open_pack(source).num_images == 3


def with_array(name: str, change):
    """A harm: this array of a pack is written anew, changed."""

    def harm(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)))

    return harm


def with_info(**changes):
    def harm(folder: Path) -> None:
        info = json.loads((folder / "pack.json").read_text())
        (folder / "pack.json").write_text(json.dumps(info | changes))

    return harm


def with_bytes(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def without_field(name: str):
    def harm(folder: Path) -> None:
        info = json.loads((folder / "pack.json").read_text())
        del info[name]
        (folder / "pack.json").write_text(json.dumps(info))

    return harm


def npy(kind: str, num: int) -> bytes:
    """The head of an array file, and no numbers."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({num},)}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


HARMS = {
    "images zeroed": with_array("images.npy", np.zeros_like),
    "images inverted": with_array("images.npy", np.invert),
    "images in another order": with_array("images.npy", lambda images: images[::-1]),
    "images float64": with_array("images.npy", lambda images: images.astype(np.float64)),
    "images of 16 bits": with_array("images.npy", lambda images: images.astype(np.uint16)),
    "images flat": with_array("images.npy", lambda images: images.reshape(len(images), -1)),
    "one image": with_array("images.npy", lambda images: images[:1]),
    "no array": with_bytes("images.npy", b""),
    "endless array": with_bytes("images.npy", npy("|u1", 9 * 10**14)),
    "array of objects": with_bytes("labels.npy", npy("|O", 40)),
    "archive for an array": with_bytes("labels.npy", b"PK\x05\x06" + bytes(18)),
    "labels permuted": with_array("labels.npy", lambda labels: labels[::-1]),
    "labels out of range": with_array("labels.npy", lambda labels: labels + 1),
    "labels below range": with_array("labels.npy", lambda labels: labels - 1),
    "labels float64": with_array("labels.npy", lambda labels: labels.astype(np.float64)),
    "endless labels": with_bytes("labels.npy", npy("<i8", 9 * 10**14)),
    "held out zeroed": with_array("heldout.npy", np.zeros_like),
    "held out others": with_array("heldout.npy", lambda heldout: np.arange(len(heldout))),
    "held out beyond": with_array("heldout.npy", lambda heldout: heldout + 1000),
    "held out before": with_array("heldout.npy", lambda heldout: heldout - 1000),
    "held out falling": with_array("heldout.npy", lambda heldout: heldout[::-1]),
    "held out float64": with_array("heldout.npy", lambda heldout: heldout.astype(np.float64)),
    "other names": with_bytes("names.txt", b"a.png\n" * 40),
    "no names": lambda folder: (folder / "names.txt").unlink(),
    "no text": with_bytes("pack.json", b"\xff"),
    "deep": with_bytes("pack.json", b"[" * 100_000),
    "long number": with_bytes("pack.json", b'{"format": ' + b"9" * 10_000 + b"}"),
    "list": with_bytes("pack.json", b"[]"),
    "null": with_bytes("pack.json", b"null"),
    "classes no list": with_info(classes="ab"),
    "classes no names": with_info(classes=[1, 2]),
    "classes swapped": with_info(classes=["b", "a"]),
    "kind": with_info(kind="unknown"),
    "mirror": with_info(mirror="yes"),
    "depth": with_info(depth=16),
    "request": with_info(request=[]),
    "hash": with_info(hash=None),
    "notes": with_info(notes=[1]),
} | {f"without {name}": without_field(name) for name in (
    "classes", "fingerprint", "format", "hash", "heldout", "kind", "labelled", "licence", "mirror", "names_hash",
    "notes", "rejected", "request", "shape",
)}  # fmt: skip


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a cache, and "source" with two classes: each test damages their pack and lets it be made again."""
    place = tmp_path_factory.mktemp("harmed")
    for i, name in enumerate("ab"):
        write_pictures(place / "source" / name, random_pictures(20, 8, 8, seed=i))
    return place


@pytest.mark.parametrize("harm", HARMS)
def test_no_damage_to_a_pack_goes_unnoticed(harmed: Path, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(harmed / "cache"))
    whole = open_pack(harmed / "source")
    assert len(whole.heldout) > 1 and whole.num_classes == 2
    HARMS[harm](whole.folder)
    with pytest.raises(DataError, match="again") as refused:
        Pack.open(whole.folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    again = open_pack(harmed / "source")  # the one in the cache is made anew
    assert again.hash == whole.hash and Pack.open(again.folder).hash == whole.hash


def test_fields_of_a_later_version_are_ignored(tmp_path):
    pack = open_pack(write_pictures(tmp_path / "source", random_pictures(3, 16, 16)))
    with_info(mood="good", licence="CC BY 4.0")(pack.folder)
    assert Pack.open(pack.folder).record == dataclasses.replace(pack.record, licence="CC BY 4.0")


def test_content_is_read_through_where_files_are_others_than_before(tmp_path, monkeypatch):
    source = write_pictures(tmp_path / "source", random_pictures(3, 16, 16))
    pack = open_pack(source)
    read = []
    monkeypatch.setattr("ganvas.data.packing.pack.content_hash", lambda *arrays: read.append(1) or pack.hash)
    Pack.open(pack.folder)
    assert not read  # as it was packed
    copy = Path(shutil.copytree(pack.folder, tmp_path / "copy"))
    Pack.open(copy)
    Pack.open(copy)
    assert len(read) == 1
    os.utime(copy / "images.npy")
    Pack.open(copy)
    assert len(read) == 2
    (copy / "checked.json").write_text("[" * 100_000)
    Pack.open(copy)
    assert len(read) == 3


def test_killed_while_packing_leaves_no_pack(tmp_path, cache):
    source = write_pictures(tmp_path / "source", random_pictures(600, 16, 16))
    command = [sys.executable, "-c", LINGERING, str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == "packing\n"
        killed.send_signal(signal.SIGKILL)
    assert leftovers(cache) and not list(cache.glob("packs/*/pack.json"))
    assert open_pack(source).num_images == 600
    assert not leftovers(cache)


def test_two_processes_at_once_both_get_the_pack(tmp_path, cache):
    source = write_pictures(tmp_path / "source", random_pictures(600, 16, 16))
    said = [tmp_path / "one", tmp_path / "other"]  # what they print, errors too
    both = [processes.start(source, function=pack_and_print, output=place) for place in said]
    assert [processes.ended(process) for process in both] == [0, 0]
    assert said[0].read_text() == said[1].read_text() and re.fullmatch(r"600 \w+\n", said[0].read_text())
    assert not leftovers(cache)


def test_a_decoding_process_that_dies_is_an_error():
    with pytest.raises(DataError, match="ended with status 3"):
        list(parallel_map(os._exit, [(3,)], 2))


@pytest.mark.parametrize(("executable", "frozen"), [("", False), (None, False), (sys.executable, True)])
def test_inside_another_program_pictures_are_decoded_in_its_own_process(
    executable: str | None, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    assert list(parallel_map(os.getpid, [(), ()], 2)) == [os.getpid()] * 2


def test_decoding_processes_use_one_thread_each_and_import_little() -> None:
    """Otherwise the threads of NumPy in every one of them wait for each other, and starting one takes a second."""
    asked = [f"os.getenv('{name}')" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    asked.append("sorted({'scipy', 'torch'} & set(sys.modules))")
    assert list(parallel_map(eval, [(code,) for code in asked], 2)) == ["1", "1", []]


def test_a_worker_that_cannot_be_started_is_no_fault_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(DataError, match="cannot be started"):
        list(parallel_map(os.getpid, [()], 2))


def test_processes_that_were_started_end_if_another_cannot_be_started(monkeypatch):
    start, started = pool._start, []

    def once(function):
        if started:
            raise DataError("no more processes")
        started.append(start(function))
        return started[0]

    monkeypatch.setattr(pool, "_start", once)
    with pytest.raises(DataError, match="no more processes"):
        list(parallel_map(os.getpid, [()], 2))
    assert started[0].poll() is not None


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, cache):
    source = write_pictures(tmp_path / "source", random_pictures(20, 64, 64))
    said = tmp_path / "said"
    said.touch()
    assert processes.ended(processes.start(source, function=pack_on_a_full_disk, output=said)) == 0
    assert said.read_text().startswith("the disk is full") and said.read_text().count("\n") == 1
    assert not leftovers(cache)


def test_size_is_chosen_from_the_pictures():
    assert choose_size(Counter({(28, 28): 9})) == (28, 28)
    assert choose_size(Counter({(218, 178): 9})) == (218, 178)
    assert choose_size(Counter({(800, 800): 9})) == (256, 256)
    assert choose_size(Counter({(800, 1000): 5, (900, 950): 4})) == (256, 256)
    assert choose_size(Counter({(150, 100): 5, (300, 200): 4})) == (96, 64)
    assert choose_size(Counter({(300, 200): 5, (450, 300): 4})) == (192, 128)
    assert choose_size(Counter({(20, 24): 5, (21, 30): 4})) == (20, 20)
    assert choose_size(Counter({(4, 4): 2})) == (8, 8)


@pytest.mark.parametrize("num", [1000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_real_mnist(num, shared_data):
    limit = None if num == 60_000 else num
    mnist = open_pack("mnist", DataConfig(limit=limit), data=shared_data / "mnist")
    assert mnist.images.shape == (num, 28, 28, 1) and mnist.num_classes == 10
    assert (mnist.kind, mnist.mirror) == ("digits", False) and mnist.record.licence
    test = open_pack("mnist", DataConfig(split="test", limit=limit), data=shared_data / "mnist")
    assert test.num_images == (limit or 10_000)


@pytest.mark.slow  # a compressed archive is read to its end, whatever the limit
def test_real_mednist(shared_data):
    scans = open_pack("mednist", DataConfig(limit=600), data=shared_data / "mednist" / "MedNIST_24000.tar.gz")
    assert scans.images.shape == (600, 64, 64, 1) and scans.num_classes == 6 and scans.mirror is False


def test_messages_shorten_lists_of_thousands_of_classes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3000, 8, 8), np.uint8)
    np.savez(tmp_path / "many.npz", images=images, labels=np.array([f"kind{i:04}" for i in range(3000)]))
    pack = open_pack(tmp_path / "many.npz", DataConfig(holdout=0))
    assert any("kind0000" in note and "and 2,992 others" in note for note in pack.notes)
    with pytest.raises(DataError) as error:
        open_pack(tmp_path / "many.npz", DataConfig(classes=("none",)))
    assert len(str(error.value)) < 300
    assert all(len(note) < 300 for note in pack.notes)
