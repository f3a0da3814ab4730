"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (AdditiveAttention, AttentionPooling, AttentionWeights, ContextCache, DeltaNetCache, FourierMixing, GatedDeltaNet, KVCache, LatentAttention, LinearAttention, LinformerAttention, MultiHeadAttention, MultiplicativeAttention, NystromAttention, PerformerAttention, TalkingHeads, capture_attention_weights,)
from jax_attn.nn.layers import (ClassificationHead, DropPath, Embeddings, Encoder, EncoderLayer, FeedForward, GatedFeedForward, LayerScale, MixtureOfExperts, Pooler, RouterLosses,)
from jax_attn.nn.positions import (AlibiPositions, AttentionPositions, LearnedPositions, Places, RotaryPositions, SinusoidalPositions, token_positions,)
from jax_attn.nn.primitives import (Buffer, Conv, Dropout, Embedding, LayerNorm, Linear, RMSNorm, RandomBuffer, make_norm,)

__all__ = [
    "AdditiveAttention",
    "AlibiPositions",
    "AttentionPooling",
    "AttentionPositions",
    "AttentionWeights",
    "Buffer",
    "ClassificationHead",
    "ContextCache",
    "Conv",
    "DeltaNetCache",
    "DropPath",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "FourierMixing",
    "GatedDeltaNet",
    "GatedFeedForward",
    "KVCache",
    "LatentAttention",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "Linear",
    "LinearAttention",
    "LinformerAttention",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NystromAttention",
    "PerformerAttention",
    "Places",
    "Pooler",
    "RMSNorm",
    "RandomBuffer",
    "RotaryPositions",
    "RouterLosses",
    "SinusoidalPositions",
    "TalkingHeads",
    "capture_attention_weights",
    "make_norm",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
