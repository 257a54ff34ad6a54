"""The settings of the classic projects that Ganvas replaces (docs/presets.md). Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class _Preset:
    """A classic project: its options and the images that it needs (None: any)."""

    title: str
    options: dict[str, Any]
    size: str | None = None
    channels: Literal["gray", "color"] | None = None


_CLASSIC: dict[str, Any] = {
    "loss": "bce",
    "r1": 0.0,
    "r2": 0.0,
    "gradient_penalty": 0.0,
    "augment": 0.0,
    "adaptive": False,
    "conditional": False,
    "optimizer": "adam",
    "beta1": 0.9,
    "beta2": 0.999,
    "lr_end": 1.0,
    "warmup": 0.0,
    "ema": 0.0,
    "update": "alternating",
}
"""Common to the reference projects: BCE on logits, constant learning rates, no average of the weights."""

PRESETS: dict[str, _Preset] = {
    "mlp64": _Preset(
        "the multilayer perceptron of the Simpsons and MedNIST projects, 64x64 colour",
        _CLASSIC | {"model": "mlp", "z_dim": 120, "lr": 1.5e-4, "batch": 32},
        "64",
        "color",
    ),
    "xray800": _Preset(
        "the transposed convolutions of the chest X-ray project, 800x800 gray",
        _CLASSIC | {"model": "xray", "z_dim": 100, "lr": 1e-4, "batch": 8, "update": "joint"},
        "800",
        "gray",
    ),
    "tf-mnist": _Preset(
        "the DCGAN of the TensorFlow tutorial, 28x28 gray; the MNIST project ran it with --lr 1e-5",
        _CLASSIC | {"model": "tf-mnist", "z_dim": 100, "lr": 1e-4, "batch": 256, "update": "joint"},
        "28",
        "gray",
    ),
    "mnist-upsample": _Preset(
        "upsampling generator and dense discriminator, 28x28 gray",
        _CLASSIC | {"model": "mnist-upsample", "z_dim": 100, "lr": 2e-4, "beta1": 0.5, "batch": 128},
        "28",
        "gray",
    ),
    "celeba": _Preset(
        "transposed convolutions without normalisation, noisy labels, 64x64 colour",
        _CLASSIC | {"model": "celeba", "z_dim": 128, "lr": 1e-4, "batch": 32, "label_noise": 0.05},
        "64",
        "color",
    ),
    "cifar10": _Preset(
        "transposed convolutions without normalisation, 32x32 colour",
        _CLASSIC | {"model": "cifar10", "z_dim": 100, "lr": 2e-4, "beta1": 0.5, "batch": 128},
        "32",
        "color",
    ),
    "dcgan": _Preset(
        "DCGAN (Radford et al. 2015) as in the comic-faces project, any size",
        _CLASSIC | {"model": "dcgan", "z_dim": 100, "base": 64, "lr": 2e-4, "beta1": 0.5, "batch": 128},
    ),
    "dcgan128": _Preset(
        "DCGAN with one more stage, 128x128",
        _CLASSIC | {"model": "dcgan", "z_dim": 100, "base": 64, "lr": 2e-4, "beta1": 0.5, "batch": 128},
        "128",
    ),
}
