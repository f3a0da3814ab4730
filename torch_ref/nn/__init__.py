"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import (
    MultiHeadAttention,
    TalkingHeads,
)
from torch_ref.nn.layers import (
    ClassificationHead,
    Decoder,
    DecoderLayer,
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
    Stack,
)
from torch_ref.nn.positions import (
    AlibiPositions,
    AttentionPositions,
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
)
from torch_ref.nn.primitives import (
    RMSNorm,
    make_norm,
)

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "ClassificationHead",
    "Decoder",
    "DecoderLayer",
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
    "RotaryPositions",
    "RouterLosses",
    "SinusoidalPositions",
    "Stack",
    "TalkingHeads",
    "make_norm",
]


def __dir__() -> list[str]:
    return __all__
