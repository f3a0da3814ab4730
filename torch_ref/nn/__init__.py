"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import MultiHeadAttention
from torch_ref.nn.layers import (
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
from torch_ref.nn.positions import LearnedPositions, SinusoidalPositions
from torch_ref.nn.primitives import RMSNorm, make_norm

__all__ = [
    "CausalLMHead",
    "ClassificationHead",
    "ConvolutionStem",
    "DropPath",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "LayerScale",
    "LearnedPositions",
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
