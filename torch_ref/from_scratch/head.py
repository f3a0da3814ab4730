"""One attention head, as a brick to build multi-head attention from."""

import torch
from torch import Tensor, nn


class AttentionHead(nn.Module):
    """One head: three projections with biases, then scaled dot-product attention.

    See `jax_attn.from_scratch.head.AttentionHead`, its twin, for the formula, the arguments and the masks.

    Source: "Natural Language Processing with Transformers", ch. 3.
    """

    def __init__(self, embed_dim: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q = nn.Linear(embed_dim, head_dim)
        self.k = nn.Linear(embed_dim, head_dim)
        self.v = nn.Linear(embed_dim, head_dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same with `head_dim`; the mask: True = attend."""
        scores = self.q(x) @ self.k(x).mT / self.head_dim**0.5
        if mask is None:
            return torch.softmax(scores, dim=-1) @ self.v(x)

        if mask.ndim == x.ndim - 1:  # one row for all queries
            mask = mask.unsqueeze(-2)
        # -inf would turn a row with nothing to attend to into NaN: the lowest number, then 0 once more
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1).masked_fill(~mask, 0.0)
        return weights @ self.v(x)
