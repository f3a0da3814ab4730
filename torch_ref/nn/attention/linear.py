"""Attention in linear time: weights that are products of features, with no softmax."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, head_width


class LinearAttention(nn.Module):
    """Multi-head attention with the weights `φ(q) · φ(k) / Σ φ(q) · φ(k)`, `φ(x) = elu(x) + 1`.

    See `jax_attn.nn.attention.linear.LinearAttention`, its twin, for the arguments. Here the weights themselves
    are computed, in time T²; `chunk_size` is not used.

    Source: Katharopoulos et al. (arXiv 2006.16236).
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        is_causal: bool = False,
        bias: bool = True,
        chunk_size: int = 64,
    ):
        super().__init__()
        head_width(embed_dim, num_heads)
        self.num_heads = num_heads
        self.is_causal = is_causal
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`(b, t, d)` and a context `(b, s, d)` to `(b, t, d)`; or all of them without `b`."""
        context = x if context is None else context
        queries = features(self.split_heads(self.q_proj(x)))
        keys = features(self.split_heads(self.k_proj(context)))
        values = self.split_heads(self.v_proj(context))

        weights = queries @ keys.mT
        if self.is_causal:
            weights = weights.tril()
        if mask is not None:
            weights = weights.masked_fill(~mask[..., None, None, :], 0)
        total = weights.sum(-1, keepdim=True)
        weights = weights / total.masked_fill(total == 0, 1)
        return self.out_proj((weights @ values).transpose(-2, -3).flatten(-2))

    def split_heads(self, projected: Tensor) -> Tensor:
        """`(b, t, n * h)` to `(b, n, t, h)`."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


def features(x: Tensor) -> Tensor:
    """`elu(x) + 1`, with all digits below 0."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())
