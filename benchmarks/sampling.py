"""How fast pictures are sampled: `Generator.batches` and `ganvas.sample` beside the bare forward pass.

    python benchmarks/sampling.py --json benchmarks/results/sampling.json

forward:  the network alone on latents that lie ready, 64 at a time, in inference mode.
batches:  what everything else builds on: seeds to latents, the same network, pictures on the CPU. At least 90% of the
          forward pass is asked of it.
png:      `ganvas.sample` into a folder: loading the model, pixels, a PNG with its metadata for each picture, the
          manifest.

All three make the same pictures. Repeats take turns, so that a busy machine slows all; medians are printed, and ratios
are those within a turn. The weights are untrained; a PNG of its noise costs more to compress than that of a picture.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from ganvas.device import choose_device, prepare
from ganvas.generator import BATCH, Generator, ModelInfo
from ganvas.models import build
from ganvas.training.plan import SIZES

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
PICTURES = {"compact 28x28x1": 4096, "residual S 64x64x3": 512, "style 64x64x3": 512}


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


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(name: str, repeats: int, share: float) -> dict[str, Any]:
    generator = fresh(CASES[name])
    num = max(BATCH, int(PICTURES[name] * share) // BATCH * BATCH)
    z, labels = generator.latents(range(num)), generator.label_indices(None, range(num))
    forward(generator, z[: 2 * BATCH], None if labels is None else labels[: 2 * BATCH])  # warm up
    times: dict[str, list[float]] = {"forward": [], "batches": [], "png": []}
    with tempfile.TemporaryDirectory() as place:
        folder = generator.save(Path(place) / "model")
        for turn in range(repeats):
            times["forward"].append(seconds(lambda: forward(generator, z, labels)))
            times["batches"].append(seconds(lambda: batches(generator, num)))
            out = Path(place) / f"out{turn}"
            times["png"].append(seconds(lambda out=out: ganvas.sample(folder, out, num=num, device="cpu")))
            assert len(list(out.glob("*.png"))) == num
    rates = {way: num / statistics.median(found) for way, found in times.items()}
    ratios = {way: [a / b for a, b in zip(times["forward"], times[way], strict=True)] for way in ("batches", "png")}
    return {
        "case": name,
        "pictures": num,
        "config": dataclasses.asdict(CASES[name]),
        "rates": rates,
        "ratio": {way: statistics.median(found) for way, found in ratios.items()},
        "ratio_range": {way: [min(found), max(found)] for way, found in ratios.items()},
        "seconds": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of pictures; less for a try")
    parser.add_argument("--only", default="", help="measure the networks whose name holds this")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    prepare(choose_device("cpu"))
    here = machine("torch", "numpy", "pillow") | {"threads": torch.get_num_threads()}
    print(", ".join(f"{key} {value}" for key, value in here.items()), flush=True)
    rows = [measure(name, arguments.repeats, arguments.share) for name in CASES if arguments.only in name]
    table("pictures/s on the CPU", [shown(row) for row in rows])
    if arguments.json:
        write_json(arguments.json, {"machine": here, "asked": ASKED, "rows": rows})


def shown(row: dict[str, Any]) -> dict[str, Any]:
    words = {
        way: f"{row['ratio'][way]:.0%} ({row['ratio_range'][way][0]:.0%}-{row['ratio_range'][way][1]:.0%})"
        for way in ("batches", "png")
    }
    return {
        "network": row["case"],
        **row["rates"],
        "batches of forward": words["batches"],
        f"at least {ASKED:.0%}": "yes" if row["ratio"]["batches"] >= ASKED else "NO",
        "png of forward": words["png"],
    }


if __name__ == "__main__":
    main()
