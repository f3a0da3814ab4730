"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import (AdditiveAttention, AttentionPooling, FourierMixing, GatedDeltaNet, LatentAttention, LinearAttention, LinformerAttention, MultiHeadAttention, MultiplicativeAttention, NystromAttention, PerformerAttention, TalkingHeads,)
from torch_ref.nn.layers import (ClassificationHead, DropPath, Embeddings, Encoder, EncoderLayer, FeedForward, GatedFeedForward, LayerScale, MixtureOfExperts, Pooler, RouterLosses,)
from torch_ref.nn.positions import (AlibiPositions, AttentionPositions, LearnedPositions, RotaryPositions, SinusoidalPositions,)
from torch_ref.nn.primitives import (RMSNorm, make_norm,)

__all__ = [
    "AdditiveAttention",
    "AlibiPositions",
    "AttentionPooling",
    "AttentionPositions",
    "ClassificationHead",
    "DropPath",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "FourierMixing",
    "GatedDeltaNet",
    "GatedFeedForward",
    "LatentAttention",
    "LayerScale",
    "LearnedPositions",
    "LinearAttention",
    "LinformerAttention",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NystromAttention",
    "PerformerAttention",
    "Pooler",
    "RMSNorm",
    "RotaryPositions",
    "RouterLosses",
    "SinusoidalPositions",
    "TalkingHeads",
    "make_norm",
]


def __dir__() -> list[str]:
    return __all__
