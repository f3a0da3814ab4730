import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.nn import MultiHeadAttention, TalkingHeads
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw


class TestTalkingHeads(TwinContract):
    rows = ("talking-heads",)


@jax.enable_x64(True)
def test_wider_heads_that_share_a_key_are_the_definition():
    """In attention, and there with fewer keys than queries, masked and with its weights."""
    module = MultiHeadAttention(
        26, 6, 2, head_dim=4, talking_heads=True, is_causal=True, rngs=nnx.Rngs(0), param_dtype=jnp.float64
    )
    x = draw(3, 5, 26)
    output, weights = compiled(lambda x: module(x, return_weights=True))(x)

    q, k, v = (module.split_heads(project(x)) for project in (module.q_proj, module.k_proj, module.v_proj))
    k, v = (np.repeat(np.asarray(part), 3, axis=2) for part in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / 2
    mixed = np.einsum("bmts,nm->bnts", scores, module.talking_heads.before[...])
    softmax = np.exp(np.where(np.tri(5, dtype=bool), mixed, -np.inf))
    softmax /= softmax.sum(-1, keepdims=True)
    expected = np.einsum("bmts,nm->bnts", softmax, module.talking_heads.after[...])
    assert_same(weights, expected)
    heads = np.einsum("bnts,bsnh->btnh", expected, v).reshape(3, 5, 24)
    assert_same(output, heads @ module.out_proj.kernel[...] + module.out_proj.bias[...])


def test_no_heads_are_refused():
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        TalkingHeads(0, rngs=nnx.Rngs(0))
