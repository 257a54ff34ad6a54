"""files.py: files that are whole or not there, and what killed processes leave of them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs
import pytest

from ganvas import doctor
from ganvas.data import Pack, open_pack
from ganvas.errors import GanvasError
from ganvas.run import Run
from ganvas.system import files

KILLED = """
import os, signal, sys
from pathlib import Path
from ganvas.system import files
files.write_atomically(Path(sys.argv[1]), lambda file: os.kill(os.getpid(), signal.SIGKILL))
"""

killing = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")


def killed_while_writing(path: Path) -> Path:
    """The file that a process leaves which is killed while it writes `path`."""
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    (left,) = path.parent.glob(".*.tmp")
    return left


@killing
def test_the_next_process_deletes_what_a_killed_one_left(tmp_path: Path) -> None:
    left = killed_while_writing(tmp_path / "one.json")
    alive = tmp_path / left.name.replace(left.name.split("-")[-1], f"{os.getppid()}.tmp")
    foreign = tmp_path / f".one.json.{'0' * 8}-{left.name.split('-')[-1]}"  # of another machine that shares the disk
    mine = tmp_path / ".notes.tmp"
    for path in (alive, foreign, mine):
        path.touch()
    files.write_text(tmp_path / "other.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"other.json", alive.name, foreign.name, mine.name}


@pytest.mark.parametrize(("place", "bits"), [(8, 54), (21, 80), (26, 66), (64, 13)])
def test_a_damaged_header_of_an_array_is_a_value_error(tmp_path: Path, place: int, bits: int) -> None:
    """numpy raises TokenError, SyntaxError, TypeError and OverflowError for these."""
    np.save(tmp_path / "a.npy", np.zeros((12, 8, 8, 1), np.uint8))
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[place] ^= bits
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy has a damaged header"):
        files.load_array(tmp_path / "a.npy")


@killing
def test_a_run_that_was_killed_while_it_was_recorded_begins_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    killed_while_writing(folder / "config.json")
    with Run(folder) as run:
        assert not [*folder.rglob("*.tmp")]
        files.write_json(run.folder / "config.json", {})
    for part in (run.checkpoints, run.best, run.averages / "000000000016-0.1"):
        part.mkdir(parents=True)
        killed_while_writing(part / "weights")
    with Run(folder):
        assert not [*folder.rglob("*.tmp")]


# -- file systems that lack something --


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    place = tmp_path / "noise.npy"
    np.save(place, np.random.default_rng(0).integers(0, 256, (20, 16, 16), np.uint8))
    return place


def without(call: Callable[..., Any], code: int, where: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    """`call` as on a file system that answers with an error where `where` says."""

    def answer(*arguments: Any, **options: Any) -> Any:
        if where(*arguments):
            raise OSError(code, os.strerror(code))
        return call(*arguments, **options)

    return answer


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_packing_and_training_go_on_and_say_so(
    code: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="locks of Unix")
    monkeypatch.setattr(fcntl, "flock", without(fcntl.flock, code))
    said: list[str] = []
    pack = open_pack(pictures, folder=tmp_path / "pack", progress=lambda what, *_: said.append(what))
    assert pack.num_images == 20
    with Run(tmp_path / "run") as run:
        files.write_json(run.folder / "config.json", {})
        locked = run.is_locked
    if code != errno.ENOSYS:  # there filelock has another way to lock
        assert not locked and any("file system without locks" in line for line in said)


def test_an_acquired_lock_is_reported(tmp_path: Path) -> None:
    lock = filelock.FileLock(tmp_path / "lock")
    assert files.acquire(lock) and lock.is_locked
    with Run(tmp_path / "run") as run:
        files.write_json(run.folder / "config.json", {})
        assert run.is_locked
    lock.release()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_folders_that_cannot_be_synced_are_no_error(
    code: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", without(os.fsync, code, lambda handle: stat.S_ISDIR(os.fstat(handle).st_mode)))
    assert open_pack(pictures, folder=tmp_path / "pack").num_images == 20


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", without(os.fsync, errno.EIO))
    with pytest.raises(GanvasError, match="Input/output error"):
        files.write_text(tmp_path / "one", "1")


def test_files_that_cannot_be_mapped_are_read(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.array(open_pack(pictures, folder=tmp_path / "mapped").images)
    monkeypatch.setattr(np, "memmap", without(np.memmap, errno.ENODEV))
    assert np.array_equal(Pack.open(tmp_path / "mapped").images, expected)


# -- the cache --


@pytest.mark.parametrize("answer", [RuntimeError("no home"), "~/.cache", ".cache"])
def test_without_a_home_folder_the_variable_is_named(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_: str) -> object:
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.delenv("GANVAS_CACHE")
    monkeypatch.setattr(platformdirs, "user_cache_dir", asked)
    with pytest.raises(GanvasError, match=r"no home folder .*: set the environment variable GANVAS_CACHE to a"):
        files.cache_dir()
    assert any("GANVAS_CACHE" in line for line in doctor.report_lines())
    monkeypatch.setenv("GANVAS_CACHE", "here")
    assert files.cache_dir() == Path("here")


def test_a_cache_that_cannot_be_written_names_the_variable(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").touch()  # a file, so that no folder can be made below it, whoever we are
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(GanvasError, match=r"cannot be written .* set the environment variable GANVAS_CACHE to a"):
        open_pack(pictures)
    with pytest.raises(GanvasError, match="set the environment variable GANVAS_CACHE to a"):
        files.write_text(tmp_path / "cache" / "judges" / "one", "1")
    with pytest.raises(GanvasError, match="choose another folder"):
        files.write_text(pictures / "one", "1")
