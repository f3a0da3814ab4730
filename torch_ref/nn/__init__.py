"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import (
    DifferentialAttention,
    DisentangledAttention,
    LatentAttention,
    MultiHeadAttention,
    RelativeAttention,
    TalkingHeads,
)
from torch_ref.nn.layers import (
    ClassificationHead,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    Pooler,
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
    "DifferentialAttention",
    "DisentangledAttention",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "LatentAttention",
    "LearnedPositions",
    "MultiHeadAttention",
    "Pooler",
    "RMSNorm",
    "RelativeAttention",
    "RotaryPositions",
    "SinusoidalPositions",
    "TalkingHeads",
    "make_norm",
]


def __dir__() -> list[str]:
    return __all__
