"""Are planted copies found, and innocent images left alone? How long does the search take, and is memorising seen?

    python benchmarks/copies.py DATA --json benchmarks/results/copies.json

DATA is a folder with mnist/, mednist/, celeba/, comic_faces/ and chest_xray/. Of each set training images, altered in
one of the ways below, are given to the copy finder beside held-out images that had no part in its calibration: recall
by alteration, and false alarms among the innocent. Of MNIST also the time of a search, and what is said of generators
of 100 and of 20,000 images.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from common import machine, table, write_json
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.evaluation.copies import HELDOUT, CopyFinder
from ganvas.generator import Generator, to_pixels
from ganvas.verbs import train

SETS = {  # path, size, part that is held out: half of that calibrates, at most 2,000, and the others are the innocent
    "mnist": ("mnist", "28", 0.12),
    "mednist": ("mednist/MedNIST_24000.tar.gz", "64", 0.2),
    "celeba": ("celeba/img_align_celeba_5000.zip", "64", 0.2),
    "comics": ("comic_faces/comic_faces_96_5000.zip", "64", 0.2),
    "chest-xray": ("chest_xray/chest_xray_normal_300.zip", "128", 0.3),
}
Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def clipped(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def resized(image: np.ndarray, height: int, width: int, box: tuple[float, ...] | None = None) -> np.ndarray:
    bands = [
        Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.BICUBIC, box)  # ty: ignore
        for c in range(image.shape[2])
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def shifted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 5% to 10% of the side in both directions, the edge repeated."""
    height, width = image.shape[:2]
    y, x = (int(rng.choice([-1, 1]) * round(rng.uniform(0.05, 0.1) * side)) for side in (height, width))
    rows = np.clip(np.arange(height) - y, 0, height - 1)
    return image[rows][:, np.clip(np.arange(width) - x, 0, width - 1)]


def cropped(image: np.ndarray, rng: np.random.Generator, parts: tuple[float, float] = (0.85, 0.95)) -> np.ndarray:
    """A part of the side, by default 85% to 95%, from anywhere, at the old size."""
    height, width = image.shape[:2]
    kept = rng.uniform(*parts)
    top, left = rng.uniform(0, (1 - kept) * height), rng.uniform(0, (1 - kept) * width)
    return resized(image, height, width, (left, top, left + kept * width, top + kept * height))


def compressed(image: np.ndarray, rng: np.random.Generator, quality: int = 40) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def halved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    return resized(resized(image, height // 2, width // 2), height, width)


def rotated(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 5 to 10 degrees, the edge repeated."""
    angle = rng.choice([-1, 1]) * rng.uniform(5, 10)
    return clipped(ndimage.rotate(image.astype(float), angle, reshape=False, mode="nearest", order=1))


def closely_cropped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """70% to 85% of the side, from anywhere, at the old size."""
    return cropped(image, rng, (0.7, 0.85))


def hue_turned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 60 to 300 degrees; a gray image stays as it is."""
    if image.shape[2] < 3:
        return image
    hue, *others = Image.fromarray(image[..., :3]).convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(rng.uniform(43, 213)))
    return np.asarray(Image.merge("HSV", [turned, *others]).convert("RGB"))


ALTERATIONS: dict[str, Alteration] = {
    "mirror": lambda image, rng: image[:, ::-1],
    "shift": shifted,
    "crop": cropped,
    "brightness": lambda image, rng: clipped(image + 255 * rng.choice([-1, 1]) * rng.uniform(0.1, 0.2)),
    "contrast": lambda image, rng: clipped((image - image.mean()) * rng.uniform(0.6, 1.4) + image.mean()),
    "noise": lambda image, rng: clipped(image + 255 * rng.uniform(0.05, 0.1) * rng.standard_normal(image.shape)),
    "jpeg": compressed,
    "half size": halved,
    "rotation": rotated,
    "close crop": closely_cropped,
    "hue": hue_turned,
    "negative": lambda image, rng: 255 - image,
}
Pairing = Callable[[np.ndarray, np.ndarray], np.ndarray]
PAIRINGS: dict[str, Pairing] = {  # of two images of the training part
    "blend": lambda one, other: clipped(0.8 * one + 0.2 * other),
    "collage": lambda one, other: np.concatenate([one[:, : (cut := one.shape[1] * 3 // 4)], other[:, cut:]], axis=1),
}


def planted(pack: Pack, names: list[str], rng: np.random.Generator) -> np.ndarray:
    """Altered training images, one for each name of an alteration or pairing."""
    chosen = rng.choice(pack.training, len(names), replace=False)
    others = pack.images[rng.choice(pack.training, len(names))]
    return np.stack(
        [
            PAIRINGS[name](image, other) if name in PAIRINGS else ALTERATIONS[name](image, rng)
            for name, image, other in zip(names, pack.images[chosen], others, strict=True)
        ]
    )


def measure(name: str, pack: Pack, num: int, limits: tuple[int, int, int]) -> dict[str, Any]:
    """Recall by alteration, and false alarms among held-out images that did not calibrate.

    limits: most calibrating, innocent and training images.
    """
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(pack.heldout)
    calibrating, innocent = np.split(shuffled, [min(limits[0], len(shuffled) // 2)])
    innocent = np.sort(innocent[: limits[1]])
    part = restricted(pack, np.sort(calibrating), np.sort(rng.permutation(pack.training)[: limits[2]]))
    began = time.process_time()
    finder = CopyFinder(part)
    built, began = time.process_time() - began, time.process_time()
    names = [*ALTERATIONS, *PAIRINGS]
    recall = {one: float(finder.is_copy(planted(part, [one] * num, rng)).mean()) for one in names}
    alarms = float(finder.is_copy(pack.images[innocent]).mean())
    seconds = time.process_time() - began
    row: dict[str, Any] = {"data": name, "training": len(part.training), "calibrating": len(calibrating)}
    row |= {"innocent": len(innocent)} | recall | {"false alarms": alarms, "threshold": finder.threshold}
    return row | {"build cpu s": built, "cpu ms each": 1000 * seconds / (num * len(names) + len(innocent))}


def restricted(pack: Pack, heldout: np.ndarray, training: np.ndarray | None = None) -> Pack:
    """The same pack with these held-out images; the others do not move to the training part."""
    smaller = dataclasses.replace(pack, heldout=heldout)
    vars(smaller)["training"] = pack.training if training is None else training  # in place of the cached property
    return smaller


def search(pack: Pack, num: int) -> dict[str, Any]:
    """Seconds to look for `num` images, half of them copies, among all of the pack's."""
    rng = np.random.default_rng(1)
    finder = CopyFinder(restricted(pack, pack.heldout, np.arange(len(pack.images))))
    names = [*ALTERATIONS, *PAIRINGS]
    copies = planted(pack, [names[i % len(names)] for i in range(num // 2)], rng)
    samples = np.concatenate([copies, pack.images[rng.choice(pack.heldout, num - len(copies))]])
    began, cpu = time.monotonic(), time.process_time()
    finder.find(samples)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    size = {"samples": num, "training": len(finder.training), "threads": torch.get_num_threads()}
    return size | {"s": wall, "cpu s": cpu}


def memorised(data: Path, num: int, minutes: float, samples: int = 1000) -> dict[str, Any]:
    """The result for a generator of `num` MNIST images; without augmentation if they are few, so that it copies."""
    few: dict[str, Any] = {"augment": 0.0, "adaptive": False} if num < 1000 else {}
    heldout = max(30, num // 10)
    config = DataConfig(size="28", limit=num + heldout, holdout=heldout / (num + heldout))
    path = data / "mnist"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = train("mnist", out, data=path, minutes=minutes, quiet=True, **vars(config), **few)
        generator = Generator.load(run.folder)
        labels = [i % 10 for i in range(samples)] if generator.classes else None
        images = np.concatenate([to_pixels(part) for part in generator.batches(range(samples), labels)])
    pack = open_pack("mnist", config, data=path)
    judged = CopyFinder(pack).judge(images)
    row: dict[str, Any] = {"trained on": pack.num_training, "held out": len(pack.heldout), "seen": run.images_seen}
    rate = judged.rate
    return row | {"copies": rate.value, "low": rate.low, "high": rate.high, "said": judged.sentence}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--num", type=int, default=100, help="planted copies of each alteration")
    parser.add_argument("--calibrating", type=int, default=HELDOUT, help="most held-out images for calibration")
    parser.add_argument("--innocent", type=int, default=5000, help="most held-out images that must not be flagged")
    parser.add_argument("--training", type=int, default=10**9, help="most training images")
    parser.add_argument("--only", nargs="*", default=list(SETS))
    parser.add_argument("--searched", type=int, default=10_000, help="samples of the timed search; 0: none")
    parser.add_argument("--minutes", type=float, default=5, help="of each training; 0: none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    content: dict[str, Any] = {"machine": machine("torch", "numpy"), "num": options.num, "rows": []}
    limits = options.calibrating, options.innocent, options.training
    for name in options.only:
        source, size, holdout = SETS[name]
        config = DataConfig(size=size, holdout=holdout)
        known = name == "mnist"
        pack = (
            open_pack(name, config, data=options.data / source) if known else open_pack(options.data / source, config)
        )
        content["rows"].append(measure(name, pack, options.num, limits))
        print(content["rows"][-1], flush=True)
        if known and options.searched:
            content["search"] = search(pack, options.searched)
            print(content["search"], flush=True)
    table("Planted copies: recall by alteration, false alarms among held-out images", content["rows"])
    if options.minutes:
        content["memorised"] = [memorised(options.data, num, options.minutes) for num in (100, 20_000)]
        print(*content["memorised"], sep="\n")
    if options.json:
        write_json(options.json, content)


if __name__ == "__main__":
    main()
