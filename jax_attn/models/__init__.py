"""Whole models."""

from jax_attn.models.bert import Bert
from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.generation import Beams, Generation, Sampling, beam_search, generate, gnmt_penalty
from jax_attn.models.part import Part
from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.models.task_model import TaskModel
from jax_attn.models.text_decoder import TextCache, TextDecoder
from jax_attn.models.text_encoder import EncoderOutput, TextEncoder
from jax_attn.models.transformer import TABLE_3, Transformer, TransformerCache

__all__ = [
    "TABLE_3",
    "Beams",
    "Bert",
    "CausalLM",
    "EncoderOutput",
    "Generation",
    "Part",
    "Sampling",
    "SequenceClassifier",
    "TaskModel",
    "TextCache",
    "TextDecoder",
    "TextEncoder",
    "Transformer",
    "TransformerCache",
    "beam_search",
    "generate",
    "gnmt_penalty",
]


def __dir__() -> list[str]:
    return __all__
