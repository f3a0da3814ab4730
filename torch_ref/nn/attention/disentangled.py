"""Attention whose scores compare content with position as well as with content."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, head_width
from torch_ref.nn.primitives import masked_softmax


class DisentangledAttention(nn.Module):
    """Disentangled attention of DeBERTa: content to content, content to position, position to content.

    See `jax_attn.nn.attention.disentangled.DisentangledAttention`, its twin, for the formula and the arguments.

    Source: He et al. (arXiv 2006.03754), section 3.1; buckets and shared projections as DeBERTa-v3 (2111.09543).
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        max_relative_positions: int,
        position_buckets: int | None = None,
        pos_att_type: Sequence[str] = ("c2p", "p2c"),
        share_att_key: bool = False,
        dropout: float = 0.0,
        position_dropout: float = 0.0,
        bias: bool = True,
        head_dim: int | None = None,
    ):
        super().__init__()
        head_dim = head_width(embed_dim, num_heads, head_dim)
        self.num_heads = num_heads
        self.max_relative_positions = max_relative_positions
        self.position_buckets = position_buckets
        self.span = max_relative_positions if position_buckets is None else position_buckets
        self.pos_att_type = pos_att_type
        self.scale = (head_dim * (1 + len(pos_att_type))) ** -0.5
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(embed_dim, num_heads * head_dim, bias=bias) for _ in "qkv"
        )
        self.share_att_key = share_att_key
        if "c2p" in pos_att_type and not share_att_key:
            self.pos_k_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)
        if "p2c" in pos_att_type and not share_att_key:
            self.pos_q_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)
        self.out_proj = nn.Linear(num_heads * head_dim, embed_dim, bias=bias)
        self.position_dropout = nn.Dropout(position_dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        relative: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """`(b, t, d)` to the same shape; or `(t, d)`, and then mask and positions have no batch axis either."""
        if x.ndim == 2:  # a batch of one
            given = (mask, positions, segment_ids)
            mask, positions, segment_ids = (None if part is None else part[None] for part in given)
            named: Any = {"positions": positions, "segment_ids": segment_ids}
            result = self(x[None], relative, mask, **named, return_weights=return_weights)
            return tuple(part[0] for part in result) if return_weights else result[0]
        queries, keys, values = (self.split_heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        scores = queries @ keys.mT
        if relative is not None:
            relative = self.position_dropout(relative)
            at = torch.arange(x.shape[1], device=x.device)[None] if positions is None else positions
            rows = self.rows(at[:, :, None] - at[:, None, :])[:, None].expand(scores.shape)
            if "c2p" in self.pos_att_type:
                of_keys = self.k_proj if self.share_att_key else self.pos_k_proj
                products = queries @ self.split_heads(of_keys(relative)).mT
                scores = scores + products.gather(-1, rows)
            if "p2c" in self.pos_att_type:
                of_queries = self.q_proj if self.share_att_key else self.pos_q_proj
                products = keys @ self.split_heads(of_queries(relative)).mT
                scores = scores + products.gather(-1, rows.mT).mT
        weights = self.dropout(masked_softmax(scores * self.scale, mask, segment_ids=segment_ids))
        output = self.out_proj((weights @ values).transpose(1, 2).flatten(2))
        return (output, weights) if return_weights else output

    def rows(self, distance: Tensor) -> Tensor:
        """Which row of the table stands for tokens that are `distance` after what they look at."""
        if self.position_buckets is not None:
            middle = self.position_buckets // 2
            far = distance.abs().clamp(min=middle).double() / middle
            steps = far.log() / math.log((self.max_relative_positions - 1) / middle) * (middle - 1)
            bucket = (middle + steps.ceil().long()) * distance.sign()
            distance = torch.where(distance.abs() <= middle, distance, bucket)
        return (distance + self.span).clamp(0, 2 * self.span - 1)

    def split_heads(self, projected: Tensor) -> Tensor:
        """`(..., t, n * h)` to `(..., n, t, h)`."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
