"""Export a trained generator as ONNX, torch.export program, web page or model folder.

    onnx      generator.onnx and generator.json (inputs, outputs, size, difference from PyTorch)
    torch     generator.pt2, which `torch.export.load` reads without Ganvas, and generator.json
    web       index.html, model.onnx, model.json, runtime/: a demo for any static host (see share/export_web)
    folder    generator.safetensors, config.json, README.md: the files that `Generator.load` reads

Inputs of the graph (ONNX and torch.export): z (N, z_dim); label (N, num_classes), class weights (one-hot for a single
class), only for models with classes, or conditions (N, num_conditions), only for models of conditions ("conditions" in
the metadata has the meaning of each number); truncation (), from 0 (mean) to 1 (full diversity). Outputs: pictures
(N, C, H, W) in [-1, 1] and code (N, z_dim), the latent or style of the images (`code` in a recipe).

Weights can be stored as float16 or int8. All computation is in float32, so every runtime (also in browsers) can use
the file. The report gives the difference caused by the rounding of the weights.
"""

from __future__ import annotations

import contextlib
import copy
import html
import importlib.util
import io
import json
import logging
import math
import os
import re
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas import latent_codes
from ganvas.errors import ConfigError, GanvasError, MissingExtraError
from ganvas.generator import Generator
from ganvas.model_file import find_weights
from ganvas.provenance import SENTENCE
from ganvas.share import export_web
from ganvas.system import files
from ganvas.training import card

Form = Literal["onnx", "web", "torch", "folder"]
UNFINISHED = "unfinished-export"
Weights = Literal["float32", "float16", "int8"]

_SAME = 1e-4  # largest difference of equal images, in the range from -1 to 1
_FEWEST = 256  # fewest numbers of a tensor that is stored as float16 or int8
_CHECKED = ((1, 1.0), (3, 0.6), (4, 0.0), (8, 1.0), (8, 0.9))  # (images, truncation) of the compared batches
_LICENCE = re.compile(r"^\|\s*licence(?: of the data)?\s*\|\s*(.*?)\s*\|\s*$", re.MULTILINE)  # row of a card


def export(
    source: str | Path,
    out: str | Path,
    *,
    to: Form = "onnx",
    weights: Weights = "float32",
    runtime: Path | None = None,
    device: str | None = "cpu",
) -> list[Path]:
    """Export the generator of `source` (a run, a model folder or a weights file) to `out`; return the written files.

    out: a new or empty folder; for onnx and torch also a file name that ends in .onnx or .pt2.
    runtime: for web, the npm package onnxruntime-web (.tgz or unpacked). Default: npm downloads it once.
    device: device of the torch.export program; other formats run on any device.
    Raises ConfigError for an unknown format or an existing target, MissingExtraError without onnx, GanvasError if the
    images differ from the original. After an error no files are left.
    """
    if to not in get_args(Form):
        raise ConfigError(f"--to {to}: expected one of {', '.join(get_args(Form))}")
    if weights not in get_args(Weights):
        raise ConfigError(f"--weights {weights}: expected one of {', '.join(get_args(Weights))}")
    if weights != "float32" and to in ("torch", "folder"):
        raise ConfigError(f"--weights {weights} --to {to}: only --to onnx and --to web support it")
    if runtime is not None and to != "web":
        raise ConfigError(f"--runtime {runtime} --to {to}: only --to web uses a runtime")
    if to in ("onnx", "web"):
        _need_packages()
    ending = {"onnx": ".onnx", "torch": ".pt2"}.get(to)
    folder, stem = Path(out), "generator"
    if ending and folder.suffix == ending:
        folder, stem = folder.parent, folder.stem
    check_place(Path(out), mark_of(Path(out), ending), free_name=folder != Path(out))
    generator = Generator.load(source, device)
    text, licence = _card_and_licence(Path(source), generator)

    if to == "folder":
        contents = _model_folder(generator, text)
    elif to == "torch":
        content, report = torch_program(generator, licence)
        contents = {f"{stem}.pt2": content, f"{stem}.json": files.json_bytes(report)}
    else:
        runtime_parts = export_web.runtime_files(runtime) if to == "web" else {}  # first, because it may be missing
        content, report = onnx_model(generator, weights, licence)
        if to == "onnx":
            contents = {f"{stem}.onnx": content, f"{stem}.json": files.json_bytes(report)}
        else:
            contents = export_web.page_files(generator, _name_of(Path(source)), report, content, runtime_parts)
            contents["model.json"] = files.json_bytes(report)
    return write_all({folder / name: content for name, content in contents.items()}, mark_of(Path(out), ending))


# -- the graph --


class Deployed(nn.Module):
    """Generator with truncation: z, label, truncation -> images, code (see the module docstring)."""

    means: Tensor

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.has_conditions = generator.info.conditions is not None
        # Contiguous copy, because PyTorch warns about other memory formats in a .pt2 file.
        self.network = copy.deepcopy(generator.network)
        for parameter in self.network.parameters():
            parameter.data = parameter.data.contiguous()
        if latent_codes.has_styles(self.network):
            num = generator.info.config.num_classes
            if not self.has_conditions:
                eye = torch.eye(num, device=generator.device) if num else None
                self.register_buffer("means", self.network.mean_w(eye))

    def forward(self, z: Tensor, label: Tensor | None, truncation: Tensor) -> tuple[Tensor, Tensor]:
        if not latent_codes.has_styles(self.network):
            code = z * truncation
            return self.network(code, label), code
        if self.has_conditions:
            mean = self.network.mean_w(label)
        else:
            mean = self.means if label is None else label @ self.means
        code = mean + truncation * (self.network.mapping(z, label) - mean)
        return self.network.synthesise(code), code


def exported_program(generator: Generator) -> torch.export.ExportedProgram:
    """The graph for any batch size."""
    z, labels = inputs(generator, range(2))
    arguments = (z, labels, torch.ones((), device=generator.device))
    shapes = ({0: torch.export.Dim.DYNAMIC}, None if labels is None else {0: torch.export.Dim.DYNAMIC}, None)
    with torch.no_grad():
        return torch.export.export(Deployed(generator).eval(), arguments, dynamic_shapes=shapes)


def inputs(generator: Generator, seeds: range) -> tuple[Tensor, Tensor | None]:
    """Latents of the seeds, and class weights or conditions: one per seed, mixed with the next one for every third."""
    z = generator.latents(seeds).to(generator.device)
    in_turn = generator.info.labels_in_turn
    if in_turn is None:
        return z, None
    rows = in_turn if in_turn.is_floating_point() else F.one_hot(in_turn).float()
    own = torch.tensor([seed % len(rows) for seed in seeds])
    share = torch.tensor([0.5 if seed % 3 == 2 else 0.0 for seed in seeds])
    return z, torch.lerp(rows[own], rows[(own + 1) % len(rows)], share[:, None]).to(generator.device)


def torch_program(generator: Generator, licence: str) -> tuple[bytes, dict[str, Any]]:
    """(content of a .pt2 file, report); the file is loaded again and compared with the original."""
    report = _description(generator, "float32", licence)
    buffer = io.BytesIO()
    torch.export.save(exported_program(generator), buffer, extra_files={"ganvas.json": json.dumps(report)})
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()

    def run(z: Tensor, label: Tensor | None, truncation: float) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            images, code = loaded(z, label, torch.tensor(truncation, device=generator.device))
        return images.cpu().numpy(), code.cpu().numpy()

    content = buffer.getvalue()
    return content, report | {"bytes": len(content), "difference": _difference(generator, run, exact=True)}


def onnx_model(generator: Generator, weights: Weights, licence: str) -> tuple[bytes, dict[str, Any]]:
    """(content of an .onnx file, report); the file is run in onnxruntime and compared with the original."""
    import onnx
    import onnxruntime

    config = generator.info.config
    second = "conditions" if config.num_conditions else "label"
    names = ["z", *([second] if config.label_size else []), "truncation"]
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(
        logging.ERROR
    )  # torchvision is not needed
    with warnings.catch_warnings():  # PyTorch itself uses a deprecated name
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        program = torch.onnx.export(
            exported_program(generator),
            dynamo=True,
            input_names=names,
            output_names=["pictures", "code"],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_batch(model.graph)
    _store_small(onnx, model, weights)
    report = _description(generator, weights, licence)
    onnx.helper.set_model_props(model, {key: _plain_text(value) for key, value in report.items()})
    model.producer_name, model.producer_version = "ganvas", report["versions"]["ganvas"]
    model.doc_string = SENTENCE
    onnx.checker.check_model(model)
    content = model.SerializeToString()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(z: Tensor, label: Tensor | None, truncation: float) -> tuple[np.ndarray, np.ndarray]:
        given = {"z": z.cpu().numpy(), "truncation": np.array(truncation, np.float32)}
        if label is not None:
            given[second] = label.cpu().numpy()
        images, code = (np.asarray(values) for values in session.run(["pictures", "code"], given))
        return images, code

    report |= {"bytes": len(content), "difference": _difference(generator, run, exact=weights == "float32")}
    return content, report


def _name_batch(graph: Any) -> None:
    """Rename the dynamic batch dimension to N."""
    chosen = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == chosen:
                dimension.dim_param = "N"


def _difference(generator: Generator, run: Any, exact: bool) -> dict[str, float | int | None]:
    """Difference between the images of an exported model and of PyTorch, over several batches, labels, truncations.

    run: (z, label, truncation) -> (images, code). exact: raise GanvasError if the difference exceeds `_SAME`.
    Returns the number of images, max and mean of the absolute difference in [-1, 1], psnr in dB (None if equal).
    """
    largest = total = squares = 0.0
    count = first = 0
    for num, truncation in _CHECKED:
        z, labels = inputs(generator, range(first, first + num))
        code = generator.code(z, labels, truncation)
        expected = generator.show(code).numpy()
        images, codes = run(z, labels, truncation)
        if images.shape != expected.shape or not np.isfinite(images).all():
            raise GanvasError("the exported model returns images of a wrong shape: please report this model")
        gap = np.abs(images.astype(np.float64) - expected)
        largest = max(largest, float(gap.max()))
        if exact:
            largest = max(largest, float(np.abs(codes - code.latents[:, 0].cpu().numpy()).max()))
        total, squares, count, first = total + gap.sum(), squares + np.square(gap).sum(), count + gap.size, first + num
    if exact and largest > _SAME:
        raise GanvasError(
            f"the exported model differs from the original by {largest:.2g}, expected at most {_SAME:g}: "
            "please report this model"
        )
    psnr = 10 * math.log10(4 * count / float(squares)) if squares else None  # range of 2, from -1 to 1
    return {"pictures": first, "max": largest, "mean": float(total) / count, "psnr": psnr}


# -- compressed weights --


def _store_small(onnx: Any, model: Any, weights: Weights) -> None:
    """Store large float32 tensors of the graph as float16 or int8; nodes at its beginning convert them to float32.

    Runtimes convert once, when they load the model (constant folding). int8: value = integer * scale, with one scale
    per slice along the first or second axis, whichever loses less. Tensors beyond the range of float16 stay float32.
    """
    if weights == "float32":
        return
    graph, helper = model.graph, onnx.helper
    restoring = []
    for tensor in list(graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < _FEWEST:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        small = f"{tensor.name}.{weights}"
        if weights == "float16":
            if np.abs(values).max() > np.finfo(np.float16).max:
                continue
            parts = [(small, values.astype(np.float16))]
            restoring.append(helper.make_node("Cast", [small], [tensor.name], to=onnx.TensorProto.FLOAT))
        else:
            integers, scales = quantised(values)
            parts = [(small, integers), (f"{tensor.name}.scale", scales)]
            wide = f"{tensor.name}.wide"
            restoring.append(helper.make_node("Cast", [small], [wide], to=onnx.TensorProto.FLOAT))
            restoring.append(helper.make_node("Mul", [wide, parts[1][0]], [tensor.name]))
        graph.initializer.remove(tensor)
        graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in parts)
    nodes = [*restoring, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 values -> (int8 integers from -127 to 127, float32 scales that broadcast to them); symmetric."""
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for axis in range(min(values.ndim, 2)) if values.ndim > 1 else (None,):
        others = tuple(i for i in range(values.ndim) if i != axis)
        largest = np.abs(values).max(axis=others, keepdims=True)
        scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        integers = np.rint(values / scales).clip(-127, 127).astype(np.int8)
        loss = float(np.square(values - integers * scales).sum())
        if best is None or loss < best[0]:
            best = loss, integers, scales
    assert best is not None
    return best[1], best[2]


# -- metadata --


def _description(generator: Generator, weights: Weights, licence: str) -> dict[str, Any]:
    """Description of the model for the metadata of the file and the report."""
    info, config = generator.info, generator.info.config
    takes = {"z": ["N", config.z_dim]}
    if config.num_classes:
        takes["label"] = ["N", config.num_classes]
    if config.num_conditions:
        takes["conditions"] = ["N", config.num_conditions]
    known = {} if info.conditions is None else {"conditions": info.conditions.layout()}
    return known | {
        "synthetic": SENTENCE,
        "model": generator.hash,
        "licence": licence,
        "architecture": config.model,
        "classes": generator.classes,
        "depth": info.depth,
        "weights": weights,
        "inputs": takes | {"truncation": []},
        "outputs": {"pictures": ["N", config.channels, config.height, config.width], "code": ["N", config.z_dim]},
        "range": [-1, 1],
        "parameters": sum(parameter.numel() for parameter in generator.network.parameters()),
        "versions": {package: version(package) for package in ("ganvas", "torch", *_known_packages())},
    }


def _known_packages() -> list[str]:
    return [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name)]


def _need_packages() -> None:
    missing = {"onnx", "onnxscript", "onnxruntime"} - set(_known_packages())
    if missing:
        raise MissingExtraError(min(missing), "export", "exporting to ONNX")


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _name_of(source: Path) -> str:
    """Name of the run or of the model folder."""
    folder = find_weights(source).resolve().parent
    return (folder.parent if folder.name in ("model", "best") else folder).name


def _card_and_licence(source: Path, generator: Generator) -> tuple[str, str]:
    """The model card and the licence of the data, from the run, or from the card of a model without its run."""
    facts = card.facts_of(source, generator)
    path = find_weights(source).with_name("README.md")
    if facts.run or not path.is_file():
        return card.card(facts), facts.licence or "not stated"
    with files.explained(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    return text, licence_of_card(text)


def licence_of_card(text: str) -> str:
    """The licence of the data in a card, without Markdown and HTML escapes."""
    row = _LICENCE.search(text)
    return html.unescape(re.sub(r"\\(.)", r"\1", row[1])) if row else "not stated"


def _model_folder(generator: Generator, text: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        generator.save(folder, text)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# -- files --


def mark_of(out: Path, ending: str | None) -> Path:
    """A marker file that exists while an export is written; an interrupted export leaves it and can be repeated."""
    name = f".{out.name}.{UNFINISHED}"
    return out.with_name(name) if ending and out.suffix == ending else out / f".{UNFINISHED}"


def check_place(out: Path, mark: Path, free_name: bool) -> None:
    """Raise ConfigError if `out` is a file or a folder that is not empty, or cannot be created."""
    with files.explained(out):
        files.sweep(out)  # of a call that was killed while it wrote the marker
        taken = out.exists() if free_name or not out.is_dir() else any(out.iterdir())
        taken = taken and not mark.is_file()
        above = out.absolute().parents
        nearest = next(folder for folder in (above if free_name else (out, *above)) if folder.exists())
    if taken:
        wanted = "another name" if free_name else "a new or an empty folder"
        raise ConfigError(f"{out} already {'contains files' if out.is_dir() else 'exists'}: choose {wanted}")
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        why = "is not writable" if nearest.is_dir() else "is a file"
        raise ConfigError(f"{out} cannot be written because {nearest} {why}: choose another path")


def write_all(contents: dict[Path, bytes], mark: Path) -> list[Path]:
    """Write all files or none; if the process is killed, the marker file stays."""
    written: list[Path] = []
    made: list[Path] = []
    try:
        for path, content in {mark: b"", **contents}.items():
            with files.explained(path.parent):
                for folder in reversed([path.parent, *path.parent.parents]):
                    if not folder.exists():
                        folder.mkdir()
                        made.append(folder)
            write_bytes(path, content)
            written.append(path)
        mark.unlink()
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    return written[1:]


def write_bytes(path: Path, content: bytes) -> None:
    files.write_atomically(path, lambda file: file.write(content))
