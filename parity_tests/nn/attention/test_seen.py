"""However it is said what a query sees, it sees the same."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.functional import dispatch
from jax_attn.nn import AlibiPositions, MultiHeadAttention
from parity_tests.from_scratch.properties import assert_same, compiled, draw

TOKENS, SEEN = 300, 90


def attention(**options) -> MultiHeadAttention:
    return MultiHeadAttention(
        8, 2, positions=AlibiPositions(2), rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options
    )


def some_heads_see_every_third(b, h, q_idx, kv_idx):
    return ((q_idx - kv_idx) % 3 == 0) | (h == 1)


@pytest.mark.slow
@jax.enable_x64(True)
def test_blocks_are_a_mask_of_all_pairs_with_gradients_and_with_a_cache(monkeypatch):
    monkeypatch.setattr(dispatch, "FEW_SCORES", 2**15)  # so that so few tokens go by blocks
    x, weight = draw(1, TOKENS, 8), draw(1, TOKENS, 8, seed=1)
    by_blocks = attention(is_causal=True, window=SEEN, mask_mod=some_heads_see_every_third)
    plain = attention(implementation="xla")
    query, key = jnp.indices((TOKENS, TOKENS))
    seen = (key <= query) & (query - key < SEEN)
    mask = (seen & some_heads_see_every_third(0, jnp.arange(2)[:, None, None], query, key))[None]

    @compiled
    def both(x):
        first, cache = by_blocks(x[:, :160], cache=by_blocks.init_cache(1, TOKENS))
        second, _ = by_blocks(x[:, 160:], cache=cache)
        cached = jnp.concatenate([first, second], axis=1)
        blocks, pull = jax.vjp(by_blocks, x)
        dense, pull_dense = jax.vjp(lambda x: plain(x, mask=mask), x)
        return blocks, cached, dense, pull(weight), pull_dense(weight)

    blocks, cached, dense, (gradient,), (of_dense,) = both(x)
    assert_same(blocks, dense)
    assert_same(cached, dense)
    assert_same(gradient, of_dense)


@jax.enable_x64(True)
def test_mods_are_asked_about_positions():
    """Left padding shifts what stands where, and a mod does not notice."""
    module = attention(is_causal=True, mask_mod=lambda b, h, q, k: (q - k < 3) | (k == 0))
    x = draw(1, 7, 8)
    padded = jnp.concatenate([jnp.full((1, 2, 8), jnp.nan), x], axis=1)
    positions = jnp.maximum(jnp.arange(9) - 2, 0)[None]
    mask = (jnp.arange(9) >= 2)[None]

    @compiled
    def both(x, padded):
        return module(x), module(padded, mask=mask, positions=positions)[:, 2:]

    alone, shifted = both(x, padded)
    assert_same(shifted, alone)
