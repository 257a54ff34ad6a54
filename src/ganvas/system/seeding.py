"""Latents of many seeds at once: the numbers of `numpy.random.default_rng(seed)`, in half the time.

Most of the time of making one generator for each seed goes into hashing the seed. Here all seeds of a batch are hashed
together, as NumPy's SeedSequence does (O'Neill 2015, "Developing a seed_seq alternative"), and one PCG64 generator
(O'Neill 2014) takes one state after the other. NumPy promises that both stay as they are (NEP 19).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_POOL = 4  # words of 32 bit that a seed is mixed into
_LARGEST = 2**64 - 1  # seeds above are left to NumPy
_LEFT, _RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_HALF = np.uint32(16)
_STEP = 0x2360ED051FC65DA44385DF649FCCF645  # of PCG64
_WORD = 2**128 - 1


def standard_normal(seeds: Sequence[int], size: int) -> np.ndarray:
    """(N, size) float32: row i is `default_rng(seeds[i]).standard_normal(size, np.float32)`, bit for bit."""
    if max(seeds, default=0) > _LARGEST:
        return np.stack([np.random.default_rng(seed).standard_normal(size, np.float32) for seed in seeds])
    rows = np.empty((len(seeds), size), np.float32)
    bits = np.random.PCG64(0)
    draw = np.random.Generator(bits).standard_normal
    numbers: dict[str, int] = {}
    state: Any = {"bit_generator": "PCG64", "state": numbers, "has_uint32": 0, "uinteger": 0}
    for row, (a, b, c, d) in zip(rows, states(np.array(seeds, np.uint64)).tolist(), strict=True):
        increment = (c << 65 | d << 1 | 1) & _WORD
        numbers["state"] = ((increment + (a << 64 | b)) * _STEP + increment) & _WORD
        numbers["inc"] = increment
        bits.state = state
        draw(dtype=np.float32, out=row)
    return rows


def states(seeds: np.ndarray) -> np.ndarray:
    """(N,) uint64 -> (N, 4) uint64: `SeedSequence(seed).generate_state(4, np.uint64)` for each seed."""
    pool = np.zeros((_POOL, len(seeds)), np.uint32)  # of each seed a column
    pool[0], pool[1] = seeds & np.uint64(0xFFFFFFFF), seeds >> np.uint64(32)
    pool = _mixed(pool, _A[: _POOL + 1])
    for source in range(_POOL):
        others = [target for target in range(_POOL) if target != source]
        start = _POOL + source * (_POOL - 1)
        value = _LEFT * pool[others] - _RIGHT * _mixed(pool[source], _A[start : start + _POOL])
        pool[others] = value ^ (value >> _HALF)
    words = _mixed(np.concatenate([pool, pool]), _B)
    return (words[0::2].astype(np.uint64) | words[1::2].astype(np.uint64) << np.uint64(32)).T


def _mixed(value: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """(N,) or (K, N) hashed with constants (K + 1, 1), each with its own and the next one -> (K, N)."""
    value = (value ^ constants[:-1]) * constants[1:]
    return value ^ (value >> _HALF)


def _powers(first: int, times: int, num: int) -> np.ndarray:
    """(num, 1) uint32: first, first * times, first * times^2 ..."""
    values = [first * pow(times, i, 2**32) % 2**32 for i in range(num)]
    return np.array(values, np.uint32)[:, None]


_A = _powers(0x43B0D7E5, 0x931E8875, _POOL * _POOL + 1)
_B = _powers(0x8B51F9DD, 0x58F38DED, 2 * _POOL + 1)
