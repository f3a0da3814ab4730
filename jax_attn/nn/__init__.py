"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (
    AttentionWeights,
    ContextCache,
    DifferentialAttention,
    DisentangledAttention,
    KVCache,
    LatentAttention,
    MultiHeadAttention,
    RelativeAttention,
    TalkingHeads,
    capture_attention_weights,
)
from jax_attn.nn.layers import (
    ClassificationHead,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    Pooler,
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
    "DifferentialAttention",
    "DisentangledAttention",
    "Dropout",
    "Embedding",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "KVCache",
    "LatentAttention",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "MultiHeadAttention",
    "Places",
    "Pooler",
    "RMSNorm",
    "RelativeAttention",
    "RotaryPositions",
    "SinusoidalPositions",
    "TalkingHeads",
    "capture_attention_weights",
    "make_norm",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
