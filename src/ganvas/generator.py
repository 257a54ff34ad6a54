"""Load a trained generator, without data or training code, and sample images.

A model folder contains `generator.safetensors` (weights, with the configuration as metadata; this file is sufficient),
`config.json` (the configuration as text) and `README.md` (model card). Files are never unpickled.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganvas import latent_codes
from ganvas.config import Kind, ModelConfig, from_dict
from ganvas.errors import CheckpointError, ConfigError, some
from ganvas.latent_codes import Code
from ganvas.models import build_generator, channels_last
from ganvas.system import files, seeding
from ganvas.system.device import choose_device

FORMAT = 1
WEIGHTS = "generator.safetensors"
BATCH = 64  # images per forward pass when sampling
LARGEST = 2**34  # most bytes of a weights file; hundreds of times those of the largest network
AHEAD = 16  # batches whose latents are drawn together, which keeps the network in the CPU caches


@dataclass(frozen=True)
class ModelInfo:
    """Metadata of a model."""

    config: ModelConfig
    classes: list[str] = field(default_factory=list)
    depth: int = 8
    """Bits per channel of the data: 8 or 16."""
    kind: str = "photo"
    images_seen: int = 0
    data_hash: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        named = isinstance(self.classes, list) and all(isinstance(name, str) for name in self.classes)
        if not named or self.config.num_classes not in (0, len(self.classes)):
            raise ConfigError(f"classes: expected the names of {self.config.num_classes:,} classes")
        if self.depth not in (8, 16):
            raise ConfigError(f"depth {self.depth!r:.40}: expected 8 or 16 bits")
        if self.kind not in get_args(Kind):
            raise ConfigError(f"kind {self.kind!r:.40}: expected one of {', '.join(get_args(Kind))}")
        if type(self.images_seen) is not int or self.images_seen < 0:
            raise ConfigError(f"images_seen {self.images_seen!r:.40}: expected an integer of at least 0")
        if not isinstance(self.data_hash, str):
            raise ConfigError("data_hash: expected text")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: Path) -> ModelInfo:
        """Read the output of `to_json`. Raises CheckpointError for anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            if values["format"] != FORMAT:
                raise CheckpointError(
                    f"{where} has format {values['format']!r:.20}; this version of Ganvas reads {FORMAT}"
                )
            values["config"] = from_dict(ModelConfig, values["config"], str(where))
            return from_dict(cls, values, str(where))
        except ConfigError as error:
            raise CheckpointError(f"{where} describes a model unknown to this version of Ganvas ({error})") from error
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{where} has no readable Ganvas configuration: train or download the model again"
            ) from error


class Generator:
    """A trained generator: `network` in evaluation mode on `device`, and its metadata `info`."""

    def __init__(self, network: nn.Module, info: ModelInfo, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = channels_last(network.eval().requires_grad_(False).to(self.device))
        self.info = info
        self.forward: Callable[..., Tensor] = self.network
        self.is_fast = False

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the weights at the first access; identifies the model."""
        return weights_hash(self.network)

    @property
    def num_depths(self) -> int:
        """Number of layers, coarse to fine, that can be controlled separately (see codes.py)."""
        return latent_codes.num_depths(self.network)

    @property
    def classes(self) -> list[str]:
        """Class names in label order; empty for an unconditional model."""
        return self.info.classes if self.info.config.num_classes else []

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> Generator:
        """Load a run folder, a model folder or a generator.safetensors file.

        device: cpu, cuda or mps; default: the fastest available.
        Raises CheckpointError if there is no model, or the file is damaged or not a safetensors file.
        """
        file = find_weights(Path(path))
        if (size := file.stat().st_size) > LARGEST:
            raise CheckpointError(f"{file} has {size:,} bytes, but weights have at most {LARGEST:,}")
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                text = metadata.get("ganvas", "{}")
                info = ModelInfo.from_json(text, file)
                network = outline(info.config, file)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(not_safetensors(file)) from error
        if how := difference(network, tensors):
            raise CheckpointError(f"{file} does not contain the weights of a {info.config.model!r} generator ({how})")
        digest = tensor_hash(tensors)
        if metadata.get("sha256") not in (checksum(digest, text), digest):  # older files omit the configuration
            raise CheckpointError(f"{file} is damaged (wrong checksum): copy it again, or create it again from the run")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise CheckpointError(f"{file} contains weights that are not finite: train or download the model again")
        # Copy the tensors, because safetensors maps the file into memory and other processes may change the file.
        network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
        return cls(network, info, choose_device(device).torch_device)

    def fast(self) -> Generator:
        """On a GPU, use half precision and compile the network; images differ slightly. Returns self."""
        if self.device.type == "cuda":
            self.is_fast = True
            self.forward = torch.compile(self.network)
        return self

    def save(self, folder: str | Path, card: str = "") -> Path:
        """Write a model folder (created if missing) and return its path. Files are replaced atomically."""
        folder = Path(folder)
        with files.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        text = self.info.to_json()
        metadata = {"ganvas": text, "sha256": checksum(tensor_hash(tensors), text)}
        content = in_order(safetensors.torch.save(tensors, metadata))
        files.write_atomically(folder / WEIGHTS, lambda file: file.write(content))
        files.write_json(folder / "config.json", dataclasses.asdict(self.info))
        if card:
            files.write_text(folder / "README.md", card)
        return folder

    def label_indices(self, label: str | int | Sequence[str | int] | None, seeds: Sequence[int]) -> Tensor | None:
        """Labels as indices (N,): one for all, or one each; None: seed modulo the number of classes."""
        num = self.info.config.num_classes
        if num == 0:
            if label is not None:
                raise ConfigError(f"label {label!r}: this model was trained without labels")
            return None
        if label is None:
            return torch.tensor([seed % num for seed in seeds])
        labels = [label] * len(seeds) if isinstance(label, str | int) else list(label)
        if len(labels) != len(seeds):
            raise ConfigError(f"{len(labels)} labels for {len(seeds)} images: give one label, or one per image")
        return torch.tensor([self.label_index(one) for one in labels])

    def label_index(self, label: str | int) -> int:
        if str(label) in self.classes:
            return self.classes.index(str(label))
        if isinstance(label, int) and 0 <= label < len(self.classes):
            return label
        raise ConfigError(f"label {label!r} does not exist: this model has {some(self.classes)}")

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """(N, z_dim) standard normal latents; each row depends only on its seed, on every machine."""
        return torch.from_numpy(seeding.standard_normal(seeds, self.info.config.z_dim))

    def batches(
        self,
        seeds: Sequence[int],
        label: str | int | Sequence[str | int] | None = None,
        truncation: float = 1.0,
    ) -> Iterator[Tensor]:
        """Generate the images of these seeds lazily, in batches (up to 64, C, H, W) on the CPU."""
        if not 0 <= truncation <= 1:
            raise ConfigError(f"truncation {truncation}: expected a number from 0 (mean) to 1 (full diversity)")
        if any(seed < 0 for seed in seeds):
            raise ConfigError("seeds must be integers of at least 0")
        labels = self.label_indices(label, seeds)
        ahead = BATCH * AHEAD
        return (
            self.render(z, None if labels is None else labels[start + i * BATCH :][: len(z)], truncation)
            for start in range(0, len(seeds), ahead)
            for i, z in enumerate(self.latents(seeds[start : start + ahead]).split(BATCH))
        )

    @torch.inference_mode()
    def render(self, z: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Latents (N, z_dim) and label indices (N,) -> images (N, C, H, W) float32 in [-1, 1] on the CPU.

        truncation: towards the mean latent, or the mean style of the class in networks with a style space.
        """
        z, labels = z.to(self.device), None if labels is None else labels.to(self.device)
        truncated: Any = getattr(self.network, "truncated", None)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            if truncated is not None and truncation != 1:
                images = truncated(z, labels, truncation)
            else:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_fast):
                    images = self.forward(z * truncation, labels)
        return images.float().cpu().contiguous()

    def code(self, z: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Code:
        """Latent codes (see codes.py) on the device, from latents z (N, z_dim) and labels.

        labels: indices (N,), or class weights (N, num_classes) for interpolation between classes.
        """
        if labels is not None and not labels.is_floating_point():
            labels = F.one_hot(labels, self.info.config.num_classes).float()
        with torch.no_grad():
            return latent_codes.encode(
                self.network, z.to(self.device), None if labels is None else labels.to(self.device), truncation
            )

    @torch.inference_mode()
    def show(self, code: Code) -> Tensor:
        """Latent codes (N) -> images (N, C, H, W) float32 in [-1, 1] on the CPU."""
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            parts = [
                latent_codes.decode(self.network, code[start : start + BATCH].to(self.device)).float().cpu()
                for start in range(0, len(code), BATCH)
            ]
        return torch.cat(parts).contiguous()

    def sample(
        self,
        num: int,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Generate `num` images (num, C, H, W) float32 in [-1, 1]; image i has the seed `seed + i`.

        A seed (with its label) gives the same image for any batch size and device, within 1e-4.
        label: a class name or index for all images, or one each; default: seed modulo the number of classes.
        truncation: from 0 (mean image) to 1 (full diversity).
        """
        if num < 1:
            raise ConfigError(f"{num} images: expected at least 1")
        return torch.cat(list(self.batches(range(seed, seed + num), label, truncation)))


def find_weights(path: Path) -> Path:
    """Path of generator.safetensors, from a run folder, a model folder or the file itself."""
    for candidate in (path / "model" / WEIGHTS, path / WEIGHTS, path):
        if candidate.is_file():
            return candidate
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: expected a run folder, a model folder or a {WEIGHTS} file")
    raise CheckpointError(f"{path} contains no {WEIGHTS}: expected a run folder with a model, or a model folder")


class NumbersAreReal(TorchFunctionMode):
    """Allocate tensors with given values (the fixed noise of some networks) on the CPU instead of the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        on = {"device": "cpu"} if func is torch.tensor else {}
        return func(*args, **on | (kwargs or {}))


def outline(config: ModelConfig, where: Path) -> nn.Module:
    """Build the generator of a configuration on the meta device, without memory for its weights.

    Raises CheckpointError, with `where` in the message, for an invalid configuration.
    """
    try:
        with torch.device("meta"), NumbersAreReal():
            return build_generator(config)
    except (ConfigError, RuntimeError) as error:  # RuntimeError: too large
        reason = error if isinstance(error, ConfigError) else "too large"
        raise CheckpointError(f"{where} describes a model unknown to this version of Ganvas ({reason})") from error


def difference(network: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Describe how the tensors of a file differ from those of the network; empty if they match."""
    wanted = network.state_dict()
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    both = sorted(set(wanted) & set(tensors))
    odd = [name for name in both if wanted[name].shape != tensors[name].shape]
    kind = [name for name in both if wanted[name].dtype != tensors[name].dtype]
    found = (("missing", missing), ("unexpected", extra), ("wrong shape", odd), ("wrong type", kind))
    return "; ".join(f"{fault}: {names[0]:.80}{f' and {len(names) - 1} more' * (len(names) > 1)}"
                     for fault, names in found if names)  # fmt: skip


def not_safetensors(file: Path) -> str:
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


def weights_hash(network: nn.Module) -> str:
    """`tensor_hash` of the current weights of a network."""
    return tensor_hash({name: tensor.cpu() for name, tensor in network.state_dict().items()})


def to_pixels(images: Tensor, depth: int = 8) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1] -> (N, H, W, C) uint8 or uint16, with the same fixed scale for all images."""
    top = 2**depth - 1
    pixels = ((images.clamp(-1, 1) + 1) * (top / 2)).round()
    return pixels.permute(0, 2, 3, 1).numpy().astype(np.uint16 if depth == 16 else np.uint8)
