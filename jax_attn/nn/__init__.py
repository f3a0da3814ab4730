"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (
    AdditiveAttention,
    AttentionPooling,
    DeltaNetCache,
    FourierMixing,
    GatedDeltaNet,
    LinearAttention,
    MultiHeadAttention,
    MultiplicativeAttention,
)
from jax_attn.nn.layers import ClassificationHead, Embeddings, Encoder, EncoderLayer, FeedForward, Pooler
from jax_attn.nn.positions import LearnedPositions, SinusoidalPositions
from jax_attn.nn.primitives import Buffer, Dropout, Embedding, LayerNorm, Linear

__all__ = [
    "AdditiveAttention",
    "AttentionPooling",
    "Buffer",
    "ClassificationHead",
    "DeltaNetCache",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "FourierMixing",
    "GatedDeltaNet",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "LinearAttention",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "Pooler",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
