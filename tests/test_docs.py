"""The documentation says what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from ganvas.config import PRESETS, ModelConfig
from ganvas.models.summary import summarise_config

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_table_of_plans_is_current() -> None:
    """Run `python docs/plan_table.py` after a change of the plan."""
    table = runpy.run_path(str(DOCS / "plan_table.py"))["content"]()
    assert (DOCS / "plan.md").read_text() == table


def test_the_table_of_presets_has_every_preset_with_its_numbers() -> None:
    rows = {}
    for line in (DOCS / "presets.md").read_text().splitlines():
        if match := re.match(r"\| `([\w-]+)` \|(.*)", line):
            rows[match[1]] = match[2]
    assert rows.keys() == PRESETS.keys()
    for name, row in rows.items():
        options, side = PRESETS[name].options, int(PRESETS[name].size or 64)
        channels = 1 if PRESETS[name].channels == "gray" else 3
        config = ModelConfig(options["model"], side, side, channels, 0, options["z_dim"], options.get("base", 32))
        for summary in summarise_config(config):
            assert f"{summary.parameters:,}" in row, (name, summary.parameters)
        assert options["update"] in row and f"batch {options['batch']}" in row
        assert f"{options['lr']:g}".replace("0.0002", "2e-4").replace("0.0001", "1e-4") in row or "1.5e-4" in row
