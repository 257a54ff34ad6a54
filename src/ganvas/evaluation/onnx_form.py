"""Run a convolutional network in onnxruntime, which is faster than PyTorch on CPUs; equal except for rounding."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_OPSET = 17


def available() -> bool:
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def of(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Convert `network` (images of `shape` (C, H, W) on the CPU -> a tensor or a tuple) to onnxruntime.

    Supports the operations known to `_Writer`, in eval mode, with folded batch norms. Uses the number of threads of
    PyTorch; equal numbers of threads give identical results. Requires the packages (see `available`).
    """
    import onnx
    import onnxruntime

    model = _Writer(onnx).model(fx.symbolic_trace(network), shape)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    return OnnxForm(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]))


class OnnxForm(nn.Module):
    """Same interface as the original network; float32 on the CPU."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = [torch.from_numpy(values) for values in self.session.run(None, {"pictures": x.contiguous().numpy()})]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class _Writer:
    """Convert the traced operations of a network to ONNX nodes."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def model(self, traced: fx.GraphModule, shape: tuple[int, int, int]) -> bytes:
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        modules = dict(traced.named_modules())
        outputs: list[str] = []
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                self.add("Identity", ["pictures"], node.name)
            elif node.op == "call_module":
                self.layer(modules[node.target], node)
            elif node.op == "output":
                outputs = [part.name for part in node.all_input_nodes]
            else:
                self.call(node)
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("pictures", kind, ["N", *shape])],
            [helper.make_tensor_value_info(name, kind, ["N", None]) for name in outputs],
            self.weights,
        )
        opset = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()

    def add(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(self.onnx.helper.make_node(operation, inputs, [output], **attributes))

    def constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def layer(self, layer: nn.Module, node: fx.Node) -> None:
        inputs = [node.all_input_nodes[0].name] + [
            self.constant(f"{node.name}.{name}", values.numpy()) for name, values in layer.state_dict().items()
        ]
        if isinstance(layer, nn.Conv2d):
            rows, columns = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * 2
            pads = [rows, columns, rows, columns]
            self.add("Conv", inputs, node.name, strides=layer.stride, pads=pads, group=layer.groups)
        elif isinstance(layer, nn.Linear):
            self.add("Gemm", inputs, node.name, transB=1)
        elif isinstance(layer, nn.Identity):
            self.add("Identity", inputs, node.name)
        else:
            raise NotImplementedError(f"{type(layer).__name__} has no ONNX form here")

    def call(self, node: fx.Node) -> None:
        arguments: list[Any] = list(node.args)
        options: dict[str, Any] = dict(node.kwargs)
        match node.target:
            case F.relu:
                self.add("Relu", [arguments[0].name], node.name)
            case F.max_pool2d:
                self.pool("MaxPool", node)
            case F.avg_pool2d:
                self.pool("AveragePool", node, count_include_pad=int(options["count_include_pad"]))
            case torch.cat:
                self.add("Concat", [part.name for part in arguments[0]], node.name, axis=options["dim"])
            case "mean":
                self.add("ReduceMean", [arguments[0].name], node.name, axes=list(options["dim"]), keepdims=0)
            case F.hardtanh:
                limits = [
                    self.constant(f"{node.name}.{i}", np.array(limit, np.float32))
                    for i, limit in enumerate((options["min_val"], options["max_val"]))
                ]
                self.add("Clip", [arguments[0].name, *limits], node.name)
            case "add_":
                self.add("Add", [part.name for part in arguments], node.name)
            case _:
                raise NotImplementedError(f"{node.target} has no ONNX form here")

    def pool(self, operation: str, node: fx.Node, **attributes: int) -> None:
        names = ("input", "kernel_size", "stride", "padding")
        given: dict[str, Any] = {"padding": 0, **dict(zip(names, node.args, strict=False)), **node.kwargs}
        size, stride, padding = given["kernel_size"], given["stride"], given["padding"]
        shape = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        self.add(operation, [given["input"].name], node.name, **shape, **attributes)
