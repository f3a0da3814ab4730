"""Attention whose scores know how far a key is before its query, and which looks back into an earlier segment."""

from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, head_width
from torch_ref.nn.primitives import masked_softmax


class RelativeAttention(nn.Module):
    """Relative attention of Transformer-XL, with a memory of the segment before.

    See `jax_attn.nn.attention.relative.RelativeAttention`, its twin, for the formula and the arguments; here the
    waves of each pair's distance are projected for themselves.

    Source: Dai et al. (arXiv 1901.02860), section 3.3; the waves' order as its published code and XLNet's.
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = False,
        head_dim: int | None = None,
        is_causal: bool = False,
        window: int | None = None,
    ):
        super().__init__()
        head_dim = head_width(embed_dim, num_heads, head_dim)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.is_causal = is_causal
        self.window = window
        self.scale = head_dim**-0.5
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(embed_dim, num_heads * head_dim, bias=bias) for _ in "qkv"
        )
        self.r_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(num_heads * head_dim, embed_dim, bias=bias)
        self.content_bias, self.position_bias = (
            nn.Parameter(0.02 * torch.randn(num_heads, head_dim)) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """`(b, t, d)`, and a memory `(b, m, d)`, to the shape of `x`; or all of them without `b`."""
        if x.ndim == 2:  # a batch of one
            given = (memory, mask, segment_ids)
            memory, mask, segment_ids = (None if part is None else part[None] for part in given)
            result = self(x[None], memory, mask, segment_ids=segment_ids, return_weights=return_weights)
            return tuple(part[0] for part in result) if return_weights else result[0]
        context = x if memory is None else torch.cat([memory, x], dim=1)
        past = context.shape[1] - x.shape[1]
        query, key = (torch.arange(part.shape[1], device=x.device) for part in (x, context))
        distance = past + query[:, None] - key

        queries = self.q_proj(x).unflatten(-1, (self.num_heads, -1))
        keys, values = (p(context).unflatten(-1, (self.num_heads, -1)) for p in (self.k_proj, self.v_proj))
        of_distance = self.r_proj(self.waves(distance, x)).unflatten(-1, (self.num_heads, -1))
        content = torch.einsum("btnh,bsnh->bnts", queries + self.content_bias, keys)
        position = torch.einsum("btnh,tsnh->bnts", queries + self.position_bias, of_distance)
        weights = self.softmax((content + position) * self.scale, mask, distance, segment_ids)
        heads = torch.einsum("bnts,bsnh->btnh", self.dropout(weights), values)
        output = self.out_proj(heads.flatten(2))
        return (output, weights) if return_weights else output

    def softmax(
        self, scores: Tensor, mask: Tensor | None, distance: Tensor, segment_ids: Tensor | None
    ) -> Tensor:
        """The weights of the keys that may be seen."""
        near = torch.ones_like(distance, dtype=torch.bool)
        if self.is_causal:
            near = near & (distance >= 0)
        if self.window is not None:
            near = near & (distance.abs() < self.window)
        allowed = near.expand(scores.shape)
        if mask is not None:
            allowed = allowed & mask.reshape(len(mask), *(1,) * (4 - mask.ndim), *mask.shape[1:])
        return masked_softmax(scores, allowed, segment_ids=segment_ids)

    def waves(self, distance: Tensor, like: Tensor) -> Tensor:
        """Sines, then cosines, of distances `(t, s)`: `(t, s, d)`."""
        wide = torch.promote_types(like.dtype, torch.float32)
        pair = torch.arange(0, self.embed_dim, 2, device=like.device, dtype=wide)
        angles = distance[..., None].to(wide) * 10000.0 ** (-pair / self.embed_dim)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)
