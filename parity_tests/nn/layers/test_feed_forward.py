import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.layers.feed_forward import FeedForward
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_batch_independent, assert_same, compiled, draw


class TestFeedForward(TwinContract):
    rows = (
        "feed-forward-gelu",
        "feed-forward-gelu-tanh",
        "feed-forward-relu",
        "feed-forward-relu-squared",
    )


@jax.enable_x64(True)
def test_each_token_goes_its_own_way():
    module, x = FeedForward(7, 29, rngs=nnx.Rngs(0), param_dtype=jnp.float64), draw(3, 5, 7)
    together = assert_batch_independent(module, x)
    assert_same(compiled(module)(np.asarray(x)[:, 2:3]), together[:, 2:3])


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(
        ValueError, match=r"activation must be one of gelu, gelu_tanh, .*, relu, .*got 'gleu'"
    ):
        FeedForward(7, 29, "gleu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="hidden_dim must be at least 1, got hidden_dim=0"):
        FeedForward(7, 0, rngs=nnx.Rngs(0))
    module = FeedForward(7, 29, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        module(jnp.ones((5, 8)))
