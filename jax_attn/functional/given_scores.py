"""Attention once its scores are known."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import require_boolean_mask
from jax_attn.functional.softmax import masked_softmax


def pairs_allowed(mask: Any, x: Sequence[int], context: Sequence[int]) -> Bool[Array, "*b t s"] | None:
    """Return a mask over keys or pairs as one over pairs, whose axis of queries may be 1; None as it is.

    Args:
        mask: True = attend, `(b, s)` or `(b, t, s)`; without `b` where the shapes have none.
        x: shape of the queries, `(b, t, d)` or `(t, d)`.
        context: shape of the keys, likewise.

    Raises:
        ValueError: the mask is not boolean, or has another shape.
    """
    if mask is None:
        return None
    of_keys, of_pairs = tuple(context[:-1]), (*x[:-1], context[-2])
    require_boolean_mask("mask", mask, [of_keys, of_pairs])
    return mask[..., None, :] if mask.ndim == len(of_keys) else mask


def seen_alone(context: Float[Array, "*b s c"], allowed: Array | None) -> Float[Array, "*b s c"]:
    """The context with 0 for what no query may see: it may hold anything, and 0 times NaN would be NaN."""
    return context if allowed is None else jnp.where(allowed.any(axis=-2)[..., None], context, 0)


def attend_by_scores(
    scores: Float[Array, "*b t s"], value: Float[Array, "*b s c"], allowed: Array | None
) -> tuple[Float[Array, "*b t c"], Float[Array, "*b t s"]]:
    """`softmax(scores, where allowed) value`, and the weights."""
    weights = masked_softmax(scores, allowed).astype(value.dtype)
    return weights @ value, weights
