"""DistilBERT beside transformers'."""

import numpy as np
import pytest
from flax import nnx

from jax_attn.parity.tolerances import SAME_FLOAT32
from jax_attn.weights import from_config
from parity_tests.weights.families.encoders import HIDDEN, LISTED, LOGITS, SCANNED, SPANS
from parity_tests.weights.families.transformers_models import assert_beside, assert_read_and_written, text

SIZES = {
    "vocab_size": 31,
    "dim": 14,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 19,
    "max_position_embeddings": 13,
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "qa_dropout": 0.4,
    "seq_classif_dropout": 0.25,
}
slow = pytest.mark.slow


def theirs(kind: str, **options):
    from transformers.models.distilbert import modeling_distilbert
    from transformers.models.distilbert.configuration_distilbert import DistilBertConfig

    return getattr(modeling_distilbert, kind)(DistilBertConfig(**{**SIZES, **options}))


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "ours"),
    [
        pytest.param(
            "DistilBertForMaskedLM", LOGITS, {"activation": "relu", "n_layers": 2}, SCANNED, marks=slow
        ),
        (
            "DistilBertForSequenceClassification",
            LOGITS,
            {"num_labels": 5, "sinusoidal_pos_embds": True},
            LISTED,
        ),
        pytest.param("DistilBertForQuestionAnswering", SPANS, {}, {}, marks=slow),
        pytest.param("DistilBertModel", HIDDEN, {"activation": "gelu_new"}, {}, marks=slow),
        pytest.param("DistilBertForTokenClassification", LOGITS, {"num_labels": 5}, {}, marks=slow),
        pytest.param("DistilBertForMaskedLM", LOGITS, {"tie_word_embeddings": False}, {}, marks=slow),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    case = text(31, least=1, padding=0)
    assert_beside(theirs(kind, **options), [case], tmp_path, outputs=outputs, **ours)


def test_positions_may_start_as_waves():
    options = {"model_type": "distilbert", **SIZES, "sinusoidal_pos_embds": True}
    module = from_config(options, architecture="ForMaskedLM", rngs=nnx.Rngs(0))
    table = theirs("DistilBertModel", sinusoidal_pos_embds=True).embeddings.position_embeddings.weight
    np.testing.assert_allclose(
        module.model.embeddings.position.embedding[...], table.detach(), atol=SAME_FLOAT32
    )


def test_the_head_of_masked_tokens_is_read_and_written(tmp_path):
    assert_read_and_written(theirs("DistilBertForMaskedLM"), tmp_path)


def test_what_is_not_supported_is_refused_by_name():
    for options, message in (
        ({"activation": "gleu"}, "^activation='gleu' is not supported"),
        ({"dim": 0}, "^dim=0 must be at least 1"),
        ({"n_layers": 1.5}, "^n_layers=1.5 must be of type int"),
        ({"dropout": float("nan")}, "^dropout=nan must be a finite number"),
        # BERT's words, which transformers passes over in these files
        ({"layer_norm_eps": 0.1}, "layer_norm_eps=0.1 is not supported, only 1e-12"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported, DistilBERT's is activation"),
        ({"hidden_size": 12}, "hidden_size=12 is not supported, DistilBERT's is dim"),
        ({"n_heads": 3}, "embed_dim must be divisible by num_heads"),
        ({"n_segments": 2}, "n_segments=2 is not known here"),
    ):
        with pytest.raises(ValueError, match=message):
            from_config({"model_type": "distilbert", **SIZES, **options}, rngs=nnx.Rngs(0))


def test_overrides_and_aliases_are_in_its_own_words():
    options = {"model_type": "distilbert", **SIZES}
    aliased = {"hidden_size": options.pop("dim")} | options
    module = from_config(aliased, rngs=nnx.Rngs(0), dropout=0.45)
    assert module.embeddings.dropout.rate == 0.45
    assert module.embeddings.token.features == SIZES["dim"]
