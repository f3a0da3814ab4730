"""The attention modules that models are built from."""

from jax_attn.nn.attention.cache import ContextCache, KVCache
from jax_attn.nn.attention.differential import DifferentialAttention
from jax_attn.nn.attention.disentangled import DisentangledAttention
from jax_attn.nn.attention.latent import LatentAttention
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.attention.relative import RelativeAttention
from jax_attn.nn.attention.talking_heads import TalkingHeads
from jax_attn.nn.attention.weights import AttentionWeights, capture_attention_weights

__all__ = [
    "AttentionWeights",
    "ContextCache",
    "DifferentialAttention",
    "DisentangledAttention",
    "KVCache",
    "LatentAttention",
    "MultiHeadAttention",
    "RelativeAttention",
    "TalkingHeads",
    "capture_attention_weights",
]


def __dir__() -> list[str]:
    return __all__
