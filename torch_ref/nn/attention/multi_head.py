"""The attention that models are built from: many heads, on one sequence or across two."""

import torch
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Multi-head attention, in which query heads may share key/value heads.

    See `jax_attn.nn.attention.multi_head.MultiHeadAttention`, its twin, for the formula and the arguments.
    The mask is boolean and True = attend, here too.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.2.2; MQA: Shazeer (arXiv 1911.02150); GQA: Ainslie
    et al. (arXiv 2305.13245).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if embed_dim % num_heads or num_heads % num_kv_heads:
            raise ValueError(
                f"{embed_dim=}, {num_heads=} and {num_kv_heads=} must divide each other in this order"
            )
        self.head_dim = embed_dim // num_heads
        self.queries_per_key = num_heads // num_kv_heads
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, num_kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """`(b, t, d)` and a context `(b, s, d)` to `(b, t, d)`; or all of them without `b`."""
        if x.ndim == 2:  # a batch of one
            context, mask = (None if given is None else given[None] for given in (context, mask))
            return self(x[None], context, mask, is_causal)[0]

        context = x if context is None else context
        queries = self.split_heads(self.q_proj(x))
        keys = self.split_heads(self.k_proj(context)).repeat_interleave(self.queries_per_key, dim=1)
        values = self.split_heads(self.v_proj(context)).repeat_interleave(self.queries_per_key, dim=1)

        scores = queries @ keys.mT / self.head_dim**0.5
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device)
        if is_causal:
            allowed = allowed.tril()
        if mask is not None:
            allowed = allowed & {2: mask[:, None, None], 3: mask[:, None], 4: mask}[mask.ndim]
        weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim=-1)
        weights = weights.masked_fill(~allowed, 0.0)  # where nothing is allowed, the softmax is NaN
        return self.out_proj((self.dropout(weights) @ values).transpose(1, 2).flatten(2))

    def split_heads(self, projected: Tensor) -> Tensor:
        """`(b, t, n * h)` to `(b, n, t, h)`."""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
