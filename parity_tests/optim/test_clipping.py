"""Clipping against torch's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jax_attn.optim.clipping import clip_grad_norm, clip_grad_value, global_norm
from jax_attn.parity.tolerances import MODULE

SHAPES = ((2, 3), (5,), (7, 11))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def gradients(scale, seed=0):
    rng = np.random.default_rng(seed)
    return [scale * rng.normal(size=shape) for shape in SHAPES]


def clipped(tx, grads):
    return tx.update([jnp.asarray(g) for g in grads], tx.init(grads))[0]


def clipped_by_torch(clip, grads, *arguments):
    params = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.tensor(g)
    norm = clip(params, *arguments)
    return [p.grad.numpy() for p in params], norm


@given(
    scale=st.sampled_from([0.0, 1e-8, 1e-3, 1.0, 1e4]),
    max_norm=st.floats(1e-3, 10.0),
    norm_type=st.sampled_from([2.0, 1.0, 3.0, 0.5, math.inf, "inf"]),
)
def test_clip_grad_norm_equals_torch(scale, max_norm, norm_type):
    grads = gradients(scale)
    theirs, norm = clipped_by_torch(torch.nn.utils.clip_grad_norm_, grads, max_norm, norm_type)
    for a, b in zip(clipped(clip_grad_norm(max_norm, norm_type), grads), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=MODULE, atol=0)
    ours = global_norm([jnp.asarray(g) for g in grads], norm_type)
    np.testing.assert_allclose(ours, norm.item(), rtol=MODULE, atol=0)


def test_optax_differs_where_the_norm_is_small():
    grads = gradients(1e-5)
    theirs, _ = clipped_by_torch(torch.nn.utils.clip_grad_norm_, grads, 1e-5)
    optaxs = clipped(optax.clip_by_global_norm(1e-5), grads)
    assert abs(np.asarray(optaxs[1][0]) / theirs[1][0] - 1.0) > 1e-3


@given(clip_value=st.floats(0.0, 2.0, allow_subnormal=False))  # XLA flushes those to 0
def test_clip_grad_value_equals_torch(clip_value):
    grads = gradients(1.0)
    theirs, _ = clipped_by_torch(torch.nn.utils.clip_grad_value_, grads, clip_value)
    for a, b in zip(clipped(clip_grad_value(clip_value), grads), theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_gives_what_torch_gives(bad):
    grads = gradients(1.0)
    grads[1][2] = bad
    theirs, _ = clipped_by_torch(torch.nn.utils.clip_grad_norm_, grads, 1.0)
    for a, b in zip(clipped(clip_grad_norm(1.0), grads), theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_16_bits_are_summed_in_float32():
    grads = {"a": jnp.full((4099,), 0.1, jnp.bfloat16), "b": jnp.ones(3, jnp.float32)}
    norm = global_norm(grads)
    assert norm.dtype == jnp.float32
    each = float(grads["a"][0])
    np.testing.assert_allclose(norm, math.sqrt(4099 * each**2 + 3), rtol=1e-6)
    tx = clip_grad_norm(1.0)
    updates, _ = tx.update(grads, tx.init(grads))
    assert {name: g.dtype for name, g in updates.items()} == {name: g.dtype for name, g in grads.items()}


def test_the_norm_of_nothing_is_zero():
    assert global_norm({}) == 0
    assert global_norm({"a": jnp.zeros((0, 3))}) == 0


def test_bad_norm_type_is_named():
    with pytest.raises(ValueError, match="norm_type"):
        global_norm({}, 0.0)
