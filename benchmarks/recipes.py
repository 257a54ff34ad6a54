"""Compares recipes: same images, machine and time, evaluated by networks that had no part in the training.

    python benchmarks/recipes.py DATA --out runs --only celeba comics --minutes 10 --seeds 0 1 2 --json recipes.json

Many runs need several hours. Trained runs are kept in --out and are not trained again, and rows of earlier calls are
kept in --json and count in the medians, if the commit is the same.

Recipes: `new` is what `ganvas train` chooses, `own` the recipe of 0.1.0 before features (compact, a discriminator of
pixels), `features` the new one without the discriminator of pixels, and `classic` the preset of the project that the
data belong to.

Columns: images seen; the least diversity of previews after 2,000 images (`early`); the Frechet distance of attributes
and the mean difference of their shares (benchmarks/attributes.py); KID to held-out images in a random network and in
EfficientNet-lite0 (which took part in the training of `new` and `features`); precision and recall in the random
network; the variance of the mean colour and of pixels as shares of the real ones'. For X-ray films also the checks of
the chest X-ray project: mean correlation of the pairs of 100 films (with the range of nine real ones; nine generated
ones would depend on the seeds by more than that), and checkerboard artefacts (period 2, 4 and 8) and Laplacian variance
as ratios to the real ones'.
A grid of the first 36 seeds is written beside every run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import ganvas
from attributes import SETS, attribute_classifier
from common import machine, table
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.data.batches import images_at, spaced
from ganvas.evaluation.artefacts import checkerboard, correlation_range, pairwise_correlation, sharpness
from ganvas.evaluation.distances import kid_interval, precision_recall
from ganvas.evaluation.features import Features
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import grid, save_png
from ganvas.records import read_log
from ganvas.training.health import FLAT_IMAGES
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


class Samples(Protocol):
    """What is measured: a `Generator`, or samples of another program."""

    @property
    def classes(self) -> Sequence[str]: ...

    def sample(self, n: int, *, seed: int, label: list[int] | None = None) -> torch.Tensor: ...


def packed(data: Path, name: str, size: str | None, limit: int | None = None) -> Pack:
    source, usual, kind, _ = DATA[name]
    labels = None if name in ("mednist", "cifar10") else "none"
    return open_pack(data / source, DataConfig(size=size or usual, kind=kind, labels=labels, limit=limit))  # ty: ignore


def measured(generator: Samples, pack: Pack, judge: Any, num: int) -> dict[str, float]:
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
    found = {"correlation": pairwise_correlation(images[:FILMS]), "correlation_low": low, "correlation_high": high}
    ours, theirs = checkerboard(images[:FILMS]), checkerboard(real)
    found |= {f"checkerboard_{period}": ours[period] / theirs[period] for period in theirs}
    return found | {"sharpness": sharpness(images[:FILMS]) / sharpness(real)}


def colour(images: torch.Tensor) -> float:
    """Variance of the mean colour from image to image."""
    return float(images.mean(dim=(2, 3)).var(dim=0).mean())


def early(run: Path) -> float | None:
    """The least diversity that a preview after 2,000 images or later showed, as a share of the real one."""
    found = [r["variety"] for r in read_log(run) if "variety" in r and r["images"] >= FLAT_IMAGES]
    return min(found, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=DATA, default=[*DATA])
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, "classic"], default=["new", "own", "classic"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size")
    parser.add_argument("--limit", type=int, help="use this many images of the set")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    used = machine("torch", "numpy")
    for name in args.only:
        pack = packed(args.data, name, args.size, args.limit)
        judge = attribute_classifier(args.data, name, pack) if name in SETS and not args.limit else None
        setting = {"data": name, "size": f"{pack.height}x{pack.width}", "of": len(pack), "minutes": args.minutes}
        setting |= {"cores": used["cores"], "commit": commit()}
        for recipe, seed in itertools.product(args.recipes, args.seeds):
            key = setting | {"recipe": recipe, "seed": seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            options = {"preset": DATA[name][3]} if recipe == "classic" else RECIPES[recipe]
            run = args.out / "-".join(str(part) for part in (name, setting["size"], len(pack), recipe, seed))
            trained = ganvas.train(pack.folder, run, quiet=True, minutes=args.minutes, seed=seed, **options)
            generator = Generator.load(run)
            numbers = {"images": trained.images_seen, "early": early(run), **measured(generator, pack, judge, args.num)}
            rows.append(key | numbers | {"machine": used})
            shown = generator.sample(SHOWN, seed=SEED)
            save_png(run.with_suffix(".png"), grid(to_pixels(shown, pack.depth), 6))
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")
        mine = [row for row in rows if setting.items() <= row.items()]
        table(f"{name} {setting['size']}, {len(pack):,} images, {args.minutes:g} minutes, medians", medians(mine))


def commit() -> str:
    """The short hash of the commit, with + if files of the package were changed since."""
    return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain", "--", "src"))


def git(*words: str) -> str:
    root = Path(__file__).parents[1]
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per recipe: the number of seeds, and the median over them of every measure."""
    found = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        mine = [row for row in rows if row["recipe"] == recipe]
        measures = [key for key in mine[0] if key == "images" or isinstance(mine[0][key], float)]
        numbers = {key: statistics.median(row[key] for row in mine) for key in measures if key != "minutes"}
        found.append({"recipe": recipe, "seeds": len(mine)} | numbers)
    return found


if __name__ == "__main__":
    main()
