"""The examples of CONTRIBUTING.md: what they add works everywhere, without a change of another file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ganvas
from ganvas import losses, models
from ganvas.errors import ConfigError
from ganvas.evaluation import intervals, measures
from ganvas.generator import Generator
from ganvas.models import architecture, contract, layers, mlp
from ganvas.run import Run

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
FAST: dict[str, Any] = {"size": 8, "images": 32, "batch": 16, "previews": 1, "device": "cpu", "quiet": True}


def added(heading: str, *places: Any) -> dict[str, Any]:
    """Runs the code below a heading with the names of these modules; returns all names."""
    code = re.split(r"```python\n|```\n", PAGE.split(f"### {heading}\n")[1])[1]
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
