"""batches.py: the order of images, its resumption and its parts by rank, and values exactly from -1 to 1."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.data import batches as module
from ganvas.data.batches import Batches, evenly_mixed

NUM = 23  # images of the small packs; a prime, so that no batch divides it


def packed(folder: Path, images: np.ndarray, labels: np.ndarray | None = None, **options: Any) -> Pack:
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "set.npz", **arrays)
    return open_pack(folder / "set.npz", DataConfig(**options), folder=folder / "pack")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Pack:
    """Pictures that tell their own number: image i has the gray i everywhere but in its left column; label i % 3."""
    images = np.repeat(np.arange(NUM, dtype=np.uint8), 8 * 8).reshape(NUM, 8, 8)
    images[:, :, 0] = 255
    return packed(tmp_path_factory.mktemp("gray"), images, np.arange(NUM) % 3)


@pytest.fixture(params=["in memory", "read ahead"])
def held(request, monkeypatch) -> str:
    """Both ways of reading; the second as for packs larger than the memory."""
    if request.param == "read ahead":
        monkeypatch.setattr(module, "HELD_IN_MEMORY", 0)
    return request.param


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def numbers(images: torch.Tensor) -> list[int]:
    """Which images these are, from their middle column."""
    return ((images[:, 0, 4, 4] + 1) * 127.5).round().int().tolist()


def take(batches: Batches, count: int) -> list[int]:
    try:
        return [number for _ in range(count) for number in numbers(next(batches)[0])]
    finally:
        batches.close()


# Order.


def test_every_epoch_is_a_permutation(pack, held):
    """Batches of 5 run across the epochs' ends; each run of 23 is still every image once, each time in new order."""
    seen = take(Batches(pack, 5, seed=3), NUM)
    epochs = [seen[i * NUM : (i + 1) * NUM] for i in range(5)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_may_be_larger_than_the_pack(pack):
    seen = take(Batches(pack, 50), 1)
    assert sorted(seen[:NUM]) == sorted(seen[NUM : 2 * NUM]) == list(range(NUM))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**32))
def test_every_part_of_an_epoch_has_each_class_in_its_share(labels, seed):
    labels = np.array(labels)
    order = evenly_mixed(labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    for label in np.unique(labels):
        seen = np.cumsum(labels[order] == label)
        expected = np.arange(1, len(labels) + 1) * seen[-1] / len(labels)
        # Other classes begin anywhere within their own distance, so each of them moves a member by at most one place.
        assert np.abs(seen - expected).max() <= len(np.unique(labels))
        mine = order[labels[order] == label]
        assert (np.diff(mine) > 0).all()


def test_classes_are_mixed_evenly_in_another_order_in_each_epoch(tmp_path):
    labels = np.repeat([0, 1], [12, 36])
    images = np.repeat(np.arange(48, dtype=np.uint8) * 5, 64).reshape(48, 8, 8)
    batches = Batches(packed(tmp_path, images, labels, holdout=0), 16)
    epochs = [[next(batches)[1].tolist() for _ in range(3)] for _ in range(4)]
    assert {part.count(0) for epoch in epochs for part in epoch} == {4}
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) > 1


def test_seed_decides_the_order(pack):
    orders = [take(Batches(pack, NUM, seed=seed), 2) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_labels_belong_to_their_pictures(pack, held):
    batches = Batches(pack, 7)
    for _ in range(5):
        images, labels = next(batches)
        assert labels is not None and labels.dtype == torch.int64
        names = [pack.classes[label] for label in labels]
        assert names == [str(number % 3) for number in numbers(images)]
    batches.close()


# Resumption.


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 40),
    before=st.integers(0, 12),
    after=st.integers(1, 6),
    seed=st.integers(0, 5),
    mirror=st.booleans(),
)
def test_a_resumed_run_sees_what_it_would_have_seen(pack, batch, before, after, seed, mirror):
    whole = Batches(pack, batch, seed=seed, mirror=mirror)
    for _ in range(before):
        next(whole)
    resumed = Batches(pack, batch, seed=99, mirror=mirror)
    next(resumed)  # leaves another epoch's order behind
    resumed.load_state_dict(whole.state_dict())
    for _ in range(after):
        for ours, theirs in zip(next(resumed), next(whole), strict=True):
            assert torch.equal(ours, theirs)


def test_resumption_of_the_reader(pack, monkeypatch):
    """What was read ahead but never handed out is read again."""
    expected = take(Batches(pack, 4, seed=1), 12)
    monkeypatch.setattr(module, "HELD_IN_MEMORY", 0)
    batches = Batches(pack, 4, seed=1)
    start = [number for _ in range(5) for number in numbers(next(batches)[0])]
    state = batches.state_dict()
    for _ in range(3):
        next(batches)
    batches.load_state_dict(state)
    assert start + take(batches, 7) == expected


# Ranks.


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 30),
    world_size=st.integers(1, 5),
    steps=st.integers(1, 6),
    seed=st.integers(0, 3),
    mirror=st.booleans(),
)
def test_ranks_together_are_the_single_process(pack, batch, world_size, steps, seed, mirror):
    single = Batches(pack, batch, seed=seed, mirror=mirror)
    ranks = [Batches(pack, batch, seed=seed, mirror=mirror, rank=i, world_size=world_size) for i in range(world_size)]
    for _ in range(steps):
        images, labels = next(single)
        parts = [next(rank) for rank in ranks]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert labels is not None and torch.equal(torch.cat([part[1] for part in parts]), labels)
        assert {rank.position for rank in ranks} == {single.position}
        assert max(len(part[0]) for part in parts) - min(len(part[0]) for part in parts) <= 1


# Mirroring.


def mirrored(images: torch.Tensor) -> list[bool]:
    """Whether the white column is on the right."""
    return (images[:, 0, 0, -1] == 1).tolist()


def test_mirrored_only_when_asked(pack, held):
    batches = Batches(pack, 50)
    assert not any(mirrored(next(batches)[0]))
    batches.close()
    batches = Batches(pack, 500, mirror=True)
    images, _ = next(batches)
    batches.close()
    share = np.mean(mirrored(images))
    assert abs(share - 0.5) < 4 * 0.5 / 500**0.5
    left, right = images[:, 0, 0, 0] == 1, images[:, 0, 0, -1] == 1
    assert (left ^ right).all()


def test_mirroring_changes_neither_order_nor_the_rest(pack):
    plain, flipped = next(Batches(pack, 40))[0], next(Batches(pack, 40, mirror=True))[0]
    assert numbers(plain) == numbers(flipped)
    for one, other, flip in zip(plain, flipped, mirrored(flipped), strict=True):
        assert torch.equal(other, one.flip(2) if flip else one)


# Values.


@pytest.mark.parametrize(("depth", "channels"), [(8, 1), (8, 3), (8, 4), (16, 1)])
def test_values_run_exactly_from_minus_one_to_one(tmp_path, held, depth, channels):
    dtype, top = (np.uint8, 255) if depth == 8 else (np.uint16, 65535)
    pixels = np.random.default_rng(0).integers(0, top, (4, 8, 10, channels), dtype, endpoint=True)
    pixels[:, 0], pixels[:, 1] = 0, top
    small = packed(tmp_path / "set", pixels, channels="alpha" if channels == 4 else "auto")
    assert (small.depth, small.channels, small.height, small.width) == (depth, channels, 8, 10)
    batches = Batches(small, 4)
    picked, _ = batches.picked(0)
    images, labels = next(batches)
    batches.close()
    assert labels is None
    assert images.shape == (4, channels, 8, 10) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (images[:, :, 0] == -1).all() and (images[:, :, 1] == 1).all()
    expected = small.images[picked].astype(np.float64) * 2 / top - 1
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=2e-7)


# Large packs.


@pytest.mark.parametrize("batch", [1, 5, 23, 60])
@pytest.mark.parametrize("mirror", [False, True])
def test_reading_ahead_is_the_same_as_memory(pack, monkeypatch, batch, mirror):
    inside = Batches(pack, batch, seed=2, rank=1, world_size=2, mirror=mirror)
    monkeypatch.setattr(module, "HELD_IN_MEMORY", 0)
    ahead = Batches(pack, batch, seed=2, rank=1, world_size=2, mirror=mirror)
    for _ in range(12):
        for ours, theirs in zip(next(ahead), next(inside), strict=True):
            assert torch.equal(ours, theirs)
    ahead.close()


def test_the_reader_stops_at_once_and_twice(pack, monkeypatch):
    monkeypatch.setattr(module, "HELD_IN_MEMORY", 0)
    batches = Batches(pack, 4)
    batches.close()  # before it began
    next(batches)
    assert [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
    batches.close()
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_an_error_of_the_disk_arrives(pack, monkeypatch):
    class Broken(np.ndarray):
        def __getitem__(self, key):
            raise OSError("the disk is gone")

    monkeypatch.setattr(module, "HELD_IN_MEMORY", 0)
    batches = Batches(dataclasses.replace(pack, images=np.asarray(pack.images).view(Broken)), 4)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    batches.close()


def test_a_gpu_waits_for_no_copy(pack: Pack, held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: copies to "cuda" stay where they are and are recorded."""
    pinned: list[torch.Tensor] = []
    copies: list[tuple[bool, bool]] = []

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        assert device.type == "cuda"
        copies.append((any(tensor is one for one in pinned), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(tensor), tensor)[1])
    monkeypatch.setattr(torch.Tensor, "to", to)
    batches = Batches(pack, 4, device="cuda", mirror=True)
    copies.clear()  # of the whole pack
    take(batches, 2)
    assert copies == [(True, True)] * (2 if held == "in memory" else 4)
