"""Multi-head attention whose queries, keys and values come from one matrix product."""

import torch
from torch import Tensor, nn


class MultiHeadAttentionCombinedQKV(nn.Module):
    """Causal multi-head attention with one fused projection in place of three.

    See `jax_attn.from_scratch.combined_qkv.MultiHeadAttentionCombinedQKV`, its twin, for the formula and the
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
        self.d_out = d_out
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.qkv = nn.Linear(d_in, 3 * d_out, bias=qkv_bias)
        self.proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", torch.triu(torch.ones(context_length, context_length), diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        tokens = x.shape[-2]

        # (*b, t, 3 * d_out) -> (*b, t, 3, heads, head_dim) -> three of (*b, heads, t, head_dim)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        queries, keys, values = qkv.transpose(-4, -2).unbind(-3)

        scores = queries @ keys.mT / self.head_dim**0.5
        scores = scores.masked_fill(self.mask[:tokens, :tokens].bool(), -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        context = self.dropout(weights) @ values
        return self.proj(context.transpose(-3, -2).flatten(-2))
