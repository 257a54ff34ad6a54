"""evaluation/dinov2.py with random weights in the published format: arithmetic, positions, files that do not fit."""

from __future__ import annotations

import math
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ganvas.errors import CheckpointError
from ganvas.evaluation import dinov2
from ganvas.evaluation.dinov2 import DinoV2, positions
from ganvas.evaluation.features import Features

State = dict[str, Tensor]


def published_shapes(width: int, blocks: int = 12) -> dict[str, tuple[int, ...]]:
    """Names and shapes as in dinov2_vits14_pretrain.pth, written down independently of the module."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1370, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(blocks):
        for name, shape in {
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "ls1.gamma": (width,), "ls2.gamma": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = shape
    return shapes


def random_state(width: int, blocks: int = 12, seed: int = 0) -> State:
    """Weights of a size at which every part counts: attention that is not flat, scales that differ."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator)
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")):
            return 1 + 0.2 * values
        return values if len(shape) == 1 else values * 2 / math.sqrt(math.prod(shape[1:]))

    return {name: draw(name, shape) for name, shape in published_shapes(width, blocks).items()}


# ---- the arithmetic, a second time ----


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75."""
    x, a = np.abs(distance), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def cubic_matrix(num_out: int, num_in: int, step: float) -> np.ndarray:
    """(num_out, num_in): bicubic along one side, pixel centres at half integers, the border repeated."""
    matrix = np.zeros((num_out, num_in))
    for row in range(num_out):
        place = (row + 0.5) * step - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(tap, 0), num_in - 1)] += cubic(np.array(place - tap))
    return matrix


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def reference(state: State, picture: np.ndarray, heads: int, blocks: int) -> np.ndarray:
    """One image (3, H, W), normalised -> (width,): the class token, in float64, token by token where it can be."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    width = w["cls_token"].shape[2]
    rows, columns = picture.shape[1] // 14, picture.shape[2] // 14
    tokens = [w["cls_token"][0, 0] + w["pos_embed"][0, 0]]
    places = w["pos_embed"][0, 1:].reshape(37, 37, width)
    places = np.einsum("ri,ijd->rjd", cubic_matrix(rows, 37, 37 / (rows + 0.1)), places)
    places = np.einsum("cj,rjd->rcd", cubic_matrix(columns, 37, 37 / (columns + 0.1)), places)
    for r in range(rows):
        for c in range(columns):
            patch = picture[:, 14 * r : 14 * r + 14, 14 * c : 14 * c + 14]
            embedded = (w["patch_embed.proj.weight"] * patch).sum((1, 2, 3)) + w["patch_embed.proj.bias"]
            tokens.append(embedded + places[r, c])
    x = np.stack(tokens)
    size = width // heads
    for i in range(blocks):
        b = {name.split(".", 2)[2]: value for name, value in w.items() if name.startswith(f"blocks.{i}.")}
        mixed = layer_norm(x, b["norm1.weight"], b["norm1.bias"]) @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]
        query, key, value = mixed[:, :width], mixed[:, width : 2 * width], mixed[:, 2 * width :]
        seen = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(size))
            seen.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
        x = x + b["ls1.gamma"] * (np.concatenate(seen, 1) @ b["attn.proj.weight"].T + b["attn.proj.bias"])
        hidden = layer_norm(x, b["norm2.weight"], b["norm2.bias"]) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(torch.from_numpy(hidden / math.sqrt(2))).numpy())
        x = x + b["ls2.gamma"] * (hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"])
    return layer_norm(x, w["norm.weight"], w["norm.bias"])[0]


@pytest.mark.parametrize("side", [(224, 224), (70, 98)])
def test_the_network_computes_what_the_paper_says(side: tuple[int, int]) -> None:
    """Against numpy in float64 with a bicubic of its own; two heads, three blocks, square and not."""
    state = random_state(32, blocks=3)
    network = DinoV2(32, 2, blocks=3).eval()
    network.load_state_dict(state)
    picture = torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = network(picture).numpy()
    expected = np.stack([reference(state, one.double().numpy(), heads=2, blocks=3) for one in picture])
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_position_embedding_is_used_as_it_is_at_518_pixels_and_interpolated_at_224() -> None:
    embedding = torch.randn(1, 1370, 8, generator=torch.Generator().manual_seed(2))
    assert positions(embedding, 37, 37) is embedding
    resized = positions(embedding, 16, 16)
    assert resized.shape == (1, 257, 8)
    assert torch.equal(resized[:, 0], embedding[:, 0])


@pytest.mark.parametrize(("name", "millions"), [("dinov2-vits14", 22.1), ("dinov2-vitb14", 86.6)])
def test_the_parameters_are_those_of_the_published_files(name: str, millions: float) -> None:
    """Names, shapes and number: the official list says 21 M and 86 M."""
    published = dinov2.PUBLISHED[name]
    with torch.device("meta"):
        network = DinoV2(published.width, published.heads)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == published_shapes(published.width)
    assert round(sum(math.prod(shape) for shape in shapes.values()) / 1e6, 1) == millions
    assert published.width // published.heads == 64


# ---- as features, from a file ----


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(random_state(384), path)
    return path


def test_pictures_of_any_kind_become_features_of_the_normalised_picture(small: Path) -> None:
    features = Features.load("dinov2-vits14", device="cpu", weights=small)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    found = features(pixels)
    assert found.shape == (2, features.num_features) == (2, 384)
    assert found.dtype == np.float32
    network = DinoV2(384, 6).eval()
    network.load_state_dict(torch.load(small, weights_only=True))
    normal = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = network(torch.from_numpy(normal).permute(0, 3, 1, 2).float()).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    gray = pixels[:1, :28, :28, :1]
    np.testing.assert_allclose(features(gray), features(gray.repeat(3, axis=3)), atol=1e-4)


def test_the_protocol_names_the_network_the_weights_and_the_resize(small: Path) -> None:
    features = Features.load("dinov2-vits14", device="cpu", weights=small)
    for word in ("dinov2-vits14", features.hash, "224x224", "bicubic", "ImageNet"):
        assert word in features.protocol
    torch.save(random_state(384, seed=1), small.with_name("other.pth"))
    other = Features.load("dinov2-vits14", device="cpu", weights=small.with_name("other.pth"))
    assert other.hash != features.hash


@pytest.mark.parametrize("damage", ["cut", "noise", "another network", "a list", "absent"])
def test_a_file_that_does_not_fit_is_named_with_its_hash(damage: str, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if damage == "cut":
        path.write_bytes(small.read_bytes()[:100_000])
    elif damage == "noise":
        path.write_bytes(b"no weights at all")
    elif damage == "another network":
        torch.save(random_state(64, blocks=1), path)
    elif damage == "a list":
        torch.save([1, 2], path)
    expected = "does not exist" if damage == "absent" else r"\(hash [0-9a-f]{8}\) does not contain the weights"
    with pytest.raises(CheckpointError, match=expected) as caught:
        Features.load("dinov2-vits14", device="cpu", weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_error_says_where_the_file_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(CheckpointError, match="could not be downloaded") as caught:
        Features.load("dinov2-vitb14", device="cpu")
    assert str(tmp_path / "weights" / "dinov2_vitb14_pretrain.pth") in str(caught.value)
    assert "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth" in str(caught.value)


def test_a_file_in_the_cache_must_be_the_published_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: Path
) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path))
    cached = tmp_path / "weights" / "dinov2_vits14_pretrain.pth"
    cached.parent.mkdir()
    cached.write_bytes(small.read_bytes())
    with pytest.raises(CheckpointError, match=r"hash [0-9a-f]{8}, expected b938bf1b"):
        Features.load("dinov2-vits14", device="cpu")
