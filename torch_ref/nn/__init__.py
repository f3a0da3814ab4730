"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import (
    AdditiveAttention,
    AttentionPooling,
    FourierMixing,
    GatedDeltaNet,
    LinearAttention,
    LinformerAttention,
    MultiHeadAttention,
    MultiplicativeAttention,
    NystromAttention,
    PerformerAttention,
)
from torch_ref.nn.layers import ClassificationHead, Embeddings, Encoder, EncoderLayer, FeedForward, Pooler
from torch_ref.nn.positions import LearnedPositions, SinusoidalPositions

__all__ = [
    "AdditiveAttention",
    "AttentionPooling",
    "ClassificationHead",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "FourierMixing",
    "GatedDeltaNet",
    "LearnedPositions",
    "LinearAttention",
    "LinformerAttention",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NystromAttention",
    "PerformerAttention",
    "Pooler",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
