"""Compares `ganvas train` with other libraries: same images, one thread, equal processor time, same evaluation.

    pip install -r benchmarks/peers.txt            # best in an environment of its own
    python benchmarks/peers.py DATA --out peers --only celeba comics --minutes 10 --json peers.json

ganvas       its default options
scratch      the same without the starting weights of the package (--from none)
dcgan        the preset `dcgan`: network and training of PyTorch's DCGAN tutorial
particlegan  the networks of that tutorial, initialised and trained by ParticleGAN's default recipe
ddpm         a small U-Net with an average of its weights, by denoising-diffusion-pytorch (DDIM, 25 steps)

Each library trains on all images but the held-out ones, without labels. The time of sampling does not count. Columns as
in recipes.py. Ganvas trains with features of EfficientNet-lite0, the others do not, so KID lite0 favours Ganvas.
A grid of the first 36 samples is written beside each run.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ganvas
from attributes import SETS, attribute_classifier
from common import machine, table
from ganvas.config import ModelConfig
from ganvas.data import Pack
from ganvas.data.batches import images_at
from ganvas.generator import Generator, to_pixels
from ganvas.image_files import grid, save_png
from ganvas.models import build
from recipes import SEED, SHOWN, commit, measured, medians, packed

BATCH = 64  # of the tutorial and of ParticleGAN
DIFFUSION_BATCH = 16  # smallest that its own trainer allows
DRAWN = 100  # images sampled at once
STEPS = 25  # of DDIM


@dataclass(frozen=True)
class Drawn:
    """Samples of a network, as `measured` asks a `Generator` for them."""

    images: Tensor
    seen: int
    """Images that the training has seen."""
    classes: tuple[str, ...] = ()

    def sample(self, n: int, *, seed: int, label: list[int] | None = None) -> Tensor:
        """The first `n` images, whatever the seed."""
        return self.images[:n]


def batches(images: Tensor, size: int, minutes: float) -> Iterator[Tensor]:
    """Random batches, until this process has used this many minutes of processor time."""
    end = time.process_time() + 60 * minutes
    while time.process_time() < end:
        order = torch.randperm(len(images))
        for i in range(0, len(order) - size + 1, size):
            yield images[order[i : i + size]]
            if time.process_time() >= end:
                return


def train_ganvas(pack: Pack, run: Path, minutes: float, seed: int, num: int, **options: Any) -> Drawn:
    trained = ganvas.train(pack.folder, run, quiet=True, minutes=minutes, seed=seed, workers=1, **options)
    return Drawn(Generator.load(run).sample(num, seed=SEED), trained.images_seen)


def scratch(pack: Pack, run: Path, minutes: float, seed: int, num: int) -> Drawn:
    return train_ganvas(pack, run, minutes, seed, num, start_from="none")


def dcgan(pack: Pack, run: Path, minutes: float, seed: int, num: int) -> Drawn:
    return train_ganvas(pack, run, minutes, seed, num, preset="dcgan")


def particlegan(pack: Pack, run: Path, minutes: float, seed: int, num: int) -> Drawn:
    library: Any = importlib.import_module("particlegan")
    init = library.init
    torch.manual_seed(seed)
    images = images_at(pack, pack.training)
    recipe = library.get_recipe(total_steps=10**6, z_dim=100, batch_size=BATCH)
    model = ModelConfig("dcgan", pack.height, pack.width, pack.channels, z_dim=100, base=64)
    generator, discriminator = build(model)
    init.deterministic_orthogonal_(generator, seed=seed)
    init.deterministic_orthogonal_(discriminator, seed=seed + 1)
    prior = init.deterministic_orthogonal_(recipe.make_prior())
    trainer = library.GANTrainer(recipe, generator, discriminator, prior=prior, seed=seed)
    seen = 0
    for batch in batches(images, BATCH, minutes):
        trainer.step(batch)
        seen += len(batch)
    with torch.no_grad():
        return Drawn(trainer.sample(num), seen)


def ddpm(pack: Pack, run: Path, minutes: float, seed: int, num: int) -> Drawn:
    library: Any = importlib.import_module("denoising_diffusion_pytorch")
    average_of = importlib.import_module("ema_pytorch").EMA
    torch.manual_seed(seed)
    images = images_at(pack, pack.training)
    network = library.Unet(dim=32, dim_mults=(1, 2, 4), channels=pack.channels, flash_attn=False)
    diffusion = library.GaussianDiffusion(network, image_size=(pack.height, pack.width), sampling_timesteps=STEPS)
    average = average_of(diffusion, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=2e-4, betas=(0.9, 0.99))
    seen = 0
    for batch in batches(images, DIFFUSION_BATCH, minutes):
        loss = diffusion((batch + 1) / 2)
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        seen += len(batch)
    torch.manual_seed(SEED)
    with torch.no_grad():
        parts = [average.ema_model.sample(batch_size=min(DRAWN, num - i)) for i in range(0, num, DRAWN)]
    return Drawn(torch.cat(parts) * 2 - 1, seen)


PEERS: dict[str, Callable[[Pack, Path, float, int, int], Drawn]] = {
    "ganvas": train_ganvas,
    "scratch": scratch,
    "dcgan": dcgan,
    "particlegan": particlegan,
    "ddpm": ddpm,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=("celeba", "comics", "simpsons"), default=["celeba", "comics"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[*PEERS])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    used = machine("torch", "numpy")
    for name in args.only:
        pack = packed(args.data, name, None)
        setting = {"data": name, "minutes": args.minutes, "num": args.num, "commit": commit()}
        for peer, seed in itertools.product(args.peers, args.seeds):
            key = setting | {"recipe": peer, "seed": seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            run = args.out / f"{name}-{peer}-{seed}"
            drawn = PEERS[peer](pack, run, args.minutes, seed, args.num)
            judge = attribute_classifier(args.data, name, pack) if name in SETS else None
            rows.append(key | {"images": drawn.seen} | measured(drawn, pack, judge, args.num) | {"machine": used})
            shown = to_pixels(drawn.images[:SHOWN].clamp(-1, 1), pack.depth)
            save_png(run.with_suffix(".png"), grid(shown, 6))
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")
        mine = [row for row in rows if setting.items() <= row.items()]
        table(f"{name}, {args.minutes:g} minutes of one core, medians", medians(mine))


if __name__ == "__main__":
    main()
