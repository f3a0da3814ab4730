"""What is done to logits, against transformers' own processors in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_attn.models.generation.logits import keep_min_p, keep_top_k, keep_top_p, penalize_repetition
from parity_tests.from_scratch.properties import assert_same, compiled


@pytest.fixture(scope="module")
def processors():
    from transformers.generation import logits_process

    return logits_process


def logits(rows: int = 7, size: int = 31) -> np.ndarray:
    """Rows of all widths: nearly even ones and ones that know what they want, some with -inf."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((rows, size)) * np.geomspace(0.01, 30, rows)[:, None]
    drawn[::2, 3] = -np.inf
    return drawn


def assert_equal(ours, theirs, ids=None) -> None:
    """The same tokens are left, with the same logits."""
    given = logits()
    expected = theirs(torch.from_numpy(ids) if ids is not None else None, torch.from_numpy(given.copy()))
    actual, expected = compiled(ours)(given), expected.numpy()
    left = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(actual), left)
    assert_same(actual[left], expected[left])


@pytest.mark.parametrize("k", [1, 5, 31, 40])
@jax.enable_x64(True)
def test_top_k_equals_transformers(processors, k):
    assert_equal(lambda x: keep_top_k(x, k), processors.TopKLogitsWarper(k))


@jax.enable_x64(True)
def test_top_p_and_min_p_equal_transformers(processors):
    for p in (0.0, 0.05, 0.5, 0.9, 1.0):
        assert_equal(lambda x, p=p: keep_top_p(x, p), processors.TopPLogitsWarper(p))
        assert_equal(lambda x, p=p: keep_min_p(x, p), processors.MinPLogitsWarper(p))


@pytest.mark.parametrize("penalty", [1.3, 0.7])
@jax.enable_x64(True)
def test_repetition_penalty_equals_transformers(processors, penalty):
    ids = np.random.default_rng(1).integers(31, size=(7, 11))
    seen = np.zeros((7, 31), bool)
    seen[np.arange(7)[:, None], ids] = True
    theirs = processors.RepetitionPenaltyLogitsProcessor(penalty)
    assert_equal(lambda x: penalize_repetition(x, jnp.asarray(seen), penalty), theirs, ids)


def test_what_is_left_of_equal_logits():
    """All that equal the last of the `k`, as transformers; of a share, no more than it needs."""
    even = jnp.zeros(4)
    assert jnp.isfinite(keep_top_k(even, 2)).all()
    np.testing.assert_array_equal(jnp.isfinite(keep_top_p(even, 0.5)), [False, False, True, True])
    assert jnp.isfinite(keep_min_p(even, 1.0)).all()
