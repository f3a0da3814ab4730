"""Scores of all tokens, from the table that embeds them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked


class TiedHead(nn.Module):
    """`softcap(scale · x Eᵀ + b)`, with the table `E` of the embeddings, which the head is called with.

    See `jax_attn.nn.layers.tied_head.TiedHead`, its twin.

    Source: Press and Wolf (arXiv 1608.05859); Inan et al. (arXiv 1611.01462).
    """

    @checked()
    def __init__(self, vocab_size: int, bias: bool = False, softcap: float | None = None, scale: float = 1.0):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None
        self.softcap = softcap
        self.scale = scale

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """`(t, d)` or `(b, t, d)` and the table `(vocab_size, d)` to logits `(..., t, vocab_size)`."""
        return soft_cap(F.linear(x * self.scale, table, self.bias), self.softcap)


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """`cap * tanh(logits / cap)`; the logits themselves without a cap."""
    return logits if cap is None else cap * torch.tanh(logits / cap)
