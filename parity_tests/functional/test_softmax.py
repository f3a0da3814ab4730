"""The softmax below every attention, beside the definition in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.softmax import masked_logsumexp, masked_softmax
from jax_attn.parity.tolerances import MODULE

SCORES = np.random.default_rng(0).normal(size=(3, 5, 7))
MASK = jnp.asarray(np.random.default_rng(1).random((5, 7)) < 0.6).at[2].set(False)


def definition(scores, mask):
    exponentials = np.where(mask, np.exp(scores), 0)
    total = exponentials.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, exponentials / total, 0), np.log(total)[..., 0]


@jax.enable_x64(True)
def test_it_is_the_definition_and_so_is_its_gradient():
    def loss(scores):
        return jnp.sum(masked_softmax(scores, MASK) * np.arange(7.0)) + jnp.sum(
            jnp.where(MASK.any(-1), masked_logsumexp(scores, MASK), 0)
        )

    scores = jnp.asarray(SCORES)
    weights, lse = definition(SCORES, MASK)
    np.testing.assert_allclose(masked_softmax(scores, MASK), weights, atol=MODULE)
    np.testing.assert_allclose(masked_logsumexp(scores, MASK), lse, atol=MODULE)
    mean = (weights * np.arange(7.0)).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(jax.grad(loss)(scores), weights * (np.arange(7.0) - mean + 1), atol=MODULE)


def test_a_nan_is_seen_where_it_is_kept_and_nowhere_else():
    scores = jnp.array([[1.0, jnp.nan, 2.0], [1.0, jnp.nan, -jnp.inf], [1.0, 0.0, 2.0]])
    mask = jnp.array([[True, True, True], [True, False, True], [True, True, True]])
    for found in (masked_softmax(scores, mask).sum(axis=-1), masked_logsumexp(scores, mask)):
        assert np.isnan(found).tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_closed_row_weighs_nothing(dtype):
    scores = jnp.full((2, 3), -jnp.inf, dtype).at[1].set(0)
    mask = jnp.array([[True, True, True], [False, False, False]])
    assert (masked_softmax(scores, mask) == 0).all()
    assert (jax.grad(lambda scores: masked_softmax(scores, mask).astype("float32").sum())(scores) == 0).all()
