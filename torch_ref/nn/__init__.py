"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import (
    MultiHeadAttention,
)
from torch_ref.nn.layers import (
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
from torch_ref.nn.positions import (
    LearnedPositions,
    SinusoidalPositions,
)
from torch_ref.nn.primitives import (
    RMSNorm,
    make_norm,
)

__all__ = [
    "ClassificationHead",
    "DropPath",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "LayerScale",
    "LearnedPositions",
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
