"""Attention from a few learned queries to a sequence: as many vectors as there are queries, whatever its length."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, head_width


class AttentionPooling(nn.Module):
    """Multi-head attention whose queries are parameters: `softmax(Q Kᵀ / sqrt(head_dim)) V W_out`.

    See `jax_attn.nn.attention.pooling.AttentionPooling`, its twin, for the arguments.

    Source: Lee et al. (arXiv 1810.00825), section 3.2; Zhai et al. (arXiv 2303.15343).
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_queries: int = 1,
        dropout: float = 0.0,
        bias: bool = True,
        residual: bool = False,
    ):
        super().__init__()
        head_width(embed_dim, num_heads)
        self.num_heads = num_heads
        self.residual = residual
        self.queries = nn.Parameter(torch.randn(num_queries, embed_dim))
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(b, s, d)` and a mask `(b, s)`, True = attend, to `(b, num_queries, d)`; or both without `b`."""
        queries = self.split_heads(self.q_proj(self.queries))
        keys, values = self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None, None, :], -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        if mask is not None:  # where nothing may be seen, the softmax is NaN
            weights = weights.masked_fill(~mask[..., None, None, :], 0.0)
        output = self.out_proj((self.dropout(weights) @ values).transpose(-2, -3).flatten(-2))
        return output + self.queries if self.residual else output

    def split_heads(self, projected: Tensor) -> Tensor:
        """`(b, t, n * h)` to `(b, n, t, h)`."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
