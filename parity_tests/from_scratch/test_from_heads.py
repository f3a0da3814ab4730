import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.from_scratch.from_heads import MultiHeadAttentionFromHeads
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_bad_masks_are_refused,
    assert_batch_independent,
    assert_causal,
    assert_mask_decides,
    assert_nothing_to_attend_to_gives,
    assert_permutation_equivariant,
    causal_mask,
    draw,
    in_shapes,
)


class TestFromHeads(TwinContract):
    rows = ("from-heads", "from-heads-masked")
    rounds = False  # the rung before it


def from_heads() -> MultiHeadAttentionFromHeads:
    return MultiHeadAttentionFromHeads(14, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@in_shapes
@jax.enable_x64(True)
def test_order_and_company_do_not_matter(batch, tokens):
    module, x = from_heads(), draw(batch, tokens, 14)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


@jax.enable_x64(True)
def test_the_mask_decides_who_is_seen():
    assert_mask_decides(from_heads(), draw(3, 5, 14))
    module = from_heads()
    assert_causal(lambda x: module(x, causal_mask(*x.shape[:2])), draw(3, 5, 14))


@jax.enable_x64(True)
def test_a_token_with_nothing_to_attend_to_gives_the_last_bias():
    module = from_heads()
    assert_nothing_to_attend_to_gives(module, draw(3, 5, 14), module.output_linear.bias[...])


def test_bad_masks_are_refused():
    module = MultiHeadAttentionFromHeads(14, 2, rngs=nnx.Rngs(0))
    assert_bad_masks_are_refused(module, jnp.ones((3, 5, 14)), "mask")


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="embed_dim must be divisible by num_heads, got embed_dim=14 and num_heads=3"
    ):
        MultiHeadAttentionFromHeads(14, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionFromHeads(14, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 14\) or \(b, t, 14\), got \(3, 5\)"):
        MultiHeadAttentionFromHeads(14, 2, rngs=nnx.Rngs(0))(jnp.ones((3, 5)))
