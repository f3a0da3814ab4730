"""Multi-head attention over FlexAttention: mask and scores are functions of positions."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class MultiHeadAttentionFlex(nn.Module):
    """Causal multi-head attention whose scores a score mod may change: what `flex_attention` computes.

    The formula is written out: torch's `flex_attention` has no backward pass on the CPU (it raises
    NotImplementedError in torch 2.13), and no dropout. The outputs of the two are compared by a test. The
    score mod is called once, with all scores and with index tensors that broadcast against them.

    See `jax_attn.from_scratch.flex.MultiHeadAttentionFlex`, its twin, for the formula and the arguments.

    Source: "Build a Large Language Model From Scratch", ch. 3, comparison of multi-head implementations;
    FlexAttention (arXiv 2412.05496).
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        num_heads: int,
        context_length: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        score_mod: ScoreMod | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.context_length = context_length
        self.score_mod = score_mod
        self.qkv = nn.Linear(d_in, 3 * d_out, bias=qkv_bias)
        self.proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, score_mod: ScoreMod | None = None) -> Tensor:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`; `score_mod` replaces the constructor's."""
        score_mod = self.score_mod if score_mod is None else score_mod
        tokens = x.shape[-2]

        # three of (b, heads, t, head_dim); without a batch axis, a batch of one
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.num_heads, self.head_dim)
        queries, keys, values = qkv.transpose(-4, -2).unbind(-3)

        position = torch.arange(tokens, device=x.device)
        q_idx, kv_idx = position[:, None], position
        scores = queries @ keys.mT / self.head_dim**0.5
        if score_mod is not None:
            b = torch.arange(len(scores), device=x.device)[:, None, None, None]
            h = torch.arange(self.num_heads, device=x.device)[:, None, None]
            scores = score_mod(scores, b, h, q_idx, kv_idx).to(scores.dtype)
        weights = torch.softmax(scores.masked_fill(kv_idx > q_idx, -torch.inf), dim=-1)
        context = self.dropout(weights) @ values
        return self.proj(context.transpose(-3, -2).flatten(-2).reshape(*x.shape[:-1], self.proj.in_features))
