"""Sentence vectors and their similarities, against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_attn.functional.sentence import cosine_similarity, mean_pooling


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@jax.enable_x64(True)
def test_the_mean_is_of_the_tokens_alone():
    hidden, mask = draw(3, 5, 7), np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    pooled = mean_pooling(jnp.asarray(hidden), jnp.asarray(mask))
    np.testing.assert_allclose(pooled[0], hidden[0].mean(0), rtol=0, atol=1e-15)
    np.testing.assert_allclose(pooled[1], hidden[1][[0, 2]].mean(0), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(pooled[2], 0)
    hidden[1, 1] = np.nan
    np.testing.assert_array_equal(mean_pooling(jnp.asarray(hidden), jnp.asarray(mask)), pooled)


@jax.enable_x64(True)
def test_the_cosine_is_torchs():
    a, b = draw(3, 7), 100 * draw(5, 7)
    ours = cosine_similarity(jnp.asarray(a), jnp.asarray(b))
    theirs = torch.cosine_similarity(torch.tensor(a)[:, None], torch.tensor(b)[None], dim=-1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)


def test_a_vector_of_zeros_is_like_none_and_has_no_gradient():
    zeros, b = jnp.zeros((1, 7)), jnp.ones((2, 7))
    np.testing.assert_array_equal(cosine_similarity(zeros, b), 0)
    gradient = jax.grad(lambda a: cosine_similarity(a, b).sum())(zeros)
    assert jnp.isfinite(gradient).all()


def test_bad_masks_are_refused():
    for mask in (jnp.ones((3, 5), int), jnp.ones((3, 4), bool)):
        with pytest.raises(ValueError, match=r"attention_mask must be a boolean array of shape \(3, 5\)"):
            mean_pooling(jnp.zeros((3, 5, 7)), mask)
