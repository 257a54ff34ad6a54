"""A classifier trained on the data set's own labels: an independent eye for labelled images of any kind.

Whether a generated image shows what it was asked for, and distances in features that know what matters in these
images. Small, quick, seeded, kept in the cache. It must never take part in the training of what it judges.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from ganvas import files
from ganvas.data.pack import Pack, Progress
from ganvas.device import choose_device
from ganvas.errors import ConfigError, DataError
from ganvas.files import cache_dir
from ganvas.generator import tensor_hash
from ganvas.judge.features import Features
from ganvas.judge.intervals import Interval, share
from ganvas.judge.small import BATCH, FEATURES, Classifier, colours, logits, look, prepared, train_classifier, work_size
from ganvas.models import channels_last

FORMAT = 1  # of the cached file and of all that decides the weights; raised when any of it changes
SEED = 0
EPOCHS = 4
LEAST_STEPS, MOST_STEPS = 200, 2400  # the most at 28 x 28 pixels, fewer where images are larger
MEMORY = 2**29  # bytes for the images, which are kept in half precision


@dataclass(frozen=True, eq=False)
class Judge:
    """A trained classifier and what it is worth."""

    network: Classifier
    classes: list[str]
    confusion: np.ndarray
    """(K, K) int64: how many of the test images of class i were taken for class j."""
    num_trained: int
    hash: str
    """sha256 of the weights."""

    @property
    def num_tested(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> Interval:
        """Share of the test images that are recognised, in 0..1."""
        return share(np.trace(self.confusion) / self.num_tested, self.num_tested)


def judge_of(pack: Pack, device: str | None = None, progress: Progress | None = None) -> Judge:
    """The classifier of a labelled pack: from the cache, or trained on its training part and kept there.

    Tested on the held-out part; of a pack without one, on a tenth that is kept from this training. Images are
    reduced to 64 pixels along the longer side; where there are too many for the memory, classes are drawn from evenly.
    Raises `DataError` without labels, with a single class, or where a class has no training image.
    """
    training, testing = parts_of(pack)
    path = place_of(pack)
    judge = read(path, pack)
    if judge is None:
        judge = train_on(pack, training, testing, choose_device(device).torch_device, progress)
        write(path, judge)
    return judge


def parts_of(pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to test on."""
    if pack.labels is None or pack.num_classes < 2:
        what = "no labels" if pack.labels is None else "a single class"
        raise DataError(
            f"{pack.folder} has {what} and a classifier needs at least two: pack the images with labels, or judge "
            "in another network's features"
        )
    training, testing = pack.training, pack.heldout
    if not len(testing):
        shuffled = np.random.default_rng(SEED).permutation(training)
        tenth = math.ceil(len(shuffled) / 10)
        testing, training = np.sort(shuffled[:tenth]), np.sort(shuffled[tenth:])
    counts = np.bincount(pack.labels[training], minlength=pack.num_classes)
    if not counts.all():
        raise DataError(
            f"the class {pack.classes[int(counts.argmin())]!r} of {pack.folder} has no images to train a classifier "
            "on: give it some, or leave the class out"
        )
    return training, testing


def train_on(
    pack: Pack, training: np.ndarray, testing: np.ndarray, device: torch.device, progress: Progress | None
) -> Judge:
    assert pack.labels is not None
    height, width = work_size(pack.height, pack.width)
    most = MEMORY // (2 * height * width * colours(pack.channels))
    chosen = training[spread_over_classes(pack.labels[training], most)]
    labels = torch.from_numpy(pack.labels[chosen])
    network = train_classifier(
        prepared(pack.images, chosen, progress),
        labels,
        pack.num_classes,
        steps=steps_for(len(chosen), height, width),
        seed=SEED,
        mirror=pack.mirror,
        device=device,
        progress=progress,
    )
    confusion = np.zeros((pack.num_classes, pack.num_classes), np.int64)
    for block in np.split(testing, range(1000, len(testing), 1000)):
        taken_for = logits(network, prepared(pack.images, block)).argmax(dim=1).numpy()
        np.add.at(confusion, (pack.labels[block], taken_for), 1)
    network.cpu()
    return Judge(network, pack.classes, confusion, len(chosen), tensor_hash(network.state_dict()))


def steps_for(num: int, height: int, width: int) -> int:
    """Four epochs, within what takes about 40 seconds on two cores."""
    most = max(LEAST_STEPS, int(MOST_STEPS * min(1.0, 28 * 28 / (height * width))))
    return min(max(EPOCHS * math.ceil(num / BATCH), LEAST_STEPS), most)


def spread_over_classes(labels: np.ndarray, most: int) -> np.ndarray:
    """Sorted indices of at most `most` labels (N,): all, or as many of each class as evenness allows, drawn by seed."""
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # within its class
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        rank[of_class] = np.arange(len(of_class))
    return np.sort(np.argsort(rank, kind="stable")[:most])


# ---- the cache ----


def place_of(pack: Pack) -> Path:
    """One for equal images, labels, held-out part (the pack's hash covers them) and choices of this module."""
    key = hashlib.sha256(f"{FORMAT} {SEED} {pack.hash} {pack.mirror}".encode()).hexdigest()
    return cache_dir() / "judges" / f"classifier-{key[:16]}.safetensors"


def write(path: Path, judge: Judge) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in judge.network.state_dict().items()}
    tensors["confusion"] = torch.from_numpy(judge.confusion)
    metadata = {"sha256": tensor_hash(tensors), "num_trained": str(judge.num_trained)}
    content = safetensors.torch.save(tensors, metadata)
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, lambda file: file.write(content))


def read(path: Path, pack: Pack) -> Judge | None:
    """The judge in the cache; None where there is none, or a damaged one, which is then trained anew."""
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError):
        return None
    if metadata.get("sha256") != tensor_hash(tensors):
        return None
    confusion = tensors.pop("confusion").numpy()
    network = Classifier(colours(pack.channels), *work_size(pack.height, pack.width), pack.num_classes)
    network.load_state_dict(tensors)
    channels_last(network.eval().requires_grad_(False))
    return Judge(network, pack.classes, confusion, int(metadata["num_trained"]), tensor_hash(tensors))


# ---- as features ----


def load(name: str, device: torch.device, weights: Path | None, pack: Pack | None) -> Features:
    """The judge of `pack` as `Features`; its logits are of the pack's classes, in their order."""
    if pack is None:
        raise ConfigError(f"the features {name!r} are learnt from labelled images: give the pack that they are of")
    judge = judge_of(pack, str(device))
    height, width = work_size(pack.height, pack.width)
    colour = "gray" if colours(pack.channels) == 1 else "RGB"
    accuracy, low, high = judge.accuracy
    words = (
        f"input {height}x{width} by antialiased bicubic, [-1, 1], {colour}, trained on {judge.num_trained} images of "
        f"{pack.num_classes} classes, recognises {accuracy:.1%} ({low:.1%} to {high:.1%}) of {judge.num_tested} others"
    )
    prepare = functools.partial(look, channels=colours(pack.channels), height=height, width=width)
    return Features(name, judge.hash[:8], FEATURES, judge.network, prepare, words, device, pack.num_classes)
