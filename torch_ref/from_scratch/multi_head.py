"""Several heads in one: project once, then split the width among the heads."""

import torch
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Causal multi-head attention with one projection each for queries, keys and values.

    See `jax_attn.from_scratch.multi_head.MultiHeadAttention`, its twin, for the formula and the arguments.

    Source: "Build a Large Language Model From Scratch", section 3.6.2.
    """

    mask: Tensor

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
    ):
        super().__init__()
        if d_out % num_heads:
            raise ValueError(f"d_out must be divisible by num_heads, got {d_out} and {num_heads}")
        self.d_out = d_out
        self.context_length = context_length
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", torch.triu(torch.ones(context_length, context_length), diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        *batch, tokens, _ = x.shape
        if tokens > self.context_length:
            raise ValueError(f"the number of tokens must be at most {self.context_length}, got {tokens}")

        # (*b, t, d_out) is cut into (*b, t, heads, head_dim), then a head becomes one more batch axis
        queries = self.W_query(x).view(*batch, tokens, self.num_heads, self.head_dim).transpose(-3, -2)
        keys = self.W_key(x).view(*batch, tokens, self.num_heads, self.head_dim).transpose(-3, -2)
        values = self.W_value(x).view(*batch, tokens, self.num_heads, self.head_dim).transpose(-3, -2)

        scores = queries @ keys.mT / self.head_dim**0.5
        scores = scores.masked_fill(self.mask[:tokens, :tokens].bool(), -torch.inf)
        context = self.dropout(torch.softmax(scores, dim=-1)) @ values

        return self.out_proj(context.transpose(-3, -2).reshape(*batch, tokens, self.d_out))
