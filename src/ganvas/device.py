"""Where the arithmetic runs and in which precision (with the reason), ranks, seeds, gradient averaging."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from ganvas.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """The chosen device and why; `bf16` says whether this device multiplies bfloat16 faster than float32."""

    torch_device: torch.device
    name: str
    reason: str
    bf16: bool
    free: int | None = None
    """Bytes of free memory; None: measured when a training is planned."""


def choose_device(wanted: str | None = None) -> Device:
    """CUDA, else MPS, else CPU; or the device named by `wanted` ("cuda", "cuda:1", "mps", "cpu")."""
    if wanted is None:
        if torch.cuda.is_available():
            wanted, reason = "cuda", "a CUDA GPU is there"
        elif torch.backends.mps.is_available():
            wanted, reason = "mps", "an Apple GPU is there"
        else:
            wanted, reason = "cpu", "no GPU was found"
    else:
        reason = "you asked for it"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"--device {wanted}: expected cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("--device cuda: this PyTorch sees no CUDA GPU; see `ganvas doctor`, or use --device cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank() % torch.cuda.device_count())
        return Device(device, torch.cuda.get_device_name(device), reason, torch.cuda.is_bf16_supported(False))
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("--device mps: this PyTorch sees no Apple GPU; use --device cpu")
        return Device(device, "Apple GPU", reason, False)
    if device.type != "cpu":
        raise ConfigError(f"--device {wanted}: expected cpu, cuda, cuda:1 or mps")
    threads = torch.get_num_threads()
    return Device(device, f"CPU, {threads} thread{'s' if threads > 1 else ''}", reason, False, available_memory())


def prepare(device: Device) -> None:
    """Process-wide switches of a GPU: the fastest convolution for each shape, TF32 products."""
    if device.torch_device.type == "cuda":
        torch.cuda.set_device(device.torch_device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


NO_MEMORY = ("not enough memory", "out of memory", "allocate memory", "bad_alloc", "ALLOC_FAILED")
"""Parts of the messages: of Windows, CUDA and MPS, Linux and macOS, C++, cuBLAS and cuDNN."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for PyTorch's and Python's error classes, and for the plain RuntimeErrors that allocators raise."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the least of what the machine has, the limits of its cgroups (version 1
    and 2: containers, SLURM) and those of `ulimit`. None where the system does not say."""
    try:
        fields = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        found = [int(fields["MemAvailable"].split()[0]) * 1024]  # with what the disk cache would give back
        size, *_, data, _ = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in
                             (root / "proc/self/statm").read_text().split())  # fmt: skip
    except (OSError, KeyError, ValueError, IndexError):
        return None
    import resource  # not on Windows

    for limit, used in ((resource.RLIMIT_AS, size), (resource.RLIMIT_DATA, data)):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            found.append(most - used)
    return max(0, min([*found, *left_in_cgroups(root)]))


def left_in_cgroups(root: Path) -> Generator[int]:
    """Bytes left in the process's memory cgroup and in those around it."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):  # "max": no limit here
                most, used = (int((folder / name).read_text()) for name in names[:2])
                kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield most - used + int(kept[names[2]])  # files in the disk cache make room
            if folder == top:
                break


# ---- ranks (torchrun sets the environment) ----


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def process_group() -> Generator[None]:
    """Joins the group that torchrun describes (gloo for CPU tensors, nccl for CUDA), and leaves it at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the ranks, in one flat all-reduce; nothing with one process."""
    if world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world_size()
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def average_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of a number on the device over all ranks."""
    if world_size() == 1:
        return value
    mean = value.clone()
    dist.all_reduce(mean)
    return mean / world_size()


def agree(values: list[float]) -> list[float]:
    """Rank 0's values on every rank (through the CPU, so that a GPU is not made to wait)."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(tensor, src=0)
    return tensor.tolist()


def barrier() -> None:
    if world_size() > 1:
        agree([0.0])
