"""Positions as a table that is learned."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class LearnedPositions(nn.Embedding):
    """Adds a learned vector to each token, one per position: `x[t] + weight[offset + t]`.

    See `jax_attn.nn.positions.learned.LearnedPositions`, its twin.

    Source: Devlin et al. (arXiv 1810.04805), section 3; the idea is Gehring et al.'s (arXiv 1705.03122).
    """

    @checked()
    def __init__(
        self, num_embeddings: int, embedding_dim: int, offset: int = 0, padding_idx: int | None = None
    ):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.offset = offset

    # Only the table is inherited: this is called with vectors, not with ids.
    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter]
        """`(t, d)` or `(b, t, d)` to the same shape, at positions `(t,)` or `(b, t)`; below 0 is padding."""
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)
        return x + super().forward((self.offset + positions.clamp(min=-1)).clamp(min=0))
