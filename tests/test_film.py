"""film.py and pictures.py: grids as files, and the film that they make, read back frame by frame."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

import ganvas
from ganvas import film
from ganvas.errors import ConfigError, MissingExtraError, RunError
from ganvas.image_files import grid, save_png, to_image
from ganvas.options import Video

SEEN = (0, 96, 1_500, 32_000, 1_250_000)  # as the names sort by number
needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs the extra `video`")


def cells(step: int, height: int = 16, width: int = 16, channels: int = 1) -> np.ndarray:
    """Six images (6, H, W, C): image i is a gray of its own that grows with the step."""
    gray = 20 + 30 * np.arange(6) + 10 * step
    return np.broadcast_to(gray[:, None, None, None], (6, height, width, channels)).astype(np.uint8)


def run_of(folder: Path, *grids: np.ndarray) -> Path:
    """A run folder with these preview grids, written in an order that is not theirs."""
    (folder / "samples").mkdir(parents=True)
    for seen, pixels in reversed(list(zip(SEEN, grids, strict=False))):
        save_png(folder / "samples" / f"{seen:012d}.png", pixels)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("film") / "run", *(grid(cells(step), 3) for step in range(5)))


@pytest.fixture(scope="module")
def films(run: Path) -> dict[str, Path]:
    return {path.suffix[1:]: path for path in ganvas.video(run)}


def frames_of(path: Path) -> list[np.ndarray]:
    """Every frame (H, W, 3)."""
    if path.suffix not in (".mp4", ".webm", ".mov"):
        with Image.open(path) as opened:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def grids_of(path: Path) -> list[np.ndarray]:
    """The first frame of each of five grids."""
    frames = frames_of(path)
    return frames[:: film.FRAME_MS // film.HELD_MS][:5] if path.suffix == ".mp4" else frames


def middle(frame: np.ndarray, cell: int, columns: int = 3, rows: int = 2) -> float:
    """The gray in the middle of a cell of a grid of 16x16 images."""
    height, width = frame.shape[0] - film.CAPTION, frame.shape[1]
    y, x = (2 + cell // columns * 18 + 8) / (2 + rows * 18), (2 + cell % columns * 18 + 8) / (2 + columns * 18)
    return float(frame[int(y * height), int(x * width)].mean())


# The film.


@pytest.mark.parametrize("form", ["gif", "webp", pytest.param("mp4", marks=needs_av)])
def test_cells_keep_their_place_from_frame_to_frame(films: dict[str, Path], form: str) -> None:
    frames = grids_of(films[form])
    assert len(frames) == 5 and len({frame.shape for frame in frames}) == 1
    for step, frame in enumerate(frames):
        for cell in range(6):
            assert middle(frame, cell) == pytest.approx(20 + 30 * cell + 10 * step, abs=4), (step, cell)
    assert 480 <= max(frames[0].shape) <= 960


@pytest.mark.parametrize("form", ["gif", "webp", pytest.param("mp4", marks=needs_av)])
def test_captions_are_black_on_white_and_differ(films: dict[str, Path], form: str) -> None:
    captions = [frame[-film.CAPTION + 2 :] for frame in grids_of(films[form])]
    for caption in captions:
        assert caption.max() > 240 and caption.min() < 60
        assert 0.01 < (caption < 128).mean() < 0.2
    assert len({(caption < 128).tobytes() for caption in captions}) == 5


@pytest.mark.parametrize("form", ["gif", "webp"])
def test_last_frame_is_held(films: dict[str, Path], form: str) -> None:
    with Image.open(films[form]) as opened:
        durations = []
        for frame in ImageSequence.Iterator(opened):
            frame.load()
            durations.append(frame.info["duration"])
        assert opened.info["loop"] == 0
    assert durations == [film.FRAME_MS] * 4 + [film.LAST_MS]


@needs_av
def test_mp4_holds_the_last_frame_and_plays_everywhere(films: dict[str, Path]) -> None:
    import av

    frames = frames_of(films["mp4"])
    assert len(frames) == 4 * film.FRAME_MS // film.HELD_MS + film.LAST_MS // film.HELD_MS
    assert np.abs(frames[12].astype(int) - frames[-1]).mean() < 1
    with av.open(str(films["mp4"])) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 25
        assert stream.width % 2 == 0 and stream.height % 2 == 0


def test_gif_obeys_its_limit_with_noisy_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = run_of(tmp_path / "run", *(rng.integers(0, 256, (250, 250, 1), np.uint8) for _ in range(3)))
    (unlimited,) = ganvas.video(run, tmp_path / "large", max_mb=100, formats="gif")
    (limited,) = ganvas.video(run, tmp_path / "small", max_mb=0.15, formats="gif")
    assert unlimited.stat().st_size > 300_000 > 150_000 >= limited.stat().st_size > 75_000
    with Image.open(limited) as small:
        assert small.n_frames == 3 and film.LEAST_GIF_SIDE <= small.width < 500  # ty: ignore[missing-attribute]
    caption = frames_of(limited)[0][-film.CAPTION + 2 :]
    assert (caption < 60).any()  # as black as in the large one
    with pytest.raises(ConfigError, match=r"--max-mb 0\.001 is too small for 3 frames"):
        ganvas.video(run, max_mb=0.001, formats="gif")
    assert not (run / "training.gif").exists()


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((100, 40, 1), 100 * 257 + 50, np.uint16), (100, 100, 100)),
        (np.full((40, 100, 3), (10, 120, 200), np.uint8), (10, 120, 200)),
        (np.full((40, 40, 4), (0, 0, 0, 0), np.uint8), (255, 255, 255)),
        (np.full((40, 40, 4), (200, 0, 0, 255), np.uint8), (200, 0, 0)),
        (np.full((1203, 700, 3), (10, 120, 200), np.uint8), (10, 120, 200)),
    ],
    ids=["16-bit-tall", "wide", "transparent", "opaque", "large"],
)
def test_every_kind_of_grid_makes_a_film(tmp_path: Path, pixels: np.ndarray, expected: tuple[int, int, int]) -> None:
    paths = ganvas.video(run_of(tmp_path / "run", pixels, pixels // 2, pixels), tmp_path / "out")
    for path in paths:
        first = frames_of(path)[0]
        height, width = first.shape[0] - film.CAPTION, first.shape[1]
        assert height / width == pytest.approx(pixels.shape[0] / pixels.shape[1], rel=0.02)
        assert 480 <= max(height, width) <= 960
        np.testing.assert_allclose(first[height // 2, width // 2], expected, atol=5)


def test_a_single_grid_is_a_film(tmp_path: Path) -> None:
    for path in ganvas.video(run_of(tmp_path / "run", grid(cells(0), 3))):
        assert middle(frames_of(path)[0], 2) == pytest.approx(80, abs=4)


def test_film_of_a_real_run(trained: Path, tmp_path: Path) -> None:
    (path,) = ganvas.video(trained, tmp_path, formats="webp")
    assert path == tmp_path / "training.webp"
    assert len(frames_of(path)) == len(list((trained / "samples").glob("*.png"))) >= 2


def test_damaged_grid_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *(grid(cells(step), 3) for step in range(3)))
    broken = run / "samples" / f"{SEEN[1]:012d}.png"
    for content in (broken.read_bytes()[:60], b"not an image"):
        broken.write_bytes(content)
        with pytest.raises(RunError, match=rf"{broken.name} is damaged"):
            ganvas.video(run)


def test_folder_without_grids_and_unknown_formats_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no preview grids"):
        ganvas.video(tmp_path)
    with pytest.raises(ConfigError, match=r"--formats avi: expected some of gif, webp, mp4"):
        ganvas.video(run, formats="gif,avi")
    with pytest.raises(ConfigError, match="above 0"):
        ganvas.video(run, max_mb=0)


def test_mp4_without_its_extra_names_the_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ganvas\[video\]'"):
        ganvas.video(run, formats="mp4")


# Images and grids.


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_gives_back_the_pixels(tmp_path: Path, channels: int, dtype: type) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top + 1, (5, 9, channels)).astype(dtype)
    pixels[0, 0], pixels[0, 1] = 0, top
    save_png(tmp_path / "a.png", pixels)
    with Image.open(tmp_path / "a.png") as opened:
        back = np.asarray(opened).reshape(5, 9, channels)
    if dtype == np.uint16 and channels > 1:  # Pillow has no such PNG: the upper byte, rounded
        pixels = np.round(pixels / 257).astype(np.uint8)
    assert np.array_equal(back, pixels)


def test_to_image_modes() -> None:
    assert [to_image(np.zeros((2, 3, c), np.uint8)).mode for c in (1, 3, 4)] == ["L", "RGB", "RGBA"]
    assert to_image(np.zeros((2, 3, 1), np.uint16)).mode == "I;16"
    assert to_image(np.zeros((2, 3, 1), np.uint8)).size == (3, 2)


def test_grid_fills_row_by_row_on_white() -> None:
    sheet = grid(cells(0, 4, 6), columns=4, gap=2)
    assert sheet.shape == (2 * 6 + 2, 4 * 8 + 2, 1)
    assert [int(sheet[3 + 6 * (i // 4), 3 + 8 * (i % 4), 0]) for i in range(6)] == [20, 50, 80, 110, 140, 170]
    assert (sheet[:2] == 255).all() and (sheet[8:12, 18:] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grid_shows_transparency_as_a_checkerboard(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    images = np.zeros((2, 32, 32, 4), dtype)
    images[1, ..., 3] = top  # the first is transparent, the second black and opaque
    sheet = grid(images)
    assert sheet.shape == (36, 70, 3) and sheet.dtype == dtype and (sheet[2:34, 36:68] == 0).all()
    squares = sheet[2:34, 2:34].reshape(8, 4, 8, 4, 3)
    assert (squares == squares[:, :1, :, :1]).all()
    assert squares[0, 0, :2, 0, 0].tolist() == [top, 4 * top // 5] and squares[1, 0, 0, 0, 0] == 4 * top // 5


def test_grid_is_as_square_as_possible_and_keeps_the_depth() -> None:
    assert grid(np.zeros((7, 5, 5, 1), np.uint8)).shape == (3 * 7 + 2, 3 * 7 + 2, 1)
    assert grid(np.zeros((1, 5, 5, 3), np.uint8), gap=0).shape == (5, 5, 3)
    sheet = grid(np.zeros((2, 4, 4, 1), np.uint16))
    assert sheet.dtype == np.uint16 and sheet[0, 0, 0] == 65535


def test_interrupted_writing_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save_png(path, np.zeros((4, 4, 1), np.uint8))
    before = path.read_bytes()

    def half(self: Image.Image, file: io.BytesIO, format: str, **_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_png(path, np.ones((4, 4, 1), np.uint8))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_shortest_film_that_gif_allows_is_made() -> None:
    least = (film.LAST_MS + 2 * 1000 / film.MOST_GIF_FPS) / 1000
    assert film.timing_of(Video("run", seconds=least), 3) == film.Timing(1000 / film.MOST_GIF_FPS, film.LAST_MS)
    with pytest.raises(ConfigError, match=r"3 grids need at least 2\.6"):
        film.timing_of(Video("run", seconds=least - 0.01), 3)
