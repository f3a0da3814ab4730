"""The matrix products of attention alone: what would be left if all the rest cost nothing.

Forward: the scores and the values' sum. With gradients, five more: the scores again, and those of the weights,
values, queries and keys. Tiles that a causal mask leaves out whole are left out here as well.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

TILE = 256  # queries and keys: the quickest of 128 to 1024 on a processor


def products(q: Array, k: Array, v: Array, *, causal: bool) -> Array:
    """The forward pass's two products of `(B, T, N, H)`, without softmax; the result means nothing."""

    def of_head(operands: tuple[Array, Array, Array]) -> Array:
        q, k, v = operands

        def of_row(row: Array) -> Array:
            def add(column: Array, output: Array) -> Array:
                return output + _product(_product(q[row], k[column].T).astype(v.dtype), v[column])

            zeros = jnp.zeros((q.shape[1], v.shape[2]), jnp.float32)
            return lax.fori_loop(0, _columns(row, q, k, causal), add, zeros)

        return lax.map(of_row, jnp.arange(len(q)))

    return lax.map(of_head, tuple(map(_tiles, (q, k, v))))


def products_and_gradients(d: Array, q: Array, k: Array, v: Array, *, causal: bool) -> tuple[Array, ...]:
    """The seven products of both passes; `d` stands for the output's gradient."""
    forward = products(q, k, v, causal=causal)

    def of_head(operands: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
        d, q, k, v = operands

        def add_row(row: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            def add(column: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
                d_queries, d_keys, d_values = sums
                scores = _product(q[row], k[column].T).astype(v.dtype)
                d_scores = _product(d[row], v[column].T).astype(v.dtype)
                d_queries = d_queries.at[row].add(_product(d_scores, k[column]))
                d_keys = d_keys.at[column].add(_product(d_scores.T, q[row]))
                return d_queries, d_keys, d_values.at[column].add(_product(scores.T, d[row]))

            return lax.fori_loop(0, _columns(row, q, k, causal), add, sums)

        zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
        return lax.fori_loop(0, len(q), add_row, zeros)

    return (forward, *lax.map(of_head, tuple(map(_tiles, (d, q, k, v)))))


_product = partial(jnp.matmul, preferred_element_type=jnp.float32)


def _columns(row: Array, q: Array, k: Array, causal: bool) -> Array | int:
    """How many tiles of keys a tile of queries sees."""
    return jnp.minimum(row + 1, len(k)) if causal and q.shape[1] == k.shape[1] else len(k)


def _tiles(x: Array) -> Array:
    """`(heads, tiles, tile, H)`; what is missing from the last tile counts as there."""
    batch, length, heads, width = x.shape
    size = min(TILE, length)
    x = jnp.pad(x, ((0, 0), (0, -length % size), (0, 0), (0, 0)))
    if jax.default_backend() == "cpu":  # which multiplies 16 bits by way of 32
        x = x.astype(jnp.float32)
    return x.swapaxes(1, 2).reshape(batch * heads, -1, size, width)
