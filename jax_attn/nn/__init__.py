"""The modules that models are built from: primitives, positions, attention and layers."""

from jax_attn.nn.attention import (AdditiveAttention, AttentionPooling, AttentionWeights, ContextCache, DeltaNetCache, DisentangledAttention, FourierMixing, GatedDeltaNet, KVCache, LatentAttention, LinearAttention, LinformerAttention, MultiHeadAttention, MultiplicativeAttention, NystromAttention, PerformerAttention, TalkingHeads, capture_attention_weights,)
from jax_attn.nn.layers import (ClassificationHead, DropPath, Embeddings, Encoder, EncoderLayer, FeedForward, GatedFeedForward, LayerScale, MixtureOfExperts, Pooler, RouterLosses,)
from jax_attn.nn.positions import (AlibiPositions, AttentionPositions, AxialRotaryPositions, DynamicNTKScaling, LearnedPositions, LinearScaling, Llama3Scaling, LongRopeScaling, Places, RotaryPositions, RotaryScaling, ShawPositions, SinusoidalPositions, T5Positions, YarnScaling, token_positions,)
from jax_attn.nn.primitives import (Buffer, Conv, Dropout, Embedding, LayerNorm, Linear, RMSNorm, RandomBuffer, make_norm,)

__all__ = [
    "AdditiveAttention",
    "AlibiPositions",
    "AttentionPooling",
    "AttentionPositions",
    "AttentionWeights",
    "AxialRotaryPositions",
    "Buffer",
    "ClassificationHead",
    "ContextCache",
    "Conv",
    "DeltaNetCache",
    "DisentangledAttention",
    "DropPath",
    "Dropout",
    "DynamicNTKScaling",
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
    "LinearScaling",
    "LinformerAttention",
    "Llama3Scaling",
    "LongRopeScaling",
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
    "RotaryScaling",
    "RouterLosses",
    "ShawPositions",
    "SinusoidalPositions",
    "T5Positions",
    "TalkingHeads",
    "YarnScaling",
    "capture_attention_weights",
    "make_norm",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
