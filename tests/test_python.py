"""Ganvas from one's own code: generators, runs and packs as objects of the PyTorch world, and in notebooks."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

import ganvas
from ganvas.errors import ConfigError
from ganvas.run import Run


@pytest.fixture(scope="module")
def gan(trained: Path) -> ganvas.Generator:
    return ganvas.Generator.from_pretrained(trained, "cpu")


def shown(html: str) -> Image.Image:
    """The image in a notebook view."""
    match = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert match
    return Image.open(io.BytesIO(base64.b64decode(match[1])))


def test_the_package_lists_its_names() -> None:
    assert set(ganvas.__all__) <= set(dir(ganvas))
    for name in ganvas.__all__:
        assert getattr(ganvas, name).__doc__, name
    for name in ("train", "sample", "evaluate", "report", "export", "publish", "push", "pull"):
        assert callable(getattr(ganvas, name))
    assert (Path(ganvas.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ganvas.trian  # noqa: B018


def test_a_generator_is_saved_loaded_moved_and_called(gan: ganvas.Generator, tmp_path: Path) -> None:
    again = ganvas.Generator.from_pretrained(gan.save_pretrained(tmp_path / "model"), "cpu").to("cpu")
    z = gan.latents(range(3))
    images = again(z, label=[1, 0, 1])
    assert images.shape == (3, 1, 16, 16) and images.device == again.device
    torch.testing.assert_close(images, gan.render(z, torch.tensor([1, 0, 1])), rtol=0, atol=1e-6)
    assert torch.equal(gan(z), gan(z, "lying"))
    with pytest.raises(ConfigError, match="--device abacus"):
        again.to("abacus")


@pytest.mark.parametrize(
    "label", ["standing", 1, np.int64(1), np.array(1), torch.tensor(1), ["standing"] * 2, np.array([1, 1]),
              torch.tensor([1, 1]), [np.int32(1), torch.tensor(1)]], ids=str,
)  # fmt: skip
def test_labels_are_names_or_numbers_of_any_library(gan: ganvas.Generator, label: ganvas.Generator) -> None:
    assert torch.equal(gan.sample(2, seed=5, label=label), gan.sample(2, seed=5, label="standing"))


@pytest.mark.parametrize("label", [2, -1, True, "up", np.array([0, 2]), torch.tensor(2)], ids=str)
def test_labels_that_do_not_exist_are_refused(gan: ganvas.Generator, label: object) -> None:
    with pytest.raises(ConfigError, match="this model has lying, standing"):
        gan.sample(2, label=label)  # ty: ignore[invalid-argument-type]


def test_objects_show_what_they_are(gan: ganvas.Generator, trained: Path) -> None:
    assert re.fullmatch(
        r"Generator\(compact, 16x16x1, 2 classes, 48 images seen, 0\.\d\d M parameters, cpu\)", repr(gan)
    )
    assert shown(gan._repr_html_()).size == (8 * 18 + 2, 2 * 18 + 2)
    run = ganvas.Run(trained, writes=False)
    assert "compact, 16x16x1, 48 images seen, budget 48 images" in repr(run)
    with Image.open(run.grids()[-1][1]) as grid:
        assert shown(run._repr_html_()).tobytes() == grid.tobytes()
    assert "no training yet" in repr(Run(trained / "nothing", writes=False))
    assert "no training yet" in Run(trained / "nothing", writes=False)._repr_html_()


def test_the_result_of_a_training_leads_to_run_and_generator(two_classes: Path, trained: Path) -> None:
    result = ganvas.train(trained, quiet=True, device="cpu")  # finished: nothing is trained
    assert result.images_seen == 48 and result.folder == trained
    assert result.generator("cpu").classes == ["lying", "standing"] and "<img" in result._repr_html_()
    planned = ganvas.train(two_classes, trained / "new", dry_run=True, quiet=True, size=16, device="cpu", images=16)
    assert planned.images_seen == 0 and not (trained / "new").exists()


def test_a_generator_is_a_data_set(gan: ganvas.Generator, trained: Path) -> None:
    images = ganvas.SyntheticDataset(gan, n=70, seed=3)
    batches = list(DataLoader(images, batch_size=32))
    assert [len(x) for x, _ in batches] == [32, 32, 6] and images.classes == ["lying", "standing"]
    together = torch.cat([x for x, _ in batches])
    torch.testing.assert_close(together, gan.sample(70, seed=3), rtol=0, atol=1e-5)
    assert torch.cat([y for _, y in batches]).tolist() == [(3 + i) % 2 for i in range(70)]
    torch.testing.assert_close(images[-1][0], together[69], rtol=0, atol=1e-5)
    with pytest.raises(IndexError, match="70 images"):
        images[70]
    dark = ganvas.SyntheticDataset(trained, n=4, label="lying", transform=lambda image: image.mean() < 0)
    assert [label for _, label in DataLoader(dark, batch_size=None)] == [0, 0, 0, 0]
    assert dark[0][0] in (torch.tensor(True), torch.tensor(False))


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_pack_is_a_data_set(dtype: type, top: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, top, (50, 8, 12, 3), dtype)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(50) % 5)
    pack = ganvas.open_pack(tmp_path / "set.npz")
    (images, labels), *_ = DataLoader(Subset(pack, pack.training.tolist()), batch_size=50)  # ty: ignore
    assert images.shape == (pack.num_training, 3, 8, 12) and images.dtype == torch.float32
    np.testing.assert_allclose(
        (images[0].permute(1, 2, 0) + 1) * top / 2, pack.images[pack.training[0]], atol=top * 1e-6
    )
    assert labels.tolist() == pack.labels[pack.training].tolist() and len(pack) == 50
    assert re.search(r"50 images of 8x12x3 in 5 classes, \d+ held out", repr(pack))


def test_help_of_a_function_has_its_options() -> None:
    assert "truncation: 0 to 1; 1 = full variety" in (ganvas.sample.__doc__ or "")
