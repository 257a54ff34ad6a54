"""Lists from other programs: csv files of labels and --files lists, in the forms that people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data.lists import Finder
from ganvas.data.selection import choose
from ganvas.data.sources import open_source
from ganvas.errors import DataError

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
    source = open_source(pictures, labels=f"{file}:{column}" if column else str(file))
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
    with pytest.raises(DataError, match=r"labels\.csv is not a text in UTF-8.*save it as UTF-8"):
        labels_by(pictures, tmp_path / "labels.csv", content.encode(encoding))
    (tmp_path / "list.txt").write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match=r"--files .*list\.txt is not a text in UTF-8"):
        choose(open_source(pictures), DataConfig(files=tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file,label\nA/00.png,cat\nA/00.png,dog\nA/01.png,cat\n", "gives 1 pictures two labels .*'cat' and 'dog'"),
        ("file,label\nA/00.png,cat\nA\\00.png,dog\n", "two labels"),
        ("file,smile,hat\nA/00.png,1,1\nA/01.png,0,1\n", r"several columns of labels \(smile, hat\).*csv:smile"),
        ("A/00.png,cat,red\nA/01.png,dog,red\n", "2 cells a line .*no header line"),
        ("file,label\nA/00.png,cat, black\n", "more cells than its first line, 'A/00.png,cat,black'"),
        ("file,label\n00.png,cat\n01.png,dog\n", "none is a picture"),  # both A and B have them
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
    source = open_source(pictures, labels="none")
    chosen = choose(source, DataConfig(files=tmp_path / "list.txt"))
    assert [source.items[i].name for i in chosen.indices] == ["A/00.png", "A/01.png"]


def test_a_finder_asks_for_one_picture():
    finder = Finder(["x/a.png", "y/a.png", "y/b.jpg"])
    assert finder.find("a.png") is None and finder.find("a") is None
    assert finder.find("b") == ("y/b.jpg", 1)
    assert finder.find("root/x/a.png") == ("x/a.png", 2)


def test_labels_in_an_array_are_not_replaced(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array(["好".encode("gbk")] * 2))
    with pytest.raises(DataError, match="labels that are no text in UTF-8"):
        open_source(tmp_path / "x.npz")
