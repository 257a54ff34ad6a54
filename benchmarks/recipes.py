"""Recipes beside each other: same images, same machine, same time, and judges that had no part in the training.

    python benchmarks/recipes.py DATA --out runs --only celeba comics --minutes 10 --seeds 0 1 2

Recipes: `new` is what `ganvas train` chooses, `own` the recipe of 0.1.0 before features (compact, a discriminator of
pixels), `features` the new one without the discriminator of pixels, and `classic` the preset of the project that the
data belong to. Trained runs are kept in --out and are not trained again. Columns: images seen, the Frechet distance of
attributes and the mean difference of their shares (benchmarks/attributes.py), KID to held-out images in a random
network and in EfficientNet-lite0 (which took part in the training of `new` and `features`), the variance of the mean
colour and of pixels as shares of the real ones', and precision and recall in the random network; for X-ray films also
the checks of the chest X-ray project: mean correlation of nine films (with the range of real ones), and checkerboard
artefacts (period 2, 4 and 8) and Laplacian variance as ratios to the real ones. A grid of the first 36
seeds of every run of the first seed is written beside them.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ganvas
from attributes import SETS, attribute_classifier
from common import machine, table, write_json
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.data.batches import images_at, spaced
from ganvas.evaluation.artefacts import checkerboard, correlation_range, pairwise_correlation, sharpness
from ganvas.evaluation.distances import kid_interval, precision_recall
from ganvas.evaluation.features import Features
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import grid, save_png
from ganvas.training.preview import spread

DATA = {
    "celeba": ("celeba/img_align_celeba_5000.zip", "64", "face", "celeba"),
    "comics": ("comic_faces/comic_faces_96_5000.zip", "64", "comic", "dcgan"),
    "simpsons": ("simpsons_faces/simpsons_faces_128.zip", "64", "comic", "mlp64"),
    "chest": ("chest_xray/chest_xray_normal_300.zip", "128", "xray", "dcgan"),
    "chest800": ("chest_xray/chest_xray_normal_300.zip", "800", "xray", "xray800"),
    "mednist": ("mednist/MedNIST_24000.tar.gz", "64", "scan", "dcgan"),
    "cifar10": ("cifar10/cifar-10-batches-1-2.tar.xz", "32", "photo", "cifar10"),
}
"""Source, size, kind and classic preset of each set."""
RECIPES: dict[str, dict[str, Any]] = {
    "new": {},
    "own": {"model": "compact", "discriminator": "own"},
    "features": {"model": "light", "discriminator": "features"},
}
SHOWN, SEED = 36, 1_000_000
FILMS = 100  # films that checkerboard artefacts and sharpness are measured on


def packed(data: Path, name: str, size: str | None) -> Pack:
    source, usual, kind, _ = DATA[name]
    labels = None if name in ("mednist", "cifar10") else "none"
    return open_pack(data / source, DataConfig(size=size or usual, kind=kind, labels=labels))  # ty: ignore


def measured(generator: Generator, pack: Pack, judge: Any, num: int) -> dict[str, float]:
    """The numbers of one generator, of `num` samples in the order of their seeds."""
    labels = None
    if generator.classes:
        labels = (np.arange(num) % len(generator.classes)).tolist()
    images = generator.sample(num, seed=SEED, label=labels)
    found: dict[str, float] = dict(judge(images)) if judge is not None else {}
    heldout = images_at(pack, spaced(pack.heldout, num))
    for name in ("random", "efficientnet-lite0"):
        features = Features.load(name, pack=pack)
        real, fake = features(heldout), features(images)
        found[f"kid_{name}"] = kid_interval(real, fake).value
        if name == "random":
            found["precision"], found["recall"] = precision_recall(real, fake)
    if pack.kind == "xray":
        found |= of_films(images, images_at(pack, spaced(pack.training, FILMS)))
    if labels is not None:
        found |= of_classes(images, np.asarray(labels), pack, real=heldout)
    found["colour"] = colour(images) / colour(heldout)
    found["pixels"] = spread(images) / spread(heldout)
    return found


def of_classes(images: torch.Tensor, labels: np.ndarray, pack: Pack, real: torch.Tensor) -> dict[str, float]:
    """How often a classifier of real images sees the class that was asked for, and the least variety within a class."""
    _, logits = Features.load("classifier", pack=pack).both(images)
    varied = [spread(images[torch.from_numpy(labels == label)]) for label in np.unique(labels)]
    return {"agreement": float((logits.argmax(axis=1) == labels).mean()), "class_spread": min(varied) / spread(real)}


def of_films(images: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    low, high = correlation_range(real)[1:]
    found = {"correlation": pairwise_correlation(images[:9]), "correlation_low": low, "correlation_high": high}
    ours, theirs = checkerboard(images[:FILMS]), checkerboard(real)
    found |= {f"checkerboard_{period}": ours[period] / theirs[period] for period in theirs}
    return found | {"sharpness": sharpness(images[:FILMS]) / sharpness(real)}


def colour(images: torch.Tensor) -> float:
    """Variance of the mean colour from image to image."""
    return float(images.mean(dim=(2, 3)).var(dim=0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=DATA, default=[*DATA])
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, "classic"], default=["new", "own", "classic"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in args.only:
        pack = packed(args.data, name, args.size)
        judge = attribute_classifier(args.data, name, pack) if name in SETS else None
        for recipe in args.recipes:
            options = {"preset": DATA[name][3]} if recipe == "classic" else RECIPES[recipe]
            for seed in args.seeds:
                run = args.out / f"{name}-{recipe}-{seed}"
                trained = ganvas.train(pack.folder, run, quiet=True, minutes=args.minutes, seed=seed, **options)
                generator = Generator.load(run)
                row = {"data": name, "recipe": recipe, "seed": seed, "images": trained.images_seen}
                rows.append(row | measured(generator, pack, judge, args.num))
                if seed == args.seeds[0]:
                    shown = generator.sample(SHOWN, seed=SEED)
                    save_png(args.out / f"{name}-{recipe}.png", grid(to_pixels(shown, pack.depth), 6))
        mine = [row for row in rows if row["data"] == name]
        table(
            f"{name} {pack.height}x{pack.width}, {args.minutes:g} minutes, medians of {len(args.seeds)}", medians(mine)
        )
    if args.json:
        write_json(args.json, {"machine": machine("torch", "numpy"), "minutes": args.minutes, "rows": rows})


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        mine = [row for row in rows if row["recipe"] == recipe]
        numbers = {key: statistics.median(row[key] for row in mine) for key in mine[0] if key not in ("data", "recipe")}
        found.append({"recipe": recipe} | {key: value for key, value in numbers.items() if key != "seed"})
    return found


if __name__ == "__main__":
    main()
