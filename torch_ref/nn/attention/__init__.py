"""The torch twins: the attention modules that models are built from."""

from torch_ref.nn.attention.additive import AdditiveAttention
from torch_ref.nn.attention.differential import DifferentialAttention
from torch_ref.nn.attention.disentangled import DisentangledAttention
from torch_ref.nn.attention.fourier import FourierMixing
from torch_ref.nn.attention.gated_delta import GatedDeltaNet
from torch_ref.nn.attention.latent import LatentAttention
from torch_ref.nn.attention.linear import LinearAttention
from torch_ref.nn.attention.linformer import LinformerAttention
from torch_ref.nn.attention.multi_head import MultiHeadAttention
from torch_ref.nn.attention.multiplicative import MultiplicativeAttention
from torch_ref.nn.attention.nystrom import NystromAttention
from torch_ref.nn.attention.performer import PerformerAttention
from torch_ref.nn.attention.pooling import AttentionPooling
from torch_ref.nn.attention.relative import RelativeAttention
from torch_ref.nn.attention.talking_heads import TalkingHeads

__all__ = [
    "AdditiveAttention",
    "AttentionPooling",
    "DifferentialAttention",
    "DisentangledAttention",
    "FourierMixing",
    "GatedDeltaNet",
    "LatentAttention",
    "LinearAttention",
    "LinformerAttention",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NystromAttention",
    "PerformerAttention",
    "RelativeAttention",
    "TalkingHeads",
]


def __dir__() -> list[str]:
    return __all__
