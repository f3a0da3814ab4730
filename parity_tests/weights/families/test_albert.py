"""ALBERT beside transformers'."""

import pytest
from flax import nnx

from jax_attn.weights import from_config
from parity_tests.weights.families.encoders import LISTED, LOGITS, POOLED, SCANNED, SIZES, SPANS
from parity_tests.weights.families.transformers_models import assert_beside, text

NARROW = {**SIZES, "embedding_size": 9, "num_hidden_layers": 3, "classifier_dropout_prob": 0.4}
UNTIED = {"tie_word_embeddings": False}
slow = pytest.mark.slow


def theirs(kind: str, **options):
    from transformers.models.albert import modeling_albert
    from transformers.models.albert.configuration_albert import AlbertConfig

    return getattr(modeling_albert, kind)(AlbertConfig(**{**NARROW, **options}))


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "ours"),
    [
        # Of three layers, the first group has two and the second one.
        ("AlbertForMaskedLM", LOGITS, {"num_hidden_groups": 2, "hidden_act": "relu"}, LISTED),
        pytest.param(
            "AlbertForSequenceClassification",
            LOGITS,
            {"num_labels": 5, "inner_group_num": 2},
            SCANNED,
            marks=slow,
        ),
        pytest.param("AlbertModel", POOLED, {"num_hidden_groups": 3}, {}, marks=slow),
        pytest.param("AlbertForTokenClassification", LOGITS, {"num_labels": 5}, {}, marks=slow),
        pytest.param("AlbertForQuestionAnswering", SPANS, {"embedding_size": 14}, {"scan": True}, marks=slow),
        pytest.param("AlbertForMaskedLM", LOGITS, UNTIED, {}, marks=slow),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    case = text(31, segments=3, least=1, padding=0)
    assert_beside(theirs(kind, **options), [case], tmp_path, outputs=outputs, **ours)


def test_what_is_not_supported_is_refused_by_name():
    for options, message in (
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is not supported",
        ),
        ({"num_hidden_groups": 4}, "num_hidden_groups must be at most num_hidden_layers=3, got 4"),
        ({"inner_group_num": 0}, "inner_group_num=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            from_config({"model_type": "albert", **NARROW, **options}, rngs=nnx.Rngs(0))
