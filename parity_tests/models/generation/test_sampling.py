import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from jax_attn.models.generation.generate import generate
from jax_attn.models.generation.sampling import Sampling
from parity_tests.from_scratch.properties import assert_same, compiled
from parity_tests.models.generation.models import markov

SETTINGS = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp(logits / temperature - (logits / temperature).max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@jax.enable_x64(True)
def test_all_settings_together_are_transformers_in_its_order():
    from transformers.generation import logits_process as theirs

    rng = np.random.default_rng(0)
    logits, ids = 3 * rng.standard_normal((5, 11)), rng.integers(11, size=(5, 3))
    expected = torch.from_numpy(logits.copy())
    for processor in (
        theirs.RepetitionPenaltyLogitsProcessor(1.2),
        theirs.TemperatureLogitsWarper(0.7),
        theirs.TopKLogitsWarper(5),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.1),
    ):
        expected = processor(torch.from_numpy(ids), expected)
    seen = np.zeros((5, 11), bool)
    seen[np.arange(5)[:, None], ids] = True
    actual = compiled(Sampling.checked(**SETTINGS).changed)(logits, seen)
    np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected.numpy()))
    left = np.isfinite(actual)
    assert 5 < left.sum() < 25  # min-p and top-p have something to do beside top-k
    assert_same(actual[left], expected.numpy()[left])


def test_draws_follow_the_distribution():
    """Pairs of first and second tokens of many rows are as often as their exact probabilities say."""
    model, rows, temperature = markov(), 6000, 0.8
    table = np.asarray(model.table[...], np.float64)
    first = probabilities(table[4], temperature)
    pairs = first[:, None] * probabilities(table, temperature)
    prompt = np.full((rows, 1), 4)
    tokens = generate(model, prompt, max_new_tokens=2, temperature=temperature, key=jax.random.key(0)).tokens
    counts = np.zeros((7, 7))
    np.add.at(counts, tuple(tokens.T), 1)
    assert (rows * pairs).min() > 5  # or the statistic is not chi-square
    assert chisquare(counts.ravel(), rows * pairs.ravel()).pvalue > 0.01
    # The test sees a temperature that is forgotten.
    other = probabilities(table[4], 1.0)[:, None] * probabilities(table, 1.0)
    assert chisquare(counts.ravel(), rows * other.ravel()).pvalue < 1e-6


def test_draws_of_what_is_left():
    """With top-k, top-p and min-p the rest keeps its proportions."""
    model, rows = markov(), 4000
    exact = np.exp(np.asarray(model.table[...], np.float64)[2])
    for name, value, left in (
        ("top_k", 3, np.argsort(exact)[-3:]),
        ("top_p", 0.6, np.argsort(exact)[-1 - (np.cumsum(np.sort(exact)[::-1]) / exact.sum() < 0.6).sum() :]),
        ("min_p", 0.3, np.flatnonzero(exact >= 0.3 * exact.max())),
    ):
        assert 1 < len(left) < 7, name
        options = {name: value, "temperature": 1.0, "key": jax.random.key(1)}
        tokens = generate(model, np.full((rows, 1), 2), max_new_tokens=1, **options).tokens[:, 0]
        counts = np.bincount(tokens, minlength=7)
        assert counts.sum() == counts[left].sum(), name
        assert chisquare(counts[left], rows * exact[left] / exact[left].sum()).pvalue > 0.01, name


def test_a_row_draws_what_it_draws_among_fewer():
    sampling, key = Sampling.checked(1.0, None, None, None, None), jax.random.key(3)
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((5, 11)))
    draw = compiled(lambda logits: sampling(logits, None, key, jnp.int32(2)))
    drawn = draw(logits)
    np.testing.assert_array_equal(draw(logits[:3]), drawn[:3])
    assert len(set(draw(jnp.zeros((5, 11))).tolist())) > 1  # rows of equal logits draw for themselves


def test_16_bits_are_drawn_from_in_float32():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((200, 31)), jnp.bfloat16)
    draw = jax.jit(Sampling.checked(0.7, None, None, None, None))
    rest = None, jax.random.key(0), jnp.int32(0)
    np.testing.assert_array_equal(draw(logits, *rest), draw(logits.astype(jnp.float32), *rest))


def test_bad_settings_are_refused():
    for settings, message in (
        ({"temperature": -1.0}, r"temperature must be 0 \(the likeliest token\) or above, got -1\.0"),
        ({"top_k": 0}, "top_k must be at least 1, got top_k=0"),
        ({"top_p": 1.5}, r"top_p must be between 0 and 1, got 1\.5"),
        ({"min_p": -0.1}, r"min_p must be between 0 and 1, got -0\.1"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be above 0, got 0\.0"),
        ({"temperature": 0.0}, "top_k, top_p and min_p act on draws: they need a temperature above 0, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Sampling.checked(**(SETTINGS | settings))
