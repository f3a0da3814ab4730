import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.from_scratch.causal import CausalAttention
from jax_attn.from_scratch.renormalized_causal import RenormalizedCausalAttention
from jax_attn.weights.state_dict import state_dict
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)
from torch_ref.from_scratch.renormalized_causal import RenormalizedCausalAttention as Twin


class TestRenormalizedCausal(TwinContract):
    rows = ("renormalized-causal",)


def renormalized() -> RenormalizedCausalAttention:
    return RenormalizedCausalAttention(7, 5, 11, 0.0, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter(batch, tokens):
    assert_batch_independent(renormalized(), draw(batch, tokens, 7))


@jax.enable_x64(True)
def test_the_first_token_sees_itself_alone():
    module, x = renormalized(), draw(3, 5, 7)
    assert_same(compiled(module)(x)[:, 0], compiled(module.W_value)(x[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(renormalized(), draw(3, 5, 7))


def ones(kind, dtype):
    """One wide, every weight 1: the score of two tokens is their product."""
    module = kind(1, 1, 2, 0.0, rngs=nnx.Rngs(0), param_dtype=dtype)
    for projection in (module.W_query, module.W_key, module.W_value):
        projection.kernel[...] = jnp.ones((1, 1), dtype)
    return module


def test_a_far_larger_hidden_score_leaves_nothing_in_float32():
    # The first token's scores are 100 and, hidden, 300: exp(-200) is 0 in float32.
    x = jnp.array([[10.0], [30.0]], jnp.float32)
    assert compiled(ones(CausalAttention, jnp.float32))(x)[0] == 10

    module = ones(RenormalizedCausalAttention, jnp.float32)
    output, gradient = compiled(jax.value_and_grad(lambda x: module(x)[0, 0]))(x)
    assert output == 0
    assert np.array_equal(gradient, np.zeros((2, 1)))

    twin = Twin(1, 1, 2, 0.0)
    twin.load_state_dict(state_dict(module))
    tokens = torch.tensor([[10.0], [30.0]], requires_grad=True)
    output = twin(tokens)[0, 0]
    output.backward()
    assert output == 0
    assert torch.equal(tokens.grad, torch.zeros(2, 1))

    with jax.enable_x64(True):
        module = ones(RenormalizedCausalAttention, jnp.float64)
        assert_same(compiled(module)(x.astype(jnp.float64))[0], [10.0])


def test_bad_input_is_refused():
    for name, sizes in {"d_in": (0, 5, 11), "d_out": (7, 0, 11), "context_length": (7, 5, 0)}.items():
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got {name}=0"):
            RenormalizedCausalAttention(*sizes, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dropout must be a probability between 0 and 1, got dropout=-0\.1"):
        RenormalizedCausalAttention(7, 5, 11, -0.1, rngs=nnx.Rngs(0))
    module = RenormalizedCausalAttention(7, 5, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((12, 7)))
