"""evaluation/copies.py: altered training images are found, unseen ones are left alone."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import rotate

from ganvas.config import DataConfig
from ganvas.data import Pack, open_pack
from ganvas.errors import DataError
from ganvas.evaluation.appearance import grain
from ganvas.evaluation.copies import CopyFinder, calibrate, dominance
from ganvas.evaluation.registration import IDENTITY, moving, registered, versions
from ganvas.evaluation.retrieval import Index, luminance_first, principal, visible_areas, window
from ganvas.system.files import cache_dir
from planted import landscapes


@pytest.fixture(scope="module")
def digits() -> Pack:
    return open_pack("digits", DataConfig(limit=700))


@pytest.fixture(scope="module")
def finder(digits: Pack) -> CopyFinder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ganvas.evaluation.copies.ENOUGH_TO_CALIBRATE", 160)
        return CopyFinder(digits)


@pytest.fixture
def rough(monkeypatch: pytest.MonkeyPatch) -> Pack:
    """240 digits, few moves, and a threshold from few real images: for copies that are far below it."""
    monkeypatch.setattr("ganvas.evaluation.copies.ENOUGH_TO_CALIBRATE", 40)
    monkeypatch.setattr("ganvas.evaluation.copies.versions", lambda: versions()[:40])
    return open_pack("digits", DataConfig(limit=240))


def clipped(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def shifted(pictures: np.ndarray) -> np.ndarray:
    return np.pad(pictures, ((0, 0), (2, 0), (2, 0), (0, 0)), mode="edge")[:, :-2, :-2]


def resized(pictures: np.ndarray, side: int) -> np.ndarray:
    size = pictures.shape[1:3]
    images = [Image.fromarray(picture[..., 0]).resize((side, side), Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images])[..., None]


def cropped(pictures: np.ndarray, box: tuple[int, int, int, int] = (1, 2, 30, 31)) -> np.ndarray:
    images = [Image.fromarray(picture[..., 0]).crop(box).resize((32, 32)) for picture in pictures]
    return np.stack([np.asarray(image) for image in images])[..., None]


def compressed(pictures: np.ndarray) -> np.ndarray:
    found = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture[..., 0]).save(buffer, "JPEG", quality=40)
        found.append(np.asarray(Image.open(buffer)))
    return np.stack(found)[..., None]


ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda x: x,
    "mirror": lambda x: x[:, :, ::-1],
    "shift": shifted,
    "crop": cropped,
    "brightness": lambda x: clipped(x * 0.8 + 20.0),
    "contrast": lambda x: clipped((x - 128.0) * 0.7 + 128),
    "noise": lambda x: clipped(x + 15 * np.random.default_rng(0).standard_normal(x.shape)),
    "compression": compressed,
    "down-scaling": lambda x: resized(x, 16),
    "rotation": lambda x: clipped(rotate(x.astype(float), 8, (1, 2), reshape=False, mode="nearest", order=1)),
    "close crop": lambda x: cropped(x, (1, 8, 24, 31)),
    "blend": lambda x: clipped(0.8 * x + 0.2 * x[::-1]),
    "collage": lambda x: np.concatenate([x[:, :, :24], x[::-1, :, 24:]], axis=2),
    "negative": lambda x: 255 - x,
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_training_pictures_are_found(name: str, finder: CopyFinder, digits: Pack) -> None:
    chosen = digits.training[::32]
    found = finder.find(ALTERATIONS[name](digits.images[chosen]))
    assert (found.score < finder.threshold).mean() >= 0.95
    assert (found.nearest == chosen).mean() >= 0.95
    if name == "mirror":
        assert sum("mirrored" in moved for moved in found.moved) > 0.8 * len(chosen)


def test_unseen_pictures_are_left_alone(finder: CopyFinder, digits: Pack) -> None:
    assert finder.is_copy(digits.images[digits.heldout]).mean() <= 0.03
    judged = finder.judge(digits.images[digits.heldout])
    assert judged.closer_than_heldout.value == pytest.approx(0.5)
    assert judged.authenticity.value > 0.3
    assert "no sign of copying" in judged.sentence


def test_a_set_of_copies_is_called_out(finder: CopyFinder, digits: Pack) -> None:
    half = np.concatenate([digits.images[digits.training[:30]], digits.images[digits.heldout[:30]]])
    judged = finder.judge(half)
    assert 0.4 < judged.rate.value < 0.65 and "are copies" in judged.sentence
    assert judged.authenticity.value < 0.75 and judged.closer_than_heldout.low > 0.5


def test_mirrored_copies_are_not_authentic(finder: CopyFinder, digits: Pack) -> None:
    judged = finder.judge(digits.images[digits.training[:40], :, ::-1])
    assert judged.caught and judged.authenticity.value <= 1 - judged.rate.value


def test_few_samples_rule_out_little(finder: CopyFinder, digits: Pack) -> None:
    judged = finder.judge(digits.images[digits.heldout[:24]])
    high = f"24 samples cannot rule out a copy rate below {judged.rate.high:.1%}"
    assert judged.rate.high > 0.1 and high in judged.sentence
    assert f"false-alarm rate at most {finder.false_alarms.high:.1%}" in judged.sentence


def test_the_calibration_is_read_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganvas.evaluation.copies.ENOUGH_TO_CALIBRATE", 0)
    monkeypatch.setattr("ganvas.evaluation.copies.versions", lambda: versions()[:5])
    pack = open_pack("digits", DataConfig(limit=200))
    finder = CopyFinder(pack)
    monkeypatch.setattr(CopyFinder, "_find", None)  # no search
    again = CopyFinder(pack)
    assert again.threshold == finder.threshold
    np.testing.assert_array_equal(again.heldout, finder.heldout)
    for path in (cache_dir() / "copies").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TypeError, match="not callable"):
        CopyFinder(pack)


def test_training_pictures_that_are_there_twice_or_twenty_times_hide_no_copy(rough: Pack) -> None:
    often, chosen = rough.training[0], rough.training[1:21]
    images = [rough.images, rough.images[chosen], np.repeat(rough.images[often : often + 1], 20, axis=0)]
    finder = CopyFinder(dataclasses.replace(rough, images=np.concatenate(images)))
    assert finder.duplicates >= 40
    assert finder.is_copy(rough.images[chosen]).mean() >= 0.95
    assert finder.is_copy(shifted(rough.images[often : often + 1])).all()


def test_noise_hides_no_copy_of_a_faint_image(rough: Pack) -> None:
    """The noise has twice the contrast of the images; held-out images are not flagged as copies because of it."""
    rng = np.random.default_rng(0)
    images = (128 + (landscapes(100).astype(float) - 128) / 8).round().astype(np.uint8)
    finder = CopyFinder(dataclasses.replace(rough, images=images, heldout=np.arange(25), labels=None))
    noisy = clipped(images + 2 * images.std((1, 2, 3)).mean() * rng.standard_normal(images.shape))
    found = finder.find(noisy[25:45]).score
    assert (found < finder.threshold).mean() > 0.9
    assert np.median(found) < 0.2  # 0.26 without the subtraction of noise
    assert finder.is_copy(noisy[:25]).mean() < 0.1


def test_a_faint_image_below_a_strong_one_is_found(rough: Pack) -> None:
    """The image with more contrast is the most similar one, and the copied one explains the rest."""
    images = np.asarray(rough.images).copy()
    faint, strong = rough.training[:20], rough.training[20:40]
    images[faint] = 128 + (images[faint].astype(float) - 128) / 8
    finder = CopyFinder(dataclasses.replace(rough, images=images))
    mixed = clipped(0.8 * images[faint] + 0.2 * images[strong])
    assert finder.is_copy(mixed).mean() >= 0.9


@pytest.mark.parametrize("side", [16, 32])
def test_registration_undoes_a_move(side: int) -> None:
    targets = torch.from_numpy(landscapes(20).astype(np.float32)).permute(0, 3, 1, 2)
    wide = F.interpolate(targets, (side, side), mode="bilinear", antialias=True)
    standard = (wide - wide.mean((1, 2, 3), keepdim=True)) / wide.std((1, 2, 3), keepdim=True)
    moved = torch.roll(standard, (1, -1), (2, 3))  # one pixel down and to the left
    left, moves = registered(moved, standard, IDENTITY.expand(20, 5), 4)
    assert (left < 0.05).float().mean() > 0.9
    assert moves[:, 1].median() == pytest.approx(-1 / side, abs=0.2 / side)
    assert moves[:, 2].median() == pytest.approx(1 / side, abs=0.2 / side)


def test_tone_and_sharpness_are_explained_as_is_the_negative() -> None:
    pictures = torch.randn((4, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    pictures = F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="replicate"), 5, 1)
    pictures = pictures / pictures.std((1, 2, 3), keepdim=True)
    for toned in (0.5 * pictures + 0.1 * pictures**2 + 3, -pictures):
        toned = (toned - toned.mean((1, 2, 3), keepdim=True)) / toned.std((1, 2, 3), keepdim=True)
        assert (registered(toned, pictures, IDENTITY.expand(4, 5), 0)[0] < 1e-3).all()
    assert (registered(pictures.flip(0), pictures, IDENTITY.expand(4, 5), 0)[0] > 0.5).all()


def test_a_turned_hue_is_explained() -> None:
    pixels = luminance_first(torch.from_numpy(landscapes(12).astype(np.float32)).permute(0, 3, 1, 2))
    wide = F.interpolate(pixels - pixels.mean((2, 3), keepdim=True), (32, 32), mode="bilinear", antialias=True)
    wide = wide / wide.std((1, 2, 3), keepdim=True)
    angle = torch.tensor(2.0)
    turned = torch.stack(
        [wide[:, 0], *(wide[:, 1:] * angle.cos() + angle.sin() * wide[:, [2, 1]] * torch.tensor([1, -1])[:, None, None])
        .unbind(1)], dim=1
    )  # fmt: skip
    assert (registered(turned, wide, IDENTITY.expand(12, 5), 0)[0] < 0.01).all()
    assert (registered(turned.roll(1, 0), wide, IDENTITY.expand(12, 5), 0)[0] > 0.2).all()


def test_the_index_finds_what_a_whole_search_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn((3000, 8), generator=generator), dim=1)
    near = F.normalize(rows[:50] + 0.05 * torch.randn((50, 8), generator=generator), dim=1)
    queries = torch.stack([F.normalize(torch.randn((50, 8), generator=generator), dim=1), near], dim=1)
    index = Index(rows, torch.ones(2, 3000))
    assert len(index.centres) == 55
    found, version = index.search(queries, 5)
    exact = torch.einsum("bvd,nd->bvn", queries, rows).amax(dim=1).topk(5, dim=1)
    assert (found[:, 0] == exact.indices[:, 0]).float().mean() > 0.95
    assert torch.equal(version[:, 0], torch.ones(50, dtype=torch.int64)) and torch.equal(found[:, 0], torch.arange(50))
    few, _ = Index(rows[:30], torch.ones(2, 30)).search(queries, 64)
    assert (few.sort(dim=1).values == torch.arange(30)).all()


@pytest.mark.parametrize("num", [300, 2500])  # one part, several parts
def test_a_part_is_found_in_an_image_with_most_of_its_content_elsewhere(num: int) -> None:
    """Compared with whole images, a faint left half is most similar to images that are similar everywhere."""
    thumbs = torch.from_numpy(landscapes(num, 16, 1).astype(np.float32)).permute(0, 3, 1, 2) / 255
    thumbs[:20, :, :, :8] = 0.5 + (thumbs[:20, :, :, :8] - 0.5) / 2
    seen = torch.ones(3, 16, 16)
    seen[1:, :, 8:] = 0
    seen = seen.flatten(1)
    directions = principal(thumbs, 64, window())
    rows = F.normalize(thumbs.flatten(1) @ directions, dim=1)
    pixels = thumbs[:20].flatten(1)
    halves = (pixels - (pixels @ seen[1])[:, None] / seen[1].sum()) * seen[1]
    queries = F.normalize(torch.stack([halves] * 3, dim=1) @ directions, dim=2)
    queries[:, 0] = rows[-20:]  # the first version shows the whole image, here of another one
    found, version = Index(rows, visible_areas(thumbs, seen)).search(queries, 10)
    itself = found == torch.arange(20)[:, None]
    assert itself.any(dim=1).float().mean() > 0.8 and (version[itself] > 0).all()
    missed, _ = Index(rows, torch.ones(3, num)).search(queries, 10)
    assert (missed == torch.arange(20)[:, None]).any(dim=1).float().mean() < 0.3


def test_moves_begin_with_none_and_ignore_brightness() -> None:
    assert versions()[0].tolist() == IDENTITY.tolist()
    directions = torch.eye(256)
    weights = window()
    directions = directions * weights[:, None] - weights[:, None] / weights.sum() * weights
    maps = moving(versions()[:3], directions)
    assert maps.shape == (256, 5 * 256)
    assert torch.allclose(torch.ones(1, 256) @ maps, torch.zeros(1, 5 * 256), atol=1e-4)
    without = maps.view(16, 16, 5, 256)  # rows, columns, moves
    assert without[:, :5, 3].abs().max() == 0 == without[:, -5:, 4].abs().max()  # the left, the right quarter
    assert min(without[:, 5:, 3].abs().max(), without[:, :-5, 4].abs().max()) > 0


def test_grain_is_the_variance_of_white_noise() -> None:
    smooth = torch.linspace(0, 1, 65)[:, None] * torch.linspace(0, 1, 63)
    noise = 0.1 * torch.randn((8, 3, 65, 63), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grain(smooth + noise), torch.full((8,), 0.01), rtol=0.15)
    assert grain(smooth.expand(1, 1, 65, 63)).max() < 1e-6


def test_held_out_pictures_that_leaked_are_left_out_of_the_threshold() -> None:
    scores = np.exp(np.random.default_rng(0).normal(-0.3, 0.15, 500))
    threshold, leaks = calibrate(scores)
    assert leaks == 0 and (scores < threshold).mean() == pytest.approx(0.005, abs=0.003)
    leaked, found = calibrate(np.append(scores, np.full(20, 0.01)))
    assert found == 20 and leaked == pytest.approx(threshold)
    few, _ = calibrate(scores[:40])
    assert 0.35 < few < 0.65


def test_dominance_by_hand() -> None:
    """Of the four pairs (1, 2), (1, 0), (3, 2), (3, 0) one sample is below; a tie counts half."""
    assert dominance(np.array([1.0, 3.0]), np.array([2.0, 0.0])).value == 0.25
    assert dominance(np.array([1.0, 1.0]), np.array([1.0, 1.0])).value == 0.5


def test_too_few_held_out_pictures_are_an_error(digits: Pack) -> None:
    with pytest.raises(DataError, match=r"3 held-out and .* training images are too few to detect copies"):
        CopyFinder(dataclasses.replace(digits, heldout=digits.heldout[:3]))


def test_too_few_different_training_pictures_are_an_error(digits: Pack) -> None:
    images = np.repeat(digits.images[:1], len(digits.images), axis=0)
    with pytest.raises(DataError, match="1 different training images are too few to detect copies: at least 12"):
        CopyFinder(dataclasses.replace(digits, images=images))


def test_with_few_held_out_images_real_ones_are_not_accused(digits: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty held-out images alone say little about the lowest score in two hundred."""
    order = np.random.default_rng(0).permutation(digits.training)
    few = dataclasses.replace(digits, images=np.asarray(digits.images[order[:300]]), heldout=np.arange(30), labels=None)
    monkeypatch.setattr("ganvas.evaluation.copies.ENOUGH_TO_CALIBRATE", 200)
    finder = CopyFinder(few)
    judged = finder.judge(digits.images[order[300:420]])
    assert judged.rate.value <= 0.01 and not judged.caught and "no sign of copying" in judged.sentence
    assert finder.is_copy(shifted(few.images[30:50])).mean() >= 0.95
    assert finder.false_alarms.high < 0.03  # from all real images of the calibration


def test_of_very_many_images_a_random_part_is_compared(rough: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganvas.evaluation.copies.MOST_COMPARED", 150)
    finder = CopyFinder(rough)
    assert len(finder.training) + finder.duplicates == 150 and np.isin(finder.training, rough.training).all()
    judged = finder.judge(rough.images[finder.training[:20]])
    assert judged.copies.mean() > 0.9
    share = 150 / rough.num_training
    assert judged.sentence.endswith(f"; only {share:.1%} of the training images, drawn at random, were compared")
