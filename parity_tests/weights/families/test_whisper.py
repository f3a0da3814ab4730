"""Whisper beside transformers'."""

import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.weights import from_config
from parity_tests.weights.families.encoder_decoders import (
    TARGET,
    TARGET_IDS,
    VOCAB,
    assert_family,
)
from parity_tests.weights.families.transformers_models import EXACT, LANES, TRAINING

SIZES = {
    "vocab_size": VOCAB,
    "num_mel_bins": 5,
    "d_model": 14,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 17,
    "decoder_layers": 1,
    "decoder_attention_heads": 7,
    "decoder_ffn_dim": 19,
    "max_source_positions": 7,
    "max_target_positions": 11,
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "activation_dropout": 0.1,
    "pad_token_id": 3,
    "decoder_start_token_id": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FEATURES = np.random.default_rng(1).standard_normal((3, 5, 14))
SPEECH = Case("speech", (FEATURES, np.where(TARGET, TARGET_IDS, 3)))


def theirs(kind: str, **options):
    from transformers.models.whisper import modeling_whisper
    from transformers.models.whisper.configuration_whisper import WhisperConfig

    torch.manual_seed(0)
    config = WhisperConfig(**{**SIZES, **options}, attn_implementation="eager")
    return getattr(modeling_whisper, kind)(config)


@pytest.mark.parametrize(
    ("kind", "options", "lanes"),
    [
        ("WhisperForConditionalGeneration", {}, TRAINING),
        pytest.param("WhisperForConditionalGeneration", {}, EXACT, marks=pytest.mark.slow),
        pytest.param(
            "WhisperForConditionalGeneration",
            {"tie_word_embeddings": False, "activation_function": "relu", "decoder_layers": 2},
            LANES,
            marks=pytest.mark.slow,
        ),
        pytest.param("WhisperModel", {"pad_token_id": None}, LANES, marks=pytest.mark.slow),
    ],
)
def test_transformers_computes_the_same(kind, options, lanes, tmp_path):
    assert_family(theirs(kind, **options), tmp_path, SPEECH, lanes=lanes)


def test_what_is_not_supported_is_refused_by_name():
    for options, message in (
        ({"encoder_layerdrop": 0.1}, "encoder_layerdrop=0.1 is not supported, only 0.0 is"),
        ({"apply_spec_augment": True}, "apply_spec_augment=True is not supported"),
        ({"activation_function": "selu"}, "activation_function='selu' is not supported"),
        ({"encoder_attention_heads": 3}, "embed_dim must be divisible by num_heads"),
    ):
        with pytest.raises(ValueError, match=message):
            from_config({"model_type": "whisper", **SIZES, **options}, rngs=nnx.Rngs(0))
