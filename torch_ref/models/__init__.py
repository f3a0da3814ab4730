"""Whole models, in torch."""

from torch_ref.models.bert import Bert
from torch_ref.models.causal_lm import CausalLM
from torch_ref.models.sequence_classifier import SequenceClassifier
from torch_ref.models.task_model import TaskModel
from torch_ref.models.text_decoder import TextDecoder
from torch_ref.models.text_encoder import EncoderOutput, TextEncoder
from torch_ref.models.transformer import Transformer

__all__ = [
    "Bert",
    "CausalLM",
    "EncoderOutput",
    "SequenceClassifier",
    "TaskModel",
    "TextDecoder",
    "TextEncoder",
    "Transformer",
]


def __dir__() -> list[str]:
    return __all__
