"""What attention is called with, checked and brought to one form before any computing."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jax_attn.functional.dtypes import accumulator

MANY_HEADS = 256  # more than any model has
FARTHEST = 2**30  # a window beyond any sequence
Size = Any  # a whole number, or a symbolic one while exporting
SegmentIds = Array | tuple[Array, Array]


class Operands(NamedTuple):
    """Query, key and value with four axes each."""

    query: Array
    key: Array
    value: Array


def as_scale(query: Array, scale: Any) -> tuple[Array, float]:
    """The scale as a number, `H^-1/2` for None. A traced one goes into the query, and leaves 1."""
    if scale is None:
        return query, query.shape[-1] ** -0.5
    if isinstance(scale, Tracer):
        wide = accumulator(query.dtype)
        return (query.astype(wide) * scale.astype(wide)).astype(query.dtype), 1.0
    if jnp.ndim(scale) or not jnp.isrealobj(scale):
        raise ValueError(f"scale must be a number, got {scale!r}")
    return query, float(scale)


def as_operands(query: Any, key: Any, value: Any) -> Operands:
    """`(B, T, N, H)`, `(B, S, K, H)` and `(B, S, K, Hv)`, a batch of one where there was none.

    Raises:
        ValueError: shapes that do not go together, a number of query heads that the key heads do not
            divide, dtypes that differ or are not floating.
    """
    q, k, v = (jnp.asarray(x) for x in (query, key, value))
    shapes = f"query {q.shape}, key {k.shape}, value {v.shape}"
    if {q.ndim, k.ndim, v.ndim} not in ({3}, {4}):
        raise ValueError(f"query, key and value must all be (B, T, N, H) or all (T, N, H), got {shapes}")
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(
            "query, key and value must have one floating dtype, "
            f"got query {q.dtype}, key {k.dtype}, value {v.dtype}"
        )
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(f"key and value must agree in batch, length and heads, got {shapes}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"query and key must have the same head dim H, got {shapes}")
    if q.ndim == 4 and q.shape[0] != k.shape[0]:
        raise ValueError(f"query and key must have the same batch B, got {shapes}")
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise ValueError(f"the query heads N must be a multiple of the key/value heads K, got {shapes}")
    if q.shape[-1] == 0 or v.shape[-1] == 0:
        raise ValueError(f"the width of a head, H and Hv, must be at least 1, got {shapes}")
    _warn_of_swapped_axes(q.shape[-3:], k.shape[-3:])
    return Operands(*(x if x.ndim == 4 else x[None] for x in (q, k, v)))


def _warn_of_swapped_axes(query: Sequence[Size], key: Sequence[Size]) -> None:
    """Warn where positions and heads look swapped beyond doubt: hundreds of heads, and few positions."""
    queries, heads, _ = query
    known = isinstance(queries, int) and isinstance(heads, int)
    if known and heads == key[1] and heads >= MANY_HEADS and heads >= 4 * queries and key[0] <= queries:
        warnings.warn(
            f"attention over {queries} positions with {heads} heads: query, key and value must be (B, T, N, H), "
            "positions before heads; arrays in torch's layout (B, N, T, H) need x.swapaxes(1, 2)",
            stacklevel=4,
        )


def as_scores_like(name: str, x: Any, scores: Sequence[Size], dtype: Any) -> Array | None:
    """An array with four axes that broadcasts against scores of shape `(B, N, T, S)`, or None.

    Raises:
        ValueError: it does not broadcast, or has another kind of dtype.
    """
    if x is None:
        return None
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, dtype):
        hint = "; an additive mask goes to bias" if dtype is jnp.bool_ else "; a boolean mask goes to mask"
        raise ValueError(
            f"{name} must be {'boolean' if dtype is jnp.bool_ else 'floating'}, got {x.dtype}{hint}"
        )
    given = x.shape
    if x.ndim <= 4:
        x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    if x.ndim != 4 or any(n not in (1, full) for n, full in zip(x.shape, scores, strict=True)):
        raise ValueError(f"{name} must broadcast against (B, N, T, S) = {tuple(scores)}, got {given}")
    return x


def as_lengths(name: str, x: Any, batch: Size) -> Array | None:
    """One whole number for each batch entry, or None."""
    if x is None:
        return None
    x = jnp.atleast_1d(jnp.asarray(x))
    if x.shape != (batch,) or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers of shape ({batch},), got {x.dtype} of shape {x.shape}")
    return x.astype(jnp.int32)


def as_window(x: Any) -> tuple[int, int] | None:
    """How many positions before and after a query it sees, or None."""
    if x is None:
        return None
    try:
        before, after = map(operator.index, x if isinstance(x, tuple | list) else (x, x))
    except (TypeError, ValueError):
        before = after = -1
    if min(before, after) < 0:
        raise ValueError(f"local_window_size must be one or two whole numbers from 0 up, got {x!r}")
    return min(before, FARTHEST), min(after, FARTHEST)


def as_segments(x: SegmentIds | None, batch: Size, queries: Size, keys: Size) -> tuple[Array, Array] | None:
    """Segment ids of queries `(B, T)` and of keys `(B, S)`, or None."""
    if x is None:
        return None
    of_query, of_key = x if isinstance(x, tuple | list) else (x, x)
    of_query, of_key = (jnp.atleast_2d(jnp.asarray(ids)) for ids in (of_query, of_key))
    if of_query.shape != (batch, queries) or of_key.shape != (batch, keys):
        raise ValueError(
            f"segment_ids must be ({batch}, {queries}) for the queries and ({batch}, {keys}) for the keys, "
            f"got {of_query.shape} and {of_key.shape}"
        )
    dtype = np.promote_types(of_query.dtype, of_key.dtype)
    if dtype.kind not in "iub":
        raise ValueError(f"segment_ids must be integers, got {dtype}")
    return of_query.astype(dtype), of_key.astype(dtype)


def as_sinks(x: Any, heads: int) -> Array | None:
    """One logit for each query head, or None."""
    if x is None:
        return None
    x = jnp.asarray(x)
    if x.shape != (heads,) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"sinks must be floating of shape ({heads},), one per query head, got {x.dtype} {x.shape}"
        )
    return x
