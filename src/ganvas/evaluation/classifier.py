"""A classifier trained on the labels of the data set, to evaluate generators of labelled images.

It measures class accuracy and provides features adapted to the data. Small, fast, seeded and cached. It must not be
used in the training of a generator that it evaluates.
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

from ganvas.data.packing.pack import Pack, Progress
from ganvas.errors import ConfigError, DataError
from ganvas.evaluation.features import Features
from ganvas.evaluation.intervals import Interval, share
from ganvas.evaluation.small_classifier import (
    FEATURES,
    TRAINING_BATCH,
    Classifier,
    colours,
    logits,
    look,
    prepared,
    train_classifier,
    work_size,
)
from ganvas.model_file import tensor_hash
from ganvas.models import channels_last
from ganvas.system import files
from ganvas.system.device import choose_device
from ganvas.system.files import cache_dir

_FORMAT = 4  # version of the cached file and of all code that affects the weights
SEED = 0
_EPOCHS = 4
LEAST_STEPS, _MOST_STEPS = 200, 2400  # the maximum is for 28 x 28 pixels; lower for larger images
_POLICY = ("translation", "brightness", "contrast")  # so that other tones are not taken for other classes
_SOFTENED = 0.3  # share of the images that are blurred, so that blur is not taken for another class
MEMORY = 2**29  # most bytes for the images in half precision


@dataclass(frozen=True, eq=False)
class LabelClassifier:
    """A trained classifier and its test results."""

    network: Classifier
    classes: list[str]
    confusion: np.ndarray
    """(K, K) int64: number of test images of class i classified as class j."""
    num_trained: int
    hash: str
    """sha256 of the weights."""

    @property
    def num_tested(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> Interval:
        """Accuracy on the test images, 0..1."""
        return share(np.trace(self.confusion) / self.num_tested, self.num_tested)


def classifier_for(pack: Pack, device: str | None = None, progress: Progress | None = None) -> LabelClassifier:
    """The classifier of a labelled pack, from the cache, or trained on its training part and cached.

    Tested on the held-out part, or on a tenth of the training images if there is none. Images are reduced to 64 pixels
    along the longer side; if there are too many for the memory, a class-balanced subset is used.
    Raises `DataError` without labels, for a single class, or for a class without training images.
    """
    training, testing = _parts_of(pack)
    path = place_of(pack)
    classifier = read(path, pack)
    if classifier is None:
        classifier = _train_on(pack, training, testing, choose_device(device).torch_device, progress)
        write(path, classifier)
    return classifier


def _parts_of(pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to test on."""
    if pack.labels is None or pack.num_classes < 2:
        what = "no labels" if pack.labels is None else "a single class"
        raise DataError(
            f"{pack.folder} has {what}, but a classifier needs at least two classes: pack the images with labels, or "
            "choose other --features"
        )
    training, testing = parts_to_learn(pack)
    counts = np.bincount(pack.labels[training], minlength=pack.num_classes)
    if not counts.all():
        raise DataError(
            f"the class {pack.classes[int(counts.argmin())]!r} of {pack.folder} has no images to train a classifier: "
            "add images, or leave the class out"
        )
    return training, testing


def parts_to_learn(pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """The training and held-out images; without held-out images a tenth of the training images to test on."""
    training, testing = pack.training, pack.heldout
    if not len(testing):
        shuffled = np.random.default_rng(SEED).permutation(training)
        tenth = math.ceil(len(shuffled) / 10)
        testing, training = np.sort(shuffled[:tenth]), np.sort(shuffled[tenth:])
    return training, testing


def _train_on(
    pack: Pack, training: np.ndarray, testing: np.ndarray, device: torch.device, progress: Progress | None
) -> LabelClassifier:
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
        policy=_POLICY,
        mirror=pack.mirror,
        softened=_SOFTENED,
        device=device,
        progress=progress,
    )
    confusion = np.zeros((pack.num_classes, pack.num_classes), np.int64)
    for block in np.split(testing, range(1000, len(testing), 1000)):
        taken_for = logits(network, prepared(pack.images, block)).argmax(dim=1).numpy()
        np.add.at(confusion, (pack.labels[block], taken_for), 1)
    network.cpu()
    return LabelClassifier(network, pack.classes, confusion, len(chosen), tensor_hash(network.state_dict()))


def steps_for(num: int, height: int, width: int) -> int:
    """Number of steps: four epochs, limited to about 40 seconds on two cores."""
    most = max(LEAST_STEPS, int(_MOST_STEPS * min(1.0, 28 * 28 / (height * width))))
    return min(max(_EPOCHS * math.ceil(num / TRAINING_BATCH), LEAST_STEPS), most)


def spread_over_classes(labels: np.ndarray, most: int) -> np.ndarray:
    """Sorted indices of at most `most` labels (N,): all, or a class-balanced random subset."""
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # within its class
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        rank[of_class] = np.arange(len(of_class))
    return np.sort(np.argsort(rank, kind="stable")[:most])


# ---- the cache ----


def place_of(pack: Pack) -> Path:
    """Cache file; depends on images, labels and held-out part (by the hash of the pack) and on this module."""
    key = hashlib.sha256(f"{_FORMAT} {SEED} {pack.hash} {pack.mirror}".encode()).hexdigest()
    return cache_dir() / "judges" / f"classifier-{key[:16]}.safetensors"


def write(path: Path, classifier: LabelClassifier) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in classifier.network.state_dict().items()}
    tensors["confusion"] = torch.from_numpy(classifier.confusion)
    tensors["num_trained"] = torch.tensor(classifier.num_trained)
    content = safetensors.torch.save(tensors, {"sha256": tensor_hash(tensors)})
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, lambda file: file.write(content))


def read(path: Path, pack: Pack) -> LabelClassifier | None:
    """The classifier in the cache; None if there is none or it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError):
        return None
    if metadata.get("sha256") != tensor_hash(tensors):
        return None
    confusion, num_trained = tensors.pop("confusion").numpy(), int(tensors.pop("num_trained"))
    network = Classifier(colours(pack.channels), *work_size(pack.height, pack.width), pack.num_classes)
    network.load_state_dict(tensors)
    channels_last(network.eval().requires_grad_(False))
    return LabelClassifier(network, pack.classes, confusion, num_trained, tensor_hash(tensors))


# ---- as features ----


def load(name: str, device: torch.device, weights: Path | None, pack: Pack | None) -> Features:
    """The classifier of `pack` as `Features`; its logits are those of the classes of the pack, in order."""
    if pack is None:
        raise ConfigError(f"the features {name!r} are trained on labelled images: give the pack of the images")
    classifier = classifier_for(pack, str(device))
    height, width = work_size(pack.height, pack.width)
    colour = "gray" if colours(pack.channels) == 1 else "RGB"
    accuracy, low, high = vars(classifier.accuracy).values()
    words = (
        f"input {height}x{width} by antialiased bicubic, [-1, 1], {colour}, trained on {classifier.num_trained} images "
        f"of {pack.num_classes} classes, recognises {accuracy:.1%} ({low:.1%} to {high:.1%}) of "
        f"{classifier.num_tested} others"
    )
    prepare = functools.partial(look, channels=colours(pack.channels), height=height, width=width)
    return Features(name, classifier.hash[:8], FEATURES, classifier.network, prepare, words, device, pack.num_classes)
