import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.simple import SimpleSelfAttention
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_permutation_equivariant,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestSimple(TwinContract):
    rows = ("simple", "simple-weights")


@jax.enable_x64(True)
def test_two_tokens_by_hand():
    x = jnp.asarray(np.diag([np.log(2), np.log(3)]) ** 0.5)
    output, scores, weights = SimpleSelfAttention()(x, need_weights=True)
    assert_same(scores, np.diag([np.log(2), np.log(3)]))
    assert_same(weights, [[2 / 3, 1 / 3], [1 / 4, 3 / 4]])
    assert_same(output, np.array([[2 / 3, 1 / 3], [1 / 4, 3 / 4]]) @ x)


@jax.enable_x64(True)
def test_scores_and_weights_come_on_request():
    module, x = SimpleSelfAttention(), draw(3, 5, 7)
    output, scores, weights = compiled(lambda x: module(x, need_weights=True))(x)
    assert_same(output, compiled(module)(x))
    assert_same(scores, scores.swapaxes(-1, -2))
    assert_same(weights.sum(-1), np.ones((3, 5)))


@in_shapes
@jax.enable_x64(True)
def test_order_and_company_do_not_matter(batch, tokens):
    module, x = SimpleSelfAttention(), draw(batch, tokens, 7)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


def test_it_has_no_parameters_and_computes_in_the_dtype_it_is_told():
    module = SimpleSelfAttention(rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    assert not jax.tree.leaves(nnx.state(module))
    assert jax.eval_shape(module, jnp.ones((5, 7))).dtype == jnp.bfloat16


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"x must have shape \(t, d\) or \(b, t, d\), got \(2, 3, 5, 7\)"):
        SimpleSelfAttention()(jnp.ones((2, 3, 5, 7)))
