"""What an attention asks of its positions."""

import torch
from torch import Tensor


class AttentionPositions:
    """What an attention may ask of the positions that it is given; each answer here is "nothing".

    See `jax_attn.nn.positions.attention_positions.AttentionPositions`. Positions are `(b or 1, t)` integers, and
    all scores are there at once.
    """

    why_no_cache: str | None = None

    def check_heads(self, num_heads: int, head_dim: int) -> None:
        """Raise ValueError where these positions do not fit heads of this number and width."""

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """`(b, n, t, h)` queries or keys, changed by where they stand."""
        return x

    def bias(self, query: Tensor, scale: float, q_positions: Tensor, kv_positions: Tensor) -> Tensor | float:
        """What is added to the scores `(b, n, t, s)` of these queries `(b, n, t, h)`."""
        return 0.0

    def values(self, weights: Tensor, q_positions: Tensor, kv_positions: Tensor) -> Tensor | float:
        """What is added to the outputs `(b, n, t, h)` of weights `(b, n, t, s)`."""
        return 0.0


def counted(scores: Tensor, q_positions: Tensor | None, kv_positions: Tensor | None) -> tuple[Tensor, Tensor]:
    """The positions that are given, and those that are not counted from 0, as `(b or 1, t)` and `(b or 1, s)`."""
    t, s = (torch.arange(size, device=scores.device)[None] for size in scores.shape[-2:])
    return t if q_positions is None else q_positions, s if kv_positions is None else kv_positions
