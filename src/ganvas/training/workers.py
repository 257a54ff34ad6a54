"""CPU threads that each compute the gradients of a part of the batch.

This is faster than threads that share each operation, and other programs on the machine slow it down much less
(RESULTS.md). The sum of the parts is the gradient of the batch, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ganvas.models.contract import Discriminator, Generator
from ganvas.models.pretrained import Frozen

_T = TypeVar("_T")
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Networks:
    """The two networks as called in training (perhaps compiled), and the plain ones.

    Penalties need the plain ones, because compiled networks cannot be differentiated twice.
    """

    generator: Generator
    discriminator: Discriminator
    plain_generator: Generator
    plain_discriminator: Discriminator


class Workers:
    """`num` threads with copies of the networks: shared weights, separate gradients.

    Until `close`, the calling thread uses one core, because its idle OpenMP threads would block the others.
    """

    def __init__(self, networks: Networks, num: int) -> None:
        self.networks, self.num = networks, num
        self.copies = [_shared_copy(networks) for _ in range(num)]
        self.cores = torch.get_num_threads()
        torch.set_num_threads(1)
        each = max(1, self.cores // num)
        # One executor per thread: each part of the batch then always uses the same copy, so sums are reproducible.
        self.threads = [ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(each,)) for _ in range(num)]

    @property
    def generators(self) -> list[Generator]:
        """The copies of the generator."""
        return [mine.plain_generator for mine in self.copies]

    def part(self, num_images: int) -> int:
        """Images per worker."""
        return -(-num_images // self.num)

    def run(self, compute: Callable[[Networks, int], _T], starts: Sequence[int]) -> list[_T]:
        """Calls compute(networks, start) for every start, then adds all gradients to those of the networks."""
        for mine in self.copies:
            mine.plain_generator.train(self.networks.plain_generator.training)
            copied, original = mine.plain_generator, self.networks.plain_generator
            copied.starting, copied.coarse = original.starting, original.coarse
        futures = [
            self.threads[i % self.num].submit(compute, self.copies[i % self.num], start)
            for i, start in enumerate(starts)
        ]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.exception()  # wait for all of them
            for mine in self.copies:
                for name in ("plain_generator", "plain_discriminator"):
                    _add_gradients(getattr(self.networks, name), getattr(mine, name))

    def close(self) -> None:
        for thread in self.threads:
            thread.shutdown()
        torch.set_num_threads(self.cores)


def _shared_copy(networks: Networks) -> Networks:
    generator, discriminator = _shared_module(networks.plain_generator), _shared_module(networks.plain_discriminator)
    return Networks(generator, discriminator, generator, discriminator)


def _shared_module(network: _Module) -> _Module:
    """A copy that shares the memory of parameters and buffers, with separate `.grad`."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.data, p.requires_grad) for p in network.parameters()}
    memo |= {id(buffer): buffer for buffer in network.buffers()}
    memo |= {id(part.network): part.network for part in network.modules() if isinstance(part, Frozen)}
    return copy.deepcopy(network, memo)


def _add_gradients(network: nn.Module, other: nn.Module) -> None:
    """Moves the gradients of `other` to the same parameters of `network`."""
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        if theirs.grad is not None:
            mine.grad = theirs.grad if mine.grad is None else mine.grad.add_(theirs.grad)
            theirs.grad = None
