"""Choice of device and precision, free memory, ranks, seeds, gradient averaging."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from ganvas.errors import ConfigError, TrainingError
from ganvas.limits import available_memory, cpu_quota


@dataclass(frozen=True)
class Device:
    """The chosen device and the reason. bf16: whether it multiplies bfloat16 faster than float32."""

    torch_device: torch.device
    name: str
    reason: str
    bf16: bool
    free: int | None = None
    """Bytes of free memory; None: measured when training is planned."""


def choose_device(wanted: str | None = None) -> Device:
    """CUDA, else MPS, else CPU; or the device named by `wanted` ("cuda", "cuda:1", "mps", "cpu")."""
    if wanted is None:
        if torch.cuda.is_available():
            wanted, reason = "cuda", "a CUDA GPU is available"
        elif torch.backends.mps.is_available():
            wanted, reason = "mps", "an Apple GPU is available"
        else:
            wanted, reason = "cpu", "no GPU was found"
    else:
        reason = "it was requested"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"--device {wanted}: expected cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda":
        sharing = _variable("LOCAL_WORLD_SIZE", _variable("WORLD_SIZE", 1))
        if device.index is not None and sharing > 1:
            raise ConfigError(
                f"--device {wanted}: {sharing} processes would share this GPU; use --device cuda to give each its own"
            )
        if not torch.cuda.is_available():
            raise ConfigError("--device cuda: PyTorch finds no CUDA GPU; run `ganvas doctor`, or use --device cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank() % torch.cuda.device_count())
        return Device(device, torch.cuda.get_device_name(device), reason, torch.cuda.is_bf16_supported(False))
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("--device mps: PyTorch finds no Apple GPU; use --device cpu")
        return Device(device, "Apple GPU", reason, False)
    if device.type != "cpu":
        raise ConfigError(f"--device {wanted}: expected cpu, cuda, cuda:1 or mps")
    quota = cpu_quota()
    if quota is not None and quota < torch.get_num_threads():  # torch counts processors, not the quota of a container
        torch.set_num_threads(quota)
    threads = torch.get_num_threads()
    return Device(device, f"CPU, {threads} thread{'s' if threads > 1 else ''}", reason, False, available_memory())


def prepare_device(device: Device) -> None:
    """Process-wide GPU settings: fastest convolution for each shape, TF32 products."""
    if device.torch_device.type == "cuda":
        torch.cuda.set_device(device.torch_device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


_NO_MEMORY = ("not enough memory", "out of memory", "allocate memory", "bad_alloc", "ALLOC_FAILED")
"""Parts of out-of-memory messages of Windows, CUDA and MPS, Linux and macOS, C++, cuBLAS and cuDNN."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for the error classes of PyTorch and Python, and for RuntimeErrors raised by allocators."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


# ---- ranks (torchrun sets the environment) ----


JOIN = timedelta(minutes=10)  # for all processes to connect
_PREPARE = timedelta(days=1)  # for the first process to pack the images
_ANSWER = timedelta(minutes=30)  # for one exchange of a step; the first process also evaluates and saves in that time
_store: dist.Store | None = None  # store of the group joined by `process_group`


def _variable(name: str, default: int) -> int:
    """Integer environment variable; `default` if unset or empty. Raises `ConfigError` for other values."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise ConfigError(f"the environment variable {name} is {text!r}, not a number: use torchrun, or unset it")
    return int(text or default)


def local_rank() -> int:
    return _variable("LOCAL_RANK", 0)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def process_group(say: Callable[[str], None]) -> Generator[None]:
    """Joins the process group set up by torchrun (gloo for CPU tensors, nccl for CUDA), and leaves it at the end.

    Raises `ConfigError` for incomplete settings or missing processes, `TrainingError` if a process ends.
    """
    global _store
    world = _variable("WORLD_SIZE", 1)
    if world == 1 or dist.is_initialized():
        if world == 1 and (tasks := _variable("SLURM_NTASKS", 1)) > 1:
            say(
                f"SLURM has {tasks} tasks, but this process was not started by torchrun and trains alone. To share the "
                f"work: srun --ntasks-per-node 1 torchrun --nproc-per-node {tasks} -m ganvas train ..."
            )
        yield
        return
    wanted = ("MASTER_ADDR", "MASTER_PORT", "RANK")
    if missing := [name for name in wanted if not os.environ.get(name, "").strip()]:
        raise ConfigError(
            f"WORLD_SIZE is {world}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: start "
            "with torchrun, or unset WORLD_SIZE"
        )
    place = f"{os.environ['MASTER_ADDR']}:{_variable('MASTER_PORT', 0)}"
    others = f"{world - 1} other process{'es' if world > 2 else ''}"
    if _variable("RANK", 0) == 0:
        say(f"waiting for {others} at {place}")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, number, size = next(iter(dist.rendezvous("env://", timeout=JOIN)))
        _store = own_store(store, number, size)
        dist.init_process_group(backend, store=_store, rank=number, world_size=size, timeout=_ANSWER)
    except (RuntimeError, ValueError) as error:
        _store = None
        raise ConfigError(
            f"no connection to {others} at {place} within {JOIN.total_seconds():g} seconds "
            f"({_first_line(error)}): start all of them with torchrun, or unset WORLD_SIZE"
        ) from error
    try:
        yield
    except RuntimeError as error:
        if not _is_of_the_group(error):
            raise
        raise TrainingError(
            f"another process of this training ended or does not respond ({_first_line(error)}): check its output, "
            "then run the same command again to resume from the newest checkpoint"
        ) from error
    finally:
        _store = None
        dist.destroy_process_group()


def own_store(store: dist.Store, rank: int, world: int) -> dist.Store:
    """A part of a store that only these processes use. Returns when all of them have arrived.

    torchrun keeps its store over restarts (PyTorch issue 135712). It still contains the keys of the earlier processes,
    so a process could wait for an address at which no process listens. Therefore the first process draws a prefix, and
    each other process draws a name and asks for the prefix until there is an answer to this name.
    Raises `dist.DistStoreError` after `JOIN`.
    """
    mine = uuid.uuid4().hex
    if rank == 0:
        store.set("ganvas/group", mine)
        asked = [f"ganvas/asked/{mine}/{other}" for other in range(1, world)]
        store.wait(asked, JOIN)
        for key in asked:
            store.set(f"ganvas/answer/{store.get(key).decode()}", mine)
        return dist.PrefixStore(mine, store)
    end = time.monotonic() + JOIN.total_seconds()
    answer = f"ganvas/answer/{mine}"
    while not store.check([answer]):
        if time.monotonic() > end:
            raise dist.DistStoreError("the first process does not answer")
        if store.check(["ganvas/group"]):
            store.set(f"ganvas/asked/{store.get('ganvas/group').decode()}/{rank}", mine)
        time.sleep(0.05)
    return dist.PrefixStore(store.get(answer).decode(), store)


def _is_of_the_group(error: RuntimeError) -> bool:
    """Whether the connection to another process failed. gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]


@contextlib.contextmanager
def first_rank_first() -> Generator[None]:
    """Rank 0 runs the block first; the other ranks wait and then run it."""
    if _store is not None and rank() > 0:
        _store.wait(["ganvas/first"], _PREPARE)
    yield
    if _store is not None and rank() == 0:
        _store.set("ganvas/first", "done")


def seed_step(seed: int, step: int) -> None:
    """Seeds all ranks except the first, so that each has its own dropout and noise in this step, also after a resume.

    The networks use PyTorch's global random generators, which start with the same state in all processes.
    """
    if rank() > 0:
        torch.manual_seed(int(np.random.SeedSequence((seed % 2**32, rank(), step)).generate_state(1)[0]))


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Averages gradients over the ranks, in one flat all-reduce. No effect with one process."""
    if world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world_size()
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def average_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over all ranks."""
    if world_size() == 1:
        return value
    mean = value.clone()
    dist.all_reduce(mean)
    return mean / world_size()


def agree(values: list[float]) -> list[float]:
    """Values of rank 0 on every rank (via the CPU, so that a GPU does not wait)."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(tensor, src=0)
    return tensor.tolist()


def barrier() -> None:
    if world_size() > 1:
        agree([0.0])
