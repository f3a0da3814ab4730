import jax
import jax.numpy as jnp
import pytest
from flax import nnx

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


class TestMultiHead(TwinContract):
    rows = ("multi-head", "multi-head-bias")
    elsewhere = ("multi-head-bias",)  # the rungs are equal, with biases


def multi_head(num_heads: int = 2) -> MultiHeadAttention:
    return MultiHeadAttention(7, 26, 11, 0.0, num_heads, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter(batch, tokens):
    assert_batch_independent(multi_head(), draw(batch, tokens, 7))


@jax.enable_x64(True)
def test_the_first_token_sees_itself_alone():
    module, x = multi_head(), draw(3, 5, 7)
    values = compiled(lambda token: module.out_proj(module.W_value(token)))
    assert_same(compiled(module)(x)[:, 0], values(x[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(multi_head(), draw(3, 11, 7))  # the first 5 of them, and the full context


@jax.enable_x64(True)
def test_the_number_of_heads_changes_the_result_but_no_weight():
    one, two, x = multi_head(1), multi_head(2), draw(3, 5, 7)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, nnx.state(one, nnx.Param), nnx.state(two, nnx.Param)))
    assert abs(compiled(one)(x) - compiled(two)(x)).max() > 1e-3


@jax.enable_x64(True)
def test_a_head_owns_a_block_of_columns():
    module, x = multi_head(), draw(3, 5, 7)
    module.out_proj.kernel[...] = jnp.eye(26)
    before = compiled(module)(x)
    module.W_query.kernel[...] = module.W_query.kernel[...].at[:, 13:].add(1.0)
    after = compiled(module)(x)
    assert_same(after[..., :13], before[..., :13])
    assert abs(after[..., 13:] - before[..., 13:]).max() > 1e-3


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="d_out must be divisible by num_heads, got d_out=26 and num_heads=3"
    ):
        MultiHeadAttention(7, 26, 11, 0.0, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttention(7, 26, 11, 0.0, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        MultiHeadAttention(0, 26, 11, 0.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_length must be at least 1, got context_length=0"):
        MultiHeadAttention(7, 26, 0, 0.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=2"):
        MultiHeadAttention(7, 26, 11, 2, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttention(7, 26, 11, 0.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
