"""DeBERTa-v2 and v3 beside transformers'."""

import pytest

from parity_tests.weights.families.transformers_models import EXACT, TRAINING, assert_beside, built, text

SIZES = {
    "vocab_size": 31,
    "hidden_size": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 19,
    "max_position_embeddings": 17,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "layer_norm_eps": 1e-3,
    "relative_attention": True,
    "pad_token_id": 3,
}
# As the checkpoints of version 3: buckets, one projection for contents and positions, a norm of the table.
V3 = {
    "position_buckets": 4,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
# As those of version 2, with a convolution beside the first layer.
V2 = {
    "max_relative_positions": 5,
    "pos_att_type": ["c2p", "p2c"],
    "type_vocab_size": 3,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
    "conv_groups": 2,
}


def theirs(kind: str, **options):
    from transformers.models.deberta_v2 import modeling_deberta_v2
    from transformers.models.deberta_v2.configuration_deberta_v2 import DebertaV2Config

    return getattr(modeling_deberta_v2, kind)(DebertaV2Config(**{**SIZES, **options}))


def test_transformers_computes_the_same_in_version_3(tmp_path):
    """The masked LM as their own code has it, with layers in a loop here, on texts longer than its positions."""
    options = {"legacy": False, "hidden_act": "gelu_new", "max_position_embeddings": 9}
    model = theirs("DebertaV2ForMaskedLM", **V3, **options)
    module = assert_beside(model, [text(31, 13)], tmp_path, outputs=("logits",), lanes=EXACT, scan=True)
    assert module.model.encoder.stacked


@pytest.mark.slow
def test_transformers_trains_the_same_in_version_2(tmp_path):
    options = {"num_labels": 5, "pooler_dropout": 0.3, "cls_dropout": 0.4, "pooler_hidden_act": "relu"}
    model = theirs("DebertaV2ForSequenceClassification", **V2, **options)
    cases = [text(31, 13, segments=3)]
    assert_beside(model, cases, tmp_path, outputs=("logits",), lanes=TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outputs", "options"),
    [
        ("DebertaV2Model", ("last_hidden_state",), {**V2, "pos_att_type": "p2c"}),
        ("DebertaV2Model", ("last_hidden_state",), {**V3, "pos_att_type": "c2p", "share_att_key": False}),
        ("DebertaV2ForTokenClassification", ("logits",), {"relative_attention": False, "num_labels": 5}),
        ("DebertaV2ForQuestionAnswering", ("start_logits", "end_logits"), V3),
        ("DebertaV2ForMaskedLM", ("logits",), {**V2, "conv_kernel_size": 0}),
        ("DebertaV2ForMaskedLM", ("logits",), {**V3, "tie_word_embeddings": False}),
    ],
)
def test_transformers_computes_the_same_otherwise(kind, outputs, options, tmp_path):
    segments = options.get("type_vocab_size", 0)
    # Where the scores are not tied, transformers has two biases of them, and reads one.
    cases = [text(31, 13, segments)]
    assert_beside(theirs(kind, **options), cases, tmp_path, outputs=outputs)


def test_what_is_not_supported_is_refused_by_name():
    for options, message in (
        ({"pos_att_type": "p2p|c2p"}, r"pos_att_type=\('p2p', 'c2p'\) is not supported"),
        ({"relative_attention": False, **V3}, "is not supported with relative_attention=False"),
        ({**V3, "pos_att_type": None}, "is not supported with relative_attention=True"),
        ({**V3, "attention_head_size": 5}, "attention_head_size=5 is not supported"),
        ({**V3, "hidden_size": [14]}, r"hidden_size=\[14\] must be of type int"),
        ({**V3, "embedding_size": 7}, "embedding_size=7 is not supported"),
        ({**V3, "norm_rel_ebd": "rms"}, "norm_rel_ebd='rms' is not supported"),
        ({**V2, "conv_kernel_size": 4}, "kernel_size must be odd, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            built({"model_type": "deberta-v2", **SIZES, **options})
