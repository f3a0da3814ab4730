"""Attention whose weights are the difference of two softmaxes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked, divided, head_width
from torch_ref.nn.positions.attention_positions import AttentionPositions
from torch_ref.nn.primitives import masked_softmax


class DifferentialAttention(nn.Module):
    """Differential attention: noise that two softmaxes have in common cancels.

    See `jax_attn.nn.attention.differential.DifferentialAttention`, its twin, for the formula and the arguments.

    Source: Ye et al. (arXiv 2410.05258), section 2.1; order of the heads as transformers' DiffLlama.
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool | Sequence[str] = True,
        head_dim: int | None = None,
        is_causal: bool = False,
        positions: AttentionPositions | None = None,
        scale: float | None = None,
        layer_index: int = 0,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        head_dim = head_width(embed_dim, num_heads, head_dim)
        self.head_dim = head_dim
        self.queries_per_key = divided("num_heads", num_heads, "num_kv_heads", num_kv_heads)
        self.is_causal = is_causal
        self.positions = positions
        self.scale = head_dim**-0.5 if scale is None else scale
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer_index)
        self.norm_eps = norm_eps
        biases = (("q", "k", "v", "out") if bias else ()) if isinstance(bias, bool) else bias
        self.q_proj = nn.Linear(embed_dim, num_heads * head_dim, "q" in biases)
        self.k_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, "k" in biases)
        self.v_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, "v" in biases)
        self.out_proj = nn.Linear(num_heads * head_dim, embed_dim, "out" in biases)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(0.1 * torch.randn(head_dim)) for _ in range(4)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """`(b, t, d)`, and a context `(b, s, d)`, to the shape of `x`; or all of them without `b`."""
        if x.ndim == 2:  # a batch of one
            given = (context, mask, positions, segment_ids)
            context, mask, *rest = (None if part is None else part[None] for part in given)
            named: Any = dict(zip(("positions", "segment_ids"), rest, strict=True))
            result = self(x[None], context, mask, **named, return_weights=return_weights)
            return tuple(part[0] for part in result) if return_weights else result[0]
        at = torch.arange(x.shape[1], device=x.device)[None] if positions is None else positions
        of_keys = at if context is None else torch.arange(context.shape[1], device=x.device)[None]
        context = x if context is None else context
        queries, keys, values = (
            projection(given).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection, given in ((self.q_proj, x), (self.k_proj, context), (self.v_proj, context))
        )
        values = torch.cat(values.chunk(2, dim=1), dim=-1)
        bias: Any = 0.0
        if self.positions is not None:
            queries, keys = self.positions.rotate(queries, at), self.positions.rotate(keys, of_keys)
            bias = self.positions.bias(queries, self.scale, at, of_keys)
        keys, values = (part.repeat_interleave(self.queries_per_key, dim=1) for part in (keys, values))
        scores = queries @ keys.mT * self.scale + bias
        both = self.dropout(masked_softmax(scores, mask, self.is_causal, segment_ids=segment_ids))
        first, second = both.chunk(2, dim=1)
        factor = (self.lambda_q1 * self.lambda_k1).sum().exp() - (self.lambda_q2 * self.lambda_k2).sum().exp()
        weights = first - (factor + self.lambda_init) * second
        heads = F.rms_norm(weights @ values, (2 * self.head_dim,), eps=self.norm_eps)
        output = self.out_proj((heads * (1 - self.lambda_init)).transpose(1, 2).flatten(2))
        return (output, weights) if return_weights else output
