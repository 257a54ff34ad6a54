"""How fast images are sampled: `Generator.batches` and `ganvas.sample` beside the bare forward pass.

    python benchmarks/sampling.py --json benchmarks/results/sampling.json

forward:  the network alone on latents that lie ready, 64 at a time, in inference mode.
batches:  what everything else builds on: seeds to latents, the same network, images on the CPU. At least 90% of the
          forward pass is asked of it.
png:      `ganvas.sample` into a folder: loading the model, pixels, a PNG with its metadata for each image, the
          manifest.

All three make the same images. Short turns alternate, so that a busy machine slows all; medians are printed, and
ratios are those within a turn: of the time by the clock, and of the processor's time, which other work on the machine
disturbs less. The weights are untrained; a PNG of its noise costs more to compress than that of an image.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ganvas
from common import machine, table, write_json
from ganvas.config import ModelConfig
from ganvas.generator import BATCH, Generator
from ganvas.model_file import ModelInfo
from ganvas.models import build
from ganvas.models.residual import SIZES
from ganvas.system.device import choose_device, prepare_device

ASKED = 0.9  # of the forward pass


def residual(side: int) -> ModelConfig:
    """Residual S, as the plan has it."""
    base, widest, blocks = SIZES["S"]
    return ModelConfig("residual", side, side, 3, z_dim=64, base=base, blocks=blocks, widest=widest)


CASES = {
    "compact 28x28x1": ModelConfig("compact", 28, 28, 1, 10, z_dim=64, base=16),
    "residual S 64x64x3": residual(64),
    "style 64x64x3": ModelConfig("style", 64, 64, 3, z_dim=256, base=16, blocks=1),
}
PICTURES = {"compact 28x28x1": 1024, "residual S 64x64x3": 64, "style 64x64x3": 128}  # of a turn


def fresh(config: ModelConfig) -> Generator:
    torch.manual_seed(0)
    network, _ = build(config)
    return Generator(network, ModelInfo(config, [str(i) for i in range(config.num_classes)]), "cpu")


@torch.inference_mode()
def forward(generator: Generator, z: torch.Tensor, labels: torch.Tensor | None) -> None:
    for start in range(0, len(z), BATCH):
        part = slice(start, start + BATCH)
        generator.network(z[part], None if labels is None else labels[part])


def batches(generator: Generator, num: int) -> None:
    for _ in generator.batches(range(num)):
        pass


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor in all threads."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def measure(name: str, turns: int) -> dict[str, Any]:
    generator, num = fresh(CASES[name]), PICTURES[name]
    z, labels = generator.latents(range(num)), generator.label_indices(None, range(num))
    forward(generator, z, labels)  # warm up
    times: dict[str, list[tuple[float, float]]] = {"forward": [], "batches": [], "png": []}
    with tempfile.TemporaryDirectory() as place:
        folder = generator.save(Path(place) / "model")
        for turn in range(turns):
            times["forward"].append(seconds(lambda: forward(generator, z, labels)))
            times["batches"].append(seconds(lambda: batches(generator, num)))
            out = Path(place) / f"out{turn}"
            times["png"].append(seconds(lambda out=out: ganvas.sample(folder, out, n=num, device="cpu")))
            assert len(list(out.glob("*.png"))) == num
            shutil.rmtree(out)
    ratios = {
        f"{way}, {clock}": [a[i] / b[i] for a, b in zip(times["forward"], times[way], strict=True)]
        for way in ("batches", "png")
        for i, clock in enumerate(("clock", "processor"))
    }
    return {
        "case": name,
        "pictures": num,
        "config": dataclasses.asdict(CASES[name]),
        "rates": {way: num / statistics.median(clock for clock, _ in found) for way, found in times.items()},
        "ratio": {way: statistics.median(found) for way, found in ratios.items()},
        "ratio_quartiles": {way: statistics.quantiles(found)[::2] for way, found in ratios.items()},
        "seconds": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="times that each way is measured")
    parser.add_argument("--only", default="", help="measure the networks whose name holds this")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    prepare_device(choose_device("cpu"))
    here = machine("torch", "numpy", "pillow") | {"threads": torch.get_num_threads()}
    print(", ".join(f"{key} {value}" for key, value in here.items()), flush=True)
    rows = [measure(name, arguments.turns) for name in CASES if arguments.only in name]
    table("images/s on the CPU, and parts of the forward pass (with quartiles)", [shown(row) for row in rows])
    if arguments.json:
        write_json(arguments.json, {"machine": here, "asked": ASKED, "rows": rows})


def shown(row: dict[str, Any]) -> dict[str, Any]:
    def words(way: str) -> str:
        low, high = row["ratio_quartiles"][way]
        return f"{row['ratio'][way]:.0%} ({low:.0%}-{high:.0%})"

    return {
        "network": row["case"],
        **row["rates"],
        "batches, clock": words("batches, clock"),
        "processor": words("batches, processor"),
        f"{ASKED:.0%} met": "yes" if row["ratio"]["batches, clock"] >= ASKED else "NO",
        "png, clock": words("png, clock"),
    }


if __name__ == "__main__":
    main()
