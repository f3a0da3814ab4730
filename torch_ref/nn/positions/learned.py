"""Positions as a table that is learned."""

from torch import Tensor, nn


class LearnedPositions(nn.Embedding):
    """Adds a learned vector to each token, one per position: `x[t] + weight[t]`.

    See `jax_attn.nn.positions.learned.LearnedPositions`, its twin.

    Source: Devlin et al. (arXiv 1810.04805), section 3; the idea is Gehring et al.'s (arXiv 1705.03122).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int):
        super().__init__(num_embeddings, embedding_dim)

    # Only the table is inherited: this is called with vectors, not with ids.
    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter]
        """`(t, d)` or `(b, t, d)` to the same shape."""
        return x + self.weight[: x.shape[-2]]
