import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.nn.layers.pooler import Pooler
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_batch_independent, assert_same, draw


class TestPooler(TwinContract):
    rows = ("pooler",)


@jax.enable_x64(True)
def test_the_first_token_speaks_for_all():
    module, x = Pooler(7, rngs=nnx.Rngs(0), param_dtype=jnp.float64), draw(3, 5, 7)
    assert_same(module(x), jnp.tanh(module.dense(x[:, 0])))
    assert_same(module(x.at[:, 1:].set(1e3)), module(x))
    assert_batch_independent(module, x)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(7,\)"):
        Pooler(7, rngs=nnx.Rngs(0))(jnp.ones(7))
