import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.from_scratch.v2 import SelfAttentionV2
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_permutation_equivariant,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestV2(TwinContract):
    rows = ("v2", "v2-bias")
    rounds = False  # the rung before it
    elsewhere = ("v2-bias",)  # the rungs are equal, with biases


def v2(qkv_bias: bool = False) -> SelfAttentionV2:
    return SelfAttentionV2(7, 5, qkv_bias, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@in_shapes
@jax.enable_x64(True)
def test_order_and_company_do_not_matter(batch, tokens):
    module, x = v2(qkv_bias=True), draw(batch, tokens, 7)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


@jax.enable_x64(True)
def test_a_key_bias_changes_nothing_and_a_value_bias_is_added():
    # The same number joins every score of a row; and the weights of a row sum to 1.
    module, x = v2(qkv_bias=True), draw(3, 5, 7)
    before = compiled(module)(x)
    module.W_key.bias[...] += 1.0
    assert_same(compiled(module)(x), before)
    module.W_value.bias[...] += 1.0
    assert_same(compiled(module)(x), before + 1.0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        SelfAttentionV2(0, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_out must be at least 1, got d_out=0"):
        SelfAttentionV2(7, 0, rngs=nnx.Rngs(0))
    module = SelfAttentionV2(7, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
