"""The torch twins: the attention modules that models are built from."""

from torch_ref.nn.attention.differential import DifferentialAttention
from torch_ref.nn.attention.disentangled import DisentangledAttention
from torch_ref.nn.attention.latent import LatentAttention
from torch_ref.nn.attention.multi_head import MultiHeadAttention
from torch_ref.nn.attention.relative import RelativeAttention
from torch_ref.nn.attention.talking_heads import TalkingHeads

__all__ = [
    "DifferentialAttention",
    "DisentangledAttention",
    "LatentAttention",
    "MultiHeadAttention",
    "RelativeAttention",
    "TalkingHeads",
]


def __dir__() -> list[str]:
    return __all__
