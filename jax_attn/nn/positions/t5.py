"""Positions as a bias that is learned for each bucket of distances."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional import score_mods
from jax_attn.functional.buckets import check_t5_buckets, t5_bucket
from jax_attn.functional.checks import checked, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, by_position, changed
from jax_attn.nn.primitives import Embedding


class T5Positions(nnx.Module, AttentionPositions):
    """`scores[h, i, j] + table[bucket(p_j - p_i), h]`: a near distance has a bucket of its own, far ones share.

    T5 does not scale its scores: its attention is `MultiHeadAttention(..., scale=1.0, positions=T5Positions(...))`.
    Where all layers share one table, as in T5 and MPNet, their `Stack(layers, positions=T5Positions(...))` has it.

    Parameters: `table.embedding` `(num_buckets, num_heads)`, drawn from N(0, 1).

    Args:
        num_heads: number of query heads.
        num_buckets: number of buckets, half of them for each direction where `bidirectional`.
        max_distance: from here on all distances share the last bucket.
        bidirectional: whether keys after the query have buckets too, as in an encoder; else they share that of 0.
        rngs: source of the initial weights.
        dtype: dtype of the biases; None is that of the table.
        param_dtype: dtype of the table.

    Raises:
        ValueError: `num_heads` is not positive, or not that of the attention; fewer than 2 buckets for a
            direction, an odd number for two, or a `max_distance` that exact buckets reach.

    Source: Raffel et al. (arXiv 1910.10683), section 2.1; as transformers' T5Attention.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "table": ("positions", "heads"),
    }

    @checked
    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_heads", num_heads)
        check_t5_buckets(bidirectional, num_buckets, max_distance)
        self.num_heads = num_heads
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.table = Embedding(num_buckets, num_heads, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def check_heads(self, num_heads: int, head_dim: int) -> None:
        """One column a head."""
        if num_heads != self.num_heads:
            raise ValueError(f"positions are for {self.num_heads} heads, and the attention has {num_heads}")

    def score_mod(self, query: Float[Array, "B T N H"], scale: float, places: Places) -> ScoreMod:
        """The bias of each distance."""
        return by_position(score_mods.t5_bias(self._table(), self.bidirectional, self.max_distance), places)

    def bias(self, places: Places, queries: int, keys: int) -> Float[Array, "b n T S"]:
        """The biases of all pairs at once, for layers that share them; one batch entry where all have the same."""
        table = self._table()
        distances = places.distances(queries, keys)
        buckets = t5_bucket(distances, self.bidirectional, table.shape[0], self.max_distance)
        return jnp.moveaxis(table[buckets], -1, 1)

    def __call__(
        self,
        scores: Float[Array, "b n t s"],
        q_positions: Int[Array, "#b t"] | None = None,
        kv_positions: Int[Array, "#b s"] | None = None,
    ) -> Float[Array, "b n t s"]:
        """Scores `(b, n, t, s)` with their biases; positions that are not given are counted from 0."""
        return changed(scores, self.score_mod(scores, 1.0, Places(q_positions, kv_positions)))

    def _table(self) -> Float[Array, "buckets n"]:
        table = self.table.embedding[...]
        return table if self.table.dtype is None else table.astype(self.table.dtype)
