"""device.py: what is free, what is out of memory."""

from __future__ import annotations

import os
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import processes
from ganvas.errors import ConfigError, TrainingError
from ganvas.limits import available_memory, cpu_quota, num_cores
from ganvas.system import device
from ganvas.system.device import choose_device, is_out_of_memory, process_group, seed_step

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


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {}, None),
        ("0::/a\n", {f"{V2}/a/cpu.max": "max 100000"}, None),
        ("0::/a\n", {f"{V2}/a/cpu.max": "350000 100000", f"{V2}/cpu.max": "200000 100000"}, 2),
        ("0::/a\n", {f"{V2}/a/cpu.max": "50000 100000"}, 1),
        (
            "3:cpuset:/\n4:cpu,cpuacct:/b\n",
            {f"{V2}/cpu/cpu.cfs_quota_us": "250000", f"{V2}/cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpu,cpuacct:/\n", {f"{V2}/cpu/cpu.cfs_quota_us": "-1", f"{V2}/cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_processors_are_limited_by_the_quota_of_cgroups(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int | None
) -> None:
    assert cpu_quota(system(tmp_path, cgroup, files)) == expected


def test_processors_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5} if pid == 0 else {0}, raising=False)
    for quota, expected in ((None, 3), (2, 2), (8, 3)):
        monkeypatch.setattr("ganvas.limits.cpu_quota", lambda quota=quota: quota)
        assert num_cores() == expected


def test_threads_are_limited_by_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("ganvas.system.device.cpu_quota", lambda: 1)
    try:
        torch.set_num_threads(3)
        assert choose_device("cpu").name == "CPU, 1 thread"
    finally:
        torch.set_num_threads(before)


def test_available_memory_heeds_the_limits_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    assert available_memory(system(tmp_path, "0::/", {})) == GIB - 100 * resource.getpagesize()
    assert available_memory(tmp_path / "none") is None
    assert choose_device("cpu").free is not None


# -- ranks --


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without the variables of launchers."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def join(variables: dict[str, str], patch: pytest.MonkeyPatch) -> list[str]:
    """Joins the group that the variables describe; what was said."""
    said: list[str] = []
    for name, value in variables.items():
        patch.setenv(name, value)
    with process_group(said.append):
        pass
    return said


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, but MASTER_ADDR and MASTER_PORT are not set: start with"),
        ({"WORLD_SIZE": "2", "RANK": "", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "but RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "-1"},
            "MASTER_PORT is '-1', not a number",
        ),
    ],
)
def test_variables_of_no_launcher_are_refused(
    variables: dict[str, str], message: str, alone: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=message):
        join(variables, alone)


def test_empty_and_left_over_variables_are_none(alone: pytest.MonkeyPatch) -> None:
    assert join({"WORLD_SIZE": "", "RANK": "1", "LOCAL_RANK": ""}, alone) == []
    assert device.local_rank() == 0 and device.rank() == 0


def test_slurm_without_torchrun_is_said(alone: pytest.MonkeyPatch) -> None:
    (said,) = join({"SLURM_NTASKS": "4"}, alone)
    assert "4 tasks" in said and "srun --ntasks-per-node 1 torchrun --nproc-per-node 4" in said


def test_a_rank_that_never_comes_is_one_sentence(alone: pytest.MonkeyPatch) -> None:
    port = free_port()
    alone.setattr(device, "JOIN", timedelta(seconds=1))
    said: list[str] = []
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        alone.setenv(name, value)
    with pytest.raises(ConfigError, match="no connection to 1 other process at"), process_group(said.append):
        pass
    assert said == [f"waiting for 1 other process at 127.0.0.1:{port}"]


def test_processes_after_a_restart_do_not_read_what_those_before_left(alone: pytest.MonkeyPatch) -> None:
    """torchrun keeps its store: the last process comes first, and must wait for the new first process."""
    alone.setattr(device, "JOIN", timedelta(seconds=60))
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for _ in range(2):
        stores = [dist.TCPStore("127.0.0.1", server.port, wait_for_workers=False) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            last, second = (pool.submit(device.own_store, stores[rank], rank, 3) for rank in (2, 1))
            with pytest.raises(TimeoutError):
                last.result(0.15)
            own = [pool.submit(device.own_store, stores[0], 0, 3).result(), second.result(), last.result()]
        assert not own[2].check(["address"])
        own[0].set("address", "here")
        assert own[1].get("address") == own[2].get("address") == b"here"


def test_one_gpu_for_several_processes_is_refused(alone: pytest.MonkeyPatch) -> None:
    alone.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--device cuda:1: 2 processes would share this GPU; use --device cuda"):
        choose_device("cuda:1")


def test_each_rank_has_its_own_noise_in_each_step(alone: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank, step in ((0, 5), (1, 5), (2, 5), (1, 6), (1, 5)):
        alone.setattr(device, "rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        seed_step(0, step)
        drawn.append(torch.rand(4).tolist())
    assert drawn[1] == drawn[4] and len({tuple(one) for one in drawn}) == 4
    torch.manual_seed(0)
    assert drawn[0] == torch.rand(4).tolist()


def two_ranks() -> None:
    """Ends at once as the second of two processes."""
    try:
        with device.process_group(lambda _: None):
            with device.first_rank_first():
                if device.rank() == 0:
                    time.sleep(0.5)
                print("packing", time.monotonic(), flush=True)
            device.barrier()
            if device.rank() == 1:
                os._exit(9)
            device.barrier()
    except TrainingError as error:
        print(error, flush=True)


def test_a_process_that_is_killed_ends_the_others_with_a_sentence(tmp_path: Path) -> None:
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    outputs, errors = ([tmp_path / f"{name}{rank}" for rank in range(2)] for name in ("out", "err"))
    both = [
        processes.start(
            function=two_ranks, output=outputs[rank], errors=errors[rank], environment=variables | {"RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [processes.ended(process) for process in both] == [0, 9], errors[0].read_text()
    packed = [float(output.read_text().split()[1]) for output in outputs]
    assert packed[0] < packed[1] and "Traceback" not in errors[0].read_text()
    assert "another process of this training ended or does not respond" in outputs[0].read_text()
