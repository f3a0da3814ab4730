"""The modules that models are built from: primitives, positions, attention and layers."""

    AttentionWeights,
    ClassificationHead,
    ContextCache,
    Decoder,
    DecoderCache,
    DecoderLayer,
    KVCache,
    MultiHeadAttention,
    TalkingHeads,
    capture_attention_weights,
)
from jax_attn.nn.attention import (
from jax_attn.nn.attention import MultiHeadAttention
from jax_attn.nn.layers import (
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    AlibiPositions,
    AttentionPositions,
    Buffer,
    Dropout,
    Embedding,
    GatedFeedForward,
    LayerNorm,
    LearnedPositions,
    Linear,
    MixtureOfExperts,
    Places,
    Pooler,
    RMSNorm,
    RotaryPositions,
    RouterLosses,
    SinusoidalPositions,
    Stack,
    make_norm,
    token_positions,
)
from jax_attn.nn.positions import (
from jax_attn.nn.positions import LearnedPositions, SinusoidalPositions
from jax_attn.nn.primitives import (
from jax_attn.nn.primitives import Buffer, Dropout, Embedding, LayerNorm, Linear, RMSNorm, make_norm

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "AttentionWeights",
    "Buffer",
    "ClassificationHead",
    "ContextCache",
    "Decoder",
    "DecoderCache",
    "DecoderLayer",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "KVCache",
    "LayerNorm",
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
    "Stack",
    "TalkingHeads",
    "capture_attention_weights",
    "make_norm",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
