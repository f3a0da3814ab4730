"""Causal attention the first way that comes to mind: hide the future after the softmax."""

import torch
from torch import Tensor, nn


class RenormalizedCausalAttention(nn.Module):
    """`CausalAttention` that masks the weights after the softmax and makes each row sum to 1 again.

    See `jax_attn.from_scratch.renormalized_causal.RenormalizedCausalAttention`, its twin, for the formula,
    the arguments, and the rows that underflow.

    Source: "Build a Large Language Model From Scratch", section 3.5.1.
    """

    mask: Tensor

    def __init__(self, d_in: int, d_out: int, context_length: int, dropout: float, qkv_bias: bool = False):
        super().__init__()
        self.d_out = d_out
        self.context_length = context_length
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", torch.triu(torch.ones(context_length, context_length), diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        tokens = x.shape[-2]
        if tokens > self.context_length:
            raise ValueError(f"the number of tokens must be at most {self.context_length}, got {tokens}")

        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        weights = torch.softmax(queries @ keys.mT / self.d_out**0.5, dim=-1)
        weights = weights.masked_fill(self.mask[:tokens, :tokens].bool(), 0.0)
        row_sums = weights.sum(dim=-1, keepdim=True)
        weights = weights / row_sums.masked_fill(row_sums == 0, 1.0)
        return self.dropout(weights) @ values
