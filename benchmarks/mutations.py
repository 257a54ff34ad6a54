"""What share of single-line mutations of the source do the quick tests notice?

    python benchmarks/test_times.py --json times.json --lines lines.db
    python benchmarks/mutations.py --num 100 --seed 0 --times times.json --lines lines.db --most 60
    python benchmarks/mutations.py --num 100 --seed 0 --area training evaluation

Draws expressions of src/ganvas at random, changes each one in a copy of the source (`<` becomes `<=`, `+` becomes `-`,
`and` becomes `or`, a number or a condition is replaced), and runs tests until one fails: with --lines the tests that
run the changed line, the shortest first. Without it, and for a line that only an import runs, these are the test files
that import the changed module, its own (`test_<module>.py`) first. Each run is a copy of this process, which has
imported PyTorch, so that it starts at once; this needs `os.fork` (not Windows). A mutation is noticed if a test fails
or runs out of time. Those that are not noticed are listed with their line: some change nothing (an equivalent form, a
bound that is never reached), the others show a missing test.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from coverage import CoverageData

from common import write_json

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "torch",
    "scipy.stats",
    "sklearn",
    "PIL.Image",
    "tyro",
    "rich.console",
    "pytest",
    "_pytest.assertion.rewrite",
)
"""Modules that take long to import and are not changed."""
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip
TIMES: dict[str, float] = {}
"""Seconds by test (--times)."""
LINES: dict[tuple[str, int], list[str]] = {}
"""Tests that run a line of a module (--lines)."""


@dataclass(frozen=True)
class Mutation:
    """A replaced part of one line. start, end: columns in UTF-8 bytes."""

    module: str
    """Path below src/ganvas."""
    line: int
    start: int
    end: int
    new: str

    def applied(self, source: bytes) -> bytes:
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1]
        lines[self.line - 1] = line[: self.start] + self.new.encode() + line[self.end :]
        return b"".join(lines)


def mutations(module: str, source: bytes) -> Iterator[Mutation]:
    """All mutations of a module."""
    lines = source.splitlines()

    def between(left: ast.expr, operator: ast.AST, right: ast.expr) -> Iterator[Mutation]:
        old, new = OPERATORS.get(type(operator), ("", ""))
        assert left.end_lineno is not None and left.end_col_offset is not None
        if old and left.end_lineno == right.lineno:
            gap = lines[left.end_lineno - 1][left.end_col_offset : right.col_offset]
            if (place := gap.find(old.encode())) >= 0:
                start = left.end_col_offset + place
                yield Mutation(module, right.lineno, start, start + len(old), new)

    def instead(node: ast.expr, new: str) -> Iterator[Mutation]:
        if node.end_lineno == node.lineno:
            assert node.end_col_offset is not None
            yield Mutation(module, node.lineno, node.col_offset, node.end_col_offset, new)

    tree = ast.parse(source)
    of_types = {id(part) for annotation in annotations(tree) for part in ast.walk(annotation)}
    for node in ast.walk(tree):
        if id(node) in of_types:
            continue
        if isinstance(node, ast.Compare):
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield from between(left, operator, right)
        elif isinstance(node, ast.BinOp):
            yield from between(node.left, node.op, node.right)
        elif isinstance(node, ast.BoolOp):
            yield from between(node.values[0], node.op, node.values[1])
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            value = node.value
            yield from instead(node, str(not value if isinstance(value, bool) else 2 * value if value else 1))
        elif isinstance(node, ast.If | ast.IfExp):
            yield from instead(node.test, f"not ({ast.unparse(node.test)})")


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """Types, which no test can notice."""
    for node in ast.walk(tree):
        found = [getattr(node, name, None) for name in ("annotation", "returns")]
        yield from (one for one in found if isinstance(one, ast.expr))


def tests_of(one: Mutation, most: float) -> list[str]:
    """Tests that may notice a mutation, the shortest first, as many as take `most` seconds, but at least one."""
    tests = sorted(LINES.get((one.module, one.line), []), key=seconds_of)
    if not tests:
        files = files_of(one.module)
        timed = (test for test in TIMES if file_of(test) in files)
        tests = sorted(timed, key=lambda test: files.index(file_of(test))) or files
    total = itertools.accumulate(map(seconds_of, tests))
    return [test for test, seconds in zip(tests, total, strict=True) if seconds <= most] or tests[:1]


def files_of(module: str) -> list[str]:
    """Test files of a module: test_<name>*.py, those that import it, and test_<name>.py of modules that import it."""
    parts = Path(module).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    if not parts:
        return []  # the package itself: every test imports it
    dotted, package = ".".join(("ganvas", *parts)), ".".join(("ganvas", *parts[:-1]))
    wanted = rf"{re.escape(dotted)}\b|from {re.escape(package)} import [^\n]*\b{parts[-1]}\b"
    users = [file for file in (ROOT / "src" / "ganvas").rglob("*.py") if re.search(wanted, file.read_text())]
    own = f"test_{parts[-1]}"
    names = {own, *(f"test_{file.parent.name if file.stem == '__init__' else file.stem}" for file in users)}
    if parts[0] == "models":  # networks are built by their names
        names |= {"test_models", "test_classic"}
    files = sorted((ROOT / "tests").glob("test_*.py"), key=lambda file: (file.stem != own, file.stat().st_size))
    return [
        f"tests/{file.name}"
        for file in files
        if file.stem in names or file.stem.startswith(own) or re.search(wanted, file.read_text())
    ]


def file_of(test: str) -> str:
    return test.partition("::")[0]


def seconds_of(test: str) -> float:
    """Seconds that a test takes, measured by test_times.py, or those of a file, estimated from its size."""
    return TIMES[test] if test in TIMES else (ROOT / file_of(test)).stat().st_size / 2000


def lines_of(file: Path) -> dict[tuple[str, int], list[str]]:
    """Tests by module and line, from a file of coverage.py with the names of tests."""
    data = CoverageData(str(file))
    data.read()
    found = {}
    for path in data.measured_files():
        module = path.rpartition("/src/ganvas/")[2]
        for line, contexts in data.contexts_by_lineno(path).items():
            found[module, line] = sorted(TIMES.keys() & contexts)
    return found


def noticed(mutation: Mutation, folder: Path, tests: list[str], seconds: float) -> bool:
    """Whether a test fails with the mutated copy of the source in `folder`."""
    path = folder / "ganvas" / mutation.module
    before = path.read_bytes()
    path.write_bytes(mutation.applied(before))
    try:
        return not pass_with(folder, tests, seconds)
    finally:
        path.write_bytes(before)


def pass_with(folder: Path, tests: list[str], seconds: float) -> bool:
    """Whether the tests pass, within this time, with the copy of the source in `folder`."""
    child = os.fork()
    if child == 0:
        run_tests(folder, tests)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)  # with the processes that the tests started
    os.waitpid(child, 0)
    return False


def run_tests(folder: Path, tests: list[str]) -> NoReturn:
    """Runs the tests in this process, which is a copy, and ends it with their exit code."""
    code = 1
    try:
        os.setsid()
        os.chdir(ROOT)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.environ["PYTHONPATH"] = str(folder)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a change within a second might not be seen in the byte code
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        code = int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100, help="number of mutations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--area", nargs="*", default=[""], help="folders or modules below src/ganvas; default: all")
    parser.add_argument("--seconds", type=float, default=900, help="time limit of the tests of a mutation")
    parser.add_argument("--times", type=Path, help="seconds of the tests, written by test_times.py --json")
    parser.add_argument("--lines", type=Path, help="lines that each test runs, written by test_times.py --lines")
    parser.add_argument("--most", type=float, default=math.inf, help="run tests of at most this many seconds in total")
    parser.add_argument("--passing", action="store_true", help="the tests pass without a mutation: do not check it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.times:
        TIMES.update(json.loads(arguments.times.read_text()))
    if arguments.lines:
        LINES.update(lines_of(arguments.lines))

    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    source = ROOT / "src" / "ganvas"
    every = [
        one
        for path in sorted(source.rglob("*.py"))
        if str(module := path.relative_to(source)).startswith(tuple(arguments.area)) and files_of(str(module))
        for one in mutations(str(module), path.read_bytes())
    ]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(source, folder / "ganvas")
        passed: dict[tuple[str, ...], bool] = {}
        for one in random.Random(arguments.seed).sample(every, min(arguments.num, len(every))):
            tests = tests_of(one, arguments.most)
            if (key := tuple(tests)) not in passed:
                passed[key] = arguments.passing or pass_with(folder, tests, arguments.seconds)
            if not passed[key]:  # they would seem to notice everything
                print(f"left out, as its tests fail without a mutation: {one.module}:{one.line}", flush=True)
                continue
            found = noticed(one, folder, tests, arguments.seconds)
            changed = one.applied((source / one.module).read_bytes()).splitlines()[one.line - 1].decode().strip()
            rows.append({"module": one.module, "line": one.line, "noticed": found, "changed": changed})
            print(f"{'noticed' if found else 'NOT NOTICED'}: {one.module}:{one.line}: {changed}", flush=True)
    missed = [row for row in rows if not row["noticed"]]
    print(
        f"\n{len(rows) - len(missed)} of {len(rows)} mutations were noticed ({1 - len(missed) / max(1, len(rows)):.0%})"
    )
    if arguments.json:
        write_json(arguments.json, {"seed": arguments.seed, "of": len(every), "rows": rows})


if __name__ == "__main__":
    main()
