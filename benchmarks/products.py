"""The matrix products of attention alone: what would be left if all the rest cost nothing.

Forward: the scores and the values' sum. With gradients, five more: the scores again, and those of the weights,
values, queries and keys. What a causal mask leaves out is left out here as well, but for half a tile of keys.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

ROWS, COLUMNS = 2048, 256  # queries and keys in a product: the quickest of many on a processor


def products(q: Array, k: Array, v: Array, *, causal: bool) -> Array:
    """The forward pass's two products of `(B, T, N, H)`, without softmax; the result means nothing."""

    def of_head(operands: tuple[Array, Array, Array]) -> Array:
        q, k, v = operands

        def of_row(at: tuple[Array, Array]) -> Array:
            row, q = at

            def add(column: Array, first: int, output: Array) -> Array:
                weights = _of_rows(q[first:], k[column]).astype(v.dtype)
                return output.at[first:].add(_product(weights, v[column]))

            return _over_columns(add, row, q, k, causal, jnp.zeros((len(q), v.shape[2]), jnp.float32))

        return lax.map(of_row, (jnp.arange(len(q)), q))

    return lax.map(of_head, _tiles(q, k, v))


def products_and_gradients(d: Array, q: Array, k: Array, v: Array, *, causal: bool) -> tuple[Array, ...]:
    """The seven products of both passes; `d` stands for the output's gradient. Of keys, values: transposed."""
    forward = products(q, k, v, causal=causal)

    def of_head(operands: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
        q, k, v, d = operands

        def of_row(sums: tuple[Array, Array], at: tuple[Array, Array, Array]) -> Any:
            row, q, d = at

            def add(column: Array, first: int, sums: tuple[Array, ...]) -> tuple[Array, ...]:
                d_queries, d_keys, d_values = sums
                scores = _of_rows(q[first:], k[column]).astype(v.dtype)
                d_scores = _of_rows(d[first:], v[column]).astype(v.dtype)
                d_queries = d_queries.at[first:].add(_product(d_scores, k[column]))
                d_keys = d_keys.at[column].add(_product(q.T[:, first:], d_scores))
                return d_queries, d_keys, d_values.at[column].add(_product(d.T[:, first:], scores))

            d_queries, *sums = _over_columns(add, row, q, k, causal, (jnp.zeros(q.shape, jnp.float32), *sums))
            return tuple(sums), d_queries

        zeros = tuple(jnp.zeros((len(x), x.shape[2], x.shape[1]), jnp.float32) for x in (k, v))
        (d_keys, d_values), d_queries = lax.scan(of_row, zeros, (jnp.arange(len(q)), q, d))
        return d_queries, d_keys, d_values

    tiled, (d_tiled, *_) = _tiles(q, k, v), _tiles(d, k, v)
    return (forward, *lax.map(of_head, (*tiled, d_tiled)))


_product = partial(jnp.matmul, preferred_element_type=jnp.float32)
_of_rows = partial(jnp.einsum, "qh,kh->qk", preferred_element_type=jnp.float32)


def _over_columns(
    add: Callable[[Array, int, Any], Any], row: Array, q: Array, k: Array, causal: bool, carry: Any
) -> Any:
    """`add(column, first, carry)` for each tile of keys, from the first query of the row that sees any of them."""
    if not causal:
        return lax.fori_loop(0, len(k), lambda column, carry: add(column, 0, carry), carry)
    in_row = len(q) // k.shape[1]
    carry = lax.fori_loop(0, row * in_row, lambda column, carry: add(column, 0, carry), carry)
    for i in range(in_row):
        carry = add(row * in_row + i, i * k.shape[1], carry)
    return carry


def _tiles(q: Array, *keys_and_values: Array) -> tuple[Array, ...]:
    """`(heads, tiles, tile, H)` each; what is missing from the last tile counts as there."""
    columns = min(COLUMNS, keys_and_values[0].shape[1])
    rows = min(ROWS, -(-q.shape[1] // columns) * columns)
    return (_tiled(q, rows), *(_tiled(x, columns) for x in keys_and_values))


def _tiled(x: Array, size: int) -> Array:
    batch, length, heads, width = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % size), (0, 0), (0, 0)))
    if jax.default_backend() == "cpu":  # which multiplies 16 bits by way of 32
        x = x.astype(jnp.float32)
    return x.swapaxes(1, 2).reshape(batch * heads, -1, size, width)
