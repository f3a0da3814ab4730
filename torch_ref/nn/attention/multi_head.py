"""The attention that models are built from: many heads, on one sequence or across two."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, divided, head_width
from torch_ref.nn.attention.talking_heads import TalkingHeads
from torch_ref.nn.positions.attention_positions import AttentionPositions
from torch_ref.nn.primitives import NORMS, make_norm


class MultiHeadAttention(nn.Module):
    """Multi-head attention, in which query heads may share key/value heads.

    See `jax_attn.nn.attention.multi_head.MultiHeadAttention`, its twin, for the formula and the arguments.
    Masks are boolean and True = attend, here too. A mask mod and a score mod get tensors of indices that broadcast.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.2.2; MQA: Shazeer (arXiv 1911.02150); GQA: Ainslie
    et al. (arXiv 2305.13245).
    """

    @checked(gate=(None, "head", "element"), sinks=(None, "learned", "off_by_one"), qk_norm=(None, *NORMS))
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool | Sequence[str] = True,
        head_dim: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        out_dim: int | None = None,
        is_causal: bool = False,
        window: int | None = None,
        mask_mod: Callable[..., Tensor] | None = None,
        positions: AttentionPositions | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        score_mod: Callable[..., Tensor] | None = None,
        qk_norm: str | None = None,
        qk_norm_eps: float = 1e-6,
        sinks: str | None = None,
        gate: str | None = None,
        talking_heads: bool = False,
        v_head_dim: int | None = None,
    ):
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        head_dim = head_width(embed_dim, num_heads, head_dim)
        v_head_dim = head_dim if v_head_dim is None else v_head_dim
        kdim = embed_dim if kdim is None else kdim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.v_head_dim = v_head_dim
        self.queries_per_key = divided("num_heads", num_heads, "num_kv_heads", num_kv_heads)
        self.is_causal = is_causal
        self.window = window
        self.mask_mod = mask_mod
        self.positions = positions
        self.scale = head_dim**-0.5 if scale is None else scale
        self.softcap = softcap
        self.score_mod = score_mod
        self.gate = gate
        self.off_by_one = sinks == "off_by_one"

        biases = (("q", "k", "v", "out") if bias else ()) if isinstance(bias, bool) else bias
        self.q_proj = nn.Linear(embed_dim, num_heads * head_dim, "q" in biases)
        self.k_proj = nn.Linear(kdim, num_kv_heads * head_dim, "k" in biases)
        self.v_proj = nn.Linear(kdim if vdim is None else vdim, num_kv_heads * v_head_dim, "v" in biases)
        self.out_proj = nn.Linear(
            num_heads * v_head_dim, embed_dim if out_dim is None else out_dim, "out" in biases
        )
        self.dropout = nn.Dropout(dropout)
        self.q_norm, self.k_norm = (
            None if qk_norm is None else make_norm(qk_norm, head_dim, qk_norm_eps) for _ in "qk"
        )
        self.sinks = nn.Parameter(torch.randn(num_heads)) if sinks == "learned" else None
        gates = {None: 0, "head": num_heads, "element": num_heads * v_head_dim}[gate]
        self.gate_proj = nn.Linear(embed_dim, gates, "q" in biases) if gates else None
        self.talking_heads = TalkingHeads(num_heads) if talking_heads else None

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        value: Tensor | None = None,
        bias: Tensor | None = None,
        positions: Tensor | None = None,
        context_positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: tuple[Tensor, Tensor] | None = None,
        return_weights: bool = False,
    ) -> Any:
        """`(b, t, d)` and a context `(b, s, k)` to `(b, t, o)`; or all of them without `b`.

        A cache is the keys and values `(b, s, k, h)` of the tokens before, `None` of none; what is returned has
        those of `x` appended. Ours are by position and of one size; here nothing is padded.
        """
        if x.ndim == 2:  # a batch of one
            given = (context, mask, value, bias, positions, context_positions, segment_ids)
            context, mask, *rest = (None if part is None else part[None] for part in given)
            names = ("value", "bias", "positions", "context_positions", "segment_ids")
            named: Any = dict(zip(names, rest, strict=True))
            result = self(x[None], context, mask, **named, return_weights=return_weights)
            return tuple(part[0] for part in result) if return_weights else result[0]

        past = 0 if cache is None else cache[0].shape[2]
        if context is None:
            context, context_positions = x, positions
        queries = self.split_heads(self.q_proj(x))
        keys = self.split_heads(self.k_proj(context))
        values = self.split_heads(self.v_proj(context if value is None else value), self.v_head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        at = self.places(positions, x.shape[1], past, x)
        of_keys = self.places(context_positions, context.shape[1], past, x)
        if self.positions is not None:
            queries, keys = self.positions.rotate(queries, at), self.positions.rotate(keys, of_keys)
        if cache is not None:
            keys, values = torch.cat([cache[0], keys], dim=2), torch.cat([cache[1], values], dim=2)
            of_keys = self.places(None, keys.shape[2], 0, x)
        new_cache = keys, values
        keys, values = (part.repeat_interleave(self.queries_per_key, dim=1) for part in new_cache)

        scores = queries @ keys.mT
        if self.talking_heads is not None:
            scores = self.talking_heads.mix(scores)
        scores = self.changed(scores * self.scale, queries, at, of_keys)
        if bias is not None:
            scores = scores + bias
        allowed = self.allowed(scores, at, of_keys, past)
        if segment_ids is not None:
            allowed = allowed & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
        if mask is not None:
            allowed = allowed & {2: mask[:, None, None], 3: mask[:, None], 4: mask}[mask.ndim]
        weights = self.dropout(self.softmax(scores.masked_fill(~allowed, -torch.inf)))
        if self.talking_heads is not None:
            weights = self.talking_heads.mix_weights(weights)
        heads = weights @ values
        if self.positions is not None:
            heads = heads + self.positions.values(weights, at, of_keys)
        if self.gate_proj is not None:
            gate = self.gate_proj(x).sigmoid().unflatten(-1, (self.num_heads, -1))
            heads = heads * gate.transpose(1, 2)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))
        asked = [*([weights] if return_weights else []), *([new_cache] if cache is not None else [])]
        return (output, *asked) if asked else output

    def init_cache(self, batch: int) -> tuple[Tensor, Tensor]:
        """The keys and values of no tokens."""
        shape = batch, self.num_heads // self.queries_per_key, 0
        new = self.k_proj.weight.new_zeros
        return new(*shape, self.head_dim), new(*shape, self.v_head_dim)

    def changed(self, scores: Tensor, queries: Tensor, at: Tensor, of_keys: Tensor) -> Tensor:
        """The scores after soft-cap, positions and score mod."""
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.positions is not None:
            scores = scores + self.positions.bias(queries, self.scale, at, of_keys)
        if self.score_mod is not None:
            scores = self.score_mod(scores, *self.indices(scores, at, of_keys))
        return scores

    def allowed(self, scores: Tensor, at: Tensor, of_keys: Tensor, past: int) -> Tensor:
        """Which query sees which key, by causality, window and mask mod."""
        query, key = (torch.arange(size, device=scores.device) for size in scores.shape[-2:])
        ahead = key - (query[:, None] + past)
        allowed = torch.ones_like(ahead, dtype=torch.bool)
        if self.is_causal:
            allowed = allowed & (ahead <= 0)
        if self.window is not None:
            allowed = allowed & (ahead.abs() < self.window)
        if self.mask_mod is not None:
            allowed = allowed & self.mask_mod(*self.indices(scores, at, of_keys))
        return allowed

    def softmax(self, scores: Tensor) -> Tensor:
        """The weights, beside a sink where there is one; 0 where nothing is allowed."""
        if self.off_by_one or self.sinks is not None:
            sink = scores.new_zeros(self.num_heads) if self.sinks is None else self.sinks
            column = sink[:, None, None].expand(*scores.shape[:-1], 1)
            return torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
        closed = (scores == -torch.inf).all(dim=-1, keepdim=True)  # there the softmax is NaN
        return torch.softmax(scores.masked_fill(closed, 0.0), dim=-1).masked_fill(closed, 0.0)

    def indices(self, scores: Tensor, at: Tensor, of_keys: Tensor) -> tuple[Tensor, ...]:
        """Batch entry, head and the two positions, each to broadcast against the scores."""
        b, h = (torch.arange(size, device=scores.device) for size in scores.shape[:2])
        return b[:, None, None, None], h[:, None, None], at[:, None, :, None], of_keys[:, None, None, :]

    def split_heads(self, projected: Tensor, width: int | None = None) -> Tensor:
        """`(b, t, n * width)` to `(b, n, t, width)`; None is `head_dim`."""
        return projected.unflatten(-1, (-1, self.head_dim if width is None else width)).transpose(1, 2)

    @staticmethod
    def places(positions: Tensor | None, tokens: int, past: int, like: Tensor) -> Tensor:
        """The positions `(b or 1, t)`, counted on from `past` where they are not given."""
        if positions is not None:
            return positions
        return torch.arange(past, past + tokens, device=like.device)[None]
