"""Attention of a few queries on one CPU device: one more token costs the time to read what its cache holds.

XLA's products of matrices do not suit it: they copy keys and values into an order of their own, and take as long for one
row as for many. Here both are read once, where they lie, by sums of products that are written out and that XLA fuses into
one loop over neighbouring features. What lies before the first key that any query sees, or behind the last, is not read.

The scores are few, so they are held whole, and `dense.py` makes weights of them.

What XLA (0.10.2) needs to be told, each worth a factor of two:
  every slice of a sum is sliced by itself: of a slice with two uses the start is loaded again for each number;
  16 bits are sliced as integers: floats it converts all at once, before the loop, and that needs `_at_hand`;
  each core gets a loop of its own, because what is inside a loop is not divided among them.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.blockwise import serial
from jax_attn.functional.blockwise.plan import Pattern
from jax_attn.functional.dense import weigh, whole_tile
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.terms import Terms

LANES = 32  # features whose products are added up side by side, where they divide a head
PRODUCTS = 2**16  # of a block of scores: they stay in the cache until they are added up
KEYS = 8  # of a block of values, each a term of one sum

backward = serial.backward


class Part(NamedTuple):
    """The key/value heads of some batch entries, for one loop."""

    entry: int
    entries: int
    head: int
    heads: int

    def of(self, x: Array, key: Any, keys: int, feature: int = 0, features: int | None = None) -> Array:
        """Some features of some keys, from `(B, S, K, H)`."""
        sizes = (self.entries, keys, self.heads, x.shape[3] if features is None else features)
        return _slice(x, (self.entry, key, self.head, feature), sizes)

    def of_scores(self, x: Array, key: Any, keys: int) -> Array:
        """Some keys, from `(B, K, r, S)`, in which an axis may be 1."""
        sizes = (self.entries, self.heads, x.shape[2], keys)
        return _slice(x, (self.entry, self.head, 0, key), sizes)


def _slice(x, starts, sizes):
    return lax.dynamic_slice(x, [jnp.int32(s) for s in starts], sizes, allow_negative_indices=False)


def forward(query, key, value, terms, pattern, scale):
    (batch, queries, heads, width), (_, keys, kv_heads, _) = query.shape, key.shape
    wide = accumulator(query.dtype)
    tile = whole_tile(batch, heads, queries, keys)
    allowed = tile.allowed(terms)
    rows = heads // kv_heads * queries
    q = (query.astype(wide) * scale).swapaxes(1, 2).reshape(batch, kv_heads, rows, width)
    seen = None if allowed is None else allowed.any((0, 1, 2))
    axis, parts = _parts(batch, kv_heads)
    scores = _joined([_scores(part, q, key, seen) for part in parts], axis)
    weights, lse, peak = weigh(scores.reshape(batch, heads, queries, keys), terms, tile, allowed)
    weights = weights.reshape(batch, kv_heads, rows, keys)
    if allowed is not None:
        allowed = jnp.broadcast_to(allowed, (batch, heads, queries, keys)).reshape(weights.shape)
    output = _joined([_values(part, weights, value, allowed, seen) for part in parts], axis)
    output = output.reshape(batch, heads, queries, -1).swapaxes(1, 2)
    return output.astype(value.dtype), lse.swapaxes(1, 2), peak.swapaxes(1, 2)


def _scores(part, q, key, seen):
    keys, width = key.shape[1], key.shape[-1]
    rows = q.shape[2]
    lanes = LANES if width % LANES == 0 else width
    size = min(keys, max(8, PRODUCTS // (part.entries * part.heads * rows * lanes)))
    ones = jnp.ones((lanes, 1), q.dtype)
    q = q[part.entry:part.entry + part.entries, part.head:part.head + part.heads][:, None]

    def step(i, out):
        at = jnp.minimum(i * size, keys - size)
        bits = _at_hand(key, i)
        def products(j):
            k = serial._floats(part.of(bits, at, size, j, lanes), key.dtype)
            return q[..., j:j + lanes] * k[:, :, :, None].astype(q.dtype)
        sums = lax.optimization_barrier(sum(products(j) for j in range(0, width, lanes)))
        sums = (sums.reshape(-1, lanes) @ ones).reshape(part.entries, size, part.heads, rows)
        return lax.dynamic_update_slice_in_dim(out, sums.transpose(0, 2, 3, 1), at, 3, allow_negative_indices=False)

    return _over_blocks(step, jnp.zeros((part.entries, part.heads, rows, keys), q.dtype), seen, keys, size)


def _values(part, weights, value, allowed, seen):
    keys, width = value.shape[1], value.shape[-1]
    rows = weights.shape[2]
    size = min(KEYS, keys)

    def step(i, total):
        bits = _at_hand(value, i)
        first = jnp.minimum(i * size, keys - size)
        def term(j):
            at = first + j
            v = serial._floats(part.of(bits, at, 1), value.dtype)[:, 0, :, None]
            w = part.of_scores(weights, at, 1)
            term = w * v.astype(w.dtype)
            if keys % size:
                term = jnp.where(at >= i * size, term, 0)
            return term if allowed is None else jnp.where(part.of_scores(allowed, at, 1), term, 0)
        return total + sum(term(j) for j in range(size))

    return _over_blocks(step, jnp.zeros((part.entries, part.heads, rows, width), weights.dtype), seen, keys, size)


def _at_hand(x, i):
    """Floats of 16 bits as integers, in a way that is not taken out of a loop over `i`."""
    return serial._bits(lax.optimization_barrier((x, i))[0])


def _over_blocks(step, init, seen, keys, size):
    first, last = 0, -(-keys // size)
    if seen is not None:
        index = jnp.arange(keys, dtype=jnp.int32)
        first = jnp.min(jnp.where(seen, index, keys)) // size
        last = (jnp.max(jnp.where(seen, index, -1)) + size) // size
    return lax.fori_loop(jnp.int32(first), jnp.int32(last), step, init)


def _parts(batch, kv_heads):
    cores = min(os.cpu_count() or 1, 8)
    axis = 0 if any(batch % n == 0 for n in range(2, cores + 1)) else 1
    n = max(p for p in range(1, cores + 1) if (batch, kv_heads)[axis] % p == 0)
    if axis == 0:
        return axis, [Part(i * (batch // n), batch // n, 0, kv_heads) for i in range(n)]
    return axis, [Part(0, batch, i * (kv_heads // n), kv_heads // n) for i in range(n)]


def _joined(parts, axis):
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)
