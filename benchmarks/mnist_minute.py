"""One minute of MNIST on this machine: `ganvas train mnist --minutes 1` and the DCGAN of a TensorFlow tutorial.

    python benchmarks/mnist_minute.py PATH_OF_THE_FOUR_FILES --json mnist_minute.json

Both train for the same wall time on the same images. At 10, 20, 30 and 60 seconds 10,000 images are evaluated by a
separate classifier (benchmarks/mnist_classifier.py; no recipe was tuned on it, see RESULTS.md): the share of images
with the requested class (conditional) or with a confident prediction (at least 90%; the network of the tutorial has no
labels), and the Frechet distance of its penultimate features to the 10,000 test images. The evaluation takes no
training time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import ganvas
from common import machine, table, write_json
from ganvas.config import DataConfig, ModelConfig
from ganvas.data import Pack, open_pack
from ganvas.generator import Generator, to_pixels
from ganvas.model_file import ModelInfo
from ganvas.models import build
from ganvas.run import Run, read_checkpoint
from mnist_classifier import asked_share, features, frechet, train_classifier

MARKS = (10, 20, 30, 60)  # seconds
NUM = 10_000  # images evaluated
CONFIDENT = 0.9
Row = dict[str, float | str | int]


class DigitClassifier:
    """The independent classifier and the features of the test images."""

    def __init__(self, train: Pack, test: Pack) -> None:
        assert train.labels is not None and test.labels is not None
        self.classifier = train_classifier(train.images, train.labels, seed=20_260)
        self.reference, logits = features(self.classifier, test.images)
        self.accuracy = asked_share(logits, test.labels)
        self.confident_of_real = confident(logits)
        self.floor = frechet(features(self.classifier, train.images[:NUM])[0], self.reference)

    def __call__(self, images: Tensor, labels: np.ndarray | None) -> tuple[float, float]:
        """(share given the asked class, or confident share without labels; Frechet distance)."""
        found, logits = features(self.classifier, to_pixels(images))
        share = confident(logits) if labels is None else asked_share(logits, labels)
        return share, frechet(found, self.reference)


def confident(logits: np.ndarray) -> float:
    """Share of images that the classifier gives some class at least 90%."""
    return (torch.from_numpy(logits).softmax(1).max(1).values >= CONFIDENT).float().mean().item()


def run_ganvas(data: Path, seed: int, judge: DigitClassifier) -> list[Row]:
    """Trains exactly as the command does, keeping every checkpoint; evaluates the newest EMA at each mark."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        trained = ganvas.train("mnist", out, data=data, minutes=1, seed=seed, keep=1000, quiet=True)
        states = [read_checkpoint(checkpoint.path) for checkpoint in Run(out).saved()]
        config = Run(out).config().model
        rows = []
        for mark in MARKS:
            in_time = [s for s in states if s["counters"]["seconds"] <= (mark if mark < MARKS[-1] else trained.seconds)]
            counters = in_time[-1]["counters"]
            network, _ = build(config)
            network.load_state_dict(in_time[-1]["ema"])
            generator = Generator(network, ModelInfo(config, [str(i) for i in range(10)]))
            share, distance = judge(generator.sample(NUM, seed=1_000_000), np.arange(NUM) % 10)
            rows.append(row("Ganvas", seed, mark, counters["images_seen"], share, distance))
        return rows


def row(what: str, seed: int, mark: float, images: int, share: float, distance: float) -> Row:
    return {"what": what, "seed": seed, "seconds": mark, "images": images, "share": share, "frechet": distance}


# ---- the TensorFlow tutorial's step, as the MNIST project used it, on the networks of --preset tf-mnist ----


def run_tutorial(train: Pack, seed: int, judge: DigitClassifier) -> list[Row]:
    """BCE from logits, Adam 1e-4, batch 256, both networks updated from the same fake batch."""
    torch.manual_seed(seed)
    generator, discriminator = build(ModelConfig("tf-mnist", 28, 28, 1, z_dim=100))
    optimizers = [torch.optim.Adam(network.parameters(), 1e-4) for network in (generator, discriminator)]
    data = torch.from_numpy(train.images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    rows: list[Row] = []
    seconds, images = 0.0, 0
    for mark in MARKS:
        while seconds < mark:
            began = time.monotonic()
            real = data[torch.randint(len(data), (256,))]
            fake = generator(torch.randn(256, 100))
            fake_logits = discriminator(fake)
            g_loss = bce(fake_logits, 1.0)
            d_loss = bce(discriminator(real), 1.0) + bce(discriminator(fake.detach()), 0.0)
            for loss, network in ((g_loss, generator), (d_loss, discriminator)):
                gradients = torch.autograd.grad(loss, list(network.parameters()))
                for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                    parameter.grad = gradient
            for optimizer in optimizers:
                optimizer.step()
            images += 256
            seconds += time.monotonic() - began
        with torch.no_grad():  # batch statistics: kinder to young networks than the running ones
            drawn = torch.cat([generator(torch.randn(500, 100)) for _ in range(NUM // 500)])
        share, distance = judge(drawn, None)
        rows.append(row("TensorFlow tutorial", seed, mark, images, share, distance))
    return rows


def bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the four MNIST files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    train = open_pack("mnist", data=options.data)
    judge = DigitClassifier(train, open_pack("mnist", DataConfig(split="test"), data=options.data))
    print(f"classifier: {judge.accuracy:.2%} of the test images, confident of {judge.confident_of_real:.2%}")
    print(f"Frechet distance of 10,000 training images to the test images: {judge.floor:.3f}")
    rows: list[Row] = []
    jobs: list[Callable[[], list[Row]]] = [lambda: run_tutorial(train, options.seeds[0], judge)]
    for seed in options.seeds:
        jobs.append(lambda seed=seed: run_ganvas(options.data, seed, judge))
    for job in jobs:
        rows += job()
        print(rows[-1], flush=True)
    summary = []
    for what in dict.fromkeys(str(r["what"]) for r in rows):
        for mark in dict.fromkeys(r["seconds"] for r in rows if r["what"] == what):
            group = [r for r in rows if (r["what"], r["seconds"]) == (what, mark)]
            medians = {
                name: statistics.median(float(r[name]) for r in group) for name in ("images", "share", "frechet")
            }
            summary.append({"what": what, "seconds": mark, "seeds": len(group), **medians})
    table("One minute of MNIST (medians over the seeds)", summary)
    if options.json:
        judged = {
            "accuracy": judge.accuracy,
            "confident_of_real": judge.confident_of_real,
            "floor": judge.floor,
        }
        write_json(options.json, {"machine": machine(), **judged, "summary": summary, "runs": rows})


if __name__ == "__main__":
    main()
