"""How fast images are packed, and in how much memory, beside the plainest loop that does the same.

    python benchmarks/packing.py --mnist mnist/ --mednist MedNIST.tar.gz --json packing.json

Each measurement is a fresh process with an empty cache. Seconds are those of the call alone, without importing;
the peak memory counts the process and all of its children at their largest, as if all peaked at once.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import machine, write_json

TARGETS = {"mnist": 3.0, "mednist": 20.0}  # seconds on two cores
TARGET_MEMORY = 1.2  # GB


def pack(name: str, path: Path, _: Path) -> int:
    from ganvas.data import open_pack

    return open_pack(name, data=path).num_images


def plain_mnist(_: str, path: Path, out: Path) -> int:
    """The idx file through gzip into one array."""
    with gzip.open(path / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28, 1)
    np.save(out / "images.npy", images)
    return len(images)


def plain_mednist(_: str, path: Path, out: Path) -> int:
    """Every member of the tar through Pillow, one after another, into a list."""
    images = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".jpeg"):
                content = archive.extractfile(member)
                assert content is not None
                images.append(np.asarray(Image.open(io.BytesIO(content.read())).convert("L"))[..., None])
    np.save(out / "images.npy", np.stack(images))
    return len(images)


WAYS: dict[str, dict[str, Callable[[str, Path, Path], int]]] = {
    "mnist": {"plain loop": plain_mnist, "ganvas": pack, "ganvas, again": pack},
    "mednist": {"plain loop": plain_mednist, "ganvas": pack, "ganvas, again": pack},
}


def measure_here(name: str, way: str, path: Path, out: Path) -> dict[str, Any]:
    """Run one way in this process, whose memory is then its own."""
    import ganvas.data  # noqa: F401 (so that its time is not measured)

    started = time.perf_counter()
    num_images = WAYS[name][way](name, path, out)
    seconds = time.perf_counter() - started
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    num_children = len(os.sched_getaffinity(0)) if largest_child else 0
    gigabytes = (own + num_children * largest_child) * 1024 / 1e9
    return {"set": name, "way": way, "images": num_images, "seconds": seconds, "peak_gb": gigabytes}


def measure(name: str, path: Path) -> list[dict[str, Any]]:
    """All ways of one set, each in a process of its own; "again" finds the cache of the one before."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS[name]:
            command = [sys.executable, __file__, "--child", name, way, str(path), folder]
            done = subprocess.run(
                command, env=os.environ | {"GANVAS_CACHE": folder}, stdout=subprocess.PIPE, check=True
            )
            rows.append(json.loads(done.stdout))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="folder of the four idx .gz files")
    parser.add_argument("--mednist", type=Path, help="the tar.gz")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, way, path, out = arguments.child
        print(json.dumps(measure_here(name, way, Path(path), Path(out))))
        return
    here = machine("numpy", "pillow")
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    print(f"{'set':8} {'way':14} {'pictures':>9} {'seconds':>8} {'a second':>9} {'peak GB':>8}  target")
    rows = []
    for name, path in (("mnist", arguments.mnist), ("mednist", arguments.mednist)):
        for row in measure(name, path.resolve()) if path else []:
            met = row["seconds"] <= TARGETS[name] and row["peak_gb"] <= TARGET_MEMORY
            aim = f"{'met' if met else 'MISSED'}: {TARGETS[name]:.0f} s, {TARGET_MEMORY} GB"
            print(
                f"{name:8} {row['way']:14} {row['images']:9,} {row['seconds']:8.3f} "
                f"{row['images'] / row['seconds']:9,.0f} {row['peak_gb']:8.3f}  "
                + (aim if row["way"] == "ganvas" else "")
            )
            rows.append(row)
    if arguments.json:
        write_json(arguments.json, {"machine": here, "rows": rows})


if __name__ == "__main__":
    main()
