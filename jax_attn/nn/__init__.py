"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (AttentionWeights, ContextCache, KVCache, MultiHeadAttention, TalkingHeads, capture_attention_weights,)
from jax_attn.nn.layers import (ClassificationHead, DropPath, Embeddings, Encoder, EncoderLayer, FeedForward, GatedFeedForward, LayerScale, MixtureOfExperts, Pooler, RouterLosses,)
from jax_attn.nn.positions import (AlibiPositions, AttentionPositions, LearnedPositions, Places, RotaryPositions, SinusoidalPositions, token_positions,)
from jax_attn.nn.primitives import (Buffer, Conv, Dropout, Embedding, LayerNorm, Linear, RMSNorm, make_norm,)

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "AttentionWeights",
    "Buffer",
    "ClassificationHead",
    "ContextCache",
    "Conv",
    "DropPath",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "KVCache",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "Linear",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "Places",
    "Pooler",
    "RMSNorm",
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
