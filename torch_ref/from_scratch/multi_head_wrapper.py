"""Several heads, the plain way: run one after the other, outputs side by side."""

import torch
from torch import Tensor, nn

from torch_ref.from_scratch.causal import CausalAttention


class MultiHeadAttentionWrapper(nn.Module):
    """`num_heads` independent `CausalAttention` heads over the same input, their outputs concatenated.

    See `jax_attn.from_scratch.multi_head_wrapper.MultiHeadAttentionWrapper`, its twin, for the formula and
    the arguments.

    Source: "Build a Large Language Model From Scratch", section 3.6.1; `out_proj` as in its comparison of
    multi-head implementations.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
        out_proj: bool = False,
    ):
        super().__init__()
        self.heads = nn.ModuleList(
            CausalAttention(d_in, d_out, context_length, dropout, qkv_bias) for _ in range(num_heads)
        )
        self.out_proj = nn.Linear(num_heads * d_out, num_heads * d_out) if out_proj else None

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `num_heads * d_out`."""
        context = torch.cat([head(x) for head in self.heads], dim=-1)
        return context if self.out_proj is None else self.out_proj(context)
