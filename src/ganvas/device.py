"""Where the arithmetic runs and in which precision (with the reason), ranks, seeds, gradient averaging."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass

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
    return Device(device, f"CPU, {threads} thread{'s' if threads > 1 else ''}", reason, False)


def prepare(device: Device) -> None:
    """Process-wide switches of a GPU: the fastest convolution for each shape, TF32 products."""
    if device.torch_device.type == "cuda":
        torch.cuda.set_device(device.torch_device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's and MPS's error class, and for the plain RuntimeError that the CPU allocator raises."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)


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
