"""From token ids to vectors: what the token is, where it stands, which segment it belongs to."""

import torch
from torch import Tensor, nn

from torch_ref.nn.positions.learned import LearnedPositions
from torch_ref.nn.positions.sinusoidal import SinusoidalPositions

POSITIONS = {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions}


class Embeddings(nn.Module):
    """`dropout(norm(token[ids] + segment[segment_ids] + position))`.

    See `jax_attn.nn.layers.embeddings.Embeddings`, its twin, for the arguments. An id outside its table is
    an IndexError here.

    Source: Devlin et al. (arXiv 1810.04805), section 3.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        max_positions: int,
        num_segments: int = 2,
        dropout: float = 0.0,
        positions: str = "learned",
        eps: float = 1e-12,
        padding_idx: int | None = None,
    ):
        super().__init__()
        self.token = nn.Embedding(vocab_size, embed_dim, padding_idx)
        self.segment = nn.Embedding(num_segments, embed_dim)
        self.position = POSITIONS[positions](max_positions, embed_dim)
        self.norm = nn.LayerNorm(embed_dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_ids: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """`(t,)` or `(b, t)` ids, with segment 0 throughout where none is given, to `(..., t, embed_dim)`."""
        if segment_ids is None:
            segment_ids = torch.zeros_like(token_ids)
        vectors = self.token(token_ids) + self.segment(segment_ids)
        return self.dropout(self.norm(self.position(vectors)))
