"""Positions as a penalty on distance, with nothing to learn."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional import score_mods
from jax_attn.functional.checks import checked, require_positive
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, by_position, changed


class AlibiPositions(nnx.Module, AttentionPositions):
    """`scores[h, i, j] - slope[h] |p_i - p_j|`: the farther away, the less a key counts, less so in later heads.

    The slopes are `2^(-8 h / n)` for `h = 1..n`; where the number of heads is no power of two, every other slope
    of the next power fills up. It has neither parameters nor buffers.

    Args:
        num_heads: number of query heads.
        rngs: not used; taken so that every kind of position is built alike.
        dtype: not used, as `rngs`.
        param_dtype: not used, as `rngs`.

    Raises:
        ValueError: `num_heads` is not positive, or not that of the attention.

    Source: Press et al. (arXiv 2108.12409), section 3 and its published code. Where queries see what comes after
        them, distances count in both directions.
    """

    @checked
    def __init__(
        self,
        num_heads: int,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_heads", num_heads)
        self.num_heads = num_heads

    def check_heads(self, num_heads: int, head_dim: int) -> None:
        """One slope a head."""
        if num_heads != self.num_heads:
            raise ValueError(f"positions are for {self.num_heads} heads, and the attention has {num_heads}")

    def score_mod(self, query: Float[Array, "B T N H"], scale: float, places: Places) -> ScoreMod:
        """The penalty."""
        slopes = score_mods.alibi_slopes(self.num_heads)
        return by_position(score_mods.alibi(jnp.asarray(slopes, accumulator(query.dtype))), places)

    def __call__(
        self,
        scores: Float[Array, "b n t s"],
        q_positions: Int[Array, "#b t"] | None = None,
        kv_positions: Int[Array, "#b s"] | None = None,
    ) -> Float[Array, "b n t s"]:
        """Scores `(b, n, t, s)` with the penalty; positions that are not given are counted from 0."""
        return changed(scores, self.score_mod(scores, 1.0, Places(q_positions, kv_positions)))
