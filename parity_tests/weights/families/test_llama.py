"""Llama, and what all families of decoders share: rotary positions of every kind, and heads."""

from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers.models.llama import modeling_llama
from transformers.models.llama.configuration_llama import LlamaConfig

from jax_attn.models import generate
from jax_attn.parity import Case
from jax_attn.parity.tolerances import SAME_FLOAT32
from jax_attn.weights import from_pretrained, numpy_state_dict
from jax_attn.weights.families.rotary_config import DEFAULTS, ORIGINAL, rotary_positions
from parity_tests.weights.families.decoder_contract import (
    IDS,
    REAL,
    SIZES,
    VOCAB,
    assert_family,
    config_of,
    edited,
    refusal,
    theirs,
)

OPTIONS = {
    **SIZES,
    "head_dim": 10,
    "attention_bias": True,
    "mlp_bias": True,
    "attention_dropout": 0.3,
    "tie_word_embeddings": True,
    "hidden_act": "gelu",
    "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
}
FACTORS = {"short_factor": [1.5, 1.0, 2.0, 3.0, 5.0], "long_factor": [7.0, 1.0, 9.0, 3.0, 2.0]}
KINDS = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 3.0, "beta_fast": 4.0, "beta_slow": 1.5, "original_max_position_embeddings": 11},
    "yarn of DeepSeek": {"factor": 8, "mscale": 0.7, "mscale_all_dim": 0.3, "truncate": False},
    "yarn with its factor": {"factor": 8.0, "attention_factor": 1.3},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 0.5,
        "high_freq_factor": 2.0,
        "original_max_position_embeddings": 11,
    },
    "longrope": {**FACTORS, "original_max_position_embeddings": 5},
    "longrope with its factor": {**FACTORS, "factor": 3.0, "attention_factor": 1.3},
}
ADVICE = "; ignore=[name, ...] (--ignore NAME) passes over what changes nothing in the model"
LONG = Case(
    "longer than in training", (np.random.default_rng(1).integers(3, VOCAB, (1, 17)), np.ones((1, 17), int))
)


def llama(kind=modeling_llama.LlamaForCausalLM, **options):
    return theirs(kind, LlamaConfig, **{**SIZES, **options})


@pytest.mark.parametrize("lanes", [("dropout",), pytest.param(("float64",), marks=pytest.mark.slow)])
def test_every_option_at_once(tmp_path, lanes):
    assert_family(llama(**OPTIONS), tmp_path, lanes)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("ForSequenceClassification", marks=pytest.mark.slow),
        pytest.param("ForTokenClassification", marks=pytest.mark.slow),
        pytest.param("Model", marks=pytest.mark.slow),
    ],
)
def test_heads(tmp_path, head):
    ids = np.where(IDS == 3, 4, IDS)
    ids[1, :2] = ids[2, 4:] = 3
    model = llama(getattr(modeling_llama, f"Llama{head}"), num_labels=5, pad_token_id=3)
    real = Case("padding on both sides", (ids, (ids != 3).astype(int)))
    assert_family(model, tmp_path, ("float64",), real)


def test_question_answering(tmp_path):
    """Whose file has another prefix."""
    model = llama(modeling_llama.LlamaForQuestionAnswering)
    model.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    np.testing.assert_array_equal(ours.head.linear.bias[...], model.qa_outputs.bias.detach())


@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling", "rope_scaling of old"])
@pytest.mark.parametrize("kind", KINDS)
def test_rotary_frequencies_are_those_of_transformers(kind, form):
    """In every form that files had; both the frequencies of texts like those of training and of longer ones."""
    name, given = kind.partition(" ")[0], KINDS[kind]
    settings = {"hidden_size": 20, "num_attention_heads": 2, "max_position_embeddings": 13}
    if form == "rope_parameters":
        settings["rope_parameters"] = {"rope_type": name, "rope_theta": 50.0, **given}
    else:
        word = "type" if form == "rope_scaling of old" else "rope_type"
        settings |= {"rope_theta": 50.0, "rope_scaling": {word: name, **given}}
    ours = rotary_positions(SimpleNamespace(**{**DEFAULTS, **settings}), 10).build("jax_attn")
    assert ours.base == 50.0
    for length in (3, 17):
        expected = modeling_llama.LlamaRotaryEmbedding(LlamaConfig(**settings))
        x, positions = np.zeros((1, length)), np.arange(length)[None]
        expected(*map(_tensor, (x, positions)))
        scaling = ours.scaling
        frequencies = 50.0 ** (-np.arange(0, 10, 2) / 10)
        if scaling is not None:
            frequencies = scaling.frequencies(50.0, 10, length)
            assert scaling.attention_scaling == pytest.approx(expected.attention_scaling, rel=1e-12)
        np.testing.assert_allclose(frequencies, expected.inv_freq, rtol=SAME_FLOAT32)


def _tensor(array):
    import torch

    return torch.from_numpy(array)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rotary_positions_of_every_kind(tmp_path, kind):
    rotary = {"rope_type": kind.partition(" ")[0], "rope_theta": 100.0, **KINDS[kind]}
    assert_family(llama(head_dim=10, rope_parameters=rotary), tmp_path, ("float64",), LONG)


def test_old_files(tmp_path):
    """Constants, a tied head that is there twice, wrappers' prefixes, and the words of old releases."""
    model = llama(**OPTIONS)
    model.save_pretrained(tmp_path)
    expected = numpy_state_dict(from_pretrained(tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    frequencies = np.ones(5, np.float32)
    tensors |= {
        "lm_head.weight": tensors["model.embed_tokens.weight"],
        "model.rotary_emb.inv_freq": frequencies,
        "model.layers.1.self_attn.rotary_emb.inv_freq": frequencies,
    }
    save_file({f"module.{key}": tensor for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    edited(
        tmp_path,
        rope_parameters=...,
        rope_theta=100,
        rope_scaling={"type": "linear", "factor": 3, "partial_rotary_factor": 1.0, ORIGINAL: 7},
        pad_token_id=-1,
        pretraining_tp=2,
        num_key_value_heads=1,
        rope_interleaved=False,
    )
    with pytest.warns(UserWarning, match=r"took the prefix 'module\.' off"):
        ours = from_pretrained(tmp_path)
    assert ours.model.decoder.layers[1].attention.positions.scaling.factor == 3
    found = numpy_state_dict(ours)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor)


def test_what_is_not_supported_is_refused_by_name(tmp_path):
    llama().save_pretrained(tmp_path)

    def rotary(**given):
        return refusal(tmp_path, rope_parameters=..., rope_scaling=given)

    assert rotary(type="mrope", mrope_section=[1, 2]).startswith(
        "rope_type='mrope' is not supported, only 'default',"
    )
    assert rotary(type="linear") == "rope_type='linear' needs factor"
    assert rotary(type="linear", factor="2") == "factor must be a number above 0, got '2'"
    assert rotary(type="linear", factor=2, beta=3) == "beta=3 is not known for rope_type='linear'"
    assert (
        rotary(type="longrope", short_factor=1, long_factor=[1])
        == "short_factor must be a list of numbers, got 1"
    )
    assert rotary(type="yarn", truncate="no") == "truncate must be true or false, got 'no'"
    assert rotary(type="yarn", **{ORIGINAL: 0.5}) == f"{ORIGINAL} must be an integer, got 0.5"
    assert rotary(type="yarn", factor=2, rope_theta=1).startswith("yarn scaling needs a base other than 1")
    assert rotary(type="linear", factor=10**400).startswith("factor must be a number above 0, got 1000")
    assert rotary(type="default", rope_theta=0) == "rope_theta must be a number above 0, got 0"
    assert refusal(tmp_path, rms_norm_eps=10**400).endswith("00 must be a finite number" + ADVICE)
    assert rotary(type=["linear"]).startswith("rope_type=['linear'] is not supported")
    assert rotary(type="default", partial_rotary_factor=0.5).startswith(
        "partial_rotary_factor=0.5 is not known"
    )
    assert refusal(tmp_path, rope_interleaved=True).startswith(
        "rope_interleaved=True is not supported, only False"
    )
    assert refusal(tmp_path, sliding_window=5).startswith("sliding_window=5 is not known here")
    assert refusal(tmp_path, hidden_act="selu").startswith("hidden_act='selu' is not supported, only 'gelu'")
    assert refusal(tmp_path, head_dim=1.5).startswith("head_dim=1.5 must be of type int")
    assert refusal(tmp_path, num_key_value_heads=0).startswith("num_key_value_heads=0 must be at least 1")
    assert "num_kv_heads=3" in refusal(tmp_path, num_key_value_heads=3)
    assert config_of(tmp_path)["num_key_value_heads"] == 1


@pytest.mark.parametrize("kind", ["dynamic", pytest.param("longrope", marks=pytest.mark.slow)])
def test_texts_like_those_of_training_are_generated(tmp_path, kind):
    """Whose frequencies nothing changes; where a text may grow longer, `generate` says what would."""
    rotary = {"rope_type": kind, "rope_theta": 100.0, **KINDS[kind]}
    options = {"max_position_embeddings": 48, "head_dim": 10, "num_hidden_layers": 1, "eos_token_id": None}
    if kind == "longrope":
        rotary[ORIGINAL] = 32
    model = llama(**options, rope_parameters=rotary)
    model.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    expected = model.generate(
        _tensor(IDS), attention_mask=_tensor(REAL), max_new_tokens=9, do_sample=False, pad_token_id=0
    )
    rows = REAL[:, -1] == 1  # transformers wants padding on the left
    found = generate(ours, IDS[rows], REAL[rows], max_new_tokens=9).tokens
    np.testing.assert_array_equal(found, expected[rows, IDS.shape[1] :])
    with pytest.raises(
        ValueError, match=r"cannot be cached.*: .* changes all frequencies, but for texts of at"
    ):
        generate(ours, IDS[rows], max_new_tokens=60)
