"""Multi-head attention over torch's fused scaled-dot-product kernel, told explicitly what to mask."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHeadAttentionSDPAMasked(nn.Module):
    """Causal multi-head attention by one call of `scaled_dot_product_attention`, told its mask.

    See `jax_attn.from_scratch.sdpa_masked.MultiHeadAttentionSDPAMasked`, its twin, for the formula and the
    arguments.

    Source: "Build a Large Language Model From Scratch", ch. 3, comparison of multi-head implementations.
    """

    mask: Tensor

    def __init__(
        self,
        d_in: int,
        d_out: int,
        num_heads: int,
        context_length: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.qkv = nn.Linear(d_in, 3 * d_out, bias=qkv_bias)
        self.proj = nn.Linear(d_out, d_out)
        self.dropout = dropout
        self.register_buffer(
            "mask", torch.triu(torch.ones(context_length, context_length), diagonal=1).bool()
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        tokens = x.shape[-2]

        # three of (*b, heads, t, head_dim)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        queries, keys, values = qkv.transpose(-4, -2).unbind(-3)

        context = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=~self.mask[:tokens, :tokens],  # True = attend
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.proj(context.transpose(-3, -2).flatten(-2))
