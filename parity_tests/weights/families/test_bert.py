"""BERT's task heads beside transformers'; its encoder is in `test_pretrained.py`."""

import pytest
import torch

from jax_attn.models.task_model import TaskModel
from jax_attn.weights import from_pretrained
from parity_tests.weights.families.encoders import LISTED, LOGITS, SCANNED, SIZES, SPANS
from parity_tests.weights.families.transformers_models import assert_beside, drawn, text

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
        pytest.param(
            "BertForSequenceClassification",
            LOGITS,
            {"num_labels": 5, "classifier_dropout": 0.4},
            LISTED,
            marks=slow,
        ),
        pytest.param("BertForTokenClassification", LOGITS, {"num_labels": 5}, {}, marks=slow),
        pytest.param("BertForQuestionAnswering", SPANS, {}, {}, marks=slow),
        pytest.param("BertForMaskedLM", LOGITS, UNTIED, {}, marks=slow),
    ],
)
def test_transformers_computes_the_same(kind, outputs, options, ours, tmp_path):
    case = text(31, segments=3, least=1, padding=0)
    assert_beside(theirs(kind, **options), [case], tmp_path, outputs=outputs, **ours)


def test_the_parts_of_pretraining_that_a_head_has_not_are_left_out_and_told(tmp_path):
    drawn(theirs("BertForPreTraining")).save_pretrained(tmp_path)
    head = r"left out the head of another task: cls\.seq_relationship\.bias, cls\.seq_relationship\.weight$"
    pooler = r"left out what BertForMaskedLM has no use for: bert\.pooler\.dense\.bias, .*\.weight$"
    with pytest.warns(UserWarning, match=head), pytest.warns(UserWarning, match=pooler):
        module = from_pretrained(tmp_path, architecture="ForMaskedLM")
    assert isinstance(module, TaskModel)
    assert module.model.pooler is None


def test_a_bias_of_two_names_is_read_once(tmp_path):
    """As torch writes a state_dict, where the last layer's bias and the table are there twice."""
    model = drawn(theirs("BertForMaskedLM"))
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    module = from_pretrained(tmp_path)  # a warning would be an error
    assert module.head.tied_decoder.bias.shape == (31,)
