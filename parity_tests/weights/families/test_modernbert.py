"""ModernBERT beside transformers'."""

import pytest

from parity_tests.weights.families.transformers_models import TRAINING, assert_beside, built, text

SIZES = {
    "vocab_size": 31,
    "hidden_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 19,
    "local_attention": 6,
    "attention_dropout": 0.2,
    "embedding_dropout": 0.1,
    "mlp_dropout": 0.3,
    "norm_eps": 1e-3,
    "pad_token_id": 3,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 331.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 17.0},
    },
}
BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}


def theirs(kind: str, **options):
    from transformers.models.modernbert import modeling_modernbert
    from transformers.models.modernbert.configuration_modernbert import ModernBertConfig

    return getattr(modeling_modernbert, kind)(ModernBertConfig(**{**SIZES, **options}))


def test_transformers_computes_the_same(tmp_path):
    """As the checkpoints are: no biases, the table tied to the scores, a window in two layers of three."""
    model = theirs("ModernBertForMaskedLM", classifier_activation="relu")
    assert_beside(model, [text(31, 13)], tmp_path, outputs=("logits",), lanes=TRAINING)


@pytest.mark.slow
def test_transformers_trains_the_same_with_biases(tmp_path):
    options = {
        **BIASES,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_hidden_layers": 2,
        "classifier_pooling": "mean",
        "classifier_dropout": 0.4,
        "hidden_activation": "silu",
        "num_labels": 5,
    }
    model = theirs("ModernBertForSequenceClassification", **options)
    assert_beside(model, [text(31, 13)], tmp_path, outputs=("logits",), lanes=TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outputs", "options"),
    [
        ("ModernBertModel", ("last_hidden_state",), BIASES),
        ("ModernBertForSequenceClassification", ("logits",), {"num_labels": 5}),
        ("ModernBertForTokenClassification", ("logits",), {"num_labels": 5, "classifier_dropout": 0.4}),
        ("ModernBertForQuestionAnswering", ("start_logits", "end_logits"), BIASES),
        ("ModernBertForMaskedLM", ("logits",), {**BIASES, "tie_word_embeddings": False}),
        ("ModernBertForMaskedLM", ("logits",), {"decoder_bias": False}),
    ],
)
def test_transformers_computes_the_same_otherwise(kind, outputs, options, tmp_path):
    assert_beside(theirs(kind, **options), [text(31, 13)], tmp_path, outputs=outputs)


def test_what_older_files_say_is_the_same():
    """One number for the layers that see all, and the bases by themselves."""
    flat = {name: value for name, value in SIZES.items() if name != "rope_parameters"}
    old = {"global_rope_theta": 331.0, "local_rope_theta": 17.0, "global_attn_every_n_layers": 2}
    module = built({"model_type": "modernbert", **flat, **old})
    attentions = [layer.attention for layer in module.encoder.layers]
    assert [attention.window for attention in attentions] == [None, 4, None]
    assert [attention.positions.base for attention in attentions] == [331.0, 17.0, 331.0]


def test_what_is_not_supported_is_refused_by_name():
    partial = {"full_attention": {"rope_type": "default", "partial_rotary_factor": 0.5}}
    yarn = {"full_attention": {"rope_type": "yarn", "factor": 2.0}}
    for options, message in (
        ({"rope_parameters": yarn}, "rope_type='yarn' of full_attention is not supported"),
        ({"layer_types": ["full_attention"]}, r"layer_types=.* must name one of .* for each of the 3 layers"),
        ({"layer_types": "full_attention"}, r"layer_types='full_attention' must name one of"),
        ({"num_hidden_layers": [3]}, r"num_hidden_layers=\[3\] must be of type int"),
        ({"rope_parameters": [1.0]}, r"rope_parameters=\[1.0\] must be an object of full_attention, "),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters=.* must be an object of"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 7.0}}, "global_rope_theta": 5.0},
            "global_rope_theta=5.0 contradicts rope_theta=7.0 of full_attention",
        ),
        ({"rope_parameters": {"full_attention": [1.0]}}, "rope_parameters=.* must have an object for each"),
        ({"rope_parameters": partial}, "partial_rotary_factor=0.5 of full_attention is not supported"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers=0 must be an integer from 1 on"),
        ({"hidden_activation": "selu"}, "hidden_activation='selu' is not supported"),
    ):
        with pytest.raises(ValueError, match=message):
            built({"model_type": "modernbert", **SIZES, **options})


def test_layers_that_differ_are_not_scanned():
    """The first has no norm, and those that see all come after two that do not."""
    with pytest.raises(ValueError, match=r"layers must be alike to be scanned, got .* of layer 1 another"):
        built({"model_type": "modernbert", **SIZES}, scan=True)
