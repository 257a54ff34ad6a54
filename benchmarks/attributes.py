"""Evaluation by another kind of network: a small classifier of the attributes of CelebA and of the comic faces.

It is trained on real images and their labels only, shares no weights with any pretrained network, and was fixed before
the recipes were tuned. Two numbers come from it: the Frechet distance (FD) in its 128 hidden features, and how far the
shares of the attributes that it reads in generated images are from those in real images.

    python benchmarks/attributes.py DATA celeba 64 RUN [RUN ...]
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from common import table
from ganvas.augment import augment, draw
from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.evaluation.frechet import frechet
from ganvas.evaluation.small_classifier import LIGHT, TRAINING_BATCH, Classifier, moments, prepared
from ganvas.generator import Generator
from ganvas.models import channels_last
from ganvas.system.files import cache_dir

STEPS, RATE, SEED = 600, 5e-3, 0
LEAST_SHARE = 0.02  # attributes that fewer images have are left out
COLUMNS = ("base", "eyes", "eyebrows", "mouth", "features", "glasses", "hair", "earrings", "skinColor", "hairColor",
           "primaryBackgroundColor")  # fmt: skip
SETS = {
    "celeba": ("celeba/img_align_celeba_5000.zip", "face"),
    "comics": ("comic_faces/comic_faces_96_5000.zip", "comic"),
}


@dataclass(frozen=True, eq=False)
class AttributeClassifier:
    """network: the classifier. real: features of the held-out images (N, 128). shares: of each attribute in them."""

    network: Classifier
    real: np.ndarray
    shares: np.ndarray
    accuracy: float
    """Mean balanced accuracy over the attributes on held-out images, 0.5 to 1."""

    def __call__(self, images: Tensor | np.ndarray) -> dict[str, float]:
        """FD to held-out images and the mean absolute difference of attribute shares (0 to 1)."""
        features, found = read(self.network, prepared(images, np.arange(len(images))))
        return {
            "attribute_fd": frechet(self.real, features),
            "attribute_gap": float(np.abs((found > 0).mean(axis=0) - self.shares).mean()),
        }


def attributes_of(data: Path, name: str, pack: Pack) -> Tensor:
    """(N, A) of 0 and 1 for every image of the pack, in its order."""
    if name == "celeba":
        lines = (data / "celeba/list_attr_celeba.txt").read_text().splitlines()[2:]
        rows = {line.split()[0]: [int(value) > 0 for value in line.split()[1:]] for line in lines}
    else:
        with zipfile.ZipFile(data / SETS[name][0]) as archive:
            text = archive.read(next(file for file in archive.namelist() if file.endswith(".csv"))).decode()
        records = list(csv.DictReader(io.StringIO(text)))
        values = [(column, value) for column in COLUMNS for value in sorted({record[column] for record in records})]
        rows = {Path(record["file"]).name: [record[c] == v for c, v in values] for record in records}
    found = torch.tensor([rows[Path(file).name] for file in pack.names], dtype=torch.float32)
    share = found.mean(dim=0)
    return found[:, (share >= LEAST_SHARE) & (share <= 1 - LEAST_SHARE)]


def attribute_classifier(data: Path, name: str, pack: Pack) -> AttributeClassifier:
    """The classifier of this pack, from the cache or trained now (one to two minutes)."""
    labels = attributes_of(data, name, pack)
    training, heldout = pack.training, pack.heldout
    path = cache_dir() / "benchmarks" / f"attributes-{name}-{pack.hash[:12]}.safetensors"
    images = prepared(pack.images, training)
    if path.exists():
        network = Classifier(*images.shape[1:], labels.shape[1])
        network.load_state_dict(safetensors.torch.load_file(path))
        network.eval()
    else:
        network = train(images, labels[training])
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path)
    features, found = read(network, prepared(pack.images, heldout))
    truth = labels[heldout].numpy() > 0
    right = [((found[:, i] > 0)[truth[:, i] == side] == side).mean() for i in range(truth.shape[1]) for side in (0, 1)]
    return AttributeClassifier(network, features, (found > 0).mean(axis=0), float(np.nanmean(right)))


def train(images: Tensor, labels: Tensor) -> Classifier:
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    network = Classifier(*images.shape[1:], labels.shape[1])
    network.mean, network.deviation = moments(images)
    channels_last(network)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.2)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(STEPS):
        if len(order) < TRAINING_BATCH:
            order = torch.randperm(len(images), generator=generator)
        picks, order = order[:TRAINING_BATCH], order[TRAINING_BATCH:]
        shown = augment(images[picks].float(), draw(TRAINING_BATCH, LIGHT, 0.8, generator), LIGHT)
        loss = F.binary_cross_entropy_with_logits(
            network(shown.contiguous(memory_format=torch.channels_last))[1], labels[picks]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def read(network: Classifier, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 128) and logits (N, A)."""
    parts = [network(block.float()) for block in images.split(250)]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))


def open_set(data: Path, name: str, size: str) -> Pack:
    source, kind = SETS[name]
    return open_pack(data / source, DataConfig(size=size, kind=kind, labels="none"))  # ty: ignore[invalid-argument-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("size")
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--num", type=int, default=1000)
    args = parser.parse_args()
    pack = open_set(args.data, args.name, args.size)
    judge = attribute_classifier(args.data, args.name, pack)
    print(f"mean balanced accuracy on held-out images: {judge.accuracy:.3f}")
    rows = [{"run": "real training images", **judge(pack.images[pack.training[: args.num]])}]
    rows += [{"run": str(run), **judge(Generator.load(run).sample(args.num, seed=0))} for run in args.runs]
    table(f"{args.name} {args.size}", rows)


if __name__ == "__main__":
    main()
