"""RoBERTa and XLM-R beside transformers'."""

from importlib import import_module

import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.weights import from_config
from parity_tests.weights.families.encoders import LISTED, LOGITS, POOLED, SCANNED, SIZES, SPANS
from parity_tests.weights.families.transformers_models import assert_beside, assert_read_and_written, text

XLM = {"module": "xlm_roberta"}
UNTIED = {"tie_word_embeddings": False}
slow = pytest.mark.slow


def theirs(kind: str, module: str = "roberta", **options):
    modeling = import_module(f"transformers.models.{module}.modeling_{module}")
    model = getattr(modeling, kind)
    return model(model.config_class(**{**SIZES, "pad_token_id": 2, **options}))


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "ours"),
    [
        pytest.param(
            "RobertaForMaskedLM", LOGITS, {"hidden_act": "relu", "num_hidden_layers": 2}, SCANNED, marks=slow
        ),
        ("RobertaForSequenceClassification", LOGITS, {"num_labels": 5, "classifier_dropout": 0.4}, LISTED),
        pytest.param("RobertaModel", POOLED, {"hidden_act": "gelu_new"}, {}, marks=slow),
        pytest.param("RobertaForTokenClassification", LOGITS, {"num_labels": 5}, {}, marks=slow),
        pytest.param("RobertaForQuestionAnswering", SPANS, {}, {}, marks=slow),
        pytest.param("RobertaForMaskedLM", LOGITS, UNTIED, {}, marks=slow),
        pytest.param("XLMRobertaModel", POOLED, XLM, {}, marks=slow),
        pytest.param("XLMRobertaForMaskedLM", LOGITS, XLM, {}, marks=slow),
        pytest.param("XLMRobertaForSequenceClassification", LOGITS, XLM, {}, marks=slow),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    case = text(31, segments=3, least=0, padding=2)  # which stands between tokens too
    assert_beside(theirs(kind, **options), [case], tmp_path, outputs=outputs, **ours)


def test_the_head_of_masked_tokens_is_read_and_written(tmp_path):
    assert_read_and_written(theirs("RobertaForMaskedLM"), tmp_path)


def test_what_is_not_supported_is_refused_by_name():
    config = {"model_type": "xlm-roberta", **SIZES}
    for options, message in (
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is not supported",
        ),
        ({"is_decoder": True}, "is_decoder=True is not supported, only False is"),
        ({"add_cross_attention": True}, "add_cross_attention=True is not supported, only False is"),
        ({"pad_token_id": None}, "pad_token_id must be an integer"),
        ({"hidden_act": "gleu"}, "hidden_act='gleu' is not supported"),
    ):
        with pytest.raises(ValueError, match=message):
            from_config({**config, **options}, rngs=nnx.Rngs(0))


def test_too_many_tokens_are_refused():
    """Of 13 positions, those up to that of padding are no token's."""
    module = nnx.eval_shape(lambda: from_config({"model_type": "roberta", **SIZES}, rngs=nnx.Rngs(0)))

    def call(tokens):
        return nnx.eval_shape(lambda module: module(jnp.ones((1, tokens), int)), module)

    assert call(11).last_hidden_state.shape == (1, 11, 14)
    with pytest.raises(ValueError, match="the number of tokens must be at most max_positions=11, got 12"):
        call(12)
