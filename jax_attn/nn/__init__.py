"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (
    MultiHeadAttention,
)
from jax_attn.nn.layers import (
    ClassificationHead,
    DropPath,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    GatedFeedForward,
    LayerScale,
    MixtureOfExperts,
    Pooler,
    RouterLosses,
)
from jax_attn.nn.positions import (
    LearnedPositions,
    SinusoidalPositions,
)
from jax_attn.nn.primitives import (
    Buffer,
    Conv,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    make_norm,
)

__all__ = [
    "Buffer",
    "ClassificationHead",
    "Conv",
    "DropPath",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "Linear",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "Pooler",
    "RMSNorm",
    "RouterLosses",
    "SinusoidalPositions",
    "make_norm",
]


def __dir__() -> list[str]:
    return __all__
