"""What every benchmark says about where it ran, and how it shows and writes its figures."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores that this process may use, one-minute load, and versions of Python, ganvas and `packages`."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in ("ganvas", *packages)},
    }


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints rows with the same keys as a table: whole numbers with commas, others with four digits."""
    shown = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        shown.add_column(name, justify="left" if isinstance(value, str) else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*(cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
