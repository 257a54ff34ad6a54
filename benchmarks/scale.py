"""Peak memory and time of everything that reads a whole training set, up to ten million images.

    python benchmarks/scale.py --images 10000000 --json benchmarks/results/scale.json

The images are random, of 8x8 gray pixels (640 MB), every thousandth with a near duplicate. Each part is a process of
its own: the choice of held-out images; the check of a finished pack; batches; the scores during training; the copy
finder with its calibration and a search; the search for near duplicates among all (of `--pairs` images at most, because
its time grows faster than their number).

Two peaks: `peak GB` is memory of the process itself, which cannot be given back; `with files` also counts the pages of
memory-mapped files, which the system takes back when other programs need memory (VmHWM).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import machine, table, write_json

SIDE, PIECE, EVERY = 8, 100_000, 1000  # image side; images made at a time; distance of images with a near duplicate
BOUND = 4.0  # GB of memory of its own that no part may exceed, at any number of images


def generate(folder: Path, num: int) -> None:
    """images.npy and names.txt of a pack."""
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (num, SIDE, SIDE, 1), version=(1, 0))
    rng = np.random.default_rng(0)
    for start in range(0, num, PIECE):
        part = rng.integers(0, 256, images[start : start + PIECE].shape, np.uint8)
        part[1::EVERY] = np.minimum(part[::EVERY], 254) + 1  # brighter by one level
        images[start : start + PIECE] = part
    images.flush()
    with (folder / "names.txt").open("w", encoding="utf-8", newline="\n") as file:
        for start in range(0, num, PIECE):
            file.write("".join(f"{i:08}\n" for i in range(start, min(num, start + PIECE))))


def holdout(folder: Path, _: int) -> str:
    from ganvas.data.packing.holdout import held_out

    images = np.lib.format.open_memmap(folder / "images.npy", mode="r")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        held = held_out(images, None, None, scratch=Path(scratch))
        used = sum(file.stat().st_size for file in Path(scratch).iterdir()) / 1e9
    np.save(folder / "heldout.npy", held)
    return f"{len(held):,} held out, {used:.1f} GB of temporary files"


def finish(folder: Path, _: int) -> str:
    """Completes the pack as `ganvas data pack` does, opens it and checks its hashes."""
    from ganvas.config import DataConfig
    from ganvas.data.packing.pack import Pack, PackInfo, Policy, Request, content_hash

    images = np.lib.format.open_memmap(folder / "images.npy", mode="r")
    heldout = np.load(folder / "heldout.npy")
    names = hashlib.sha256((folder / "names.txt").read_bytes().removesuffix(b"\n")).hexdigest()
    PackInfo(
        request=Request.of(DataConfig(), Policy("scale")),
        form="arrays",
        fingerprint="scale",
        shape=list(images.shape),
        depth=8,
        fit="crop",
        background=None,
        levels=[0, 65535],
        labelled=False,
        heldout=len(heldout),
        classes=[],
        kind="scan",
        mirror=False,
        licence=None,
        attribution=None,
        rejected=[],
        notes=[],
        names_hash=names,
        hash=content_hash(images, None, [], heldout),
    ).write(folder)
    return f"{Pack.open(folder).num_training:,} training images"


def batches(folder: Path, _: int) -> str:
    from ganvas.data.batches import Batches
    from ganvas.data.packing.pack import Pack

    stream = Batches(Pack.open(folder), 64)
    for _ in range(200):
        next(stream)
    stream.close()
    return "200 batches of 64"


def scores(folder: Path, _: int) -> str:
    from ganvas.data.packing.pack import Pack
    from ganvas.evaluation.training_score import TrainingScorer

    return f"prepared in {TrainingScorer(Pack.open(folder)).cost:.0f} s"


def copies(folder: Path, _: int) -> str:
    from ganvas.data.packing.pack import Pack
    from ganvas.evaluation.copies import CopyFinder

    pack = Pack.open(folder)
    finder = CopyFinder(pack)
    found = finder.judge(pack.images[finder.training[:100]])
    return f"{len(finder.training):,} compared, {int(found.copies.sum())} of 100 training images flagged"


def pairs(folder: Path, most: int) -> str:
    from ganvas.data.inspection.near_duplicates import Likeness
    from ganvas.data.inspection.thumbnails import thumbnails_of

    images = np.lib.format.open_memmap(folder / "images.npy", mode="r")[:most]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = Likeness(thumbnails_of(images, Path(scratch)), quick=True).pairs()
    planted = len(images) // EVERY
    return f"{len(found):,} pairs of {planted:,} planted, in {len(images):,} images"


PARTS: dict[str, Callable[[Path, int], str]] = {
    "hold-out": holdout,
    "pack": finish,
    "batches": batches,
    "scores": scores,
    "copies": copies,
    "pairs": pairs,
}


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def measure_here(name: str, folder: Path, most: int) -> dict[str, Any]:
    """Runs one part in this process, whose memory is then its own."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, spent = time.perf_counter(), time.process_time()
    try:
        result = PARTS[name](folder, most)
    finally:
        done.set()
        watcher.join()
    usage = {"seconds": time.perf_counter() - began, "processor s": time.process_time() - spent}
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"part": name, **usage, "peak GB": peak / 1e9, "with files": whole, "result": result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--pairs", type=int, default=200_000, help="most images for the search among all")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS), help="parts to run")
    parser.add_argument("--folder", type=Path, help="where the pack goes, and stays; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, place, most = arguments.child
        print(json.dumps(measure_here(name, Path(place), int(most))))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "names.txt").exists():
            generate(folder, arguments.images)
        rows = []
        for name in arguments.only:
            command = [sys.executable, __file__, "--child", name, str(folder), str(arguments.pairs)]
            environment = os.environ | {"GANVAS_CACHE": str(folder / "cache")}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            rows.append(json.loads(done.stdout))
            print(json.dumps(rows[-1]), file=sys.stderr)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    table(f"{arguments.images:,} images of {SIDE}x{SIDE}", rows)
    above = [row["part"] for row in rows if row["peak GB"] > BOUND]
    print(f"{', '.join(above)} above {BOUND:g} GB" if above else f"All parts stay below {BOUND:g} GB.")
    if arguments.json:
        content = {"machine": machine("numpy", "torch"), "images": arguments.images, "rows": rows}
        write_json(arguments.json, content)


if __name__ == "__main__":
    main()
