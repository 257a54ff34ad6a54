"""The default recipe on a GPU, in at most ten minutes: does it start, how fast is each form of it, how good is it.

    python benchmarks/gpu.py DATA --out gpu --json gpu.json

First every modern network takes a few steps on the GPU. Then the steps of the default recipe are timed on CelebA, eager
and compiled, in float32 and bfloat16, with the memory that they need. Then the fastest form trains for --minutes; grids
and KID to held-out images (random network and EfficientNet-lite0) are taken at the end. Written without a GPU at hand:
a failure in the first part is a finding, is printed, and does not stop the rest.
"""

from __future__ import annotations

import argparse
import itertools
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import ganvas
from common import machine, table, write_json
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import grid, save_png
from ganvas.models import MODELS
from recipes import SEED, SHOWN, measured, packed

STEPS = 150


def first_steps(pack: Any, out: Path) -> list[dict[str, Any]]:
    """A few steps of every network with each kind of discriminator."""
    rows = []
    for name, kind in itertools.product(
        (name for name, one in MODELS.items() if not one.classic), ("own", "features", "both")
    ):
        row: dict[str, Any] = {"model": name, "discriminator": kind, "works": True}
        try:
            ganvas.train(
                pack.folder, out / f"start-{name}-{kind}", quiet=True, images=256, batch=32, previews=1, device="cuda",
                model=name, discriminator=kind, compile=False,
            )  # fmt: skip
        except Exception:  # whatever it is, it is what this benchmark looks for
            row["works"] = False
            traceback.print_exc()
        rows.append(row)
    return rows


def speeds(pack: Any, out: Path) -> list[dict[str, Any]]:
    """Images a second and peak memory of each form, start-up and compilation left out."""
    rows = []
    for compiled, precision in itertools.product((False, True), ("fp32", "bf16")):
        options: dict[str, Any] = {"compile": compiled, "precision": precision, "device": "cuda", "previews": 1}
        torch.cuda.reset_peak_memory_stats()
        run = out / f"speed-{precision}-{'compiled' if compiled else 'eager'}"
        began, seconds = time.monotonic(), []
        for steps in (20, STEPS):
            trained = ganvas.train(pack.folder, run, quiet=True, images=steps * 64, batch=64, **options)
            seconds.append(trained.seconds)
        rows.append(
            {
                "precision": precision,
                "compiled": compiled,
                "images/s": (STEPS - 20) * 64 / max(1e-9, seconds[1] - seconds[0]),
                "GiB": torch.cuda.max_memory_allocated() / 2**30,
                "seconds in all": time.monotonic() - began,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device was found: this benchmark is about one")
    pack = packed(args.data, "celeba", None)
    started, timed = first_steps(pack, args.out), speeds(pack, args.out)
    table("start", started)
    table("default recipe, CelebA 64x64, batch 64", timed)
    best = max(timed, key=lambda row: row["images/s"])
    options: dict[str, Any] = {"compile": best["compiled"], "precision": best["precision"], "device": "cuda"}
    trained = ganvas.train(pack.folder, args.out / "run", quiet=True, minutes=args.minutes, **options)
    generator = Generator.load(args.out / "run")
    found = measured(generator, pack, None, 1000) | {"images": trained.images_seen}
    table(f"after {args.minutes:g} minutes", [found])
    save_png(args.out / "grid.png", grid(to_pixels(generator.sample(SHOWN, seed=SEED), pack.depth), 6))
    if args.json:
        content = {"machine": machine("torch") | {"gpu": torch.cuda.get_device_name()}, "start": started}
        write_json(args.json, content | {"speed": timed, "quality": found})


if __name__ == "__main__":
    main()
