import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn.positions.learned import LearnedPositions
from parity_tests.contract import TwinContract


class TestLearnedPositions(TwinContract):
    rows = ("positions-learned",)


def test_each_position_has_a_vector_of_its_own():
    module = LearnedPositions(11, 7, rngs=nnx.Rngs(0))
    added = module(jnp.zeros((3, 5, 7)))
    np.testing.assert_array_equal(added, jnp.broadcast_to(module.embedding[:5], (3, 5, 7)))


def test_positions_that_are_not_reached_get_no_gradient():
    module = LearnedPositions(11, 7, rngs=nnx.Rngs(0))
    gradient = nnx.grad(lambda module: jnp.sum(module(jnp.zeros((3, 5, 7)))))(module)["embedding"][...]
    np.testing.assert_array_equal(gradient, jnp.zeros((11, 7)).at[:5].set(3))


def test_bad_input_is_refused():
    module = LearnedPositions(11, 7, rngs=nnx.Rngs(0))
    for run in (module, jax.jit(lambda x: module(x))):
        with pytest.raises(
            ValueError, match="the number of tokens must be at most num_embeddings=11, got 12"
        ):
            run(jnp.ones((3, 12, 7)))
        with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 6\)"):
            run(jnp.ones((5, 6)))
