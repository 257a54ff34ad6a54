"""What each exported form of a generator weighs, how far its images are from PyTorch's, and how fast it is here.

    python benchmarks/export.py runs/faces --json export.json
    python benchmarks/export.py                     untrained networks of the usual sizes: right in size and speed

size: of the file; PyTorch's is generator.safetensors. max, mean: absolute difference of the images in [-1, 1].
PSNR in dB. Speed: images a second, one at a time and 16 at a time, on as many threads for both runtimes; the forms
take turns, medians of the repeats. Differences of untrained networks say little: a trained one's are what counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from common import machine, table, write_json
from ganvas.config import ModelConfig
from ganvas.generator import Generator
from ganvas.model_file import WEIGHTS, ModelInfo
from ganvas.models import build
from ganvas.share.export import Weights, exported_program, inputs, onnx_model, torch_program

SIZES = {
    "compact 32": ModelConfig("compact", 32, 32, 3, 10, z_dim=64, base=32),
    "residual S 64": ModelConfig("residual", 64, 64, 3, 0, z_dim=64, base=32, widest=256),
    "style 64": ModelConfig("style", 64, 64, 3, 0, z_dim=256, base=16),
}
Draw = Callable[[torch.Tensor, torch.Tensor | None], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="runs or model folders; none: untrained networks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    models = {source.name: Generator.load(source, "cpu") for source in arguments.sources}
    if not models:
        models = {name: untrained(config) for name, config in SIZES.items()}
    rows = [row for name, generator in models.items() for row in measure(name, generator, arguments.repeats)]
    table(f"Exported forms on {arguments.threads} thread(s)", rows)
    if arguments.json:
        about = machine("torch", "onnx", "onnxruntime") | {"threads": arguments.threads}
        write_json(arguments.json, {"machine": about, "forms": rows})


def untrained(config: ModelConfig) -> Generator:
    network, _ = build(config)
    with torch.no_grad():  # zeros of the start hide what they are multiplied with
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return Generator(network, ModelInfo(config, [str(i) for i in range(config.num_classes)]), "cpu")


def measure(name: str, generator: Generator, repeats: int) -> list[dict[str, Any]]:
    """One row for each form."""
    with tempfile.TemporaryDirectory() as folder:
        size = (generator.save(folder) / WEIGHTS).stat().st_size
    forms: dict[str, tuple[int, dict[str, Any] | None, Draw]] = {
        "PyTorch": (size, None, lambda z, label: generator.render(z, label)),
    }
    content, report = torch_program(generator, "")
    module = exported_program(generator).module()
    forms["torch.export"] = (len(content), report["difference"], lambda z, label: module(z, label, torch.ones(())))
    for weights in get_args(Weights):
        content, report = onnx_model(generator, weights, "")
        forms[f"ONNX {weights}"] = (len(content), report["difference"], in_onnxruntime(content))
    times: dict[tuple[str, int], list[float]] = {(form, num): [] for form in forms for num in (1, 16)}
    for repeat in range(repeats + 1):
        for form, num in times:
            z, label = inputs(generator, range(num))
            with torch.inference_mode():
                start = time.perf_counter()
                forms[form][2](z, label)
                if repeat:  # the first warms up
                    times[form, num].append(time.perf_counter() - start)
    return [
        {
            "model": name,
            "form": form,
            "kB": size / 1000,
            "max": gap["max"] if gap else 0.0,
            "mean": gap["mean"] if gap else 0.0,
            "PSNR": f"{gap['psnr']:.1f}" if gap and gap["psnr"] else "",
            **{f"a second, {num}": num / statistics.median(times[form, num]) for num in (1, 16)},
        }
        for form, (size, gap, _) in forms.items()
    ]


def in_onnxruntime(content: bytes) -> Draw:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def draw(z: torch.Tensor, label: torch.Tensor | None) -> np.ndarray:
        given = {"z": z.numpy(), "truncation": np.ones((), np.float32)}
        return np.asarray(session.run(["pictures"], given | ({} if label is None else {"label": label.numpy()}))[0])

    return draw


if __name__ == "__main__":
    main()
