"""Causal multi-head attention that leaves the work to `torch.nn.MultiheadAttention`."""

import torch
from torch import Tensor, nn


class MultiHeadAttentionTorchClass(nn.Module):
    """`proj(multihead_attn(x, x, x, attn_mask=mask))`: torch's class, a causal mask, one more projection.

    See `jax_attn.from_scratch.torch_class.MultiHeadAttentionTorchClass`, its twin, for the arguments.

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
        need_weights: bool = True,
    ):
        super().__init__()
        self.need_weights = need_weights
        self.multihead_attn = nn.MultiheadAttention(
            d_out, num_heads, dropout, bias=qkv_bias, add_bias_kv=qkv_bias, batch_first=True
        )
        self.proj = nn.Linear(d_out, d_out)
        self.register_buffer(
            "mask", torch.triu(torch.ones(context_length, context_length), diagonal=1).bool()
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        tokens = x.shape[-2]
        output, _ = self.multihead_attn(
            x, x, x, attn_mask=self.mask[:tokens, :tokens], need_weights=self.need_weights
        )
        return self.proj(output)
