"""seeding.py: the numbers of NumPy's own generators, made faster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganvas.system import seeding


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, 40))
@settings(deadline=None)
def test_rows_are_those_of_a_generator_for_each_seed(seeds: list[int], size: int) -> None:
    found = seeding.standard_normal(seeds, size)
    expected = np.stack([np.random.default_rng(seed).standard_normal(size, np.float32) for seed in seeds])
    assert found.dtype == np.float32 and np.array_equal(found, expected)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_states_are_those_of_a_seed_sequence(seeds: list[int]) -> None:
    found = seeding.states(np.array(seeds, np.uint64))
    assert found.tolist() == [np.random.SeedSequence(seed).generate_state(4, np.uint64).tolist() for seed in seeds]


@pytest.mark.parametrize("seeds", [[0], [2**32 - 1, 2**32], [2**64], [3, 2**90], range(5, 200), ()])
def test_every_kind_of_seed(seeds: list[int]) -> None:
    found = seeding.standard_normal(seeds, 513)  # an odd number: half a word of 64 bit is left over in each row
    assert found.shape == (len(seeds), 513)
    for row, seed in zip(found, seeds, strict=True):
        assert np.array_equal(row, np.random.default_rng(seed).standard_normal(513, np.float32))
