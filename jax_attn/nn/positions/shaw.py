"""Positions as keys and values that are learned for each distance."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional.checks import checked, require_positive
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, changed
from jax_attn.nn.primitives import Embedding


class ShawPositions(nnx.Module, AttentionPositions):
    """A key and a value for each distance `d = clip(p_j - p_i, -r, r)`, shared by all heads.

    `scores[h, i, j] + scale · q[h, i] · key_table[d + r]`, and `outputs[h, i] + Σ_j weights[h, i, j]
    value_table[d + r]`. The second needs the weights, all `T × S` of them.

    Parameters: `key_table.embedding`, and `value_table.embedding` with `values`: `(2 r + 1, head_dim)` each, drawn
    from N(0, 1).

    Args:
        head_dim: width of a head.
        max_distance: `r`; farther tokens are as far as this.
        values: whether there are values as well as keys.
        rngs: source of the initial weights.
        dtype: not used; products are computed in the dtype of the queries.
        param_dtype: dtype of the tables.

    Raises:
        ValueError: `head_dim` or `max_distance` is not positive, or `head_dim` is not that of the attention.

    Source: Shaw et al. (arXiv 1803.02155), equations 3 to 5.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "key_table": ("positions", "head_dim"),
        "value_table": ("positions", "head_dim"),
    }

    @checked
    def __init__(
        self,
        head_dim: int,
        max_distance: int,
        values: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("head_dim", head_dim)
        require_positive("max_distance", max_distance)
        self.head_dim = head_dim
        self.max_distance = max_distance
        self.needs_weights = values
        distances = 2 * max_distance + 1
        self.key_table = Embedding(distances, head_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.value_table = (
            Embedding(distances, head_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
            if values
            else None
        )

    def check_heads(self, num_heads: int, head_dim: int) -> None:
        """One width of heads."""
        if head_dim != self.head_dim:
            raise ValueError(
                f"positions are for heads of width {self.head_dim}, the attention has {head_dim}"
            )

    def score_mod(self, query: Float[Array, "B T N H"], scale: float, places: Places) -> ScoreMod:
        """The products with the keys, taken once for each query and distance."""
        wide = accumulator(query.dtype)
        table = self.key_table.embedding[...].astype(wide)
        products = jnp.einsum("btnh,rh->bntr", query.astype(wide), table) * scale

        def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
            row = self._row(places.distance(b, q_idx, kv_idx))
            return score + products[b, h, q_idx, row].astype(score.dtype)

        return score_mod

    def values(self, weights: Float[Array, "B N T S"], places: Places) -> Float[Array, "B T N H"] | None:
        """The values, with the weights of all keys at one distance added up."""
        if self.value_table is None:
            return None
        wide, (batch, _, queries, keys) = accumulator(weights.dtype), weights.shape
        rows = jax.nn.one_hot(
            self._row(places.distances(queries, keys)), 2 * self.max_distance + 1, dtype=wide
        )
        rows = jnp.broadcast_to(rows, (batch, *rows.shape[1:]))
        of_distances = jnp.einsum("bnts,btsr->btnr", weights.astype(wide), rows)
        added = jnp.einsum("btnr,rh->btnh", of_distances, self.value_table.embedding[...].astype(wide))
        return added.astype(weights.dtype)

    def _row(self, distance: Array) -> Array:
        return jnp.clip(distance, -self.max_distance, self.max_distance) + self.max_distance

    def __call__(
        self,
        scores: Float[Array, "b n t s"],
        query: Float[Array, "b t n h"],
        weights: Float[Array, "b n t s"],
        q_positions: Int[Array, "#b t"] | None = None,
        kv_positions: Int[Array, "#b s"] | None = None,
    ) -> tuple[Float[Array, "b n t s"], Float[Array, "b t n h"] | None]:
        """What it makes of its parts, with the usual scale.

        Args:
            scores: `(b, n, t, s)`.
            query: `(b, t, n, head_dim)`.
            weights: `(b, n, t, s)`.
            q_positions: `(b or 1, t)`; None counts from 0.
            kv_positions: `(b or 1, s)` likewise.

        Returns:
            the changed scores, and what is added to the outputs; None without values.
        """
        places = Places(q_positions, kv_positions)
        mod = self.score_mod(query, self.head_dim**-0.5, places)
        return changed(scores, mod), self.values(weights, places)
