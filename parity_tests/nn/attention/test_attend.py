import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.functional.attention import dot_product_attention
from jax_attn.nn.attention.attend import attend, call_unbatched
from jax_attn.nn.attention.weights import AttentionWeights
from jax_attn.nn.primitives import Dropout
from parity_tests.from_scratch.properties import assert_same, draw


class Bare(nnx.Module):
    """What `attend` asks of a module, and no projection."""

    def __init__(self, p: float = 0.0):
        self.dropout = Dropout(p, rngs=nnx.Rngs(0))
        self.implementation = None

    def __call__(self, x, *, mask=None, return_weights=False):
        heads = x[:, :, None]
        output, weights = attend(self, heads, heads, heads, return_weights, mask=mask)
        return (output[:, :, 0], weights) if return_weights else output[:, :, 0]


@jax.enable_x64(True)
def test_it_is_attention_with_the_modules_dropout_and_weights_for_who_captures():
    module, x = Bare(), draw(3, 5, 7)
    heads = x[:, :, None]
    expected, of_pairs = dot_product_attention(heads, heads, heads, return_weights=True)
    output, captured = nnx.capture(module, AttentionWeights)(x)
    assert_same(output, expected[:, :, 0])
    assert_same(captured["weights"].get_value()[0], of_pairs)
    assert_same(module(x, return_weights=True)[1], of_pairs)

    dropped = Bare(1.0)
    assert_same(dropped(x), jnp.zeros_like(x))
    dropped.eval()
    assert_same(dropped(x), output)


@jax.enable_x64(True)
def test_a_sequence_alone_is_a_batch_of_one():
    module, x = Bare(), draw(5, 7)
    closed = jnp.arange(5) < 3
    shared = {"return_weights": True}
    output, weights = call_unbatched(module, x, None, shared, mask=closed[None, None])
    expected, of_pairs = module(x[None], mask=closed[None, None, None], return_weights=True)
    assert_same(output, expected[0])
    assert_same(weights, of_pairs[0])
    with pytest.raises(ValueError, match="x must have a batch axis where there is a cache, got shape"):
        call_unbatched(module, x, object(), {})
