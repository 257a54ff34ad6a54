"""Time and memory of a training step by image size, and the memory of packing.

    python benchmarks/large_images.py --sizes 256 800 --films chest_xray_normal_300.zip --json large.json

Each size runs in a process of its own, with the options that `ganvas train` chooses for gray X-ray films on a CPU with
one thread, and random images. Columns: seconds of processor time per image of a step, with its share of the penalties,
in the last coarse phase (small images only) and in the fine phase (windows of the large ones); the ratio of the fine
phase to that of the first size; the largest memory of the process; and the size of the generator's file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from common import machine, table, write_json
from ganvas.config import DataConfig, TrainOptions
from ganvas.data import Pack, open_pack
from ganvas.data.batches import Batches, images_at
from ganvas.models import crops_of
from ganvas.system.device import choose_device
from ganvas.training.plan import plan
from ganvas.training.state import TrainState
from ganvas.training.step import accumulate_gradients, at_size, augmentations_for, draw_inputs
from ganvas.training.workers import Networks

NUM_IMAGES, REPEATS = 32, 3


def measured(size: int) -> dict[str, float]:
    """One row of the table, for this process."""
    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, size, size, 1), np.uint8)
    record: Any = SimpleNamespace(kind="xray", mirror=True, classes=[])
    pack = Pack(Path("pack"), images, None, np.empty(0, np.int64), record)
    device = choose_device("cpu")
    planned = plan(pack, TrainOptions(minutes=60), device)
    config, batch = planned.config, planned.config.batch
    batches = Batches(pack, batch, seed=0, device=device.torch_device)
    state = TrainState(planned.model, config, batches, device)
    generator, discriminator = state.generator, state.discriminator
    nets = Networks(generator, discriminator, generator, discriminator)
    noise, policy = torch.Generator().manual_seed(0), augmentations_for("xray", config)
    real = images_at(pack, np.arange(batch))

    def seconds(penalise: bool) -> float:
        best = float("inf")
        for _ in range(REPEATS):
            inputs = draw_inputs(
                at_size(real, generator.coarse), None, slice(0, batch), config, policy, config.augment, noise,
                state.features_penalty.value, crops_of(discriminator),
            )  # fmt: skip
            began = time.process_time()
            accumulate_gradients(nets, inputs, config, policy, batch, penalise)
            best = min(best, time.process_time() - began)
        return best

    row: dict[str, float] = {"size": size, "batch": batch}
    for coarse in [*generator.coarse_sizes[-1:], None]:
        generator.coarse = coarse
        plain = seconds(False)
        phase = "fine" if coarse is None else "coarse"
        row[f"{phase}_seconds"] = (plain + (seconds(True) - plain) / config.penalty_interval) / batch
    batches.close()
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    return row | {"memory_mb": peak_mb(), "generator_mb": parameters * 4 / 1e6}


def packing_mb(films: Path, size: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        open_pack(films, DataConfig(size=str(size), kind="xray", labels="none"), folder=Path(folder) / "pack")
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest one
    return peak_mb() + children


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 800, 1024])
    parser.add_argument("--films", type=Path, help="folder or archive of films, for the memory of packing")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pack", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one or args.pack:
        print(json.dumps(measured(args.one) if args.one else packing_mb(args.films, args.pack)))
        return

    def child(*words: Any) -> Any:
        done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    rows = [child("--one", size) for size in args.sizes]
    for row in rows:
        row["ratio"] = row["fine_seconds"] / rows[0]["fine_seconds"]
    table("a training step by image size, one thread", rows)
    packing = child("--pack", args.sizes[-1], "--films", args.films) if args.films else None
    if packing is not None:
        print(f"packing {args.films.name} at {args.sizes[-1]} pixels: at most {packing:.0f} MB")
    if args.json:
        write_json(args.json, {"machine": machine("torch", "numpy"), "rows": rows, "packing_mb": packing})


if __name__ == "__main__":
    main()
