"""Self-attention with nothing to learn: tokens are compared by their dot products."""

import torch
from torch import Tensor, nn


class SimpleSelfAttention(nn.Module):
    """Self-attention without trained weights and without a scale.

    See `jax_attn.from_scratch.simple.SimpleSelfAttention`, its twin, for the formula.

    Source: "Build a Large Language Model From Scratch", section 3.3.
    """

    def forward(self, x: Tensor, need_weights: bool = False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """`(t, d)` or `(b, t, d)` to the same; with `need_weights` to `(output, scores, weights)`."""
        scores = x @ x.mT
        weights = torch.softmax(scores, dim=-1)
        output = weights @ x
        return (output, scores, weights) if need_weights else output
