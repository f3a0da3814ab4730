"""Which blocks a band of positions is computed in."""

import numpy as np
import pytest

from jax_attn.functional.blockwise.plan import (
    ALIGNED,
    MOST_SCORES,
    pattern_of_band,
    serial_plan,
)

LENGTHS = [(1, 5), (7, 131), (48, 48), (80, 80), (129, 300), (176, 176), (513, 257), (2100, 2600)]


@pytest.mark.parametrize("cores", [1, 2, 64])
@pytest.mark.parametrize("band", [(None, None), (None, 0), (5, 0), (40, 3)])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_pair_that_is_allowed_is_looked_at_once_and_full_blocks_need_no_mask(
    lengths, band, cores, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    before, after = band
    plan = serial_plan(pattern_of_band(lengths, (128, 128), band), lengths, 1)
    apart = np.arange(lengths[1])[None] - np.arange(lengths[0])[:, None]
    allowed = (before is None or apart >= -before) & (after is None or apart <= after)
    allowed = np.broadcast_to(allowed, lengths)
    times = np.zeros((lengths[0] + plan.q_size, lengths[1] + plan.kv_size), int)
    for visit in plan.visits:
        for row, count in enumerate(visit.lists.num[0, 0]):
            for column, first in zip(
                visit.lists.idx[0, 0, row, :count], visit.first[0, 0, row], strict=False
            ):
                queries = slice(row * plan.q_size + first, row * plan.q_size + first + visit.queries)
                keys = slice(column * plan.kv_size, (column + 1) * plan.kv_size)
                assert first + visit.queries <= plan.q_size
                times[queries, keys] += 1
                if not visit.partial:  # a block that reaches behind the last key is never full
                    assert keys.stop <= lengths[1]
                    assert allowed[queries, keys].all()
    assert times.max() == 1
    assert times[: lengths[0], : lengths[1]][allowed].all()


@pytest.mark.parametrize("lengths", LENGTHS)
def test_blocks_are_of_nearly_equal_sizes(lengths):
    """In blocks of 128 a text of 80 tokens took as long as one of 128, and one of 176 as one of 256."""
    plan = serial_plan(pattern_of_band(lengths, (128, 128)), lengths, 1)
    for length, size in zip(lengths, (plan.q_size, plan.kv_size), strict=True):
        count = -(-length // size)
        assert count * size < length + ALIGNED * count
    assert plan.q_size * plan.kv_size <= MOST_SCORES


def test_queries_that_see_nothing_of_a_block_of_keys_are_left_out(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    plan = serial_plan(pattern_of_band((4096, 4096), (128, 128), (None, 0)), (4096, 4096), 1)
    needed = 4096 * 4097 // 2
    assert needed <= plan.scores < 1.15 * needed
