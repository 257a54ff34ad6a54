"""EfficientNet-lite0 as a feature network for evaluation; its weights are part of a Python package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ganvas.data.packing.pack import Pack
from ganvas.evaluation import onnx_form
from ganvas.evaluation.features import Features, bicubic
from ganvas.features.efficientnet import HEAD, WEIGHTS_SHA256, fold, load_efficientnet_lite0

SIZE = 224


def load(name: str, device: torch.device, weights: Path | None, pack: Pack | None) -> Features:
    """The folded network as `Features`, run by onnxruntime if installed."""
    network: nn.Module = fold(load_efficientnet_lite0())
    if device.type == "cpu" and onnx_form.available():
        network = onnx_form.of(network, (3, SIZE, SIZE))
    words = f"input {SIZE}x{SIZE} by antialiased bicubic, aspect not kept, [-1, 1]"
    return Features(name, WEIGHTS_SHA256[:8], HEAD, network, bicubic(SIZE), words, device, official=True)
