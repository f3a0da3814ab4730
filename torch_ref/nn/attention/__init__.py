"""The torch twins: the attention modules that models are built from."""

from torch_ref.nn.attention.gated_delta import GatedDeltaNet
from torch_ref.nn.attention.linear import LinearAttention
from torch_ref.nn.attention.multi_head import MultiHeadAttention

__all__ = [
    "GatedDeltaNet",
    "LinearAttention",
    "MultiHeadAttention",
]


def __dir__() -> list[str]:
    return __all__
