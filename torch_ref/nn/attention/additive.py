"""The first attention: a small network scores each pair of a query and a key."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class AdditiveAttention(nn.Module):
    """`softmax(scores) context`, `scores[t, s] = vᵀ tanh(W_q x[t] + W_k context[s])`.

    See `jax_attn.nn.attention.additive.AdditiveAttention`, its twin, for the arguments.

    Source: Bahdanau et al. (arXiv 1409.0473), appendix A.1.2.
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        context_dim: int | None = None,
        hidden_dim: int | None = None,
        bias: bool = False,
    ):
        super().__init__()
        context_dim = embed_dim if context_dim is None else context_dim
        hidden_dim = embed_dim if hidden_dim is None else hidden_dim
        self.q_proj = nn.Linear(embed_dim, hidden_dim, bias=bias)
        self.k_proj = nn.Linear(context_dim, hidden_dim, bias=bias)
        self.score_proj = nn.Linear(hidden_dim, 1, bias=False)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(b, t, d)`, a context `(b, s, c)` and a mask `(b, s)` or `(b, t, s)` to `(b, t, c)`; or without `b`."""
        hidden = torch.tanh(self.q_proj(x)[..., :, None, :] + self.k_proj(context)[..., None, :, :])
        scores = self.score_proj(hidden)[..., 0]
        if mask is None:
            return torch.softmax(scores, dim=-1) @ context
        hidden_away = ~(mask if mask.ndim == x.ndim else mask[..., None, :])
        weights = torch.softmax(scores.masked_fill(hidden_away, -torch.inf), dim=-1)
        return weights.masked_fill(hidden_away, 0.0) @ context
