"""The files of a model folder: generator.safetensors (weights, with the configuration as metadata; this file is
sufficient) and config.json (the configuration as text). Files are never unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganvas.conditions import Conditions
from ganvas.config import Kind, ModelConfig
from ganvas.errors import CheckpointError, ConfigError
from ganvas.fields import from_dict
from ganvas.models import build_generator
from ganvas.models.contract import Generator
from ganvas.models.layers import without_memory
from ganvas.system import files

MODEL_FORMAT = 1
WEIGHTS = "generator.safetensors"
CARD = "README.md"
CONFIG = "config.json"  # the information in the weights file again, for people and for the Hub
MOST_WEIGHT_BYTES = 2**34  # most bytes of a weights file; hundreds of times those of the largest network


@dataclass(frozen=True)
class ModelInfo:
    """Metadata of a model."""

    config: ModelConfig
    classes: list[str] = field(default_factory=list)
    depth: Literal[8, 16] = 8
    """Bits per channel of the data."""
    kind: Kind = "photo"
    images_seen: int = 0
    data_hash: str = ""
    format: int = MODEL_FORMAT
    conditions: Conditions | None = None
    """Columns and combinations of the conditions; None for a model without."""

    def __post_init__(self) -> None:
        if self.config.num_classes not in (0, len(self.classes)):
            raise ConfigError(f"classes: expected the names of {self.config.num_classes:,} classes")
        if self.config.num_conditions != (self.conditions.width if self.conditions is not None else 0):
            raise ConfigError(f"conditions: expected columns with {self.config.num_conditions:,} values")
        if self.conditions is not None and not self.conditions.combinations:
            raise ConfigError("conditions: expected combinations")
        if self.images_seen < 0:
            raise ConfigError(f"images_seen {self.images_seen}: expected 0 or more")

    @property
    def labels_in_turn(self) -> Tensor | None:
        """See `labels_in_turn`."""
        return labels_in_turn(self.config, self.conditions)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; without conditions as in versions that did not have any."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["config"] = dataclasses.asdict(self.config)
        if self.conditions is None:
            del values["conditions"], values["config"]["num_conditions"]
        else:
            values["conditions"] = self.conditions.to_dict()
        return values

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: Path) -> ModelInfo:
        """Read the output of `to_json`. Raises CheckpointError for anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            json.dumps(values, ensure_ascii=False).encode()  # ValueError for lone surrogates, which no file can hold
            if values["format"] != MODEL_FORMAT:
                raise CheckpointError(
                    f"{where} has format {values['format']!r:.20}; this version of Ganvas reads {MODEL_FORMAT}"
                )
            return from_dict(cls, values, str(where))
        except ConfigError as error:
            raise CheckpointError(f"{where} describes a model unknown to this version of Ganvas ({error})") from error
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{where} has no readable Ganvas configuration: train or download the model again"
            ) from error


def labels_in_turn(config: ModelConfig, conditions: Conditions | None) -> Tensor | None:
    """What images take in turn if no label is given: class indices (K,), vectors of conditions (K, num_conditions), or
    None."""
    if config.num_classes:
        return torch.arange(config.num_classes)
    if config.num_conditions:
        assert conditions is not None
        return torch.from_numpy(conditions.table)
    return None


def read_model(path: Path) -> tuple[Generator, ModelInfo]:
    """The generator network, on the CPU, and the metadata of a run folder, a model folder or a weights file.

    Raises CheckpointError if there is no model, or the file is damaged or not a safetensors file.
    """
    file = find_weights(path)
    if str(file) != str(file).encode(errors="replace").decode():  # safetensors cannot open it
        raise CheckpointError(f"{file} has a name that is not valid UTF-8: rename it, or copy the file elsewhere")
    if (size := file.stat().st_size) > MOST_WEIGHT_BYTES:
        raise CheckpointError(f"{file} has {size:,} bytes, but weights have at most {MOST_WEIGHT_BYTES:,}")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            text = metadata.get("ganvas", "{}")
            info = ModelInfo.from_json(text, file)
            network = _outline(info.config, file)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(_not_safetensors(file)) from error
    if how := _difference(network, tensors):
        raise CheckpointError(f"{file} does not contain the weights of a {info.config.model!r} generator ({how})")
    digest = tensor_hash(tensors)
    if metadata.get("sha256") not in (checksum(digest, text), digest):  # older files omit the configuration
        raise CheckpointError(f"{file} is damaged (wrong checksum): copy it again, or create it again from the run")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise CheckpointError(f"{file} contains weights that are not finite: train or download the model again")
    # Copy the tensors, because safetensors maps the file into memory and other processes may change the file.
    network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return network, info


def write_model(folder: Path, network: nn.Module, info: ModelInfo) -> None:
    """Write the two files into an existing folder, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    text = info.to_json()
    metadata = {"ganvas": text, "sha256": checksum(tensor_hash(tensors), text)}
    content = in_order(safetensors.torch.save(tensors, metadata))
    files.write_atomically(folder / WEIGHTS, lambda file: file.write(content))
    files.write_json(folder / CONFIG, info.to_dict())


def find_weights(path: Path) -> Path:
    """Path of generator.safetensors, from a run folder, a model folder or the file itself."""
    for candidate in (path / "model" / WEIGHTS, path / WEIGHTS, path):
        if candidate.is_file():
            return candidate
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: expected a run folder, a model folder or a {WEIGHTS} file")
    raise CheckpointError(f"{path} contains no {WEIGHTS}: expected a run folder with a model, or a model folder")


class _NumbersAreReal(TorchFunctionMode):
    """Allocate tensors with given values (the fixed noise of some networks) on the CPU instead of the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        on = {"device": "cpu"} if func is torch.tensor else {}
        return func(*args, **on | (kwargs or {}))


def _outline(config: ModelConfig, where: Path) -> Generator:
    """Build the generator of a configuration on the meta device, without memory for its weights.

    Raises CheckpointError, with `where` in the message, for an invalid configuration.
    """
    try:
        with without_memory(), _NumbersAreReal():
            return build_generator(config)
    except (ConfigError, RuntimeError) as error:  # RuntimeError: too large
        reason = error if isinstance(error, ConfigError) else "too large"
        raise CheckpointError(f"{where} describes a model unknown to this version of Ganvas ({reason})") from error


def _difference(network: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Describe how the tensors of a file differ from those of the network; empty if they match."""
    wanted = network.state_dict()
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    both = sorted(set(wanted) & set(tensors))
    odd = [name for name in both if wanted[name].shape != tensors[name].shape]
    kind = [name for name in both if wanted[name].dtype != tensors[name].dtype]
    faults = (("missing", missing), ("unexpected", extra), ("wrong shape", odd), ("wrong type", kind))
    return "; ".join(f"{fault}: {names[0]:.80}{f' and {len(names) - 1} more' * (len(names) > 1)}"
                     for fault, names in faults if names)  # fmt: skip


def _not_safetensors(file: Path) -> str:
    with files.explained(file), file.open("rb") as opened:
        start = opened.read(4)
    if start[:1] == b"\x80" or start == b"PK\x03\x04":
        return f"{file} is a Python pickle, which could run code: Ganvas only loads {WEIGHTS} files"
    return f"{file} is damaged or not a safetensors file: copy it again, or create it again from the run"


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def checksum(digest: str, text: str) -> str:
    """SHA-256 of the `tensor_hash` and the configuration, i.e. the whole content of a model file."""
    return hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()


def in_order(content: bytes) -> bytes:
    """Sort the header of a safetensors file, because the order of the metadata varies between processes."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), ensure_ascii=False, sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8 bytes
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
