"""ELECTRA beside transformers'."""

import pytest
from flax import nnx

from jax_attn.weights import from_config
from parity_tests.weights.families.encoders import HIDDEN, LISTED, LOGITS, SCANNED, SIZES, SPANS
from parity_tests.weights.families.transformers_models import assert_beside, assert_read_and_written, text

NARROW = {**SIZES, "embedding_size": 9}
slow = pytest.mark.slow


def theirs(kind: str, **options):
    from transformers.models.electra import modeling_electra
    from transformers.models.electra.configuration_electra import ElectraConfig

    return getattr(modeling_electra, kind)(ElectraConfig(**{**NARROW, **options}))


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "ours"),
    [
        pytest.param(
            "ElectraForMaskedLM", LOGITS, {"hidden_act": "relu", "num_hidden_layers": 2}, SCANNED, marks=slow
        ),
        ("ElectraForSequenceClassification", LOGITS, {"num_labels": 5, "embedding_size": 14}, LISTED),
        pytest.param("ElectraForPreTraining", LOGITS, {"hidden_act": "gelu_new"}, {}, marks=slow),
        pytest.param("ElectraModel", HIDDEN, {}, {}, marks=slow),
        pytest.param("ElectraForTokenClassification", LOGITS, {"classifier_dropout": 0.4}, {}, marks=slow),
        pytest.param("ElectraForQuestionAnswering", SPANS, {}, {}, marks=slow),
        pytest.param("ElectraForMaskedLM", LOGITS, {"tie_word_embeddings": False}, {}, marks=slow),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    model = theirs(kind, **options)
    case = text(31, segments=3, least=1, padding=0)
    assert_beside(model, [case], tmp_path, outputs=outputs, **ours)


def test_the_head_of_masked_tokens_is_read_and_written(tmp_path):
    assert_read_and_written(theirs("ElectraForMaskedLM"), tmp_path)


def test_what_is_not_supported_is_refused_by_name():
    for options, message in (
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is not supported",
        ),
        ({"embedding_size": "9"}, "embedding_size='9' must be of type int"),
        ({"hidden_groups": 2}, "hidden_groups=2 is not known here"),
    ):
        with pytest.raises(ValueError, match=message):
            from_config({"model_type": "electra", **NARROW, **options}, rngs=nnx.Rngs(0))
