"""share/export.py and share/export_web: other programs and browsers draw the images that PyTorch draws."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import importlib.util
import json
import math
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image

from architectures import CLASSIC, MODERN
from ganvas.errors import ConfigError, GanvasError, MissingExtraError
from ganvas.explore.recipes import Recipe, resolve
from ganvas.generator import Generator, to_pixels
from ganvas.model_file import WEIGHTS
from ganvas.models import MODELS
from ganvas.provenance import SENTENCE, read_provenance
from ganvas.share import export_web
from ganvas.share.export import (
    UNFINISHED,
    Form,
    Weights,
    check_place,
    export,
    licence_of_card,
    mark_of,
    onnx_model,
    quantised,
    write_all,
)
from ganvas.system import files
from test_generator import SAME, fresh

onnx = pytest.importorskip("onnx", reason="needs the extra export")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")

CLASSES = ["left", "<img src=x onerror=alert(1)>", "ärger"]
BROWSER_SAME = 1e-3


@functools.cache
def small(name: str, labelled: bool = True) -> Generator:
    """A generator of `name` at the smallest size that all architectures take, with labels where it knows them."""
    classes = CLASSES if labelled and name in MODERN else []
    return fresh(name, classes, height=32, width=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a card, of a labelled compact generator in colour."""
    generator = fresh("compact", CLASSES, height=20, width=28, channels=3)
    return generator.save(
        tmp_path_factory.mktemp("models") / "bars", "# Bars\n\n| licence | CC BY\\-SA 4.0 &amp; more |\n"
    )


@pytest.fixture
def converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is converted to ONNX, which takes seconds, by the first of the tests that look at what is made of it."""
    monkeypatch.setattr("ganvas.share.export.onnx_model", kept_model)


MADE: dict[tuple[str, str, str], tuple[bytes, dict[str, Any]]] = {}


def kept_model(generator: Generator, weights: Weights, licence: str) -> tuple[bytes, dict[str, Any]]:
    key = generator.hash, weights, licence
    if key not in MADE:
        MADE[key] = onnx_model(generator, weights, licence)
    content, report = MADE[key]
    return content, dict(report)


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def drawn(runs: Any, z: torch.Tensor, labels: torch.Tensor | None, truncation: float) -> list[np.ndarray]:
    given = {"z": z.numpy(), "truncation": np.array(truncation, np.float32)}
    return runs.run(["pictures", "code"], given | ({} if labels is None else {"label": labels.numpy()}))


def weights_of_classes(generator: Generator, num: int) -> torch.Tensor | None:
    """(num, num_classes) weights that add up to 1, the first of one class alone."""
    classes = len(generator.classes)
    if not classes:
        return None
    weights = torch.rand(num, classes, generator=torch.Generator().manual_seed(3)) + 0.05
    weights[0] = torch.eye(classes)[-1]
    return weights / weights.sum(dim=1, keepdim=True)


# ONNX.


def check_onnx(generator: Generator, place: Path) -> None:
    path, report_path = export(generator.save(place / "model"), place / "out", to="onnx")
    runs, report = session(path), json.loads(report_path.read_text())
    for num, truncation in ((1, 1.0), (5, 0.7), (2, 0.0), (20, 1.0)):
        z, labels = generator.latents(range(100, 100 + num)), weights_of_classes(generator, num)
        pictures, code = drawn(runs, z, labels, truncation)
        expected = generator.code(z, labels, truncation)
        assert np.abs(pictures - generator.show(expected).numpy()).max() < SAME
        assert np.abs(code - expected.latents[:, 0].numpy()).max() < SAME
    z = generator.latents([5])
    indices = torch.tensor([1]) if generator.classes else None
    labels = torch.eye(len(CLASSES))[[1]] if generator.classes else None
    for truncation in (1.0, 0.4):  # by the way that `sample` goes
        pictures, _ = drawn(runs, z, labels, truncation)
        assert np.abs(pictures - generator.render(z, indices, truncation).numpy()).max() < SAME
    found = {value.name: value.shape for value in runs.get_inputs()}
    assert found == report["inputs"] and ("label" in found) == bool(generator.classes)
    assert {value.name: value.shape for value in runs.get_outputs()} == report["outputs"]
    assert report["difference"]["max"] < SAME and report["bytes"] == path.stat().st_size
    said = runs.get_modelmeta().custom_metadata_map
    assert said["model"] == generator.hash == report["model"] and said["synthetic"] == SENTENCE
    assert json.loads(said["classes"]) == generator.classes


def some(quick: tuple[str, ...], names: Iterable[str]) -> list[Any]:
    """Parameters of which only `quick` run in the quick tests."""
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", ["style", "mlp"])
def test_onnx_gives_the_pictures_of_pytorch(name: str, tmp_path: Path) -> None:
    check_onnx(fresh(name, CLASSES if name in MODERN else [], height=12, width=12), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnx_of_every_architecture(name: str, tmp_path: Path) -> None:
    check_onnx(small(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODERN)
def test_onnx_of_models_without_labels_and_of_odd_sizes(name: str, tmp_path: Path) -> None:
    check_onnx(small(name, labelled=False), tmp_path / "plain")
    check_onnx(fresh(name, CLASSES, height=37, width=45, channels=4), tmp_path / "odd")


@pytest.mark.slow
@pytest.mark.parametrize("weights, share, psnr", [("float16", 0.62, 60), ("int8", 0.40, 30)])
def test_small_weights_are_small_and_measured(weights: Weights, share: float, psnr: float, tmp_path: Path) -> None:
    generator = fresh("compact", CLASSES, height=32, width=32, base=32)
    model = generator.save(tmp_path / "model")
    path, report_path = export(model, tmp_path / weights, to="onnx", weights=weights)
    report = json.loads(report_path.read_text())
    assert path.stat().st_size < share * (model / WEIGHTS).stat().st_size
    assert report["weights"] == weights and session(path).get_modelmeta().custom_metadata_map["weights"] == weights
    z, labels = generator.latents(range(50, 90)), weights_of_classes(generator, 40)
    gap = np.abs(drawn(session(path), z, labels, 1.0)[0] - generator.show(generator.code(z, labels)).numpy())
    assert 0 < gap.max() < 3 * report["difference"]["max"]  # other latents than the report's: the same size
    assert 0.5 < gap.mean() / report["difference"]["mean"] < 2
    measured = 10 * math.log10(4 / np.square(gap).mean())
    assert measured > psnr and abs(measured - report["difference"]["psnr"]) < 3
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert {"float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[weights] in kinds


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_small_weights_of_every_architecture(name: str, weights: Weights, tmp_path: Path) -> None:
    _, report_path = export(small(name).save(tmp_path / "model"), tmp_path / "out", to="onnx", weights=weights)
    found = json.loads(report_path.read_text())["difference"]
    assert found["psnr"] > {"float16": 50, "int8": 20}[weights]


def test_quantised_weights_lose_half_a_step_at_most() -> None:
    values = np.random.default_rng(0).standard_normal((6, 5, 3, 3)).astype(np.float32)
    values *= np.array([1, 10, 100, 0.01, 0, 1e-9], np.float32)[:, None, None, None]
    integers, scales = quantised(values)
    assert scales.shape == (6, 1, 1, 1) and integers.dtype == np.int8  # the axis along which the sizes differ
    assert (np.abs(values - integers * scales) <= scales * 0.5001).all()
    integers, scales = quantised(values.transpose(1, 0, 2, 3))
    assert scales.shape == (1, 6, 1, 1)
    integers, scales = quantised(np.array([0.5, -2.0, 1.0], np.float32))
    assert integers.tolist() == [32, -127, 64]


def test_a_model_that_differs_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = fresh("mlp", height=12, width=12).save(tmp_path / "model")
    right = Generator.code
    monkeypatch.setattr(Generator, "code", lambda self, z, *rest: right(self, z + 0.01, *rest))
    for to in ("onnx", "torch"):
        with pytest.raises(GanvasError, match=r"differs from the original by .*, expected at most 0\.0001"):
            export(model, tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


# torch.export and the model folder.


def check_torch(generator: Generator, place: Path) -> None:
    path, report_path = export(generator.save(place / "model"), place / "out", to="torch")
    extra = {"ganvas.json": ""}
    loaded = torch.export.load(path, extra_files=extra).module()
    z, labels = generator.latents(range(7)), weights_of_classes(generator, 7)
    pictures, code = loaded(z, labels, torch.tensor(0.6))
    expected = generator.code(z, labels, 0.6)
    assert (pictures - generator.show(expected)).abs().max() < SAME
    assert (code - expected.latents[:, 0]).abs().max() < SAME
    assert json.loads(extra["ganvas.json"])["model"] == generator.hash
    assert json.loads(report_path.read_text())["difference"]["max"] < SAME


@pytest.mark.parametrize("name", some(("compact",), MODELS))
def test_torch_program_loads_and_agrees(name: str, tmp_path: Path) -> None:
    check_torch(small(name), tmp_path)


def test_folder_is_clean_and_loads(trained: Path, tmp_path: Path) -> None:
    written = export(trained, tmp_path / "deep" / "out", to="folder")
    assert {path.name for path in (tmp_path / "deep" / "out").iterdir()} == {WEIGHTS, "config.json", "README.md"}
    assert {path.name for path in written} == {WEIGHTS, "config.json", "README.md"}
    before, after = (Generator.load(place, "cpu") for place in (trained, tmp_path / "deep" / "out"))
    assert after.hash == before.hash and torch.equal(after.sample(3), before.sample(3))
    assert "synthetic" in (tmp_path / "deep" / "out" / "README.md").read_text()


def test_folder_keeps_the_card_of_a_model_without_its_run(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out", to="folder")
    assert (tmp_path / "out" / "README.md").read_text() == (folder / "README.md").read_text()


def test_licence_is_read_from_the_card() -> None:
    assert licence_of_card("| licence | CC BY\\-SA 4.0 &amp; more |\n") == "CC BY-SA 4.0 & more"
    assert licence_of_card("|a|b|\n| licence of the data | MIT |\n") == "MIT"
    assert licence_of_card("# A card\n") == "not stated"


# Bad input.


def test_unknown_forms_and_what_does_not_go_together(tmp_path: Path, folder: Path) -> None:
    for options, message in [
        ({"to": "gguf"}, r"--to gguf: expected one of onnx, web, torch, folder"),
        ({"weights": "int4"}, r"--weights int4: expected one of float32, float16, int8"),
        ({"to": "torch", "weights": "int8"}, r"only --to onnx and --to web support it"),
        ({"runtime": Path("x.tgz")}, r"only --to web uses a runtime"),
    ]:
        with pytest.raises(ConfigError, match=message):
            export(folder, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["onnx", "torch", "web", "folder"])
def test_a_place_that_is_taken_is_refused(to: Form, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already contains files: choose a new or an empty folder"):
        export(folder, tmp_path, to=to)
    with pytest.raises(ConfigError, match=r"notes\.txt already exists: choose a new or an empty folder"):
        export(folder, tmp_path / "notes.txt", to=to)
    with pytest.raises(ConfigError, match=r"out cannot be written because .*notes\.txt is a file: choose another path"):
        export(folder, tmp_path / "notes.txt" / "out", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("converted_once")
def test_a_file_name_is_taken_as_one(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other.txt").write_text("stays")
    assert [path.name for path in export(folder, tmp_path / "bars.onnx")] == ["bars.onnx", "bars.json"]
    with pytest.raises(ConfigError, match=r"bars\.onnx already exists: choose another name"):
        export(folder, tmp_path / "bars.onnx")


@pytest.mark.parametrize("out", ["new", "empty", "model.pt2"])
@pytest.mark.parametrize("num", [0, 1, 2])
def test_an_export_that_was_killed_can_be_made_again(
    out: str, num: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    contents = {"model.pt2": b"weights", "model.json": b"{}", "README.md": b"card"}
    place, ending = tmp_path / out, ".pt2" if out.endswith(".pt2") else None
    if out == "empty":
        place.mkdir()
    where = tmp_path if ending else place
    mark = mark_of(place, ending)
    check_place(place, mark, free_name=bool(ending))

    written: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        written.append(path)
        if len(written) == num + 1:
            shutil.copytree(tmp_path, copy)  # what a kill would leave here

    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    monkeypatch.setattr("ganvas.share.export.write_bytes", write)
    write_all({where / name: content for name, content in contents.items()}, mark)
    monkeypatch.undo()
    place, where, mark = (copy / one.relative_to(tmp_path) for one in (place, where, mark))
    assert mark.is_file() and len(list(where.iterdir())) == num + 1
    check_place(place, mark, free_name=bool(ending))
    write_all({where / name: content for name, content in contents.items()}, mark)
    assert {path.name: path.read_bytes() for path in where.iterdir()} == contents
    with pytest.raises(ConfigError, match="already"):
        check_place(place, mark, free_name=bool(ending))


def test_an_export_that_was_killed_at_its_marker_can_be_made_again(tmp_path: Path, folder: Path) -> None:
    (tmp_path / f"..{UNFINISHED}.{files.HOST}-{2**22 + 1}.tmp").write_bytes(b"")  # no process has this number
    names = {path.name for path in export(folder, tmp_path, to="folder")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(MissingExtraError, match=r"'onnxscript': pip install 'ganvas\[export\]'"):
        export(folder, tmp_path / "out")


def test_full_disk_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    def write(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise GanvasError("no space left")
        path.write_bytes(content)

    monkeypatch.setattr("ganvas.share.export.write_bytes", write)
    with pytest.raises(GanvasError, match="no space left"):
        export(folder, tmp_path / "a" / "b", to="folder")
    assert not list(tmp_path.iterdir())


# The runtime of the web page.


@pytest.fixture
def pretended(tmp_path: Path) -> Path:
    """An unpacked package that has the files' names and nothing that runs."""
    place = tmp_path / "node_modules" / "onnxruntime-web"
    (place / "dist").mkdir(parents=True)
    for name in export_web.RUNTIME:
        (place / "dist" / name).write_bytes(f"content of {name}".encode())
    return place


def packed(package: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(package, "package")
    return target


def test_runtime_from_a_folder_or_an_archive(pretended: Path, tmp_path: Path) -> None:
    expected = {name: f"content of {name}".encode() for name in export_web.RUNTIME}
    assert export_web.runtime_files(pretended) == expected
    assert export_web.runtime_files(pretended / "dist") == expected
    assert export_web.runtime_files(packed(pretended, tmp_path / "package.tgz")) == expected


def test_runtime_that_is_none(pretended: Path, tmp_path: Path, folder: Path) -> None:
    (pretended / "dist" / "ort.wasm.min.js").unlink()
    (tmp_path / "broken.tgz").write_bytes(b"\x1f\x8b and no more")
    for package, message in [
        (pretended, r"has no ort\.wasm\.min\.js: expected the npm package onnxruntime-web"),
        (packed(pretended, tmp_path / "half.tgz"), r"has no ort\.wasm\.min\.js"),
        (tmp_path / "broken.tgz", "cannot be read"),
        (tmp_path / "absent.tgz", "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=message):
            export(folder, tmp_path / "out", to="web", runtime=package)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GANVAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_npm_one_sentence_says_where_the_file_goes(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, tmp_path: Path, folder: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    place = re.escape(str(own_cache / f"onnxruntime-web-{export_web.VERSION}.tgz"))
    with pytest.raises(GanvasError, match=f"but npm is not installed: save the npm package as {place}"):
        export(folder, tmp_path / "out", to="web")


def test_npm_is_asked_once_and_what_it_brings_is_checked(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, pretended: Path, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        asked.append(command)
        packed(pretended, Path(command[command.index("--pack-destination") + 1]) / kept.name)

    kept = own_cache / f"onnxruntime-web-{export_web.VERSION}.tgz"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(GanvasError, match="npm returned a different onnxruntime-web"):
        export_web.runtime_files(None)
    assert not kept.exists() and not list(own_cache.iterdir())
    right = {name: hashlib.sha256(f"content of {name}".encode()).hexdigest() for name in export_web.RUNTIME}
    monkeypatch.setattr(export_web, "RUNTIME", right)
    for _ in range(2):
        assert export_web.runtime_files(None)["ort.wasm.min.js"] == b"content of ort.wasm.min.js"
    assert len(asked) == 2 and asked[0][:3] == ["/usr/bin/npm", "pack", f"onnxruntime-web@{export_web.VERSION}"]
    kept.write_bytes(kept.read_bytes()[:-40])  # damaged: fetched again
    assert export_web.runtime_files(None) and len(asked) == 3


def test_npm_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    def run(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="npm ERR! network is unreachable\nnpm ERR! more")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(
        GanvasError, match=r"npm could not download .* \(npm ERR! network is unreachable\): save the npm"
    ):
        export_web.runtime_files(None)


# The web page.


@pytest.mark.usefixtures("converted_once")
def test_page_has_all_its_parts_and_no_outside_address(pretended: Path, folder: Path, tmp_path: Path) -> None:
    written = export(folder, tmp_path / "out", to="web", runtime=pretended)
    names = {str(path.relative_to(tmp_path / "out")) for path in written}
    assert names == {"index.html", "model.onnx", "model.json", "offline.js", "runtime/LICENSE.txt"} | {
        f"runtime/{name}" for name in export_web.RUNTIME
    }
    own = {path.name: path.stat().st_size for path in written if path.parent.name != "runtime"}
    weights = (folder / WEIGHTS).stat().st_size
    assert own["model.onnx"] < weights + 100_000 and own["offline.js"] < 1.4 * own["model.onnx"] + 100_000
    assert own["index.html"] < 200_000
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    body = page.split("<body", 1)[1]
    first_line = re.sub(r"<[^>]+>", "", body.split(">", 1)[1]).strip().splitlines()[0]
    assert first_line.startswith("All images on this page are synthetic")
    generator = Generator.load(folder, "cpu")
    assert generator.hash in page and "CC BY-SA 4.0 &amp; more" in page
    assert CLASSES[1] not in page and "\\u003cimg" in page
    outside = [address for address in re.findall(r"https?://[^\"'\\ ]+", page) if "ns.adobe" not in address]
    assert {address.split("/")[2] for address in outside} <= {"www.w3.org", "iptc.org", "cv.iptc.org"}  # of the XMP
    assert not re.search(r"(src|href)=[\"'](?!data:,)", page)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "residual"])
def test_page_of_a_small_model_is_below_25_mb(
    name: str, monkeypatch: pytest.MonkeyPatch, pretended: Path, tmp_path: Path
) -> None:
    """residual: size S at 128 pixels, the largest that also works from a disk."""
    monkeypatch.setattr(export_web, "SLIDER_SAMPLES", 16)  # any sliders
    shape = {"height": 128, "width": 128, "channels": 3, "z_dim": 64, "base": 32}
    if name == "residual":
        shape |= {"widest": 256}
    generator = fresh(name, CLASSES, **shape)
    model = generator.save(tmp_path / "model")
    written = export(model, tmp_path / "out", to="web", runtime=pretended)
    assert sum(path.stat().st_size for path in written if path.parent.name != "runtime") < 25e6
    assert (tmp_path / "out" / "offline.js").exists()


def test_the_first_slider_is_what_changes_most() -> None:
    generator = fresh("compact", CLASSES, height=20, width=28)
    with torch.no_grad():
        generator.network.start.weight[:, 3] *= 10
    found = export_web.sliders(generator)
    assert found.shape == (8, 8)
    assert np.abs(found @ found.T - np.eye(8)).max() < 1e-5
    assert found[0, 3] > 0.9


# In a browser.


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real runtime: from the user's cache, else by npm; skips where there is neither."""
    name = f"{export_web.RUNTIME_PACKAGE}-{export_web.VERSION}.tgz"
    kept = Path(platformdirs.user_cache_dir("ganvas")) / name
    if kept.is_file():
        return kept
    target = tmp_path_factory.mktemp("npm") / name
    try:
        export_web.fetch(target)
    except GanvasError as error:
        pytest.skip(str(error))
    return target


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def serve() -> Iterator[Any]:
    """serve(folder) -> address of a plain file server, which sends no special headers."""
    servers: list[http.server.ThreadingHTTPServer] = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = {".html": "text/html"}  # noqa: RUF012 (nothing else has a type: a poor host)

        def log_message(self, *_: object) -> None:
            pass

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Page:
    """An opened demo page, with all that went wrong in it."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("dialog", lambda dialog: (self.errors.append("a dialog"), dialog.dismiss()))
        self.page.goto(address)
        self.settled()

    def settled(self) -> None:
        """Waits for what is being drawn."""
        self.page.evaluate("ganvas.ready.then(() => ganvas.settled())")

    def run(self, z: torch.Tensor, labels: torch.Tensor | None, truncation: float) -> np.ndarray:
        found = self.page.evaluate(
            "([z, labels, truncation]) => ganvas.run(z, labels, truncation).then((x) => Array.from(x.pictures))",
            [z.tolist(), None if labels is None else labels.tolist(), truncation],
        )
        return np.array(found, np.float32)

    def shown(self) -> np.ndarray:
        return np.array(self.page.evaluate("Array.from(ganvas.shown().picture)"), np.float32)

    def saved(self, target: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.click("#save")
        download.value.save_as(target)
        return target


def same_in_browser(page: Page, generator: Generator) -> None:
    z, labels = generator.latents(range(40, 44)), weights_of_classes(generator, 4)
    for truncation in (1.0, 0.5):
        found = page.run(z, labels, truncation)
        expected = generator.show(generator.code(z, labels, truncation)).numpy()
        assert np.abs(found.reshape(expected.shape) - expected).max() < BROWSER_SAME


def remade(generator: Generator, path: Path) -> np.ndarray:
    """(H, W, C) the image that the recipe in a saved file makes in Python."""
    said = read_provenance(path)
    assert said is not None and said["synthetic"] is True and said["model"] == generator.hash
    code = resolve(generator, [Recipe.from_dict(said["recipe"])])
    return to_pixels(generator.show(code), generator.info.depth)[0]


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        array = np.asarray(picture)
    return array if array.ndim == 3 else array[:, :, None]


@pytest.mark.usefixtures("converted_once")
def test_demo_in_a_browser(browser: Any, serve: Any, runtime: Path, folder: Path, tmp_path: Path) -> None:
    """Every control of the page, from a plain file server, against Python."""
    generator = Generator.load(folder, "cpu")
    export(folder, tmp_path / "out", to="web", runtime=runtime)
    address = serve(tmp_path / "out")
    page = Page(browser, f"{address}/index.html", viewport={"width": 390, "height": 800})
    same_in_browser(page, generator)

    # A seed, its class by default, and the gallery are Python's.
    for seed in (0, 5, 2**53 - 1):
        latent = page.page.evaluate("(seed) => Array.from(ganvas.latentOf(seed))", seed)
        assert np.abs(np.array(latent) - generator.latents([seed])[0].numpy()).max() < 1e-6
    assert np.abs(page.shown().reshape(1, 3, 20, 28) - generator.sample(1).numpy()).max() < BROWSER_SAME
    page.page.wait_for_function("!document.getElementById('more').disabled")
    first = page.page.locator("#gallery canvas").nth(4)
    drawn_pixels = first.evaluate("(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")
    expected = to_pixels(generator.sample(1, seed=4))[0].astype(int)
    assert np.abs(np.array(drawn_pixels).reshape(20, 28, 4)[:, :, :3] - expected).max() <= 1

    # Seed, class and truncation; the file says what it is, and Python makes the same image of it.
    page.page.fill("#seed", "7")
    page.page.dispatch_event("#seed", "change")
    page.page.select_option("#class", "2")
    page.page.fill("#truncation", "0.6")
    page.settled()
    plain = page.saved(tmp_path / "plain.png")
    assert read_provenance(plain)["recipe"] == {"seed": 7, "label": "ärger", "truncation": 0.6}
    assert np.abs(pixels_of(plain).astype(int) - remade(generator, plain)).max() <= 1
    with Image.open(plain) as opened:
        assert opened.info["Description"] == SENTENCE

    # Morph and sliders; the address names them, too.
    page.page.fill("#to", "9")
    page.page.dispatch_event("#to", "change")
    page.page.select_option("#to_class", "1")
    page.page.fill("#share", "0.3")
    page.page.fill("#slider_0", "2")
    page.settled()
    moved = page.saved(tmp_path / "moved.png")
    assert np.abs(pixels_of(moved).astype(int) - remade(generator, moved)).max() <= 1
    assert np.abs(pixels_of(moved).astype(int) - pixels_of(plain)).mean() > 1
    page.page.wait_for_function("location.hash.includes('sliders=2')")
    again = Page(browser, page.page.url)
    assert np.abs(again.shown() - page.shown()).max() < 1e-5

    # A latent in the address is drawn as it is.
    z = generator.latents([123])
    fed = Page(browser, f"{address}/index.html#latent={','.join(map(str, z[0].tolist()))}&class=left")
    expected = generator.render(z, torch.tensor([0])).numpy()
    assert np.abs(fed.shown().reshape(expected.shape) - expected).max() < BROWSER_SAME

    # The film of a morph runs and stops; more images come; nothing is wider than a phone.
    page.page.click("#play")
    page.page.wait_for_function("Number(document.getElementById('share').value) > 0.5", timeout=20_000)
    page.page.click("#play")
    page.page.click("#more")
    page.page.wait_for_function("document.querySelectorAll('#gallery button').length === 24")
    page.page.locator("#gallery button").nth(13).click()
    page.settled()
    assert page.page.input_value("#seed") == "13"
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for opened in (page, again, fed):
        assert opened.errors == []
        assert all(request.startswith((address, "blob:", "data:")) for request in opened.asked)


def test_demo_opened_from_a_disk(browser: Any, runtime: Path, folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out", to="web", weights="float16", runtime=runtime)
    page = Page(browser, (tmp_path / "out" / "index.html").as_uri())
    assert page.errors == [] and page.page.locator("#status").is_hidden()
    whole = Generator.load(folder, "cpu")
    picture = page.shown().reshape(1, 3, 20, 28)
    assert 1e-6 < np.abs(picture - whole.sample(1).numpy()).max() < 0.02  # rounded weights


@pytest.mark.usefixtures("converted_once")
def test_large_model_opened_from_a_disk_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, browser: Any, pretended: Path, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(export_web, "MOST_OFFLINE", 1000)
    written = export(folder, tmp_path / "out", to="web", runtime=pretended)
    assert "offline.js" not in {path.name for path in written}
    page = Page(browser, (tmp_path / "out" / "index.html").as_uri())
    assert "python -m http.server" in page.page.inner_text("#status")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODERN, *CLASSIC])
def test_browser_draws_every_architecture(name: str, browser: Any, serve: Any, runtime: Path, tmp_path: Path) -> None:
    generator = small(name)
    export(generator.save(tmp_path / "model"), tmp_path / "out", to="web", runtime=runtime)
    page = Page(browser, serve(tmp_path / "out"))
    same_in_browser(page, generator)
    saved = page.saved(tmp_path / "saved.png")
    assert np.abs(pixels_of(saved).astype(int) - remade(generator, saved)).max() <= 1
    page.page.fill("#share", "0.5")
    page.settled()
    saved = page.saved(tmp_path / "between.png")
    assert np.abs(pixels_of(saved).astype(int) - remade(generator, saved)).max() <= 1
    assert page.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("depth, channels", [(16, 1), (8, 4), (8, 1)])
def test_browser_saves_sixteen_bit_gray_and_transparency(
    depth: int, channels: int, browser: Any, serve: Any, runtime: Path, tmp_path: Path
) -> None:
    generator = fresh("compact", height=20, width=28, channels=channels)
    generator.info = dataclasses.replace(generator.info, depth=depth)
    export(generator.save(tmp_path / "model"), tmp_path / "out", to="web", runtime=runtime)
    saved = Page(browser, serve(tmp_path / "out")).saved(tmp_path / "saved.png")
    gap = np.abs(pixels_of(saved).astype(int) - remade(generator, saved)).max()
    assert pixels_of(saved).shape == (20, 28, channels) and gap <= (20 if depth == 16 else 1)
