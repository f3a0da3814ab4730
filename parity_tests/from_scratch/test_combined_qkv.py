import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.combined_qkv import MultiHeadAttentionCombinedQKV
from jax_attn.from_scratch.multi_head import MultiHeadAttention
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestCombinedQKV(TwinContract):
    rows = ("combined-qkv", "combined-qkv-bias")
    rounds = False  # the rung before it
    elsewhere = ("combined-qkv-bias",)  # the rungs are equal, with biases


def combined(num_heads: int = 2, **options) -> MultiHeadAttentionCombinedQKV:
    return MultiHeadAttentionCombinedQKV(
        7, 26, num_heads, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options
    )


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter_and_the_first_token_sees_itself_alone(batch, tokens):
    module, x = combined(), draw(batch, tokens, 7)
    together = assert_batch_independent(module, x)
    values = compiled(lambda token: module.proj(module.qkv(token)[:, 52:]))
    assert_same(together[:, 0], values(np.asarray(x)[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(combined(), draw(3, 11, 7))  # the first 5 of them, and the full context


@jax.enable_x64(True)
def test_the_three_projections_lie_side_by_side():
    fused, x = combined(qkv_bias=True), draw(3, 5, 7)
    separate = MultiHeadAttention(7, 26, 11, 0.0, 2, True, rngs=nnx.Rngs(1), param_dtype=jnp.float64)
    expected = compiled(fused)(x)
    assert np.abs(expected - compiled(separate)(x)).max() > 1e-3
    for third, projection in enumerate((separate.W_query, separate.W_key, separate.W_value)):
        columns = slice(26 * third, 26 * (third + 1))
        projection.kernel[...] = fused.qkv.kernel[:, columns]
        projection.bias[...] = fused.qkv.bias[columns]
    separate.out_proj.kernel[...], separate.out_proj.bias[...] = fused.proj.kernel[...], fused.proj.bias[...]
    assert_same(compiled(separate)(x), expected)


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="d_out must be divisible by num_heads, got d_out=26 and num_heads=3"
    ):
        MultiHeadAttentionCombinedQKV(7, 26, 3, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionCombinedQKV(7, 26, 0, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        MultiHeadAttentionCombinedQKV(0, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_length must be at least 1, got context_length=0"):
        MultiHeadAttentionCombinedQKV(7, 26, 2, 0, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=2"):
        MultiHeadAttentionCombinedQKV(7, 26, 2, 11, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttentionCombinedQKV(7, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(2, 3, 5, 7\)"):
        module(jnp.ones((2, 3, 5, 7)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
