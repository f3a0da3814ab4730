"""Whole models, in torch."""

from torch_ref.models.audio_encoder import AudioEncoder
from torch_ref.models.bert import Bert
from torch_ref.models.causal_lm import CausalLM
from torch_ref.models.encoder_decoder import EncoderDecoder
from torch_ref.models.seq2seq_lm import Seq2SeqLM
from torch_ref.models.sequence_classifier import SequenceClassifier
from torch_ref.models.task_model import TaskModel
from torch_ref.models.text_decoder import TextDecoder
from torch_ref.models.text_encoder import (
    EncoderOutput,
    TextEncoder,
)
from torch_ref.models.transformer import Transformer
from torch_ref.models.vision_transformer import VisionTransformer

__all__ = [
    "AudioEncoder",
    "Bert",
    "CausalLM",
    "EncoderDecoder",
    "EncoderOutput",
    "Seq2SeqLM",
    "SequenceClassifier",
    "TaskModel",
    "TextDecoder",
    "TextEncoder",
    "Transformer",
    "VisionTransformer",
]


def __dir__() -> list[str]:
    return __all__
