"""The files that install, check and release the project agree with pyproject.toml."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest

import ganvas
from ganvas import doctor

yaml = pytest.importorskip("yaml", reason="PyYAML is missing: install the extra docs")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = [".github/workflows/ci.yml", "Makefile", "Dockerfile", "docs/guide/install.md", "README.md"]


@pytest.mark.parametrize("name", LISTS)
def test_extras_that_are_installed_exist(name: str) -> None:
    found = re.findall(r"['\"]?\.\[([\w,]+)\]", (ROOT / name).read_text())
    assert found
    for extras in found:
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys(), extras


def test_the_commands_of_the_readme_have_the_extras_that_they_need() -> None:
    text = (ROOT / "README.md").read_text()
    (installed,) = re.findall(r"^pip install -c constraints.txt '\.\[([\w,]+)\]'$", text, re.M)
    assert {"studio", "export"} <= set(installed.split(","))
    assert text.index("ganvas studio ") > text.index("pip install")


def named(requirements: list[str]) -> set[str]:
    """The names of distributions, as importlib.metadata compares them."""
    return {re.split(r"[^\w.-]", one)[0].lower() for one in requirements}


def test_every_import_is_a_dependency() -> None:
    """Of the core or of an extra for users, so nothing depends on what a package or a tool for tests brings along."""
    extras = PROJECT["optional-dependencies"]
    for_users = extras.keys() - {"dev", "docs", "notebook"}
    declared = named(PROJECT["dependencies"]).union(*(named(extras[one]) for one in for_users))
    found: dict[str, Path] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {one.name.split(".")[0]: path for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found[node.module.split(".")[0]] = path
    homes = importlib.metadata.packages_distributions()
    others = found.keys() - sys.stdlib_module_names - {"ganvas"}
    assert {"torch", "PIL", "tyro"} <= others
    for name in others & homes.keys():  # those that are installed here
        assert {home.lower() for home in homes[name]} & declared, f"{found[name]} imports {name}"
    assert set(doctor.CORE) <= named(PROJECT["dependencies"])


def test_every_dependency_has_a_lowest_version() -> None:
    """So `.ci/lowest` can install it."""
    every = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    assert [one for one in every if not re.match(r"[\w.-]+[>=]=\d", one)] == []


def test_the_demo_installs_the_core_only() -> None:
    text = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo: \.venv/core$", text, re.M) and re.search(r"^test: \.venv/ready$", text, re.M)
    core = text.split(".venv/core: ")[1].split("\n\n")[0]
    assert "-e .\n" in core and "[" not in core


def test_one_range_of_pytorch_everywhere() -> None:
    (least, below) = re.findall(r"torch>=(\d+\.\d+),<(\d+\.\d+)", " ".join(PROJECT["dependencies"]))[0]
    newest = f"{below.split('.')[0]}.{int(below.split('.')[1]) - 1}"
    assert f"PyTorch {least} to {newest} works" in (ROOT / "docs/guide/install.md").read_text().replace("\n", " ")
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["matrix"]["strategy"]["matrix"]
    assert [one["torch"] for one in matrix["include"]] == [least, "newest"]
    pinned = re.search(r"^torch==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    version = (int(pinned[1]), int(pinned[2]))
    assert tuple(map(int, least.split("."))) <= version < tuple(map(int, below.split(".")))


def test_every_python_that_is_claimed_is_tested() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["matrix"]["strategy"]["matrix"]
    claimed = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", one)]
    assert set(claimed) <= set(matrix["python"])
    assert PROJECT["requires-python"] == f">={min(matrix['python'])}"


def test_one_version_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"] == ganvas.__version__
    assert cited["license"] == PROJECT["license"]


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda path: path.stem)
def test_github_files_can_be_read(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert isinstance(values, dict)
    for job in values.get("jobs", {}).values():
        assert job["runs-on"] and all("uses" in step or "run" in step for step in job["steps"])
    if path.stem == "release":
        assert values["jobs"]["publish"]["permissions"] == {"id-token": "write"}  # trusted publishing: no secret
        assert "secrets." not in path.read_text()


def test_docker_copies_what_it_installs() -> None:
    text = (ROOT / "Dockerfile").read_text()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]}
    assert copied == kept and all((ROOT / name).exists() for name in copied)
