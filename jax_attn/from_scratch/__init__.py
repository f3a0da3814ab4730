"""The ladder: from dot products to FlexAttention, one idea a file."""

from jax_attn.from_scratch.causal import CausalAttention
from jax_attn.from_scratch.combined_qkv import MultiHeadAttentionCombinedQKV
from jax_attn.from_scratch.einsum import MultiHeadAttentionEinsum
from jax_attn.from_scratch.embed_multi_head import EmbedMultiHeadAttention
from jax_attn.from_scratch.embed_scaled import EmbedScaledSelfAttention
from jax_attn.from_scratch.flex import MultiHeadAttentionFlex
from jax_attn.from_scratch.from_heads import MultiHeadAttentionFromHeads
from jax_attn.from_scratch.head import AttentionHead
from jax_attn.from_scratch.linear_qkv import LinearQKV
from jax_attn.from_scratch.multi_head import MultiHeadAttention
from jax_attn.from_scratch.multi_head_wrapper import MultiHeadAttentionWrapper
from jax_attn.from_scratch.renormalized_causal import RenormalizedCausalAttention
from jax_attn.from_scratch.sdpa import MultiHeadAttentionSDPA
from jax_attn.from_scratch.sdpa_masked import MultiHeadAttentionSDPAMasked
from jax_attn.from_scratch.simple import SimpleSelfAttention
from jax_attn.from_scratch.torch_class import MultiHeadAttentionTorchClass
from jax_attn.from_scratch.torch_multihead import TorchMultiheadAttention
from jax_attn.from_scratch.v1 import SelfAttentionV1
from jax_attn.from_scratch.v2 import SelfAttentionV2

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
