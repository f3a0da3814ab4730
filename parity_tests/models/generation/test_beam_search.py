"""Beam search against every text there is, against loops of torch and against transformers."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_attn.models.generation.beam_search import beam_search, gnmt_penalty, search
from jax_attn.models.generation.generate import generate
from jax_attn.weights.state_dict import state_dict
from parity_tests.from_scratch.properties import assert_same
from parity_tests.models.generation.models import Markov, decoder, description, markov, prompts
from parity_tests.models.generation.test_generate import pair  # noqa: F401 (a fixture)
from parity_tests.models.generation.torch_loop import beams
from parity_tests.references import float32_lifted


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_enough_beams_find_the_best_text_of_all():
    """Of every text of at most four of five tokens, for any worth of their length."""
    model, start, stop = markov(5, seed=6), 2, 1
    table = np.asarray(model.table[...])
    log_probs = table - np.log(np.exp(table).sum(-1, keepdims=True))

    def texts():
        for length in range(1, 5):
            for text in product(range(5), repeat=length):
                if stop not in text[:-1] and (text[-1] == stop or length == 4):
                    yield text, sum(log_probs[a, b] for a, b in zip((start, *text), text, strict=False))

    found = set()
    for penalty in (0.0, 1.0, 3.0, -1.0, gnmt_penalty(0.6)):
        worth = penalty if callable(penalty) else lambda length, penalty=penalty: float(length) ** penalty
        text, log_prob = max(texts(), key=lambda found: found[1] / worth(len(found[0])))
        options = {"length_penalty": penalty, "early_stopping": "never", "stop_tokens": [stop]}
        result = beam_search(model, np.array([[start]]), max_new_tokens=4, num_beams=64, **options)
        length = result.lengths[0, 0]
        assert tuple(result.tokens[0, 0, :length].tolist()) == text
        assert_same(result.scores[0, 0], log_prob / worth(length))
        found.add(text)
    assert len(found) > 2  # the penalties decide


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_a_search_is_the_one_that_is_written_out(early_stopping):
    """Many models at once, with stops likely enough to matter, and a program for each way of stopping."""
    differ = set()
    for seed in range(12):
        model = markov(seed=seed)
        model.table.set_value(model.table[...].at[:, 2:4].add(0.7))
        rows = torch.from_numpy(np.array(model.table[...]))
        for penalty in (0.0, 2.0):
            result = beam_search(
                model,
                np.array([[4], [6]]),
                max_new_tokens=6,
                num_beams=3,
                length_penalty=penalty,
                early_stopping=early_stopping,
                stop_tokens=[2, 3],
            )
            for row, start in enumerate((4, 6)):
                expected = beams(
                    lambda ids, cache, rows=rows: (rows[ids], cache),
                    None,
                    [start],
                    6,
                    3,
                    lambda length, penalty=penalty: length**penalty,
                    early_stopping,
                    (2, 3),
                )
                cut = [
                    text[:length].tolist()
                    for text, length in zip(result.tokens[row], result.lengths[row], strict=True)
                ]
                assert cut[: len(expected)] == [text for _, text in expected]
                assert_same(result.scores[row, : len(expected)], [score for score, _ in expected])
                differ.add(tuple(map(len, cut)))
    assert len(differ) > 3


@pytest.mark.slow
def test_the_torch_twin_finds_the_same():
    model, (ids, mask) = decoder(), prompts()
    twin = description().build("torch_ref").double().eval()
    twin.load_state_dict(state_dict(model))
    result = beam_search(model, ids, mask, max_new_tokens=8, num_beams=3, stop_tokens=[5])
    for row in range(3):
        expected = beams(
            lambda ids, cache: twin(ids, cache=cache),
            twin.init_cache(1),
            ids[row, mask[row]],
            8,
            3,
            float,
            False,
            [5],
        )
        for index, (score, text) in enumerate(expected):
            assert result.tokens[row, index, : result.lengths[row, index]].tolist() == text
            assert_same(result.scores[row, index], score)


def test_a_single_beam_is_greedy():
    """With stops too, which it takes where they are the likeliest."""
    for seed in range(5):
        model, starts = markov(seed=seed), np.arange(7)[:, None]
        greedy = generate(model, starts, max_new_tokens=6, stop_tokens=[3])
        result = beam_search(model, starts, max_new_tokens=6, num_beams=1, stop_tokens=[3])
        np.testing.assert_array_equal(result.lengths[:, 0], greedy.lengths)
        np.testing.assert_array_equal(result.tokens[:, 0], greedy.tokens)


def test_nothing_is_compiled_again():
    """For other prompts, penalties and numbers of tokens of about these sizes."""
    model, (ids, mask) = decoder(), prompts()
    beam_search(model, ids, mask, max_new_tokens=8, num_beams=3, stop_tokens=[5])
    programs = search._cache_size()
    ids, mask = prompts(tokens=9, seed=1)
    beam_search(model, ids, mask, max_new_tokens=5, num_beams=3, stop_tokens=[7], length_penalty=0.3)
    assert search._cache_size() == programs


@pytest.mark.parametrize(
    ("early_stopping", "length_penalty"),
    [
        (False, 1.0),
        *(pytest.param(*given, marks=pytest.mark.slow) for given in ((True, 0.0), ("never", 2.0))),
    ],
)
def test_transformers_finds_the_same(pair, early_stopping, length_penalty):  # noqa: F811
    ours, theirs = pair
    ids, mask = prompts()
    options = {"max_new_tokens": 8, "num_beams": 3, "pad_token_id": 0}
    options |= {"length_penalty": length_penalty, "early_stopping": early_stopping}
    with float32_lifted():  # it adds up scores in float32
        expected = theirs.generate(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask).long(),
            do_sample=False,
            num_return_sequences=3,
            eos_token_id=[5, 11],
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    result = beam_search(ours, ids, mask, stop_tokens=[5, 11], **options)
    tokens = expected.sequences[:, ids.shape[1] :].numpy().reshape(3, 3, -1)
    np.testing.assert_array_equal(result.tokens, tokens)
    assert_same(result.scores.ravel(), expected.sequences_scores)


def test_bad_settings_are_refused():
    def call(model=None, **options):
        return beam_search(model or markov(), np.zeros((2, 3), int), max_new_tokens=2, **options)

    for options, message in (
        ({"num_beams": 0}, "num_beams must be at least 1, got num_beams=0"),
        ({"early_stopping": "always"}, "early_stopping must be one of False, True, never, got 'always'"),
    ):
        with pytest.raises(ValueError, match=message):
            call(**options)

    class NoBeams(Markov):
        reorder_cache = property()

    with pytest.raises(ValueError, match="model must generate token by token: NoBeams has no reorder_cache"):
        call(NoBeams(jnp.zeros((3, 3))))
