"""Multi-head attention of an encoder: no causal mask of its own, but takes one that says what is padding."""

import torch
from torch import Tensor, nn


class EmbedMultiHeadAttention(nn.Module):
    """Multi-head self-attention of one width throughout, with biases and an optional mask.

    See `jax_attn.from_scratch.embed_multi_head.EmbedMultiHeadAttention`, its twin, for the formula, the
    arguments and the masks.

    Source: "Attention Is All You Need" (arXiv 1706.03762), section 3.2.2.
    """

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be divisible by num_heads, got {embed_dim} and {num_heads}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same; the mask is boolean, True = attend."""
        queries, keys, values = (self.split_heads(a) for a in (self.query(x), self.key(x), self.value(x)))
        scores = queries @ keys.mT / self.head_dim**0.5
        if attention_mask is None:
            weights = torch.softmax(scores, dim=-1)
        else:
            if attention_mask.ndim == x.ndim - 1:  # one row for all queries
                attention_mask = attention_mask.unsqueeze(-2)
            hidden = ~attention_mask.unsqueeze(-3)  # the same for all heads
            # -inf would turn a row with nothing to attend to into NaN: the lowest number, then 0 once more
            lowest = torch.finfo(scores.dtype).min
            weights = torch.softmax(scores.masked_fill(hidden, lowest), dim=-1).masked_fill(hidden, 0.0)
        return self.out(self.merge_heads(weights @ values))

    def split_heads(self, a: Tensor) -> Tensor:
        """`(*b, t, embed_dim)` to `(*b, num_heads, t, head_dim)`."""
        return a.view(*a.shape[:-1], self.num_heads, self.head_dim).transpose(-3, -2)

    def merge_heads(self, a: Tensor) -> Tensor:
        """`(*b, num_heads, t, head_dim)` to `(*b, t, embed_dim)`."""
        return a.transpose(-3, -2).flatten(-2)
