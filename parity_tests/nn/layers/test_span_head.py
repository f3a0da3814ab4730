import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.span_head import SpanHead
from parity_tests.contract import TwinContract


class TestSpanHead(TwinContract):
    rows = ("span-head",)


def test_the_start_comes_first():
    """As `qa_outputs` of transformers' models splits."""
    module, x = SpanHead(2, rngs=nnx.Rngs(0)), jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    module.linear.kernel[...], module.linear.bias[...] = jnp.array([[1.0, 10.0], [2.0, 20.0]]), jnp.zeros(2)
    start, end = module(x)
    np.testing.assert_array_equal(start, [1, 2, 3])
    np.testing.assert_array_equal(end, [10, 20, 30])


def test_dropout_comes_before_the_linear_layer():
    module = SpanHead(1, dropout=0.5, rngs=nnx.Rngs(0))
    module.linear.kernel[...], module.linear.bias[...] = jnp.ones((1, 2)), jnp.ones(2)
    assert set(np.unique(module(jnp.ones((100, 2, 1))).end)) == {1.0, 3.0}


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got embed_dim=0"):
        SpanHead(0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        SpanHead(7, rngs=nnx.Rngs(0))(jnp.ones((5, 8)))
