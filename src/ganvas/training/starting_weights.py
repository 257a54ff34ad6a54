"""The weights in this package, from which new `light` networks start, so that the first minutes are not spent on what
images of all kinds have in common.

They are a generator of 64x64 colour images and the heads of its discriminator; starting_weights/README.md names the
images. For other sizes the coarse stages of the generator keep their weights, and additional fine ones start as copies.
`latents` then fits them to the training images.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.config import ModelConfig
from ganvas.errors import CheckpointError
from ganvas.models import build_generator
from ganvas.models.crops import part_sizes
from ganvas.models.light import grids_of
from ganvas.training.transfer import Origin, Tensors, open_origin

NONE = "none"  # --from none: new random weights
SHIPPED = "ganvas"  # the start of a run that began with the weights in this package
FILE = Path(__file__).parents[1] / "starting_weights" / "light.safetensors"
MODEL = ModelConfig("light", 64, 64, 3, z_dim=64, base=12, discriminator="both")
"""Networks of the weights in the file: those that the plan chooses on a CPU."""
NOTICE = f"starting from the weights in this package (--from {NONE}: from new weights)"
_FIXED = ("model", "z_dim", "base", "widest", "blocks", "spectral_norm")
"""Options of networks that can start from them must be these."""
_LAST = "to_picture."  # kept in colour; transfer.fit makes it gray
NUM_STAGES = 4


def start_for(model: ModelConfig, asked: str | None) -> str | None:
    """What a new run starts from: a run or model folder, `SHIPPED`, or None for new weights.

    asked: such a folder, `NONE`, or None for the default.
    """
    fits = all(getattr(model, name) == getattr(MODEL, name) for name in _FIXED)
    fits &= model.discriminator != "own" and model.channels in (1, 3)
    fits &= len(grids_of(model.height, model.width)[0]) > NUM_STAGES
    return {NONE: None, None: SHIPPED if fits else None}.get(asked, asked)


def description(start: str | None) -> str:
    """What a run started from, in words without folders; "" for new weights."""
    known = "those of Ganvas, trained on comic faces, chest X-ray films and a few photos of faces"
    return "" if start is None else known if start == SHIPPED else "another run or model"


def open_start(start: str, model: ModelConfig) -> Origin:
    """The weights that these networks start from. start: a run or model folder, or `SHIPPED`.

    Raises CheckpointError if they cannot be read.
    """
    return shipped_origin(model) if start == SHIPPED else open_origin(Path(start))


def shipped_origin(model: ModelConfig) -> Origin:
    """The weights in this package, in the shapes of these networks.

    Raises CheckpointError if the file is missing or damaged.
    """
    try:
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load_file(FILE).items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"the starting weights {FILE} are missing or damaged ({error}): install Ganvas again, or use --from {NONE}"
        ) from error
    generator, heads = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in ("generator.", "discriminator.")
    )
    num = len(part_sizes(model.height, model.width)[1])
    parts = [f"parts.{i}." for i in range(num)] if num > 1 else [""]
    heads = {part + name: tensor for part in parts for name, tensor in heads.items()}
    return Origin(Path(SHIPPED), model, grown(generator, model), heads)


def grown(theirs: Tensors, model: ModelConfig) -> Tensors:
    """The generator's tensors for another image size, without those that start from new weights.

    Additional fine stages enlarge the feature maps and keep their values (Chen et al. 2016, "Net2Net").
    """
    with torch.random.fork_rng(devices=[]):
        mine = build_generator(model).state_dict()
    known = {name: tensor for name, tensor in theirs.items() if name.startswith(_LAST)}
    for name, own in mine.items():
        parts = name.split(".")
        if name == "start.weight":
            known[name] = _resampled(theirs[name], model)
        elif name == "start.bias":
            known[name] = torch.zeros_like(own)
        elif parts[0] == "stages" and int(parts[1]) >= NUM_STAGES and parts[2] == "convs":
            known[name] = nn.init.dirac_(own)
        elif name in theirs and name not in known:
            known[name] = theirs[name]
    return known


def _resampled(weight: Tensor, model: ModelConfig) -> Tensor:
    """The first layer's weight (h * w * maps, z), resampled to the first grid of another size."""
    before, after = (grids_of(one.height, one.width)[0][0] for one in (MODEL, model))
    images = weight.unflatten(0, (*before, -1)).permute(3, 2, 0, 1)
    images = F.interpolate(images, size=after, mode="bilinear", align_corners=False)
    return images.permute(2, 3, 1, 0).flatten(0, 2)
