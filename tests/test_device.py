"""device.py: what is free, what is out of memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from ganvas.device import available_memory, choose_device, is_out_of_memory

GIB = 2**30


def test_out_of_memory_of_this_machine_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_in_the_words_of_each_library(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine with 8 GiB available whose /proc and /sys are below `root`."""
    files |= {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8388608 kB", "proc/self/cgroup": cgroup}
    files["proc/self/statm"] = "100 50 10 1 0 40 0"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {}, 8 * GIB),
        (
            "0::/job/step\n",  # the limit is of the group around it; what the disk cache holds makes room
            {
                f"{V2}/job/step/memory.max": "max",
                f"{V2}/job/memory.max": str(4 * GIB),
                f"{V2}/job/memory.current": str(3 * GIB),
                f"{V2}/job/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}",
            },
            3 * GIB,
        ),
        (
            "3:cpu:/\n4:memory:/docker/0123\n",  # in a container: that path is not there, its root is
            {
                f"{V1}/memory.limit_in_bytes": str(2 * GIB),
                f"{V1}/memory.usage_in_bytes": str(GIB),
                f"{V1}/memory.stat": "total_inactive_file 0",
            },
            GIB,
        ),
    ],
)
def test_available_memory_is_the_least_of_machine_and_cgroups(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert available_memory(system(tmp_path, cgroup, files)) == expected


def test_available_memory_heeds_the_limits_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    assert available_memory(system(tmp_path, "0::/", {})) == GIB - 100 * resource.getpagesize()
    assert available_memory(tmp_path / "none") is None
    assert choose_device("cpu").free is not None
