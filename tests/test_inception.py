"""evaluation/inception.py on random weights in the published format: against torch-fidelity, clean-fid and float64."""

from __future__ import annotations

import copy
import os
import urllib.error
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.errors import CheckpointError
from ganvas.evaluation import inception, onnx_form
from ganvas.evaluation.distances import inception_score
from ganvas.evaluation.feature_cache import features_of
from ganvas.evaluation.features import Features
from ganvas.evaluation.frechet import frechet
from ganvas.evaluation.inception import FastInception, Inception, load_plain
from ganvas.generator import to_pixels
from ganvas.system.files import cache_dir, sha256

PUBLISHED = Path(os.environ.get("GANVAS_INCEPTION") or cache_dir() / "weights" / inception.INCEPTION_FILE.name)
"""The real weights, where this machine has them: read before the tests get a cache of their own."""
CIFAR10 = os.environ.get("GANVAS_CIFAR10")

TOLERANCE = 3.8e-5  # the error that torch-fidelity has against a float64 network
LIBRARIES: list[torch.library.Library] = []


def random_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Such that every layer passes on what it gets, with batch norms that all do something."""
    torch.manual_seed(seed)
    network = Inception()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            state = layer.state_dict()
            state["running_mean"].normal_(0, 0.1)
            state["running_var"].uniform_(0.5, 2)
            state["weight"].uniform_(0.7, 1.4)
            state["bias"].normal_(0, 0.2)
    return network.state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(random_weights(), path)
    return path


@pytest.fixture(scope="module")
def plain(weights: Path) -> Inception:
    return load_plain(weights)[0]


@pytest.fixture(scope="module")
def original(weights: Path) -> Features:
    return Features.load("inception-original", device="cpu", weights=weights)


def bytes_of(num: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, height, width, channels), np.uint8)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) of uint8 -> (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The worst value's, relative to the root mean square of what is expected."""
    return float((found.double() - expected).abs().max() / expected.double().square().mean().sqrt())


# ---- the network ----


def test_the_network_has_the_published_number_of_parameters() -> None:
    """27,161,264 of the usual Inception-v3 less 3,326,696 of its auxiliary classifier, and 8 classes more."""
    with torch.device("meta"):
        network = Inception()
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_161_264 - 3_326_696 + 8 * 2049


@torch.inference_mode()
def test_every_form_is_the_plain_network_in_float64(plain: Inception) -> None:
    x = torch.randn(1, 3, 139, 139).clamp(-1, 1)  # the smallest that every layer takes, for speed
    features, logits = copy.deepcopy(plain).double()(x.double())
    assert features.std() > 0.1
    assert logits.std() > 0.1
    forms: dict[str, nn.Module] = {
        "plain": plain,
        "merged": FastInception(plain).eval().requires_grad_(False),
        "unmerged": FastInception(plain, merge=False).eval().requires_grad_(False),
    }
    if onnx_form.available():
        forms["onnxruntime"] = onnx_form.of(forms["unmerged"], (3, 139, 139))
    for name, network in forms.items():
        found = network(x)
        assert error(found[0], features) < TOLERANCE, name
        assert error(found[1], logits) < TOLERANCE, name
        assert name == "plain" or not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


# ---- against the peers ----


@pytest.fixture(scope="module")
def fidelity() -> ModuleType:
    """torch_fidelity; torchvision's two operators are declared for a CPU PyTorch without them."""
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)  # which would take its operators along when it goes
    return pytest.importorskip("torch_fidelity")


def test_features_and_logits_are_torch_fidelitys(fidelity: ModuleType, original: Features, weights: Path) -> None:
    """It reads the same file, key for key, and does everything from bytes on."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    peer = FeatureExtractorInceptionV3("peer", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))
    pixels = bytes_of(2, 32, 40)
    with torch.inference_mode():
        features, logits = peer(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    found = original.both(pixels)
    assert found[0].shape == (2, 2048)
    assert found[1].shape == (2, 1008)
    assert error(torch.from_numpy(found[0]), features) < TOLERANCE
    assert error(torch.from_numpy(found[1]), logits) < TOLERANCE


@pytest.mark.parametrize("size", [(32, 32), (400, 350), (299, 299), (1, 5), (300, 298)])
def test_the_original_resize_is_torch_fidelitys_to_the_bit(fidelity: ModuleType, size: tuple[int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    pixels = torch.from_numpy(bytes_of(1, *size)).permute(0, 3, 1, 2)
    expected = interpolate_bilinear_2d_like_tensorflow1x(pixels.float(), size=(299, 299), align_corners=False)
    found = inception.original(pixels.float() / 127.5 - 1)
    torch.testing.assert_close(found, (expected - 128) / 128, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(32, 32), (400, 350), (299, 299)])
def test_the_clean_resize_is_clean_fids(fidelity: ModuleType, size: tuple[int, int]) -> None:
    """Within 1e-2 of 255: PyTorch's coefficients are of single precision, Pillow's of double."""
    resize = pytest.importorskip("cleanfid.resize")
    pixels = bytes_of(1, *size)
    expected = resize.make_resizer("PIL", False, "bicubic", (299, 299))(pixels[0])
    found = inception.clean(as_tensor(pixels))[0].permute(1, 2, 0) * 128 + 128
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-2)


# ---- images ----


def test_the_original_resize_by_hand() -> None:
    """Two pixels in a row: a ramp over the first half, then the second pixel, as nothing lies beyond its corner."""
    row = torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2)
    found = inception.original(row)[0, 0] * 128 + 128
    ramp = np.minimum(np.arange(299) * 2 / 299, 1) * 255
    np.testing.assert_allclose(found.numpy(), np.tile(ramp, (299, 1)), atol=1e-3)


def test_reducing_aliases_in_the_original_mode_and_not_in_the_clean_one() -> None:
    stripes = torch.tensor([-1.0, 1.0]).repeat(299).expand(1, 3, 598, 598)
    assert inception.original(stripes).max() < -0.99  # every second pixel alone
    assert inception.clean(stripes)[..., 5:-5].abs().max() < 0.05


def test_samples_are_judged_as_the_files_that_they_would_be() -> None:
    samples = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1
    rounded = as_tensor(to_pixels(samples))
    assert not torch.equal(samples, rounded)
    for prepare in (inception.original, inception.clean):
        torch.testing.assert_close(prepare(samples), prepare(rounded), rtol=0, atol=1e-6)
        assert prepare(samples).abs().max() <= 1


def test_gray_and_16_bit_pictures_and_any_batch_give_the_same_features(original: Features) -> None:
    gray = bytes_of(2, 24, 24, 1)
    expected = original(gray)
    assert expected.dtype == np.float32
    for form, rows in (
        (gray[:1].repeat(3, axis=3), expected[:1]),
        (gray[1:].astype(np.uint16) * 257, expected[1:]),
        ([as_tensor(gray)[:1], gray[1:]], expected),
    ):
        np.testing.assert_allclose(original(form), rows, atol=1e-4)


# ---- names and errors ----


def test_the_protocol_says_which_weights_and_resize(
    weights: Path, original: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = original.hash
    assert original.name == f"inception-original-{digest}"
    assert not original.official
    for word in (digest, "NOT the published weights 6726825d", "299x299", "bilinear of TensorFlow 1", "8 bit"):
        assert word in original.protocol
    assert "\n" not in original.protocol
    monkeypatch.setattr(inception, "INCEPTION_SHA256", sha256(weights))  # as if these were the published ones
    clean = Features.load("inception-clean", device="cpu", weights=weights)
    assert clean.official
    assert clean.name == "inception-clean"
    assert "NOT" not in clean.protocol
    assert "antialiased bicubic" in clean.protocol


@pytest.mark.parametrize("damage", ["cut", "noise", "another network", "missing layer", "a list", "absent"])
def test_a_file_that_does_not_fit_is_named_with_its_hash(damage: str, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if damage == "cut":
        path.write_bytes(weights.read_bytes()[:1_000_000])
    elif damage == "noise":
        path.write_bytes(b"no weights at all")
    elif damage == "another network":
        torch.save(nn.Conv2d(3, 8, 3).state_dict(), path)
    elif damage == "missing layer":
        state = torch.load(weights, weights_only=True)
        del state["Mixed_7c.branch_pool.bn.running_var"]
        torch.save(state, path)
    elif damage == "a list":
        torch.save([1, 2], path)
    expected = "does not exist" if damage == "absent" else r"\(hash [0-9a-f]{8}\) does not contain the weights"
    with pytest.raises(CheckpointError, match=expected) as caught:
        Features.load("inception-clean", device="cpu", weights=path)
    assert str(path) in str(caught.value)
    assert inception.INCEPTION_FILE.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_the_counters_of_batches_is_read(weights: Path, original: Features, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    path = tmp_path / "weights.pth"
    torch.save({name: values for name, values in state.items() if "num_batches" not in name}, path)
    network, digest = load_plain(path)
    assert digest[: len(original.hash)] != original.hash
    torch.testing.assert_close(network.fc.weight, state["fc.weight"])


def test_without_a_network_the_error_says_where_the_file_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(CheckpointError, match="could not be downloaded") as caught:
        Features.load("inception-original", device="cpu")
    assert str(tmp_path / "weights" / "pt_inception-2015-12-05-6726825d.pth") in str(caught.value)
    assert inception.INCEPTION_FILE.url in str(caught.value)


def test_a_file_in_the_cache_must_be_the_published_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path
) -> None:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path))
    cached = tmp_path / "weights" / inception.INCEPTION_FILE.name
    cached.parent.mkdir()
    cached.write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=r"hash [0-9a-f]{8}, expected 6726825d"):
        Features.load("inception-original", device="cpu")


# ---- the published weights ----


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(
    not (PUBLISHED.is_file() and CIFAR10),
    reason=f"needs the published weights (GANVAS_INCEPTION or {PUBLISHED}) and all of CIFAR-10 (GANVAS_CIFAR10)",
)
def test_the_published_weights_give_the_published_scores_of_cifar10(tmp_path: Path) -> None:
    """Inception score of the 50,000 training images as documented by torch-fidelity, FID to the 10,000 others."""
    features = Features.load("inception-original", weights=PUBLISHED)
    assert features.official
    found = {}
    for split in ("train", "test"):
        pack = open_pack("cifar10", DataConfig(split=split), data=CIFAR10, folder=tmp_path / split)
        found[split] = features_of(features, pack, np.arange(pack.num_images))
    assert [len(rows) for rows, _ in found.values()] == [50_000, 10_000]
    score = inception_score(found["train"][1], splits=10, shuffle_seed=2020)
    assert score.value == pytest.approx(11.237, abs=0.02)
    assert frechet(found["train"][0], found["test"][0]) == pytest.approx(3.15, abs=0.1)
