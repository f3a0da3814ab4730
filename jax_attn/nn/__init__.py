"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import DeltaNetCache, GatedDeltaNet, LinearAttention, MultiHeadAttention
from jax_attn.nn.layers import ClassificationHead, Embeddings, Encoder, EncoderLayer, FeedForward, Pooler
from jax_attn.nn.positions import LearnedPositions, SinusoidalPositions
from jax_attn.nn.primitives import Buffer, Dropout, Embedding, LayerNorm, Linear

__all__ = [
    "Buffer",
    "ClassificationHead",
    "DeltaNetCache",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedDeltaNet",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "LinearAttention",
    "MultiHeadAttention",
    "Pooler",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
