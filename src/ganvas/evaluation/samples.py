"""The generated images of an evaluation, from a generator or from files; and the real images of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ganvas import results
from ganvas.config import CHANNELS, DataConfig
from ganvas.data.opening import open_pack
from ganvas.data.packing.pack import Pack, Progress, is_pack
from ganvas.errors import CheckpointError, ConfigError, DataError, RunError
from ganvas.generator import Generator, to_pixels
from ganvas.model_file import find_weights
from ganvas.models.pretrained import pretrained_network
from ganvas.options import LEAST_EVALUATED, Evaluate
from ganvas.provenance import provenance
from ganvas.run import Run
from ganvas.run_config import RunData
from ganvas.system import files
from ganvas.system.device import choose_device


class Samples(Protocol):
    """Where the generated images come from.

    sampling, note: how they were made, for the protocol and the grid. trained_with: pretrained network used in
    training. most: number of images that exist; None for a generator.
    """

    sampling: str
    note: str
    trained_with: str | None
    most: int | None
    device: torch.device

    def labels(self, pack: Pack, num: int) -> np.ndarray | None:
        """Class (num,) of each image, an index into the classes of the real images; None without labels."""
        ...

    def conditions(self, pack: Pack, num: int) -> np.ndarray | None:
        """Vectors (num, D) of the conditions that the images were asked to have; None without conditions."""
        ...

    def pixels(self, pack: Pack, num: int, labels: np.ndarray | None, report: Progress) -> np.ndarray:
        """Images (num, H, W, C) in the type of the real images. labels: as returned by `labels` or `conditions`."""
        ...

    def origin(self, number: int) -> results.Pair:
        """What identifies an image: its seed, or its file."""
        ...

    def model(self) -> results.ModelFacts: ...

    def protocol(self) -> results.Protocol:
        """How the images were made."""
        ...

    def provenance(self, numbers: Sequence[int]) -> Mapping[str, str] | None:
        """Metadata of a grid of these images."""
        ...


class FromGenerator:
    """Samples of a generator with consecutive seeds; labels in the proportions of the training images, conditions drawn
    from them."""

    most: int | None = None

    def __init__(self, generator: Generator, asked: Evaluate, place: Path | None = None) -> None:
        self.generator, self.asked, self.place = generator, asked, place
        self.sampling = f"seed {asked.seed}, truncation {asked.truncation:g}, EMA weights"
        self.note = f"uncurated, first seeds from {asked.seed:,}"
        self.trained_with = pretrained_network(generator.info.config)
        self.device = generator.device

    def labels(self, pack: Pack, num: int) -> np.ndarray | None:
        if not self.generator.classes or pack.labels is None:
            return None
        shares = np.bincount(pack.labels[pack.training], minlength=pack.num_classes)
        places = np.linspace(0, shares.sum(), num, endpoint=False)
        labels = np.searchsorted(np.cumsum(shares), places, side="right")
        return np.random.default_rng(self.asked.seed).permutation(labels)

    def conditions(self, pack: Pack, num: int) -> np.ndarray | None:
        if self.generator.info.conditions is None or pack.conditions is None:
            return None
        return pack.conditions[np.random.default_rng(self.asked.seed).choice(pack.training, num)]

    def pixels(self, pack: Pack, num: int, labels: np.ndarray | None, report: Progress) -> np.ndarray:
        samples = np.empty((num, pack.height, pack.width, pack.channels), pack.images.dtype)
        seeds = range(self.asked.seed, self.asked.seed + num)
        done = 0
        for images in self.generator.batches(seeds, labels, self.asked.truncation):
            if not images.isfinite().all():
                raise CheckpointError("the generator produces values that are not finite: use an earlier model")
            samples[done : done + len(images)] = to_pixels(images, pack.depth)
            done += len(images)
            report("sampling", done, num)
        return samples

    def origin(self, number: int) -> results.Pair:
        return results.Pair(seed=self.asked.seed + number)

    def model(self) -> results.ModelFacts:
        info, weights = self.generator.info, file_hash(self.place) if self.place else ""
        shape = info.config
        return results.ModelFacts(shape.model, shape.height, shape.width, shape.channels, info.images_seen, weights)

    def protocol(self) -> results.Protocol:
        ema = "moving average of the weights, as saved"
        return results.Protocol(seed=self.asked.seed, truncation=self.asked.truncation, ema=ema)

    def provenance(self, numbers: Sequence[int]) -> Mapping[str, str] | None:
        seeds = [self.asked.seed + number for number in numbers]
        return provenance(self.generator.hash, {"seeds": seeds, "truncation": self.asked.truncation})


class ImageSamples:
    """Images in files, of any program: a random choice, the same every time."""

    trained_with: str | None = None
    note = "uncurated, chosen at random"

    def __init__(self, made: Pack, asked: Evaluate) -> None:
        self.made = made
        self.most: int | None = made.num_images
        self.sampling = f"files of {made.record.request.name}"
        self.device = choose_device(asked.device).torch_device
        if asked.n is not None and asked.n > made.num_images:
            raise ConfigError(f"--n {asked.n}: there are only {made.num_images:,} generated images")
        self.chosen = np.random.default_rng(0).permutation(made.num_images)

    def labels(self, pack: Pack, num: int) -> np.ndarray | None:
        """The classes of the files, if they have the same names as those of the real images."""
        if self.made.labels is None or pack.labels is None or self.made.classes != pack.classes:
            return None
        return self.made.labels[self.chosen[:num]]

    def conditions(self, pack: Pack, num: int) -> np.ndarray | None:
        return None

    def pixels(self, pack: Pack, num: int, labels: np.ndarray | None, report: Progress) -> np.ndarray:
        pixels = self.made.images[np.sort(self.chosen[:num])][np.argsort(np.argsort(self.chosen[:num]))]
        if pixels.dtype == pack.images.dtype:
            return pixels
        if pack.depth == 16:
            return pixels.astype(np.uint16) * 257
        return (pixels / 257).round().astype(np.uint8)

    def origin(self, number: int) -> results.Pair:
        return results.Pair(image=self.made.names[self.chosen[number]])

    def model(self) -> results.ModelFacts:
        made = self.made
        return results.ModelFacts("images", made.height, made.width, made.channels, weights=made.hash[:8])

    def protocol(self) -> results.Protocol:
        return results.Protocol()

    def provenance(self, numbers: Sequence[int]) -> Mapping[str, str] | None:
        return None


def pack_of(folder: Path, generator: Generator, data: str | Path | None, progress: Progress | None) -> Pack:
    """The training images of the generator, with their held-out part."""
    if (folder / "config.json").is_file() and (folder / "model").is_dir():
        record = Run(folder).config().data
        if data is None and is_pack(known := Path(record.pack)) and (pack := Pack.open(known)).hash == record.hash:
            return _fitting(pack, generator, folder)
        kept = Run(folder).heldout() if record.grown else None
        pack = open_pack(data or record.source, record.options, kept=kept, progress=progress)
        if pack.hash != record.hash:
            raise RunError(
                f"{folder} was trained on other images than {data or record.source} now contains: "
                "give the original images with --data"
            )
        return _fitting(pack, generator, folder)
    if data is None:
        raise RunError(f"{folder} is a model without its run: give its training images with --data")
    shape = generator.info.config
    wanted = DataConfig(size=f"{shape.height}x{shape.width}", channels=CHANNELS[shape.channels])
    pack = Pack.open(Path(data)) if is_pack(Path(data)) else open_pack(data, wanted, progress=progress)
    return _fitting(pack, generator, folder)


def images_of(data: RunData) -> str:
    """Location of the images of a run: its pack, if that still exists, else the source."""
    return data.pack if is_pack(Path(data.pack)) else data.source


def _fitting(pack: Pack, generator: Generator, folder: Path) -> Pack:
    """Return the pack if it fits the generator; otherwise raise `DataError`."""
    model = generator.info.config
    if (pack.height, pack.width, pack.channels) != (model.height, model.width, model.channels):
        raise DataError(
            f"the images are {pack.height}x{pack.width}x{pack.channels} and {folder} generates "
            f"{model.height}x{model.width}x{model.channels}: give its training images with --data"
        )
    if generator.classes and pack.classes != generator.classes:
        raise DataError(f"the images have other classes than {folder}: give its training images with --data")
    needed, schema = generator.info.conditions, pack.schema
    if needed is not None and (schema is None or schema.columns != needed.columns):
        raise DataError(
            f"the images have no or other conditions than {folder}: give its pack (ganvas data pack) with --data"
        )
    if pack.num_training < LEAST_EVALUATED:
        raise DataError(
            f"{pack.num_training} training images are too few: an evaluation needs at least {LEAST_EVALUATED}"
        )
    return pack


def file_hash(folder: Path) -> str:
    return files.sha256(find_weights(folder))[:8]
