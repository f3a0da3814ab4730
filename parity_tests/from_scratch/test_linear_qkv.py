import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.from_scratch.linear_qkv import LinearQKV
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, draw


class TestLinearQKV(TwinContract):
    rows = ("linear-qkv",)


def test_twelve_tokens_of_a_base_model():
    outputs = LinearQKV(768, rngs=nnx.Rngs(0))(jnp.ones((12, 768)))
    assert [output.shape for output in outputs] == [(12, 768)] * 3


@jax.enable_x64(True)
def test_each_output_has_a_projection_of_its_own():
    module, x = LinearQKV(7, rngs=nnx.Rngs(0), param_dtype=jnp.float64), draw(3, 5, 7)
    for i, projection in enumerate((module.W_q, module.W_k, module.W_v)):
        projection.kernel[...] = (i + 1) * jnp.eye(7)
        projection.bias[...] = jnp.full(7, i)
    for i, output in enumerate(module(x)):
        assert_same(output, (i + 1) * x + i)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="d_model must be at least 1, got d_model=0"):
        LinearQKV(0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        LinearQKV(7, rngs=nnx.Rngs(0))(jnp.ones((3, 5)))
