"""The ladder, in torch: from dot products to FlexAttention, one idea a file."""

from torch_ref.from_scratch.causal import CausalAttention
from torch_ref.from_scratch.combined_qkv import MultiHeadAttentionCombinedQKV
from torch_ref.from_scratch.einsum import MultiHeadAttentionEinsum
from torch_ref.from_scratch.embed_multi_head import EmbedMultiHeadAttention
from torch_ref.from_scratch.embed_scaled import EmbedScaledSelfAttention
from torch_ref.from_scratch.flex import MultiHeadAttentionFlex
from torch_ref.from_scratch.from_heads import MultiHeadAttentionFromHeads
from torch_ref.from_scratch.head import AttentionHead
from torch_ref.from_scratch.linear_qkv import LinearQKV
from torch_ref.from_scratch.multi_head import MultiHeadAttention
from torch_ref.from_scratch.multi_head_wrapper import MultiHeadAttentionWrapper
from torch_ref.from_scratch.renormalized_causal import RenormalizedCausalAttention
from torch_ref.from_scratch.sdpa import MultiHeadAttentionSDPA
from torch_ref.from_scratch.sdpa_masked import MultiHeadAttentionSDPAMasked
from torch_ref.from_scratch.simple import SimpleSelfAttention
from torch_ref.from_scratch.torch_class import MultiHeadAttentionTorchClass
from torch_ref.from_scratch.torch_multihead import TorchMultiheadAttention
from torch_ref.from_scratch.v1 import SelfAttentionV1
from torch_ref.from_scratch.v2 import SelfAttentionV2

__all__ = [
    "AttentionHead",
    "CausalAttention",
    "EmbedMultiHeadAttention",
    "EmbedScaledSelfAttention",
    "LinearQKV",
    "MultiHeadAttention",
    "MultiHeadAttentionCombinedQKV",
    "MultiHeadAttentionEinsum",
    "MultiHeadAttentionFlex",
    "MultiHeadAttentionFromHeads",
    "MultiHeadAttentionSDPA",
    "MultiHeadAttentionSDPAMasked",
    "MultiHeadAttentionTorchClass",
    "MultiHeadAttentionWrapper",
    "RenormalizedCausalAttention",
    "SelfAttentionV1",
    "SelfAttentionV2",
    "SimpleSelfAttention",
    "TorchMultiheadAttention",
]


def __dir__() -> list[str]:
    return __all__
