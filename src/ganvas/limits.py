"""Memory and processors that this process may use: limits of containers, SLURM and `ulimit`. Does not import torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path


def num_cores() -> int:
    """Number of processors available to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_quota() or cores)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still allocate: minimum of free memory, limits of its cgroups (version 1 and 2:
    containers, SLURM) and limits of `ulimit`. None if unknown."""
    try:
        fields = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        limits = [int(fields["MemAvailable"].split()[0]) * 1024]  # includes memory of the disk cache
        size, *_, data, _ = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in
                             (root / "proc/self/statm").read_text().split())  # fmt: skip
    except (OSError, KeyError, ValueError, IndexError):
        return None
    import resource  # not on Windows

    for limit, used in ((resource.RLIMIT_AS, size), (resource.RLIMIT_DATA, data)):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            limits.append(most - used)
    return max(0, min([*limits, *_left_in_cgroups(root)]))


def _left_in_cgroups(root: Path) -> Generator[int]:
    """Bytes left in the memory cgroup of this process and in its parents."""
    for folder, version in _cgroups(root, "memory"):
        names = (
            ("memory.max", "memory.current", "inactive_file")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max": no limit here
            most, used = (int((folder / name).read_text()) for name in names[:2])
            kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield most - used + int(kept[names[2]])  # memory of the disk cache can be freed


def cpu_quota(root: Path = Path("/")) -> int | None:
    """Number of processors that the cgroups of this process may use, rounded up; None without a limit."""
    quotas = []
    for folder, version in _cgroups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit here
            texts = (
                (folder / "cpu.max").read_text().split()
                if version == 2
                else [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
            )
            quota, period = map(int, texts)
            quotas += [-(-quota // period)] if quota > 0 and period > 0 else []  # version 1 has -1 for no limit
    return min(quotas, default=None)


def _cgroups(root: Path, controller: str) -> Generator[tuple[Path, int]]:
    """(folder, version) of the cgroups of this process for a controller, each followed by its parents."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):
            yield folder, 1 if controllers else 2
            if folder == top:
                break
