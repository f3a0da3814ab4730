import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.from_scratch.embed_multi_head import EmbedMultiHeadAttention
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


class TestEmbedMultiHead(TwinContract):
    rows = ("embed-multi-head", "embed-multi-head-masked")
    rounds = False  # its attention


def embed_multi_head() -> EmbedMultiHeadAttention:
    return EmbedMultiHeadAttention(14, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@in_shapes
@jax.enable_x64(True)
def test_order_and_company_do_not_matter(batch, tokens):
    module, x = embed_multi_head(), draw(batch, tokens, 14)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


@jax.enable_x64(True)
def test_the_mask_decides_who_is_seen():
    assert_mask_decides(embed_multi_head(), draw(3, 5, 14))
    module = embed_multi_head()
    assert_causal(lambda x: module(x, causal_mask(*x.shape[:2])), draw(3, 5, 14))


@jax.enable_x64(True)
def test_a_token_with_nothing_to_attend_to_gives_the_last_bias():
    module = embed_multi_head()
    assert_nothing_to_attend_to_gives(module, draw(3, 5, 14), module.out.bias[...])


def test_bad_masks_are_refused():
    module = EmbedMultiHeadAttention(14, 2, rngs=nnx.Rngs(0))
    assert_bad_masks_are_refused(module, jnp.ones((3, 5, 14)), "attention_mask")


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="embed_dim must be divisible by num_heads, got embed_dim=14 and num_heads=3"
    ):
        EmbedMultiHeadAttention(14, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        EmbedMultiHeadAttention(14, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 14\) or \(b, t, 14\), got \(3, 5\)"):
        EmbedMultiHeadAttention(14, 2, rngs=nnx.Rngs(0))(jnp.ones((3, 5)))
