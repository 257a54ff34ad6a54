"""Videos as data: frames at a rate, near duplicates dropped, held-out frames in stretches of time."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.checkup import check
from ganvas.data.packing.holdout import held_out_in_time, without_leaks
from ganvas.data.reading import dicom, video
from ganvas.data.reading.sources import open_source
from ganvas.errors import DataError, MissingExtraError

av = pytest.importorskip("av", reason="needs pip install 'ganvas[video]'")
SECONDS = 50


def scene(number: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))


def film(path: Path, numbers: list[int], fps: int = 2) -> Path:
    """A video of which each scene lasts a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(path.suffix, "h264")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in numbers:
            for _ in range(fps):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".webm", ".mkv", ".avi"])
def test_a_video_gives_frames_at_a_rate(ending, tmp_path):
    path = film(tmp_path / f"clip{ending}", list(range(6)))
    pack = open_pack(path, DataConfig(size=32))
    assert pack.names == [f"clip{ending}#{k:04}" for k in range(1, 7)] and pack.record.form == "video"
    scenes = np.stack([scene(number) for number in range(6)]).astype(int)
    assert [int(np.abs(scenes - image).mean((1, 2, 3)).argmin()) for image in pack.images] == list(range(6))
    assert any("6 frames, 1 per second; --fps sets another rate" in note for note in pack.notes)
    assert video.num_frames(path, 1) == 6 and not pack.record.rejected
    assert len(open_pack(path, DataConfig(size=32, fps=0.5)).names) == 3


def test_near_duplicates_are_dropped_and_counted(tmp_path):
    path = film(tmp_path / "clip.mp4", [0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    pack = open_pack(path, DataConfig(size=32))
    assert [int(name[-4:]) for name in pack.names] == [1, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert any("3 frames were dropped" in note for note in pack.notes)


def test_folders_and_archives_with_classes(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        film(tmp_path / "set" / name / "a.mp4", list(range(20 * number, 20 * number + 5)))
    Image.fromarray(scene(99)).save(tmp_path / "set" / "cat" / "b.png")
    (tmp_path / "set" / "dog" / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42 rubbish")
    (tmp_path / "set" / "dog" / "playlist.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "set"))
    for place in (tmp_path / "set", tmp_path / "set.zip"):
        pack = open_pack(place, DataConfig(size=32))
        assert pack.num_images == 11 and np.bincount(pack.labels).tolist() == [6, 5]
        assert {one.name for one in pack.record.rejected} == {"dog/broken.mp4", "dog/playlist.mp4"}
        assert any(note.startswith("2 videos give 10 frames, 1 per second") for note in pack.notes)
        assert check(place).num_images == 11


def test_held_out_frames_are_stretches_of_time():
    scenes = [("a.mp4", True)] * 400 + [("b.mp4", True)] * 30 + [(f"{i}.png", False) for i in range(20)]
    held = held_out_in_time(scenes, 0.2)
    assert 80 <= len(held) <= 90 and np.array_equal(held, held_out_in_time(scenes, 0.2))
    inside = np.zeros(450, bool)
    inside[held] = True
    runs = np.flatnonzero(np.diff(np.concatenate([[False], inside[:400], [False]]).astype(int))).reshape(-1, 2)
    assert len(runs) and (np.diff(runs) % 20 == 0).all()  # whole stretches of a twentieth of the video
    assert held_out_in_time(scenes[:30], None).size == 0


def test_images_beside_videos_do_not_leak():
    twins = [np.clip(scene(i).astype(int) + shift, 0, 255) for i in range(40) for shift in (0, 3)]
    images = np.stack([scene(100 + i) for i in range(40)] + twins).astype(np.uint8)
    scenes = [("a.mp4", True)] * 40 + [(f"{i}.png", False) for i in range(80)]
    held = held_out_in_time(scenes, 0.3)
    split = lambda chosen: np.isin(np.arange(40, 120), chosen).reshape(-1, 2)  # noqa: E731
    assert (split(held)[:, 0] != split(held)[:, 1]).any()
    kept = without_leaks(images, scenes, held)
    assert (split(kept)[:, 0] == split(kept)[:, 1]).all() and set(kept[kept < 40]) == set(held[held < 40])


def test_a_pack_of_a_video_holds_out_neighbours_together(tmp_path):
    pack = open_pack(film(tmp_path / "clip.mp4", list(range(SECONDS))), DataConfig(size=32, holdout=0.25))
    assert len(pack.heldout) in (9, 12) and (np.diff(pack.heldout) == 1).sum() >= 6


def test_a_truncated_video_says_which_frames_are_missing(tmp_path):
    path = film(tmp_path / "clip.mkv", list(range(10)))
    content = path.read_bytes()
    found = list(video.frames(content, 1, [0, 3, 500]))
    assert [type(one).__name__ for one in found] == ["ndarray", "ndarray", "PictureError"]
    assert "ends before" in str(found[2])
    path.write_bytes(content[: len(content) // 2])
    assert 2 <= open_pack(path, DataConfig(size=32)).num_images < 10


def test_the_extra_is_named(tmp_path, monkeypatch):
    path = film(tmp_path / "set" / "clip.mp4", [0, 1])
    monkeypatch.setattr(video, "available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"ganvas\[video\]"):
        open_pack(path)
    for i in range(3):
        Image.fromarray(scene(i)).save(tmp_path / "set" / f"{i}.png")
    assert [one.reason for one in open_pack(tmp_path / "set").record.rejected] == [video.NO_AV]


def test_videos_beside_dicom_files_that_cannot_be_read(tmp_path, monkeypatch):
    film(tmp_path / "set" / "a.mp4", [1, 2, 3])
    (tmp_path / "set" / "b.dcm").write_bytes(b"unread")
    monkeypatch.setattr(dicom, "available", lambda: False)
    source = open_source(tmp_path / "set")
    assert source.form == "video" and [item.name for item in source.items][:2] == ["a.mp4#0001", "a.mp4#0002"]
    assert [(one.name, one.reason) for one in source.rejected] == [("b.dcm", dicom.NO_PYDICOM)]


def test_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="not a video of a known format"):
        open_pack(tmp_path / "a.mp4")
    (tmp_path / "table.csv").write_text("file,hair\na.mp4,red\n")
    with pytest.raises(DataError, match="not a video of a known format"):
        open_pack(tmp_path, DataConfig(conditions="table.csv"))


def test_a_video_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    path = film(tmp_path / "clip.mp4", [0, 1, 2])
    monkeypatch.setattr(video, "MAX_PIXELS", 32 * 32)
    assert video.num_frames(path, 1) == 3
    monkeypatch.setattr(video, "MAX_PIXELS", 32 * 32 - 1)
    with pytest.raises(DataError, match="too large: 1,024 pixels"):
        open_pack(path)
    assert "too large: 1,024 pixels" in str(next(video.frames(path, 1, [0])))
