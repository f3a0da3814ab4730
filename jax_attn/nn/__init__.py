"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import MultiHeadAttention
from jax_attn.nn.layers import (
    CausalLMHead,
    ClassificationHead,
    ConvolutionStem,
    DropPath,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    GatedFeedForward,
    LayerScale,
    MaskedLMHead,
    MixtureOfExperts,
    PatchEmbeddings,
    Pooler,
    RegressionHead,
    RouterLosses,
    SpanHead,
    SpanLogits,
    TiedHead,
    TokenClassificationHead,
)
from jax_attn.nn.positions import LearnedPositions, SinusoidalPositions
from jax_attn.nn.primitives import Buffer, Conv, Dropout, Embedding, LayerNorm, Linear, RMSNorm, make_norm

__all__ = [
    "Buffer",
    "CausalLMHead",
    "ClassificationHead",
    "Conv",
    "ConvolutionStem",
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
    "MaskedLMHead",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "PatchEmbeddings",
    "Pooler",
    "RMSNorm",
    "RegressionHead",
    "RouterLosses",
    "SinusoidalPositions",
    "SpanHead",
    "SpanLogits",
    "TiedHead",
    "TokenClassificationHead",
    "make_norm",
]


def __dir__() -> list[str]:
    return __all__
