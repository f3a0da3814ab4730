import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_attn.from_scratch.causal import CausalAttention
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import (
    assert_batch_independent,
    assert_causal,
    assert_same,
    compiled,
    draw,
    in_shapes,
)


class TestCausal(TwinContract):
    rows = ("causal", "causal-bias")


def causal(dropout: float = 0.0) -> CausalAttention:
    return CausalAttention(7, 5, 11, dropout, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


@in_shapes
@jax.enable_x64(True)
def test_company_does_not_matter(batch, tokens):
    assert_batch_independent(causal(), draw(batch, tokens, 7))


@jax.enable_x64(True)
def test_the_first_token_sees_itself_alone():
    module, x = causal(), draw(3, 5, 7)
    assert_same(compiled(module)(x)[:, 0], compiled(module.W_value)(x[:, 0]))


@jax.enable_x64(True)
def test_the_future_is_hidden():
    assert_causal(causal(), draw(3, 11, 7))  # the first 5 of them, and the full context


@jax.enable_x64(True)
def test_dropout_acts_on_the_weights_while_training():
    module, x = causal(dropout=0.5), draw(7)[None]
    value = module.W_value(x)
    # One token has one weight, 1: it is dropped, or doubled.
    run = nnx.jit(lambda module, x: module(x))
    outputs = np.stack([run(module, x) for _ in range(20)])
    kept = np.abs(outputs).max(axis=(1, 2)) > 0
    assert 0 < kept.sum() < 20
    assert_same(outputs[kept], np.broadcast_to(2 * value, outputs[kept].shape))
    module.eval()
    assert_same(run(module, x), value)


def test_the_mask_is_no_parameter():
    module = CausalAttention(7, 5, 3, 0.0, rngs=nnx.Rngs(0))
    assert module.mask[...].tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert "mask" not in nnx.state(module, nnx.Param)


def test_bad_input_is_refused():
    for name, sizes in {"d_in": (0, 5, 11), "d_out": (7, 0, 11), "context_length": (7, 5, 0)}.items():
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got {name}=0"):
            CausalAttention(*sizes, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dropout must be a probability between 0 and 1, got dropout=1\.5"):
        CausalAttention(7, 5, 11, 1.5, rngs=nnx.Rngs(0))
    module = CausalAttention(7, 5, 11, 0.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(3, 5\)"):
        module(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match="the number of tokens must be at most context_length=11, got 12"):
        module(jnp.ones((3, 12, 7)))


def test_the_twin_refuses_too_many_tokens_too():
    import torch

    from torch_ref.from_scratch.causal import CausalAttention as Twin

    # With a context of one, a mask of (1, 1) would broadcast, and hide nothing.
    with pytest.raises(ValueError, match="the number of tokens must be at most 1, got 2"):
        Twin(7, 5, 1, 0.0)(torch.ones(2, 7))
