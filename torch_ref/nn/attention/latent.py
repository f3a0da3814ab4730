"""Attention whose keys and values are kept as one short vector a token."""

from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.positions.attention_positions import AttentionPositions
from torch_ref.nn.primitives import RMSNorm, masked_softmax


class LatentAttention(nn.Module):
    """Multi-head latent attention (MLA): keys and values of all heads come from one latent vector a token.

    See `jax_attn.nn.attention.latent.LatentAttention`, its twin, for the formula and the arguments; this is the
    plain form.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1; layout of the projections as transformers' DeepseekV3.
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int | None = None,
        q_lora_rank: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        is_causal: bool = False,
        positions: AttentionPositions | None = None,
        scale: float | None = None,
        norm_eps: float = 1e-6,
        window: int | None = None,
    ):
        super().__init__()
        v_head_dim = qk_nope_head_dim if v_head_dim is None else v_head_dim
        query_dim = qk_nope_head_dim + qk_rope_head_dim
        self.num_heads = num_heads
        self.of_kv_a = [kv_lora_rank, qk_rope_head_dim]
        self.of_query = [qk_nope_head_dim, qk_rope_head_dim]
        self.of_kv_b = [qk_nope_head_dim, v_head_dim]
        self.is_causal = is_causal
        self.window = window
        self.positions = positions
        self.scale = query_dim**-0.5 if scale is None else scale
        if q_lora_rank is None:
            self.q_proj = nn.Linear(embed_dim, num_heads * query_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(embed_dim, q_lora_rank, bias=bias)
            self.q_a_norm = RMSNorm(q_lora_rank, norm_eps)
            self.q_b_proj = nn.Linear(q_lora_rank, num_heads * query_dim, bias=False)
        self.q_lora_rank = q_lora_rank
        self.kv_a_proj = nn.Linear(embed_dim, sum(self.of_kv_a), bias=bias)
        self.kv_a_norm = RMSNorm(kv_lora_rank, norm_eps)
        self.kv_b_proj = nn.Linear(kv_lora_rank, num_heads * sum(self.of_kv_b), bias=False)
        self.out_proj = nn.Linear(num_heads * v_head_dim, embed_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """`(b, t, d)` to the same shape; or all of them without `b`."""
        if x.ndim == 2:  # a batch of one
            given = (mask, positions, segment_ids)
            mask, positions, segment_ids = (None if part is None else part[None] for part in given)
            named: Any = {"positions": positions, "segment_ids": segment_ids}
            result = self(x[None], mask, **named, return_weights=return_weights)
            return tuple(part[0] for part in result) if return_weights else result[0]
        if self.q_lora_rank is None:
            queries = self.split_heads(self.q_proj(x))
        else:
            queries = self.split_heads(self.q_b_proj(self.q_a_norm(self.q_a_proj(x))))
        q_nope, q_rope = queries.split(self.of_query, dim=-1)
        latent, k_rope = self.kv_a_proj(x).split(self.of_kv_a, dim=-1)
        made = self.split_heads(self.kv_b_proj(self.kv_a_norm(latent)))
        k_nope, values = made.split(self.of_kv_b, dim=-1)
        k_rope = k_rope[:, None]
        scores: Any = 0.0
        if self.positions is not None:
            at = torch.arange(x.shape[1], device=x.device)[None] if positions is None else positions
            q_rope, k_rope = self.positions.rotate(q_rope, at), self.positions.rotate(k_rope, at)
            scores = self.positions.bias(q_rope, self.scale, at, at)
        scores = (q_nope @ k_nope.mT + q_rope @ k_rope.mT) * self.scale + scores
        weights = self.dropout(masked_softmax(scores, mask, self.is_causal, self.window, segment_ids))
        output = self.out_proj((weights @ values).transpose(1, 2).flatten(2))
        return (output, weights) if return_weights else output

    def split_heads(self, projected: Tensor) -> Tensor:
        """`(b, t, n * h)` to `(b, n, t, h)`."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
