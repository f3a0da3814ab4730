"""Self-attention with trained weights, held as plain matrices."""

import torch
from torch import Tensor, nn


class SelfAttentionV1(nn.Module):
    """Scaled dot-product self-attention whose three projections are raw matrices.

    See `jax_attn.from_scratch.v1.SelfAttentionV1`, its twin, for the formula and the arguments.

    Source: "Build a Large Language Model From Scratch", section 3.4.
    """

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.d_out = d_out
        self.W_query = nn.Parameter(torch.rand(d_in, d_out))
        self.W_key = nn.Parameter(torch.rand(d_in, d_out))
        self.W_value = nn.Parameter(torch.rand(d_in, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        queries, keys, values = x @ self.W_query, x @ self.W_key, x @ self.W_value
        weights = torch.softmax(queries @ keys.mT / self.d_out**0.5, dim=-1)
        return weights @ values
