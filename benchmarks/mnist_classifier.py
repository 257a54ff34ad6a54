"""The independent classifier of the MNIST benchmark: a small network, its features and the Frechet distance in them.

`train_classifier` is a function of images, labels and seed, with its own generator, and does not change the random
state of the caller. No recipe was tuned on it (that was done with another network).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ganvas.models import channels_last

EPOCHS = 4
BATCH = 100
PEAK_RATE = 5e-3
SHIFT = 2
"""Each batch is moved by up to this many pixels each way, the only augmentation."""

FEATURES = 128


class Classifier(nn.Module):
    """Two convolutions at 14x14, two at 7x7, one hidden layer of `FEATURES`: 28x28 images in -1..1."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 49, FEATURES, bias=False),
            nn.BatchNorm1d(FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The features and the logits of images N x 1 x 28 x 28 in -1..1."""
        hidden = self.trunk(images)
        return hidden, self.head(hidden)


def scale(images: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Images of uint8, N x H x W with or without a channel axis first or last, as float N x 1 x H x W in -1..1."""
    pictures = torch.tensor(np.asarray(images))
    if pictures.ndim == 4:
        pictures = pictures[:, 0] if pictures.shape[1] == 1 else pictures[..., 0]
    return pictures[:, None].float() / 127.5 - 1


def train_classifier(
    images_uint8: torch.Tensor | np.ndarray, labels: torch.Tensor | np.ndarray, seed: int
) -> nn.Module:
    """Trains the classifier: the same images, labels, seed and number of threads give the same network."""
    pixels = F.pad(scale(images_uint8), (SHIFT,) * 4, value=-1.0)
    target = torch.as_tensor(np.asarray(labels)).long()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = channels_last(Classifier(int(target.max()) + 1))
    model.train()
    batches = len(target) // BATCH
    optimizer = torch.optim.Adam(model.parameters(), PEAK_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * batches, pct_start=0.2)
    for _ in range(EPOCHS):
        order = torch.randperm(len(target), generator=generator)
        for picks in order[: batches * BATCH].split(BATCH):
            top, left = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
            moved = pixels[picks][:, :, top : top + 28, left : left + 28]
            loss = F.cross_entropy(model(moved)[1], target[picks], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def features(model: nn.Module, images: torch.Tensor | np.ndarray, batch: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """The features and the logits of uint8 images, as float arrays with one row an image."""
    parts = [model(scale(images[at : at + batch])) for at in range(0, len(images), batch)]
    return torch.cat([part[0] for part in parts]).numpy(), torch.cat([part[1] for part in parts]).numpy()


def asked_share(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that are given the class they were asked for."""
    return float((logits.argmax(1) == np.asarray(labels)).mean())


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance between the normal distributions fitted to two sets of features, one row an image."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    # trace of (cov_a cov_b)^(1/2) through the symmetric root, so that rounding cannot make it complex
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
