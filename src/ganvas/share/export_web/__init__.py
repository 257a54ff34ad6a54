"""Web demo: a folder for any static host with a page, the model and a runtime; it loads nothing from other sites.

index.html               the page, from page.html.j2, page.css and page.js
model.onnx  model.json   the generator and its report
runtime/                 onnxruntime-web with one thread, so that no special HTTP headers are needed
offline.js               runtime and model as text, because a page opened from disk cannot fetch files
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from ganvas import provenance
from ganvas.errors import ConfigError, GanvasError
from ganvas.generator import Generator
from ganvas.system.files import cache_dir

RUNTIME_PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""Required files of the package, with the SHA-256 of `VERSION`."""
_MOST_BYTES = 128 * 2**20  # largest file of the runtime
MOST_OFFLINE = 19 * 2**19  # largest model in bytes for offline.js, where it is 4/3 times as long
_NUM_SLIDERS = 8
SLIDER_SAMPLES, _SLIDER_PIXELS = 1024, 2**21  # most images, and most pixels of all images, for computing the sliders
_THUMBNAIL = 16  # longest side of the images for computing the sliders


# -- the runtime --


def runtime_files(package: Path | None) -> dict[str, bytes]:
    """Files of the runtime by name, from `package` (.tgz or folder), the cache, or npm."""
    if package is not None:
        return _read_package(package)
    kept = cache_dir() / f"{RUNTIME_PACKAGE}-{VERSION}.tgz"
    if kept.is_file():
        with_right_content = _right_files(kept)
        if with_right_content is not None:
            return with_right_content
        kept.unlink()  # damaged
    fetch(kept)
    content = _right_files(kept)
    if content is None:
        kept.unlink(missing_ok=True)
        raise GanvasError(f"npm returned a different {RUNTIME_PACKAGE} {VERSION} than expected: {_how_by_hand(kept)}")
    return content


def _right_files(package: Path) -> dict[str, bytes] | None:
    """Files of the package; None if it is damaged or has other hashes."""
    try:
        content = _read_package(package)
    except ConfigError:
        return None
    return content if all(hashlib.sha256(content[name]).hexdigest() == RUNTIME[name] for name in RUNTIME) else None


def fetch(target: Path) -> None:
    """Download the package with npm to `target`."""
    npm = shutil.which("npm")
    if npm is None:
        raise GanvasError(
            f"the page needs {RUNTIME_PACKAGE} {VERSION}, but npm is not installed: {_how_by_hand(target)}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            command = [npm, "pack", f"{RUNTIME_PACKAGE}@{VERSION}", "--pack-destination", folder, "--ignore-scripts"]
            subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=True)
            (Path(folder) / target.name).replace(target)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = next((line for line in said if "ERR" in line or "error" in line), said[0] if said else "")
        raise GanvasError(
            f"npm could not download {RUNTIME_PACKAGE} {VERSION} ({reason.strip()}): {_how_by_hand(target)}"
        ) from error


def _how_by_hand(kept: Path) -> str:
    return f"save the npm package as {kept}, or give its path with --runtime"


def _read_package(package: Path) -> dict[str, bytes]:
    """Read the runtime files from an npm package (.tgz file or unpacked folder)."""
    try:
        content = dict(_from_folder(package) if package.is_dir() else _from_archive(package))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ConfigError(
            f"--runtime {package} cannot be read ({error}): expected the npm package {RUNTIME_PACKAGE} as "
            ".tgz file or folder"
        ) from error
    missing = [name for name in RUNTIME if name not in content]
    if missing:
        raise ConfigError(
            f"--runtime {package} has no {missing[0]}: expected the npm package {RUNTIME_PACKAGE} as "
            ".tgz file or folder"
        )
    return content


def _from_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in RUNTIME:
        for place in (folder / "dist" / name, folder / "package" / "dist" / name, folder / name):
            if place.is_file():
                yield name, place.read_bytes()
                break


def _from_archive(archive: Path) -> Iterator[tuple[str, bytes]]:
    wanted = {f"package/dist/{name}": name for name in RUNTIME}
    with tarfile.open(archive, "r|gz") as opened:  # as a stream, without unpacking to disk
        for member in opened:
            if member.name in wanted and member.isfile() and member.size <= _MOST_BYTES:
                content = opened.extractfile(member)
                assert content is not None
                yield wanted[member.name], content.read()


# -- the page --


def page_files(
    generator: Generator, name: str, report: dict[str, Any], model: bytes, runtime: dict[str, bytes]
) -> dict[str, bytes]:
    """All files of the demo except model.json, by relative path."""
    contents = {f"runtime/{file}": content for file, content in runtime.items()}
    contents["runtime/LICENSE.txt"] = _RUNTIME_LICENCE.encode()
    contents["model.onnx"] = model
    offline = len(model) <= MOST_OFFLINE
    if offline:
        contents["offline.js"] = _offline_script(model, runtime)
    contents["index.html"] = html_page(generator, name, report, offline).encode()
    return contents


def html_page(generator: Generator, name: str, report: dict[str, Any], offline: bool) -> str:
    """Render index.html. offline: whether offline.js exists."""
    config = generator.info.config
    said = {
        "name": name,
        "hash": generator.hash,
        "height": config.height,
        "width": config.width,
        "channels": config.channels,
        "depth": generator.info.depth,
        "zDim": config.z_dim,
        "classes": generator.label_names,
        "vectors": None if generator.info.conditions is None else generator.info.conditions.table.tolist(),
        "sliders": [[round(float(x), 5) for x in vector] for vector in sliders(generator)],
        "texts": {key: text for key, text in provenance.provenance("", {}).items() if key != "ganvas"},
        "offline": offline,
    }
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    # Escape "<", which could end the script element with the values.
    values = json.dumps(said, ensure_ascii=True).replace("<", "\\u003c")
    return environment.get_template("page.html.j2").render(
        name=name,
        config=config,
        hash=generator.hash,
        licence=report["licence"],
        weights=report["weights"],
        gap=report["difference"],
        classes=generator.label_names,
        kind="Class" if generator.info.conditions is None else "Conditions",
        num_sliders=len(said["sliders"]),
        offline=offline,
        values=values,
        rendering="pixelated" if max(config.height, config.width) < 128 else "auto",
        width=f"{35 * min(1, config.width / config.height):.3g}rem",
        width_small=f"{40 * min(1.25, config.width / config.height):.3g}vh",  # on phones
        script=(here / "page.js").read_text(encoding="utf-8"),
    )


def sliders(generator: Generator) -> np.ndarray:
    """(num, z_dim) orthonormal latent directions that change the image most, strongest first.

    Singular vectors of the best linear map from latents to small images. Latents are white, so the map is their
    covariance with the images. The mean of each class is subtracted.
    """
    config = generator.info.config
    num = min(SLIDER_SAMPLES, max(64, _SLIDER_PIXELS // (config.height * config.width)))
    in_turn = generator.info.labels_in_turn
    # Enough images per class, or per combination of conditions, for a mean.
    num_classes = max(1, min(0 if in_turn is None else len(in_turn), num // 8))
    z = generator.latents(range(num))
    owner = torch.arange(num) % num_classes
    images = torch.cat(
        [
            _small(generator.render(z[i : i + 16], None if in_turn is None else in_turn[owner[i : i + 16]]))
            for i in range(0, num, 16)
        ]
    )
    for k in range(num_classes):
        images[owner == k] -= images[owner == k].mean(dim=0)
    vectors, _, _ = torch.linalg.svd(z.T @ images / num, full_matrices=False)
    vectors = vectors.T[: min(_NUM_SLIDERS, config.z_dim, num - 1)]
    signs = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()  # the same on every machine
    return (vectors * signs).numpy()


def _small(images: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) -> (N, D), averaged to at most `_THUMBNAIL` pixels per side."""
    height, width = (min(side, _THUMBNAIL) for side in images.shape[2:])
    return torch.nn.functional.adaptive_avg_pool2d(images, (height, width)).flatten(1)


def _offline_script(model: bytes, runtime: dict[str, bytes]) -> bytes:
    """A script that contains model and runtime as compressed text."""
    parts = {"model": model} | {name: runtime[name] for name in RUNTIME if name.endswith(("mjs", "wasm"))}
    packed = {
        name: base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii") for name, content in parts.items()
    }
    return f"window.offline = {json.dumps(packed)};\n".encode("ascii")


_RUNTIME_LICENCE = f"""ONNX Runtime Web, from the npm package {RUNTIME_PACKAGE}.

MIT License

Copyright (c) Microsoft Corporation. All rights reserved.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
