"""A softmax that is exact in float64, safe in 16 bits, and gives zero where nothing may be attended to."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_softmax(
    scores: Float[Array, "*rows S"], mask: Bool[Array, "..."] | None = None
) -> Float[Array, "*rows S"]:
    """Softmax over the last axis of the positions that `mask` keeps.

    `weights[s] = exp(scores[s] - m) / sum_j exp(scores[j] - m)`, with `m` the largest kept score.

    It is computed in float32 for 16-bit scores and in the scores' own dtype from float32 up, so float64
    stays float64 (`jax.nn.dot_product_attention` drops to float32 here). A row in which nothing is kept
    gives weights of 0 and gradients of 0, never NaN.

    Args:
        scores: any shape `(..., S)`.
        mask: True = attend; broadcasts against `scores`.

    Returns:
        weights in the dtype of `scores`; each row sums to 1, or to 0 where nothing is kept.
    """
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if mask is not None:
        wide = jnp.where(mask, wide, -jnp.inf)
    peak = jnp.max(wide, axis=-1, keepdims=True, initial=-jnp.inf)
    peak = jnp.where(peak == -jnp.inf, 0.0, peak)  # exp(-inf - 0) is 0, exp(-inf - -inf) would be NaN
    exponentials = jnp.exp(wide - peak)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return (exponentials / jnp.where(total == 0, 1.0, total)).astype(scores.dtype)
