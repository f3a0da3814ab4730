"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import MultiHeadAttention
from jax_attn.nn.layers import ClassificationHead, Embeddings, Encoder, EncoderLayer, FeedForward, Pooler
from jax_attn.nn.positions import (
    AlibiPositions,
    AttentionPositions,
    LearnedPositions,
    Places,
    RotaryPositions,
    SinusoidalPositions,
    token_positions,
)
from jax_attn.nn.primitives import Buffer, Dropout, Embedding, LayerNorm, Linear

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "Buffer",
    "ClassificationHead",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "MultiHeadAttention",
    "Places",
    "Pooler",
    "RotaryPositions",
    "SinusoidalPositions",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
