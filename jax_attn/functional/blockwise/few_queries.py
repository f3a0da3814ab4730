"""Attention of a few queries on one CPU device: one more token costs the time to read its cache once.

Products of matrices do not suit it: XLA copies keys and values into an order of its own for them, and they take
as long for one row as for many. Here both are read once, where they lie, by sums of products that are written
out, which XLA fuses into one loop over neighbouring features. Of many keys those stretches are left out that lie
before the first that any query sees, or behind the last; within a stretch a token takes the same time at every
position. The scores are few: they are held whole, and become weights as in `dense.py`.

What XLA's CPU compiler has to be told, each of which made a factor of two or more (0.10.2):
- Each term of a sum takes a slice of its own. Of a slice with several uses the start is loaded for every
  number, and the loop is not vectorised.
- Floats of 16 bits are sliced as integers, or the whole array is converted first (`_sliceable`).
- No sum is left to a reduction: where each row has keys of its own, that takes twenty times as long.

Shapes, beside those of the house: `r` the query heads of one key/value head, times the queries; `s` keys of a
block, `d` some of the features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num, Shaped

from jax_attn.functional.blockwise import serial
from jax_attn.functional.blockwise.plan import Pattern
from jax_attn.functional.dense import weigh, whole_tile
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.terms import Terms

MOST_ROWS = 8  # for each key/value head; of more, a product of matrices makes up for its copies
LANES = 32  # features added up side by side, where they divide a head
PRODUCTS = 2**16  # in a block of scores at most: they stay in the cache until they are added up
TERMS = 8  # values in one sum
STRETCH = (
    2**19
)  # numbers that are read or left out together: to read them is little beside what a token costs anyway

backward = serial.backward


def forward(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    pattern: Pattern,
    scale: float,
) -> tuple[Array, Array, Array]:
    """As `serial.forward`; the pattern is not asked, for what it closes the terms close too."""
    (batch, queries, heads, width), (_, keys, kv_heads, _) = query.shape, key.shape
    wide = accumulator(query.dtype)
    rows = heads // kv_heads * queries
    tile = whole_tile(batch, heads, queries, keys)
    allowed = tile.allowed(terms)
    seen = None if allowed is None else jnp.broadcast_to(allowed.any(axis=(0, 1, 2)), keys)
    q = (query.astype(wide) * scale).swapaxes(1, 2).reshape(batch, kv_heads, rows, width)
    scores = _scores(q, key, seen)
    weights, lse, peak = weigh(scores.reshape(batch, heads, queries, keys), terms, tile, allowed)
    if allowed is not None:
        allowed = jnp.broadcast_to(allowed, weights.shape).reshape(scores.shape)
    weights = weights.reshape(scores.shape)
    output = _output(weights, value, allowed, seen).reshape(batch, heads, queries, -1).swapaxes(1, 2)
    return output.astype(value.dtype), lse.swapaxes(1, 2), peak.swapaxes(1, 2)


def _scores(
    q: Float[Array, "B K r H"], key: Float[Array, "B S K H"], seen: Bool[Array, "S"] | None
) -> Float[Array, "B K r S"]:
    """The products of queries and keys; 0 for blocks of keys that nobody sees."""
    (batch, keys, heads, width), rows = key.shape, q.shape[2]
    lanes = LANES if width % LANES == 0 else width
    size = min(keys, max(TERMS, PRODUCTS // (batch * heads * rows * lanes)))
    q = q[:, None]  # (B, 1, K, r, H)
    ones = jnp.ones((lanes, 1), q.dtype)

    def step(block: Array, scores: Array) -> Array:
        start, source = block * size, _sliceable(key, block)  # a start too near to the end is clamped, twice

        def products(first: int) -> Array:
            features = (first, first + lanes)
            k = serial.as_floats(_tokens(source, start, size, features), key.dtype)
            return q[..., slice(*features)] * k[:, :, :, None].astype(q.dtype)

        sums = lax.optimization_barrier(_sum(products, range(0, width, lanes)))
        sums = (sums.reshape(-1, lanes) @ ones).reshape(batch, size, heads, rows)
        return lax.dynamic_update_slice_in_dim(scores, jnp.moveaxis(sums, 1, 3), start, axis=3)

    return _over_blocks(step, jnp.zeros((batch, heads, rows, keys), q.dtype), seen, key, size)


def _output(
    weights: Float[Array, "B K r S"],
    value: Float[Array, "B S K Hv"],
    allowed: Bool[Array, "B K r S"] | None,
    seen: Bool[Array, "S"] | None,
) -> Float[Array, "B K r Hv"]:
    """The weighted sum of the values; what may not be attended to may hold anything, NaN too."""
    (batch, keys, heads, width), rows = value.shape, weights.shape[2]
    size = TERMS
    if short := -keys % size:  # a slice that reaches beyond the last key ends there: it counts, and is closed
        open_keys = jnp.ones(weights.shape, bool) if allowed is None else allowed
        weights, allowed = (jnp.pad(x, [(0, 0)] * 3 + [(0, short)]) for x in (weights, open_keys))

    def step(block: Array, output: Array) -> Array:
        source = _sliceable(value, block)

        def product(number: int) -> Array:
            at = block * size + number
            v = serial.as_floats(_tokens(source, at, 1, (0, width)), value.dtype)
            found = _of_key(weights, at) * v.swapaxes(1, 2).astype(weights.dtype)
            return found if allowed is None else jnp.where(_of_key(allowed, at), found, 0)

        return output + _sum(product, range(size))

    return _over_blocks(step, jnp.zeros((batch, heads, rows, width), weights.dtype), seen, value, size)


def _over_blocks(
    step: Callable[[Array, Any], Any],
    init: Any,
    seen: Bool[Array, "S"] | None,
    read: Float[Array, "B S K d"],
    size: int,
) -> Any:
    """The loop over blocks of what is read, from the first stretch of keys in which one is seen to the last."""
    batch, keys, heads, width = read.shape
    stretch = max(size, STRETCH // (batch * heads * width))
    if seen is None or keys <= stretch:  # a loop of known length is the quicker one
        return lax.fori_loop(0, -(-keys // size), step, init)
    index = jnp.arange(keys, dtype=jnp.int32)
    start = jnp.min(jnp.where(seen, index, keys)) // stretch * stretch
    end = (jnp.max(jnp.where(seen, index, -stretch)) // stretch + 1) * stretch
    return lax.fori_loop(start // size, -(-jnp.minimum(end, keys) // size), step, init)


def _sliceable(x: Array, block: Array) -> Array:
    """Floats of 16 bits as integers, said again in each step: XLA would make it once, and a copy of it all."""
    return serial.as_bits(lax.optimization_barrier((x, block))[0])


def _tokens(
    x: Num[Array, "B S K H"], start: Int[Array, ""], count: int, features: tuple[int, int]
) -> Num[Array, "B s K d"]:
    """Some tokens, and of them the features from one to another."""
    (batch, _, heads, _), (first, last) = x.shape, features
    return _slice(x, (0, start, 0, first), (batch, count, heads, last - first))


def _of_key(x: Shaped[Array, "B K r S"], at: Int[Array, ""]) -> Shaped[Array, "B K r 1"]:
    """What belongs to one key."""
    return _slice(x, (0, 0, 0, at), (*x.shape[:3], 1))


def _slice(x: Array, starts: Sequence[Array | int], sizes: Sequence[int]) -> Array:
    indices = [jnp.asarray(start, jnp.int32) for start in starts]
    return lax.dynamic_slice(x, indices, sizes, allow_negative_indices=False)


def _sum(term: Callable[[int], Array], numbers: range) -> Array:
    """The sum of terms, in order; Python's own would begin with a 0 of its own."""
    total = term(numbers[0])
    for number in numbers[1:]:
        total = total + term(number)
    return total
