"""Pages of the documentation site that are generated from the code.

`on_files` (called by MkDocs) adds reference/options.md, from the fields and docstrings of config.py;
reference/commands.md, from the functions of cli.py; and reference/results.md, a copy of RESULTS.md.
`on_page_markdown` marks the blocks that the tests do not run (see tests/test_docs.py).
`Parameters` (called by mkdocstrings) formats docstring lines "name: meaning" as a list.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import griffe
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
CONFIG, CLI = ROOT / "src/ganvas/config.py", ROOT / "src/ganvas/cli.py"
SECTION = re.compile(r"    # -- (.*?) --")  # comment that starts a group of options in config.py
OPTION_CLASSES = {"DataConfig": "Images", "TrainConfig": "Training"}
WORDS = {"float": "number", "int": "whole number", "str": "text", "Path": "path", "bool": "yes or no",
         "tuple[str, ...]": "names", "list[Path]": "paths", "list[str]": "names", "Any": "text"}  # fmt: skip

OPTIONS_HEAD = """# Every option

Options of `ganvas train`. The options for images also work with `ganvas data check` and `ganvas data pack`. In Python,
write `_` instead of `-`: `ganvas.train(..., lr_d=4e-4)`. This page is generated from `ganvas.config`.

If the default is *chosen*, the [plan](../plan.md) chooses it from the images, the device and the budget.
`ganvas train ... --dry-run` shows the choice and its reason.
"""

COMMANDS_HEAD = """# Every command

`ganvas COMMAND --help` shows the same text. This page is generated from the code of the command line.
On a user error a command prints one sentence and exits with code 2.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {
        "reference/options.md": options_page(),
        "reference/commands.md": commands_page(),
        "reference/results.md": (ROOT / "RESULTS.md").read_text(encoding="utf-8"),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"<!-- not run: (.*?) -->\n", r'<p class="not-run">Not run by the tests: \1.</p>\n\n', markdown)


@dataclass(frozen=True)
class Option:
    """Field of a configuration, or argument of a command. default: its source code; None if it is required."""

    name: str
    kind: str
    default: str | None
    meaning: str
    section: str = ""
    positional: bool = False


# -- every option --


def options_page() -> str:
    parts = [OPTIONS_HEAD]
    for name, title in OPTION_CLASSES.items():
        parts.append(f"## {title}\n")
        for section, options in itertools.groupby(options_of(name), key=lambda option: option.section):
            if section:
                parts.append(f"### {section[:1].upper()}{section[1:]}\n")
            parts += [table(options), ""]
    return "\n".join(parts)


def options_of(name: str) -> Iterator[Option]:
    """Fields of the class `name` of config.py, in order, with their docstrings."""
    source = CONFIG.read_text(encoding="utf-8")
    lines, section = source.splitlines(), ""
    found = next(one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == name)
    above = found.lineno
    for field, below in zip(found.body, [*found.body[1:], None], strict=True):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        for line in lines[above : field.lineno]:
            section = match[1] if (match := SECTION.match(line)) else section
        above = field.lineno
        meaning = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
        default = None if field.value is None else ast.unparse(field.value)
        yield Option(field.target.id, ast.unparse(field.annotation), default, str(meaning), section)


# -- every command --


def commands_page() -> str:
    parts = [COMMANDS_HEAD]
    for words, function in commands():
        summary, _, told = (ast.get_docstring(function) or "").partition("Args:")
        meanings = dict(re.findall(r"^\s*(\w+): (.*(?:\n\s{8,}.*)*)", told, re.M))
        options = list(arguments(function, meanings))
        given = "".join(f" {option.name.upper()}" for option in options if option.positional)
        parts += [f"## ganvas {' '.join(words)}\n", one_line(summary), "", f"`ganvas {' '.join(words)}{given}`", ""]
        if options:
            parts += [table(options), ""]
        for name, title in OPTION_CLASSES.items():
            if any(name in ast.unparse(one.annotation) for one in function.args.args if one.annotation):
                parts += [f"Also accepts the [options for {title.lower()}](options.md#{title.lower()}).", ""]
    return "\n".join(parts)


def commands() -> Iterator[tuple[list[str], ast.FunctionDef]]:
    """Words and function of every command in cli.py: decorated with `@app.command`, or with that of a nested app."""
    tree = ast.parse(CLI.read_text(encoding="utf-8"))
    groups = {"app": []}
    for call in (one.value for one in tree.body if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)):
        if ast.unparse(call.func) == "app.command" and isinstance(call.args[0], ast.Name):
            groups[call.args[0].id] = [name_given(call)]
    for function in (one for one in tree.body if isinstance(one, ast.FunctionDef)):
        for decorator in function.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            app, _, method = ast.unparse(called).partition(".")
            if method == "command":
                name = name_given(decorator) if isinstance(decorator, ast.Call) else ""
                yield [*groups[app], name or function.name.replace("_", "-")], function


def arguments(function: ast.FunctionDef, meanings: dict[str, str]) -> Iterator[Option]:
    """Arguments of a command, except whole configurations."""
    arguments = function.args.args + function.args.kwonlyargs
    defaults = [None] * (len(function.args.args) - len(function.args.defaults)) + function.args.defaults
    for argument, default in zip(arguments, [*defaults, *function.args.kw_defaults], strict=True):
        annotation = argument.annotation
        assert annotation is not None
        kind, name = ast.unparse(annotation), argument.arg
        if "OmitArgPrefixes" in kind:
            continue
        positional = "Positional[" in kind
        for node in ast.walk(annotation):
            if isinstance(node, ast.Call):
                name = name_given(node) or name
        kind = re.sub(r"^(?:Positional|Annotated)\[(.*?)(?:, arg\(.*\))?\]$", r"\1", kind)
        shown = None if default is None else ast.unparse(default)
        yield Option(name, kind, shown, meanings.get(argument.arg, ""), positional=positional)


def name_given(call: ast.Call) -> str:
    """Text of the argument `name=` of a call."""
    return next((str(ast.literal_eval(one.value)) for one in call.keywords if one.arg == "name"), "")


# -- text --


def table(options: Iterator[Option] | list[Option]) -> str:
    rows = ["| option | values | default | description |", "|---|---|---|---|"]
    for option in options:
        flag = option.name.upper() if option.positional else f"--{option.name.replace('_', '-')}"
        kind = option.kind.replace(" | None", "")
        if kind == "bool" and option.default != "False":
            flag = f"--no-{flag[2:]}" if option.default == "True" else f"{flag}`, `--no-{flag[2:]}"
        rows.append(f"| `{flag}` | {values(kind)} | {default_of(option)} | {one_line(option.meaning)} |")
    return "\n".join(rows)


def values(kind: str) -> str:
    """Allowed values of an annotation, in words."""
    if choices := re.search(rf"^{kind} = (Literal\[.*\])$", CONFIG.read_text(encoding="utf-8"), re.M):
        kind = choices[1]
    if kind.startswith("Literal["):
        return ", ".join(f"`{one}`" for one in ast.literal_eval(f"({kind[8:-1]},)"))
    return WORDS.get(kind, f"`{kind}`")


def default_of(option: Option) -> str:
    if option.default is None:
        return "required"
    if option.default == "None":
        chosen = option.section and not option.section.startswith("budget") and option.name != "preset"
        return "see description" if "efault" in option.meaning else "*chosen*" if chosen else "none"
    plain = re.sub(r"^Path\((.*)\)$", r"\1", option.default).strip("'\"")
    return {"False": "no", "True": "yes", "()": "all"}.get(plain, f"`{plain}`")


def one_line(text: str) -> str:
    """Text for a table cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# -- docstrings --


class Parameters(griffe.Extension):
    """Format docstring lines that start with the name of a parameter or field and a colon as a list."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self.set_lists(pkg)

    def set_lists(self, found: griffe.Object) -> None:
        for member in found.members.values():
            if isinstance(member, griffe.Object):
                self.set_lists(member)
        if found.docstring is not None:
            found.docstring.value = listed(escaped(found.docstring.value), names_of(found))


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
