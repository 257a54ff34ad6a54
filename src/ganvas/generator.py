"""Load a trained generator, without data or training code, and sample images (files: see model_file.py)."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas import hub, latent_codes
from ganvas.conditions import Conditions, Given
from ganvas.errors import ConfigError, amount, some
from ganvas.image_files import as_html, grid, png_bytes
from ganvas.latent_codes import Code
from ganvas.model_file import CARD, ModelInfo, read_model, tensor_hash, write_model
from ganvas.models import channels_last, contract
from ganvas.system import files, seeding
from ganvas.system.device import choose_device

_Label = str | int | np.integer | np.ndarray | Tensor
"""A class: its name as text, or its index as a number, also of NumPy or PyTorch."""
Labels = _Label | Given | Sequence[_Label | Given] | None
"""A class or conditions for all images, or one for each; for conditions also vectors (N, num_conditions)."""

BATCH = 64  # images per forward pass when sampling
_SHOWN = 16  # images in notebooks
AHEAD = 16  # batches whose latents are drawn together, which keeps the network in the CPU caches


class Generator:
    """A trained generator: `network` in evaluation mode on `device`, and its metadata `info`."""

    def __init__(self, network: contract.Generator, info: ModelInfo, device: torch.device | str = "cpu") -> None:
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

    @property
    def conditions(self) -> dict[str, str | list[str] | tuple[float, float]]:
        """Conditions that `sample` takes: column -> its values, "yes or no", or its (lowest, highest) number."""
        return {} if self.info.conditions is None else self.info.conditions.about()

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> Generator:
        """Load a run folder, a model folder, a generator.safetensors file, or hf://owner/name on the Hugging Face Hub.

        device: cpu, cuda or mps; default: the fastest available.
        Raises CheckpointError if there is no model, or the file is damaged or not a safetensors file.
        """
        network, info = read_model(hub.local(path))
        return cls(network, info, choose_device(device).torch_device)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | None = None) -> Generator:
        """Same as `load`, under the name that other libraries use."""
        return cls.load(name, device)

    def save_pretrained(self, name: str | Path) -> str:
        """Write a model folder, or upload to hf://owner/name (private if new); return the path or address.

        `ganvas hub push` also writes a model card with data, licence and scores.
        """
        if not str(name).startswith(hub.SCHEME):
            return str(self.save(name))
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            return hub.send(str(name), Path(folder))

    def to(self, device: str | torch.device) -> Generator:
        """Move the network to a device, such as cuda. Returns self. Raises ConfigError if there is no such device."""
        self.device = choose_device(str(device)).torch_device
        self.network.to(self.device)
        return self

    def __call__(self, z: Tensor, label: Labels = None, truncation: float = 1.0) -> Tensor:
        """Latents z (N, z_dim) -> images (N, C, H, W) float32 in [-1, 1] on the device of the generator.

        label: as in `sample`, or conditions; default: class 0, or the stored combinations of conditions in turn.
        """
        labels = self.labels_of(0 if label is None and self.classes else label, range(len(z)))
        return self.images(z, labels, truncation)

    def __repr__(self) -> str:
        config, classes = self.info.config, f", {amount(len(self.classes), 'class', 'classes')}" if self.classes else ""
        classes += f", {amount(len(self.conditions), 'condition')}" if self.conditions else ""
        millions = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        return (
            f"Generator({config.model}, {config.height}x{config.width}x{config.channels}{classes}, "
            f"{self.info.images_seen:,} images seen, {millions:.2f} M parameters, {self.device})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: a grid of images with the seeds from 0."""
        pixels = to_pixels(self.sample(_SHOWN), self.info.depth)
        return as_html(png_bytes(grid(pixels, columns=8)), repr(self))

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
        write_model(folder, self.network, self.info)
        if card:
            files.write_text(folder / CARD, card)
        return folder

    def labels_of(self, label: Labels, seeds: Sequence[int]) -> Tensor | None:
        """What the network takes with the latents of these seeds: class indices (N,), vectors of conditions
        (N, num_conditions) float32, or None. label: see `Labels`.
        """
        schema = self.info.conditions
        if schema is None:
            if isinstance(label, Mapping):
                raise ConfigError("conditions: this model was trained without conditions")
            return self.label_indices(label, seeds)
        if isinstance(label, np.ndarray | Tensor):
            vectors = torch.as_tensor(label, dtype=torch.float32).cpu()
            if vectors.shape != (len(seeds), schema.width):
                raise ConfigError(f"conditions {tuple(vectors.shape)}: expected vectors {(len(seeds), schema.width)}")
            return vectors
        if isinstance(label, Sequence) and not isinstance(label, str):
            if len(label) != len(seeds):
                raise ConfigError(
                    f"{amount(len(label), 'condition')} for {amount(len(seeds), 'image')}: give one, or one per image"
                )
            return torch.from_numpy(
                np.concatenate(
                    [schema.vectors(_as_given(one, schema), [seed]) for one, seed in zip(label, seeds, strict=True)]
                )
            )
        return torch.from_numpy(schema.vectors(_as_given(label, schema), seeds))

    def label_texts(self, label: Labels, seeds: Sequence[int]) -> list[str | None]:
        """The label of the image of each seed as text: its class, its conditions such as "hair=red,age=60", or None."""
        labels, schema = self.labels_of(label, seeds), self.info.conditions
        if labels is None:
            return [None] * len(seeds)
        if schema is not None:
            return [schema.text(vector) for vector in labels.numpy()]
        return [self.classes[index] for index in labels.tolist()]

    @property
    def label_names(self) -> list[str]:
        """What images take in turn if no label is given: class names, or combinations of conditions as text."""
        schema = self.info.conditions
        return self.classes if schema is None else [schema.text(vector) for vector in schema.table]

    def label_indices(self, label: Labels, seeds: Sequence[int]) -> Tensor | None:
        """Labels as indices (N,): one for all, or one each; None: seed modulo the number of classes."""
        num = self.info.config.num_classes
        if num == 0:
            if label is not None:
                raise ConfigError(f"label {label!r}: this model was trained without labels")
            return None
        if label is None:
            return torch.tensor([seed % num for seed in seeds])
        given = label.tolist() if isinstance(label, np.ndarray | np.generic | Tensor) else label
        labels = [given] * len(seeds) if isinstance(given, str | int) else list(given)
        if len(labels) != len(seeds):
            raise ConfigError(
                f"{amount(len(labels), 'label')} for {amount(len(seeds), 'image')}: give one label, or one per image"
            )
        return torch.tensor([self.label_index(one) for one in labels])

    def label_index(self, label: Labels) -> int:
        """Index of a class. Text is a name and a number is an index, so that class "7" is not mistaken for index 7."""
        given = label.item() if isinstance(label, np.ndarray | np.generic | Tensor) else label
        if isinstance(given, str) and given in self.classes:
            return self.classes.index(given)
        if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(self.classes):
            return given
        hint = f"; for the class named {given!r}, give text" if str(given) in self.classes else ""
        raise ConfigError(f"label {given!r} does not exist: this model has {some(self.classes)}{hint}")

    def label_name(self, label: Labels) -> str | None:
        """Name of a class, or conditions as text; None without label."""
        if self.info.conditions is not None and label is not None:
            given = self.info.conditions.read(_as_given(label, self.info.conditions))
            return ",".join(f"{name}={cell}" for name, cell in given.items())
        if label is None or not self.classes:
            return None if label is None else str(label)
        return self.classes[self.label_index(label)]

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """(N, z_dim) standard normal latents; each row depends only on its seed, on every machine."""
        return torch.from_numpy(seeding.standard_normal(seeds, self.info.config.z_dim))

    def batches(
        self,
        seeds: Sequence[int],
        label: Labels = None,
        truncation: float = 1.0,
    ) -> Iterator[Tensor]:
        """Generate the images of these seeds lazily, in batches (up to 64, C, H, W) on the CPU.

        label: a class or conditions, see `Labels`.
        """
        if not 0 <= truncation <= 1:
            raise ConfigError(f"truncation {truncation}: expected a number from 0 (mean) to 1 (full diversity)")
        if any(seed < 0 for seed in seeds):
            raise ConfigError("seeds must be integers of at least 0")
        labels = self.labels_of(label, seeds)
        ahead = BATCH * AHEAD
        return (
            self.render(z, None if labels is None else labels[start + i * BATCH :][: len(z)], truncation)
            for start in range(0, len(seeds), ahead)
            for i, z in enumerate(self.latents(seeds[start : start + ahead]).split(BATCH))
        )

    def render(self, z: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Latents (N, z_dim) and labels (see `labels_of`) -> images (N, C, H, W) float32 in [-1, 1] on the CPU.

        truncation: towards the mean latent, or the mean style of the class in networks with a style space.
        """
        return self.images(z, labels, truncation).cpu().contiguous()

    @torch.inference_mode()
    def images(self, z: Tensor, labels: Tensor | None, truncation: float) -> Tensor:
        """As `render`, on the device of the generator."""
        z, labels = z.to(self.device), None if labels is None else labels.to(self.device)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            if latent_codes.has_styles(self.network) and truncation != 1:
                images = self.network.truncated(z, labels, truncation)
            else:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_fast):
                    images = self.forward(z * truncation, labels)
        return images.float()

    def code(self, z: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Code:
        """Latent codes (see codes.py) on the device, from latents z (N, z_dim) and labels.

        labels: indices (N,), or class weights (N, num_classes) for interpolation between classes, or vectors of
        conditions (N, num_conditions).
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
        n: int,
        seed: int = 0,
        label: Labels = None,
        truncation: float = 1.0,
        conditions: Given | Sequence[Given] | None = None,
    ) -> Tensor:
        """Generate `n` images (n, C, H, W) float32 in [-1, 1]; image i has the seed `seed + i`.

        A seed (with its label) gives the same image for any batch size and device, within 1e-4.
        label: a class, as name (text) or index (number), for all images, or one each; default: seed modulo the number
        of classes.
        truncation: from 0 (mean image) to 1 (full diversity).
        conditions: for a model of conditions, such as {"hair": "red", "age": 60} or "hair=red,age=60", for all images
        or one each (see the property `conditions`). Columns that are not given have the cells of a combination of
        training images that fits the given ones, chosen by the seed.
        """
        if n < 1:
            raise ConfigError(f"{n} images: expected at least 1")
        label = self.one_of(label, conditions)
        return torch.cat(list(self.batches(range(seed, seed + n), label, truncation)))

    def one_of(self, label: Labels, conditions: Given | Sequence[Given] | None) -> Labels:
        """A class or conditions, for models of one or the other. Raises ConfigError if it is of the wrong kind."""
        if conditions is not None and self.info.conditions is None:
            raise ConfigError("conditions: this model was trained without conditions")
        if label is not None and self.info.conditions is not None:
            names = some([column.name for column in self.info.conditions.columns])
            raise ConfigError(f"label {label!s:.60}: this model has no classes; use conditions ({names})")
        return label if conditions is None else conditions


def _as_given(label: Any, schema: Conditions) -> Given | None:
    """Conditions as text or a mapping. Raises ConfigError for anything else, such as the number of a class."""
    if label is None or isinstance(label, str | Mapping):
        return label
    raise ConfigError(f"conditions {label!r:.60}: expected text or a dictionary, such as {schema.example()}")


def weights_hash(network: nn.Module) -> str:
    """`tensor_hash` of the current weights of a network."""
    return tensor_hash({name: tensor.cpu() for name, tensor in network.state_dict().items()})


def to_pixels(images: Tensor, depth: int = 8) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1] -> (N, H, W, C) uint8 or uint16, with the same fixed scale for all images."""
    top = 2**depth - 1
    pixels = ((images.clamp(-1, 1) + 1) * (top / 2)).round()
    return pixels.permute(0, 2, 3, 1).numpy().astype(np.uint16 if depth == 16 else np.uint8)
