"""Reads CIFAR-10 and CIFAR-100 python batches (pickles) with an unpickler that cannot import anything.

`_BatchUnpickler` builds containers, numbers, strings and placeholders for numpy arrays. The arrays are made from the
placeholders after checking shape and type.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ganvas.conditions import natural
from ganvas.data.reading.formats import Arrays, join_parts
from ganvas.errors import DataError

FILES = re.compile(r"data_batch_\d+|test_batch|batches\.meta|train|test|meta")
_TEN_BATCH = re.compile(r"data_batch_\d+|test_batch")
_CLASSES_OF_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def is_cifar(names: Iterable[str]) -> bool:
    """Whether these file names (without folders) are CIFAR python batches."""
    names = set(names)
    return any(map(_TEN_BATCH.fullmatch, names)) or ("meta" in names and bool(names & {"train", "test"}))


def read_cifar(files: Mapping[str, bytes], split: str, where: Path) -> Arrays:
    """Reads the existing batch files in order. files: name -> content."""
    of_10 = [name for name in files if _TEN_BATCH.fullmatch(name)]
    if of_10:
        train, test = sorted((name for name in of_10 if name != "test_batch"), key=natural), ["test_batch"]
        label_key, meta_name, meta_key = "labels", "batches.meta", "label_names"
    else:
        train, test = ["train"], ["test"]
        label_key, meta_name, meta_key = "fine_labels", "meta", "fine_label_names"
    wanted = [*(train if split != "test" else []), *(test if split != "train" else [])]
    batches = {name: _read_batch(files[name], name, where) for name in wanted if name in files}
    if not batches:
        present = ", ".join(sorted(files))
        raise DataError(f"{where} has no {split} batch among {present}: add it or choose another --split")
    classes = _CLASSES_OF_10
    if meta_name in files or not of_10:
        names = _unpickle_batch(files.get(meta_name, b""), meta_name, where).get(meta_key)
        if not isinstance(names, list):
            raise DataError(f"{where}: {meta_name} has no {meta_key}: download it again")
        classes = [_text(name) for name in names if isinstance(name, bytes | str)]
    return join_parts([_cifar_part(name, batch, label_key, classes, where) for name, batch in batches.items()])


def _cifar_part(name: str, batch: dict[str, Any], key: str, classes: list[str], where: Path) -> Arrays:
    pixels, labels = batch.get("data"), batch.get(key)
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.ndim == 2
        and pixels.shape[1] == 3 * 32 * 32
        and isinstance(labels, list)
        and len(labels) == len(pixels)
        and all(type(label) is int and 0 <= label < len(classes) for label in labels)
    ):
        raise DataError(f"{where}: {name} is not a CIFAR batch with 3072 bytes per image and {key}: download it again")
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    names = [f"{name}/{i:05}" for i in range(len(images))]
    return Arrays(np.ascontiguousarray(images), np.array(labels, np.int64), classes, names)


def _read_batch(content: bytes, name: str, where: Path) -> dict[str, Any]:
    """The dictionary of one batch file, with numpy arrays."""
    batch = _unpickle_batch(content, name, where)
    try:
        return {key: v.array() if isinstance(v, _PickledArray) else v for key, v in batch.items()}
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{where}: {name} has a damaged array: download it again") from None


def _unpickle_batch(content: bytes, name: str, where: Path) -> dict[str, Any]:
    """A pickled dictionary of plain values with string keys. Raises `DataError` for anything else."""
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        if isinstance(batch, dict):
            return {_text(key): value for key, value in batch.items()}
    except _ForbiddenPickle as error:
        raise DataError(f"{where}: {name} is a pickle that needs {error}, which is not allowed") from None
    except Exception:  # damaged pickles can make the unpickler raise almost anything
        raise DataError(f"{where}: {name} is not a CIFAR batch: download it again") from None
    raise DataError(f"{where}: {name} is not a CIFAR batch: download it again")


def _text(value: Any) -> str:
    """Text from bytes or str only, because the text of a recursive value may be endless."""
    if not isinstance(value, bytes | str):
        raise TypeError(f"expected text, not {type(value).__name__}")
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


class _ForbiddenPickle(Exception):
    """A pickle needs something that is not a number, a string or an array of numbers."""


class _StandIn:
    """Placeholder for an object in a pickle; only stores its arguments."""

    def __setstate__(self, state: Any) -> None:
        raise _ForbiddenPickle("the state of an unknown object")


class _PickledArray(_StandIn):
    """Placeholder for numpy's _reconstruct: stores shape, type and bytes; converted to an array after checks."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        _, shape, dtype, fortran, content = self.state
        return np.frombuffer(content, dtype.dtype()).reshape(shape, order="F" if fortran else "C")


class _PickledDtype(_StandIn):
    """Placeholder for numpy's dtype: only booleans, integers and floats."""

    def __init__(self, code: Any, *arguments: Any) -> None:
        self.code = _text(code)
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def dtype(self) -> np.dtype:
        if not re.fullmatch(r"[biuf][1248]", self.code) or self.order not in "<>|=":
            raise ValueError(f"arrays of {self.code} are not supported")
        return np.dtype(self.order + self.code)


class _PickledBytes(_StandIn):
    """Placeholder for _codecs.encode, used by Python 3 for bytes in old pickles."""

    def __new__(cls, text: Any, encoding: Any) -> bytes:
        return _text(text).encode("latin-1")


def _keyed_by_text(step: str) -> Callable[[Any], None]:
    """A step of the standard unpickler that fills a dictionary, restricted to text keys.

    Hashing a deeply nested tuple as a key could take forever.
    """
    load: Callable[[Any], None] = getattr(pickle._Unpickler, f"load_{step}")

    def checked(unpickler: Any) -> None:
        keys = [unpickler.stack[-2]] if step == "setitem" else unpickler.stack[0::2]
        if not all(isinstance(key, bytes | str) for key in keys):
            raise _ForbiddenPickle("a dictionary whose keys are not text")
        load(unpickler)

    return checked


class _BatchUnpickler(pickle._Unpickler):
    """Builds lists, dictionaries, numbers, strings and the placeholders above; never imports anything.

    Based on the pure Python unpickler, whose steps can be checked; the C version hashes and allocates first.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch | {
        code[0]: _keyed_by_text(step)
        for code, step in ((pickle.SETITEM, "setitem"), (pickle.SETITEMS, "setitems"), (pickle.DICT, "dict"))
    }
    for code in (pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS):
        del dispatch[code[0]]
    del code

    ALLOWED: ClassVar[dict[str, Any]] = {
        "numpy.core.multiarray._reconstruct": _PickledArray,
        "numpy._core.multiarray._reconstruct": _PickledArray,
        "numpy.ndarray": _StandIn,
        "numpy.dtype": _PickledDtype,
        "_codecs.encode": _PickledBytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise _ForbiddenPickle(f"{module}.{name}") from None
