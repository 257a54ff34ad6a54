"""Are planted copies found, and innocent pictures left alone?

    python benchmarks/copies.py DATA --json benchmarks/results/copies.json

DATA is a folder with mnist/, mednist/, celeba/, comic_faces/ and chest_xray/. Of each set training pictures, altered at
moderate strength in one of eight ways, are given to the copy finder beside held-out pictures that had no part in its
calibration. Recall by alteration, false alarms among the innocent, seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import machine, table, write_json
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.judge.copies import CopyFinder

SETS = {
    "mnist": ("mnist", "28"),
    "mednist": ("mednist/MedNIST_24000.tar.gz", "64"),
    "celeba": ("celeba/img_align_celeba_5000.zip", "64"),
    "comics": ("comic_faces/comic_faces_96_5000.zip", "64"),
    "chest-xray": ("chest_xray/chest_xray_normal_300.zip", "128"),
}
Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def clipped(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def resized(picture: np.ndarray, height: int, width: int, box: tuple[float, ...] | None = None) -> np.ndarray:
    bands = [
        Image.fromarray(picture[..., c]).resize((width, height), Image.Resampling.BICUBIC, box)  # ty: ignore
        for c in range(picture.shape[2])
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def shifted(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 5% to 10% of the side in both directions, the edge repeated."""
    height, width = picture.shape[:2]
    y, x = (int(rng.choice([-1, 1]) * round(rng.uniform(0.05, 0.1) * side)) for side in (height, width))
    rows = np.clip(np.arange(height) - y, 0, height - 1)
    return picture[rows][:, np.clip(np.arange(width) - x, 0, width - 1)]


def cropped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """85% to 95% of it, from anywhere, at the old size."""
    height, width = picture.shape[:2]
    kept = rng.uniform(0.85, 0.95)
    top, left = rng.uniform(0, (1 - kept) * height), rng.uniform(0, (1 - kept) * width)
    return resized(picture, height, width, (left, top, left + kept * width, top + kept * height))


def compressed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer)).reshape(picture.shape)


def halved(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    return resized(resized(picture, height // 2, width // 2), height, width)


ALTERATIONS: dict[str, Alteration] = {
    "mirror": lambda picture, rng: picture[:, ::-1],
    "shift": shifted,
    "crop": cropped,
    "brightness": lambda picture, rng: clipped(picture + 255 * rng.choice([-1, 1]) * rng.uniform(0.1, 0.2)),
    "contrast": lambda picture, rng: clipped((picture - picture.mean()) * rng.uniform(0.6, 1.4) + picture.mean()),
    "noise": lambda picture, rng: clipped(picture + 255 * rng.uniform(0.05, 0.1) * rng.standard_normal(picture.shape)),
    "jpeg": compressed,
    "half size": halved,
}


def measure(name: str, pack: Pack, num: int) -> dict[str, Any]:
    """Recall by alteration, and false alarms among the half of the held-out pictures that did not calibrate."""
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(pack.heldout)
    innocent, calibrating = np.sort(shuffled[::2]), np.sort(shuffled[1::2])
    training = pack.training
    began = time.monotonic()
    finder = CopyFinder(
        restricted(pack, calibrating, training)
    )  # the innocent are neither trained on nor calibrated with
    built = time.monotonic() - began
    recall = {}
    began = time.monotonic()
    for alteration, alter in ALTERATIONS.items():
        chosen = rng.choice(training, num, replace=False)
        planted = np.stack([alter(np.asarray(pack.images[i]), rng) for i in chosen])
        recall[alteration] = float(finder.is_copy(planted).mean())
    alarms = float(finder.is_copy(pack.images[innocent]).mean())
    seconds = time.monotonic() - began
    row: dict[str, Any] = {"data": name, "training": len(training), "innocent": len(innocent)}
    row |= recall | {"recall": float(np.mean(list(recall.values()))), "false alarms": alarms}
    return row | {"build s": built, "ms each": 1000 * seconds / (num * len(ALTERATIONS) + len(innocent))}


def restricted(pack: Pack, heldout: np.ndarray, training: np.ndarray) -> Pack:
    """The same pack with fewer held-out pictures; the others do not move to the training part."""
    smaller = dataclasses.replace(pack, heldout=heldout)
    vars(smaller)["training"] = training  # in place of the cached property
    return smaller


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--num", type=int, default=60, help="planted copies of each alteration")
    parser.add_argument("--only", nargs="*", default=list(SETS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.only:
        source, size = SETS[name]
        holdout = 0.3 if name == "chest-xray" else None  # 300 films: enough innocent ones to count
        config = DataConfig(size=size, holdout=holdout)
        named = name == "mnist"
        pack = (
            open_pack(name, config, path=options.data / source) if named else open_pack(options.data / source, config)
        )
        rows.append(measure(name, pack, options.num))
        print(rows[-1], flush=True)
    table("Planted copies: recall by alteration, false alarms among held-out pictures", rows)
    if options.json:
        write_json(options.json, {"machine": machine("torch", "numpy"), "num": options.num, "rows": rows})


if __name__ == "__main__":
    main()
