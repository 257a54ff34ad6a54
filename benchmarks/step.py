"""How fast a training step is: the chosen path beside the plain one that most GAN code uses.

    python benchmarks/step.py --json step.json

On a CPU the networks that a CPU is given; on a GPU (bf16, compiled) residual L, residual and DCGAN.

plain:   separate passes for the discriminator and the generator, weights in PyTorch's usual layout, unfused Adam.
chosen:  what `ganvas train` does: one pass for both networks, channels-last weights, fused Adam.

Both do the same arithmetic on the same data: relativistic loss, exact R1 and R2 in every 8th step, no augmentation.
Repeats alternate between the two, so that a busy machine slows both; medians are printed. A machine with other work
gives a fair ratio but low rates. GFLOP/s counts two operations per multiply-add of the layers: 3 passes of the
generator and 6 of the discriminator per image and step (real and fake, forward once and backward twice as dear);
a penalty about 12 more of the discriminator (real and fake; double backward costs as much again as the rest).
What the plain path computes on top (its second pass) is not counted as useful. The peak is a measured sgemm.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from common import machine, table, write_json
from ganvas.augment import draw
from ganvas.config import ModelConfig, TrainConfig
from ganvas.losses import gradient_norm_exact, relativistic_discriminator, relativistic_generator
from ganvas.models import build, channels_last
from ganvas.models.residual import SIZES
from ganvas.models.summary import summarise_config
from ganvas.system.device import choose_device, prepare_device
from ganvas.training.state import make_optimizer
from ganvas.training.step import Inputs, Networks, Side, accumulate_gradients

INTERVAL = 8  # steps from one penalty to the next
CONFIG = TrainConfig(
    loss="relativistic",
    r1=0.1,
    r2=0.1,
    penalty_interval=INTERVAL,
    augment=0.0,
    optimizer="adam",
    lr=1e-4,
    beta1=0.0,
    beta2=0.99,
    precision="fp32",
)


@dataclass(frozen=True)
class Case:
    """One network at one size: compact and residual as a CPU would be given them, or residual L and DCGAN for a GPU."""

    model: str
    side: int
    channels: int
    batch: int = 64
    large: bool = False

    def config(self) -> ModelConfig:
        if self.model == "dcgan":
            return ModelConfig("dcgan", self.side, self.side, self.channels, z_dim=64, base=64)
        base, widest, blocks = SIZES["L"] if self.large else (24 if self.model == "compact" else 16, 0, 1)
        return ModelConfig(
            self.model, self.side, self.side, self.channels, 10, z_dim=64, base=base, widest=widest, blocks=blocks
        )

    def training(self, device: torch.device) -> TrainConfig:
        """DCGAN has its own loss, without penalties; on a GPU the chosen path runs in bf16."""
        precision = "bf16" if device.type == "cuda" else "fp32"
        if self.model == "dcgan":
            return dataclasses.replace(CONFIG, loss="bce", r1=0.0, r2=0.0, update="alternating", precision=precision)
        return dataclasses.replace(CONFIG, precision=precision)

    def __str__(self) -> str:
        return f"{self.model}{' L' if self.large else ''} {self.side}x{self.side}x{self.channels}"


CASES = [
    Case("compact", 28, 1),
    Case("compact", 64, 1),
    Case("compact", 64, 3),
    Case("residual", 64, 3),
    Case("dcgan", 64, 3, 32),
]
GPU_CASES = [Case("residual", 64, 3, 256, large=True), Case("residual", 32, 3, 512), Case("dcgan", 64, 3, 128)]

Step = Callable[[Inputs, bool], None]
"""One training step on these inputs, with penalties or without."""


def plain_step(case: Case, device: torch.device) -> Step:
    """The peer: first the discriminator learns from one batch, then the generator from a second pass through it."""
    generator, discriminator = (network.to(device) for network in build(case.config()))
    if case.model == "dcgan":
        return tutorial_step(generator, discriminator)
    options: dict[str, Any] = {"lr": CONFIG.lr, "betas": (CONFIG.beta1, CONFIG.beta2), "fused": False, "foreach": False}
    generator_adam = torch.optim.Adam(generator.parameters(), **options)
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), **options)

    def penalty(images: Tensor, labels: Tensor | None) -> Tensor:
        return gradient_norm_exact(discriminator, images, labels).mean() * (0.1 / 2 * INTERVAL)

    def step(inputs: Inputs, penalise: bool) -> None:
        # The discriminator.
        with torch.no_grad():
            fake = generator(inputs.z, inputs.labels)
        real_logits = discriminator(inputs.real, inputs.labels)
        loss = relativistic_discriminator(real_logits, discriminator(fake, inputs.labels)).mean()
        if penalise:
            loss = loss + penalty(inputs.real, inputs.labels) + penalty(fake, inputs.labels)
        discriminator_adam.zero_grad()
        loss.backward()
        discriminator_adam.step()

        # The generator, from new passes of both networks.
        discriminator.requires_grad_(False)
        fake = generator(inputs.z, inputs.labels)
        with torch.no_grad():
            real_logits = discriminator(inputs.real, inputs.labels)
        loss = relativistic_generator(real_logits, discriminator(fake, inputs.labels)).mean()
        generator_adam.zero_grad()
        loss.backward()
        generator_adam.step()
        discriminator.requires_grad_(True)

    return step


def tutorial_step(generator: nn.Module, discriminator: nn.Module) -> Step:
    """PyTorch's DCGAN tutorial: the discriminator on real, on fake, the generator through it; eager, float32."""
    options: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": False, "foreach": False}
    adams = [torch.optim.Adam(network.parameters(), **options) for network in (generator, discriminator)]

    def step(inputs: Inputs, penalise: bool) -> None:
        discriminator.zero_grad()
        softplus(-discriminator(inputs.real)).mean().backward()
        fake = generator(inputs.z)
        softplus(discriminator(fake.detach())).mean().backward()
        adams[1].step()
        generator.zero_grad()
        softplus(-discriminator(fake)).mean().backward()
        adams[0].step()

    return step


def chosen_step(case: Case, device: torch.device) -> Step:
    """The step of training/loop.py."""
    config = case.training(device)
    generator, discriminator = build(case.config())
    generator, discriminator = channels_last(generator.to(device)), channels_last(discriminator.to(device))
    networks = Networks(generator, discriminator, generator, discriminator)
    if device.type == "cuda":
        networks = dataclasses.replace(
            networks, generator=torch.compile(generator), discriminator=torch.compile(discriminator)
        )
    optimizers: dict[nn.Module, torch.optim.Optimizer] = {
        network: make_optimizer(network, config) for network in (generator, discriminator)
    }
    turns: list[tuple[Side, list[nn.Module]]] = [("both", [generator, discriminator])]
    if config.update == "alternating":
        turns = [("discriminator", [discriminator]), ("generator", [generator])]

    def step(inputs: Inputs, penalise: bool) -> None:
        for side, learning in turns:
            accumulate_gradients(networks, inputs, config, (), case.batch, penalise and bool(config.r1), side)
            for network in learning:
                optimizers[network].step()
                optimizers[network].zero_grad(set_to_none=True)

    return step


def inputs_for(case: Case, device: torch.device) -> Inputs:
    random = torch.Generator(device).manual_seed(0)
    real = torch.rand(case.batch, case.channels, case.side, case.side, generator=random, device=device) * 2 - 1
    labels = None if case.model == "dcgan" else torch.arange(case.batch, device=device) % 10
    z = torch.randn(case.batch, 64, generator=random, device=device)
    return Inputs(real, labels, z, draw(case.batch, (), 0.0, random))


def images_per_second(step: Step, inputs: Inputs, seconds: float) -> float:
    """Whole intervals of steps, for at least `seconds`."""
    synchronise(inputs.real.device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for i in range(INTERVAL):
            step(inputs, i == 0)
        done += INTERVAL * len(inputs.real)
        synchronise(inputs.real.device)
    return done / (time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def useful_gflop(case: Case) -> float:
    """10^9 operations per image: the counting rule is in this file's docstring."""
    generator, discriminator = summarise_config(case.config())
    if case.model == "dcgan":  # the generator's turn passes through the discriminator once more
        return 2 * (3 * generator.macs + 8 * discriminator.macs) / 1e9
    return 2 * (3 * generator.macs + (6 + 12 / INTERVAL) * discriminator.macs) / 1e9


def measured_peak(device: torch.device) -> float:
    """GFLOP/s of a matrix product, the best of ten: 2048 x 2048 in float32; 8192 x 8192 in bfloat16 on a GPU."""
    on_gpu = device.type == "cuda"
    side, kind = (8192, torch.bfloat16) if on_gpu else (2048, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronise(device)
        started = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e9


def measure(case: Case, device: torch.device, repeats: int, seconds: float, peak: float) -> dict[str, Any]:
    inputs = inputs_for(case, device)
    steps = {"plain": plain_step(case, device), "chosen": chosen_step(case, device)}
    for step in steps.values():  # warm up: both kinds of step
        step(inputs, True)
        step(inputs, False)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            rates[name].append(images_per_second(step, inputs, seconds))
    plain, chosen = (statistics.median(rates[name]) for name in ("plain", "chosen"))
    ratios = [b / a for a, b in zip(rates["plain"], rates["chosen"], strict=True)]
    return {
        "case": str(case),
        "batch": case.batch,
        "plain": plain,
        "chosen": chosen,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "gflops": chosen * useful_gflop(case),
        "share_of_sgemm": chosen * useful_gflop(case) / peak,
        "all": rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times that each way is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="least length of a measurement")
    parser.add_argument("--only", default="", help="measure the networks whose name holds this: compact, 28x28 ...")
    parser.add_argument("--device", help="cpu or cuda; default: the fastest there is")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    prepare_device(device)
    torch.manual_seed(0)
    peak = measured_peak(device.torch_device)
    here = machine("torch") | {"device": device.name, "threads": torch.get_num_threads(), "sgemm_gflops": peak}
    print(", ".join(f"{key} {value}" for key, value in here.items()), flush=True)
    rows = []
    cases = GPU_CASES if device.torch_device.type == "cuda" else CASES
    for case in (case for case in cases if arguments.only in str(case)):
        rows.append(measure(case, device.torch_device, arguments.repeats, arguments.seconds, peak))
        print(f"{case}: done", flush=True)
    table("images/s of a training step", [shown(row) for row in rows])
    if arguments.json:
        write_json(arguments.json, {"machine": here, "rows": rows})


def shown(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["ratio_range"]
    return {
        "network": row["case"],
        "plain": row["plain"],
        "chosen": row["chosen"],
        "ratio": f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})",
        "GFLOP/s": row["gflops"],
        "of sgemm": f"{row['share_of_sgemm']:.0%}",
    }


if __name__ == "__main__":
    main()
