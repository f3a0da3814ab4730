"""Which blocks a band of positions is computed in."""

import numpy as np
import pytest

from jax_attn.functional.blockwise.plan import (
    ALIGNED,
    EMPTY,
    FULL,
    IN_TURN,
    pattern_of_band,
    serial_plan,
)

LENGTHS = [(1, 5), (7, 131), (48, 48), (80, 80), (129, 300), (176, 176), (513, 257)]


@pytest.mark.parametrize("band", [(None, None), (None, 0), (5, 0), (40, 3)])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_pair_that_is_allowed_is_looked_at_and_full_blocks_need_no_mask(lengths, band):
    before, after = band
    plan = serial_plan(pattern_of_band(lengths, (128, 128), band), lengths, 1)
    apart = np.arange(lengths[1])[None] - np.arange(lengths[0])[:, None]
    rows, columns = plan.grid.shape[2] * plan.q_size, plan.grid.shape[3] * plan.kv_size
    allowed = np.zeros((rows, columns), bool)  # beyond the last key none is
    allowed[: lengths[0], : lengths[1]] = (before is None or apart >= -before) & (
        after is None or apart <= after
    )
    kinds = plan.grid[0, 0].repeat(plan.q_size, 0).repeat(plan.kv_size, 1)
    assert not allowed[kinds == EMPTY].any()
    assert allowed[: lengths[0]][kinds[: lengths[0]] == FULL].all()


@pytest.mark.parametrize("lengths", LENGTHS)
def test_blocks_are_of_nearly_equal_sizes(lengths):
    """In blocks of 128 a text of 80 tokens took as long as one of 128, and one of 176 as one of 256."""
    plan = serial_plan(pattern_of_band(lengths, (128, 128)), lengths, 1)
    computed = plan.grid.shape[2] * plan.q_size, plan.grid.shape[3] * plan.kv_size
    for length, whole, count in zip(lengths, computed, plan.grid.shape[2:], strict=True):
        assert length <= whole < length + ALIGNED * count
    assert plan.q_size <= IN_TURN[0]
    assert plan.q_size * plan.kv_size <= IN_TURN[0] * IN_TURN[1]
