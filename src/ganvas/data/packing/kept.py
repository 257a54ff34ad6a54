"""Held-out images of a run that stay held out when its images grow (`ganvas train --add`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

_LENGTH = 16  # hexadecimal digits of a hash


@dataclass(frozen=True)
class Kept:
    """Images known by the hashes of their names and of their packed pixels; names themselves are not stored."""

    names: frozenset[str]
    pixels: frozenset[str]

    @classmethod
    def of(cls, images: np.ndarray, names: list[str], places: Iterable[int]) -> Kept:
        """The images at `places` of a pack (N, H, W, C)."""
        places = list(places)
        return cls(
            frozenset(_name_hash(names[i]) for i in places),
            frozenset(_pixels_hash(images[i]) for i in places),
        )

    def among(self, images: np.ndarray, names: list[str]) -> np.ndarray:
        """(N,) bool: which images of a pack these are, by name or by pixels."""
        if not self.names:
            return np.zeros(len(names), bool)
        same = (
            _name_hash(name) in self.names or _pixels_hash(image) in self.pixels
            for name, image in zip(names, images, strict=True)
        )
        return np.fromiter(same, bool, len(names))

    @property
    def key(self) -> str:
        """Hash of the whole list."""
        return _hash("\n".join([*sorted(self.names), "", *sorted(self.pixels)]).encode())

    def to_dict(self) -> dict[str, list[str]]:
        return {"names": sorted(self.names), "pixels": sorted(self.pixels)}

    @classmethod
    def from_dict(cls, values: Any) -> Kept:
        """Raises ValueError for anything that `to_dict` does not give."""
        if not isinstance(values, dict):
            raise ValueError("expected names and pixels")
        lists = [values.get("names"), values.get("pixels")]
        for one in lists:
            if not isinstance(one, list) or not all(isinstance(v, str) and _DIGITS.fullmatch(v) for v in one):
                raise ValueError("expected lists of hashes")
        return cls(*map(frozenset, lists))


_DIGITS = re.compile(f"[0-9a-f]{{{_LENGTH}}}")


def _name_hash(name: str) -> str:
    return _hash(name.encode("utf-8", "surrogateescape"))


def _pixels_hash(image: np.ndarray) -> str:
    return _hash(f"{image.shape}{image.dtype}".encode() + np.ascontiguousarray(image).tobytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_LENGTH]
