"""Heads that hear each other: scores and weights mixed between them."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.sharding import in_auto_axes


class TalkingHeads(nnx.Module):
    """Mix the scores of all heads before the softmax, and their weights after it.

    `S'_n = Σ_m before[n, m] S_m` and `W'_n = Σ_m after[n, m] W_m`. Neither needs the matrix of scores: as
    `S'_n = [before[n, 1] q_1, ..., before[n, N] q_N] · [k_1, ..., k_N]`, mixed scores are those of wider heads that
    share one key, and likewise weights and values. So every implementation computes them, at N times the products.

    Parameters: `before` and `after` `(num_heads, num_heads)`, drawn from U(±1/sqrt(num_heads)).

    Args:
        num_heads: number of query heads.
        rngs: source of the initial weights.
        dtype: not used; the mixing is computed in the dtype of the heads.
        param_dtype: dtype of the parameters.

    Source: Shazeer et al. (arXiv 2003.02436), section 3. Scores are mixed before a soft-cap, positions and masks.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "before": (None, None),
        "after": (None, None),
    }

    @checked
    def __init__(
        self,
        num_heads: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_heads", num_heads)
        bound = num_heads**-0.5
        self.before, self.after = (
            nnx.Param(rngs.params.uniform((num_heads, num_heads), param_dtype, -bound, bound))
            for _ in range(2)
        )

    def widen(
        self, query: Float[Array, "B T N H"], key: Float[Array, "B S K H"], value: Float[Array, "B S K Hv"]
    ) -> tuple[Array, Array, Array]:
        """Queries `(B, T, N, N H)` of mixed scores, and one key `(B, S, 1, N H)` and value `(B, S, 1, N Hv)`."""

        def run(given: tuple[Array, ...]) -> tuple[Array, ...]:
            query, key, value, before = given
            heads = query.shape[2]
            mixed = jnp.einsum("btmh,nm->btnmh", query, before.astype(query.dtype))
            key, value = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (key, value))
            key, value = (x.reshape(*x.shape[:2], 1, -1) for x in (key, value))
            return mixed.reshape(*query.shape[:3], -1), key, value

        operands = query, key, value, self.before[...]
        query, key, value = in_auto_axes(run, operands, query, ("BTNH", "BSOH", "BSOH"))
        return query, key, value

    def mix_outputs(self, wide: Float[Array, "B T N NHv"]) -> Float[Array, "B T N Hv"]:
        """The outputs of mixed weights, from each head's weights times all heads' values."""
        of_all = wide.reshape(*wide.shape[:3], wide.shape[2], -1)
        return jnp.einsum("btmnh,nm->btnh", of_all, self.after[...].astype(wide.dtype))

    def mix_weights(self, weights: Float[Array, "B N T S"]) -> Float[Array, "B N T S"]:
        """The mixed weights."""
        return jnp.einsum("bmts,nm->bnts", weights, self.after[...].astype(weights.dtype))

    def __call__(self, scores: Float[Array, "b n t s"]) -> Float[Array, "b n t s"]:
        """The definition: scores `(b, n, t, s)` to mixed weights of the same shape."""
        mixed = jnp.einsum("bmts,nm->bnts", scores, self.before[...].astype(scores.dtype))
        return self.mix_weights(nnx.softmax(mixed, axis=-1))
