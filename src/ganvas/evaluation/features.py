"""Feature networks for comparing generated and real images.

`Features.load(name)` returns a function from images to features (N, D) float32. Its `protocol` describes preprocessing
and weights, and should be reported with every result.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from ganvas.data.download import File, download
from ganvas.data.packing.pack import Pack
from ganvas.errors import CheckpointError, ConfigError
from ganvas.models import channels_last
from ganvas.system import files
from ganvas.system.device import choose_device
from ganvas.system.files import cache_dir

_BATCH = 8  # batch size on a CPU: 4 to 16 are equally fast, 32 is slower because of the caches
_GPU_BATCH = 256

_Pictures = Tensor | np.ndarray | Iterable[Tensor | np.ndarray]
"""A tensor (N, C, H, W) in [-1, 1], an array (N, H, W, C) of uint8 or uint16 as in a pack, or batches of these."""

NETWORKS = {
    "efficientnet-lite0": "efficientnet",
    "inception-original": "inception",
    "inception-clean": "inception",
    "dinov2-vits14": "dinov2",
    "dinov2-vitb14": "dinov2",
    "classifier": "classifier",
    "random": "random_network",
}
"""Feature network -> module of this package with its `load` function."""


@dataclass(frozen=True, eq=False)
class Features:
    """A feature network; call it with images: `features(pack.images)`, `features(generator.sample(100))`."""

    name: str
    hash: str
    """The first 8 hexadecimal digits of the sha256 of the weights."""
    num_features: int
    network: nn.Module
    """Prepared images -> features (N, num_features), or a tuple of features and logits (N, num_logits)."""
    prepare: Callable[[Tensor], Tensor]
    """RGB float (N, 3, H, W) in [-1, 1] -> input of the network."""
    words: str
    """Description of `prepare` for the protocol: size, resizing, range."""
    device: torch.device
    num_logits: int = 0
    official: bool = False
    """Whether the weights are the published ones (by hash), so that results are comparable with the literature."""

    @classmethod
    def load(
        cls,
        name: str = "efficientnet-lite0",
        device: str | None = None,
        *,
        weights: Path | None = None,
        pack: Pack | None = None,
    ) -> Features:
        """Load a network by name (see `NETWORKS`); device as in `choose_device`.

        weights: weights file; default: the published one, cached or downloaded. pack: data with labels for the
        classifier. Raises `MissingExtraError` if a package with weights is not installed, `CheckpointError` if the
        weights are damaged, of another network or cannot be downloaded, `ConfigError` for an unknown name.
        """
        if name not in NETWORKS:
            raise ConfigError(f"there is no feature network {name!r}: expected one of {', '.join(NETWORKS)}")
        module = importlib.import_module(f"ganvas.evaluation.{NETWORKS[name]}")
        features = module.load(name, choose_device(device).torch_device, weights, pack)
        channels_last(features.network.to(features.device))
        return features

    @property
    def protocol(self) -> str:
        """Preprocessing and weights, in one line."""
        return (
            f"{self.name} (weights {self.hash}, {self.num_features} features), {self.words}, gray replicated to RGB, "
            "transparency over white, 16 bit scaled by its range"
        )

    def __call__(self, images: _Pictures) -> np.ndarray:
        """Features (N, num_features) float32, in the order of the images."""
        return self.both(images)[0]

    @torch.inference_mode()
    def both(self, images: _Pictures) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, num_features) and logits (N, num_logits) of the network, float32."""
        batch = _BATCH if self.device.type == "cpu" else _GPU_BATCH
        rows, logits = [], []
        with torch.autocast(self.device.type, enabled=False), _full_precision():
            for pictures in _batches(images, batch):
                # Moved to the device before conversion and resizing, because 8-bit images are smaller.
                output = self.network(self.prepare(as_rgb(pictures.to(self.device))))
                if isinstance(output, tuple):
                    logits.append(output[1].cpu().numpy())
                    output = output[0]
                rows.append(output.cpu().numpy())
        return (
            np.concatenate(rows) if rows else np.empty((0, self.num_features), np.float32),
            np.concatenate(logits) if logits else np.empty((sum(map(len, rows)), self.num_logits), np.float32),
        )


@contextlib.contextmanager
def _full_precision() -> Generator[None]:
    """Disable TF32, which training enables; its precision of three digits is too low for covariances."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def _batches(images: _Pictures, size: int) -> Iterator[Tensor]:
    """Batches (N, C, H, W) of at most `size` images, in their original type."""
    for block in [images] if isinstance(images, Tensor | np.ndarray) else images:
        for start in range(0, len(block), size):
            piece = block[start : start + size]  # reads only this part of a memory-mapped file
            yield piece if isinstance(piece, Tensor) else torch.from_numpy(np.array(piece)).permute(0, 3, 1, 2)


def as_rgb(images: Tensor) -> Tensor:
    """Images (N, 1, 3 or 4, H, W), float in [-1, 1] or uint8 or uint16 -> RGB (N, 3, H, W) float32 in [-1, 1].

    Gray is replicated. The fourth channel is opacity (-1 transparent, 1 opaque); images are put over white.
    """
    if not images.is_floating_point():
        images = images.float() / (torch.iinfo(images.dtype).max / 2) - 1
    images = images.float()
    if images.shape[1] == 4:
        opacity = (images[:, 3:] + 1) / 2
        images = images[:, :3] * opacity + (1 - opacity)
    return images.expand(-1, 3, -1, -1)


def bicubic(size: int) -> Callable[[Tensor], Tensor]:
    """A `prepare` function: resize to size x size (antialiased bicubic, aspect ratio not kept), clamp to [-1, 1]."""
    return functools.partial(_bicubic, size=size)


def _bicubic(images: Tensor, size: int) -> Tensor:
    # `antialias` also selects the cubic coefficient of Pillow (a = -0.5) for enlarging.
    images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp_(-1, 1)
    return images.contiguous(memory_format=torch.channels_last)


def fetch(file: File) -> Path:
    """Path of a published weights file in the cache; it is downloaded if missing."""
    path = cache_dir() / "weights" / file.name
    if not path.exists():
        with files.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.ExitStack() as held:
                lock = FileLock(path.parent / ".lock")  # other processes wait until it is downloaded
                if files.acquire(lock):
                    held.callback(lock.release)
                if not path.exists():
                    download(file, path)
        except (OSError, http.client.HTTPException) as error:
            raise CheckpointError(
                f"{file.name} is not in the cache and could not be downloaded ({error}): "
                f"download {file.url} on a machine with network access and save it as {path}"
            ) from error
    return path
