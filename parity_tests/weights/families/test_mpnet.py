"""MPNet beside transformers'."""

import pytest

from parity_tests.weights.families.transformers_models import EXACT, TRAINING, assert_beside, built, text

SIZES = {
    "vocab_size": 31,
    "hidden_size": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 19,
    "max_position_embeddings": 29,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "layer_norm_eps": 1e-3,
}
TEXT = text(31, 23, least=2, padding=1)  # longer than the distances that have buckets of their own


def theirs(kind: str, **options):
    from transformers.models.mpnet import modeling_mpnet
    from transformers.models.mpnet.configuration_mpnet import MPNetConfig

    return getattr(modeling_mpnet, kind)(MPNetConfig(**{**SIZES, **options}))


@pytest.mark.slow
def test_transformers_computes_the_same(tmp_path):
    model = theirs("MPNetModel", hidden_act="relu")
    outputs = "last_hidden_state", "pooler_output"
    module = assert_beside(model, [TEXT], tmp_path, outputs=outputs, lanes=EXACT, scan=True)
    assert module.encoder.stacked


@pytest.mark.slow
def test_transformers_trains_the_same(tmp_path):
    model = theirs("MPNetForMaskedLM", num_hidden_layers=1)
    assert_beside(model, [TEXT], tmp_path, outputs=("logits",), lanes=TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outputs", "options"),
    [
        ("MPNetForSequenceClassification", ("logits",), {"num_labels": 5, "hidden_act": "gelu_new"}),
        ("MPNetForTokenClassification", ("logits",), {"num_labels": 5}),
        ("MPNetForQuestionAnswering", ("start_logits", "end_logits"), {}),
        ("MPNetForMaskedLM", ("logits",), {"tie_word_embeddings": False}),
    ],
)
def test_transformers_computes_the_same_otherwise(kind, outputs, options, tmp_path):
    # Where the scores are not tied, transformers has two biases of them, and reads one.
    assert_beside(theirs(kind, **options), [TEXT], tmp_path, outputs=outputs)


def test_what_is_not_supported_is_refused_by_name():
    options = {"relative_attention_num_buckets": 16}
    with pytest.raises(ValueError, match="relative_attention_num_buckets=16 is not supported, only 32 is"):
        built({"model_type": "mpnet", **SIZES, **options})
