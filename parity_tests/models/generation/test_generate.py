"""Generation against the model itself, against transformers and against the torch twin."""

from functools import cache as once

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.generation.beam_search import beam_search, search
from jax_attn.models.generation.generate import advance, begin, finish, generate
from jax_attn.weights.pretrained import from_pretrained
from jax_attn.weights.state_dict import state_dict
from parity_tests.models.generation.models import VOCAB, decoder, description, markov, prompts
from parity_tests.models.generation.torch_loop import greedy

SAMPLED = {"temperature": 1.3, "top_k": 20, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.4}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@once
def greedy_tokens() -> np.ndarray:
    return generate(decoder(), *prompts(), max_new_tokens=9).tokens


def test_each_token_is_the_likeliest_of_the_full_forward():
    """Beside padding on the left, and without the dropout of the training mode that the model is in."""
    model, (ids, mask), tokens = decoder(), prompts(), greedy_tokens()
    graphdef, state = nnx.split(model)

    @jax.jit
    def forward(ids, mask):
        copy = nnx.merge(graphdef, state)
        copy.eval()
        return copy(ids, mask)

    texts = np.concatenate([ids, tokens], axis=1)
    logits = forward(texts, np.concatenate([mask, np.ones_like(tokens, bool)], axis=1))
    np.testing.assert_array_equal(logits[:, 5:-1].argmax(-1), tokens)
    assert len(set(tokens.ravel().tolist())) > 5
    assert model.model.embeddings.dropout.deterministic is False  # its mode is left to it


def test_a_row_gets_what_it_gets_alone():
    ids, mask = prompts()
    for row, tokens in enumerate(greedy_tokens()):
        alone = generate(decoder(), ids[row : row + 1, mask[row]], max_new_tokens=9)
        np.testing.assert_array_equal(alone.tokens[0], tokens)
    lengths = mask.sum(1)
    right = np.arange(6) < lengths[:, None]
    moved = np.zeros_like(ids)
    moved[right] = ids[mask]
    np.testing.assert_array_equal(generate(decoder(), moved, right, max_new_tokens=9).tokens, greedy_tokens())


def test_the_torch_twin_writes_the_same():
    model, (ids, mask) = decoder(), prompts()
    twin = description().build("torch_ref").double().eval()
    twin.load_state_dict(state_dict(model))
    for row, tokens in enumerate(greedy_tokens()):
        expected = greedy(
            lambda ids, cache: twin(ids, cache=cache), twin.init_cache(1), ids[row, mask[row]], 9
        )
        assert tokens.tolist() == expected


def test_streaming_gives_the_same_and_nothing_is_compiled_again():
    """Neither from step to step, nor for other prompts, keys and settings of about these sizes."""

    def sample(prompt, key=0, stop=3, most=9, on_token=None, **settings):
        options = {"key": jax.random.key(key), "stop_tokens": [stop], "on_token": on_token}
        return generate(decoder(), *prompt, max_new_tokens=most, **options, **(SAMPLED | settings))

    streamed: list[np.ndarray] = []
    expected, result = sample(prompts()), sample(prompts(), on_token=streamed.append)
    np.testing.assert_array_equal(result.tokens, expected.tokens)
    np.testing.assert_array_equal(result.lengths, expected.lengths)
    np.testing.assert_array_equal(np.stack(streamed, axis=1), expected.tokens)

    programs = [program._cache_size() for program in (begin, advance, finish)]
    np.testing.assert_array_equal(sample(prompts()).tokens, expected.tokens)
    assert (sample(prompts(), key=1).tokens != expected.tokens).any()
    for on_token in (None, streamed.append):
        sample(prompts(tokens=9, seed=1), stop=4, most=5, on_token=on_token, temperature=0.9, min_p=0.1)
    assert [program._cache_size() for program in (begin, advance, finish)] == programs


def test_a_repetition_is_penalised_in_prompt_and_text_but_not_for_padding():
    """With a penalty that nothing outweighs no token comes twice, and padding's id is free."""
    model = markov(11)
    model.table.set_value(jnp.abs(model.table[...]) + 1)
    ids, mask = np.array([[1, 2, 3], [0, 0, 4]]), np.array([[1, 1, 1], [0, 0, 1]])
    tokens = generate(model, ids, mask, max_new_tokens=8, repetition_penalty=1e6).tokens
    assert sorted(tokens[0]) == [0, 4, 5, 6, 7, 8, 9, 10]
    assert len(set(tokens[1])) == 8
    assert 4 not in tokens[1]
    alone = generate(model, ids[1:, 2:], max_new_tokens=8, repetition_penalty=1e6).tokens
    np.testing.assert_array_equal(alone[0], tokens[1])


def test_a_row_ends_at_its_stop_token():
    """Each token is the one after it: rows that start later end earlier."""
    model = markov(9)
    model.table.set_value(jnp.eye(9)[jnp.arange(1, 10) % 9])
    result = generate(model, np.array([[2], [5], [0]]), max_new_tokens=6, stop_tokens=[4, 7], pad_token_id=8)
    np.testing.assert_array_equal(result.tokens, [[3, 4, 8, 8], [6, 7, 8, 8], [1, 2, 3, 4]])
    np.testing.assert_array_equal(result.lengths, [2, 2, 4])


def test_a_cache_goes_on_where_it_ends_and_stays_as_it_was():
    model, (ids, mask) = decoder(), prompts()
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    _, cache = jax.jit(lambda *given: copy.decode(*given[:2], cache=given[2]))(
        jnp.asarray(ids[:, :-1]), jnp.asarray(mask[:, :-1]), model.init_cache(3, 14)
    )
    for _ in range(2):
        tokens = generate(model, ids[:, -1:], max_new_tokens=9, cache=cache).tokens
        np.testing.assert_array_equal(tokens, greedy_tokens())
    with pytest.raises(
        ValueError, match="the cache is for 14 tokens: 5 are in it, and 1 tokens of the prompt and 10"
    ):
        generate(model, ids[:, -1:], max_new_tokens=10, cache=cache)
    with pytest.raises(
        ValueError, match="the model has 23 positions: 1 tokens of the prompt and 19 new ones after 5"
    ):
        generate(model, ids[:, -1:], max_new_tokens=19, cache=cache)


class NoTree(nnx.Module, pytree=False):
    """A model of the user's that is its parts' owner alone."""

    def __init__(self, model: nnx.Module):
        self.model = model

    def __getattr__(self, name: str):
        if name in ("init_cache", "decode", "logits", "reorder_cache"):
            return getattr(self.model, name)
        raise AttributeError(name)


def circular(model: nnx.Module) -> nnx.Module:
    model.itself = model
    return model


@pytest.mark.parametrize("changed", [NoTree, circular])
def test_a_model_that_is_no_tree_writes_the_same(changed):
    """Its weights are arguments too: others give another text, of the same programs."""
    ids, plain, inside = np.array([[1, 2], [3, 4]]), markov(11), markov(11)
    model, programs = changed(inside), []
    for table in (plain.table[...], plain.table[...][::-1]):
        for one in (plain, inside):
            one.table.set_value(table)
        for write in (generate, beam_search):
            tokens = write(model, ids, max_new_tokens=5).tokens
            np.testing.assert_array_equal(tokens, write(plain, ids, max_new_tokens=5).tokens)
        programs.append([program._cache_size() for program in (begin, finish, search)])
    assert programs[0] == programs[1]


def test_a_stack_that_is_scanned_writes_the_same():
    scanned = decoder(scan=True)
    np.testing.assert_array_equal(generate(scanned, *prompts(), max_new_tokens=9).tokens, greedy_tokens())


LLAMA = dict(
    vocab_size=VOCAB,
    hidden_size=24,
    intermediate_size=31,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.4,
)


@once
def llamas(folder) -> tuple[CausalLM, torch.nn.Module]:
    """Ours and transformers', with the same weights."""
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = LlamaForCausalLM(LlamaConfig(**LLAMA, eos_token_id=None, bos_token_id=None)).double().eval()
    theirs.save_pretrained(folder)
    rotary = theirs.model.rotary_emb  # its frequencies were rounded to float32 when they were computed
    width = 2 * len(rotary.inv_freq)
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    rotary.inv_freq = rotary.config.rope_parameters["rope_theta"] ** -exponents
    return from_pretrained(folder, param_dtype=jnp.float64), theirs


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with jax.enable_x64(True):
        yield llamas(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("penalty", [pytest.param(1.0, marks=pytest.mark.slow), 1.3])
def test_transformers_writes_the_same(pair, penalty):
    ours, theirs = pair
    ids, mask = prompts()
    if penalty != 1.0:  # transformers penalises the padding's id too
        ids, mask = ids[:1], mask[:1]
    options = {"max_new_tokens": 12, "repetition_penalty": penalty, "pad_token_id": 0}
    expected = theirs.generate(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(mask).long(), do_sample=False, **options
    )
    tokens = generate(ours, ids, mask, **options).tokens
    np.testing.assert_array_equal(tokens, expected[:, ids.shape[1] :])
    assert len(set(tokens[0].tolist())) > 4


def test_bad_settings_are_refused():
    with pytest.raises(
        ValueError, match="key must be given where tokens are drawn, with a temperature above 0"
    ):
        generate(decoder(), *prompts(), max_new_tokens=9, temperature=1.0)
    for tokens in ([-1], [2.5]):
        with pytest.raises(ValueError, match="suppress_tokens must be integers from 0 on"):
            generate(decoder(), *prompts(), max_new_tokens=9, suppress_tokens=tokens)
        with pytest.raises(ValueError, match="stop_tokens must be integers from 0 on"):
            generate(decoder(), *prompts(), max_new_tokens=9, stop_tokens=tokens)
    for suppressed in (
        {"suppress_tokens": range(VOCAB)},
        {"suppress_tokens": range(1, VOCAB), "begin_suppress_tokens": [0]},
    ):
        with pytest.raises(ValueError, match="leave none of the 29 tokens to be the first"):
            generate(decoder(), *prompts(), max_new_tokens=9, **suppressed)
    with pytest.raises(ValueError, match=r"call it outside jax\.jit"):
        jax.jit(lambda ids: generate(decoder(), ids, max_new_tokens=9).tokens)(prompts()[0])
    with pytest.raises(ValueError, match=r"max_new_tokens must be an integer, got 2\.5"):
        generate(decoder(), *prompts(), max_new_tokens=2.5)
    with pytest.raises(ValueError, match=r"temperature must be 0 \(the likeliest token\) or above, got nan"):
        generate(decoder(), *prompts(), max_new_tokens=9, temperature=float("nan"), key=jax.random.key(0))
    with pytest.raises(ValueError, match="min_p must be between 0 and 1, got 2"):
        generate(decoder(), *prompts(), max_new_tokens=9, temperature=1.0, min_p=2)
