"""Positions as a penalty on distance, with nothing to learn."""

import math

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.positions.attention_positions import AttentionPositions, counted


class AlibiPositions(nn.Module, AttentionPositions):
    """`scores[h, i, j] - slope[h] |p_i - p_j|`: the farther away, the less a key counts, less so in later heads.

    See `jax_attn.nn.positions.alibi.AlibiPositions`, its twin.

    Source: Press et al. (arXiv 2108.12409), section 3 and its published code.
    """

    @checked()
    def __init__(self, num_heads: int):
        super().__init__()
        power = 2 ** math.floor(math.log2(num_heads))
        slopes = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
        of_next = [2.0 ** (-8.0 * i / (2 * power)) for i in range(1, 2 * power + 1)]
        self.slopes = slopes + of_next[::2][: num_heads - power]

    def bias(self, query: Tensor, scale: float, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
        """The penalty, `(b, n, t, s)`."""
        distance = (kv_positions[:, None, None, :] - q_positions[:, None, :, None]).abs()
        return -query.new_tensor(self.slopes)[:, None, None] * distance

    def forward(
        self, scores: Tensor, q_positions: Tensor | None = None, kv_positions: Tensor | None = None
    ) -> Tensor:
        """Scores `(b, n, t, s)` with the penalty; positions that are not given are counted from 0."""
        return scores + self.bias(scores, 1.0, *counted(scores, q_positions, kv_positions))
