"""The fit of given weights to the training images, before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganvas.config import DataConfig, ModelConfig, TrainOptions
from ganvas.data import open_pack
from ganvas.data.batches import Batches, images_at
from ganvas.generator import to_pixels
from ganvas.image_files import save_png
from ganvas.models import batch_norm, build, build_generator
from ganvas.models.pretrained import ViewDiscriminator
from ganvas.system.device import choose_device
from ganvas.training import latents
from ganvas.training.latents import fit_latents, fit_latents_again
from ganvas.training.plan import plan
from ganvas.training.starting_weights import MODEL, shipped_origin
from ganvas.training.state import TrainState
from ganvas.training.transfer import take_over


def test_moved_latents_give_the_images_of_the_others() -> None:
    torch.manual_seed(0)
    generator = build_generator(ModelConfig("light", 24, 20, 3, z_dim=8, base=4, discriminator="both")).eval()
    z, mean, factor = torch.randn(4, 8), torch.randn(8), torch.randn(8, 8).tril()
    with torch.no_grad():
        before = generator(mean + z @ factor.T)
        generator.move_latents(mean, factor)
        torch.testing.assert_close(generator(z), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "channels"), [((16, 24), 4), ((32, 32), 1), ((40, 200), 3)])
def test_images_of_every_size_are_described(size: tuple[int, int], channels: int) -> None:
    """Also where the coarsest features are one pixel."""
    _, discriminator = build(ModelConfig("light", *size, channels, z_dim=8, base=4, discriminator="both"))
    assert isinstance(discriminator, ViewDiscriminator)
    rows = discriminator.described(torch.rand(3, channels, *size))
    assert len(rows) == 3 and rows.isfinite().all() and (rows.std(dim=0) > 0).float().mean() > 0.5


def colour(images: Tensor) -> Tensor:
    """(N,): mean difference of the channels of a pixel; 0 for gray images."""
    return (images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2))


def begun(folder: Path, **budget: float) -> TrainState:
    """The state of a run on these images with the weights in the package."""
    pack, device = open_pack(folder, DataConfig(size=MODEL.height, holdout=0)), choose_device("cpu")
    planned = plan(pack, TrainOptions(device="cpu", **budget), device)  # ty: ignore[invalid-argument-type]
    state = TrainState(planned.model, planned.config, Batches(pack, 8), device)
    take_over(state, shipped_origin(state.model))
    return state


def drawn(state: TrainState, num: int = 64) -> Tensor:
    state.measure(state.generator)
    z = torch.randn(num, MODEL.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        images = state.generator(z)
    state.generator.train()
    return images


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of one kind that the weights draw: the grayest ones, mostly films."""
    generator = build_generator(MODEL).eval()
    generator.load_state_dict(shipped_origin(MODEL).generator)
    with torch.no_grad():
        images = generator(torch.randn(120, MODEL.z_dim, generator=torch.Generator().manual_seed(4)))
    folder = tmp_path_factory.mktemp("drawings")
    for i in colour(images).argsort()[:24].tolist():
        save_png(folder / f"{i}.png", to_pixels(images[i : i + 1], 8)[0])
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images, which is quicker."""
    monkeypatch.setattr(latents, "_MOST", 120)
    monkeypatch.setattr(batch_norm, "MEASURED", 32)


@pytest.mark.usefixtures("few")
def test_generated_images_become_of_the_kind_of_the_training_images(drawings: Path) -> None:
    state = begun(drawings, images=20_000)
    pack = state.batches.pack
    real = colour(images_at(pack, pack.training)).mean()
    before = drawn(state)
    said = list[str]()
    fit_latents(state, said.append)
    assert len(said) == 1 and "latents" in said[0]
    assert state.generator.training and state.generator.coarse is None and state.seconds > 0
    after = drawn(state)
    assert colour(after).mean() - real < 0.7 * (colour(before).mean() - real)
    assert after.std(dim=0).mean() > 0.5 * before.std(dim=0).mean()  # not one image for all latents
    for average in state.averages:
        mine = state.generator.state_dict()
        assert all(torch.equal(value, mine[name]) for name, value in average.named_parameters())


@pytest.mark.usefixtures("few")
def test_a_short_budget_has_no_time_for_it(drawings: Path) -> None:
    for budget in ({"images": 500}, {"minutes": 1e-4}):
        state = begun(drawings, **budget)
        before = state.generator.start.weight.clone()  # ty: ignore[not-callable]
        fit_latents(state, pytest.fail)
        assert torch.equal(state.generator.start.weight, before)  # ty: ignore[invalid-argument-type]


@pytest.mark.usefixtures("few")
def test_they_are_fitted_again_once_after_half_of_the_budget(drawings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = begun(drawings, images=20_000)
    state.total_images = 20_000
    said = list[str]()

    def changes() -> bool:
        before = [network.state_dict()["start.weight"].clone() for network in (state.generator, state.ema.average)]
        fit_latents_again(state, said.append)
        after = [network.state_dict()["start.weight"] for network in (state.generator, state.ema.average)]
        changed = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
        assert changed[0] == changed[1] and state.generator.training and not state.ema.average.training
        return changed[0]

    state.images_seen = 9_999
    assert not changes() and not said
    state.images_seen = 10_000
    with monkeypatch.context() as patch:  # not if the images are too similar to each other
        patch.setattr(latents, "_DIVERSE", 10.0)
        assert not changes()
    assert state.state_dict()["counters"]["fitted_again"] == 1
    state.fitted_again = 0
    with monkeypatch.context() as patch:  # and not if they would become so
        diversity = iter([1.0, 0.5])
        patch.setattr(latents, "_diversity", lambda real, generated: next(diversity))
        assert not changes() and next(diversity, None) is None
    state.fitted_again = 0
    with monkeypatch.context() as patch:  # not with labels
        patch.setattr(TrainState, "labels_in_turn", torch.arange(2))
        assert not changes()
    state.fitted_again = 0
    assert changes()
    assert not changes() and len(said) == 3
