"""From token ids to vectors: what the token is, where it stands, which segment it belongs to."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, require_known
from torch_ref.nn.positions.learned import LearnedPositions
from torch_ref.nn.positions.sinusoidal import SinusoidalPositions
from torch_ref.nn.primitives import make_norm

POSITIONS: dict[str, Callable[..., nn.Module]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
}


class Embeddings(nn.Module):
    """`dropout(norm(token[ids] + segment[segment_ids] + position))`, each part of which may be left out.

    See `jax_attn.nn.layers.embeddings.Embeddings`, its twin, for the arguments. An id outside its table is
    an IndexError here.

    Source: Devlin et al. (arXiv 1810.04805), section 3; factorised: Lan et al. (arXiv 1909.11942), section 3.1.
    """

    @checked()
    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        max_positions: int | None,
        num_segments: int = 2,
        dropout: float = 0.0,
        positions: str | nn.Module | None = "learned",
        eps: float = 1e-12,
        padding_idx: int | None = None,
        norm: str | None = "layer",
        scaled: bool = False,
        embedding_dim: int | None = None,
        skip_padding: bool = False,
    ):
        super().__init__()
        width = embed_dim if embedding_dim is None else embedding_dim
        self.skipped = padding_idx if skip_padding else None
        self.scale = width**0.5 if scaled else None
        self.token = nn.Embedding(vocab_size, width, padding_idx)
        self.segment = nn.Embedding(num_segments, width) if num_segments else None
        if isinstance(positions, str):
            require_known("positions", positions, POSITIONS)
        self.position = (
            POSITIONS[positions](max_positions, width) if isinstance(positions, str) else positions
        )
        self.norm = None if norm is None else make_norm(norm, width, eps)
        self.dropout = nn.Dropout(dropout)
        self.projection = None if embedding_dim is None else nn.Linear(embedding_dim, embed_dim)

    def forward(
        self, token_ids: Tensor, segment_ids: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """`(t,)` or `(b, t)` ids, with segment 0 throughout where none is given, to `(..., t, embed_dim)`."""
        if self.skipped is not None and positions is None:
            real = token_ids != self.skipped
            positions = torch.where(real, real.cumsum(-1) - 1, -1)
        x = self.token(token_ids)
        if self.scale is not None:
            x = x * self.scale
        if self.segment is not None:
            x = x + self.segment(torch.zeros_like(token_ids) if segment_ids is None else segment_ids)
        if self.position is not None:
            x = self.position(x, positions)
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x)
        return x if self.projection is None else self.projection(x)
