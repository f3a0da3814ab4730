import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.pooler import Pooler
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.layers.transformed_head import TransformedHead
from jax_attn.nn.primitives import Linear
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, draw


class TestTransformedHead(TwinContract):
    rows = ("transformed-head", "transformed-head-pooled")


@jax.enable_x64(True)
def test_what_else_is_given_goes_to_the_pooler_or_else_to_the_head():
    own = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    x, mask = draw(2, 5, 7), jnp.arange(5) < jnp.array([[5], [2]])
    pooled = TransformedHead(7, Linear(7, 3, **own), Pooler(7, "mean", dense=False, **own), **own)
    hidden = np.asarray(pooled(x, mask))
    assert_same(hidden[1], pooled(x[1, :2]))
    tied = TransformedHead(7, TiedHead(11, **own), **own)
    assert tied(x, draw(11, 7)).shape == (2, 5, 11)


def test_bad_arguments_and_input_are_refused():
    own = {"rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'gleu'"):
        TransformedHead(7, Linear(7, 3, **own), activation="gleu", **own)
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        TransformedHead(7, Linear(7, 3, **own), **own)(jnp.ones((5, 8)))
