"""Whole models."""

from jax_attn.models.bert import Bert, BertOutput
from jax_attn.models.sequence_classifier import SequenceClassifier

__all__ = [
    "Bert",
    "BertOutput",
    "SequenceClassifier",
]


def __dir__() -> list[str]:
    return __all__
