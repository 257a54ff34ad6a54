"""Videos, image files and sheets through the command line: size, length, format, transparency, metadata."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

import ganvas
from conftest import Command
from ganvas.generator import Generator, to_pixels
from ganvas.provenance import KIND
from test_film import frames_of, needs_av
from test_generator import fresh

VIDEO = [pytest.param(form, marks=needs_av) for form in ("mp4", "webm", "mov")]


@pytest.fixture(scope="module")
def sprites() -> Generator:
    """Images of 16x16 pixels with transparency, in two classes."""
    return fresh(classes=["cat", "dog"], channels=4)


@pytest.fixture(scope="module")
def model(sprites: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sprites.save(tmp_path_factory.mktemp("sprites") / "model")


def fine(command: Command, *arguments: object) -> str:
    answer = command(*arguments)
    assert answer.code == 0, answer.err
    return answer.err


def rgba(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGBA")).astype(int)


def length_of(path: Path) -> float:
    """Seconds."""
    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as opened:
            times = []
            for frame in ImageSequence.Iterator(opened):
                frame.load()
                times.append(frame.info["duration"])
        return sum(times) / 1000
    import av

    with av.open(str(path)) as container:
        return len(frames_of(path)) / float(container.streams.video[0].average_rate or 1)


# -- interpolate --


@pytest.mark.parametrize("form", ["gif", "webp", *VIDEO])
def test_a_video_has_its_size_length_transparency_and_metadata(
    ganvas_command: Command, model: Path, sprites: Generator, tmp_path: Path, form: str
) -> None:
    out = tmp_path / f"a.{form}"
    options = ("--seeds", "1,2", "--seconds", 0.75, "--fps", 8, "--size", "96x64")
    said = fine(ganvas_command, "interpolate", model, *options, "--out", out)
    assert f"a.{form}: frames" in said
    assert {frame.shape for frame in frames_of(out)} == {(64, 96, 3)} and length_of(out) == pytest.approx(
        0.75, abs=0.02
    )
    recipes = [{"seed": 1}, {"seed": 2}]
    expected = {"synthetic": True, "model": sprites.hash, "recipe": {"interpolation": recipes}}
    assert ganvas.read_provenance(out) == expected
    if form in ("gif", "webp"):
        pixels = rgba(out)
        assert pixels[:, :15, 3].max() == 0  # beside the image
        assert 0.05 < (pixels[:, 16:80, 3] > 127).mean() < 0.95
    elif form != "mp4":
        import av

        with av.open(str(out)) as container:
            stream = container.streams.video[0]
            frame = next(container.decode(video=0))
            assert stream.metadata.get("alpha_mode") == "1" or frame.format.name.startswith("yuva")


@pytest.mark.parametrize(
    ("form", "options", "beside"),
    [
        ("webp", ["--background", "#00ff00"], (0, 255, 0)),
        pytest.param("mp4", [], (255, 255, 255), marks=needs_av),
        pytest.param("mp4", ["--background", "blue"], (0, 0, 255), marks=needs_av),
    ],
)
def test_a_background_stands_beside_and_behind(
    ganvas_command: Command, model: Path, tmp_path: Path, form: str, options: list[str], beside: tuple[int, ...]
) -> None:
    out = tmp_path / f"a.{form}"
    fine(ganvas_command, "interpolate", model, "--frames", 4, "--size", "128x64", *options, "--out", out)
    first = frames_of(out)[0]
    np.testing.assert_allclose(first[:, :28].reshape(-1, 3).mean(axis=0), beside, atol=4)
    if form == "webp":
        assert rgba(out)[..., 3].min() == 255


def test_gray_images_stand_on_black_and_are_enlarged_smoothly_or_by_pixels(
    ganvas_command: Command, trained: Path, tmp_path: Path
) -> None:
    found = {}
    for name in ("nearest", "lanczos", "bicubic"):
        out = tmp_path / f"{name}.gif"
        options = ("--frames", 4, "--size", "64x128", "--filter", name, "--labels", "lying")
        fine(ganvas_command, "interpolate", trained, *options, "--out", out)
        found[name] = frames_of(out)[0]
        assert found[name][:32].max() == 0 == found[name][96:].max()
    blocks = found["nearest"][32:96].reshape(16, 4, 16, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    jumps = {name: np.abs(np.diff(frame[32:96].astype(int), axis=1)).max() for name, frame in found.items()}
    assert max(jumps["lanczos"], jumps["bicubic"]) < 0.8 * jumps["nearest"]


def test_easing_sets_the_speed_between_the_images(ganvas_command: Command, trained: Path, tmp_path: Path) -> None:
    second = {}
    for name in ("cubic", "cosine", "linear"):
        out = tmp_path / f"{name}.gif"
        options = ("--seeds", "1,2", "--labels", "lying", "--frames", 16, "--enlarge", 1, "--easing", name)
        fine(ganvas_command, "interpolate", trained, *options, "--out", out)
        first, after, *_ = [frame.astype(int) for frame in frames_of(out)]
        second[name] = np.abs(after - first).mean()
    assert second["cubic"] < second["cosine"] < second["linear"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seconds", 1, "--frames", 9], "--seconds and --frames: give one of them"),
        (["--seconds", 0.01], "needs at least 2 frames"),
        (["--size", "64x64", "--enlarge", 2], "--enlarge and --size: give one of them"),
        (["--size", "64x64", "--max-mb", 2], "--size and --max-mb: give one of them"),
        (["--size", "64"], "--size 64: expected width x height"),
        (["--size", "8000x64"], "16 to 7680"),
        (["--background", "grren"], "--background grren: expected a colour"),
        (["--filter", "lanzcos"], "did you mean 'lanczos'"),
        (["--easing", "bounce"], "expected one of cosine, cubic, linear"),
        (["--fps", 0], "--fps 0: expected a number from 0.1 to 120"),
        (["--fps", 60], "expected up to 50 for GIF"),
    ],
)
def test_a_video_that_cannot_be_is_refused_first(
    ganvas_command: Command, model: Path, tmp_path: Path, options: list, words: str
) -> None:
    answer = ganvas_command("interpolate", model, *options, "--out", tmp_path / "a.gif")
    assert answer.code == 2 and words in answer.err and answer.err.count("\n") == 1, answer
    assert not list(tmp_path.iterdir())


@needs_av
def test_odd_sizes_are_refused_by_video_codecs(ganvas_command: Command, model: Path, tmp_path: Path) -> None:
    answer = ganvas_command("interpolate", model, "--size", "65x64", "--out", tmp_path / "a.mp4")
    assert answer.code == 2 and "--size 65x64: MP4 needs even numbers" in answer.err
    assert not list(tmp_path.iterdir())


# -- video --


@pytest.mark.parametrize("form", ["gif", *VIDEO])
def test_the_training_has_a_video_of_any_size_and_length(
    ganvas_command: Command, trained: Path, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "new" / f"film.{form}"
    said = fine(ganvas_command, "video", trained, "--size", "320x240", "--seconds", 5, "--out", out)
    assert f"film.{form}: frames" in said
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert {frame.shape for frame in frames_of(out)} == {(240, 320, 3)}
    assert length_of(out) == pytest.approx(5, abs=0.05)
    assert (ganvas.read_provenance(out) is None) and b"Synthetic image" in out.read_bytes()


def test_grids_per_second_and_formats(ganvas_command: Command, trained: Path, tmp_path: Path) -> None:
    num = len(list((trained / "samples").glob("*.png")))
    fine(ganvas_command, "video", trained, "--fps", 2, "--formats", "gif,webp", "--out", tmp_path, "--quiet")
    assert {path.name for path in tmp_path.iterdir()} == {"training.gif", "training.webp"}
    for path in tmp_path.iterdir():
        assert length_of(path) == pytest.approx((num - 1) / 2 + 2.5, abs=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seconds", 9, "--fps", 2], "--seconds and --fps: give one of them"),
        (["--seconds", 0.1], "--seconds 0.1: "),
        (["--size", "64x40"], "--size 64x40: expected a height of 44 or more"),
        (["--fps", 60], "--fps 60: expected up to 50 for GIF"),
        (["--out", "a.gif", "--formats", "gif"], "remove the option"),
        (["--formats", "avi"], "expected some of gif, webp, mp4, webm, mov"),
    ],
)
def test_a_training_video_that_cannot_be_is_refused(
    ganvas_command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ganvas_command("video", trained, *options)
    assert answer.code == 2 and words in answer.err and answer.err.count("\n") == 1, answer
    assert not list(tmp_path.iterdir()) and not (trained / "training.gif").exists()


# -- sample --


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
def test_files_of_every_format_have_pixels_resolution_and_metadata(
    ganvas_command: Command, model: Path, sprites: Generator, tmp_path: Path, form: str
) -> None:
    options = ("--n", 2, "--label", "dog", "--format", form, "--enlarge", 4, "--filter", "nearest", "--dpi", 300)
    fine(ganvas_command, "sample", model, *options, "--out", tmp_path)
    names = [f"seed00000{seed}_dog_x4-nearest_300dpi.{form}" for seed in (0, 1)]
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.csv", *names}
    first = tmp_path / names[0]
    assert ganvas.read_provenance(first) == {
        "synthetic": True,
        "model": sprites.hash,
        "recipe": {"seed": 0, "label": "dog"},
    }
    assert KIND.encode() in first.read_bytes()
    with Image.open(first) as opened:
        assert opened.size == (64, 64)
        exif = opened.getexif()
        dpi = (exif[282], exif[283]) if form == "webp" else opened.info["dpi"]
        assert dpi == pytest.approx((300, 300), abs=0.01)
    expected = to_pixels(sprites.sample(1, 0, "dog"))[0].repeat(4, axis=0).repeat(4, axis=1).astype(int)
    found = rgba(first)
    if form in ("png", "tiff"):
        assert np.abs(found - expected).max() <= 1
    elif form == "webp":
        assert np.abs(found[..., 3] - expected[..., 3]).max() <= 1
    else:  # on white
        share = expected[..., 3:] / 255
        assert np.abs(found[..., :3] - (expected[..., :3] * share + 255 * (1 - share))).mean() < 6


def test_sixteen_bits_stay_when_they_are_enlarged(ganvas_command: Command, tmp_path: Path) -> None:
    deep = fresh()
    object.__setattr__(deep.info, "depth", 16)
    model = deep.save(tmp_path / "model")
    for options in (("--out", tmp_path / "a.tif"), ("--out", tmp_path / "b.png", "--filter", "bicubic")):
        fine(ganvas_command, "sample", model, "--n", 1, "--enlarge", 2, *options)
        with Image.open(options[1]) as opened:
            pixels = np.asarray(opened)
        plain = to_pixels(deep.sample(1), 16)[0, :, :, 0].astype(float)
        assert pixels.dtype == np.uint16 and pixels.shape == (32, 32) and (pixels % 257 != 0).any()
        means = pixels.reshape(16, 2, 16, 2).mean(axis=(1, 3))
        assert np.abs(means - plain)[2:-2, 2:-2].mean() < 0.1 * plain.std() + 100


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp", "a.png", "a.tif"])
def test_the_ending_selects_the_format_of_a_grid_and_of_one_image(
    ganvas_command: Command, model: Path, tmp_path: Path, name: str
) -> None:
    fine(ganvas_command, "sample", model, "--n", 4, "--grid", "--enlarge", 2, "--dpi", 200, "--out", tmp_path / name)
    fine(ganvas_command, "sample", model, "--n", 1, "--seed", 7, "--out", tmp_path / "one" / name)
    form = {"a.jpg": "JPEG", "a.JPEG": "JPEG", "a.webp": "WEBP", "a.png": "PNG", "a.tif": "TIFF"}[name]
    for path, size in ((tmp_path / name, 2 * 34 + 2), (tmp_path / "one" / name, 16)):
        with Image.open(path) as opened:
            assert opened.format == form and opened.size == (size, size)
    grid, one = (ganvas.read_provenance(path) for path in (tmp_path / name, tmp_path / "one" / name))
    assert grid is not None and grid["recipe"] == {"seeds": [0, 1, 2, 3], "truncation": 1.0}
    assert one is not None and one["recipe"] == {"seed": 7, "label": "dog"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([name, "one", name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "a.jpg"], "--out a.jpg is one file, but 16 images were asked for: add --grid or --n 1"),
        (["--out", "a.jpg", "--grid", "--format", "png"], "--format png: --out ends in .jpg"),
        (["--out", "a.zip", "--grid"], "cannot be a zip file"),
        (["--format", "jpeg"], "did you mean 'jpg'"),
        (["--enlarge", 0], "--enlarge 0: expected a number from 1 to 64"),
        (["--dpi", 0], "--dpi 0: expected"),
        (["--out", "a.webp", "--grid", "--n", 300, "--enlarge", 64], "WEBP files have up to 16,383 per side"),
    ],
)
def test_files_that_cannot_be_are_refused(
    ganvas_command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ganvas_command("sample", model, *options)
    assert answer.code == 2 and words in answer.err and answer.err.count("\n") == 1, answer
    assert not list(tmp_path.iterdir())


def test_a_grid_has_one_row_per_class(ganvas_command: Command, model: Path, sprites: Generator, tmp_path: Path) -> None:
    fine(ganvas_command, "sample", model, "--per-class", 3, "--grid", "--out", tmp_path / "a.png")
    pixels = rgba(tmp_path / "a.png")
    assert pixels.shape == (2 * 18 + 2, 3 * 18 + 2, 4)
    cell = pixels[20:36, 2:18]
    image = to_pixels(sprites.sample(1, 3, "dog"))[0].astype(float)
    assert np.abs(cell - over(image, 255)).max(axis=2)[0, :2].max() <= 1  # a square of 2 pixels is white, the next gray
    assert np.abs(cell - over(image, 204)).max(axis=2)[0, 2:4].max() <= 1


def over(image: np.ndarray, tone: float) -> np.ndarray:
    """The opaque image on an even ground."""
    opacity = image[..., 3:] / 255
    colour = image[..., :3] * opacity + tone * (1 - opacity)
    return np.concatenate([colour, np.full_like(opacity, 255)], axis=2)


def test_transparency_is_a_checkerboard_in_grids_only(
    ganvas_command: Command, model: Path, sprites: Generator, tmp_path: Path
) -> None:
    for out in ("grid.png", "grid.webp"):
        fine(ganvas_command, "sample", model, "--n", 4, "--grid", "--out", tmp_path / out)
        with Image.open(tmp_path / out) as opened:
            assert opened.mode == "RGB"
    fine(ganvas_command, "sample", model, "--n", 1, "--label", "cat", "--out", tmp_path / "one")
    (single,) = (tmp_path / "one").glob("*.png")
    assert np.abs(rgba(single) - to_pixels(sprites.sample(1, 0, "cat"))[0]).max() <= 1


# -- per class, without copies --


class Finder:
    """Flags every third image that it is shown as a copy."""

    share_compared = 1.0

    def __init__(self, *_: object) -> None:
        self.shown = itertools.count()

    def is_copy(self, pixels: np.ndarray) -> np.ndarray:
        return np.array([next(self.shown) % 3 == 0 for _ in pixels])


def test_images_left_out_are_replaced_per_class(
    ganvas_command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganvas.explore.verbs.CopyFinder", Finder)
    monkeypatch.setattr("ganvas.explore.verbs.pack_of", lambda *_: None)
    call = ("sample", model, "--per-class", 5, "--no-copies", "--seed", 40, "--out")
    said = fine(ganvas_command, *call, tmp_path / "set")
    assert "5 of 15 images were flagged as copies and left out" in said and "missing" not in said
    found = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.png")}
    assert sorted(path.parent.name for path in found) == ["cat"] * 5 + ["dog"] * 5
    for path in found:
        made = ganvas.read_provenance(path)
        assert made is not None and made["recipe"]["label"] == path.parent.name
    seeds = [line.split(",")[1] for line in (tmp_path / "set" / "manifest.csv").read_text().splitlines()[1:]]
    assert sorted(map(int, seeds)) == list(range(40, 55))
    assert "15 of 15 images existed already" in fine(ganvas_command, *call, tmp_path / "set")
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.png")} == found
    fine(ganvas_command, *call, tmp_path / "grid.png", "--grid")
    assert rgba(tmp_path / "grid.png").shape == (2 * 18 + 2, 5 * 18 + 2, 4)


def test_a_class_of_copies_ends_with_a_message(
    ganvas_command: Command, model: Path, sprites: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dogs = to_pixels(sprites.sample(60, 0, "dog"))

    def is_dog(self: Any, pixels: np.ndarray) -> np.ndarray:
        far = np.abs(pixels[:, None].astype(int) - dogs[None]).max(axis=(2, 3, 4))
        return far.min(axis=1) <= 1

    monkeypatch.setattr(Finder, "is_copy", is_dog)
    monkeypatch.setattr("ganvas.explore.verbs.CopyFinder", Finder)
    monkeypatch.setattr("ganvas.explore.verbs.pack_of", lambda *_: None)
    said = fine(ganvas_command, "sample", model, "--per-class", 2, "--no-copies", "--out", tmp_path / "set")
    assert "20 of 22 images were flagged" in said and "2 images are missing: 10 times as many were tried" in said
    assert len(list((tmp_path / "set").rglob("*.png"))) == 2


# -- sheets --


@pytest.mark.parametrize("command", ["mix", "directions"])
def test_sheets_are_large_and_have_captions(ganvas_command: Command, model: Path, tmp_path: Path, command: str) -> None:
    if command == "mix":
        path, rows, columns = tmp_path / "mix.webp", 2, 3
        fine(ganvas_command, "mix", model, "--seeds", "3,8,9", "--out", path)
    else:
        path, rows, columns = tmp_path / "pc1.png", 4, 5
        fine(ganvas_command, "directions", model, "--n", 1, "--out", tmp_path)
    sheet = rgba(path)
    top, left = sheet.shape[0] - rows * 132 - 4, sheet.shape[1] - columns * 132 - 4
    assert 40 < top < 80 and 40 < left < 120
    ink = (sheet[..., :3].max(axis=2) < 100) & (sheet[..., 3] == 255)
    assert ink[: top // 2].any()  # the title
    for i in range(1, columns):
        middle = left + 4 + 132 * i + 64
        assert ink[top // 2 : top, middle - 40 : middle + 40].any(), i
    for i in range(1, rows):
        assert ink[top + 4 + 132 * i :, :left][:128].any(), i
    made = ganvas.read_provenance(path)
    assert made is not None and made["recipe"]
