"""The attention modules that models are built from."""

from jax_attn.nn.attention.gated_delta import DeltaNetCache, GatedDeltaNet
from jax_attn.nn.attention.linear import LinearAttention
from jax_attn.nn.attention.multi_head import MultiHeadAttention

__all__ = [
    "DeltaNetCache",
    "GatedDeltaNet",
    "LinearAttention",
    "MultiHeadAttention",
]


def __dir__() -> list[str]:
    return __all__
