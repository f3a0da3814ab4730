"""Whole models."""

from jax_attn.models.audio_encoder import AudioEncoder
from jax_attn.models.bert import Bert
from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderCache,
    shifted_right,
)
from jax_attn.models.generation import (
    Beams,
    Generation,
    Sampling,
    beam_search,
    generate,
    gnmt_penalty,
)
from jax_attn.models.part import Part
from jax_attn.models.seq2seq_lm import Seq2SeqLM
from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.models.task_model import TaskModel
from jax_attn.models.text_decoder import (
    TextCache,
    TextDecoder,
)
from jax_attn.models.text_encoder import (
    EncoderOutput,
    TextEncoder,
)
from jax_attn.models.transformer import (
    TABLE_3,
    Transformer,
    TransformerCache,
)
from jax_attn.models.vision_transformer import VisionTransformer

__all__ = [
    "TABLE_3",
    "AudioEncoder",
    "Beams",
    "Bert",
    "CausalLM",
    "EncoderDecoder",
    "EncoderDecoderCache",
    "EncoderOutput",
    "Generation",
    "Part",
    "Sampling",
    "Seq2SeqLM",
    "SequenceClassifier",
    "TaskModel",
    "TextCache",
    "TextDecoder",
    "TextEncoder",
    "Transformer",
    "TransformerCache",
    "VisionTransformer",
    "beam_search",
    "generate",
    "gnmt_penalty",
    "shifted_right",
]


def __dir__() -> list[str]:
    return __all__
