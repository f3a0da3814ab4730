import jax
import numpy as np
import pytest
from flax import nnx

from jax_attn.models.generation.prompt import padded_on_the_left, prepare, rounded_up
from jax_attn.nn.primitives import Linear
from parity_tests.models.generation.models import decoder, markov, prompts


def test_padding_goes_to_the_left_wherever_it_stood():
    ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 2, 3]])
    real = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0]], bool)
    left, of_left = padded_on_the_left(ids, real)
    np.testing.assert_array_equal(left, [[0, 1, 4], [6, 7, 8], [0, 9, 1]])
    np.testing.assert_array_equal(of_left, [[0, 1, 1], [1, 1, 1], [0, 1, 1]])


def test_lengths_are_rounded_up_by_a_quarter_at_most():
    sizes = [rounded_up(size) for size in range(1, 3000)]
    assert all(size <= rounded <= max(size + 15, 1.25 * size) for size, rounded in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) < 30
    assert rounded_up(512) == 512


@jax.enable_x64(True)
def test_the_rounded_prompt_has_no_more_columns_than_the_model_has_positions():
    ids, mask = prompts(tokens=20)
    prompt = prepare(decoder(), ids, mask, 4, None)
    assert prompt.ids.shape == (3, 23)
    np.testing.assert_array_equal(prompt.real.sum(1), mask.sum(1))


@jax.enable_x64(True)
def test_bad_prompts_are_refused():
    ids, mask = prompts()
    model = decoder()
    cache = model.init_cache(3, 8)
    for call, message in (
        (
            (Linear(3, 3, rngs=nnx.Rngs(0)), ids, mask, 1, None),
            "model must generate token by token: Linear has no init_cache",
        ),
        ((model, ids, mask, 0, None), "max_new_tokens must be at least 1, got max_new_tokens=0"),
        ((model, ids * 0.5, mask, 1, None), "input_ids must be integers, got float64"),
        ((model, ids[0], None, 1, None), r"input_ids must have shape \(b, t\), got \(6,\)"),
        ((model, ids[:, :0], None, 1, None), r"input_ids must have shape \(b, t\), got \(3, 0\)"),
        ((model, ids, mask[:, 1:], 1, None), "attention_mask must have the shape of input_ids"),
        (
            (model, ids, mask * [[1], [0], [1]], 1, None),
            "attention_mask must leave a token in each row, .* row 1",
        ),
        ((model, ids + 29, mask, 1, None), "input_ids must be at least 0 and below vocab_size=29, got "),
        ((model, ids - 29, mask, 1, None), "input_ids must be at least 0 and below vocab_size=29, got -"),
        (
            (model, ids, mask, 19, None),
            "the model has 23 positions: 6 tokens of the prompt and 19 new ones do not fit",
        ),
        (
            (model, ids, mask, 4, cache),
            "the cache is for 8 tokens: 0 are in it, and 6 tokens of the prompt and 4 new ones do not fit",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(*call)
    prepare(model, ids, mask, 18, None)
    prepare(model, ids, mask, 3, cache)
    prepare(markov(), ids, mask, 1000, None)
