import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.primitives import Embedding
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same


class TestTiedHead(TwinContract):
    rows = ("tied-head",)

    def test_takes_an_empty_batch(self, row_of_each_class: str):
        """Of vectors; the table is never empty."""
        head = CATALOGUE[row_of_each_class].flax()
        assert head(jnp.ones((0, 5, 37)), jnp.ones((31, 37))).shape == (0, 5, 31)


class Tied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.token = Embedding(7, 3, rngs=rngs, param_dtype=jnp.float64)
        self.head = TiedHead(7, rngs=rngs)

    def __call__(self, ids):
        return self.head(jnp.tanh(self.token(ids)), self.token.embedding[...])


@jax.enable_x64(True)
def test_the_table_gets_the_gradients_of_both_uses():
    """As where it is looked up with a product of its own, and torch ties the weight of a linear layer."""
    import torch

    ours, ids = Tied(nnx.Rngs(0)), jnp.array([[5, 0, 1], [1, 6, 5]])
    gradient = jax.jit(
        lambda module, ids: nnx.grad(lambda module: jnp.sum(jnp.cos(module(ids))))(module).token.embedding[
            ...
        ]
    )(ours, ids)
    token, linear = torch.nn.Embedding(7, 3), torch.nn.Linear(3, 7, bias=False)
    token.weight = linear.weight = torch.nn.Parameter(
        torch.tensor(ours.token.embedding[...].tolist(), dtype=torch.float64)
    )
    linear(token(torch.tensor(ids.tolist())).tanh()).cos().sum().backward()
    assert_same(gradient, linear.weight.grad)


def test_bad_arguments_and_input_are_refused():
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got vocab_size=0"):
        TiedHead(0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="softcap must be above 0"):
        TiedHead(7, softcap=0.0, rngs=nnx.Rngs(0))
    head = TiedHead(7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"table must have shape \(7, d\), got \(3, 7\)"):
        head(jnp.ones((5, 3)), jnp.ones((3, 7)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 3\) or \(b, t, 3\), got \(5, 4\)"):
        head(jnp.ones((5, 4)), jnp.ones((7, 3)))
