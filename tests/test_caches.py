"""Damaged files in the cache are ignored, so that they are made again."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from ganvas.data import Pack, open_pack
from ganvas.evaluation import classifier, copies
from ganvas.evaluation.classifier import LabelClassifier
from ganvas.evaluation.small_classifier import Classifier, work_size


def flipped(content: bytes, place: int, bits: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= bits
    return bytes(changed)


def test_no_damage_to_a_calibration_of_copies_is_an_error(tmp_path: Path) -> None:
    path, content = tmp_path / "a.npz", [np.ones((3, len(copies.KINDS))), np.ones((2, len(copies.KINDS))), np.ones(3)]
    copies.write(path, **dict(zip(("real", "others", "correlations"), content, strict=True)))
    whole, dice = path.read_bytes(), random.Random(0)
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, place, dice.randint(1, 255)))
        found = copies.read(path, 3)
        assert found is None or all(map(np.array_equal, found, content))


@pytest.fixture(scope="module")
def digits() -> Pack:
    return open_pack("digits")


def test_no_damage_to_a_classifier_is_an_error(digits: Pack, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    network = Classifier(1, *work_size(digits.height, digits.width), digits.num_classes)
    classifier.write(path, LabelClassifier(network, digits.classes, np.eye(10, dtype=np.int64), 1234, ""))
    whole, dice = path.read_bytes(), random.Random(0)
    read = classifier.read(path, digits)
    assert read is not None and read.num_trained == 1234 and np.array_equal(read.confusion, np.eye(10))
    head = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(0, head, 9), *(dice.randrange(head, len(whole)) for _ in range(20))]:
        path.write_bytes(flipped(whole, place, dice.randint(1, 255)))
        found = classifier.read(path, digits)
        assert found is None or (found.num_trained, found.hash) == (read.num_trained, read.hash)
