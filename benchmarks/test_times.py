"""What do the quick tests cost? Processor seconds (user and system, with children) by file and by test.

    python benchmarks/test_times.py --json times.json
    python benchmarks/test_times.py tests/test_copies.py --most 30
    python benchmarks/test_times.py --json times.json --lines lines.db

Runs the tests in this process, one file after another. The time of a process that is not waited for does not count.
`mutations.py` reads the seconds by test (--times) and the lines of the source that each test runs (--lines).
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Generator
from multiprocessing import forkserver
from pathlib import Path

import pytest
from coverage import Coverage

from common import write_json


def processor_seconds() -> float:
    """Of this process, its children that have ended, and the server that forks `processes.start` (Linux)."""
    seconds = sum(os.times()[:4])
    server = forkserver._forkserver._forkserver_pid  # ty: ignore[missing-attribute]
    if server and (status := Path(f"/proc/{server}/stat")).exists():
        fields = status.read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


class Times:
    """A plugin of pytest that adds up the seconds of set-ups, tests and tear-downs, and names the tests in `lines`."""

    def __init__(self, lines: Coverage | None) -> None:
        self.lines = lines
        self.collecting = 0.0
        self.tests: dict[str, float] = {}

    def pytest_collection_finish(self) -> None:
        self.collecting = processor_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, bool | None, bool | None]:
        if self.lines:
            self.lines.switch_context(item.nodeid)
        before = processor_seconds()
        done = yield
        self.tests[item.nodeid] = processor_seconds() - before
        return done

    def files(self) -> dict[str, float]:
        files: dict[str, float] = {}
        for test, seconds in self.tests.items():
            name = Path(test.partition("::")[0]).name
            files[name] = files.get(name, 0) + seconds
        return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=[])
    parser.add_argument("--most", type=int, default=40, help="number of files and of tests that are shown")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--lines", type=Path, help="write here which lines each test runs (a file of coverage.py)")
    arguments = parser.parse_args()
    lines = Coverage(arguments.lines, source=["ganvas"]) if arguments.lines else None
    times = Times(lines)
    with lines.collect() if lines else contextlib.nullcontext():
        pytest.main(["-n", "0", "-q", *arguments.tests], plugins=[times])
    if lines:
        lines.save()
    files = times.files()
    print(f"\ncollecting {times.collecting:.1f} s, tests {sum(files.values()):.1f} s")
    for title, found in (("files", files), ("tests", times.tests)):
        print(f"\n{title}")
        for name, seconds in sorted(found.items(), key=lambda one: -one[1])[: arguments.most]:
            print(f"{seconds:7.2f}  {name}")
    if arguments.json:
        write_json(arguments.json, {name: round(seconds, 2) for name, seconds in sorted(times.tests.items())})


if __name__ == "__main__":
    main()
