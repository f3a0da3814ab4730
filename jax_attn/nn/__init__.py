"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (
    AdditiveAttention,
    AttentionPooling,
    DeltaNetCache,
    FourierMixing,
    GatedDeltaNet,
    LinearAttention,
    LinformerAttention,
    MultiHeadAttention,
    MultiplicativeAttention,
    NystromAttention,
    PerformerAttention,
)
from jax_attn.nn.layers import ClassificationHead, Embeddings, Encoder, EncoderLayer, FeedForward, Pooler
from jax_attn.nn.positions import LearnedPositions, SinusoidalPositions
from jax_attn.nn.primitives import Buffer, Dropout, Embedding, LayerNorm, Linear, RandomBuffer

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
    "LinformerAttention",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NystromAttention",
    "PerformerAttention",
    "Pooler",
    "RandomBuffer",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
