"""What every benchmark says about where it ran, and how it writes its figures."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


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


def write_json(path: Path, here: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Writes {"machine": ..., "rows": ...}."""
    path.write_text(json.dumps({"machine": here, "rows": rows}, indent=1) + "\n")
