import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.multi_head_wrapper import MultiHeadAttentionWrapper
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


class TestMultiHeadWrapper(TwinContract):
    rows = ("multi-head-wrapper", "multi-head-wrapper-projected")
    rounds = False  # its heads


def wrapper(**arguments) -> MultiHeadAttentionWrapper:
    return MultiHeadAttentionWrapper(
        7, 5, 11, 0.0, num_heads=2, **arguments, rngs=nnx.Rngs(0), param_dtype=jnp.float64
    )


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter(batch, tokens):
    assert_batch_independent(wrapper(qkv_bias=True, out_proj=True), draw(batch, tokens, 7))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(wrapper(), draw(3, 5, 7))


@jax.enable_x64(True)
def test_heads_stand_side_by_side_and_start_apart():
    module, x = wrapper(), draw(3, 5, 7)
    output = compiled(module)(x)
    assert output.shape == (3, 5, 10)
    assert_same(output[..., :5], compiled(module.heads[0])(x))
    assert_same(output[..., 5:], compiled(module.heads[1])(x))
    assert not np.allclose(output[..., :5], output[..., 5:])


@jax.enable_x64(True)
def test_the_output_projection_is_an_option():
    shapes = {key: array.shape for key, array in numpy_state_dict(wrapper(out_proj=True)).items()}
    assert shapes["out_proj.weight"] == (10, 10)
    assert shapes["out_proj.bias"] == (10,)
    assert shapes.keys() - numpy_state_dict(wrapper()).keys() == {"out_proj.weight", "out_proj.bias"}


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="num_heads must be at least 1, got num_heads=0"):
        MultiHeadAttentionWrapper(7, 5, 11, 0.0, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_out must be at least 1, got d_out=0"):
        MultiHeadAttentionWrapper(7, 0, 11, 0.0, 2, rngs=nnx.Rngs(0))
    module = MultiHeadAttentionWrapper(7, 5, 11, 0.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
