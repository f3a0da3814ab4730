import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.combined_qkv import MultiHeadAttentionCombinedQKV
from jax_attn.from_scratch.sdpa import MultiHeadAttentionSDPA
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestSDPA(TwinContract):
    rows = ("sdpa", "sdpa-bias")
    elsewhere = ("sdpa-bias",)  # the rungs are equal, with biases


def sdpa(num_heads: int = 2, **options) -> MultiHeadAttentionSDPA:
    return MultiHeadAttentionSDPA(7, 26, num_heads, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options)


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter_and_the_first_token_sees_itself_alone(batch, tokens):
    module, x = sdpa(), draw(batch, tokens, 7)
    together = assert_batch_independent(module, x)
    values = compiled(lambda token: module.proj(module.qkv(token)[:, 52:]))
    assert_same(together[:, 0], values(np.asarray(x)[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(sdpa(), draw(3, 11, 7))  # the first 5 of them, and the full context


@jax.enable_x64(True)
def test_the_kernel_computes_what_the_rung_before_wrote_out():
    written_out = MultiHeadAttentionCombinedQKV(7, 26, 2, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    for shape in ((5, 7), (3, 11, 7)):  # the same seed, the same weights
        assert_same(compiled(sdpa())(draw(*shape)), compiled(written_out)(draw(*shape)))


@jax.enable_x64(True)
def test_dropout_is_for_training():
    module, x = sdpa(dropout=0.5), draw(3, 5, 7)
    run = nnx.jit(lambda module, x: module(x))
    first, second = run(module, x), run(module, x)
    assert np.abs(first - second).max() > 1e-3
    module.eval()
    assert_same(run(module, x), compiled(sdpa())(x))


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="d_out must be divisible by num_heads, got d_out=26 and num_heads=3"
    ):
        MultiHeadAttentionSDPA(7, 26, 3, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionSDPA(7, 26, 0, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        MultiHeadAttentionSDPA(0, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_length must be at least 1, got context_length=0"):
        MultiHeadAttentionSDPA(7, 26, 2, 0, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=2"):
        MultiHeadAttentionSDPA(7, 26, 2, 11, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttentionSDPA(7, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(2, 3, 5, 7\)"):
        module(jnp.ones((2, 3, 5, 7)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
