"""Files of named sets: MNIST idx, CIFAR batches, CelebA, NumPy arrays; and real sets."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ganvas.config import DataConfig
from ganvas.data.reading.sources import Item, open_source
from ganvas.errors import DataError
from test_sources import labels_of, picture, reasons, write_folder

# MNIST idx.


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, name: str = "{}-{}-idx{}-ubyte", prefix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for part, count in (("train", 30), ("t10k", 12)):
        images, labels = rng.integers(0, 256, (count, 5, 4)), np.arange(count) % 3 + 7
        for what, array in (("images", images), ("labels", labels)):
            file = folder / (prefix + name.format(part, what, array.ndim))
            file.write_bytes(gzip.compress(idx(array)) if name.endswith(".gz") else idx(array))
    return folder


@pytest.mark.parametrize("name", ["{}-{}-idx{}-ubyte", "{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte"])
def test_idx(tmp_path, name):
    source = open_source(write_idx(tmp_path / "set", name))
    images, labels = source.arrays()
    assert source.form == "idx"
    assert source.classes == ["7", "8", "9"]
    assert (images.shape, images.dtype) == ((30, 5, 4), np.uint8)
    assert labels.tolist() == [i % 3 for i in range(30)]
    assert source.items[4] == Item("train-04", "8")
    ((_, pixels),) = source.stream({"train-04"})
    np.testing.assert_array_equal(pixels, images[4])
    assert len(open_source(tmp_path / "set", DataConfig(split="test")).items) == 12
    both = open_source(tmp_path / "set", DataConfig(split="all"))
    assert len({item.name for item in both.items}) == 42
    assert both.arrays()[1][30:].tolist() == [i % 3 for i in range(12)]
    assert open_source(tmp_path / "set", DataConfig(labels="none")).arrays()[1] is None
    with pytest.raises(DataError, match="has its own labels"):
        open_source(tmp_path / "set", DataConfig(labels="x.csv"))


def test_idx_files_one_by_one_and_emnist(tmp_path):
    folder = write_idx(tmp_path / "set", prefix="emnist-letters-")
    upright = open_source(folder).arrays()[0]
    assert upright.shape == (30, 4, 5)  # EMNIST stores columns first
    write_idx(folder, prefix="emnist-mnist-")
    with pytest.raises(DataError, match=r"several data sets \(emnist-\w+, emnist-\w+\): choose one file"):
        open_source(folder)
    one = open_source(folder / "emnist-letters-train-images-idx3-ubyte")
    np.testing.assert_array_equal(one.arrays()[0], upright)
    (folder / "emnist-letters-train-labels-idx1-ubyte").unlink()
    assert open_source(folder / "emnist-letters-train-images-idx3-ubyte").classes == []


def test_damaged_idx(tmp_path):
    folder = write_idx(tmp_path / "set")
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    good = images.read_bytes()
    for content, sentence in [
        (good[:-1], "should have 30 x 5 x 4 = 600 bytes but has 599"),
        (good + b"x", "has more than 600"),
        (b"<html>404</html>", "not an idx file of images .*3c68746d"),
        (b"", "not an idx file of images .*nothing"),
        (labels.read_bytes(), "not an idx file of images"),
        (idx(np.zeros((29, 5, 4))), "has 30 labels for 29 images"),
    ]:
        images.write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            open_source(folder)
    images.write_bytes(gzip.compress(good)[:-20])
    with pytest.raises(DataError, match="broken or incomplete"):
        open_source(folder)
    images.unlink()
    with pytest.raises(DataError, match="has no train images among"):
        open_source(folder)


# CIFAR batches.


def write_cifar(folder: Path, batches: list[str], protocol: int = 2) -> Path:
    folder.mkdir()
    for k, name in enumerate(batches):
        pixels = np.random.default_rng(k).integers(0, 256, (6, 3072), np.uint8)
        batch = {b"data": pixels, b"labels": [0, 1, 9, 1, 0, 9], b"batch_label": b"one", b"filenames": [b"x.png"] * 6}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    meta = {b"label_names": [f"kind {i}".encode() for i in range(10)], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return folder


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_10_with_some_of_its_batches(tmp_path, protocol):
    names = ["data_batch_2", "data_batch_10", "test_batch"]
    folder = write_cifar(tmp_path / "cifar-10-batches-py", names, protocol)
    source = open_source(folder)
    images, labels = source.arrays()
    assert source.form == "cifar"
    assert source.classes[9] == "kind 9"
    assert (images.shape, images.dtype) == ((12, 32, 32, 3), np.uint8)
    assert labels[:6].tolist() == [0, 1, 9, 1, 0, 9]
    assert source.items[0].name == "data_batch_2/00000"
    raw = np.random.default_rng(0).integers(0, 256, (6, 3072), np.uint8)
    np.testing.assert_array_equal(images[3, :, :, 1].ravel(), raw[3, 1024:2048])  # planes R, G, B
    assert len(open_source(folder, DataConfig(split="all")).items) == 18
    assert (
        open_source(tmp_path, DataConfig(split="test")).items[0].name == "test_batch/00000"
    )  # by the folder around it
    (folder / "test_batch").unlink()
    with pytest.raises(DataError, match=r"no test batch among batches\.meta"):
        open_source(folder, DataConfig(split="test"))


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.xz", "zip"])
def test_cifar_in_an_archive(tmp_path, suffix):
    folder = write_cifar(tmp_path / "cifar-10-batches-py", ["data_batch_1"])
    path = tmp_path / f"c.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"cifar-10-batches-py/{file.name}")
    else:
        with tarfile.open(path, f"w:{suffix[4:]}") as archive:
            archive.add(folder, "cifar-10-batches-py")
    np.testing.assert_array_equal(open_source(path).arrays()[0], open_source(folder).arrays()[0])


def test_cifar_100(tmp_path):
    batch = {"data": np.zeros((3, 3072), np.uint8), "fine_labels": [2, 0, 1], "coarse_labels": [0, 0, 0]}
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps(batch, 2))
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b", "c"]}, 2))
    assert [item.label for item in open_source(tmp_path).items] == ["c", "a", "b"]
    assert len(open_source(tmp_path, DataConfig(split="all")).items) == 6


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def hostile_pickles(mark: Path) -> list[bytes]:
    return [
        pickle.dumps(Hostile(mark), 2),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0], b"x": Hostile(mark)}, 2),
        pickle.dumps({b"data": np.array([Hostile(mark)], object), b"labels": [0]}, 2),
        f"cos\nmkdir\n(V{mark}\ntR.".encode(),
        f"cbuiltins\neval\n(V__import__('os').mkdir('{mark}')\ntR.".encode(),
        f"cnumpy\nload\n(V{mark}\ntR.".encode(),
        b"cnumpy\nndarray\n(tR}(Vx\nVy\nub.",
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_hostile_pickle_is_never_run(tmp_path, number):
    folder, mark = tmp_path / "set", tmp_path / "executed"
    write_cifar(folder, ["test_batch"])
    (folder / "data_batch_1").write_bytes(hostile_pickles(mark)[number])
    with pytest.raises(DataError, match=r"data_batch_1 (is a pickle that needs|has a damaged|is not a CIFAR)"):
        open_source(folder)
    assert not mark.exists()


def test_damaged_cifar(tmp_path):
    folder = write_cifar(tmp_path / "set", ["data_batch_1"])
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}
    for content in (
        b"",
        b"rubbish",
        (folder / "data_batch_1").read_bytes()[:500],
        pickle.dumps([1, 2]),
        pickle.dumps(batch, 2),  # a label that no class has
        pickle.dumps(batch | {b"data": np.zeros((2, 3000), np.uint8)}, 2),
        pickle.dumps(batch | {b"data": "text"}, 2),
    ):
        (folder / "data_batch_1").write_bytes(content)
        with pytest.raises(DataError, match="data_batch_1 is not a CIFAR batch"):
            open_source(folder)


# CelebA.


def write_celeba(root: Path, inside: bool) -> Path:
    """Four images in a zip, of the six that the lists name."""
    rows = [(1, 1, -1), (2, -1, -1), (3, 1, 1), (4, -1, 1), (5, 1, 1), (6, -1, -1)]
    attributes = "6\nSmiling Male \n" + "".join(f"{i:06}.jpg  {s} {m}\n" for i, s, m in rows)
    partition = "".join(f"{i:06}.jpg {part}\n" for i, part in zip(range(1, 7), (0, 0, 0, 2, 0, 1), strict=True))
    lists = {"list_attr_celeba.txt": attributes, "list_eval_partition.txt": partition}
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        for i in range(1, 5):
            archive.writestr(f"img_align_celeba/{i:06}.jpg", picture(i))
        for name, content in lists.items():
            if inside:
                archive.writestr(name, content)
            else:
                (root / name).write_text(content)
    return root / "img_align_celeba.zip"


@pytest.mark.parametrize("inside", [True, False])
def test_celeba(tmp_path, inside):
    path = write_celeba(tmp_path, inside)
    plain = open_source(path)
    assert (plain.form, plain.classes, len(plain.items)) == ("celeba", [], 3)
    smiling = open_source(path, DataConfig(labels="smiling"))
    assert smiling.classes == ["not Smiling", "Smiling"]
    assert [item.label for item in smiling.items] == ["Smiling", "not Smiling", "Smiling"]
    both = open_source(path, DataConfig(labels="Smiling, Male", split="all"))
    assert both.classes == ["not Smiling + not Male", "not Smiling + Male", "Smiling + not Male", "Smiling + Male"]
    assert labels_of(open_source(path, DataConfig(labels="Male", split="test"))) == {
        "img_align_celeba/000004.jpg": "Male"
    }
    assert open_source(path, DataConfig(labels="none")).classes == []
    assert open_source(tmp_path).form == "celeba"  # by the folder around the zip
    with pytest.raises(DataError, match=r"Beard is not an attribute in list_attr.*; known attributes: Smiling, Male"):
        open_source(path, DataConfig(labels="Beard"))


def test_celeba_as_a_folder_with_and_without_its_lists(tmp_path):
    folder = write_folder(tmp_path / "img_align_celeba", ["000001.jpg", "000002.jpg"])
    assert len(open_source(folder).items) == 2
    with pytest.raises(DataError, match=r"Smiling needs list_attr_celeba.txt: put it next to img_align_celeba"):
        open_source(folder, DataConfig(labels="Smiling"))
    with pytest.raises(DataError, match=r"test part needs list_eval_partition\.txt"):
        open_source(folder, DataConfig(split="test"))
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,Smiling\n000001.jpg,1\n")
    source = open_source(folder, DataConfig(labels="Smiling"))
    assert labels_of(source) == {"000001.jpg": "Smiling"}
    assert reasons(source) == {"000002.jpg": "has no line in list_attr_celeba.csv"}
    assert len(open_source(tmp_path).items) == 2


# numpy files.


def test_npz_and_npy(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([[3], [1], [3], [1], [1]]))
    source = open_source(tmp_path / "a.npz")
    assert (source.form, source.classes) == ("arrays", ["1", "3"])
    assert source.arrays()[1].tolist() == [1, 0, 1, 0, 0]
    np.testing.assert_array_equal(source.arrays()[0], images)
    np.savez(tmp_path / "b.npz", x_train=images, y_train=np.array(list("abcab")), x_test=images[:2], y_test=["a", "b"])
    assert [item.label for item in open_source(tmp_path / "b.npz").items] == list("abcab")
    both = open_source(tmp_path / "b.npz", DataConfig(split="all"))
    assert [item.label for item in both.items] == [*"abcab", "a", "b"]
    np.save(tmp_path / "c.npy", images[..., 0].astype(np.uint16))
    assert open_source(tmp_path / "c.npy").arrays()[0].dtype == np.uint16
    np.save(tmp_path / "d.npy", images.transpose(0, 3, 1, 2))  # channels first, as torch has them
    np.testing.assert_array_equal(open_source(tmp_path / "d.npy").arrays()[0], images)


def test_numpy_files_that_are_refused(tmp_path):
    mark = tmp_path / "executed"
    images = np.zeros((2, 4, 4), np.uint8)
    for arrays, sentence in [
        ({"images": images / 1j}, r"\(2, 4, 4\) of complex128; expected .* uint8"),
        ({"images": images[0]}, "expected images x height x width"),
        ({"weights": images}, "has weights; expected an array named images"),
        ({"images": images, "labels": np.zeros(3, int)}, r"labels \(3,\) of int64 for 2 images"),
        ({"images": np.array([Hostile(mark)], object)}, "cannot be read as numpy arrays"),
    ]:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(DataError, match=sentence):
            open_source(tmp_path / "x.npz")
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(DataError, match="cannot be read as numpy arrays"):
        open_source(tmp_path / "x.npy")
    (tmp_path / "x.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match="cannot be read as numpy arrays"):
        open_source(tmp_path / "x.npz")
    assert not mark.exists()


# Real sets.


def test_real_mnist(shared_data):
    source = open_source(shared_data / "mnist")
    images, labels = source.arrays()
    assert images.shape == (60000, 28, 28)
    assert source.classes == [str(digit) for digit in range(10)]
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert len(open_source(shared_data / "mnist", DataConfig(split="test")).items) == 10000


@pytest.mark.slow
def test_real_cifar10(shared_data):
    source = open_source(shared_data / "cifar10")
    assert source.arrays()[0].shape == (20000, 32, 32, 3)
    assert source.classes[:3] == ["airplane", "automobile", "bird"]
    assert source.items[0].label == "frog"


def test_real_celeba(shared_data):
    source = open_source(shared_data / "celeba", DataConfig(labels="Smiling,Male", split="all"))
    assert len(source.items) == 5000
    assert len(source.classes) == 4
    assert 0 < len(open_source(shared_data / "celeba", DataConfig(split="train")).items) <= 5000


def test_real_mednist(shared_data):
    source = open_source(shared_data / "mednist")
    assert source.classes == ["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"]
    assert len(source.items) == 24000
    keep = {item.name for item in source.items[:100]}
    assert all(content.startswith(b"\xff\xd8") for _, content in source.stream(keep))


def test_real_comic_faces_and_pairs(shared_data):
    source = open_source(shared_data / "comic_faces", DataConfig(labels="attributes.csv:mouth"))
    assert len(source.items) + len(source.rejected) == 5000
    assert all(label.startswith("variant") for label in source.classes)
    pairs = open_source(shared_data / "face2comics")
    assert (pairs.classes, len(pairs.items), pairs.rejected) == (["v1", "v2"], 200, [])
