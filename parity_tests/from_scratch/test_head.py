import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.from_scratch.head import AttentionHead
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


class TestHead(TwinContract):
    rows = ("head", "head-masked")


def head() -> AttentionHead:
    return AttentionHead(7, 5, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@in_shapes
@jax.enable_x64(True)
def test_order_and_company_do_not_matter(batch, tokens):
    module, x = head(), draw(batch, tokens, 7)
    assert_permutation_equivariant(module, x)
    assert_batch_independent(module, x)


@jax.enable_x64(True)
def test_the_mask_decides_who_is_seen():
    assert_mask_decides(head(), draw(3, 5, 7))
    module = head()
    assert_causal(lambda x: module(x, causal_mask(*x.shape[:2])), draw(3, 5, 7))


@jax.enable_x64(True)
def test_a_token_with_nothing_to_attend_to_gives_0():
    module = head()
    assert_nothing_to_attend_to_gives(module, draw(3, 5, 7), 0.0)


def test_bad_masks_are_refused():
    module = AttentionHead(7, 5, rngs=nnx.Rngs(0))
    assert_bad_masks_are_refused(module, jnp.ones((3, 5, 7)), "mask")


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got embed_dim=0"):
        AttentionHead(0, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="head_dim must be at least 1, got head_dim=0"):
        AttentionHead(7, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        AttentionHead(7, 5, rngs=nnx.Rngs(0))(jnp.ones((3, 5)))
