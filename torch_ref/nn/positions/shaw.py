"""Positions as keys and values that are learned for each distance."""

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.positions.attention_positions import AttentionPositions, counted


class ShawPositions(nn.Module, AttentionPositions):
    """A key and a value for each distance `d = clip(p_j - p_i, -r, r)`, shared by all heads.

    See `jax_attn.nn.positions.shaw.ShawPositions`, its twin, for the formulas.

    Source: Shaw et al. (arXiv 1803.02155), equations 3 to 5.
    """

    @checked()
    def __init__(self, head_dim: int, max_distance: int, values: bool = True):
        super().__init__()
        self.max_distance = max_distance
        self.key_table = nn.Embedding(2 * max_distance + 1, head_dim)
        self.value_table = nn.Embedding(2 * max_distance + 1, head_dim) if values else None

    def bias(self, query: Tensor, scale: float, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
        """The products of queries `(b, n, t, h)` with the keys of all distances."""
        keys = self.key_table(self.row(q_positions, kv_positions))  # (b, t, s, h)
        return (query[..., None, :] * keys[:, None]).sum(dim=-1) * scale

    def values(self, weights: Tensor, q_positions: Tensor, kv_positions: Tensor) -> Tensor | float:
        """The weighted values `(b, n, t, h)` of all distances."""
        if self.value_table is None:
            return 0.0
        return (weights[..., None] * self.value_table(self.row(q_positions, kv_positions))[:, None]).sum(
            dim=-2
        )

    def row(self, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
        """The row `(b, t, s)` of the tables that belongs to each distance."""
        distance = kv_positions[:, None, :] - q_positions[:, :, None]
        return distance.clamp(-self.max_distance, self.max_distance) + self.max_distance

    def forward(
        self,
        scores: Tensor,
        query: Tensor,
        weights: Tensor,
        q_positions: Tensor | None = None,
        kv_positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The changed scores `(b, n, t, s)`, and what is added to the outputs `(b, t, n, h)`."""
        at = counted(scores, q_positions, kv_positions)
        changed = scores + self.bias(query.transpose(1, 2), query.shape[-1] ** -0.5, *at)
        if self.value_table is None:
            return changed, None
        added: Tensor = self.values(weights, *at)  # ty: ignore[invalid-assignment]
        return changed, added.transpose(1, 2)
