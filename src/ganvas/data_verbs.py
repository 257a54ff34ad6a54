"""The user-facing functions for data. They do not import torch, which takes seconds; verbs.py does."""

from __future__ import annotations

from pathlib import Path

from ganvas.config import DataConfig
from ganvas.data.catalog import CATALOG
from ganvas.data.checkup import Checkup
from ganvas.data.checkup import check as checkup_of
from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack
from ganvas.fields import part, takes
from ganvas.options import Check, ListSets, MakePack
from ganvas.system import files
from ganvas.training.progress import Display


@takes(Check)
def check(asked: Check) -> Checkup:
    """Check images before training: counts, sizes, classes, broken files, duplicates, blank images."""
    with Display(asked.quiet) as display:
        report = checkup_of(asked.source, part(asked, DataConfig), data=asked.data, progress=display.packing)
    if asked.save is not None:
        files.write_text(Path(asked.save), report.to_json() + "\n")
    return report


@takes(MakePack)
def pack(asked: MakePack) -> Pack:
    """Convert images to a pack in the folder `out`: all images at one size, ready for training."""
    with Display(asked.quiet) as display:
        config = part(asked, DataConfig)
        return open_pack(asked.source, config, data=asked.data, folder=asked.out, progress=display.packing)


@takes(ListSets)
def list_sets(asked: ListSets) -> dict[str, str]:
    """Names and titles of the data sets that Ganvas knows."""
    return {entry.name: entry.title for entry in CATALOG.values()}
