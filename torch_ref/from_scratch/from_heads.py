"""Multi-head attention put together from single heads."""

import torch
from torch import Tensor, nn

from torch_ref.from_scratch.head import AttentionHead


class MultiHeadAttentionFromHeads(nn.Module):
    """A list of `AttentionHead`s over the same input, concatenated, and a linear layer over all of them.

    See `jax_attn.from_scratch.from_heads.MultiHeadAttentionFromHeads`, its twin, for the formula and the
    arguments.

    Source: "Natural Language Processing with Transformers", ch. 3.
    """

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be divisible by num_heads, got {embed_dim} and {num_heads}")
        head_dim = embed_dim // num_heads
        self.heads = nn.ModuleList(AttentionHead(embed_dim, head_dim) for _ in range(num_heads))
        self.output_linear = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same; `mask` as `AttentionHead` takes it."""
        return self.output_linear(torch.cat([head(x, mask) for head in self.heads], dim=-1))
