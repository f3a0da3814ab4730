"""Heads that hear each other: scores and weights mixed between them."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class TalkingHeads(nn.Module):
    """Mix the scores of all heads before the softmax, and their weights after it.

    See `jax_attn.nn.attention.talking_heads.TalkingHeads`, its twin.

    Source: Shazeer et al. (arXiv 2003.02436), section 3.
    """

    @checked()
    def __init__(self, num_heads: int):
        super().__init__()
        bound = num_heads**-0.5
        self.before, self.after = (
            nn.Parameter(torch.empty(num_heads, num_heads).uniform_(-bound, bound)) for _ in range(2)
        )

    def mix(self, scores: Tensor) -> Tensor:
        """The mixed scores."""
        return torch.einsum("bmts,nm->bnts", scores, self.before)

    def mix_weights(self, weights: Tensor) -> Tensor:
        """The mixed weights."""
        return torch.einsum("bmts,nm->bnts", weights, self.after)

    def forward(self, scores: Tensor) -> Tensor:
        """The definition: scores `(b, n, t, s)` to mixed weights of the same shape."""
        return self.mix_weights(self.mix(scores).softmax(dim=-1))
