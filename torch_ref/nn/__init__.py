"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import MultiHeadAttention
from torch_ref.nn.layers import ClassificationHead, Embeddings, Encoder, EncoderLayer, FeedForward, Pooler
from torch_ref.nn.positions import (
    AlibiPositions,
    AttentionPositions,
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
)

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "ClassificationHead",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "LearnedPositions",
    "MultiHeadAttention",
    "Pooler",
    "RotaryPositions",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
