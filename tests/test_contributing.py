"""The examples of CONTRIBUTING.md: what they add works everywhere, without a change of another file."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ganvas
import processes
from ganvas import losses, models
from ganvas.errors import ConfigError
from ganvas.evaluation import intervals, measures
from ganvas.generator import Generator
from ganvas.models import architecture, contract, layers, mlp
from ganvas.run import Run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FAST: dict[str, Any] = {"size": 8, "images": 32, "batch": 16, "previews": 1, "device": "cpu", "quiet": True}


def code_below(heading: str) -> str:
    return re.split(r"```python\n|```\n", PAGE.split(f"### {heading}\n")[1])[1]


def added(heading: str, *places: Any) -> dict[str, Any]:
    """Runs the code below a heading with the names of these modules; returns all names."""
    code = code_below(heading)
    names = {"math": math, "contract": contract}
    names |= {name: value for place in places for name, value in vars(place).items()}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_a_loss(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--loss exponential: expected one of"):
        ganvas.train(two_classes, tmp_path / "run", loss="exponential", **FAST)
    monkeypatch.setitem(losses.LOSSES, "exponential", None)  # removed again after the test
    added("Add a loss", losses)
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(losses.LOSSES["exponential"].generator(real, fake), torch.exp((real - fake) / 2))
    trained = ganvas.train(two_classes, tmp_path / "run", loss="exponential", base=8, **FAST)
    assert trained.images_seen == 32


def test_a_model(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = added("Add a model", mlp, layers, architecture)["ARCHITECTURE"]
    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    trained = ganvas.train(two_classes, tmp_path / "run", model="tiny", **FAST)
    generator = Generator.load(trained.folder, "cpu")
    assert Run(trained.folder).config().train.base == 16
    assert generator.num_depths == 1 and generator.sample(2, seed=0).shape[2:] == (8, 8)


def test_a_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measures.MEANINGS, "mean_distance", None)
    found = added("Add a measure", measures, intervals)["mean_distance"]
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((2, 500, 4))
    fake[:, 0] += 3
    features: Any = SimpleNamespace(name="random", protocol="")
    row = measures.Measures(features, "seeds", "held-out", 500, 500).row(
        "mean_distance", "Mean distance", found(real, fake), None
    )
    assert row.better == "lower" and row.low < 3 < row.high and row.high - row.low < 0.5


USE = """
import json, sys
from pathlib import Path
import ganvas
from fastapi.testclient import TestClient
from ganvas.studio import api

runs, out = sys.argv[1:]
image, *_ = ganvas.sample(f"{runs}/bars", out=out, seeds="3-6", format="avif", quiet=True)
pack = ganvas.open_pack(out, ganvas.DataConfig(size="16"), folder=f"{out}-pack")
signature = ganvas.read_provenance(image)
with TestClient(api.app(Path(runs), device="cpu"), base_url="http://127.0.0.1") as client:
    model = client.get("/api/model", params={"model": "bars"}).json()
    files = client.get("/api/new").json()["files"]
    asked = [json.dumps({"seed": 3, "length": length}) for length in (1, 1.5, 3)]
    answers = [client.get("/api/picture", params={"model": "bars", "recipe": one}) for one in asked]
slider = model["sliders"][-1]
statuses, same = [one.status_code for one in answers], answers[0].content == answers[1].content
uploads = ".avif" in files
told = [image.name, pack.num_images, signature["synthetic"], model["formats"], uploads, slider["title"], statuses, same]
print(json.dumps(told))
"""
"""Uses an image format and a slider that this installation does not have."""


def test_an_image_format_and_a_slider(folder: Path, tmp_path: Path) -> None:
    """A copy of the package with two changed files, in a process of its own."""
    pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")
    pytest.importorskip("PIL.AvifImagePlugin", reason="this version of Pillow has no AVIF")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    entry = code_below("Add an image format")
    change(tmp_path / "src/ganvas/image_formats.py", entry.partition("\n")[0] + "\n", entry)
    function, head, line = re.split(
        r"(@dataclass\(frozen=True\)\nclass Recipe:\n)", code_below("Add a slider to the studio")
    )
    change(tmp_path / "src/ganvas/explore/recipes.py", head, function + head)
    change(
        tmp_path / "src/ganvas/explore/recipes.py",
        "    mix: Mix | None = None\n",
        f"    mix: Mix | None = None\n{line}",
    )
    words, output = (tmp_path / "src", USE, folder, tmp_path / "images"), tmp_path / "told.json"
    process = processes.start(*words, function=processes.other_source, output=output, errors=tmp_path / "errors")
    assert processes.ended(process) == 0, (tmp_path / "errors").read_text()
    name, num_images, synthetic, formats, uploads, title, statuses, same = json.loads(output.read_text())
    assert name.endswith(".avif") and num_images == 4 and synthetic and uploads
    assert formats == {"avif": "AVIF", "png": "PNG", "jpg": "JPEG", "webp": "WebP", "tiff": "TIFF"}
    assert title == "Length of the latent" and statuses == [200, 200, 400] and not same


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))
