"""Which heads are computed together on one CPU device."""

import jax
import jax.numpy as jnp
import pytest

from jax_attn.functional.blockwise import serial_tiles
from jax_attn.functional.blockwise.serial_tiles import SCORES, count_loops, make_layout
from parity_tests.functional.attention_contract import (
    CALLS,
    N,
    assert_equal,
    cast,
    everything,
    operands,
    slow_if,
)

SIZES = [(1, 5, 7, 12, 12), (3, 48, 48, 12, 12), (2, 80, 83, 8, 2), (1, 64, 64, 2, 2), (1, 300, 300, 6, 6)]


@pytest.mark.parametrize(("batch", "queries", "keys", "heads", "kv_heads"), SIZES)
def test_short_heads_are_computed_together_but_leave_no_core_idle(batch, queries, keys, heads, kv_heads):
    layout = make_layout(jnp.zeros((batch, queries, heads, 4)), jnp.zeros((batch, keys, kv_heads, 4)))
    together = layout.group_kv_heads * layout.group_repeats
    assert layout.groups * together == heads
    assert layout.group_kv_heads == 1 or together * min(queries, 128) * min(keys, 128) <= SCORES
    assert layout.loops == count_loops(batch * heads // layout.group_repeats)
    assert (layout.group_kv_heads > 1) == (max(queries, keys) < 100 and layout.loops < batch * kv_heads)


@pytest.mark.parametrize("name", [slow_if(name != "window", name) for name in ("window", "mask", "sinks")])
@pytest.mark.parametrize("together", [1, 2, 6])
def test_how_many_heads_are_computed_together_changes_nothing(name, together, monkeypatch):
    queries, keys = 37, 53
    monkeypatch.setattr(serial_tiles, "SCORES", together * queries * keys)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    jax.clear_caches()
    with jax.enable_x64(True):
        inputs, call = operands(jnp.float64, (N, N)), cast(CALLS[name], jnp.float64)
        assert make_layout(*inputs[:2]).group_kv_heads == together
        assert_equal(everything("blockwise", *inputs, call), everything("reference", *inputs, call))
