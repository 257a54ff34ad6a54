"""Command line: each command parses its options, calls one function and prints. Only this module imports tyro.

`COMMANDS` lists them: the options (options.py), the function, and the lines to print. Exit codes: 0 done, 1 the reader
of the output has gone, 2 wrong usage or an error that the message explains, 128 + signal stopped (130: Ctrl-C).
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import json
import os
import shlex
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, Positional, PositionalMetavarFromFieldName
from tyro.extras import SubcommandApp

import ganvas
from ganvas import config, options
from ganvas.config_files import from_file
from ganvas.errors import ConfigError, GanvasError, amount, did_you_mean
from ganvas.fields import build_options, choices, hints_of, meanings, option, owners

_STYLE = (DisallowNone, PositionalMetavarFromFieldName)  # help style: no option accepts the word None
_STOPPED = 128  # exit code of a stopped run: this plus the signal number
_ALIASES = {"start_from": ("--from",)}
GROUPS = {config.DataConfig: "image", config.TrainBasics: "training", config.TrainOptions: "expert"}
"""Options of these classes get a heading of their own in the help."""
_ABOUT = {
    "image": "How the images are read and brought to one size.",
    "training": "Budget, networks and output.",
    "expert": "Chosen from the images, the device and the budget if not given; --dry-run shows the choices.",
}


# -- what commands print --


def _one(asked: Any, result: Any) -> list[str]:
    return [str(result)]


def _each(asked: Any, result: Iterable[Any]) -> list[str]:
    return [str(line) for line in result]


def _trained(asked: options.Train, result: Any) -> list[str]:
    if asked.dry_run or result.rank:
        return []
    if result.signal:
        return [f"stopped and saved; to continue: ganvas {shlex.join(sys.argv[1:])}"]
    grids = sorted((result.folder / "samples").glob("*.png"))
    name = shlex.quote(str(result.folder))
    return [
        f"grid   {grids[-1] if grids else 'none'}",
        f"model  {result.folder / 'model'}",
        f"next   ganvas sample {name} --n 64 --out samples/; ganvas video {name}",
    ]


def _sampled(asked: options.Sample, paths: Sequence[Path]) -> list[str]:
    if asked.grid or Path(asked.out).suffix.lower() == ".zip" or list(paths) == [Path(asked.out)]:
        return [str(paths[0])]
    return [f"{amount(len(paths), 'image')} and manifest.csv in {asked.out}"]


def _kept(asked: options.KeepFavourites, paths: Sequence[Path]) -> list[str]:
    return [f"{amount(len(paths), 'image')} in {asked.out}" if asked.out is not None else str(asked.file)]


def _found_directions(asked: Any, directions: Iterable[tuple[Any, Path]]) -> list[str]:
    return [f"{direction.name:<24}{path}  {direction.source}" for direction, path in directions]


def _projected(asked: options.Project, projection: Any) -> list[str]:
    out = Path(asked.out)
    start, end = projection.losses[0], projection.losses[-1]
    return [
        f"distance {start:.4f} at the start, {end:.4f} at the end: {out / 'projection.png'}",
        f"recipe   {out / 'favourites.json'}",
    ]


def _evaluated(asked: options.Evaluate, evaluation: Any) -> list[str]:
    report = [] if asked.against or asked.out else [f"next   ganvas report {shlex.quote(str(asked.source))}"]
    return [*evaluation.lines(), *report]


def _checked(asked: Any, report: Any) -> list[str]:
    return report.lines()


def _packed(asked: options.MakePack, pack: Any) -> list[str]:
    shape = f"{pack.height}x{pack.width}x{pack.channels}"
    return [*pack.notes, f"{pack.num_images:,} images of {shape} in {asked.out}"]


def _listed(asked: Any, sets: Mapping[str, str]) -> list[str]:
    return [f"{name:<15}{title}" for name, title in sets.items()]


def _signed(asked: options.Sign, paths: Sequence[Path]) -> list[str]:
    return [f"{amount(len(paths), 'file')} signed"] if paths else ["no file signed: all were signed already"]


def _nothing(asked: Any, result: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class _Command:
    """options: class of its options. function: module and name. lines: text to print, from options and result."""

    options: Any
    function: str
    lines: Callable[[Any, Any], list[str]]
    topic: str

    def call(self, asked: Any) -> Any:
        module, _, name = self.function.rpartition(".")
        function = getattr(importlib.import_module(f"ganvas.{module}"), name)
        return function(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)})


COMMANDS = {
    "train": _Command(options.Train, "verbs.train", _trained, "Train"),
    "init": _Command(options.Init, "verbs.init", _one, "Train"),
    "video": _Command(options.Video, "verbs.video", _each, "Train"),
    "average": _Command(options.Average, "verbs.average", _one, "Train"),
    "sample": _Command(options.Sample, "explore.verbs.sample", _sampled, "Use a generator"),
    "studio": _Command(options.Studio, "studio.serve", _nothing, "Use a generator"),
    "interpolate": _Command(options.Interpolate, "explore.verbs.interpolate", _one, "Use a generator"),
    "mix": _Command(options.MixImages, "explore.verbs.mix", _one, "Use a generator"),
    "directions": _Command(options.Directions, "explore.verbs.directions", _found_directions, "Use a generator"),
    "project": _Command(options.Project, "explore.verbs.project", _projected, "Use a generator"),
    "favourites": _Command(options.KeepFavourites, "explore.verbs.favourites", _kept, "Use a generator"),
    "evaluate": _Command(options.Evaluate, "verbs.evaluate", _evaluated, "Evaluate"),
    "report": _Command(options.Report, "reporting.report", _one, "Evaluate"),
    "export": _Command(options.Export, "verbs.export", _each, "Share"),
    "publish": _Command(options.Publish, "share.publish.publish", _one, "Share"),
    "sign": _Command(options.Sign, "share.signing.sign", _signed, "Share"),
    "hub push": _Command(options.Push, "share.upload.push", _one, "Share"),
    "hub pull": _Command(options.Pull, "hub.pull", _one, "Share"),
    "data check": _Command(options.Check, "data_verbs.check", _checked, "Data"),
    "data pack": _Command(options.MakePack, "data_verbs.pack", _packed, "Data"),
    "data list": _Command(options.ListSets, "data_verbs.list_sets", _listed, "Data"),
    "doctor": _Command(options.Doctor, "doctor.report_lines", _each, "This machine"),
}


# -- parsing --


def parse(words: Sequence[str]) -> tuple[_Command, Any, bool]:
    """The command, its options, and whether --json was given. Raises ConfigError, or SystemExit after printing help."""
    name = next((" ".join(words[:num]) for num in (2, 1) if " ".join(words[:num]) in COMMANDS), None)
    if name is None:
        grouped = any(one.startswith(f"{words[0]} ") for one in COMMANDS)
        asked = " ".join(words[: 2 if grouped else 1])
        near = did_you_mean(asked, [*COMMANDS]).rstrip("?")
        raise ConfigError(f"unknown command {asked!r}{near}: see `ganvas --help`")
    command, rest = COMMANDS[name], words[len(name.split()) :]
    values = tyro.cli(
        _parser(command, _file_values(command, rest)),
        prog=f"ganvas {name}",
        args=rest,
        description=inspect.getdoc(command.options),
        config=_STYLE,
    )
    as_json = values.pop("json")
    return command, build_options(command.options, (), values), as_json


def _file_values(command: _Command, words: Sequence[str]) -> dict[str, Any]:
    """The values of the file of --config, which become the defaults of the other options."""
    if "config" not in hints_of(command.options):
        return {}
    given = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            given[name[2:].replace("-", "_")] = value if equals else following
    return from_file(given)


def _parser(command: _Command, defaults: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """A function that returns its arguments by name. tyro reads them from its signature, in groups."""
    groups: dict[str, list[inspect.Parameter]] = {"": [], **{title: [] for title in GROUPS.values()}}
    owner = owners(command.options)
    fields = [one for one in dataclasses.fields(command.options) if not one.metadata.get("python_only")]
    inherited = {one.name: one.kw_only and owner[one.name] is not command.options for one in fields}
    for field in sorted(fields, key=lambda one: inherited[one.name]):  # those of many commands come last
        groups[GROUPS.get(owner[field.name], "")].append(_argument(command.options, field, defaults))
    wanted = Annotated[bool, FlagCreatePairsOff, tyro.conf.arg(help="Print the result as JSON.", help_behavior_hint="")]
    parts = [*groups.pop(""), inspect.Parameter("json", _KEYWORD, default=False, annotation=wanted)]
    for title, arguments in groups.items():
        if arguments:
            group = _collected(arguments, _ABOUT[title])
            kind = Annotated[Any, OmitArgPrefixes, tyro.conf.arg(constructor=group)]
            parts.append(inspect.Parameter(title, _KEYWORD, annotation=kind))
    return _collected(parts, inspect.getdoc(command.options) or "")


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _collected(arguments: list[inspect.Parameter], summary: str) -> Callable[..., dict[str, Any]]:
    def collect(**values: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, value in values.items():
            given |= value if isinstance(value, dict) else {name: value}  # a dict: the options of a group
        return given

    collect.__doc__ = summary
    collect.__signature__ = inspect.Signature(arguments)  # ty: ignore[missing-attribute]
    collect.__annotations__ = {one.name: one.annotation for one in arguments}
    return collect


def _argument(cls: Any, field: dataclasses.Field, defaults: Mapping[str, Any]) -> inspect.Parameter:
    """A field of an options class as an argument that tyro understands. defaults: by name; they replace the field's."""
    hint, marks = hints_of(owners(cls)[field.name])[field.name], []
    required = field.default is dataclasses.MISSING and field.name not in defaults
    default = defaults.get(field.name, inspect.Parameter.empty if required else field.default)
    if (required and not field.kw_only) or field.metadata.get("positional"):
        marks.append(Positional)
    kind, metavar = _parsed_as(hint, bool(field.metadata.get("many")))
    if kind is bool and default is False:
        marks.append(FlagCreatePairsOff)
    if default is None:
        kind = kind | None
    shown = type(default) in (str, int, float, tuple) and default not in ((), "")
    about = tyro.conf.arg(
        name=option(field.name)[2:],
        metavar=None if Positional in marks else metavar,
        help=meanings(cls).get(field.name, ""),
        help_behavior_hint=f"(default: {default})" if shown else "(required)" if required else "",
        aliases=_ALIASES.get(field.name),
    )
    return inspect.Parameter(field.name, _KEYWORD, default=default, annotation=Annotated[(kind, about, *marks)])


def _parsed_as(hint: Any, many: bool) -> tuple[Any, str | None]:
    """The type in which tyro reads a field, and its name in the help.

    Choices are text: `fields.check_bounds` refuses others.

    many: one or more, where Python also takes a single one.
    """
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    allowed = "{" + ",".join(choices(hint)) + "}" if choices(hint) else None
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if many:
        return list[str], "PATH"
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return tuple[str, ...], allowed
    if allowed or str in kinds:
        return str, allowed or ("PATH" if Path in kinds else None)
    return next(kind for kind in kinds if kind is not type(None)), None


# -- running --


def _overview(topic: str = "") -> str:
    """The commands, with the first sentence of each. topic: first word of the commands to show."""
    lines = [f"usage: ganvas {topic + ' ' if topic else ''}COMMAND [OPTIONS]", ""]
    lines += [] if topic else ["Train GANs on your own images.", ""]
    heading = ""
    for name, command in COMMANDS.items():
        if topic and name.split()[0] != topic:
            continue
        if command.topic != heading:
            heading = command.topic
            lines += [f"{heading}:"]
        summary = (inspect.getdoc(command.options) or "").split("\n")[0]
        lines.append(f"  {name:<13}{summary.partition(':')[0].removesuffix('.')}")
    return "\n".join(
        [*lines, "", "ganvas COMMAND --help lists the options of a command; ganvas --version its version."]
    )


def _with_completion(words: Sequence[str]) -> None:
    """Let tyro print or write a shell completion script for all commands."""
    app, groups = SubcommandApp(), dict[str, SubcommandApp]()
    for name, command in COMMANDS.items():
        *group, last = name.split()
        into = groups.setdefault(group[0], SubcommandApp()) if group else app
        into.command(name=last)(_parser(command, {}))
    for name, group in groups.items():
        app.command(group, name=name, help=f"Commands of `ganvas {name}`.")
    app.cli(prog="ganvas", args=words, config=_STYLE)


def _run(words: Sequence[str]) -> int:
    """Run one command line. Returns the exit code."""
    if words[:1] == ["--version"]:
        print(f"ganvas {ganvas.__version__}")
        return 0
    if words and words[0].startswith("--tyro-"):
        _with_completion(words)
        return 0
    topic = words[0] if words and any(name.startswith(f"{words[0]} ") for name in COMMANDS) else ""
    rest = words[1:] if topic else words
    if not rest or rest[0] in ("-h", "--help"):
        print(_overview(topic), file=sys.stdout if rest else sys.stderr)
        return 0 if rest else 2
    command, asked, as_json = parse(words)
    result = command.call(asked)
    if as_json:
        print(json.dumps(_plain(result), indent=1, ensure_ascii=False, default=str))
    else:
        for line in command.lines(asked, result):
            print(line)
    signal = getattr(result, "signal", 0)
    return _STOPPED + signal if signal else 0


def _plain(result: Any) -> Any:
    """A result as JSON values."""
    if hasattr(result, "to_dict"):
        return _plain(result.to_dict())
    if isinstance(result, Mapping):
        return {str(name): _plain(value) for name, value in result.items()}
    if isinstance(result, list | tuple):
        return [_plain(value) for value in result]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: _plain(getattr(result, field.name)) for field in dataclasses.fields(result)}
    return result


def main() -> int:
    """Run the command line. User errors print one sentence and exit with code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may not be valid text
    try:
        try:
            return _run(sys.argv[1:])
        finally:
            sys.stdout.flush()  # raises BrokenPipeError here if the reader has gone
    except GanvasError as error:
        print(f"ganvas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ganvas: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RuntimeError, MemoryError) as error:
        from ganvas.system.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        what = str(error).partition("\n")[0] or "allocation failed"
        advice = "close other programs, or use smaller images or a smaller batch"
        print(f"ganvas: not enough memory ({what}): {advice}", file=sys.stderr)
        return 2
    except OSError as error:  # unexpected failure of a disk or network folder
        print(f"ganvas: {error}", file=sys.stderr)
        return 2
