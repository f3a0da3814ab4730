"""Whole models."""

from jax_attn.models.bert import Bert
from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.part import Part
from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.models.task_model import TaskModel
from jax_attn.models.text_decoder import TextCache, TextDecoder
from jax_attn.models.text_encoder import EncoderOutput, TextEncoder
from jax_attn.models.vision_transformer import VisionTransformer

__all__ = [
    "Bert",
    "CausalLM",
    "EncoderOutput",
    "Part",
    "SequenceClassifier",
    "TaskModel",
    "TextCache",
    "TextDecoder",
    "TextEncoder",
    "VisionTransformer",
]


def __dir__() -> list[str]:
    return __all__
