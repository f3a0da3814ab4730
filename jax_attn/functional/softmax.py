"""A softmax that is exact in float64, safe in 16 bits, and gives zero where nothing may be attended to."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_attn.functional.dtypes import accumulator


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
    wide = scores.astype(accumulator(scores.dtype))
    if mask is None:
        mask = jnp.ones((1,) * scores.ndim, bool)
    return _softmax(wide, jnp.broadcast_to(mask, scores.shape)).astype(scores.dtype)


def masked_logsumexp(scores: Float[Array, "*rows S"], mask: Bool[Array, "..."] | None = None) -> Array:
    """`log Σ exp(scores)` over the positions of the last axis that `mask` keeps; -inf where there are none.

    A row in which nothing is kept, by the mask or by scores of -inf, has a gradient of 0, never NaN.
    """
    kept = scores != -jnp.inf  # NaN is kept: it must be seen
    if mask is not None:
        kept = kept & jnp.broadcast_to(mask, scores.shape)
    peak = jax.lax.stop_gradient(_peak(scores, kept))
    # No infinity is made on the way: `jax_debug_infs` would take it for a mistake.
    exponentials = jnp.where(kept, jnp.exp(jnp.where(kept, scores - peak, 0)), 0)
    total = jnp.sum(exponentials, axis=-1)
    return jnp.where(total == 0, -jnp.inf, peak[..., 0] + jnp.log(jnp.where(total == 0, 1, total)))


def _peak(scores: Array, kept: Array) -> Array:
    """The largest score kept, along the last axis, which stays; 0 where there is none."""
    lowest = jnp.finfo(scores.dtype).min
    peak = jnp.max(jnp.where(kept, scores, lowest), axis=-1, keepdims=True, initial=lowest)
    return jnp.where(kept.any(axis=-1, keepdims=True), peak, 0)


@jax.custom_jvp
def _softmax(scores: Array, mask: Array) -> Array:
    kept = mask & (scores != -jnp.inf)  # NaN is kept: it must be seen
    exponentials = jnp.where(kept, jnp.exp(jnp.where(kept, scores - _peak(scores, kept), 0)), 0)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0, 1, total)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    # p · (t - Σ p t), with the mean taken out twice. Where a row has settled on one key, or all its tangents
    # are nearly equal, a single pass subtracts numbers that agree in most of their digits, and what the
    # weights' sum lacks of 1 weighs as much as the result; the second pass takes out what the first left.
    _, mask = primals
    weights = _softmax(*primals)
    tangent = jnp.where(mask, tangents[0], 0)  # what comes through a masked score may be NaN
    for _ in range(2):
        tangent = tangent - jnp.sum(weights * tangent, axis=-1, keepdims=True)
    return weights, weights * tangent
