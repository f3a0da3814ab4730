"""A sequence cut into chunks of one size, to be scanned over."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def in_chunks(x: Shaped[Array, "B T ..."], size: int) -> Shaped[Array, "C B size ..."]:
    """`(B, T, ...)` as `(ceil(T / size), B, size, ...)`, filled up with zeros at the end."""
    batch, tokens, *rest = x.shape
    filled = jnp.pad(x, [(0, 0), (0, -tokens % size), *[(0, 0)] * len(rest)])
    return filled.reshape(batch, filled.shape[1] // size, size, *rest).swapaxes(0, 1)


def from_chunks(chunks: Shaped[Array, "C B size ..."], tokens: int) -> Shaped[Array, "B T ..."]:
    """The first `tokens` of what `in_chunks` cut."""
    count, batch, size, *rest = chunks.shape
    return chunks.swapaxes(0, 1).reshape(batch, count * size, *rest)[:, :tokens]
