import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.sdpa import MultiHeadAttentionSDPA
from jax_attn.from_scratch.sdpa_masked import MultiHeadAttentionSDPAMasked
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestSDPAMasked(TwinContract):
    rows = ("sdpa-masked", "sdpa-masked-bias")
    rounds = False  # the rung before it
    elsewhere = ("sdpa-masked-bias",)  # the rungs are equal, with biases


def masked(num_heads: int = 2, **options) -> MultiHeadAttentionSDPAMasked:
    return MultiHeadAttentionSDPAMasked(
        7, 26, num_heads, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options
    )


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter_and_the_first_token_sees_itself_alone(batch, tokens):
    module, x = masked(), draw(batch, tokens, 7)
    together = assert_batch_independent(module, x)
    values = compiled(lambda token: module.proj(module.qkv(token)[:, 52:]))
    assert_same(together[:, 0], values(np.asarray(x)[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(masked(), draw(3, 11, 7))  # the first 5 of them, and the full context


@jax.enable_x64(True)
def test_the_mask_says_what_is_causal_says():
    hinted = MultiHeadAttentionSDPA(7, 26, 2, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    for shape in ((5, 7), (3, 11, 7)):  # the same seed, the same weights
        assert_same(compiled(masked())(draw(*shape)), compiled(hinted)(draw(*shape)))


def test_the_mask_is_the_source_s():
    mask = MultiHeadAttentionSDPAMasked(7, 26, 2, 11, rngs=nnx.Rngs(0)).mask[...]
    assert mask.dtype == bool
    assert np.array_equal(mask, np.triu(np.ones((11, 11), bool), k=1))


@jax.enable_x64(True)
def test_dropout_is_for_training():
    module, x = masked(dropout=0.5), draw(3, 5, 7)
    run = nnx.jit(lambda module, x: module(x))
    first, second = run(module, x), run(module, x)
    assert np.abs(first - second).max() > 1e-3
    module.eval()
    assert_same(run(module, x), compiled(masked())(x))


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="d_out must be divisible by num_heads, got d_out=26 and num_heads=3"
    ):
        MultiHeadAttentionSDPAMasked(7, 26, 3, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionSDPAMasked(7, 26, 0, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        MultiHeadAttentionSDPAMasked(0, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_length must be at least 1, got context_length=0"):
        MultiHeadAttentionSDPAMasked(7, 26, 2, 0, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=2"):
        MultiHeadAttentionSDPAMasked(7, 26, 2, 11, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttentionSDPAMasked(7, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(2, 3, 5, 7\)"):
        module(jnp.ones((2, 3, 5, 7)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
