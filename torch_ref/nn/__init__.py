"""The torch twins of the modules that models are built from."""

    ClassificationHead,
    Decoder,
    DecoderLayer,
    MultiHeadAttention,
    TalkingHeads,
)
from torch_ref.nn.attention import (
from torch_ref.nn.attention import MultiHeadAttention
from torch_ref.nn.layers import (
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    AlibiPositions,
    AttentionPositions,
    GatedFeedForward,
    LearnedPositions,
    MixtureOfExperts,
    Pooler,
    RMSNorm,
    RotaryPositions,
    RouterLosses,
    SinusoidalPositions,
    Stack,
    make_norm,
)
from torch_ref.nn.positions import (
from torch_ref.nn.positions import LearnedPositions, SinusoidalPositions
from torch_ref.nn.primitives import (
from torch_ref.nn.primitives import RMSNorm, make_norm

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "ClassificationHead",
    "Decoder",
    "DecoderLayer",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
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
