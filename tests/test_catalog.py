"""Named sets: their entries, and downloads from a server in this process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from ganvas.config import DataConfig, parse_size
from ganvas.data import catalog, open_pack
from ganvas.data.catalog import CATALOG, Dataset
from ganvas.data.download import File
from ganvas.data.reading import digits
from ganvas.errors import DataError

CONTENT = np.random.default_rng(0).bytes(700_000)


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any path; counts what it was asked for."""

    ranges: bool = True
    cut: int = 0  # bytes held back at the end of the next answer
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast(Server, self.server)
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : len(CONTENT) - server.cut])
        server.cut = 0

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def entry(server: Server, checksum: str | None = None, num_bytes: int | None = None) -> Dataset:
    checksum = checksum or hashlib.sha256(CONTENT).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/flowers.zip"
    file = File("flowers.zip", url, checksum, num_bytes)
    return Dataset("flowers", "Flowers", "photo", "CC0", "nobody", (file,), page="https://flowers.example")


def test_download_arrives_once(server):
    path = catalog.fetch(entry(server))
    assert path.read_bytes() == CONTENT
    assert catalog.fetch(entry(server)) == path and len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_goes_on(server, ranges):
    server.cut, server.ranges = 300_000, ranges
    with pytest.raises(DataError, match=r"flowers.*could not be downloaded.*to .*--data PATH"):
        catalog.fetch(entry(server))
    folder = entry(server).folder
    part = folder / "flowers.zip.part"
    assert not (folder / "flowers.zip").exists() and 0 < part.stat().st_size < len(CONTENT)
    have = part.stat().st_size
    assert catalog.fetch(entry(server)).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"] and not part.exists()


@pytest.mark.parametrize("num_bytes", [None, len(CONTENT)])
def test_finished_but_unchecked_download_is_not_fetched_again(server, num_bytes):
    dataset = entry(server, num_bytes=num_bytes)
    dataset.folder.mkdir(parents=True)
    (dataset.folder / "flowers.zip.part").write_bytes(CONTENT)
    assert catalog.fetch(dataset).read_bytes() == CONTENT


@pytest.mark.parametrize(("checksum", "kind"), [("0" * 32, "MD5"), ("0" * 64, "SHA-256")])
def test_wrong_checksum_is_refused(server, checksum, kind):
    dataset = entry(server, checksum)
    with pytest.raises(DataError, match=kind):
        catalog.fetch(dataset)
    assert [path.name for path in dataset.folder.iterdir() if path.name != ".lock"] == []


def test_no_network_says_what_to_do(server):
    dataset = entry(server)
    server.server_close()
    with pytest.raises(DataError, match=r"download flowers.zip from https://flowers.example to"):
        catalog.fetch(dataset)


@pytest.mark.parametrize("name", ["chest-xray", "simpsons", "face2comics", "celeba"])
def test_sets_behind_an_account_say_where_to_go(name):
    dataset = CATALOG[name]
    with pytest.raises(DataError) as caught:
        open_pack(name)
    message = str(caught.value)
    assert str(dataset.page) in message and str(dataset.folder) in message and "--data PATH" in message


def test_files_put_there_by_hand_are_used(shared_data):
    dataset = CATALOG["chest-xray"]
    dataset.folder.mkdir(parents=True)
    archive = shared_data / "chest_xray" / "chest_xray_normal_300.zip"
    (dataset.folder / "chest-xray-pneumonia.zip").symlink_to(archive)
    pack = open_pack("chest-xray", DataConfig(limit=3))
    assert (pack.num_images, pack.kind, pack.channels) == (3, "xray", 1)


def test_entries_are_complete():
    assert list(CATALOG) == [
        "digits", "mnist", "fashion-mnist", "cifar10", "celeba", "mednist", "chest-xray", "simpsons", "face2comics"
    ]  # fmt: skip
    for dataset in CATALOG.values():
        assert dataset.title and dataset.licence and dataset.attribution
        assert dataset.page and dataset.page.startswith("https://")
        assert dataset.size is None or parse_size(dataset.size)
        for file in dataset.files:
            assert file.url is None or file.url.startswith("https://")
            assert file.url is None or len(file.checksum or "") == (32 if dataset.name == "mednist" else 64)
            assert file.url is not None or file.checksum is None, "files put there by hand are not compared"


def test_published_checksums_hold_for_the_real_files(shared_data):
    for file in CATALOG["mnist"].files:
        content = (shared_data / "mnist" / file.name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.checksum, file.num_bytes)


def test_unknown_name_is_an_error_with_the_nearest():
    with pytest.raises(DataError, match=r"'minst' is neither.*did you mean 'mnist'\?.*cifar10"):
        open_pack("minst")


def test_an_existing_path_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    with pytest.raises(DataError, match="digits"):
        open_pack("digits")  # an empty folder of that name


def test_digits():
    pack = open_pack("digits")
    assert pack.images.shape == (1797, 32, 32, 1) and pack.images.dtype == np.uint8
    assert pack.classes == [str(digit) for digit in range(10)] and pack.mirror is False
    assert pack.record.licence == "CC BY 4.0"
    assert pack.images.min() == 0 and pack.images.max() >= 250
    assert not pack.images[:, [0, -1]].any(), "the digits have a margin"


def test_digits_are_those_of_the_peers():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is missing: install the extra dev")
    peer = datasets.load_digits()
    with np.load(digits.DIGITS_FILE) as arrays:
        np.testing.assert_array_equal(arrays["images"], peer.images)
        np.testing.assert_array_equal(arrays["labels"], peer.target)
    images, labels = digits.digits().arrays()
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    np.testing.assert_array_equal(images[1796], digits.enlarged_digit(peer.images[1796]))
