"""The attention modules that models are built from."""

from jax_attn.nn.attention.additive import AdditiveAttention
from jax_attn.nn.attention.cache import ContextCache, KVCache
from jax_attn.nn.attention.differential import DifferentialAttention
from jax_attn.nn.attention.disentangled import DisentangledAttention
from jax_attn.nn.attention.fourier import FourierMixing
from jax_attn.nn.attention.gated_delta import DeltaNetCache, GatedDeltaNet
from jax_attn.nn.attention.latent import LatentAttention
from jax_attn.nn.attention.linear import LinearAttention
from jax_attn.nn.attention.linformer import LinformerAttention
from jax_attn.nn.attention.multi_head import MultiHeadAttention, Tokens
from jax_attn.nn.attention.multiplicative import MultiplicativeAttention
from jax_attn.nn.attention.nystrom import NystromAttention
from jax_attn.nn.attention.performer import PerformerAttention, PerformerCache
from jax_attn.nn.attention.pooling import AttentionPooling
from jax_attn.nn.attention.relative import RelativeAttention
from jax_attn.nn.attention.talking_heads import TalkingHeads
from jax_attn.nn.attention.weights import (
    AttentionWeights,
    CapturedAttention,
    ScoredKey,
    ScoredQuery,
    capture_attention,
    capture_attention_weights,
)

__all__ = [
    "AdditiveAttention",
    "AttentionPooling",
    "AttentionWeights",
    "CapturedAttention",
    "ContextCache",
    "DeltaNetCache",
    "DifferentialAttention",
    "DisentangledAttention",
    "FourierMixing",
    "GatedDeltaNet",
    "KVCache",
    "LatentAttention",
    "LinearAttention",
    "LinformerAttention",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NystromAttention",
    "PerformerAttention",
    "PerformerCache",
    "RelativeAttention",
    "ScoredKey",
    "ScoredQuery",
    "TalkingHeads",
    "Tokens",
    "capture_attention",
    "capture_attention_weights",
]


def __dir__() -> list[str]:
    return __all__
