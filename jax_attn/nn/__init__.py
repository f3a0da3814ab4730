"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (
    AttentionWeights,
    ContextCache,
    KVCache,
    MultiHeadAttention,
    TalkingHeads,
    capture_attention_weights,
)
from jax_attn.nn.layers import (
    ClassificationHead,
    Decoder,
    DecoderCache,
    DecoderLayer,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    GatedFeedForward,
    MixtureOfExperts,
    Pooler,
    RouterLosses,
    Stack,
    deepnorm_scales,
)
from jax_attn.nn.positions import (
    AlibiPositions,
    AttentionPositions,
    LearnedPositions,
    Places,
    RotaryPositions,
    SinusoidalPositions,
    token_positions,
)
from jax_attn.nn.primitives import (
    Buffer,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    make_norm,
)

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
    "deepnorm_scales",
    "make_norm",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
