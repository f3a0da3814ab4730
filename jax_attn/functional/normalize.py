"""Rows that are normalised: to a sum of 1, with a derivative that keeps its digits, or to a mean square of 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.dtypes import accumulator


@jax.custom_jvp
def normalize_rows(weights: Float[Array, "*rows S"]) -> Float[Array, "*rows S"]:
    """`weights / sum(weights)` over the last axis; a row that sums to 0 stays 0, with gradients of 0.

    Args:
        weights: any shape `(..., S)`, none below 0.
    """
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total == 0, 1, total)


@normalize_rows.defjvp
def _normalize_rows_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # (t - y Σ t) / total. Differentiated as it stands, the quotient takes t x / total² from t / total: where
    # one weight is nearly all of its row they agree in most of their digits, and rounding is what is left.
    (weights,), (tangent,) = primals, tangents
    normalized = normalize_rows(weights)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    tangent = tangent / jnp.where(total == 0, jnp.inf, total)
    for _ in range(2):
        tangent = tangent - normalized * jnp.sum(tangent, axis=-1, keepdims=True)
    return normalized, tangent


def rms_normalize(x: Float[Array, "*rows S"], eps: float) -> Float[Array, "*rows S"]:
    """`x / sqrt(mean(x²) + eps)` over the last axis, in float32 at least."""
    wide = x.astype(accumulator(x.dtype))
    return wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
