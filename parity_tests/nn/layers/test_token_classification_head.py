import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.token_classification_head import TokenClassificationHead
from parity_tests.contract import TwinContract


class TestTokenClassificationHead(TwinContract):
    rows = ("token-classification-head", "token-classification-head-dense")


def test_dropout_comes_before_the_linear_layer():
    module = TokenClassificationHead(1, 1, dropout=0.5, rngs=nnx.Rngs(0))
    module.linear.kernel[...], module.linear.bias[...] = jnp.ones((1, 1)), jnp.ones(1)
    assert set(np.unique(module(jnp.ones((100, 2, 1))))) == {1.0, 3.0}


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got num_classes=0"):
        TokenClassificationHead(7, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'gleu'"):
        TokenClassificationHead(7, 5, activation="gleu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        TokenClassificationHead(7, 5, rngs=nnx.Rngs(0))(jnp.ones((5, 8)))
