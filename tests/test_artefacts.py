"""evaluation/artefacts.py: planted faults are found, each by its own measure and not by the others."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.errors import DataError
from ganvas.evaluation.artefacts import checkerboard, correlation_range, examine, pairwise_correlation, sharpness
from ganvas.results import Interval


def clouds(num: int, height: int = 128, width: int = 128, seed: int = 0) -> np.ndarray:
    """Pictures (N, H, W) whose spectrum falls with the frequency, as natural ones' do, and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    fall = 1 / (np.hypot(y, x) + 2 / width)
    spectrum = rng.normal(size=(num, *fall.shape)) + 1j * rng.normal(size=(num, *fall.shape))
    pictures = np.fft.irfft2(spectrum * fall, (height, width))
    return pictures / pictures.std() / 3 + rng.normal(size=pictures.shape) * 0.01


def wave(period: int, width: int = 128) -> np.ndarray:
    return np.cos(2 * np.pi * np.arange(width) / period)


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("direction", ["lying", "standing", "both"])
def test_a_checkerboard_is_found_at_its_period_only(period: int, direction: str) -> None:
    clean = clouds(6)
    x, y = wave(period), wave(period)[:, None]
    planted = clean + 0.04 * period * {"lying": y + 0 * x, "standing": x + 0 * y, "both": y * x}[direction]
    before, after = checkerboard(clean), checkerboard(planted)
    assert all(0.7 < ratio < 1.3 for ratio in before.values())
    assert after[period] > 4
    assert {other: after[other] for other in (2, 4, 8) if other != period} == pytest.approx(
        {other: before[other] for other in (2, 4, 8) if other != period}, rel=0.1
    )


def test_a_checkerboard_whose_phase_wanders_is_found() -> None:
    shifts = np.random.default_rng(0).integers(0, 4, (6, 128))
    rows = np.stack([np.stack([np.roll(wave(4), shift) for shift in picture]) for picture in shifts])
    assert checkerboard(clouds(6) + 0.08 * rows)[4] > 4


@pytest.mark.parametrize("size", [(64, 64), (100, 132), (33, 47)])
def test_a_checkerboard_is_found_at_any_size(size: tuple[int, int]) -> None:
    clean = clouds(40, *size)
    for period in (2, 4, 8):
        planted = clean + 0.3 * wave(period, size[1])
        assert checkerboard(planted)[period] > 3 * checkerboard(clean)[period]


def test_periods_that_do_not_fit_are_left_out() -> None:
    assert set(checkerboard(clouds(2, 16, 16))) == {2, 4}
    assert set(checkerboard(clouds(2, 16, 24))) == {2, 4, 8}
    assert set(checkerboard(clouds(2, 8, 8))) == {2}


def test_the_checkerboard_of_a_nearest_neighbour_upsampling_is_found() -> None:
    coarse = clouds(6, 32, 32)
    blocks = coarse.repeat(4, axis=1).repeat(4, axis=2)
    # Blocks of 4 have no power at 1/4 itself: the checkerboard is what is added when each is shaded alike.
    shaded = blocks + 0.1 * np.tile([[0.0, 0, 0, 1]], (128, 32))
    assert checkerboard(shaded)[4] > 100 * checkerboard(blocks)[4]


def test_blank_pictures_have_no_checkerboard_and_no_sharpness() -> None:
    blank = np.full((3, 64, 64), -1.0)
    assert checkerboard(blank) == pytest.approx({2: 1, 4: 1, 8: 1})
    assert sharpness(blank) == 0


def test_sharpness_by_hand_and_of_blurred_pictures() -> None:
    spot = np.zeros((1, 5, 5))
    spot[0, 2, 2] = 1  # Laplacian of the inner 3 x 3: -4 in the middle, 1 beside it, 0 in the corners
    assert sharpness(spot) == pytest.approx((16 + 4) / 9)
    pictures = clouds(4)
    blurred = F.avg_pool2d(torch.from_numpy(pictures)[:, None], 3, 1, 1)
    assert sharpness(blurred) < 0.2 * sharpness(pictures)


def test_colours_count_by_their_mean_and_opacity_does_not() -> None:
    gray = torch.from_numpy(clouds(3, 64, 64)).float()
    tint = torch.tensor([0.1, 0.0, -0.1])[:, None, None]
    rgba = torch.cat([gray[:, None] + tint, torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))], 1)
    assert checkerboard(rgba) == pytest.approx(checkerboard(gray), rel=1e-3)
    assert sharpness(rgba) == pytest.approx(sharpness(gray.numpy()), rel=1e-3)
    assert pairwise_correlation(rgba) == pytest.approx(pairwise_correlation(gray[:, None]), rel=1e-3)


def test_correlation_of_equal_inverted_unrelated_and_blank_pictures() -> None:
    picture = clouds(1, 160, 200)
    assert pairwise_correlation(np.repeat(picture, 4, axis=0)) == pytest.approx(1)
    assert pairwise_correlation(np.concatenate([picture, 0.3 - 0.5 * picture])) == pytest.approx(-1)
    noise = np.random.default_rng(0).normal(size=(20, 64, 64))
    assert abs(pairwise_correlation(noise)) < 0.005
    assert pairwise_correlation(np.zeros((3, 32, 32))) == pytest.approx(1)  # a collapse, not diversity
    assert pairwise_correlation(np.concatenate([noise[:1], np.zeros((1, 64, 64))])) == pytest.approx(0)


def test_correlation_against_numpy_on_reduced_pictures() -> None:
    pictures = clouds(5, 64, 96)
    reduced = pictures.reshape(5, 16, 4, 16, 6).mean(axis=(2, 4))
    expected = np.corrcoef(reduced.reshape(5, -1))[np.triu_indices(5, 1)].mean()
    assert pairwise_correlation(pictures, size=16) == pytest.approx(expected)


def test_the_quarter_is_the_upper_left_one() -> None:
    pictures = clouds(6, 64, 64)
    marked = pictures.copy()
    marked[:, :32, :32] = pictures[0, :32, :32]
    assert pairwise_correlation(marked, quarter=True) == pytest.approx(1)
    assert pairwise_correlation(marked) < 0.6
    elsewhere = pictures.copy()
    elsewhere[:, 32:] = pictures[0, 32:]
    assert pairwise_correlation(elsewhere, quarter=True) == pytest.approx(pairwise_correlation(pictures, quarter=True))


def test_the_range_of_real_draws() -> None:
    real = clouds(30, 32, 32) + clouds(1, 32, 32, seed=1)
    found = correlation_range(real, draws=100)
    assert found == correlation_range(real, draws=100)
    assert found != correlation_range(real, draws=100, seed=1)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(pairwise_correlation(real), abs=0.03)
    everything = correlation_range(real, num=30, draws=3)
    assert everything == pytest.approx([pairwise_correlation(real)] * 3)
    with pytest.raises(DataError, match="30 real images are too few to draw samples of 31"):
        correlation_range(real, num=31)
    with pytest.raises(DataError, match="at least 2 images"):
        pairwise_correlation(real[:1])


def test_real_chest_films(shared_data: Path) -> None:
    """Thirty films stretched to 800 x 800, as the chest X-ray project does."""
    with zipfile.ZipFile(shared_data / "chest_xray" / "chest_xray_normal_300.zip") as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith((".jpeg", ".jpg"))][::10]
        films = [Image.open(io.BytesIO(archive.read(name))).convert("L").resize((800, 800)) for name in names]
    real = np.stack([np.asarray(film, np.float32) for film in films]) / 127.5 - 1
    assert checkerboard(real) == pytest.approx({2: 1, 4: 1, 8: 1}, abs=0.1)
    assert correlation_range(real).mean == pytest.approx(0.70, abs=0.05)
    assert correlation_range(real, quarter=True).mean == pytest.approx(0.54, abs=0.06)
    planted = real[:9] + 0.02 * np.tile([1, -1], 400).astype(np.float32)
    assert checkerboard(planted)[2] > 10


# ---- generated against real ----


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Two halves of 200 different digits each, (N, H, W, 1) uint8."""
    pack = open_pack("digits")
    order = np.random.default_rng(0).permutation(pack.num_images)
    return pack.images[np.sort(order[:200])], pack.images[np.sort(order[200:400])]


def faults(real: np.ndarray, fake: np.ndarray) -> dict[str, str]:
    """What is not ok, with the severity."""
    found = examine(real, fake).findings
    assert all(finding.sentence.endswith(".") for finding in found)
    return {finding.what: finding.severity for finding in found if finding.severity != "ok"}


def clipped(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def test_other_real_pictures_have_no_fault(digits: tuple[np.ndarray, np.ndarray]) -> None:
    assert faults(*digits) == {}


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_planted_checkerboard_is_named_with_period_and_direction(
    period: int, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    real, fake = (clipped(60 + 0.5 * half) for half in digits)  # room below: a cut wave has overtones at other periods
    crests = 30 * np.cos(2 * np.pi * np.arange(fake.shape[2]) / period)[None, None, :, None]
    found = examine(real, clipped(fake + crests))
    (checkerboard,) = (finding for finding in found.findings if finding.what == "checkerboard")
    assert checkerboard.severity == "bad" and f"horizontal period of {period} pixels" in checkerboard.sentence
    (row,) = (row for row in found.checkerboard if row.period == period)
    assert row.worse == row.horizontal and row.vertical.value < 2
    assert row.worse.low <= row.worse.value <= row.worse.high and row.worse.value > 3


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("noise", lambda x: x + 25 * np.random.default_rng(1).standard_normal(x.shape), {"sharpness", "spectrum"}),
        ("blur", lambda x: (x + np.roll(x, 1, 1) + np.roll(x, 1, 2) + np.roll(x, (1, 1), (1, 2))) / 4, {"sharpness"}),
        ("brighter", lambda x: x + 40.0, {"tone"}),
        ("one picture", lambda x: np.repeat(x[:1], len(x), axis=0), {"variety"}),
        ("blank", lambda x: np.where(np.arange(len(x))[:, None, None, None] < 40, 0.0, x), {"blank"}),
    ],
)
def test_a_planted_fault_is_named(
    name: str, change: Any, expected: set[str], digits: tuple[np.ndarray, np.ndarray]
) -> None:
    real, fake = digits
    assert expected <= set(faults(real, clipped(change(fake.astype(np.float64)))))


def test_films_of_two_draws_are_alike_and_a_faint_checkerboard_is_seen(shared_data: Path) -> None:
    (films,) = (shared_data / "chest_xray").glob("*.zip")
    pack = open_pack(films, DataConfig(size="128", limit=120))
    real, fake = pack.images[::2], pack.images[1::2]
    assert faults(real, fake) == {}
    chequered = 4 * (np.indices(fake.shape[1:3]).sum(axis=0) % 2)[None, :, :, None]
    assert "checkerboard" in faults(real, clipped(fake + chequered.astype(float)))


def test_values_that_are_not_finite_and_shapes_that_differ_are_refused(digits: tuple[np.ndarray, np.ndarray]) -> None:
    real, fake = digits
    broken = np.zeros((20, 1, 32, 32), np.float32)
    broken[7, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match="generated image 7 has values that are not finite"):
        examine(real, broken)
    with pytest.raises(DataError, match="both must be the same"):
        examine(real, fake[:, :16])
    with pytest.raises(DataError, match="5 real images were given: expected at least 18"):
        examine(real[:5], fake)
    for measure in (checkerboard, lambda small: examine(small, small)):
        with pytest.raises(DataError, match="images of 5x20 pixels cannot be measured: expected at least 8x8"):
            measure(np.zeros((20, 5, 20)))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 9), (9, 15), (17, 8), (8, 200)])
def test_the_smallest_images_are_examined(height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 20, height, width, 3), np.uint8)
    json.dumps(dataclasses.asdict(examine(*noise)), allow_nan=False)


def test_an_examination_is_plain_values(digits: tuple[np.ndarray, np.ndarray]) -> None:
    found = dataclasses.asdict(examine(*digits))
    assert json.loads(json.dumps(found)) == found
    assert len(found["spectrum"]["frequency"]) == len(found["spectrum"]["real"]) == 16


def test_intervals_contain_their_values(digits: tuple[np.ndarray, np.ndarray]) -> None:
    real, fake = digits
    blocks = 20 * (np.indices((fake.shape[1] // 8 + 1, fake.shape[2] // 8 + 1)).sum(0) % 2).repeat(8, 0).repeat(8, 1)
    found = examine(real, clipped(fake + blocks[None, : fake.shape[1], : fake.shape[2], None]))
    compared = [one for one in vars(found).values() if isinstance(one, Interval)]
    assert len(compared) > 3
    for one in compared:
        assert one.low <= one.value <= one.high, one


def test_images_that_repeat_are_found_beside_fewer_real_ones() -> None:
    """Of 200 images, each of 50 four times, 36 hardly contain two equal ones."""
    images = np.clip(128 + 60 * clouds(236, 32, 32), 0, 255).astype(np.uint8)[..., None]
    for fake, severity in ((images[36:], "ok"), (np.tile(images[36:86], (4, 1, 1, 1)), "bad")):
        judged = {one.what: one for one in examine(images[:36], fake).findings}
        assert judged["variety"].severity == severity
    assert judged["variety"].sentence.startswith("Generated images repeat: 100.0%")


def test_images_that_repeat_are_no_more_evidence_than_each_of_them_once(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    """Otherwise chance differences of few images are called faults: two artefacts of 50 images, each four times."""
    real, fake = digits
    once, often = (examine(real, np.tile(fake[:20], (times, 1, 1, 1))) for times in (1, 10))
    for one, other in ((once.sharpness, often.sharpness), (once.power.fine, often.power.fine)):
        assert other.value == pytest.approx(one.value, rel=1e-4)
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.25)
