"""BERT's task heads beside transformers'; its encoder is in `test_pretrained.py`."""

import json

import pytest
import torch

from jax_attn.models.task_model import TaskModel
from jax_attn.weights import from_pretrained
from parity_tests.weights.families.encoders import LISTED, LOGITS, SCANNED, SIZES, SPANS, texts
from parity_tests.weights.families.transformers_models import assert_beside, drawn

UNTIED = {"tie_word_embeddings": False}
slow = pytest.mark.slow


def theirs(kind: str, **options):
    from transformers.models.bert import modeling_bert
    from transformers.models.bert.configuration_bert import BertConfig

    return getattr(modeling_bert, kind)(BertConfig(**{**SIZES, **options}))


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "ours"),
    [
        ("BertForMaskedLM", LOGITS, {"hidden_act": "relu", "num_hidden_layers": 2}, SCANNED),
        ("BertForSequenceClassification", LOGITS, {"num_labels": 5, "classifier_dropout": 0.4}, LISTED),
        pytest.param("BertForTokenClassification", LOGITS, {"num_labels": 5}, {}, marks=slow),
        pytest.param("BertForQuestionAnswering", SPANS, {}, {}, marks=slow),
        pytest.param("BertForMaskedLM", LOGITS, UNTIED, {}, marks=slow),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    left_out = ["cls.predictions.bias"] if options == UNTIED else []
    cases = texts(padding=0, segments=3)
    assert_beside(theirs(kind, **options), cases, tmp_path, outputs=outputs, left_out=left_out, **ours)


def test_the_parts_of_pretraining_that_a_head_has_not_are_left_out_and_told(tmp_path):
    drawn(theirs("BertForPreTraining")).save_pretrained(tmp_path)
    told = r"left out what BertForMaskedLM has not: bert\.pooler\.dense\.bias, .*, cls\.seq_relationship\.weight$"
    with pytest.warns(UserWarning, match=told):
        module = from_pretrained(tmp_path, architecture="ForMaskedLM")
    assert isinstance(module, TaskModel)
    assert module.model.pooler is None


def test_a_bias_of_two_names_is_read_once(tmp_path):
    """As torch writes a state_dict, where the last layer's bias and the table are there twice."""
    model = drawn(theirs("BertForMaskedLM"))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    module = from_pretrained(tmp_path)  # a warning would be an error
    assert module.head.tied_decoder.bias.shape == (31,)
