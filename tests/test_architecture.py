"""docs/architecture.md: its source tree and its import layers are those of the code."""

import ast
import re
import tomllib
from collections import Counter, defaultdict
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


SOURCE = ROOT / "src/ganvas"
INTERFACE = {"ARCHITECTURE", "Discriminator", "Generator", "build", "defaults", "preferred"}
"""What the file of every architecture defines. `ganvas.Generator` is the one that users load."""
VERBS = {"check", "evaluate", "export", "mix", "project", "train"}
"""A verb of `ganvas`, and below it the function that does the work."""


def public_names(path: Path) -> set[str]:
    """Names without an underscore that a module defines itself."""
    names = set[str]()
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign(targets=targets):
                parts = [part for target in targets for part in ast.walk(target)]
                names |= {part.id for part in parts if isinstance(part, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return {name for name in names if not name.startswith("_")}


def module_of(path: Path) -> str:
    return ".".join(["ganvas", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def test_a_public_name_has_one_meaning() -> None:
    modules = defaultdict[str, set[str]](set)
    imported = defaultdict[str, set[str]](set)
    for path in SOURCE.rglob("*.py"):
        for name in public_names(path) - INTERFACE - VERBS:
            modules[name].add(module_of(path))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    imported[alias.name].add(node.module or "")
    # Functions that are always named with their module, like `dicom.pixels` and `wide.pixels`, may share a name.
    unclear = {
        name: places
        for name, places in modules.items()
        if len(places) > 1 and (not name.islower() or len(imported[name] & places) > 1)
    }
    assert not unclear


def test_names_that_only_their_own_module_uses_have_an_underscore() -> None:
    texts = [*SOURCE.rglob("*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")]
    texts += [*ROOT.glob("docs/**/*.md"), ROOT / "CONTRIBUTING.md"]
    words = {path: set(re.findall(r"\w+", path.read_text())) for path in texts}
    uses = Counter(word for found in words.values() for word in found)
    alone = {f"{path.name}: {name}" for path in SOURCE.rglob("*.py") for name in public_names(path) if uses[name] == 1}
    assert not alone
