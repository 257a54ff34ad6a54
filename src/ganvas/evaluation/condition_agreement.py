"""Whether generated images have the conditions that were asked for.

A small network (small_classifier.py) learns the conditions from the training images. What it reads in the generated
images is compared with what was asked, and what it reads in held-out images with what they are.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.conditions import Column, Conditions
from ganvas.data.packing.pack import Pack, Progress
from ganvas.errors import DataError
from ganvas.evaluation.classifier import MEMORY, SEED, parts_to_learn, steps_for
from ganvas.evaluation.intervals import Interval, normal, share
from ganvas.evaluation.measures import as_row
from ganvas.evaluation.small_classifier import (
    SMOOTHING,
    Classifier,
    colours,
    logits,
    prepared,
    train_classifier,
    work_size,
)
from ganvas.results import Measure

_LEAST = 20  # images of each kind


def agreement(
    pack: Pack, samples: np.ndarray, asked: np.ndarray, device: torch.device, progress: Progress | None = None
) -> list[Measure]:
    """One row per column, for the generated images (N, H, W, C) with the conditions `asked` (N, D).

    The value to expect is that of held-out images. Raises `DataError` for too few images.
    """
    schema, vectors = pack.schema, pack.conditions
    assert schema is not None and vectors is not None
    training, testing = parts_to_learn(pack)
    if min(len(testing), len(samples)) < _LEAST:
        raise DataError(
            f"{len(testing)} held-out and {len(samples)} generated images are too few, at least {_LEAST} are needed"
        )
    network, num_trained = _trained(pack, schema, vectors, training, device, progress)
    real = logits(network, prepared(pack.images, testing)).numpy()
    fake = logits(network, prepared(samples, np.arange(len(samples)))).numpy()
    rows = []
    parts = [schema.split(one) for one in (real, vectors[testing], fake, asked)]
    for column, read, true, generated, wanted in zip(schema.columns, *parts, strict=True):
        expected, value = _compared(column, read, true), _compared(column, generated, wanted)
        by = f"a network trained on {num_trained:,} real images"
        if column.kind == "number":
            better = "lower"
            meaning = f"Mean absolute difference between the requested {column.name} and that read by {by}."
        else:
            better = "higher"
            kind = "labels" if column.kind == "several" else "images"
            meaning = (
                f"Share of {kind} for which {by} reads the requested {column.name}; always choosing the most frequent "
                f"would give {_by_chance(column, wanted):.1%}."
            )
        protocol = f"n = {len(samples):,}; value to expect: {len(testing):,} real images not used for training"
        rows.append(
            as_row(
                f"condition:{column.name}", f"Condition {column.name}", value, better, expected.value, meaning, protocol
            )
        )
    return rows


def _trained(
    pack: Pack,
    schema: Conditions,
    vectors: np.ndarray,
    training: np.ndarray,
    device: torch.device,
    progress: Progress | None,
) -> tuple[Classifier, int]:
    """A network that reads all columns, and the number of images that it was trained on."""
    height, width = work_size(pack.height, pack.width)
    most = MEMORY // (2 * height * width * colours(pack.channels))
    chosen = np.sort(np.random.default_rng(SEED).permutation(training)[:most])

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        parts = zip(
            schema.columns, outputs.split(_widths(schema), dim=1), wanted.split(_widths(schema), dim=1), strict=True
        )
        return torch.stack([_column_loss(*part) for part in parts]).sum()

    network = train_classifier(
        prepared(pack.images, chosen, progress),
        torch.from_numpy(vectors[chosen]),
        schema.width,
        steps=steps_for(len(chosen), height, width),
        seed=SEED,
        mirror=pack.mirror,
        device=device,
        progress=progress,
        loss=loss,
    )
    return network, len(chosen)


def _widths(schema: Conditions) -> list[int]:
    return [column.width for column in schema.columns]


def _column_loss(column: Column, outputs: Tensor, wanted: Tensor) -> Tensor:
    """Loss of the outputs (N, width) of a column."""
    if column.kind == "number":
        return F.mse_loss(outputs, wanted)
    if column.kind == "category":
        return F.cross_entropy(outputs, wanted, label_smoothing=SMOOTHING)
    return F.binary_cross_entropy_with_logits(outputs, wanted)


def _compared(column: Column, outputs: np.ndarray, wanted: np.ndarray) -> Interval:
    """Agreement of the outputs (N, width) with what was wanted: a share, or the mean absolute error of a number."""
    if column.kind == "number":
        errors = np.abs(outputs - wanted)[:, 0].astype(np.float64) * column.std
        return normal(float(errors.mean()), float(errors.var()) / len(errors), within=(0.0, np.inf))
    if column.kind == "category":
        right = outputs.argmax(axis=1) == wanted.argmax(axis=1)
    else:
        right = ((outputs > 0) == (wanted > 0.5)).mean(axis=1)
    return share(float(right.mean()), len(right))


def _by_chance(column: Column, wanted: np.ndarray) -> float:
    """Agreement of always choosing the most frequent value of what was wanted (N, width)."""
    frequent = wanted.mean(axis=0)
    return float(frequent.max() if column.kind == "category" else np.maximum(frequent, 1 - frequent).mean())
