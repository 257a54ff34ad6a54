"""Build the documentation site: `python docs/build_site.py` writes build/site/; with `serve` it shows the site.

Before Zensical builds the site, three pages are generated: reference/options.md, from the fields and docstrings of the
options of training; reference/commands.md, from the commands of cli.py; and reference/results.md, a copy of RESULTS.md.
Blocks that the tests do not run are marked (see tests/test_guides.py).
`Parameters` (called by mkdocstrings) shows the options of a function as its parameters, and formats docstring lines
"name: meaning" as a list.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import griffe

import ganvas
from ganvas import config, options
from ganvas.cli import COMMANDS, GROUPS
from ganvas.fields import choices, hints_of, meanings, owners

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SECTION = re.compile(r"    # -- (.*?) --|    (\w+): ")  # comment that starts a group of options, or a field
TITLES = {config.DataConfig: "Images", config.TrainBasics: "Training", config.TrainOptions: "For experts"}
WORDS = {float: "number", int: "whole number", str: "text", Path: "path", bool: "yes or no"}

OPTIONS_HEAD = """# Every option

Options of `ganvas train`. The options for images also work with `ganvas data check` and `ganvas data pack`. In Python,
write `_` instead of `-`: `ganvas.train(..., lr_d=4e-4)`; also in a
[file of options](../guide/python.md#files-of-options).
This page is generated from `ganvas.config`.

If the default is *chosen*, the [plan](../plan.md) chooses it from the images, the device and the budget.
`ganvas train ... --dry-run` shows the choice and its reason.
"""

COMMANDS_HEAD = """# Every command

`ganvas COMMAND --help` shows the same text, and `ganvas --version` the version. The functions in Python take the same
options. This page is generated from `ganvas.options`.

Every command has `--quiet` (print no progress and no notes) and `--json` (print the result as JSON).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the program that reads the output has ended |
| 2 | wrong usage, or an error that the printed sentence explains |
| 130, 143 | stopped by Ctrl-C or by the system; `ganvas train` has saved its state, and the same command continues |

Tab completion: write a script with the first line and load it in your shell (zsh and tcsh: replace `bash`).

<!-- not run: writes into the home folder -->
```bash
ganvas --tyro-print-completion bash > ~/.ganvas-completion
echo 'source ~/.ganvas-completion' >> ~/.bashrc
```
"""


# -- the site --


def build(folder: Path) -> None:
    """Write the pages to `folder`/docs and the site to `folder`/site. Warnings, such as broken links, are errors.

    Raises subprocess.CalledProcessError if there are any.
    """
    write_pages(folder)
    shutil.rmtree(folder / "site", ignore_errors=True)
    zensical(folder, "build", "--strict", "--clean")  # the cache does not notice changes of the code


def zensical(folder: Path, command: str, *more: str) -> None:
    """Run a command of Zensical, which has to find this module and the package."""
    paths = [str(DOCS), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    words = [sys.executable, "-m", "zensical", command, "--config-file", str(folder / "zensical.toml"), *more]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})


def write_pages(folder: Path) -> None:
    """Copy the pages of docs/ to `folder`/docs and add those that are generated."""
    pages = folder / "docs"
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
    shutil.copy(DOCS / "zensical.toml", folder)
    (pages / "reference").mkdir()
    for name, content in {
        "options": options_page(),
        "commands": commands_page(),
        "results": (ROOT / "RESULTS.md").read_text(encoding="utf-8"),
    }.items():
        (pages / "reference" / f"{name}.md").write_text(content, encoding="utf-8")
    for page in pages.rglob("*.md"):
        page.write_text(with_marks(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_marks(markdown: str) -> str:
    """Show the comments above blocks that the tests do not run."""
    return re.sub(r"<!-- not run: (.*?) -->\n", r'<p class="not-run">Not run by the tests: \1.</p>\n\n', markdown)


# -- options --


@dataclass(frozen=True)
class Option:
    """A field of an options class. default: MISSING if it is required."""

    name: str
    hint: Any
    default: Any
    meaning: str
    section: str = ""
    positional: bool = False


def options_of(cls: Any) -> Iterator[Option]:
    """The fields that a class of options defines itself, in order."""
    sections, section = dict[str, str](), ""
    for comment, name in SECTION.findall(inspect.getsource(cls)):
        section = comment or section
        sections[name] = section
    for field in dataclasses.fields(cls):
        owner = owners(cls)[field.name]
        if (owner is not cls and (owner in TITLES or owner is options.Common)) or field.metadata.get("python_only"):
            continue
        positional = field.default is dataclasses.MISSING and not field.kw_only
        hint, meaning = hints_of(cls)[field.name], meanings(cls).get(field.name, "")
        yield Option(field.name, hint, field.default, meaning, sections.get(field.name, ""), positional)


# -- every option --


def options_page() -> str:
    parts = [OPTIONS_HEAD]
    for cls, title in TITLES.items():
        parts += [f"## {title}\n", inspect.getdoc(cls) or "", ""]
        for section, found in itertools.groupby(options_of(cls), key=lambda option: option.section):
            if section:
                parts.append(f"### {section[:1].upper()}{section[1:]}\n")
            parts += [table(found, chosen=cls is config.TrainOptions), ""]
    return "\n".join(parts)


# -- every command --


def commands_page() -> str:
    parts = [COMMANDS_HEAD]
    names = {f"{home}.{name}": name for name, home in ganvas._HOME.items()} | {"reporting.report": "report"}
    for name, command in COMMANDS.items():
        found = list(options_of(command.options))
        given = "".join(f" {option.name.upper()}" for option in found if option.positional)
        parts += [f"## ganvas {name}\n", inspect.getdoc(command.options) or "", "", f"`ganvas {name}{given}`", ""]
        if command.function in names:
            parts += [f"In Python: [`ganvas.{names[command.function]}`](../api/verbs.md)", ""]
        if found:
            parts += [table(found), ""]
        for cls in GROUPS:
            if issubclass(command.options, cls):
                title = TITLES[cls]
                anchor = title.lower().replace(" ", "-")
                parts += [f"Also accepts the options of [{title}](options.md#{anchor}).", ""]
    return "\n".join(parts)


# -- text --


def table(found: Iterator[Option] | list[Option], chosen: bool = False) -> str:
    rows = ["| option | values | default | description |", "|---|---|---|---|"]
    for option in found:
        flag = option.name.upper() if option.positional else f"--{option.name.replace('_', '-')}"
        if bool in kinds_of(option.hint) and option.default is not False:
            flag = f"--no-{flag[2:]}" if option.default is True else f"{flag}`, `--no-{flag[2:]}"
        default, meaning = default_and_meaning(option, chosen)
        rows.append(f"| `{flag}` | {values(option.hint)} | {default} | {meaning} |")
    return "\n".join(rows)


def kinds_of(hint: Any) -> list[Any]:
    """The types that a field may have, except None."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [kind for kind in kinds if kind is not type(None)]


def values(hint: Any) -> str:
    """Allowed values of a field, in words."""
    if found := choices(hint):
        return ", ".join(f"`{one}`" for one in found)
    kinds = kinds_of(hint)
    if Path in kinds:
        return "path"
    if str in kinds:
        return "text"
    return WORDS.get(kinds[0], "names")


DEFAULT = re.compile(r"\s*Default([^:.]*): (.+?)\.(?=\s[A-Z]|$)")  # the sentence of an option whose default is None


def default_and_meaning(option: Option, chosen: bool) -> tuple[str, str]:
    """Default and description of an option. A default that the description explains moves to the default."""
    meaning = one_line(option.meaning)
    if option.default is dataclasses.MISSING:
        return "required", meaning
    if option.default is None:
        if (found := DEFAULT.search(meaning)) is None:
            return "*chosen*" if chosen else "none", meaning
        condition = f" ({found[1].strip()})" if found[1] else ""
        return f"{found[2]}{condition}", (meaning[: found.start()] + meaning[found.end() :]).strip()
    if isinstance(option.default, bool):
        return "yes" if option.default else "no", meaning
    return "none" if option.default == () else f"`{option.default}`", meaning


def one_line(text: str) -> str:
    """Text for a table cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# -- docstrings --


class Parameters(griffe.Extension):
    """Show options as parameters; format docstring lines that start with a name and a colon as a list."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self.set_lists(pkg)

    def set_lists(self, found: griffe.Object) -> None:
        for member in found.members.values():
            if isinstance(member, griffe.Function):
                show_options(member)
            if isinstance(member, griffe.Object):
                self.set_lists(member)
        if found.docstring is not None:
            found.docstring.value = listed(escaped(found.docstring.value), names_of(found))


REFERENCE = (config.DataConfig, config.TrainOptions)
"""Classes whose options are left to the page of all options if a function has very many."""
TAKES = re.compile(r"takes\((\w+)")  # decorator of a function whose parameters are the fields of that class


def show_options(function: griffe.Function) -> None:
    """Replace the one parameter of a function that takes options by their fields."""
    for decorator in function.decorators:
        if (match := TAKES.match(str(decorator.value))) is None:
            continue
        cls = getattr(options, match[1])
        hidden = {name for name, owner in owners(cls).items() if owner in REFERENCE and len(meanings(cls)) > 40}
        parameters = [
            griffe.Parameter(
                one.name,
                kind=griffe.ParameterKind[one.kind.name.lower()],
                default=None if one.default is one.empty else repr(one.default),
            )
            for one in inspect.signature(cls).parameters.values()
            if one.name not in hidden
        ]
        lines = [f"{name}: {meaning}" for name, meaning in meanings(cls).items() if name not in hidden]
        if hidden:
            parameters.append(griffe.Parameter("options", kind=griffe.ParameterKind.var_keyword))
            lines += ["", "`**options` are all others of [every option](../reference/options.md)."]
        function.parameters = griffe.Parameters(*parameters)
        text = function.docstring.value if function.docstring else ""
        function.docstring = griffe.Docstring("\n".join([text, "", *lines]), parent=function)


def escaped(text: str) -> str:
    """Escape `<` outside of code, so that <words> are not read as HTML."""
    lines = (line if line.startswith("    ") else re.sub(r"(`[^`]*`)|<", lambda m: m[1] or "&lt;", line)
             for line in text.split("\n"))  # fmt: skip
    return "\n".join(lines)


def names_of(found: griffe.Object) -> set[str]:
    """Names that a docstring may describe: parameters, or fields of a class."""
    names = {one.name.lstrip("*") for one in getattr(found, "parameters", ())}
    return names | (set(found.members) if found.is_class else set())


NEXT = re.compile(r"\s*$|Raises|Returns")  # ends a list


def listed(text: str, names: set[str]) -> str:
    """Convert a docstring to Markdown. Sentences that start with one of `names` and a colon become list items."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        starts = [m for m in re.finditer(r"(?:^|(?<=\. ))((?:\w+, )*\w+): ", line) if set(m[1].split(", ")) <= names]
        ends = [*(m.start() for m in starts[1:]), len(line)]
        before = line[: starts[0].start()] if starts else line
        if before or not starts:
            if inside and NEXT.match(before):
                inside = False
                lines += [""] * bool(before)
            lines.append(f"  {before}" if inside else before)
        if starts and not inside:
            inside = True
            lines.append("")
        lines += [f"- **{m[1]}**: {line[m.end() : end].strip()}" for m, end in zip(starts, ends, strict=bool(starts))]
    return "\n".join(lines)


if __name__ == "__main__":
    build(ROOT / "build")
    if "serve" in sys.argv:
        zensical(ROOT / "build", "serve")
