"""Damages every kind of file that Ganvas reads: flipped bytes and truncations.

    python benchmarks/damage.py --number 700 --json damage.json

Five of seven damages flip one to three bytes of a file at random, two cut it. The command that reads it must refuse it
in one sentence, or work. Where a file has a checksum or another copy (run, pack, model) the result must then be exactly
that of the undamaged file; a flipped byte in an image without checksum is a slightly different image and no fault.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import json
import pickle
import random
import struct
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import machine, table, write_json
from forks import EVALUATE, TINY, TRAIN, complete, must, renew, write_digits
from ganvas.data.reading.digits import digits
from kills import content

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
film = importlib.import_module("dicom_files").film  # a DICOM file of these pixels
video = importlib.import_module("test_video_data").film  # a video of these scenes

PACK = ("data", "pack", "damaged", "out", "--size", "32")
RESUME = ("train", "data.zip", "--out", "run", *TINY, "--images", "496")
FROM_PACK = ("train", "packed", "--out", "new", *TINY, "--images", "32")
SAMPLE = ("sample", "run", "--n", "8", "--seed", "5", "--device", "cpu")
PUBLISH = ("publish", "run", "published")


@dataclass(frozen=True)
class Kind:
    """A kind of file: its pattern, the command that reads it, and the prefix of results that must stay the same."""

    pattern: str
    command: tuple[str, ...]
    exact: tuple[str, ...] = ()


KINDS = {
    "checkpoint": Kind("run/checkpoints/*.pt", TRAIN, ("state of", "run/averages/")),
    "config": Kind("run/config.json", RESUME, ("state of", "run/averages/")),
    "log": Kind("run/log.jsonl", RESUME, ("state of", "run/averages/")),
    "pack": Kind("packed/*", FROM_PACK, ("state of",)),
    "heldout": Kind("run/heldout.json", (*RESUME, "--add"), ("state of", "run/averages/")),
    "model": Kind("run/model/generator.safetensors", (*SAMPLE, "--out", "more"), ("more/",)),
    "best": Kind("run/best/*", ("sample", "run/best", "--n", "8", "--out", "more", "--device", "cpu"), ("more/",)),
    "averages": Kind("run/averages/*/*", ("average", "run", "--out", "average"), ("average/generator",)),
    "directions": Kind("run/model/directions.json", ("directions", "run", "--n", "2")),
    "favourites": Kind("kept.json", ("favourites", "run", "kept.json", "--out", "kept")),
    "manifest": Kind("samples/manifest.csv", SAMPLE),
    "evaluation": Kind("run/evaluation.json", ("report", "run")),
    "features": Kind("cache/features/*/*", EVALUATE),
    "calibration": Kind("cache/copies/*", EVALUATE),
    "classifier": Kind("cache/judges/*", EVALUATE),
    "grid": Kind("run/samples/*.png", ("video", "run", "--formats", "gif")),
    "energy": Kind("run/energy.json", ("report", "run")),
    "mark": Kind("published/.ganvas-publish.json", PUBLISH),
    "options": Kind("options.toml", ("train", "--config", "options.toml")),
    "list": Kind("files.txt", ("data", "pack", "data.zip", "out", "--files", "files.txt", "--size", "32")),
    "conditions": Kind("table.csv", ("data", "pack", "data.zip", "out", "--conditions", "table.csv:digit,slant")),
    **{f"source {name}": Kind(f"sources/{name}/*", PACK) for name in (
        "png", "png16", "jpg", "webp", "gif", "bmp", "tif", "dcm", "csv", "jsonl", "json", "idx", "cifar", "zip", "tar",
        "npz", "npy", "mp4",
    )},
}  # fmt: skip


def sources(folder: Path) -> None:
    """A folder of images or one archive for every form of source."""
    images, labels = digits().arrays()
    assert labels is not None
    images, labels = images[:12], labels[:12]
    for kind in ("png", "jpg", "webp", "gif", "bmp", "tif"):
        (folder / kind).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / kind / f"{i}.{kind}")
    for kind in ("png16", "dcm", "csv", "jsonl", "json", "idx", "cifar", "zip", "tar", "npz", "npy", "mp4"):
        (folder / kind).mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.astype(np.uint16) * 257).save(folder / "png16" / f"{i}.png")
        np.save(folder / "npy" / f"{i}.npy", image)
        for kind in ("csv", "jsonl", "json"):
            Image.fromarray(image).save(folder / kind / f"{i}.png")
        (folder / "dcm" / f"{i}.dcm").write_bytes(film(image))
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    (folder / "csv" / "labels.csv").write_text("file,label\n" + rows)
    listed = [(f"{i}.png", int(label)) for i, label in enumerate(labels)]
    lines = [json.dumps({"file_name": name, "label": label}) + "\n" for name, label in listed]
    (folder / "jsonl" / "metadata.jsonl").write_text("".join(lines))
    (folder / "json" / "dataset.json").write_text(json.dumps({"labels": listed}))
    pixels = np.repeat(images.reshape(len(images), -1), 3, axis=1)
    batch = {b"data": pixels, b"labels": labels.tolist()}
    (folder / "cifar" / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    video(folder / "mp4" / "clip.mp4", list(range(12)))
    idx = struct.pack(">4I", 0x803, *images.shape) + images.tobytes()
    (folder / "idx" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx))
    (folder / "idx" / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 12) + bytes(labels.tolist()))
    np.savez(folder / "npz" / "data.npz", images=images, labels=labels)
    with (
        zipfile.ZipFile(folder / "zip" / "data.zip", "w") as archive,
        tarfile.open(folder / "tar" / "data.tar.gz", "w:gz") as tar,
    ):
        for path in sorted((folder / "png").iterdir()):
            archive.write(path, path.name)
            tar.add(path, path.name)


def lists(folder: Path) -> None:
    """Files beside the images, with options, names and conditions, and the energy of the run."""
    with zipfile.ZipFile(folder / "data.zip") as archive:
        names = archive.namelist()
    (folder / "files.txt").write_text("".join(f"{name}\n" for name in names[:40]))
    rows = [f"{name},{name[0]},{i / 7:.3f}\n" for i, name in enumerate(names)]
    (folder / "table.csv").write_text("file,digit,slant\n" + "".join(rows))
    (folder / "run" / "energy.json").write_text('{"kwh": 0.0125}\n')
    options = {"source": "data.zip", "out": "other", "images": 32, "size": "8", "base": 8, "batch": 16, "device": "cpu"}
    (folder / "options.toml").write_text("".join(f"{name} = {json.dumps(one)}\n" for name, one in options.items()))


def damaged(whole: bytes, flips: bool, dice: random.Random) -> tuple[bytes, str]:
    """The content with one to three other bytes, or cut; and what was done."""
    if not flips:
        keep = dice.randrange(len(whole))
        return whole[:keep], f"cut to {keep} of {len(whole)}"
    changed = bytearray(whole)
    places = [dice.randrange(len(whole)) for _ in range(dice.randint(1, 3))]
    for place in places:
        changed[place] ^= dice.randint(1, 255)
    return bytes(changed), f"bytes {places}"


def result(name: str, folder: Path) -> dict[str, str]:
    """What the command made, as far as it has to stay the same."""
    found = content(folder) if KINDS[name].exact else {}
    return {path: sha for path, sha in found.items() if path.startswith(KINDS[name].exact)}


def prepare(name: str, base: Path, folder: Path) -> None:
    renew(base, folder)
    if name.startswith("source"):
        (folder / KINDS[name].pattern.removesuffix("/*")).rename(folder / "damaged")


def trial(name: str, base: Path, folder: Path, expected: dict[str, str], flips: bool, dice: random.Random) -> str:
    """Damages one file of a kind; returns what is wrong with the answer of the command, or ""."""
    prepare(name, base, folder)
    pattern = "damaged/*" if name.startswith("source") else KINDS[name].pattern
    path = dice.choice(sorted(path for path in folder.glob(pattern) if path.stat().st_size))
    spoilt, what = damaged(path.read_bytes(), flips, dice)
    path.write_bytes(spoilt)
    ended = complete(KINDS[name].command, folder)
    fault = ended.fault
    if not fault and ended.code == 0 and result(name, folder) != expected:
        fault = "the result is silently another one"
    return f"{path.name}, {what}: {fault}" if fault else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=700, help="damages over all kinds of files")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS), help="kinds of files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damages")
    parser.add_argument("--json", type=Path, help="where the figures go")
    asked = parser.parse_args()
    dice = random.Random(asked.seed)
    faults: dict[str, list[str]] = {name: [] for name in asked.only}
    done = dict.fromkeys(asked.only, 0)
    expected: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as place:
        base, folder = Path(place) / "base", Path(place) / "work"
        write_digits(base)
        sources(base / "sources")
        for command in (
            TRAIN, EVALUATE, ("directions", "run", "--n", "2"), SAMPLE,
            ("favourites", "run", "kept.json", "--keep", "1,2", "--device", "cpu"),
            ("data", "pack", "data.zip", "packed", "--size", "8"), PUBLISH,
        ):  # fmt: skip
            must(command, base)
        lists(base)
        with contextlib.suppress(KeyboardInterrupt):
            for i in range(asked.number):
                name = asked.only[i % len(asked.only)]
                if name not in expected:
                    prepare(name, base, folder)
                    must(KINDS[name].command, folder)
                    expected[name] = result(name, folder)
                wrong = trial(name, base, folder, expected[name], i // len(asked.only) % 7 < 5, dice)
                faults[name] += [wrong] if wrong else []
                done[name] += 1
    rows: list[dict[str, Any]] = [{"file": name, "damages": done[name], "faults": faults[name]} for name in faults]
    table("Damaged files", [row | {"faults": len(row["faults"])} for row in rows])
    for name, wrong in faults.items():
        for one in wrong:
            print(f"{name}: {one}")
    if asked.json:
        write_json(asked.json, {"machine": machine("torch", "pillow"), "seed": asked.seed, "rows": rows})
    return 1 if any(faults.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
