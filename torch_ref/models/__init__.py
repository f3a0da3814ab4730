"""Whole models, in torch."""

from torch_ref.models.bert import Bert, BertOutput
from torch_ref.models.sequence_classifier import SequenceClassifier

__all__ = [
    "Bert",
    "BertOutput",
    "SequenceClassifier",
]


def __dir__() -> list[str]:
    return __all__
