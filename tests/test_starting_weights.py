"""The weights in the package that new networks start from: when they are used, and what they become at other sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import ganvas
from ganvas.config import DataConfig, ModelConfig, TrainOptions
from ganvas.data import open_pack
from ganvas.data.batches import Batches
from ganvas.errors import CheckpointError, RunError
from ganvas.models import batch_norm, build_generator
from ganvas.models.batch_norm import measure_statistics
from ganvas.run import Run
from ganvas.system.device import choose_device
from ganvas.training import starting_weights
from ganvas.training.plan import plan
from ganvas.training.starting_weights import MODEL, NONE, NUM_STAGES, SHIPPED, shipped_origin, start_for
from ganvas.training.state import TrainState
from ganvas.training.transfer import fit, take_over


@pytest.fixture(scope="module", autouse=True)
def few_measured() -> Iterator[None]:
    """Statistics of few images, which are quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_norm, "MEASURED", 32)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{i}.png")
    return folder


def drawn(model: ModelConfig, num: int = 4, coarse: tuple[int, int] | None = None) -> torch.Tensor:
    """Images (num, C, H, W) of a generator with the weights in the package. coarse: small images of this size."""
    generator = build_generator(model)
    theirs, channels = shipped_origin(model).generator, (MODEL.channels, model.channels)
    mine = generator.state_dict()
    fitted = {name: fit(tensor, mine[name], channels) for name, tensor in theirs.items()}
    missing, _ = generator.load_state_dict(fitted, strict=False)  # ty: ignore[invalid-argument-type]
    new = ("to_details", "tail")
    assert all(name.startswith(new) or int(name.split(".")[1]) >= NUM_STAGES for name in missing)
    measure_statistics(generator, model)
    generator.coarse = coarse
    with torch.no_grad():
        return generator(torch.randn(num, model.z_dim, generator=torch.Generator().manual_seed(3)))


@pytest.fixture(scope="module")
def usual() -> torch.Tensor:
    """Images of the size that the weights were trained with."""
    return drawn(MODEL)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, SHIPPED),
        ({"height": 48}, SHIPPED),
        ({"height": 96, "width": 160, "channels": 1}, SHIPPED),
        ({"discriminator": "features", "num_classes": 3}, SHIPPED),
        ({"discriminator": "own"}, None),
        ({"base": 16}, None),
        ({"z_dim": 32}, None),
        ({"channels": 4}, None),
        ({"height": 32}, None),
        ({"model": "compact"}, None),
    ],
)
def test_networks_of_the_right_widths_start_from_them(changes: dict, start: str | None) -> None:
    model = dataclasses.replace(MODEL, **changes)
    assert start_for(model, None) == start
    assert start_for(model, NONE) is None
    assert start_for(model, "/runs/other") == "/runs/other"


def test_both_networks_and_the_average_get_them(photos: Path) -> None:
    pack, device = open_pack(photos, DataConfig(size=64, holdout=0)), choose_device("cpu")
    planned = plan(pack, TrainOptions(images=16, device="cpu"), device)
    assert start_for(planned.model, None) == SHIPPED  # the default networks on a CPU
    state = TrainState(planned.model, planned.config, Batches(pack, 8), device)
    origin = shipped_origin(state.model)
    lines = take_over(state, origin)
    # Only the pixel discriminator starts from new weights.
    assert "56 of 56" in lines[0] and "own." in lines[1]
    for network, theirs in (
        (state.generator, origin.generator),
        (state.ema.average, origin.generator),
        (state.discriminator, origin.discriminator or {}),
    ):
        mine = network.state_dict()
        assert theirs and all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 48},
        {"height": 96, "width": 160},
        {"height": 128, "width": 128, "channels": 1},
    ],
)
def test_other_sizes_start_with_the_same_images(changes: dict, usual: torch.Tensor) -> None:
    model = dataclasses.replace(MODEL, **changes)
    before, after = (
        F.adaptive_avg_pool2d(one.mean(dim=1, keepdim=True), 8).flatten(1) for one in (usual, drawn(model))
    )
    likeness = torch.corrcoef(torch.cat([before, after]))[:4, 4:]
    others = (likeness.sum() - likeness.trace()) / 12
    assert likeness.trace() / 4 > max(0.4, others + 0.2), likeness


@pytest.mark.parametrize("side", [72, 96, 128, 256])
def test_larger_sizes_begin_with_exactly_these_images(side: int, usual: torch.Tensor) -> None:
    images = drawn(dataclasses.replace(MODEL, height=side, width=side), coarse=(64, 64))
    torch.testing.assert_close(images, usual)


def test_a_run_says_what_it_started_from(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = {"images": 16, "batch": 8, "previews": 1, "device": "cpu", "size": 40}
    ganvas.train(photos, tmp_path / "run", **options)
    assert "starting from the weights in this package (--from none: from new weights)" in capsys.readouterr().err
    assert Run(tmp_path / "run").config().start == SHIPPED
    assert "trained on comic faces" in (tmp_path / "run" / "model" / "README.md").read_text()
    with pytest.raises(RunError, match="started from ganvas, not from none"):
        ganvas.train(photos, tmp_path / "run", start_from=NONE, **options)
    ganvas.train(photos, tmp_path / "new", start_from=NONE, **options)
    assert Run(tmp_path / "new").config().start is None
    assert "starting weights" not in (tmp_path / "new" / "model" / "README.md").read_text()
    ganvas.train(photos, tmp_path / "new", start_from=NONE, **options)  # finished: resumes, and changes nothing


def test_a_damaged_file_is_named_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (None, b"damaged"):
        file = tmp_path / "light.safetensors"
        if content is not None:
            file.write_bytes(content)
        monkeypatch.setattr(starting_weights, "FILE", file)
        with pytest.raises(CheckpointError, match=r"light\.safetensors are missing or damaged .* --from none"):
            shipped_origin(MODEL)


def test_the_file_is_small() -> None:
    assert starting_weights.FILE.stat().st_size < 3e6
