"""sources.py: every form of source, its labels, what it refuses, and the sentences for what cannot be used."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ganvas
from ganvas.config import DataConfig
from ganvas.data import open_pack
from ganvas.data.reading.containers import is_picture
from ganvas.data.reading.sources import Item, Rejection, fingerprint_of, open_source
from ganvas.errors import DataError, PictureError
from ganvas.explore.verbs import sample


def picture(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(i))
    return root


def write_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, picture(i))
    return path


def write_tar(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, f"w:{path.suffix.removeprefix('.').removesuffix('tar')}") as archive:
        for i, name in enumerate(names):
            add(archive, name, picture(i))
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def write(form: str, folder: Path, names: list[str]) -> Path:
    if form == "folder":
        return write_folder(folder / "pictures", names)
    return (write_zip if form == "zip" else write_tar)(folder / f"pictures.{form}", names)


def labels_of(source) -> dict[str, str | None]:
    return {item.name: item.label for item in source.items}


def reasons(source) -> dict[str, str]:
    return {rejection.name: rejection.reason for rejection in source.rejected}


FORMS = ["folder", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


# Names, order and labels are the same wherever the files lie.


@pytest.mark.parametrize("form", FORMS)
def test_class_folders_become_labels(tmp_path, form):
    names = ["10/a.png", "10/deep/er/b.JPG", "9/c.png", "Ä x/d.webp", "9/notes.txt", ".git/x.png", "__MACOSX/9/._c.png"]
    source = open_source(write(form, tmp_path, [*names, "9/Thumbs.db", "9/.hidden.png"]))
    assert source.form == form.partition(".")[0]
    assert source.classes == ["9", "10", "Ä x"]
    assert labels_of(source) == {"10/a.png": "10", "10/deep/er/b.JPG": "10", "9/c.png": "9", "Ä x/d.webp": "Ä x"}
    assert source.rejected == []
    assert source.arrays() is None
    streamed = list(source.stream())
    assert [item for item, _ in streamed] == source.items
    assert {item.name: content for item, content in streamed}["9/c.png"] == picture(2)
    assert [item.name for item, _ in source.stream({"Ä x/d.webp", "9/c.png", "absent"})] == ["9/c.png", "Ä x/d.webp"]


@pytest.mark.parametrize("form", FORMS[:3])
@pytest.mark.parametrize("names", [["a.png", "b.png"], ["set/a.png", "set/b.png"], ["x/y/a.png", "x/y/b.png"]])
def test_flat_pictures_are_unlabelled(tmp_path, form, names):
    source = open_source(write(form, tmp_path, names))
    assert source.classes == []
    assert source.items == [Item(name, None) for name in names]


@pytest.mark.parametrize("form", FORMS[:3])
def test_a_wrapping_folder_is_descended_and_labels_can_be_left_out(tmp_path, form):
    path = write(form, tmp_path, ["set/cats/1.png", "set/dogs/1.png", "set/cover.png"])
    source = open_source(path)
    assert source.classes == ["cats", "dogs"]
    assert reasons(source) == {"set/cover.png": "outside the class folders"}
    assert open_source(path, DataConfig(labels="none")).classes == []
    with pytest.raises(DataError, match=r"Smiling.*not CelebA.*csv"):
        open_source(path, DataConfig(labels="Smiling"))


def test_train_and_test_folders_are_parts(tmp_path):
    names = ["xray/train/a/1.png", "xray/train/b/2.png", "xray/test/a/3.png", "xray/test/b/4.png", "xray/val/a/5.png"]
    path = write("zip", tmp_path, names)
    assert labels_of(open_source(path)) == {"xray/train/a/1.png": "a", "xray/train/b/2.png": "b"}
    assert labels_of(open_source(path, DataConfig(split="test"))) == {
        "xray/test/a/3.png": "a",
        "xray/test/b/4.png": "b",
    }
    assert len(open_source(path, DataConfig(split="all")).items) == 5
    with pytest.raises(DataError, match="no test part"):
        open_source(write_folder(tmp_path / "flat", ["a.png"]), DataConfig(split="test"))


def test_a_folder_around_one_archive(tmp_path):
    write_zip(tmp_path / "one.zip", ["a/1.png", "b/1.png"])
    assert open_source(tmp_path).classes == ["a", "b"]
    write_zip(tmp_path / "two.zip", ["a/1.png"])
    with pytest.raises(DataError, match=r"several archives \(one.zip, two.zip\)"):
        open_source(tmp_path)


# What is refused.


def test_paths_without_pictures(tmp_path):
    for path, sentence in [
        (tmp_path / "absent", "does not exist; expected a folder"),
        (write_folder(tmp_path / "texts", ["a.txt", "b.txt", "c.md"]), r"no images \(it contains 2 x .txt, 1 x .md\)"),
        (write_folder(tmp_path / "one", ["a.png"]) / "a.png", "is a single image"),
        (write_folder(tmp_path / "texts", ["a.txt"]) / "a.txt", "not a supported file of images"),
        (write_folder(tmp_path / "phone", ["a.heic"]), "1 rejected .*a.heic: .heic images are not supported"),
    ]:
        with pytest.raises(DataError, match=sentence):
            open_source(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty; expected"):
        open_source(tmp_path / "empty")
    with pytest.raises(DataError, match="is empty; expected"):
        open_source(write_zip(tmp_path / "empty.zip", []))


def test_unsafe_names_in_a_zip(tmp_path):
    names = ["good.png", "../up.png", "a/../../up.png", "/etc/root.png", "C:/win.png", "..\\back.png"]
    source = open_source(write_zip(tmp_path / "x.zip", names))
    assert labels_of(source) == {"good.png": None}
    found = reasons(source)
    assert set(found) == {"../up.png", "a/../../up.png", "/etc/root.png", "C:/win.png", "../back.png"}
    assert all(reason.startswith("unsafe name") for reason in found.values())


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_unsafe_names_links_and_devices_in_a_tar(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w:") as archive:
        add(archive, "./a/good.png", picture())
        add(archive, "../up.png", picture())
        add(archive, "/abs.png", picture())
        add(archive, "link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "hard.png", type=tarfile.LNKTYPE, linkname="a/good.png")
        add(archive, "fifo.png", type=tarfile.FIFOTYPE)
        add(archive, "./a/good.png", picture(9))
    source = open_source(path)
    assert [(item.name, content) for item, content in source.stream()] == [("a/good.png", picture())]
    assert reasons(source) == {
        "../up.png": "unsafe name: points outside the archive",
        "/abs.png": "unsafe name: an absolute path",
        "link.png": "a link or device, not a file",
        "hard.png": "a link or device, not a file",
        "fifo.png": "a link or device, not a file",
        "a/good.png": "the archive has two files with this name",
    }


def test_a_zip_with_two_files_of_one_name_and_a_link(tmp_path):
    path = tmp_path / "x.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.png", picture(1))
        archive.writestr("a.png", picture(2))
        link = zipfile.ZipInfo("b.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    source = open_source(path)
    assert [content for _, content in source.stream()] == [picture(1)]
    assert reasons(source) == {"a.png": "the archive has two files with this name", "b.png": "a link, not a file"}


def test_an_encrypted_zip(tmp_path):
    path = write_zip(tmp_path / "x.zip", ["a.png"])
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: encrypted: unpack the archive with its password"):
        open_source(path)


def test_a_damaged_member_of_a_zip_is_named_and_the_rest_read(tmp_path):
    path = write_zip(tmp_path / "x.zip", ["a.png", "b.png"])
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT")] ^= 0xFF
    path.write_bytes(content)
    (_, first), (_, second) = open_source(path).stream()
    assert isinstance(first, PictureError)
    assert "damaged in the archive" in str(first)
    assert second == picture(1)


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_broken_archive(tmp_path, form):
    path = write(form, tmp_path, [f"{i}.png" for i in range(400)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match="broken or incomplete"):
        open_source(path)
    path.write_bytes(b"not an archive at all")
    with pytest.raises(DataError, match="broken or incomplete"):
        open_source(path)


@given(
    form=st.sampled_from(["zip", "tar", "tar.gz", "npz", "npy"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_raise_only_data_errors(tmp_path, form, changes):
    path = tmp_path / f"x.{form}"
    if form == "npz":
        np.savez(path, images=np.zeros((3, 4, 4), np.uint8), labels=[1, 2, 3])
    elif form == "npy":
        np.save(path, np.zeros((3, 4, 4), np.uint8))
    else:
        (write_zip if form == "zip" else write_tar)(path, ["a/1.png", "b/2.png"])
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        list(open_source(path).stream())


def test_a_damaged_header_in_a_tar_is_not_its_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", ["a.png", "b.png", "c.png"])
    content = bytearray(path.read_bytes())
    content[1024:1034] = b"rubbish!!!"
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged header"):
        open_source(path)


def test_symbolic_links(tmp_path):
    write_folder(tmp_path / "set", ["b/1.png", "a/2.png"])
    write_folder(tmp_path / "elsewhere", ["3.png"])
    (tmp_path / "set/b/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/a/again").symlink_to(tmp_path / "set/b")
    (tmp_path / "set/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/self.png").symlink_to(tmp_path / "set/self.png")
    (tmp_path / "set/gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "set/pipe.png")
    source = open_source(tmp_path / "set")
    assert labels_of(source) == {"a/2.png": "a", "b/1.png": "b", "c/3.png": "c"}
    assert reasons(source) == {
        "b/loop": "symbolic link to a folder that is already listed",
        "a/again": "symbolic link to a folder that is already listed",
        "self.png": "broken symbolic link",
        "gone.png": "broken symbolic link",
        "pipe.png": "not a regular file",
    }


def test_names_that_are_not_utf_8(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(picture(5))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (folder / "new\nline.png").write_bytes(picture(6))
    source = open_source(folder)
    assert [item.name for item in source.items] == ["caf\\xe9.png", "new\\nline.png"]
    assert [content for _, content in source.stream()] == [picture(5), picture(6)]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "caf\udce9.png", picture(7))
    assert open_source(tmp_path / "x.tar").items == [Item("caf\\xe9.png", None)]


def test_unreadable_files_are_named(tmp_path):
    folder = write_folder(tmp_path / "set", ["a.png", "b.png"])
    source = open_source(folder)
    (folder / "a.png").unlink()  # between listing and reading
    (_, first), (_, second) = source.stream()
    assert isinstance(first, PictureError)
    assert "cannot be read: No such file" in str(first)
    assert second == picture(1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folders_are_named(tmp_path):
    folder = write_folder(tmp_path / "set", ["a/1.png", "b/2.png", "c/3.png"])
    (folder / "b").chmod(0)
    assert "cannot be read" in reasons(open_source(folder))["b"]
    folder.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        open_source(folder)


# Fingerprints.


@pytest.mark.parametrize("form", FORMS[:3])
def test_the_fingerprint_changes_with_the_files(tmp_path, form):
    path = write(form, tmp_path, ["a.png", "b.png"])
    first = fingerprint_of(path)
    assert first == fingerprint_of(path)
    changed = path / "a.png" if form == "folder" else path
    os.utime(changed, ns=(0, 1))
    assert fingerprint_of(path) != first


def test_the_fingerprint_covers_the_csv(tmp_path):
    path = write_folder(tmp_path / "set", ["a.png"])
    labels = tmp_path / "labels.csv"
    labels.write_text("a.png,cat\n")
    first = fingerprint_of(path, str(labels))
    labels.write_text("a.png,dog\n")
    os.utime(labels, ns=(0, 1))
    assert fingerprint_of(path, str(labels)) != first


# A csv of file,label.


@pytest.mark.parametrize("header", ["", "file,label\n", "Filename;Class\n"])
def test_a_csv_with_a_picture_source(tmp_path, header):
    path = write_zip(tmp_path / "x.zip", ["faces/1.png", "faces/2.png", "faces/3.png"])
    rows = "faces/1.png,b\n./2.png,a\n3,10\nghost.png,a\n"
    (tmp_path / "labels.csv").write_text(header + rows.replace(",", ";" if ";" in header else ","))
    source = open_source(path, DataConfig(labels="labels.csv"))
    assert labels_of(source) == {"faces/1.png": "b", "faces/2.png": "a", "faces/3.png": "10"}
    assert source.classes == sorted(["a", "b", "10"], key=lambda name: (name.isalpha(), name))
    assert reasons(source) == {"ghost.png": "listed in labels.csv but missing"}


def test_a_csv_given_directly_lists_the_pictures(tmp_path):
    write_folder(tmp_path, ["a.png", "sub/b.png", "other.png"])
    (tmp_path / "list.csv").write_text("a.png,x\nsub/b.png,y\nc.png,y\n")
    source = open_source(tmp_path / "list.csv")
    assert source.form == "csv"
    assert labels_of(source) == {"a.png": "x", "sub/b.png": "y"}
    assert reasons(source) == {"c.png": "listed in list.csv but missing"}
    (tmp_path / "two.csv").write_text("file,hair,eyes\na.png,red,blue\nsub/b.png,red,green\n")
    assert open_source(tmp_path / "two.csv", DataConfig(labels="eyes")).classes == ["blue", "green"]
    assert labels_of(open_source(tmp_path / "list.csv", DataConfig(labels="none"))) == {
        "a.png": None,
        "sub/b.png": None,
    }


def test_a_csv_with_unlabelled_pictures_columns_or_nothing_right(tmp_path):
    path = write_folder(tmp_path / "set", ["a.png", "b.png", "c.png"])
    labels = tmp_path / "labels.csv"
    labels.write_text("file,hair,eyes\na.png,red,blue\nb.png,,green\n")
    assert reasons(open_source(path, DataConfig(labels=f"{labels}:hair"))) == {
        "b.png": "has no label in labels.csv",
        "c.png": "has no label in labels.csv",
    }
    assert open_source(path, DataConfig(labels=f"{labels}:eyes")).classes == ["blue", "green"]
    with pytest.raises(DataError, match="no column 'nose'; its label columns are: hair, eyes"):
        open_source(path, DataConfig(labels=f"{labels}:nose"))
    labels.write_text("x.png,red\ny.png,blue\n")
    with pytest.raises(DataError, match=r"names 2 files and none is an image .*'x.png' instead of"):
        open_source(path, DataConfig(labels=str(labels)))
    labels.write_text("")
    with pytest.raises(DataError, match="is empty; expected lines of file,label"):
        open_source(path, DataConfig(labels=str(labels)))
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        open_source(path, DataConfig(labels="absent.csv"))


# What Ganvas wrote into the data is not read back.


def test_a_run_inside_the_data_is_no_data(two_classes, tmp_path, monkeypatch):
    data = tmp_path / "pics"
    shutil.copytree(two_classes, data)
    monkeypatch.chdir(data)
    options = {"size": 16, "base": 8, "z_dim": 8, "batch": 16, "previews": 2, "device": "cpu", "quiet": True}
    first = ganvas.train(".", images=32, **options)
    assert first.folder.resolve().is_relative_to(data.resolve())
    assert ganvas.train(".", images=64, **options).images_seen == 64
    assert reasons(open_source(Path())) == {"runs/pics": "folder written by Ganvas, not used as data"}


@pytest.mark.parametrize("made", ["samples", "class samples", "model", "pack", "run that was just begun"])
def test_other_outputs_inside_the_data_are_no_data(made, two_classes, trained, tmp_path):
    data = tmp_path / "pics"
    shutil.copytree(two_classes, data)
    out = data / "standing" / "out"
    if made == "samples":
        sample(trained, out, n=2)
    elif made == "class samples":
        sample(trained, out, per_class=1)
    elif made == "model":
        shutil.copytree(trained / "model", out)
        write_folder(out, ["grid.png"])
    elif made == "pack":
        open_pack(two_classes, DataConfig(size="16"), folder=out)
        write_folder(out, ["grid.png"])
    else:
        write_folder(out / "samples", ["0.png"])
        shutil.copy(trained / "config.json", out)
    source = open_source(data)
    assert len(source.items) == 24 and list(reasons(source)) == ["standing/out"]


@pytest.mark.parametrize("name", ["config.json", "manifest.csv", "recipe.json"])
def test_files_of_others_that_are_called_alike_hide_nothing(name, two_classes, tmp_path):
    data = tmp_path / "pics"
    shutil.copytree(two_classes, data)
    (data / "lying" / name).write_text('{"a": 1}\nfile,label\n')
    assert len(open_source(data).items) == 24 and reasons(open_source(data)) == {}


# Files that are something else than their names or their folder say.

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_pictures_without_a_telling_ending_are_told_by_their_mark(tmp_path):
    names = ["a", "b.jpg_large", "c.jpg?w=640", "d.png", "e.png~", "sub/20240101.123"]
    write_folder(tmp_path / "set", [name for name in names if os.name != "nt" or "?" not in name])
    (tmp_path / "set" / "README").write_text("BM and RIFF are no pictures")
    (tmp_path / "set" / "sound").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    (tmp_path / "set" / "d.png.json").write_text("{}")
    source = open_source(tmp_path / "set")
    assert [item.name for item in source.items] == names and reasons(source) == {}
    assert open_pack(tmp_path / "set").num_images == 6
    bare = open_source(write_zip(tmp_path / "bare.zip", ["x/1", "y/2"]))
    assert labels_of(bare) == {"x/1": "x", "y/2": "y"}


@pytest.mark.parametrize("name", ["a.png", "a.tif", "set.zip", "set.npz", "set.npy", "list.csv"])
def test_pointers_of_git_lfs_say_what_to_do(name, tmp_path):
    write_folder(tmp_path, ["b.png", "c.png"])
    (tmp_path / name).write_bytes(POINTER)
    if is_picture(name):
        pack = open_pack(tmp_path)
        assert pack.record.rejected == [Rejection(name, "Git LFS pointer instead of an image: run git lfs pull")]
    else:
        with pytest.raises(DataError, match="is a Git LFS pointer instead of the file: run git lfs pull"):
            open_source(tmp_path / name)


def test_a_folder_of_arrays_has_one_picture_in_each(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"x/gray": (9, 8), "x/last": (9, 8, 3), "y/first": (3, 9, 8), "y/alpha": (9, 8, 4), "y/many": (2, 9, 8)}
    arrays = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    for name, array in {**arrays, "y/complex": np.zeros((9, 8), complex)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "y" / "broken.npy").write_bytes(b"rubbish")
    pack = open_pack(tmp_path, DataConfig(channels="color"))
    assert pack.names == ["x/gray.npy", "x/last.npy", "y/alpha.npy", "y/first.npy"] and pack.classes == ["x", "y"]
    assert {one.name for one in pack.record.rejected} == {"y/broken.npy", "y/complex.npy", "y/many.npy"}
    np.testing.assert_array_equal(pack.images[1], arrays["x/last"])
    np.testing.assert_array_equal(pack.images[3], arrays["y/first"].transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(64, 48, 3), (64, 48, 4), (64, 48, 1)])
def test_one_picture_in_an_array_is_no_set(shape, tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="which is a single image: expected images x height x width"):
        open_source(tmp_path / "one.npy")
