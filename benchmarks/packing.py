"""How fast images are packed, and in how much memory, beside the plainest loop that does the same.

    python benchmarks/packing.py --mnist mnist/ --mednist MedNIST.tar.gz --json packing.json
    python benchmarks/packing.py --generated 100000 --size 218x178
    python benchmarks/packing.py --array 1000000

`--generated` writes that many JPEG files and measures the fingerprint of their folder, `data check` and packing.
`--array` packs an array of random 16x16 images, whose time and memory are mostly those of choosing the held-out images.

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

TARGETS = {"mnist": 3.0, "mednist": 20.0, "generated": 60.0}  # seconds on two cores; generated: the check of 100,000
TARGET_MEMORY = 1.2  # GB


def pack(name: str, path: Path, _: Path) -> int:
    from ganvas.data import open_pack

    return open_pack(name, data=path).num_images


def pack_path(_: str, path: Path, out: Path) -> int:
    from ganvas.config import DataConfig
    from ganvas.data import open_pack

    return open_pack(path, DataConfig(size=16), folder=out / "pack").num_images


def check(_: str, path: Path, __: Path) -> int:
    from ganvas.data.checkup import check

    return check(path).num_images


def fingerprint(_: str, path: Path, __: Path) -> int:
    from ganvas.data.reading.sources import fingerprint_of

    fingerprint_of(path)
    return sum(1 for _ in path.rglob("*.jpg"))


def generate(folder: Path, num: int, height: int, width: int) -> Path:
    """A folder of different soft colour images as JPEG files, a thousand per sub-folder."""
    for number in range(num):
        place = folder / f"{number // 1000:05}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 8, 3), np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        image.save(place / f"{number:08}.jpg", quality=90)
    return folder


def generate_array(path: Path, num: int) -> Path:
    """Random 16x16 gray images in one .npy file."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (num, 16, 16))
    rng = np.random.default_rng(0)
    for start in range(0, num, 10_000):
        images[start : start + 10_000] = rng.integers(0, 256, images[start : start + 10_000].shape, np.uint8)
    images.flush()
    return path


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
    "generated": {"fingerprint": fingerprint, "check": check, "ganvas": pack_path},
    "array": {"ganvas": pack_path},
}


def measure_here(name: str, way: str, path: Path, out: Path) -> dict[str, Any]:
    """Run one way in this process, whose memory is then its own."""
    import ganvas.data.opening  # noqa: F401 (so that its time is not measured)

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
    parser.add_argument("--generated", type=int, help="number of generated files")
    parser.add_argument("--size", default="218x178", help="height x width of the generated files")
    parser.add_argument("--array", type=int, help="number of generated images in an array")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, way, path, out = arguments.child
        print(json.dumps(measure_here(name, way, Path(path), Path(out))))
        return
    here = machine("numpy", "pillow")
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    print(f"{'set':9} {'way':14} {'images':>9} {'seconds':>8} {'a second':>9} {'peak GB':>8}  target")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        sets = {"mnist": arguments.mnist, "mednist": arguments.mednist, "generated": None, "array": None}
        if arguments.generated:
            height, width = map(int, arguments.size.split("x"))
            sets["generated"] = generate(Path(place) / "files", arguments.generated, height, width)
        if arguments.array:
            sets["array"] = generate_array(Path(place) / "array.npy", arguments.array)
        for name, path in sets.items():
            aimed = "check" if name == "generated" else "ganvas"
            for row in measure(name, path.resolve()) if path else []:
                aim = ""
                if row["way"] == aimed and name in TARGETS and (name != "generated" or row["images"] >= 100_000):
                    met = row["seconds"] <= TARGETS[name] and row["peak_gb"] <= TARGET_MEMORY
                    aim = f"{'met' if met else 'MISSED'}: {TARGETS[name]:.0f} s, {TARGET_MEMORY} GB"
                print(
                    f"{name:9} {row['way']:14} {row['images']:9,} {row['seconds']:8.3f} "
                    f"{row['images'] / row['seconds']:9,.0f} {row['peak_gb']:8.3f}  {aim}"
                )
                rows.append(row)
    if arguments.json:
        write_json(arguments.json, {"machine": here, "rows": rows})


if __name__ == "__main__":
    main()
