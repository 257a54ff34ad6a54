"""docs/architecture.md: its source tree and its import layers are those of the code."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()


def block(heading: str) -> str:
    """The first block of code below a heading."""
    return PAGE.split(f"## {heading}\n")[1].split("```\n")[1]


def test_the_import_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (checked,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = [re.split(r"\s{2,}", line)[0] for line in block("Import layers").splitlines()]
    assert ["__main__", *named] == checked


def test_the_source_tree_names_every_file_and_no_other() -> None:
    tree = block("Source tree")
    present = {path.stem for path in (ROOT / "src/ganvas").rglob("*.py")} - {"__main__"}
    assert present <= set(re.findall(r"\w+", tree)), "a module that the tree does not name"
    assert set(re.findall(r"(\w+)\.py\b", tree)) <= present, "the tree names a file that does not exist"
