import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.einsum import MultiHeadAttentionEinsum
from jax_attn.weights.state_dict import numpy_state_dict
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)
from torch_ref.from_scratch import einsum as torch_einsum


class TestEinsum(TwinContract):
    rows = ("einsum", "einsum-bias")
    rounds = False  # the rung before it
    elsewhere = ("einsum-bias",)  # the rungs are equal, with biases


def einsum(**options) -> MultiHeadAttentionEinsum:
    return MultiHeadAttentionEinsum(7, 26, 11, 0.0, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options)


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter_and_the_first_token_sees_itself_alone(batch, tokens):
    module, x = einsum(), draw(batch, tokens, 7)
    together = assert_batch_independent(module, x)
    values = compiled(lambda token: module.out_proj(token @ module.W_value[...]))
    assert_same(together[:, 0], values(np.asarray(x)[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(einsum(), draw(3, 11, 7))  # the first 5 of them, and the full context


def test_raw_weights_start_within_torch_s_bound():
    flax = MultiHeadAttentionEinsum(7, 26, 11, 0.0, 2, qkv_bias=True, rngs=nnx.Rngs(0))
    torch = torch_einsum.MultiHeadAttentionEinsum(7, 26, 11, 0.0, 2, qkv_bias=True)
    bound = 26**-0.5  # torch reads the fan-in off the second axis
    for name in ("W_query", "W_key", "W_value", "bias_q", "bias_k", "bias_v"):
        for values in (np.asarray(getattr(flax, name)[...]), getattr(torch, name).detach().numpy()):
            assert 0.8 * bound < np.abs(values).max() <= bound
            assert abs(values.mean()) < 0.3 * bound
    assert not np.array_equal(flax.W_query[...], flax.W_key[...])


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_biases_are_there_only_if_asked_for(qkv_bias):
    flax = MultiHeadAttentionEinsum(7, 26, 11, 0.0, 2, qkv_bias, rngs=nnx.Rngs(0))
    torch = torch_einsum.MultiHeadAttentionEinsum(7, 26, 11, 0.0, 2, qkv_bias)
    biases = ["bias_k", "bias_q", "bias_v"] if qkv_bias else []
    expected = ["W_key", "W_query", "W_value", *biases, "mask", "out_proj.bias", "out_proj.weight"]
    assert sorted(torch.state_dict()) == expected
    assert sorted(numpy_state_dict(flax)) == expected


def test_the_dtype_to_compute_in_is_obeyed():
    module = MultiHeadAttentionEinsum(7, 26, 11, 0.0, 2, True, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    assert module.W_query.dtype == jnp.float32
    assert jax.eval_shape(module, draw(5, 7).astype(jnp.float32)).dtype == jnp.bfloat16


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="d_out must be divisible by num_heads, got d_out=26 and num_heads=3"
    ):
        MultiHeadAttentionEinsum(7, 26, 11, 0.0, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionEinsum(7, 26, 11, 0.0, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_in must be at least 1, got d_in=0"):
        MultiHeadAttentionEinsum(0, 26, 11, 0.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_length must be at least 1, got context_length=0"):
        MultiHeadAttentionEinsum(7, 26, 0, 0.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=2"):
        MultiHeadAttentionEinsum(7, 26, 11, 2, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttentionEinsum(7, 26, 11, 0.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(2, 3, 5, 7\)"):
        module(jnp.ones((2, 3, 5, 7)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
