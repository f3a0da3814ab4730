"""Positions as a bias that is learned for each bucket of distances."""

import math

import torch
from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.positions.attention_positions import AttentionPositions, counted


class T5Positions(nn.Module, AttentionPositions):
    """`scores[h, i, j] + table[bucket(p_j - p_i), h]`: a near distance has a bucket of its own, far ones share.

    See `jax_attn.nn.positions.t5.T5Positions`, its twin.

    Source: Raffel et al. (arXiv 1910.10683), section 2.1.
    """

    @checked()
    def __init__(
        self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ):
        super().__init__()
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.table = nn.Embedding(num_buckets, num_heads)

    def bias(self, query: Tensor, scale: float, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
        """The biases `(b, n, t, s)`."""
        return self.table(self.bucket(kv_positions[:, None, :] - q_positions[:, :, None])).permute(0, 3, 1, 2)

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance; logarithms are taken in float32, as T5's own code does."""
        buckets, after = self.num_buckets, 0
        if self.bidirectional:
            buckets //= 2
            after = buckets * (distance > 0)
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        steps = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (steps * (buckets - exact)).long()).clamp(max=buckets - 1)
        return after + torch.where(distance < exact, distance, far)

    def forward(
        self, scores: Tensor, q_positions: Tensor | None = None, kv_positions: Tensor | None = None
    ) -> Tensor:
        """Scores `(b, n, t, s)` with their biases; positions that are not given are counted from 0."""
        return scores + self.bias(scores, 1.0, *counted(scores, q_positions, kv_positions))
