"""Endless seeded batches. Each rank gets its part of one global order; the position is a single number.

The order of epoch e is a permutation of the training images with seed (seed, e), so the position determines what comes
next, and a resumed run gets the same images as an uninterrupted one. Held-out images are never used.

The images of each class are spread evenly over the epoch, so every batch contains the classes in nearly their
proportions in the data set. So the statistics of batch renormalisation hardly change with the batch (RESULTS.md:
MedNIST).
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganvas.data.packing.pack import Pack

HELD_IN_MEMORY = 512 * 2**20  # packs up to this size, in bytes, are stored on the device
_READ_AHEAD = 4  # batches that the reader thread of a large pack prepares


class Batches:
    """Iterates over (images (B, C, H, W) float32 in [-1, 1] on the device, labels).

    labels: class indices (B,) int64, vectors of conditions (B, num_conditions) float32, or None.

    batch: images per step over all ranks; this rank receives batch / world_size of them.
    mirror: flip a random half of the images left to right.
    """

    def __init__(
        self,
        pack: Pack,
        batch: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        mirror: bool = False,
    ) -> None:
        self.pack, self.batch, self.seed, self.mirror = pack, batch, seed, mirror
        self.device = torch.device(device)
        self.start, self.stop = batch * rank // world_size, batch * (rank + 1) // world_size
        self.position = 0  # images returned so far, over all ranks
        self.half_range = (2**pack.depth - 1) / 2
        self._epoch = -1
        self._order = np.empty(0, np.int64)
        self._flips = np.empty(0, bool)
        known = pack.labels if pack.conditions is None else pack.conditions
        self._labels = None if known is None else torch.from_numpy(known).to(self.device)
        held = pack.images.nbytes <= HELD_IN_MEMORY
        self._pictures = _to_tensor(np.asarray(pack.images)).to(self.device) if held else None
        self._reader: _Reader | None = None

    def __next__(self) -> tuple[Tensor, Tensor | None]:
        if self._pictures is not None:
            indices, flips = self.sent(torch.from_numpy(np.stack(self.picked(self.position))))
            raw = self._pictures[indices]
        else:
            if self._reader is None:
                self._reader = _Reader(self)
            numbers, raw = self._reader.next()
            (indices, flips), raw = self.sent(numbers), self.sent(raw)
        self.position += self.batch
        images = raw.permute(0, 3, 1, 2).float().div_(self.half_range).sub_(1)
        if self.mirror:
            images = torch.where(flips.bool()[:, None, None, None], images.flip(3), images)
        labels = None if self._labels is None else self._labels[indices]
        return images.contiguous(memory_format=torch.channels_last), labels

    def sent(self, tensor: Tensor) -> Tensor:
        """The tensor on the device. A GPU does not wait for the copy: it is from pinned memory and not blocking."""
        return self.pinned(tensor).to(self.device, non_blocking=True)

    def pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor  # no effect on a pinned tensor

    def __iter__(self) -> Batches:
        return self

    def picked(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(indices into the pack, flip mask) of this rank's part of the batch at `position`."""
        places = range(position + self.start, position + self.stop)
        num = self.pack.num_training
        indices = np.empty(len(places), np.int64)
        flips = np.empty(len(places), bool)
        for i, place in enumerate(places):
            epoch, offset = divmod(place, num)
            if epoch != self._epoch:
                rng = np.random.default_rng((self.seed, epoch))
                order = self.pack.training[rng.permutation(num)]
                if self.pack.labels is not None:
                    order = order[evenly_mixed(self.pack.labels[order], rng)]
                self._epoch, self._order, self._flips = epoch, order, rng.random(num) < 0.5
            indices[i], flips[i] = self._order[offset], self._flips[offset]
        return indices, flips

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.close()
        self.position, self.seed, self._epoch = state["position"], state["seed"], -1

    def close(self) -> None:
        """Stops the reader thread of a large pack."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def evenly_mixed(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices (N,) that order labels (N,) such that each class is evenly spaced, from a random offset.

    The images of a class stay in their order.
    """
    by_class, nums = np.argsort(labels, kind="stable"), np.bincount(labels)
    within = np.arange(len(labels)) - np.repeat(nums.cumsum() - nums, nums)
    places = np.empty(len(labels))
    places[by_class] = (within + np.repeat(rng.random(len(nums)), nums)) / np.repeat(nums, nums)
    return np.argsort(places, kind="stable")


def _to_tensor(images: np.ndarray) -> Tensor:
    """Converts uint16 to int32, because few torch operators support uint16; uint8 is unchanged."""
    return torch.from_numpy(images.astype(np.int32 if images.dtype == np.uint16 else images.dtype))


class _Reader:
    """Reads the next batches of a memory-mapped pack in a thread, in order."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.position = batches, batches.position
        self.ready: queue.Queue[Any] = queue.Queue(_READ_AHEAD)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True, name="read-ahead")
        self.thread.start()

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                picked, flips = self.batches.picked(self.position)
                order = np.argsort(picked)  # read the disk forwards
                raw = np.empty((len(picked), *self.batches.pack.images.shape[1:]), self.batches.pack.images.dtype)
                raw[order] = self.batches.pack.images[picked[order]]
                self.position += self.batches.batch
                numbers = torch.from_numpy(np.stack([picked, flips]))
                self.put((self.batches.pinned(numbers), self.batches.pinned(_to_tensor(raw))))
        except BaseException as error:
            self.put(error)

    def put(self, item: Any) -> None:
        while not self.stopped.is_set():
            try:
                return self.ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def next(self) -> tuple[Tensor, Tensor]:
        """(indices into the pack and flips (2, B) int64, images (B, H, W, C))."""
        item = self.ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self.stopped.set()
        self.thread.join()


def spaced(indices: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the indices, evenly spaced."""
    return indices[np.linspace(0, len(indices) - 1, min(num, len(indices))).astype(int)]


def images_at(pack: Pack, indices: np.ndarray) -> Tensor:
    """Images at these indices in the training format: float32 (N, C, H, W) in [-1, 1]."""
    top = (2**pack.depth - 1) / 2
    return torch.from_numpy(pack.images[indices].astype(np.float32)).permute(0, 3, 1, 2) / top - 1
