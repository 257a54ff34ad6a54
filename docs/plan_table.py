"""Write docs/plan.md: the automatic choices by number and size of images and by device.

python docs/plan_table.py
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from ganvas.config import TrainOptions
from ganvas.data.packing.pack import Pack
from ganvas.system.device import Device
from ganvas.training.plan import Plan, plan

DEVICES = {
    "a CPU": Device(torch.device("cpu"), "CPU", "", False, free=16 * 2**30),
    "a GPU with 80 GB and bf16": Device(torch.device("cuda"), "GPU", "", True, free=78 * 2**30),
}
SIZES = (32, 64, 128, 256, 800, 1024)
COUNTS = (100, 1_000, 10_000, 100_000)
MINUTES = 60.0

HEAD = """# Automatic choices

`ganvas train` chooses every option that you do not give, from the images, the device and the budget. `--dry-run` shows
the choices with reasons. This table is for {minutes:g} minutes and colour photos without labels. With labels the model
is conditional; gray images and other kinds change only the augmentations. `r1` is the weight of the gradient penalties,
`augment` the probability of each augmentation, which begins after ten epochs.
`python docs/plan_table.py` writes the table; a test checks it.
"""


def row(planned: Plan, count: int, size: int) -> str:
    config = planned.config
    model = config.model if config.model_size is None else f"{config.model} {config.model_size}"
    parameters = f"{planned.generator.parameters / 1e6:.2g} M"
    parts = "" if config.micro_batch == config.batch else f" in parts of {config.micro_batch}"
    batch = f"{config.batch}{parts}"
    cells = [f"{count:,}", f"{size}x{size}", model, parameters, batch, f"{config.r1:g}", f"{config.augment:g}"]
    return "| " + " | ".join([*cells, f"{config.lr:g}", f"{planned.memory / 2**30:.2g} GiB"]) + " |"


def pack_of(count: int, size: int) -> Pack:
    """Pack of black images that uses no memory."""
    images = np.broadcast_to(np.uint8(0), (count, size, size, 3))
    return Pack(
        Path("pack"), images, None, np.empty(0, np.int64), SimpleNamespace(kind="photo", mirror=True, classes=[])
    )


def content() -> str:
    lines = [HEAD.format(minutes=MINUTES)]
    for name, device in DEVICES.items():
        lines.append(f"## On {name}\n")
        lines.append("| images | size | model | generator | batch | r1 | augment | lr | memory |")
        lines.append("|---|---|---|---|---|---|---|---|---|")
        for size in SIZES:
            for count in COUNTS:
                lines.append(row(plan(pack_of(count, size), TrainOptions(minutes=MINUTES), device), count, size))
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("plan.md").write_text(content())
