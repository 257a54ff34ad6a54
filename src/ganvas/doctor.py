"""Report of `ganvas doctor`: versions, device, optional packages and how to install them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import torch

from ganvas.errors import GanvasError
from ganvas.fields import takes
from ganvas.options import Doctor
from ganvas.system.device import choose_device
from ganvas.system.files import cache_dir

CORE = ("torch", "numpy", "pillow", "scipy", "safetensors", "tyro", "rich")
_OPTIONAL = {
    "av": ("video", "MP4 videos"),
    "tensorboard": ("track", "TensorBoard events"),
    "wandb": ("wandb", "tracking with Weights & Biases"),
    "mlflow": ("mlflow", "tracking with MLflow"),
    "codecarbon": ("energy", "the energy of a training"),
    "pydicom": ("medical", "DICOM files"),
    "onnxruntime": ("judge", "faster Inception features"),
    "onnxscript": ("export", "ONNX models and web pages"),
    "fastapi": ("studio", "the studio"),
    "c2pa": ("c2pa", "C2PA signatures"),
    "huggingface_hub": ("hub", "models on the Hugging Face Hub"),
}


@takes(Doctor)
def report_lines(asked: Doctor) -> list[str]:
    """The report as lines."""
    device = choose_device()
    report = [
        f"ganvas {importlib.metadata.version('ganvas')}, Python {platform.python_version()}, {platform.platform()}"
    ]
    report += [f"  {name} {importlib.metadata.version(name)}" for name in CORE]
    report.append(f"device: {device.torch_device} ({device.name}), because {device.reason}")
    report.append("precision: " + ("bf16, faster on this device" if device.bf16 else "fp32"))
    report.append(f"processors: {os.cpu_count()}, threads: {torch.get_num_threads()}")
    try:
        report.append(f"packs and downloads: {cache_dir()}")
    except GanvasError as error:
        report.append(f"packs and downloads: {error}")
    names = importlib.metadata.packages_distributions()  # mlflow may come from mlflow-skinny
    for package, (extra, purpose) in _OPTIONAL.items():
        there = importlib.util.find_spec(package) is not None
        report.append(
            f"{purpose}: {package} {importlib.metadata.version(names.get(package, [package])[0])}"
            if there
            else f"{purpose}: missing; pip install 'ganvas[{extra}]'"
        )
    if platform.system() == "Linux" and torch.version.cuda is None and Path("/proc/driver/nvidia/version").exists():
        report.append(
            "an NVIDIA GPU was found, but this PyTorch is a CPU build; pip install --force-reinstall torch from the "
            "CUDA index named on pytorch.org"
        )
    return report
