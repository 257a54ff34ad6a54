"""What every class of options has in common: the meaning, bounds and choices of its fields, stated once at the field.

    lr: Annotated[float | None, POSITIVE] = None
    \"\"\"Learning rate of the generator.\"\"\"

`check_bounds` enforces bounds and choices, `meanings` reads the docstrings, `from_dict` reads saved values, and `takes`
gives a function the fields as typed arguments.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import math
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ganvas.errors import ConfigError, did_you_mean, some

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Bounds:
    """Range of a number. most: None for no upper limit. above: `least` itself is excluded."""

    least: float
    most: float | None = None
    above: bool = False

    def __str__(self) -> str:
        if self.most is not None:
            return f"a number from {self.least:g} to {self.most:g}"
        return f"a number above {self.least:g}" if self.above else f"{self.least:g} or more"

    def __contains__(self, value: float) -> bool:
        if value == math.inf or (self.most is not None and value > self.most):
            return False
        return value > self.least if self.above else value >= self.least


POSITIVE = Bounds(0, above=True)
NOT_NEGATIVE = Bounds(0)
FRACTION = Bounds(0, 1)


@dataclass(frozen=True)
class Registry:
    """Mark of a text field (`Annotated`) whose values are the keys of the dictionary `name` of a module.

    grows: the program may add entries while it runs; whoever uses the name checks it, and not `check_bounds`.
    """

    module: str
    name: str
    grows: bool = False

    def names(self) -> tuple[str, ...]:
        """The keys; from the source if the module is not imported, because it may import torch."""
        if self.module in sys.modules:
            return tuple(vars(sys.modules[self.module])[self.name])
        spec = importlib.util.find_spec(self.module)
        try:
            tree = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))
        except OSError:  # no source files in this installation
            return tuple(vars(importlib.import_module(self.module))[self.name])
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == self.name:
                return tuple(ast.literal_eval(key) for key in getattr(node.value, "keys", []))
        raise KeyError(f"{self.module} has no dictionary {self.name}")


def option(name: str) -> str:
    """A field as an option of the command line: lr_d -> --lr-d."""
    return f"--{name.replace('_', '-')}"


def check_bounds(options: Any, named: Callable[[str], str] = option) -> None:
    """Raises ConfigError if a field of a dataclass object is outside its bounds or not among its choices.

    named: gives the name of a field in the message.
    """
    for name, owner in owners(type(options)).items():
        hint, value = hints_of(owner)[name], getattr(options, name)
        if value is None:
            continue
        flag = named(name)
        bounds = next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Bounds)), None)
        if bounds is not None:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or value not in bounds:
                shown = f"{value:g}" if isinstance(value, float) else str(value)
                raise ConfigError(f"{flag} {shown:.40}: expected {bounds}")
            if value % 1 and not fits(0.5, hint):
                raise ConfigError(f"{flag} {value:g}: expected a whole number")
        allowed = () if _grows(hint) else choices(hint)
        for one in (value if isinstance(value, tuple | list) else [value]) if allowed else ():
            if one not in allowed:
                near = did_you_mean(str(one), [*allowed])
                raise ConfigError(f"{flag} {one!s:.40}: expected one of {', '.join(allowed)}{near}")


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The type of each field, with its bounds (as `Annotated`)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def choices(hint: Any) -> tuple[str, ...]:
    """The allowed names of a Literal or a type with a `Registry`, perhaps with None or in a tuple; otherwise ()."""
    if isinstance(hint, Registry):
        return hint.names()
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    parts = [choices(one) for one in typing.get_args(hint)]
    return next((part for part in parts if part), ())


def _grows(hint: Any) -> bool:
    """Whether the choices of a type are those of a registry that may grow."""
    return (isinstance(hint, Registry) and hint.grows) or any(_grows(one) for one in typing.get_args(hint))


@functools.cache
def meanings(cls: Any) -> dict[str, str]:
    """The docstring of each field of a dataclass, in one line."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        except OSError:  # no source files in this installation: options have no help
            continue
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                docs[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return docs


@functools.cache
def owners(cls: Any) -> dict[str, type]:
    """The class, `cls` or one of its bases, in which each field is defined first."""
    return {
        field.name: next(one for one in reversed(cls.__mro__) if field.name in inspect.get_annotations(one))
        for field in dataclasses.fields(cls)
    }


def changed(options: Any) -> dict[str, Any]:
    """The fields of an object of options that differ from their defaults."""
    values = ((field, getattr(options, field.name)) for field in dataclasses.fields(options))
    return {field.name: value for field, value in values if value != field.default}


def part(options: Any, cls: type[_T]) -> _T:
    """The fields of `cls` in an object of one of its subclasses."""
    return cls(**{name: getattr(options, name) for name in hints_of(cls)})


def takes(
    options: Callable[_P, _T], defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
) -> Callable[[Callable[[_T], _R]], Callable[_P, _R]]:
    """Decorator: the function of one `options` object becomes a function of the fields of that class.

    Type checkers, editors and `help()` see the fields as arguments. Unknown names raise ConfigError.
    defaults: returns values for options that a call leaves out, from those that it has.
    """
    cls: Any = options

    def decorate(function: Callable[[_T], _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            return function(build_options(cls, args, kwargs, defaults))

        call.__signature__ = inspect.signature(options)  # ty: ignore[missing-attribute]
        call.__annotations__ = {}
        lines = [f"{name}: {meaning}" for name, meaning in meanings(cls).items()]
        call.__doc__ = "\n".join([inspect.getdoc(function) or "", "", *lines])
        return call

    return decorate


def build_options(
    cls: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Any:
    """An object of `cls`. defaults: see `takes`. Raises ConfigError, with a suggestion, for names that it lacks."""
    known = [*hints_of(cls)]
    for name in kwargs:
        if name not in known:
            raise ConfigError(
                f"unknown option {name}{did_you_mean(name, known) or f': expected some of {some(known, 20)}'}"
            )
    if defaults is None:
        return cls(*args, **kwargs)
    given = inspect.signature(cls).bind_partial(*args, **kwargs).arguments
    return cls(**{**defaults(given), **given})


# -- saved values --


def from_dict(cls: Callable[..., _T], values: dict[str, Any], where: str, ignore_unknown: bool = False) -> _T:
    """Build the dataclass `cls`, also its fields that are dataclasses, from plain JSON values.

    Raises `ConfigError`, with `where` in the message, for values of the wrong type and, unless `ignore_unknown`, for
    unknown keys.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is damaged: it holds {repr(values)[:40]} instead of named values; restore it")
    hints = hints_of(cls)
    if (unknown := sorted(set(values) - set(hints))) and not ignore_unknown:
        raise ConfigError(f"{where} has fields that this version of Ganvas does not know: {', '.join(unknown)}")

    def converted(value: Any, hint: Any) -> Any:
        """The dataclass, list, tuple or dictionary of a field for its JSON form; of a union, of its first type."""
        if not isinstance(value, dict | list):
            return value
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            return from_dict(hint, value, where, ignore_unknown)
        if origin in (list, tuple) and isinstance(value, list):
            return origin(converted(one, arguments[0]) for one in value)
        if origin is dict and isinstance(value, dict):
            return {name: converted(one, arguments[1]) for name, one in value.items()}
        return converted(value, arguments[0]) if origin in (typing.Union, types.UnionType) else value

    values = {name: converted(value, hints[name]) for name, value in values.items() if name in hints}
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise ConfigError(f"{where} is damaged: {name} is {repr(value)[:40]}; restore the file")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except TypeError as error:
        raise ConfigError(f"{where} is damaged: it lacks required fields ({error}); restore the file") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON has the type `hint`; numbers must be finite."""
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint in (int, bool, str):
        return type(value) is hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, arguments[1]) for one in value.values())
    return isinstance(value, str | Path) if hint is Path else isinstance(value, hint)
