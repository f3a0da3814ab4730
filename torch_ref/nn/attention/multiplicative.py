"""Attention scored by a product of a query and a key, without heads or projected values."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class MultiplicativeAttention(nn.Module):
    """`softmax(scores) context`, `scores[t, s] = x[t] · context[s]` ("dot") or `x[t]ᵀ W context[s]` ("general").

    See `jax_attn.nn.attention.multiplicative.MultiplicativeAttention`, its twin, for the arguments.

    Source: Luong et al. (arXiv 1508.04025), section 3.1.
    """

    @checked(score=("dot", "general"))
    def __init__(self, embed_dim: int, context_dim: int | None = None, score: str = "general"):
        super().__init__()
        context_dim = embed_dim if context_dim is None else context_dim
        self.k_proj = nn.Linear(context_dim, embed_dim, bias=False) if score == "general" else None

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(b, t, d)`, a context `(b, s, c)` and a mask `(b, s)` or `(b, t, s)` to `(b, t, c)`; or without `b`."""
        scores = x @ (context if self.k_proj is None else self.k_proj(context)).mT
        if mask is None:
            return torch.softmax(scores, dim=-1) @ context
        hidden_away = ~(mask if mask.ndim == x.ndim else mask[..., None, :])
        weights = torch.softmax(scores.masked_fill(hidden_away, -torch.inf), dim=-1)
        return weights.masked_fill(hidden_away, 0.0) @ context
