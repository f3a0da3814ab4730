"""Self-attention with trained weights, held in linear layers."""

import torch
from torch import Tensor, nn


class SelfAttentionV2(nn.Module):
    """`SelfAttentionV1` with linear layers: a better start for training, and biases if wanted.

    See `jax_attn.from_scratch.v2.SelfAttentionV2`, its twin, for the formula and the arguments.

    Source: "Build a Large Language Model From Scratch", section 3.4.
    """

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False):
        super().__init__()
        self.d_out = d_out
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        weights = torch.softmax(queries @ keys.mT / self.d_out**0.5, dim=-1)
        return weights @ values
