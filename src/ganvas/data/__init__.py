"""Data: converts a folder, an archive or a named data set to a `Pack` of images with one size.

Names are loaded when first used: the processes that decode images need only a part of the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganvas.data.opening import open_pack
    from ganvas.data.packing.pack import Pack

__all__ = ["Pack", "open_pack"]

_HOME = {"Pack": "ganvas.data.packing.pack", "open_pack": "ganvas.data.opening"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
