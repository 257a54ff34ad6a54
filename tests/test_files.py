"""files.py: files that are whole or not there, and what killed processes leave of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganvas import files
from ganvas.run import Run

KILLED = """
import os, signal, sys
from pathlib import Path
from ganvas import files
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


@killing
def test_a_run_that_was_killed_while_it_was_recorded_begins_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    killed_while_writing(folder / "config.json")
    with Run(folder) as run:
        assert not [*folder.rglob("*.tmp")]
        run.write_config({})
    for part in (run.checkpoints, run.best, run.averages / "000000000016-0.1"):
        part.mkdir(parents=True)
        killed_while_writing(part / "weights")
    with Run(folder):
        assert not [*folder.rglob("*.tmp")]
