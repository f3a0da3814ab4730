import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.sdpa import MultiHeadAttentionSDPA
from jax_attn.from_scratch.torch_class import MultiHeadAttentionTorchClass
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestTorchClass(TwinContract):
    rows = (
        "torch-class",
        "torch-class-bias",
        "torch-class-no-weights",
    )


def torch_class(**options) -> MultiHeadAttentionTorchClass:
    return MultiHeadAttentionTorchClass(26, 26, 2, 11, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options)


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter_and_the_first_token_sees_itself_alone(batch, tokens):
    module, x = torch_class(), draw(batch, tokens, 26)
    together = assert_batch_independent(module, x)
    inner = module.multihead_attn
    values = compiled(lambda token: module.proj(inner.out_proj(token @ inner.in_proj_weight[52:].T)))
    assert_same(together[:, 0], values(np.asarray(x)[:, 0]))


@pytest.mark.parametrize("qkv_bias", [False, True])
@jax.enable_x64(True)
def test_the_future_is_hidden(qkv_bias):
    assert_causal(
        torch_class(qkv_bias=qkv_bias), draw(3, 11, 26)
    )  # the first 5 of them, and the full context


@pytest.mark.parametrize("qkv_bias", [pytest.param(False, marks=pytest.mark.slow), True])
@jax.enable_x64(True)
def test_weights_computed_on_the_way_change_nothing(qkv_bias):
    x = draw(3, 5, 26)
    ways = (torch_class(qkv_bias=qkv_bias, need_weights=need) for need in (True, False))
    assert_same(*(compiled(module)(x) for module in ways))


@jax.enable_x64(True)
def test_a_second_projection_folded_in_gives_the_fused_kernel():
    module, x = torch_class(), draw(3, 5, 26)
    kernel = MultiHeadAttentionSDPA(26, 26, 2, 11, rngs=nnx.Rngs(1), param_dtype=jnp.float64)
    kernel.qkv.kernel[...] = module.multihead_attn.in_proj_weight[...].T
    kernel.proj.kernel[...] = module.multihead_attn.out_proj.kernel[...] @ module.proj.kernel[...]
    kernel.proj.bias[...] = module.proj.bias[...]
    assert_same(compiled(module)(x), compiled(kernel)(x))


@jax.enable_x64(True)
def test_a_bias_brings_a_key_and_value_that_the_first_token_sees_too():
    module, x = torch_class(qkv_bias=True), draw(3, 5, 26)
    before = compiled(module)(x)
    module.multihead_attn.bias_v[...] += 1.0
    assert np.abs(compiled(module)(x) - before).max(axis=-1).min() > 1e-3


def test_the_mask_is_boolean_and_the_future_in_it_true():
    module = MultiHeadAttentionTorchClass(26, 26, 2, 11, rngs=nnx.Rngs(0))
    assert module.mask.dtype == bool
    assert np.array_equal(module.mask[...], np.triu(np.ones((11, 11), bool), k=1))


def test_bad_input_is_refused():
    with pytest.raises(
        ValueError, match="d_out must be divisible by num_heads, got d_out=26 and num_heads=3"
    ):
        MultiHeadAttentionTorchClass(26, 26, 3, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionTorchClass(26, 26, 0, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_in must equal d_out, got d_in=7 and d_out=26"):
        MultiHeadAttentionTorchClass(7, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_length must be at least 1, got context_length=0"):
        MultiHeadAttentionTorchClass(26, 26, 2, 0, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout must be a probability between 0 and 1, got dropout=2"):
        MultiHeadAttentionTorchClass(26, 26, 2, 11, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttentionTorchClass(26, 26, 2, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 26\) or \(b, t, 26\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 26\) or \(b, t, 26\), got \(2, 3, 5, 26\)"):
        module(jnp.ones((2, 3, 5, 26)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 26)))
