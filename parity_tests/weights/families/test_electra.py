"""ELECTRA beside transformers'."""

from typing import Any

import jax
import pytest
from flax import nnx

from jax_attn.weights import from_config
from parity_tests.weights.families.encoders import HIDDEN, LISTED, LOGITS, SCANNED, SIZES, SPANS, texts
from parity_tests.weights.families.transformers_models import assert_beside

NARROW = {**SIZES, "embedding_size": 9}
slow = pytest.mark.slow


def theirs(kind: str, **options):
    from transformers.models.electra import modeling_electra
    from transformers.models.electra.configuration_electra import ElectraConfig

    return getattr(modeling_electra, kind)(ElectraConfig(**{**NARROW, **options}))


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "ours"),
    [
        ("ElectraForMaskedLM", LOGITS, {"hidden_act": "relu", "num_hidden_layers": 2}, SCANNED),
        ("ElectraForSequenceClassification", LOGITS, {"num_labels": 5, "embedding_size": 14}, LISTED),
        pytest.param("ElectraForPreTraining", LOGITS, {"hidden_act": "gelu_new"}, {}, marks=slow),
        pytest.param("ElectraModel", HIDDEN, {}, {}, marks=slow),
        pytest.param("ElectraForTokenClassification", LOGITS, {"classifier_dropout": 0.4}, {}, marks=slow),
        pytest.param("ElectraForQuestionAnswering", SPANS, {}, {}, marks=slow),
        pytest.param("ElectraForMaskedLM", LOGITS, {"tie_word_embeddings": False}, {}, marks=slow),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    def call(module: Any, **arrays: jax.Array) -> Any:
        """Transformers gives a token's only score without an axis for it; no pooler gives None."""
        returned = module(**arrays)
        if kind == "ElectraForPreTraining":
            return returned[..., 0]
        return returned.last_hidden_state if kind == "ElectraModel" else returned

    cases = texts(padding=0, segments=3)
    assert_beside(theirs(kind, **options), cases, tmp_path, outputs=outputs, call_flax=call, **ours)


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
