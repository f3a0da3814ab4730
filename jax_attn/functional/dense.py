"""Attention over the whole matrix of scores: the fastest way for short sequences."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.sharding import may_be_divided
from jax_attn.functional.softmax import masked_logsumexp, masked_softmax
from jax_attn.functional.terms import Terms
from jax_attn.functional.tile import Place, Tile


class Dense(NamedTuple):
    """Output `(B, T, N, Hv)`, log-sum-exp and largest score `(B, T, N)`, weights `(B, N, T, S)`."""

    output: Array
    lse: Array
    max_scores: Array
    weights: Array


def dense_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    *,
    scale: float,
    keep: Array | None = None,
) -> Dense:
    """Two einsums with the terms and the softmax between them.

    The products take the operands in their own dtype and add up in float32 at least; the softmax runs there
    too.

    Args:
        keep: which weights dropout keeps, `(B, N, T, S)`, where it is not left to `terms` to draw them.
    """
    (batch, queries, heads, head_dim), (_, keys, kv_heads, _) = query.shape, key.shape
    wide = accumulator(query.dtype)
    repeats = heads // kv_heads
    tile = whole_tile(batch, heads, queries, keys)
    allowed = tile.allowed(terms)
    if allowed is not None:
        query, key, value = emptied(query, key, value, allowed)
    # The query heads that share a key/value head stand below one another: XLA's CPU products take two and a
    # half times as long with an axis of their own for them. What is sharded over its positions needs that axis.
    rows = (repeats, queries) if may_be_divided(query) else (repeats * queries,)
    grouped = query.swapaxes(1, 2).reshape(batch, kv_heads, *rows, head_dim)
    scores = jnp.einsum("bk...h,bskh->bk...s", grouped, key, preferred_element_type=wide) * scale
    weights, lse, max_scores = weigh(scores.reshape(batch, heads, queries, keys), terms, tile, allowed, keep)

    weights = weights.astype(value.dtype)
    grouped = weights.reshape(batch, kv_heads, *rows, keys)
    output = jnp.einsum("bk...s,bskh->bk...h", grouped, value, preferred_element_type=wide)
    output = output.reshape(batch, heads, queries, value.shape[-1]).swapaxes(1, 2).astype(value.dtype)
    return Dense(output, lse.swapaxes(1, 2), max_scores.swapaxes(1, 2), weights)


def weigh(
    scores: Float[Array, "B N T S"],
    terms: Terms,
    tile: Tile,
    allowed: Array | None,
    keep: Array | None = None,
) -> tuple[Array, Array, Array]:
    """What multiplies the values, `(B, N, T, S)`, and log-sum-exp and largest score, `(B, N, T)`.

    Args:
        scores: the scaled products of queries and keys.
        tile: the whole matrix.
        allowed: what of it may be attended to; broadcasts against the scores, and None is everything.
        keep: as in `dense_attention`.
    """
    scores = tile.modified(scores, terms)
    weights = masked_softmax(scores, allowed)
    if allowed is not None:
        # Zeros already, but what comes back for them may be infinite in 16 bits, and must not meet the zeros.
        weights = jnp.where(allowed, weights, 0)
    max_scores = jax.lax.stop_gradient(jnp.max(scores, axis=-1, initial=-jnp.inf, where=allowed))
    lse = masked_logsumexp(scores, allowed)
    keep = tile.keeps(terms) if keep is None else keep
    if terms.dropout is not None and keep is not None:
        weights = terms.dropout.drop(weights, keep)
    return weights, lse, max_scores


def whole_tile(batch: Any, heads: int, queries: Any, keys: Any) -> Tile:
    """The whole matrix of scores as one tile."""
    sizes = (batch, heads, queries, keys)
    place = Place(
        *(
            jnp.expand_dims(jnp.arange(n, dtype=jnp.int32), [j for j in range(4) if j != i])
            for i, n in enumerate(sizes)
        )
    )
    return Tile(place, lambda x: x, (queries, keys))


def emptied(query: Array, key: Array, value: Array, allowed: Array) -> tuple[Array, Array, Array]:
    """The operands with 0 where a query sees nothing or nobody sees a key: 0 times NaN would be NaN.

    `allowed` broadcasts against `(B, N, T, S)`.
    """
    kv_heads = key.shape[2]
    sees = allowed.any(axis=-1).swapaxes(1, 2)[..., None]
    seen = allowed.any(axis=-2)
    if seen.shape[1] != 1:
        group = seen.shape[1] // kv_heads  # told, not -1: a batch may be empty
        seen = seen.reshape(seen.shape[0], kv_heads, group, seen.shape[-1]).any(axis=2)
    seen = seen.swapaxes(1, 2)[..., None]
    return jnp.where(sees, query, 0), jnp.where(seen, key, 0), jnp.where(seen, value, 0)
