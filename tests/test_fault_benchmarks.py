"""The benchmarks of faults run, and find none in a small number of trials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="the benchmarks need fork and SIGKILL")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("kills.py", "--number", "3", "--only", "train", "sample", "zip"),
        ("damage.py", "--number", "4", "--only", "config", "pack", "model", "source zip"),
        ("hostile.py", "--number", "4", "--bombs", "2"),
        ("slow_clients.py", "--number", "40", "--seconds", "2"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_small_number_of_trials_finds_no_fault(arguments: tuple[str, ...], tmp_path: Path) -> None:
    if "slow" in arguments[0]:
        pytest.importorskip("uvicorn")
    command = [sys.executable, BENCHMARKS / arguments[0], *arguments[1:], "--json", tmp_path / "out.json"]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"] and written["machine"]["python"]
