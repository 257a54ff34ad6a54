"""Trains the starting weights that Ganvas ships (src/ganvas/starting_weights), from images whose licences allow it.

    python benchmarks/starting_weights.py DATA --minutes 100 --out runs/start            # from new weights
    python benchmarks/starting_weights.py DATA --minutes 68 --out runs/start --continued  # from those in the package

The images: comic faces ("Adventurer" by Lisa Wischofsky, CC BY 4.0; also with other colours and enlarged parts), chest
X-ray films (Kermany et al. 2018, CC BY 4.0; whole and enlarged parts), and 100 pairs of photos and comics (face2comics,
MIT; whole, enlarged parts, other colours). Held-out images of the first two sets are left out, so that evaluations of
models of these sets stay honest. Generator and heads are written as float16. The pixel discriminator, which
depends on the image size, is left out.
"""

from __future__ import annotations

import argparse
import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageEnhance

import ganvas
from ganvas.data import Pack
from ganvas.data.batches import images_at
from ganvas.generator import to_pixels
from ganvas.training import latents
from ganvas.training.starting_weights import FILE, MODEL, NONE
from ganvas.training.transfer import open_origin
from recipes import packed

SIDE = MODEL.height
ROWS = 500  # images decoded at once
PHOTO_PARTS = 24  # enlarged parts of each photo
RNG = random.Random()
"""Draws parts and colours: another --seed gives others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=33.0)
    parser.add_argument("--continued", action="store_true", help="start from the weights in the package")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    RNG.seed(args.seed)
    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(mixture(args.data)):
        image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(folder / f"{i:05d}.png")
    run = args.out / "run"
    data = {"size": str(SIDE), "labels": "none", "kind": "photo", "holdout": 0.02}
    start = None if args.continued else NONE
    options = {"minutes": args.minutes, "seed": args.seed, "augment": 0.0, "lr_end": 0.1, "start_from": start}
    latents._MOST = 0  # do not fit the latents: it would reduce the diversity  # ty: ignore
    ganvas.train(folder, run, **options, **data)  # ty: ignore
    write(run, FILE)


def mixture(data: Path) -> Iterator[Image.Image]:
    for image in training_images(packed(data, "comics", "96")):
        yield image
        chance = RNG.random()
        if chance < 0.4:
            other = turned(image)
            yield part_of(other, 0.45) if chance < 0.3 else other
    for image in training_images(packed(data, "chest", "256")):
        yield image
        yield from (part_of(image, 0.2) for _ in range(4))
    with zipfile.ZipFile(next((data / "face2comics").glob("*.zip"))) as pairs:
        for name in pairs.namelist():
            if name.lower().endswith((".png", ".jpg", ".jpeg")):
                image = Image.open(io.BytesIO(pairs.read(name))).convert("RGB")
                yield image
                for _ in range(PHOTO_PARTS):
                    part = ImageEnhance.Brightness(part_of(image, 0.35)).enhance(RNG.uniform(0.6, 1.3))
                    part = ImageEnhance.Color(part).enhance(RNG.uniform(0.5, 1.5))
                    yield turned(part) if RNG.random() < 0.3 else part


def training_images(pack: Pack) -> Iterator[Image.Image]:
    """Images that are not held out, as RGB."""
    for start in range(0, len(pack.training), ROWS):
        pixels = to_pixels(images_at(pack, pack.training[start : start + ROWS]), 8)
        for image in pixels:
            yield Image.fromarray(image.squeeze()).convert("RGB")


def turned(image: Image.Image) -> Image.Image:
    """With another hue."""
    pixels = np.array(image.convert("HSV"))
    pixels[..., 0] = (pixels[..., 0].astype(int) + RNG.randrange(256)) % 256
    return Image.fromarray(pixels, "HSV").convert("RGB")


def part_of(image: Image.Image, least: float) -> Image.Image:
    """A square part of at least this fraction of the shorter side, mirrored at random."""
    side = RNG.uniform(least, 1) * min(image.size)
    left, top = RNG.uniform(0, image.width - side), RNG.uniform(0, image.height - side)
    part = image.crop((round(left), round(top), round(left + side), round(top + side)))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if RNG.random() < 0.5 else part


def write(run: Path, file: Path) -> None:
    """Averaged generator and heads of the newest checkpoint of a run, as float16."""
    origin = open_origin(run)
    heads = {name: tensor for name, tensor in (origin.discriminator or {}).items() if not name.startswith("own.")}
    networks = {"generator": origin.generator, "discriminator": heads}
    tensors = {
        f"{network}.{name}": tensor.to(torch.float16).contiguous()
        for network, named in networks.items()
        for name, tensor in named.items()
    }
    file.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file(tensors, file)
    print(f"{file}: {len(tensors)} tensors, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
