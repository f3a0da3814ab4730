import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.v1 import SelfAttentionV1
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_permutation_equivariant,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestV1(TwinContract):
    rows = ("v1",)
    rounds = False  # the rung before it


def v1(d_in: int, d_out: int) -> SelfAttentionV1:
    return SelfAttentionV1(d_in, d_out, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@jax.enable_x64(True)
def test_two_tokens_by_hand():
    module = v1(2, 4)
    module.W_query[...] = jnp.array([[1.0, 1, 1, 1], [0, 0, 0, 0]])
    module.W_key[...] = jnp.array([[0.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    module.W_value[...] = jnp.array([[0.0, 0, 0, 0], [1, 2, 3, 4]])
    x = jnp.array([[1.0, 0.0], [1.0, np.log(3)]])
    # queries (1, 1, 1, 1); keys 0 and ln 3 / 2; scores 0 and 2 ln 3 / sqrt(4); weights 1/4 and 3/4
    assert_same(compiled(module)(x), np.tile(0.75 * np.log(3) * np.arange(1, 5), (2, 1)))


@in_shapes
@jax.enable_x64(True)
def test_order_and_company_do_not_matter(batch, tokens):
    module, x = v1(7, 5), draw(batch, tokens, 7)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


def test_weights_start_uniform_between_0_and_1():
    module = SelfAttentionV1(101, 103, rngs=nnx.Rngs(0))
    for weight in (module.W_query[...], module.W_key[...], module.W_value[...]):
        assert weight.shape == (101, 103)
        assert weight.dtype == jnp.float32
        assert 0 <= weight.min() < 0.01
        assert 0.99 < weight.max() < 1
        assert abs(weight.mean() - 0.5) < 0.02
    assert not np.array_equal(module.W_query[...], module.W_key[...])


def test_it_computes_in_the_dtype_it_is_told():
    module = SelfAttentionV1(7, 5, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    assert jax.eval_shape(module, jnp.ones((3, 7))).dtype == jnp.bfloat16


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        SelfAttentionV1(0, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_out must be at least 1, got d_out=-1"):
        SelfAttentionV1(7, -1, rngs=nnx.Rngs(0))
    module = SelfAttentionV1(7, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"got \(1, 2, 3, 7\)"):
        module(jnp.ones((1, 2, 3, 7)))
