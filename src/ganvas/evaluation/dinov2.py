"""DINOv2 ViT-S/14 and ViT-B/14: self-supervised features of photographs.

Oquab et al. 2023, "DINOv2: Learning robust visual features without supervision". Stein et al. 2023, "Exposing flaws of
generative model evaluation metrics", found that distances in DINOv2 agree better with people than those in Inception.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.data.download import File
from ganvas.data.packing.pack import Pack
from ganvas.errors import CheckpointError
from ganvas.evaluation.features import Features, bicubic, fetch
from ganvas.system import files

_PATCH = 14  # side of a patch in pixels
_SIZE = 224  # side of the input in pixels: 16 x 16 tokens
_TRAINED_GRID = 37  # side of the position embeddings in tokens (518 pixels)
_OFFSET = 0.1  # see `positions`
_BLOCKS = 12
_NORM_EPS = 1e-6
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet pixels in 0..1


@dataclass(frozen=True)
class _Published:
    """A published network."""

    width: int
    heads: int
    file: File


_URL = "https://dl.fbaipublicfiles.com/dinov2"
PUBLISHED = {
    "dinov2-vits14": _Published(
        384,
        6,
        File(
            "dinov2_vits14_pretrain.pth",
            f"{_URL}/dinov2_vits14/dinov2_vits14_pretrain.pth",
            "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
            88_283_115,
        ),
    ),
    "dinov2-vitb14": _Published(
        768,
        12,
        File(
            "dinov2_vitb14_pretrain.pth",
            f"{_URL}/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
            "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
            346_378_731,
        ),
    ),
}
"""The authors publish no hashes; these are used by several projects that pin the files."""


class DinoV2(nn.Module):
    """RGB (N, 3, H, W), normalised, H and W multiples of 14 -> (N, width): the class token after the last norm.

    A vision transformer (Dosovitskiy et al. 2021) with layer scale (Touvron et al. 2021, CaiT). Parameter names are
    those of the published files.
    """

    def __init__(self, width: int, heads: int, blocks: int = _BLOCKS) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _TRAINED_GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file, but only used in training
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, _PATCH, stride=_PATCH)})
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, _NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.patch_embed["proj"](x)
        tokens = grid.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + positions(self.pos_embed, grid.shape[2], grid.shape[3])
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])


def positions(embedding: Tensor, rows: int, columns: int) -> Tensor:
    """Resize the embedding (1, 1 + 37 x 37, D) to rows x columns tokens; that of the class token is unchanged.

    Bicubic without antialiasing, with scale (rows + 0.1) / 37 as in the published code, where the offset avoids a
    rounding error; it must be kept to reproduce the published features.
    """
    if rows == columns == _TRAINED_GRID:
        return embedding
    of_class, places = embedding[:, :1], embedding[:, 1:]
    places = places.transpose(1, 2).unflatten(2, (_TRAINED_GRID, _TRAINED_GRID))
    factors = [(rows + _OFFSET) / _TRAINED_GRID, (columns + _OFFSET) / _TRAINED_GRID]
    places = F.interpolate(places, scale_factor=factors, mode="bicubic")
    return torch.cat([of_class, places.flatten(2).transpose(1, 2)], dim=1)


class _Block(nn.Module):
    """Transformer block with pre-normalisation and layer scale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _NORM_EPS)
        self.attn = _Attention(width, heads)
        self.ls1 = _LayerScale(width)
        self.norm2 = nn.LayerNorm(width, _NORM_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls2 = _LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class _Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # (N, tokens, 3 x heads x D) -> three of (N, heads, tokens, D)
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _LayerScale(nn.Module):
    """One factor per feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _prepare(images: Tensor) -> Tensor:
    """RGB (N, 3, H, W) in [-1, 1] -> (N, 3, 224, 224), normalised with the mean and deviation of ImageNet."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (bicubic(_SIZE)(images) / 2 + 0.5 - mean) / std


def load(name: str, device: torch.device, weights: Path | None, pack: Pack | None) -> Features:
    """The network as `Features`, with weights from the file `weights`, or the published ones (cached or downloaded)."""
    published = PUBLISHED[name]
    path = weights or fetch(published.file)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected the weights file {published.file.name} of {name}")
    digest = files.sha256(path)
    expected = published.file.checksum or ""
    if weights is None and digest != expected:
        raise CheckpointError(
            f"{path} is damaged or of another network (hash {digest[:8]}, expected {expected[:8]}): "
            f"delete it, then try again or save {published.file.url} there"
        )
    network = DinoV2(published.width, published.heads).eval().requires_grad_(False)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises different errors for damaged files
        raise CheckpointError(
            f"{path} (hash {digest[:8]}) does not contain the weights of {name}: "
            f"expected the file from {published.file.url}"
        ) from error
    words = f"input {_SIZE}x{_SIZE} by antialiased bicubic, aspect not kept, ImageNet mean and deviation, class token"
    official = digest == expected
    return Features(name, digest[:8], published.width, network, _prepare, words, device, official=official)
