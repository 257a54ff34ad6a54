"""Lists from other programs: csv files of labels and --files lists, in the forms that people have them."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data.packing.pack import read_list
from ganvas.data.packing.selection import choose
from ganvas.data.reading import labels, lists
from ganvas.data.reading.containers import by_reason
from ganvas.data.reading.lists import Finder
from ganvas.data.reading.sources import open_source
from ganvas.errors import DataError
from ganvas.image_files import png_bytes

PNG = png_bytes(np.zeros((8, 8, 1), np.uint8))
NAMES = [f"{folder}/{i:02}.png" for folder in "AB" for i in range(3)] + ["v1.2.png"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lists") / "pics"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(root / name)
    return root


def labels_by(pictures: Path, file: Path, content: str | bytes, column: str = "") -> dict[str, str | None]:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = open_source(pictures, DataConfig(labels=f"{file}:{column}" if column else str(file)))
    return {item.name: item.label for item in source.items}


WANTED = {name: "cat" if name.startswith("A") else "dog" for name in NAMES}


def table(row: str, header: str = "", names: list[str] = NAMES) -> str:
    lines = [row.format(i=i, name=name, label=WANTED[NAMES[i]]) for i, name in enumerate(names)]
    return "\n".join([header, *lines] if header else lines) + "\n"


def one_hot(yes: str, no: str) -> str:
    rows = [f"{name},{yes},{no}" if label == "cat" else f"{name},{no},{yes}" for name, label in WANTED.items()]
    return "\n".join(["file,cat,dog", *rows]) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        table("{name},{label}", "file,label"),
        table("{name};{label}"),
        table("{name}\t{label}", "file\tlabel"),
        table("{label},{name}", "label,file"),
        table("{i},{name},{label}", ",file,label"),
        table("{i},{name},{label}", "Unnamed: 0,file,label"),
        table("/content/data/pics/{name},{label}", "file,label"),
        table("./{name},{label}"),
        table("{name},{label},,", "file,label"),
        table("{name},{label}", names=[name.replace("/", "\\") for name in NAMES]),
        table("C:\\me\\pics\\{name},{label}", names=[name.replace("/", "\\") for name in NAMES]),
        table("{name},{label}", names=[name.removesuffix(".png") for name in NAMES]),
        table('{{"file_name": "{name}", "label": "{label}"}}'),
        table("{name},{label}", "file,label").encode("utf-8-sig"),
        table("{name},{label}", "file,label").encode("utf-16"),
        one_hot("1", "0"),
        one_hot("1.0", "0.0"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_labels_are_read_in_every_form(pictures, tmp_path, content, ending):
    assert labels_by(pictures, tmp_path / f"labels{ending}", content) == WANTED


def test_one_column_of_several_is_chosen_by_name(pictures, tmp_path):
    content = table("{i},{name},{label},x", ",file,label,other")
    assert labels_by(pictures, tmp_path / "labels.csv", content, "label") == WANTED


@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "utf-16-le", "utf-32", "shift-jis"])
def test_an_unknown_encoding_is_refused(pictures, tmp_path, encoding):
    labels = {"gbk": ("良性", "恶性"), "cp1252": ("Höhle", "Hähle"), "shift-jis": ("犬", "猫")}
    one, other = labels.get(encoding, ("cat", "dog"))
    content = "file,label\n" + "".join(f"{name},{one if i % 2 else other}\n" for i, name in enumerate(NAMES))
    with pytest.raises(DataError, match=r"labels\.csv is not text in UTF-8.*save it as UTF-8"):
        labels_by(pictures, tmp_path / "labels.csv", content.encode(encoding))
    (tmp_path / "list.txt").write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match=r"--files .*list\.txt is not text in UTF-8"):
        choose(open_source(pictures), DataConfig(files=tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file,label\nA/00.png,cat\nA/00.png,dog\nA/01.png,cat\n", "gives 1 image two labels .*'cat' and 'dog'"),
        ("file,label\nA/00.png,cat\nA\\00.png,dog\n", "two labels"),
        ("file,smile,hat\nA/00.png,1,1\nA/01.png,0,1\n", r"several label columns \(smile, hat\).*csv:smile"),
        ("A/00.png,cat,red\nA/01.png,dog,red\n", "2 cells per line .*no header line"),
        ("file,label\nA/00.png,cat, black\n", "more cells than its first line, 'A/00.png,cat,black'"),
        ("file,label\n00.png,cat\n01.png,dog\n", "none is an image"),  # both A and B have them
    ],
)
def test_what_leaves_a_choice_is_refused(pictures, tmp_path, content, sentence):
    with pytest.raises(DataError, match=sentence):
        labels_by(pictures, tmp_path / "labels.csv", content)


def test_the_fuller_name_wins_a_picture(pictures, tmp_path):
    found = labels_by(pictures, tmp_path / "labels.csv", "other/A/00.png,dog\nA/00.png,cat\nthird/A/00.png,dog\n")
    assert found == {"A/00.png": "cat"}


@pytest.mark.parametrize(
    "content",
    [
        "A/00.png\nA/01.png\n",
        "A/00.png\r\nA/01.png\r\n".encode("utf-8-sig"),
        "A/00.png\nA/01.png\n".encode("utf-16"),
        "A\\00.png\nA\\01.png\n",
        "C:\\me\\pics\\A\\00.png\nC:\\me\\pics\\A\\01.png\n",
        "./A/00.png\n./A/01.png\n",
        "pics/A/00.png\npics/A/01.png\n",
        "A/00\nA/01\n",
        '"A/00.png"\n"A/01.png"\n',
        "file,label\nA/00.png,x\nA/01.png,y\n",
    ],
)
def test_a_list_of_files_is_read_in_every_form(pictures, tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    source = open_source(pictures, DataConfig(labels="none"))
    chosen = choose(source, DataConfig(files=tmp_path / "list.txt"))
    assert [source.items[i].name for i in chosen.indices] == ["A/00.png", "A/01.png"]


def test_a_finder_asks_for_one_picture():
    finder = Finder(["x/a.png", "y/a.png", "y/b.jpg"])
    assert finder.find("a.png") is None and finder.find("a") is None
    assert finder.find("b") == ("y/b.jpg", 1)
    assert finder.find("root/x/a.png") == ("x/a.png", 2)


def tried(names: list[str], cell: str) -> tuple[str, int] | None:
    """What `Finder.find` is defined to give: every number of trailing parts is tried, the largest first."""
    parts = cell.split("/")
    for length in range(len(parts), 0, -1):
        for ending in ("", ".png"):
            long = [name for name in names if name.count("/") >= length - 1]
            fitting = [name for name in long if name.removesuffix(ending).split("/")[-length:] == parts[-length:]]
            if len(fitting) == 1:
                return fitting[0], length
    return None


def test_a_finder_finds_the_one_name_with_the_longest_common_end():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        folders = ["/".join(random.choice(["a", "b", "ab"], random.integers(0, 4))) for _ in range(12)]
        files = random.choice(["x.png", "y.png", "x", "y.z.png", "y.z", "ax.png"], 12)
        all_names = [f"{folder}/{file}".removeprefix("/") for folder, file in zip(folders, files, strict=True)]
        names, cells = [*dict.fromkeys(all_names[:5])], all_names[5:]
        finder = Finder(names)
        for cell in set(cells) - set(names):
            assert finder.find(cell) == tried(names, cell), (names, cell)
            found += finder.find(cell) is not None
    assert found > 100


def test_a_name_of_many_folders_is_looked_up_at_once():
    finder = Finder(["a/" * 400 + "x.png", "a/" * 400 + "y.png"])
    assert finder.find("a/" * 300_000 + "x.jpg") is None
    assert finder.find("a/" * 300_000 + "x.png") == ("a/" * 400 + "x.png", 401)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", "".join(f'{{"{i}": 1}}\n' for i in range(102))),
        ("metadata.csv", "file_name,label" + "," * 102 + "\n" + "0.png,x\n" * 102),
        ("metadata.csv", "file_name,label" + "," * 10_001),
        ("metadata.csv", "file_name,label" + "\n" * 5_001),
        ("list_attr_celeba.txt", "x " * 10_001),
        ("table.txt", "x " * 10_001),
    ],
    ids=["jsonl of other names", "csv of empty cells", "csv of one line", "csv of empty lines", "attributes", "table"],
)
def test_lists_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch, name, content):
    """With the real limits, lists of 300 KB that took more than 10 GB, or of 60 MB, that are 60 KB in a zip."""
    monkeypatch.setattr(lists, "MOST_CELLS", 10_000)
    monkeypatch.setattr(lists, "MOST_LINES", 5_000)
    (tmp_path / "0.png").write_bytes(PNG)
    (tmp_path / name).write_text(content)
    options = DataConfig()
    if name.startswith("list"):
        options = DataConfig(labels="Smiling")
    elif name.startswith("table"):
        options = DataConfig(conditions=name)
    with pytest.raises(DataError, match=f"{name} is too large: keep only the columns"):
        open_source(tmp_path, options)


@pytest.mark.skipif(os.name == "nt", reason="needs a device without end")
def test_a_list_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(lists, "MOST_BYTES", 2**21)
    with pytest.raises(DataError, match="--files /dev/zero is too large"):
        read_list("/dev/zero")


def test_nested_json_is_refused_or_ignored(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(PNG)
    deep = '{"labels": ' + "[" * 10**5
    (tmp_path / "dataset.json").write_text(deep)
    assert len(open_source(tmp_path).items) == 2
    (tmp_path / "metadata.jsonl").write_text(deep)
    with pytest.raises(DataError, match="line 1: expected one JSON object per line"):
        open_source(tmp_path)


def test_a_long_dataset_json_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "MOST_JSON", 1000)
    archive = image_zip(tmp_path / "a.zip", SHARDS, dataset_json='{"labels": [' + "[]," * 400 + "[]]}")
    with pytest.raises(DataError, match="ignore it with --labels none"):
        open_source(archive)
    assert len(open_source(archive, DataConfig(labels="none")).items) == 6


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_names_longer_than_any_path_are_left_out(tmp_path, form):
    path = tmp_path / f"a.{form}"
    names = ["a/" * 30_000 + "x.png", "y.png", "z.png"]
    if form == "zip":
        image_zip(path, names)
    else:
        with tarfile.open(path, "w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(PNG)
                archive.addfile(info, io.BytesIO(PNG))
    source = open_source(path)
    assert [item.name for item in source.items] == ["y.png", "z.png"]
    (rejected,) = source.rejected
    assert rejected.reason == "a name of more than 1,000 characters" and len(rejected.name) == 1000


def test_labels_in_an_array_are_not_replaced(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array(["好".encode("gbk")] * 2))
    with pytest.raises(DataError, match="labels that are not UTF-8 text"):
        open_source(tmp_path / "x.npz")


# Lists that lie with the images, and folders that are no classes.


def image_zip(path: Path, names: list[str], **lists: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            file = io.BytesIO()
            Image.new("L", (8, 8)).save(file, "PNG")
            archive.writestr(name, file.getvalue())
        for name, text in lists.items():
            archive.writestr(name.replace("__", "/").replace("_json", ".json").replace("_csv", ".csv"), text)
    return path


SHARDS = [f"{i // 2:05}/img{i:08}.png" for i in range(6)]


def test_shards_of_stylegan_are_no_classes(tmp_path):
    bare = open_source(image_zip(tmp_path / "a.zip", SHARDS, dataset_json='{"labels": null}'))
    assert bare.classes == [] and len(bare.items) == 6 and "dataset.json" in bare.notes[0]
    labels = json.dumps({"labels": [[name, i % 2] for i, name in enumerate(SHARDS)]})
    named = open_source(image_zip(tmp_path / "b.zip", SHARDS, dataset_json=labels))
    assert [item.label for item in named.items] == ["0", "1"] * 3
    assert open_source(tmp_path / "b.zip", DataConfig(labels="none")).classes == []
    inside = [f"top/{name}" for name in SHARDS]
    assert open_source(image_zip(tmp_path / "c.zip", inside, top__dataset_json=labels)).classes == ["0", "1"]


def test_numbered_folders_without_a_list_are_questioned(tmp_path):
    source = open_source(image_zip(tmp_path / "a.zip", SHARDS))
    assert source.classes == ["00000", "00001", "00002"]
    assert "--labels none" in source.notes[0] and "--labels none" in choose(source, DataConfig()).notes[0]
    assert open_source(image_zip(tmp_path / "b.zip", ["0/a.png", "1/a.png"])).notes == []
    other = image_zip(tmp_path / "c.zip", SHARDS, dataset_json='{"images": []}')
    assert open_source(other).classes == ["00000", "00001", "00002"]  # not StyleGAN's


def test_vectors_for_labels_are_refused(tmp_path):
    labels = json.dumps({"labels": [[name, [0.5, 0.5]] for name in SHARDS]})
    with pytest.raises(DataError, match="not integers: ignore them with --labels none"):
        open_source(image_zip(tmp_path / "a.zip", SHARDS, dataset_json=labels))


def test_metadata_of_hugging_face(tmp_path):
    parts = ["train/0.png", "train/1.png", "test/0.png"]
    lists = {
        "train__metadata_csv": "file_name,label\n0.png,cat\n",
        "test__metadata_csv": "file_name,label\n0.png,dog\n",
    }
    path = image_zip(tmp_path / "a.zip", parts, **lists)
    source = open_source(path)
    assert {item.name: item.label for item in source.items} == {"train/0.png": "cat"}
    assert [(one.name, one.reason) for one in source.rejected] == [("train/1.png", "has no label in metadata.csv")]
    assert {item.label for item in open_source(path, DataConfig(split="all")).items} == {"cat", "dog"}
    captions = image_zip(
        tmp_path / "b.zip", ["0.png", "1.png"], metadata_csv="file_name,text\n0.png,a cat\n1.png,a dog\n"
    )
    source = open_source(captions)
    assert source.classes == [] and "--labels metadata.csv:text" in source.notes[0]
    assert open_source(captions, DataConfig(labels="metadata.csv:text")).classes == ["a cat", "a dog"]


# What is asked for is used: --labels none, and a sentence for what is not.


def test_labels_none_uses_every_picture(tmp_path):
    path = image_zip(
        tmp_path / "a.zip", [*(f"x/{i}.png" for i in range(3)), "y/0.png", *(f"{i}.png" for i in range(5))]
    )
    source = open_source(path)
    assert len(source.items) == 4
    assert by_reason(source.rejected) == (
        "5 x outside the class folders (0.png, 1.png and 3 others; --labels none uses all, without classes)"
    )
    everything = open_source(path, DataConfig(labels="none"))
    assert len(everything.items) == 9 and everything.rejected == []
    (tmp_path / "l.csv").write_text("file,label\nx/0.png,cat\nx/1.png,\n")
    assert len(open_source(path, DataConfig(labels=str(tmp_path / "l.csv"))).items) == 1


def test_a_picture_beside_the_parts_is_named(tmp_path):
    source = open_source(image_zip(tmp_path / "a.zip", ["train/0.png", "test/0.png", "0.png"]))
    assert [item.name for item in source.items] == ["train/0.png"]
    assert [one.name for one in source.rejected] == ["0.png"] and "--split all" in source.rejected[0].option
