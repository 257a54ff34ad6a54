"""Which variant of the residual network learns faster: fix-up initialisation or magnitude-preserving weights.

    python benchmarks/residual_variants.py PATH_OF_THE_FOUR_MNIST_FILES --grids grids --json residual_variants.json
    python benchmarks/residual_variants.py --data FOLDER_OF_CLASS_FOLDERS --seconds 600

Both train for the same wall time on the same images at 28x28 gray with labels, with the same small network and the
same options but for the learning rate: unit-norm weights want a rate some ten times as large, since a step turns a
filter by rate / norm. Runs of the two alternate, so that a busy machine slows both. 10,000 images of each run's
average are judged by a classifier trained for it (benchmarks/mnist_classifier.py): the share that is given the class
asked for, and the Frechet distance of its features to those of the test images (of a folder: to its own).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ganvas
from common import machine, table, write_json
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.generator import Generator, to_pixels
from ganvas.pictures import grid, save_png
from mnist_classifier import asked_share, features, frechet, train_classifier

NUM = 10_000  # images judged
SHOWN = 100  # images of a grid, a column for each of MNIST's classes
SIZE = DataConfig(size="28", channels="gray")
NETWORK: dict[str, Any] = {"model": "residual", "base": 16, "widest": 64, "blocks": 1}
VARIANTS = {"fix-up": False, "magnitude": True}


def open_pictures(mnist: Path | None, folder: Path | None) -> tuple[dict[str, Any], Pack, Pack]:
    """(what `ganvas.train` needs to find the images, the training images, the ones to compare with)."""
    if folder is not None:
        pack = open_pack(folder, SIZE)
        if pack.labels is None:
            raise SystemExit(
                f"{folder} has no labels, and the evaluation needs them: sort the images into class folders"
            )
        return {"data": folder, "data_config": SIZE}, pack, pack
    train, test = (open_pack("mnist", DataConfig(split=split), path=mnist) for split in ("train", "test"))
    return {"data": "mnist", "data_path": mnist}, train, test


def some(images: np.ndarray, seed: int) -> np.ndarray:
    """At most `NUM` of the images, drawn by the seed: a folder's come class by class."""
    picked = np.random.default_rng(seed).permutation(len(images))[:NUM]
    return np.asarray(images[np.sort(picked)])


def learn(source: dict[str, Any], variant: str, options: dict[str, Any]) -> tuple[dict[str, Any], Generator]:
    """Trains one network as the command would; returns what it took, and the average that it left."""
    with tempfile.TemporaryDirectory() as folder:
        options = NETWORK | {"magnitude": VARIANTS[variant]} | options
        trained = ganvas.train(**source, out=Path(folder) / "run", quiet=True, **options)
        row = {"variant": variant, "lr": options["lr"], "seed": options["seed"]}
        return row | {"seconds": trained.seconds, "images": trained.images_seen}, Generator.load(trained.folder)


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the seeds, with the range of the distance."""
    summary = []
    for variant in VARIANTS:
        group = [row for row in rows if row["variant"] == variant]
        distances = [row["frechet"] for row in group]
        summary.append(
            {
                "variant": variant,
                "lr": group[0]["lr"],
                "seeds": len(group),
                **{name: statistics.median(row[name] for row in group) for name in ("seconds", "images", "share")},
                "frechet": statistics.median(distances),
                "range": f"{min(distances):.2f} - {max(distances):.2f}",
            }
        )
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path, nargs="?", help="folder of the four MNIST files")
    parser.add_argument("--data", type=Path, help="any folder with a folder of images per class, instead of MNIST")
    parser.add_argument("--seconds", type=float, default=300.0, help="length of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--lr", type=float, nargs=2, default=[1e-3, 2e-2], help="rates of fix-up and of magnitude")
    parser.add_argument("--grids", type=Path, help="folder for a grid of each run's pictures")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    if (options.mnist is None) == (options.data is None):
        parser.error("give the folder of the MNIST files, or --data FOLDER")
    source, train, compared = open_pictures(options.mnist, options.data)
    assert train.labels is not None
    judge = train_classifier(train.images, train.labels, seed=20_260)
    reference, _ = features(judge, some(compared.images, 0))
    floor = frechet(features(judge, some(train.images, 1))[0], reference)
    print(f"Frechet distance of training images: {floor:.3f}", flush=True)
    rows = []
    for seed in options.seeds:
        for variant, rate in zip(VARIANTS, options.lr, strict=True):
            row, generator = learn(source, variant, {"lr": rate, "minutes": options.seconds / 60, "seed": seed})
            pixels = to_pixels(generator.sample(NUM, seed=1_000_000))
            found, logits = features(judge, pixels)
            share = asked_share(logits, np.arange(NUM) % len(generator.classes))
            rows.append(row | {"share": share, "frechet": frechet(found, reference)})
            print(rows[-1], flush=True)
            if options.grids:
                options.grids.mkdir(parents=True, exist_ok=True)
                save_png(options.grids / f"{variant}_{rate:g}_{seed}.png", grid(pixels[:SHOWN]))
    summary = summarise(rows)
    table("Residual: fix-up or magnitude-preserving (medians over the seeds)", summary)
    if options.json:
        write_json(options.json, {"machine": machine("torch"), "floor": floor, "summary": summary, "runs": rows})


if __name__ == "__main__":
    main()
